//! What an instance remembers: the accepted state of the group, and its own settings file. Pure.
//!
//! This is one struct. The state file holds it, a restart begins with it, and every decision of the
//! machine reads it.
//!
//! The settings file of an instance is in one of four modes:
//!
//! | mode | in force | a change of the file |
//! |---|---|---|
//! | `Followed` | the file | is loaded |
//! | `Matches` | applied settings that the file has become | is loaded: `Ahead` |
//! | `Ahead` | the file, which matched the applied settings and then changed | is loaded |
//! | `Detached` | applied settings | waits for `use-file` |

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Action, GroupState, RecordFormat, Snapshot, group_state::same_settings};
use crate::{
    routing::{Position, Traffic},
    settings::shareable,
};

/// Everything that survives a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The last valid record of the group.
    pub accepted: GroupState,
    /// The format of its records.
    #[serde(default)]
    pub record_format: RecordFormat,
    /// A newer record that this program cannot read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<UnreadableState>,
    /// The settings file of this instance.
    pub file: LocalFile,
    /// Texts of the settings file that a rollback restores, the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undo: Vec<FileUndo>,
    /// The control topic whose revisions these are; empty without one.
    #[serde(default)]
    pub topic: String,
    /// The consumer group.
    #[serde(default)]
    pub group: String,
}

/// A record of a newer revision that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadableState {
    /// Its revision. The next change must be higher.
    pub revision: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// The settings file of an instance, without its local sections: no secret is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalFile {
    /// Its relation to what is in force.
    pub mode: FileMode,
    /// The text that was followed last.
    pub followed: String,
    /// The text now.
    pub text: String,
}

/// The relation of the settings file to the settings in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileMode {
    /// The file is in force, for the whole group.
    #[default]
    Followed,
    /// The file has become what was applied, and is followed again.
    Matches,
    /// It matched, then changed. Other instances may not have seen that yet.
    Ahead,
    /// Other settings are in force.
    Detached,
}

/// A text of the settings file before it changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileUndo {
    /// The text.
    pub config: String,
    /// History entries of the group at that moment. Later group changes are undone first.
    pub depth: usize,
}

/// What a rollback does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollbackTarget {
    /// The configuration that it restores.
    pub snapshot: Snapshot,
    /// The history afterwards.
    pub history: Vec<Snapshot>,
    /// What it changes, in words.
    pub undoes: String,
    /// True if it restores an older text of the settings file.
    pub restores_file: bool,
}

impl Memory {
    /// The memory of an instance that knows nothing but its settings file.
    pub fn of_file(file: &str) -> Self {
        let text = shared_text(file);
        let file = LocalFile { mode: FileMode::Followed, followed: text.clone(), text };
        Self { file, ..Self::default() }
    }

    /// The revision that the next change must exceed.
    pub fn revision(&self) -> u64 {
        self.unreadable.as_ref().map_or(0, |record| record.revision).max(self.accepted.revision)
    }

    /// True if the settings file is in force.
    pub fn follows_file(&self) -> bool {
        self.file.mode != FileMode::Detached
    }

    /// True if the settings file is not followed, and says something else than the applied settings.
    pub fn file_differs(&self) -> bool {
        let applied = self.accepted.current.config.as_deref();
        !self.follows_file() && applied.is_some_and(|applied| !same_settings(applied, &self.file.text))
    }

    /// What this instance should serve. This is the only place that joins the group's state with the
    /// local file.
    pub fn desired(&self) -> Snapshot {
        let mut snapshot = self.accepted.current.clone();
        if self.file.mode == FileMode::Ahead {
            snapshot.config = None;
        }
        snapshot
    }

