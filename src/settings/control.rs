//! What operators change while the program runs, and how they reach it.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use super::{
    load::{ENVIRONMENT_PREFIX, SettingsError, Source},
    raw,
    written::Role,
};

/// What operators change while the program runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPlan {
    /// Where their changes, the audit log and the token are kept; none forgets them at the end.
    pub directory: Option<PathBuf>,
    /// How often the settings file is looked at; none looks at it on SIGHUP only.
    pub watch: Option<Duration>,
    /// Configurations that `rollback` can go back, at most.
    pub history: usize,
    /// Configurations that were served and are kept for `config show`, at most.
    pub configs_max: usize,
}

/// The admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminPlan {
    /// Where it is served; none serves nothing.
    pub listen: Option<SocketAddr>,
    /// Who has it may change things; none has the program make one.
    pub write_token: Option<Secret>,
    /// Who has it may look.
    pub read_token: Option<Secret>,
    /// People and programs with their own tokens.
    pub people: Vec<PersonPlan>,
    /// Values of `Host` that are allowed in addition to its own address.
    pub allowed_hosts: Vec<String>,
    /// Largest body of a request.
    pub body_bytes_max: usize,
}

/// A person or program with its own token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersonPlan {
    /// The name that records and the audit show.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Where its token is.
    pub token: TokenSource,
}

/// Where a token is. It is read again while the program runs, so that it can be changed without a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// A file. Without it, its token is not valid.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// The settings themselves.
    Text(Secret),
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for comparing and sending.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// How operators reach a running instance. The rest of its settings file may be broken: that is when they need to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Where its changes and its token are kept.
    pub control: ControlPlan,
    /// Where it is asked.
    pub admin: AdminPlan,
}

#[derive(Deserialize)]
struct RawReach {
    #[serde(default)]
    control: raw::Control,
    #[serde(default)]
    admin: raw::Admin,
}

impl Reach {
    /// Reads these two sections of a settings file and the environment.
    ///
    /// # Errors
    /// When the file is no TOML, or one of them cannot work.
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        let source = Source::read(path)?;
        let RawReach { control, admin } = source.parse_as()?;
        Ok(Self { control: plan(control), admin: self::admin(&source, admin)? })
    }
}

/// Sections that do not travel to other instances: they cannot change while a program runs, and may hold secrets.
const OWN_SECTIONS: [&str; 5] = ["kafka", "pipeline", "breaker", "control", "admin"];

/// Keys of `[evidence]` that travel.
const SHARED_EVIDENCE: [&str; 2] = ["segments", "unit_values"];

/// The part of a settings file that may travel to other instances; none where it is no TOML.
pub fn shareable(text: &str) -> Option<String> {
    let mut settings = text.parse::<toml::Table>().ok()?;
    // A quoted key may be a path.
    // Of evidence travels what verdicts say for it.
    if let Some(evidence) = settings.get_mut("evidence").and_then(toml::Value::as_table_mut) {
        evidence.retain(|key, _| SHARED_EVIDENCE.contains(&key));
    }
    settings.retain(|key, _| !OWN_SECTIONS.contains(&key.split(['.', '[']).next().unwrap_or_default().trim()));
    Some(settings.to_string())
}

/// Environment variables that override settings which travel to other instances, by name.
pub fn environment_overrides() -> Vec<String> {
    let prefix = format!("{ENVIRONMENT_PREFIX}__");
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let is_local = |section: &str| OWN_SECTIONS.contains(&section.to_lowercase().as_str());
    let travels = |name: &String| {
        let section = name.strip_prefix(&prefix).and_then(|rest| rest.split("__").next());
        let is_own = |section: &str| ["telemetry", "evidence"].iter().any(|own| section.eq_ignore_ascii_case(own));
        section.is_some_and(|section| !is_local(section) && !is_own(section))
    };
    let mut names: Vec<String> = names.filter(travels).collect();
    names.sort_unstable();
    names
}

pub(super) const OFF: &str = "off";
/// A token that can be guessed is none.
const TOKEN_BYTES_MIN: usize = 16;

pub(super) fn plan(raw: raw::Control) -> ControlPlan {
    ControlPlan {
        directory: (raw.directory != OFF).then(|| raw.directory.into()),
        watch: (raw.watch_ms > 0).then(|| Duration::from_millis(raw.watch_ms)),
        history: raw.history,
        configs_max: raw.configs_max,
    }
}

pub(super) fn admin(source: &Source, raw: raw::Admin) -> Result<AdminPlan, SettingsError> {
    for (field, token) in [("admin.write_token", &raw.write_token), ("admin.read_token", &raw.read_token)] {
        if token.as_ref().is_some_and(|token| token.len() < TOKEN_BYTES_MIN) {
            return Err(source.field(field, format!("is shorter than {TOKEN_BYTES_MIN} characters")));
        }
    }
    if raw.write_token.is_some() && raw.write_token == raw.read_token {
        return Err(source.field("admin.read_token", "must differ from `admin.write_token`"));
    }
    let people = people(source, &raw.people)?;
    Ok(AdminPlan {
        people,
        allowed_hosts: raw.allowed_hosts,
        listen: address(source, "admin.listen", &raw.listen)?,
        write_token: raw.write_token.map(Secret::new),
        read_token: raw.read_token.map(Secret::new),
        body_bytes_max: raw.body_bytes_max,
    })
}

/// People at most: each request compares its token with all of them.
const PEOPLE_MAX: usize = 200;

fn people(source: &Source, raw: &[raw::Person]) -> Result<Vec<PersonPlan>, SettingsError> {
    if raw.len() > PEOPLE_MAX {
        return Err(source.field("admin.people", format!("has {} entries, at most {PEOPLE_MAX}", raw.len())));
    }
    let mut people: Vec<PersonPlan> = Vec::new();
    for (index, raw::Person { name, role, token_file, token_env }) in raw.iter().enumerate() {
        let field = |field: &str| format!("admin.people[{index}].{field}");
        source.no_control_characters(&field("name"), name)?;
        if name.trim().is_empty() || name.chars().count() > 200 {
            return Err(source.field(&field("name"), "must have 1 to 200 characters"));
        }
        if people.iter().any(|other| other.name == *name) {
            return Err(source.field(&field("name"), format!("`{name}` appears twice")));
        }
        let token = match (token_file, token_env) {
            (Some(file), None) => TokenSource::File(file.clone()),
            (None, Some(variable)) => TokenSource::Environment(variable.clone()),
            _ => return Err(source.field(&field("token_file"), "give `token_file` or `token_env`, one of them")),
        };
        people.push(PersonPlan { name: name.clone(), role: *role, token });
    }
    Ok(people)
}

/// An address to listen at, or none.
pub(super) fn address(source: &Source, field: &str, text: &str) -> Result<Option<SocketAddr>, SettingsError> {
    if text == OFF {
        return Ok(None);
    }
    let example = match text.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V6(address)) => format!("[{address}]:9464"),
        Ok(address) => format!("{address}:9464"),
        Err(_) => "127.0.0.1:9464".to_owned(),
    };
    let refused = |_| source.field(field, format!("`{text}` is no address: write one such as `{example}`, or `off`"));
    text.parse().map(Some).map_err(refused)
}
