//! File, then environment, into the raw settings; errors say where and what to do.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use config::{Config, ConfigError, Environment, File, FileFormat};
use serde::de::DeserializeOwned;

use super::raw::Raw;
use crate::routing::TableError;

/// Settings that cannot work.
#[derive(Debug)]
pub enum SettingsError {
    /// The file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The file is not TOML.
    Syntax {
        /// The file.
        path: PathBuf,
        /// What the parser says, with the place.
        reason: String,
    },
    /// One setting cannot work.
    Field {
        /// The file.
        path: PathBuf,
        /// Its line, where the setting stands in the file rather than in the environment.
        line: Option<usize>,
        /// The setting, such as `kafka.group_id`.
        field: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, reason } => write!(f, "{}: {reason}", path.display()),
            Self::Syntax { path, reason } => write!(f, "{} is not TOML: {reason}", path.display()),
            Self::Field { path, line: Some(line), field, reason } => {
                write!(f, "{}:{line}: `{field}`: {reason}", path.display())
            }
            Self::Field { path, line: None, field, reason } => write!(f, "{}: `{field}`: {reason}", path.display()),
        }
    }
}

impl std::error::Error for SettingsError {}

/// Prefix of environment variables that override settings: `OFA_STREAM__KAFKA__GROUP_ID`.
pub(super) const ENVIRONMENT_PREFIX: &str = "OFA_STREAM";

