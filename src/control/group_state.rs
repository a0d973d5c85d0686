//! The state of a group: the configuration in force, the last change, and the configurations before.
//! Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Action, Command, ControlError};
use crate::{
    routing::{Overrides, Position, TableSpec, Traffic, millionths},
    settings::shareable,
};

/// What all instances of a group agree upon. Format 2 of the control record has these fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupState {
    /// Order number: one higher than the state that it was built on.
    pub revision: u64,
    /// The last change.
    #[serde(default)]
    pub change: Option<Change>,
    /// The configuration in force.
    pub current: Snapshot,
    /// The configurations that a rollback restores, the latest last.
    #[serde(default)]
    pub history: Vec<Snapshot>,
    /// The ids of the last changes, the latest last. A retried command finds itself here.
    #[serde(default)]
    pub recent: Vec<String>,
    /// Names of fields that a reader must understand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// Fields of newer programs. They are kept and written again.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// One configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The text of applied settings; none is the settings file of each instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// Changes of operators on top of settings.
    #[serde(default)]
    pub overrides: Overrides,
    /// Fields of newer programs.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// One change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Identifies it: 128 random bits, or an id that the client chose.
    #[serde(default)]
    pub id: String,
    /// What it did.
    #[serde(default)]
    pub action: Action,
    /// When, RFC 3339.
    #[serde(default)]
    pub at: String,
    /// Who made it.
    #[serde(default)]
    pub by: String,
    /// The name that the caller gave, where its token has another one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub claimed: String,
    /// Why.
    #[serde(default)]
    pub why: String,
    /// The instance that took the command.
    #[serde(default)]
    pub instance: String,
    /// True if it was made over a newer record that could not be read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forced: bool,
    /// True for a rollback that restored an older text of the settings file. Instances whose file did not
    /// change yet must not follow it when it does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restores_file: bool,
    /// Fields of newer programs.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// JSON numbers are exact up to 2^53. The margin leaves room for re-announcements after the last
/// command.
pub(super) const REVISION_MAX: u64 = (1 << 53) - (1 << 20);
/// Largest record, in bytes of JSON. Topics take records of one megabyte by default.
pub(super) const RECORD_BYTES_MAX: usize = 900_000;
/// Ids that a state remembers.
const RECENT_MAX: usize = 64;

impl GroupState {
    /// The id of the last change; empty where there was none.
    pub fn change_id(&self) -> &str {
        self.change.as_ref().map_or("", |change| &change.id)
    }

    /// True if both states have the same last change. Format 1 drops some of its fields, so the id decides.
    pub(super) fn has_change_of(&self, other: &Self) -> bool {
        if self.change_id().is_empty() {
            return self.change == other.change;
        }
        self.change_id() == other.change_id()
    }

    /// The configuration after a command that is not a rollback.
    ///
    /// # Errors
    /// When the settings of `apply` are no TOML.
    pub fn snapshot_after(&self, command: &Command) -> Result<Snapshot, ControlError> {
        let mut next = self.current.clone();
        let overrides = &mut next.overrides;
        match command.clone() {
            Command::Apply { text } => {
                let unreadable = || ControlError::Unreadable {
                    place: "the applied settings".to_owned(),
                    reason: "they are not TOML".to_owned(),
                };
                next.config = Some(shareable(&text).ok_or_else(unreadable)?);
            }
            Command::UseFile => next.config = None,
            Command::Clear => *overrides = Overrides::default(),
            Command::SetDefault { version } => overrides.default = Some(version),
            Command::Pause { experiment } => {
                overrides.experiments.insert(experiment, Position::Paused);
            }
            Command::Resume { experiment } => {
                overrides.experiments.insert(experiment, Position::Running);
            }
            Command::Promote { experiment, variant } => {
                overrides.experiments.insert(experiment, Position::Promoted(variant));
            }
            Command::SetTraffic { experiment, millionths, definition, ramp_paused, .. } => {
                overrides.traffic.insert(experiment, Traffic { millionths, definition, ramp_paused });
            }
            Command::Rollback | Command::UpgradeFormat => {}
        }
        Ok(next)
    }

    /// The next state with another configuration. A change that changes nothing adds no history entry,
    /// so one rollback undoes two equal pauses.
    ///
    /// # Errors
    /// When it does not fit into a record, or revisions are used up.
    pub fn followed_by(&self, current: Snapshot, change: Change, history_max: usize) -> Result<Self, ControlError> {
        let mut history = self.history.clone();
        if current != self.current {
            history.push(self.current.clone());
        }
        self.replaced_by(current, history, change, history_max)
    }

    /// The next state with another configuration and another history, for rollbacks.
    ///
    /// # Errors
    /// As [`Self::followed_by`].
    pub fn replaced_by(
        &self,
        current: Snapshot,
        history: Vec<Snapshot>,
        change: Change,
        history_max: usize,
    ) -> Result<Self, ControlError> {
        let mut next = Self {
            revision: self.next_revision()?,
            recent: self.recent.clone(),
            current,
            history,
            change: None,
            requires: self.requires.clone(),
            other: self.other.clone(),
        };
        next.remember_id(&change.id);
        next.change = Some(change);
        next.bounded(history_max)
    }