    /// Takes a newer state of the group.
    pub fn accept(&mut self, next: GroupState, format: RecordFormat) {
        let mode = self.mode_after(&next);
        let dropped = dropped_entries(&self.accepted.history, &next.history);
        for undo in &mut self.undo {
            undo.depth = undo.depth.saturating_sub(dropped).min(next.history.len());
        }
        // A rollback to an older text of the file used up its undo entry.
        if restores_file(&self.accepted, &next, self.undo.last()) {
            self.undo.pop();
        }

        let recent = std::mem::replace(&mut self.accepted, next).recent;
        self.accepted.inherit_recent(recent);
        self.record_format = format;
        self.unreadable = None;
        self.file.mode = mode;
        if mode == FileMode::Followed {
            self.file.followed.clone_from(&self.file.text);
        }
    }

    /// The file mode once the group has another state.
    fn mode_after(&self, next: &GroupState) -> FileMode {
        let mode = self.file.mode;
        if next.current.config.is_none() {
            return FileMode::Followed;
        }
        let same_change = next.change_id() == self.accepted.change_id();
        let same_config = next.current.config == self.accepted.current.config;
        let restores_file = next.change.as_ref().is_some_and(|change| change.restores_file);
        match next.change.as_ref().map(|change| &change.action) {
            _ if same_change && same_config => mode,
            Some(Action::Apply | Action::Other(_)) => FileMode::Detached,
            Some(Action::Rollback) if restores_file => FileMode::Detached,
            // Format 1 does not say so: a rollback that changes nothing undoes a file change elsewhere.
            Some(Action::Rollback) if next.current == self.accepted.current => FileMode::Detached,
            _ if same_config => mode,
            _ => FileMode::Detached,
        }
    }

    /// Takes another text of the settings file, without its local sections. The caller has proved that
    /// it works where the file is followed.
    pub fn file_changed(&mut self, text: String, history_max: usize) {
        match self.file.mode {
            FileMode::Detached => {
                let applied = self.accepted.current.config.as_deref();
                if applied.is_some_and(|applied| same_settings(applied, &text)) {
                    self.file.mode = FileMode::Matches;
                    self.file.followed.clone_from(&text);
                }
            }
            FileMode::Followed | FileMode::Matches | FileMode::Ahead => {
                if !same_settings(&self.file.followed, &text) {
                    let depth = self.accepted.history.len();
                    self.undo.push(FileUndo { config: self.file.followed.clone(), depth });
                    let surplus = self.undo.len().saturating_sub(history_max);
                    self.undo.drain(..surplus);
                }
                if self.file.mode == FileMode::Matches {
                    self.file.mode = FileMode::Ahead;
                }
                self.file.followed.clone_from(&text);
            }
        }
        self.file.text = text;
    }

    /// Takes another text of the file that says the same, such as one with another comment.
    pub fn file_reworded(&mut self, text: String) {
        if self.follows_file() {
            self.file.followed.clone_from(&text);
        }
        self.file.text = text;
    }

    /// What a rollback would do now. `replaced` is true while another text of the followed file is
    /// being prepared: then the rollback keeps the text in force.
    pub fn rollback_target(&self, replaced: bool) -> Option<RollbackTarget> {
        let accepted = &self.accepted;
        if replaced && self.follows_file() {
            return Some(self.pinned(&self.file.followed, "the change of the settings file"));
        }
        if let Some(undo) = self.undo.last().filter(|undo| undo.depth >= accepted.history.len()) {
            return Some(self.pinned(&undo.config, "the change of the settings file"));
        }

        let mut history = accepted.history.clone();
        let mut snapshot = history.pop()?;
        let changed_since = self.file.followed != self.file.text;
        if snapshot.config.is_none() && self.file.mode == FileMode::Detached && changed_since {
            // "The settings file" was this text when it was followed last.
            snapshot.config = Some(self.file.followed.clone());
        }
        let undoes = differences(&accepted.current, &snapshot);
        Some(RollbackTarget { snapshot, history, undoes, restores_file: false })
    }

    /// The group serves by this text of the settings file.
    fn pinned(&self, text: &str, undoes: &str) -> RollbackTarget {
        let snapshot = Snapshot { config: Some(text.to_owned()), ..self.accepted.current.clone() };
        let mut history = self.accepted.history.clone();
        for entry in &mut history {
            // "The settings file" meant this text or an older one, never the newer one.
            entry.config.get_or_insert_with(|| text.to_owned());
        }
        RollbackTarget { snapshot, history, undoes: undoes.to_owned(), restores_file: true }
    }

