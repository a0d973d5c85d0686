//! Errors of commands. Each has a stable code.

use crate::{pipeline::SwitchError, settings::SettingsError};

/// A command that was not carried out, or whose outcome is unknown.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The settings cannot work.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The configuration cannot be served.
    #[error(transparent)]
    Switch(#[from] SwitchError),
    /// The command names something that does not exist.
    #[error("there is no {kind} `{name}`: there are {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") })]
    Unknown {
        /// `version`, `experiment` or `variant`.
        kind: &'static str,
        /// The name.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// There is nothing to roll back.
    #[error("there is no earlier configuration to go back to")]
    NoHistory,
    /// The record would be too large.
    #[error("the configuration has {bytes} bytes; a record takes at most {max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// A rollback came before this command was in force, or a later command replaced this dry run.
    #[error("a later command came before this one was in force")]
    Superseded,
    /// Another change is in progress, or too many wait.
    #[error("another change is in progress: try again")]
    Busy,
    /// Another configuration is in force than the caller expected.
    #[error(
        "another configuration is in force than expected: revision {revision}, last change `{last}`, ETag {etag}; \
         look at `status` and decide again"
    )]
    Conflict {
        /// The revision in force.
        revision: u64,
        /// The `ETag` in force.
        etag: String,
        /// The last change.
        last: String,
    },
    /// The control topic did not take the record. Nothing changed.
    #[error("the control topic did not take the change, so nothing changed: {0}")]
    NotPublished(String),
    /// The record was published, and was not read back in time.
    #[error(
        "the outcome is unknown: {reason}; the change may still take effect on all instances. Look at `status`, or \
         retry with the id {id}, which is never carried out twice"
    )]
    OutcomeUnknown {
        /// The id of the change.
        id: String,
        /// Why.
        reason: String,
    },
    /// The program stops.
    #[error("the program is stopping")]
    Stopping,
    /// A newer record of the group cannot be read, and the command would undo it.
    #[error(
        "the last change of the group cannot be read by this instance, and this command would undo it; use another \
         instance, apply settings, or pass `--force`: {0}"
    )]
    UnknownState(String),
    /// Revisions are used up.
    #[error(
        "the revision of the group has reached its limit; stop all instances, and start them with another \
         `kafka.topics.control`: the state is kept, and revisions begin at 1"
    )]
    RevisionLimit,
    /// Another instance uses the folder.
    #[error("{0}: another instance keeps its state there; each needs its own `control.directory`")]
    InUse(String),
    /// A record or file that cannot be read.
    #[error("{place} cannot be read: {reason}")]
    Unreadable {
        /// Where it lies.
        place: String,
        /// What is wrong.
        reason: String,
    },
}

impl ControlError {
    /// The stable code of this error: the metric label, and `code` in answers of the admin API.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Settings(_) => "settings",
            Self::Switch(error) => error.code(),
            Self::Unknown { .. } => "unknown_name",
            Self::NoHistory => "no_history",
            Self::TooLarge { .. } => "too_large",
            Self::Superseded => "superseded",
            Self::Busy => "busy",
            Self::Conflict { .. } => "conflict",
            Self::NotPublished(_) => "not_published",
            Self::OutcomeUnknown { .. } => "outcome_unknown",
            Self::Stopping => "stopping",
            Self::UnknownState(_) => "unknown_state",
            Self::RevisionLimit => "revision_limit",
            Self::InUse(_) => "in_use",
            Self::Unreadable { .. } => "unreadable",
        }
    }
}