/// The text of a settings file, to point into.
pub(super) struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    pub(super) fn read(path: &Path) -> Result<Self, SettingsError> {
        let text = fs::read_to_string(path)
            .map_err(|error| SettingsError::Unreadable { path: path.to_owned(), reason: error.to_string() })?;
        Ok(Self { path: path.to_owned(), text })
    }

    pub(super) fn new(path: &Path, text: String) -> Self {
        Self { path: path.to_owned(), text }
    }

    pub(super) fn parse(&self) -> Result<Raw, SettingsError> {
        self.parse_as()
    }

    pub(super) fn parse_as<T: DeserializeOwned>(&self) -> Result<T, SettingsError> {
        let syntax = |reason: String| SettingsError::Syntax { path: self.path.clone(), reason };
        // Not in the parser's own words, which repeat the line: there may be a password in it.
        if let Err(error) = toml::from_str::<toml::Table>(&self.text) {
            let before = error.span().and_then(|span| self.text.get(..span.start)).unwrap_or_default();
            let (line, column) =
                (before.matches('\n').count() + 1, before.chars().rev().take_while(|it| *it != '\n').count() + 1);
            return Err(syntax(format!("line {line}, column {column}: {}", error.message())));
        }
        let environment = Environment::with_prefix(ENVIRONMENT_PREFIX).prefix_separator("__").separator("__");
        let merged = Config::builder()
            .add_source(File::from_str(&self.text, FileFormat::Toml))
            .add_source(environment)
            .build()
            .map_err(|error| syntax(error.to_string()))?;
        serde_path_to_error::deserialize(merged).map_err(|error| {
            let path = error.path().to_string();
            let parent = if path == "." { String::new() } else { path };
            let reason = match innermost(error.into_inner()) {
                ConfigError::NotFound(name) => {
                    let field = if parent.is_empty() { name } else { format!("{parent}.{name}") };
                    return self.field(&field, "is missing");
                }
                error => plain(error),
            };
            match unknown_field(&reason) {
                Some((name, known)) => {
                    // The path of an unknown key already ends with it, or stops at its parent.
                    let stem = parent.strip_suffix(name).unwrap_or(&parent).trim_end_matches('.');
                    let field = if stem.is_empty() { name.to_owned() } else { format!("{stem}.{name}") };
                    self.field(&field, hint(name, &known))
                }
                None => self.field(&parent, reason),
            }
        })
    }

    /// An error about one setting, with its line where the file has it, or with its variable where the environment has it.
    pub(super) fn field(&self, field: &str, reason: impl Into<String>) -> SettingsError {
        let (mut line, mut reason) = (self.line(field), reason.into());
        let parts: Vec<&str> = field.split(['.', '[', ']']).filter(|part| !part.is_empty()).collect();
        // Options of librdkafka have dots in their names, where variables have underscores.
        let parts = match parts.as_slice() {
            ["kafka", "options", name @ ..] => vec!["kafka".to_owned(), "options".to_owned(), name.join("_")],
            parts => parts.iter().map(ToString::to_string).collect(),
        };
        let variable = format!("{ENVIRONMENT_PREFIX}__{}", parts.join("__").to_uppercase());
        let below = format!("{variable}__");
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        if let Some(of_list) = names.into_iter().find(|name| name.starts_with(&below)) {
            reason = format!(
                "{reason} (the environment has `{of_list}`, and can set single values only, no part of a list)"
            );
        }
        if std::env::var_os(&variable).is_some() {
            line = None;
            reason =
                format!("{reason} (it comes from the environment, `{variable}`, which can hold one value and no list)");
        }
        SettingsError::Field { path: self.path.clone(), line, field: field.to_owned(), reason }
    }

    /// Refuses a name with control characters: it would write on the terminal of a reader.
    pub(super) fn no_control_characters(&self, field: &str, name: &str) -> Result<(), SettingsError> {
        if name.chars().any(char::is_control) {
            Err(self.field(field, "holds a control character, such as a line break or a tab"))
        } else {
            Ok(())
        }
    }

    pub(super) fn table(&self, error: TableError) -> SettingsError {
        self.field(&error.place, error.reason)
    }

    /// The line on which a setting, or the deepest part of its path that the file has, stands.
    fn line(&self, field: &str) -> Option<usize> {
        let document = toml::de::DeTable::parse(&self.text).ok()?;
        let mut found = None;
        let mut value: Option<&toml::de::DeValue<'_>> = None;
        for part in field.split(['.', '[', ']']).filter(|part| !part.is_empty()) {
            let next = match value {
                None => document.get_ref().get_key_value(part).map(|(key, value)| (key.span(), value)),
                Some(toml::de::DeValue::Table(table)) => {
                    table.get_key_value(part).map(|(key, value)| (key.span(), value))
                }
                Some(toml::de::DeValue::Array(items)) => {
                    part.parse().ok().and_then(|index: usize| items.get(index)).map(|item| (item.span(), item))
                }
                Some(_) => None,
            };
            let Some((span, inner)) = next else { break };
            found = Some(span.start);
            value = Some(inner.get_ref());
        }
        let start = found?;
        Some(1 + self.text.get(..start)?.matches('\n').count())
    }
}

/// The config crate wraps errors in the path of the key, which this program prints itself.
fn innermost(error: ConfigError) -> ConfigError {
    match error {
        ConfigError::At { error, .. } => innermost(*error),
        other => other,
    }
}

fn plain(error: ConfigError) -> String {
    match error {
        ConfigError::Message(message) => message,
        ConfigError::Type { unexpected, expected, .. } => format!("found {unexpected}, expected {expected}"),
        other => other.to_string(),
    }
}

/// serde words an unknown field the same way for every type: its name, then the known ones.
fn unknown_field(reason: &str) -> Option<(&str, Vec<&str>)> {
    let rest = reason.strip_prefix("unknown field `")?;
    let mut quoted = rest.split('`');
    let name = quoted.next()?;
    Some((name, quoted.skip(1).step_by(2).collect()))
}

fn hint(name: &str, known: &[&str]) -> String {
    let nearest = known.iter().min_by_key(|known| strsim::damerau_levenshtein(known, name));
    match nearest {
        Some(nearest) if strsim::damerau_levenshtein(nearest, name) <= 1 + name.len() / 3 => {
            format!("no such setting; did you mean `{nearest}`?")
        }
        _ => format!("no such setting; there are {}", known.join(", ")),
    }
}