    /// Identifies what is in force here: the last change, an unreadable record, and the texts of the
    /// settings file. `candidate` is a text of the file that is being prepared.
    pub fn etag(&self, candidate: Option<&str>) -> String {
        let mut digest = Sha256::new();
        digest.update(self.accepted.change_id());
        if let Some(record) = &self.unreadable {
            digest.update(record.revision.to_be_bytes());
        }
        // A rollback restores one of these texts, so each belongs to what the caller saw.
        let texts = [&self.file.text, &self.file.followed].into_iter().map(String::as_str);
        let undo = self.undo.iter().map(|undo| undo.config.as_str());
        for text in texts.chain(undo).chain(candidate) {
            digest.update([0]);
            digest.update(text);
        }
        let digest = hex::encode(digest.finalize());
        digest.chars().take(ETAG_CHARACTERS).collect()
    }
}

/// The text of a settings file without its local sections; empty where it is no TOML.
pub(super) fn shared_text(text: &str) -> String {
    shareable(text).unwrap_or_default()
}

/// What differs between the configuration in force and another one, in words.
fn differences(now: &Snapshot, then: &Snapshot) -> String {
    let mut words = Vec::new();
    if now.config != then.config {
        let settings = |snapshot: &Snapshot| if snapshot.config.is_some() { "applied" } else { "the settings file" };
        words.push(match (settings(now), settings(then)) {
            (before, after) if before == after => "other applied settings".to_owned(),
            (before, after) => format!("settings: {before} → {after}"),
        });
    }
    let default = |snapshot: &Snapshot| match &snapshot.overrides.default {
        Some(version) => format!("`{version}`"),
        None => "as in settings".to_owned(),
    };
    if now.overrides.default != then.overrides.default {
        words.push(format!("default: {} → {}", default(now), default(then)));
    }
    let (before, after) = (&now.overrides.experiments, &then.overrides.experiments);
    let position = |position: Option<&Position>| match position {
        None => "as in settings".to_owned(),
        Some(Position::Paused) => "paused".to_owned(),
        Some(Position::Running) => "running".to_owned(),
        Some(Position::Promoted(variant)) => format!("promoted `{variant}`"),
    };
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in names {
        let (before, after) = (before.get(name), after.get(name));
        if before != after {
            words.push(format!("experiment `{name}`: {} → {}", position(before), position(after)));
        }
    }
    let (before, after) = (&now.overrides.traffic, &then.overrides.traffic);
    let share = |traffic: Option<&Traffic>| {
        traffic.map_or_else(|| "as in settings".to_owned(), |traffic| traffic.share().to_string())
    };
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in names {
        let (before, after) = (before.get(name), after.get(name));
        if before != after {
            words.push(format!("share of units of `{name}`: {} → {}", share(before), share(after)));
        }
    }
    if words.is_empty() { "nothing".to_owned() } else { words.join("; ") }
}

const ETAG_CHARACTERS: usize = 16;

/// Entries that left the beginning of a history because it was full. Zero where the two do not overlap.
fn dropped_entries(before: &[Snapshot], after: &[Snapshot]) -> usize {
    let overlaps = |dropped: &usize| {
        let kept = &before[*dropped..];
        kept.starts_with(after) || after.starts_with(kept)
    };
    (0..before.len()).find(overlaps).unwrap_or_default()
}

/// True if a rollback restored the text that the latest undo entry has.
fn restores_file(before: &GroupState, next: &GroupState, undo: Option<&FileUndo>) -> bool {
    let is_rollback = next.change.as_ref().is_some_and(|change| change.action == Action::Rollback);
    let is_news = next.change_id() != before.change_id();
    is_rollback && is_news && undo.is_some_and(|undo| next.current.config.as_deref() == Some(&undo.config))
}

#[cfg(test)]
mod tests;