    /// The same state with the next revision, to publish it again.
    ///
    /// # Errors
    /// When revisions are used up.
    pub fn republished(&self) -> Result<Self, ControlError> {
        Ok(Self { revision: self.next_revision()?, ..self.clone() })
    }

    fn next_revision(&self) -> Result<u64, ControlError> {
        let next = self.revision + 1;
        if next > REVISION_MAX {
            return Err(ControlError::RevisionLimit);
        }
        Ok(next)
    }

    /// Keeps the id of a change among the recent ones.
    pub(super) fn remember_id(&mut self, id: &str) {
        if id.is_empty() || self.recent.iter().any(|known| known == id) {
            return;
        }
        self.recent.push(id.to_owned());
        let surplus = self.recent.len().saturating_sub(RECENT_MAX);
        self.recent.drain(..surplus);
    }

    /// Puts the ids that an older state knew before those of this one.
    pub(super) fn inherit_recent(&mut self, mut older: Vec<String>) {
        older.retain(|id| !self.recent.contains(id));
        let newer = std::mem::replace(&mut self.recent, older);
        for id in newer {
            self.remember_id(&id);
        }
    }

    /// Drops the oldest history entries until the record is within its bounds.
    fn bounded(mut self, history_max: usize) -> Result<Self, ControlError> {
        let surplus = self.history.len().saturating_sub(history_max);
        self.history.drain(..surplus);
        loop {
            // Plain data with string keys: serializing cannot fail.
            let bytes = serde_json::to_vec(&self).map_or(0, |json| json.len());
            if bytes <= RECORD_BYTES_MAX {
                return Ok(self);
            }
            if self.history.is_empty() {
                return Err(ControlError::TooLarge { bytes, max: RECORD_BYTES_MAX });
            }
            self.history.remove(0);
        }
    }
}

/// Checks that a step of a ramp comes from the share in force, of an experiment that runs. `table` is
/// without overrides.
///
/// # Errors
/// When a person or another instance was faster.
pub(super) fn check_step(command: &Command, table: &TableSpec, current: &Overrides) -> Result<(), ControlError> {
    let Command::SetTraffic { experiment, definition, from: Some(from), .. } = command else { return Ok(()) };
    let changed = current.traffic.get(experiment).filter(|traffic| traffic.definition == *definition);
    let settings = table.experiments.iter().find(|spec| spec.name == *experiment);
    let in_force = match (changed, settings) {
        (Some(changed), _) => changed.millionths,
        (None, Some(settings)) => millionths(settings.traffic_ratio),
        (None, None) => return Ok(()),
    };
    let is_held =
        changed.is_some_and(|changed| changed.ramp_paused) || settings.is_some_and(|settings| settings.ramp_paused);
    let runs = match current.experiments.get(experiment) {
        Some(position) => *position == Position::Running,
        None => settings.is_some_and(|settings| !settings.paused && settings.promoted.is_none()),
    };
    if in_force == *from && runs && !is_held { Ok(()) } else { Err(ControlError::Superseded) }
}

/// Checks that a command names what the settings have.
///
/// # Errors
/// The name that does not exist, with those that do.
pub(super) fn check_names(command: &Command, table: &TableSpec) -> Result<(), ControlError> {
    let find = |name: &str| {
        let known = || table.experiments.iter().map(|spec| spec.name.clone());
        let found = table.experiments.iter().find(|spec| spec.name == name);
        found.ok_or_else(|| unknown("experiment", name, known()))
    };
    match command {
        Command::SetDefault { version } if !table.versions.contains(version) => {
            Err(unknown("version", version, table.versions.iter().cloned()))
        }
        Command::Pause { experiment } | Command::Resume { experiment } => find(experiment).map(drop),
        Command::SetTraffic { experiment, definition, .. } => {
            let current = find(experiment)?.definition();
            if current == *definition {
                return Ok(());
            }
            Err(unknown("definition of the experiment", definition, std::iter::once(current)))
        }
        Command::Promote { experiment, variant } => {
            let variants = &find(experiment)?.variants;
            if variants.iter().any(|it| it.name == *variant) {
                return Ok(());
            }
            Err(unknown("variant", variant, variants.iter().map(|it| it.name.clone())))
        }
        _ => Ok(()),
    }
}

fn unknown(kind: &'static str, name: &str, known: impl Iterator<Item = String>) -> ControlError {
    let known: BTreeSet<String> = known.collect();
    ControlError::Unknown { kind, name: name.to_owned(), known: known.into_iter().collect() }
}

/// True if two texts of settings have the same keys and values, in any order.
pub(super) fn same_settings(one: &str, other: &str) -> bool {
    let table = |text: &str| text.parse::<toml::Table>().ok();
    one == other || table(one).is_some_and(|one| Some(one) == table(other))
}

#[cfg(test)]
mod tests;
