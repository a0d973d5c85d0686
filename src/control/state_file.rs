//! The content of `state.json`: the memory, and the fields that releases before 2026-12 read. Pure.
//!
//! A downgrade must start, so this release writes both. An older file has the old fields only.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    FileMode, GroupState, Memory, RecordFormat,
    memory::{FileUndo, LocalFile, UnreadableState, shared_text},
    wire,
};

#[derive(Serialize, Deserialize)]
struct StateFile {
    /// Absent in files of releases before 2026-12.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    memory: Option<Memory>,
    #[serde(flatten)]
    previous: PreviousFields,
}

/// The fields of releases before 2026-12. States in it are records of format 1.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct PreviousFields {
    state: Value,
    agreed: Option<Value>,
    unread: bool,
    file: String,
    group: String,
    topic: String,
    reverted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    overtaken: Option<String>,
}

/// Reads the content of a state file.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(json: &[u8]) -> Result<Memory, String> {
    let file: StateFile = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    match file.memory {
        Some(memory) => Ok(memory),
        None => memory_of_previous(file.previous),
    }
}

/// Writes the content of a state file.
pub(super) fn write(memory: &Memory) -> Vec<u8> {
    let file = StateFile { memory: Some(memory.clone()), previous: previous_fields(memory) };
    // Plain data with string keys: serializing cannot fail.
    serde_json::to_vec(&file).unwrap_or_default()
}

fn memory_of_previous(previous: PreviousFields) -> Result<Memory, String> {
    let state_of = |value: &Value| {
        let read = wire::read(value.to_string().as_bytes());
        read.map(|(state, _)| state).map_err(|error| error.reason)
    };
    let state = state_of(&previous.state)?;
    // Without a topic only `state` was kept up to date.
    let agreed = previous.agreed.as_ref().filter(|_| !previous.topic.is_empty()).map(state_of).transpose()?;
    let mut accepted = agreed.unwrap_or_else(|| state.clone());

    let extra = state.history.strip_prefix(accepted.history.as_slice()).unwrap_or_default();
    let depth = accepted.history.len();
    let undo = extra.iter().filter_map(|entry| Some(FileUndo { config: entry.config.clone()?, depth })).collect();
    let mode = match &accepted.current.config {
        _ if previous.overtaken.is_some() => FileMode::Ahead,
        None => FileMode::Followed,
        Some(_) if previous.reverted => FileMode::Matches,
        Some(_) => FileMode::Detached,
    };
    let text = shared_text(&previous.file);
    let revision = state.revision;
    let unreadable = previous.unread.then(|| {
        let reason = "the last run could not read it".to_owned();
        UnreadableState { revision, reason }
    });
    accepted.revision = if previous.unread { revision.saturating_sub(1) } else { revision };
    Ok(Memory {
        accepted,
        record_format: RecordFormat::V1,
        unreadable,
        file: LocalFile { mode, followed: text.clone(), text },
        undo,
        topic: previous.topic,
        group: previous.group,
    })
}

fn previous_fields(memory: &Memory) -> PreviousFields {
    let value = |state: &GroupState| {
        let json = wire::write(state, RecordFormat::V1);
        serde_json::from_slice(&json).unwrap_or_default()
    };
    let mut agreed = memory.accepted.clone();
    agreed.revision = memory.revision();
    let mut state = agreed.clone();
    state.current = memory.desired();
    for undo in &memory.undo {
        let config = Some(undo.config.clone());
        state.history.push(super::Snapshot { config, ..memory.desired() });
    }
    PreviousFields {
        state: value(&state),
        agreed: Some(value(&agreed)),
        unread: memory.unreadable.is_some(),
        file: memory.file.text.clone(),
        group: memory.group.clone(),
        topic: memory.topic.clone(),
        reverted: memory.file.mode == FileMode::Matches,
        overtaken: memory.accepted.current.config.clone().filter(|_| memory.file.mode == FileMode::Ahead),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Action, Change, Snapshot};

    fn memory(mode: FileMode) -> Memory {
        let change = Change { id: "a".to_owned(), action: Action::Apply, ..Change::default() };
        let config = (mode != FileMode::Followed).then(|| "x = 1\n".to_owned());
        let current = Snapshot { config, ..Snapshot::default() };
        let accepted = GroupState { revision: 6, ..GroupState::default() }.followed_by(current, change, 10).unwrap();
        let file = LocalFile { mode, followed: "x = 1\n".to_owned(), text: "x = 1\n".to_owned() };
        let (topic, group) = ("control".to_owned(), "group".to_owned());
        Memory { accepted, file, topic, group, ..Memory::default() }
    }

    #[test]
    fn every_mode_reads_back_with_and_without_the_new_fields() {
        for mode in [FileMode::Followed, FileMode::Matches, FileMode::Ahead, FileMode::Detached] {
            let mut memory = memory(mode);
            memory.undo = vec![FileUndo { config: "old = 1\n".to_owned(), depth: memory.accepted.history.len() }];
            let json = write(&memory);
            assert_eq!(read(&json).unwrap(), memory);
            let mut previous: Value = serde_json::from_slice(&json).unwrap();
            previous.as_object_mut().unwrap().remove("memory");
            assert_eq!(read(previous.to_string().as_bytes()).unwrap(), memory, "{mode:?} after a downgrade");
        }
    }

    #[test]
    fn a_record_that_the_last_run_could_not_read_is_read_again() {
        let unreadable = Some(UnreadableState { revision: 9, reason: "x".to_owned() });
        let memory = Memory { unreadable, ..memory(FileMode::Followed) };
        let mut previous: Value = serde_json::from_slice(&write(&memory)).unwrap();
        previous.as_object_mut().unwrap().remove("memory");
        let read = read(previous.to_string().as_bytes()).unwrap();
        assert_eq!((read.revision(), read.accepted.revision), (9, 8));
    }
}
