//! What an operator can ask for, and the typed name that records and the audit keep of it. Pure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::routing::millionths;

/// A change of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Serve by these settings instead of the file's.
    Apply {
        /// The text of a settings file.
        text: String,
    },
    /// Serve by the settings file again.
    UseFile,
    /// Go back to the configuration before the last change.
    Rollback,
    /// Remove all overrides.
    Clear,
    /// Override the default version.
    SetDefault {
        /// The version's name.
        version: String,
    },
    /// Pause an experiment: it takes no requests.
    Pause {
        /// The experiment's name.
        experiment: String,
    },
    /// Let an experiment run, also if the settings pause it.
    Resume {
        /// The experiment's name.
        experiment: String,
    },
    /// Let the version of one variant answer all requests of an experiment.
    Promote {
        /// The experiment's name.
        experiment: String,
        /// The variant's name.
        variant: String,
    },
    /// Let an experiment take another share of the units.
    SetTraffic {
        /// The experiment's name.
        experiment: String,
        /// The share, in millionths.
        millionths: u32,
        /// The experiment's definition that it is meant for.
        definition: String,
        /// A step of the ramp comes from this share, and is refused where another one is in force.
        /// None for a person's change.
        from: Option<u32>,
        /// Whether the ramp takes no step from there.
        ramp_paused: bool,
    },
    /// Write records of the control topic in the newest format. Older programs cannot read it.
    UpgradeFormat,
}

impl Command {
    /// True for commands that choose other settings, false for those that change one thing on top of
    /// settings or go back.
    pub fn is_about_settings(&self) -> bool {
        matches!(self, Self::Apply { .. } | Self::UseFile)
    }

    /// The action that records and the audit keep.
    pub fn action(&self) -> Action {
        match self.clone() {
            Self::Apply { .. } => Action::Apply,
            Self::UseFile => Action::UseFile,
            Self::Rollback => Action::Rollback,
            Self::Clear => Action::Clear,
            Self::SetDefault { version } => Action::SetDefault { version },
            Self::Pause { experiment } => Action::Pause { experiment },
            Self::Resume { experiment } => Action::Resume { experiment },
            Self::Promote { experiment, variant } => Action::Promote { experiment, variant },
            Self::SetTraffic { experiment, millionths, .. } => Action::SetTraffic { experiment, millionths },
            Self::UpgradeFormat => Action::UpgradeFormat,
        }
    }
}

/// What a change did, without the text of settings. Records of the control topic carry it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Action {
    /// Other settings were applied.
    Apply,
    /// The settings file of each instance is followed again.
    UseFile,
    /// The configuration before a change was restored.
    Rollback,
    /// All overrides were removed.
    Clear,
    /// The default version was overridden.
    SetDefault {
        /// The version's name.
        version: String,
    },
    /// An experiment was paused.
    Pause {
        /// The experiment's name.
        experiment: String,
    },
    /// An experiment was resumed.
    Resume {
        /// The experiment's name.
        experiment: String,
    },
    /// A variant was promoted.
    Promote {
        /// The experiment's name.
        experiment: String,
        /// The variant's name.
        variant: String,
    },
    /// An experiment takes another share of the units.
    SetTraffic {
        /// The experiment's name.
        experiment: String,
        /// The share, in millionths.
        millionths: u32,
    },
    /// The record format was raised.
    UpgradeFormat,
    /// The settings file of one instance changed. Never in a record of the topic.
    SettingsFile,
    /// An action of a newer program. It is treated as `Apply`: its settings are meant as they are.
    #[serde(untagged)]
    Other(Map<String, Value>),
}

impl Default for Action {
    fn default() -> Self {
        Self::Other(Map::new())
    }
}

impl Action {
    /// The words that format 1 of the control record uses. They are frozen: older programs compare
    /// them.
    pub fn in_words(&self) -> String {
        match self {
            Self::Apply => "apply".to_owned(),
            Self::UseFile => "use file".to_owned(),
            Self::Rollback => "rollback".to_owned(),
            Self::Clear => "clear".to_owned(),
            Self::SetDefault { version } => format!("set default {version}"),
            Self::Pause { experiment } => format!("pause {experiment}"),
            Self::Resume { experiment } => format!("resume {experiment}"),
            Self::Promote { experiment, variant } => format!("promote {experiment} {variant}"),
            Self::SetTraffic { experiment, millionths } => {
                format!("set traffic {experiment} {}", f64::from(*millionths) / 1e6)
            }
            Self::UpgradeFormat => "upgrade format".to_owned(),
            Self::SettingsFile => "settings file".to_owned(),
            Self::Other(fields) => {
                let text = |name| fields.get(name).and_then(Value::as_str);
                text("words").or(text("type")).unwrap_or("unknown").to_owned()
            }
        }
    }

