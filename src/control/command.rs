//! What can be asked for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A change that an operator asks for.
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
    /// Undo what operators changed on top of settings.
    Clear,
    /// Have this version answer when nothing else decides.
    SetDefault {
        /// Its name.
        version: String,
    },
    /// Have an experiment take nobody.
    Pause {
        /// Its name.
        experiment: String,
    },
    /// Have an experiment run, whatever was done to it before.
    Resume {
        /// Its name.
        experiment: String,
    },
    /// Have the version of one variant answer all whom the experiment is about.
    Promote {
        /// The experiment's name.
        experiment: String,
        /// The variant's name.
        variant: String,
    },
}

impl Command {
    /// Whether it puts other settings in force, rather than changing one thing on top or going back.
    pub fn is_about_settings(&self) -> bool {
        matches!(self, Self::Apply { .. } | Self::UseFile)
    }

    /// The command in a word or two, for logs and the audit.
    pub fn in_words(&self) -> String {
        match self {
            Self::Apply { .. } => "apply".to_owned(),
            Self::UseFile => "use file".to_owned(),
            Self::Clear => "clear".to_owned(),
            Self::Rollback => "rollback".to_owned(),
            Self::SetDefault { version } => format!("set default {version}"),
            Self::Pause { experiment } => format!("pause {experiment}"),
            Self::Resume { experiment } => format!("resume {experiment}"),
            Self::Promote { experiment, variant } => format!("promote {experiment} {variant}"),
        }
    }
}

/// Who asks, and why: for the audit log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Who {
    /// Who.
    #[schemars(length(max = 200))]
    pub by: String,
    /// Why.
    #[schemars(length(max = 2000))]
    pub why: String,
}

impl Who {
    /// Both, cut to what the audit log takes.
    #[must_use]
    pub fn bounded(self) -> Self {
        let cut = |text: String, characters: usize| text.chars().take(characters).collect();
        Self { by: cut(self.by, 200), why: cut(self.why, 2_000) }
    }
}

/// A command, who gives it, and whether it is only tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// What is asked for.
    pub command: Command,
    /// By whom, and why.
    pub who: Who,
    /// Whether everything is to be made ready and nothing changed.
    pub dry_run: bool,
}
