//! What came of all commands so far. Pure: what it becomes depends on the command and on nothing else.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Command, ControlError};
use crate::{
    routing::{Overrides, Position, TableSpec},
    settings::shareable,
};

/// The state of a group, as the control topic and the state file have it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Counts changes.
    pub revision: u64,
    /// The last of them.
    #[serde(default)]
    pub change: Option<Change>,
    /// What is in force.
    pub current: Snapshot,
    /// What was, the latest last.
    #[serde(default)]
    pub history: Vec<Snapshot>,
}

/// One configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// The text of its settings; none is each instance's own settings file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// What operators changed on top.
    #[serde(default)]
    pub overrides: Overrides,
}

/// A change: what, when, who, why, and on which instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// By chance, so that whoever made it knows it again.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The command in words.
    pub action: String,
    /// When, RFC 3339.
    pub at: String,
    /// Who asked for it.
    pub by: String,
    /// Why.
    pub why: String,
    /// The instance that was asked.
    pub instance: String,
}

/// Numbers go up by one; behind this one there would be no room for the next.
const REVISION_MAX: u64 = 1 << 53;
/// Largest state, in bytes of its JSON: records of a megabyte are what topics take when nobody has said otherwise.
pub(super) const STATE_BYTES_MAX: usize = 900_000;

impl State {
    /// Reads a state.
    ///
    /// # Errors
    /// What is wrong with it; `place` says where it lies.
    pub fn read(json: &[u8], place: &str) -> Result<Self, ControlError> {
        let mut reader = serde_json::Deserializer::from_slice(json);
        let refuse = |reason: String| ControlError::Unreadable { place: place.to_owned(), reason };
        let state: Self = serde_path_to_error::deserialize(&mut reader).map_err(|error| refuse(error.to_string()))?;
        match state.revision <= REVISION_MAX {
            true => Ok(state),
            false => Err(refuse(format!("revision: is {}, which nobody has counted to", state.revision))),
        }
    }

    /// The number of a state that cannot be read otherwise.
    pub(super) fn revision_of(json: &[u8]) -> Option<u64> {
        #[derive(Deserialize)]
        struct Numbered {
            revision: u64,
        }
        serde_json::from_slice(json).ok().map(|Numbered { revision }| revision).filter(|it| *it <= REVISION_MAX)
    }

    /// Its JSON.
    pub fn to_json(&self) -> Vec<u8> {
        // Plain data with string keys: serializing cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The state after a command. `serving` is the table that is in force.
    ///
    /// # Errors
    /// When the command names what is not there, or there is nothing to go back to.
    pub fn after(
        &self,
        command: &Command,
        change: Change,
        serving: &TableSpec,
        history_max: usize,
    ) -> Result<Self, ControlError> {
        let mut next = Self { revision: self.revision + 1, change: Some(change), ..self.clone() };
        if let Command::Rollback = command {
            next.current = next.history.pop().ok_or(ControlError::NoHistory)?;
            return next.bounded(history_max);
        }
        next.history.push(self.current.clone());
        let Snapshot { config, overrides } = &mut next.current;
        let position = |experiment: &String, position| {
            let found = serving.experiments.iter().any(|spec| spec.name == *experiment);
            let known = serving.experiments.iter().map(|spec| spec.name.clone());
            match found {
                true => Ok((experiment.clone(), position)),
                false => Err(unknown("experiment", experiment, known)),
            }
        };
        match command {
            Command::Apply { text } => {
                let unreadable = || {
                    let (place, reason) = ("the applied settings".to_owned(), "they are no TOML".to_owned());
                    ControlError::Unreadable { place, reason }
                };
                *config = Some(shareable(text).ok_or_else(unreadable)?);
            }
            Command::UseFile => *config = None,
            Command::Clear => *overrides = Overrides::default(),
            // Came out above.
            Command::Rollback => {}
            Command::SetDefault { version } => {
                if !serving.versions.contains(version) {
                    return Err(unknown("version", version, serving.versions.iter().cloned()));
                }
                overrides.default = Some(version.clone());
            }
            Command::Pause { experiment } => overrides.experiments.extend([position(experiment, Position::Paused)?]),
            Command::Resume { experiment } => overrides.experiments.extend([position(experiment, Position::Running)?]),
            Command::Promote { experiment, variant } => {
                let promoted = position(experiment, Position::Promoted(variant.clone()))?;
                let spec = serving.experiments.iter().find(|spec| spec.name == *experiment);
                let variants = || spec.into_iter().flat_map(|spec| spec.variants.iter().map(|it| it.name.clone()));
                if !variants().any(|name| name == *variant) {
                    return Err(unknown("variant", variant, variants()));
                }
                overrides.experiments.extend([promoted]);
            }
        }
        // Who pauses twice wants to go back with one rollback.
        next.history.pop_if(|before| *before == next.current);
        next.bounded(history_max)
    }

    /// The state after the settings file of an instance that follows it became another: what served until now can be gone
    /// back to.
    #[must_use]
    pub fn after_file_changed(&self, file_before: &str, history_max: usize) -> Self {
        let mut next = self.clone();
        next.history.push(self.current.clone());
        next.current.config = None;
        next.remember_file(file_before);
        next.bounded(history_max).unwrap_or_else(|_| self.clone())
    }

    /// Says in the history what "the settings file" was, because it is about to become another. A text that is no TOML
    /// never served.
    pub fn remember_file(&mut self, file: &str) {
        let Some(text) = shareable(file) else { return };
        for snapshot in &mut self.history {
            snapshot.config.get_or_insert_with(|| text.clone());
        }
    }

    /// Forgets the oldest of what was, until the rest is within the bounds.
    fn bounded(mut self, history_max: usize) -> Result<Self, ControlError> {
        let surplus = self.history.len().saturating_sub(history_max);
        self.history.drain(..surplus);
        loop {
            let bytes = self.to_json().len();
            if bytes <= STATE_BYTES_MAX {
                return Ok(self);
            }
            if self.history.is_empty() {
                return Err(ControlError::TooLarge { bytes, max: STATE_BYTES_MAX });
            }
            self.history.remove(0);
        }
    }
}

fn unknown(kind: &'static str, name: &str, known: impl Iterator<Item = String>) -> ControlError {
    let known: BTreeSet<String> = known.collect();
    ControlError::Unknown { kind, name: name.to_owned(), known: known.into_iter().collect() }
}

#[cfg(test)]
mod tests;
