//! `[control]` and `[admin]`, as they are written.

use std::path::PathBuf;

use serde::Deserialize;

use crate::settings::Role;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::settings) struct Control {
    pub(in crate::settings) directory: String,
    pub(in crate::settings) watch_ms: u64,
    pub(in crate::settings) history: usize,
    pub(in crate::settings) configs_max: usize,
}

impl Default for Control {
    fn default() -> Self {
        Self { directory: ".ofa-stream".to_owned(), watch_ms: 500, history: 10, configs_max: 1_000 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::settings) struct Admin {
    pub(in crate::settings) listen: String,
    pub(in crate::settings) write_token: Option<String>,
    pub(in crate::settings) read_token: Option<String>,
    pub(in crate::settings) people: Vec<Person>,
    pub(in crate::settings) allowed_hosts: Vec<String>,
    pub(in crate::settings) body_bytes_max: usize,
}

/// A person or program with its own token.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::settings) struct Person {
    pub(in crate::settings) name: String,
    pub(in crate::settings) role: Role,
    #[serde(default)]
    pub(in crate::settings) token_file: Option<PathBuf>,
    #[serde(default)]
    pub(in crate::settings) token_env: Option<String>,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9465".to_owned(),
            write_token: None,
            read_token: None,
            people: Vec::new(),
            allowed_hosts: Vec::new(),
            body_bytes_max: 1 << 20,
        }
    }
}
