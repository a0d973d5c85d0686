//! Joins what the last run saved with the control topic and the settings file. Pure.

use super::{
    GroupState, Memory, RecordError, RecordFormat,
    group_state::same_settings,
    memory::{UnreadableState, shared_text},
};

/// What the control topic holds, in the order of its records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopicContents {
    /// The name of the topic.
    pub topic: String,
    /// The accepted state.
    pub last: Option<(GroupState, RecordFormat)>,
    /// A newer record that cannot be read.
    pub unreadable: Option<UnreadableState>,
    /// True if the last record is stale, or carries no revision.
    pub ends_stale: bool,
}

impl TopicContents {
    /// Takes the next record.
    pub fn take(&mut self, record: Result<(GroupState, RecordFormat), RecordError>) {
        let unreadable = self.unreadable.as_ref().map(|record| record.revision);
        let known = self.last.as_ref().map(|(state, _)| state.revision).max(unreadable);
        match record {
            // A question of an instance that found the topic empty.
            Ok((state, _)) if state.revision == 0 && state.change.is_none() => {}
            Ok((mut state, format)) if known.is_none_or(|known| state.revision > known) => {
                if let Some((older, _)) = self.last.take() {
                    state.inherit_recent(older.recent);
                }
                (self.last, self.unreadable, self.ends_stale) = (Some((state, format)), None, false);
            }
            Ok((state, _)) => {
                self.ends_stale = self.last.as_ref().is_none_or(|(last, _)| !last.has_change_of(&state));
            }
            Err(RecordError { revision: Some(revision), reason }) if known.is_none_or(|known| revision > known) => {
                self.unreadable = Some(UnreadableState { revision, reason });
                self.ends_stale = false;
            }
            Err(_) => self.ends_stale = true,
        }
    }
}

/// The memory of the last run, joined with the control topic.
pub(super) struct Joined {
    /// The memory to begin with.
    pub(super) memory: Memory,
    /// True if the topic lacks the accepted state.
    pub(super) republish: bool,
    /// True if the topic is empty and this instance knows nothing.
    pub(super) ask: bool,
    /// What a person should know.
    pub(super) notices: Vec<String>,
}

/// Joins what the last run saved with the control topic and the settings file. Pure.
///
/// The higher revision wins. The state file alone knows the history of the settings file of this
/// instance. Revisions of another topic do not count here.
pub(super) fn join(saved: Option<Memory>, topic: Option<&TopicContents>, file: &str, history_max: usize) -> Joined {
    let mut memory = saved.unwrap_or_else(|| Memory::of_file(file));
    let (mut republish, mut ask, mut notices) = (false, false, Vec::new());
    if let Some(contents) = topic {
        if memory.topic != contents.topic {
            if contents.last.is_some() && memory.accepted.change.is_some() {
                let name = if memory.topic.is_empty() { "no control topic" } else { &memory.topic };
                notices.push(format!(
                    "the state file holds revision {} of {name}; the state of `{}` replaces it",
                    memory.accepted.revision, contents.topic
                ));
            }
            // They start again with 1, so that the limit of revisions can be left behind.
            memory.accepted.revision = u64::from(memory.accepted.change.is_some());
            memory.unreadable = None;
            if contents.last.is_some() {
                memory.accepted.revision = 0;
            }
        }
        memory.topic.clone_from(&contents.topic);

        if let Some((state, format)) = &contents.last {
            // One that could not be read may be readable by this version of the program.
            let may_be_readable = memory.unreadable.as_ref().is_some_and(|it| it.revision == state.revision);
            if state.revision > memory.revision() || may_be_readable {
                memory.accept(state.clone(), *format);
            }
        }
        if let Some(record) = contents.unreadable.as_ref().filter(|it| it.revision > memory.accepted.revision) {
            memory.unreadable = Some(record.clone());
        }
        let lacks = contents.last.as_ref().is_none_or(|(last, _)| !last.has_change_of(&memory.accepted));
        republish = memory.unreadable.is_none() && memory.accepted.change.is_some() && (lacks || contents.ends_stale);
        ask = contents.last.is_none() && memory.accepted.change.is_none() && memory.unreadable.is_none();
    } else {
        memory.topic.clear();
        memory.unreadable = None;
    }

    let text = shared_text(file);
    if same_settings(&memory.file.text, &text) {
        memory.file_reworded(text);
    } else {
        memory.file_changed(text, history_max);
    }
    Joined { memory, republish, ask, notices }
}

#[cfg(test)]
mod tests;