    /// Reads the words of format 1.
    pub fn from_words(words: &str) -> Self {
        let names: Vec<&str> = words.split(' ').collect();
        match names.as_slice() {
            ["apply"] => Self::Apply,
            ["use", "file"] => Self::UseFile,
            ["rollback"] => Self::Rollback,
            ["clear"] => Self::Clear,
            ["set", "default", version] => Self::SetDefault { version: (*version).to_owned() },
            ["pause", experiment] => Self::Pause { experiment: (*experiment).to_owned() },
            ["resume", experiment] => Self::Resume { experiment: (*experiment).to_owned() },
            ["promote", experiment, variant] => {
                Self::Promote { experiment: (*experiment).to_owned(), variant: (*variant).to_owned() }
            }
            ["set", "traffic", experiment, share] if share.parse::<f64>().is_ok() => Self::SetTraffic {
                experiment: (*experiment).to_owned(),
                millionths: millionths(share.parse().unwrap_or_default()),
            },
            ["upgrade", "format"] => Self::UpgradeFormat,
            _ => Self::Other(Map::from_iter([("words".to_owned(), words.into())])),
        }
    }
}

/// Who made a change, and why: for the audit log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuditInfo {
    /// The person or program. With a named token, its name.
    #[schemars(length(max = 200))]
    pub by: String,
    /// The name that the caller gave, where its token has another one.
    #[schemars(length(max = 200))]
    pub claimed: String,
    /// The reason.
    #[schemars(length(max = 2000))]
    pub why: String,
}

impl AuditInfo {
    /// Both texts, cut to what the audit log takes.
    #[must_use]
    pub fn bounded(self) -> Self {
        let cut = |text: String, characters: usize| text.chars().take(characters).collect();
        Self { by: cut(self.by, 200), claimed: cut(self.claimed, 200), why: cut(self.why, 2_000) }
    }
}

/// A command with everything that decides on how it is carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandRequest {
    /// Identifies the change. A retry with the same id is not carried out twice.
    pub id: String,
    /// The change.
    pub command: Command,
    /// Who, and why.
    pub info: AuditInfo,
    /// When it was received, RFC 3339.
    pub at: String,
    /// Prepare everything, and change nothing.
    pub dry_run: bool,
    /// Carry it out although a newer record of the control topic cannot be read.
    pub force: bool,
    /// The `ETag` that must be in force; none accepts any.
    pub if_match: Option<String>,
}

impl CommandRequest {
    /// A request with an id of its own and the time of now.
    pub fn new(command: Command, info: AuditInfo) -> Self {
        Self { id: new_id(), command, info: info.bounded(), at: now(), dry_run: false, force: false, if_match: None }
    }
}

/// The time of now, RFC 3339 in milliseconds: the one form in records and audit lines.
pub(super) fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

/// A random id with 128 bits.
pub(super) fn new_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}

/// Characters of a client's own id, at most.
pub const ID_CHARACTERS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_1_words_read_back_as_the_action_they_were_written_for() {
        let name = |text: &str| text.to_owned();
        let actions = [
            Action::Apply,
            Action::UseFile,
            Action::Rollback,
            Action::Clear,
            Action::SetDefault { version: name("v") },
            Action::Pause { experiment: name("e") },
            Action::Resume { experiment: name("e") },
            Action::Promote { experiment: name("e"), variant: name("v") },
            Action::SetTraffic { experiment: name("e"), millionths: 50_000 },
            Action::UpgradeFormat,
        ];
        for action in actions {
            assert_eq!(Action::from_words(&action.in_words()), action);
            let json = serde_json::to_string(&action).unwrap();
            assert_eq!(serde_json::from_str::<Action>(&json).unwrap(), action);
        }
    }

    #[test]
    fn an_action_of_a_newer_program_is_kept_as_it_was() {
        let json = r#"{"type":"hold","until":"noon"}"#;
        let action: Action = serde_json::from_str(json).unwrap();
        assert_eq!(action.in_words(), "hold");
        assert_eq!(serde_json::to_string(&action).unwrap(), json);
        assert_eq!(Action::from_words("hold until noon").in_words(), "hold until noon");
    }
}
