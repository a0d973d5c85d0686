//! Why a change is refused. Nothing has changed then.

use crate::{pipeline::SwitchError, settings::SettingsError};

/// A change that is refused.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The settings cannot work.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// They cannot be switched to.
    #[error(transparent)]
    Switch(#[from] SwitchError),
    /// It names what is not there.
    #[error("there is no {kind} `{name}`: there are {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") })]
    Unknown {
        /// `version`, `experiment` or `variant`.
        kind: &'static str,
        /// The name.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// There is nothing to go back to.
    #[error("there is no earlier configuration to go back to")]
    NoHistory,
    /// It would not fit into a record.
    #[error("the configuration has {bytes} bytes, at most {max} travel to the other instances")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// A later command came before this one was ready.
    #[error("a later change came before this one was ready")]
    Superseded,
    /// Another change is under way.
    #[error("another change is under way: try again")]
    Busy,
    /// The control topic did not confirm it.
    #[error(
        "the control topic did not confirm it, so nothing changed; should it arrive later, this instance withdraws it: {0}"
    )]
    NotPublished(String),
    /// The program stops.
    #[error("the program is stopping")]
    Stopping,
    /// The last change of the group cannot be read here, so what is asked for would undo it.
    #[error(
        "the last change of the group cannot be read by this instance, and this would undo it; ask another instance, \
             or apply settings: {0}"
    )]
    UnknownState(String),
    /// Another instance keeps its changes in the folder.
    #[error("{0}: another instance keeps its changes there; each needs a `control.directory` of its own")]
    InUse(String),
    /// A record or file that is no state.
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
            Self::NotPublished(_) => "not_published",
            Self::Stopping => "stopping",
            Self::UnknownState(_) => "unknown_state",
            Self::InUse(_) => "in_use",
            Self::Unreadable { .. } => "unreadable",
        }
    }
}
