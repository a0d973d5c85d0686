//! Records of the control topic: which of them the group accepts, and what that means for the work in
//! progress.
//!
//! A record carries a revision: one more than the state that it was built on. Of several records with
//! one revision the first in the topic is accepted. All instances read the same order, so all accept
//! the same one. The author of another one has lost the race and builds its change again.
//!
//! Two things can go wrong, and both end by themselves. A stale record may be the last one that
//! compaction leaves: an instance that starts then would begin with it. And somebody may empty the
//! topic: a new instance then counts from the beginning. The other instances see both as stale records,
//! and publish the accepted state again after a random delay.

use super::{
    Action, AuditResult, Change, ControlError, Effect, Goal, GroupState, Machine, Phase, Planner, Published,
    RecordError, RecordFormat, Sync, Uncertain, warnings,
};
use crate::{
    control::{Command, memory::UnreadableState},
    routing::Overrides,
};

/// What a record is to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// It is the new state of the group.
    Accepted {
        /// It was written here, and is awaited.
        own: bool,
    },
    /// It was written here, and another record came first.
    LostRace,
    /// It repeats what is known.
    Duplicate,
    /// Another record came first.
    Stale,
}

impl<P: Planner> Machine<P> {
    pub(super) fn on_record(&mut self, record: Result<(GroupState, RecordFormat), RecordError>) {
        if let Phase::Announcing { .. } = self.phase
            && record.as_ref().is_ok_and(|(state, _)| state.revision > self.memory.revision())
        {
            // Another instance answered.
            self.phase = Phase::Idle;
        }
        let (state, format) = match record {
            Ok(record) => record,
            Err(error) => return self.on_unreadable_record(error),
        };
        match self.classify(&state) {
            Class::Accepted { own } => {
                self.republish_at = None;
                if own {
                    let phase = std::mem::replace(&mut self.phase, Phase::Idle);
                    let Phase::AwaitingEcho(published) = phase else { return };
                    let mut published = *published;
                    let own = published.draft.next.change.take();
                    // What other instances read is in force. Format 1 drops some fields of a change.
                    (published.draft.next, published.draft.format) = (state, format);
                    if let (Some(own), Some(change)) = (own, &mut published.draft.next.change) {
                        change.forced |= own.forced;
                        change.restores_file |= own.restores_file;
                        change.claimed = own.claimed;
                    }
                    self.commit(published);
                } else {
                    self.accept_record(state, format);
                }
            }
            Class::LostRace => self.on_lost_race(),
            Class::Duplicate => {}
            Class::Stale => self.schedule_republish(),
        }
    }

    pub(super) fn classify(&self, state: &GroupState) -> Class {
        let awaited = match &self.phase {
            Phase::AwaitingEcho(published) => Some(&published.draft.next),
            _ => None,
        };
        let own = awaited.is_some_and(|next| {
            !next.change_id().is_empty() && next.change_id() == state.change_id() && next.revision == state.revision
        });
        let accepted = &self.memory.accepted;
        if state.revision > self.memory.revision() {
            Class::Accepted { own }
        } else if own {
            Class::LostRace
        } else if state.has_change_of(accepted) {
            Class::Duplicate
        } else {
            Class::Stale
        }
    }

    /// Takes a state that another instance published, or this one earlier.
    fn accept_record(&mut self, state: GroupState, format: RecordFormat) {
        let is_news = state.change_id() != self.memory.accepted.change_id();
        let goes_back = is_news && state.change.as_ref().is_some_and(|change| change.action == Action::Rollback);
        let other_settings = state.current.config != self.memory.accepted.current.config;
        let before = self.memory.desired();
        let was_readable = self.memory.unreadable.is_none();
        let overrides_before = self.memory.accepted.current.overrides.clone();
        if is_news {
            self.unaudited.extend(state.change.clone());
        }
        self.memory.accept(state, format);
        self.after_accept(&overrides_before);

        let is_served = !is_news && was_readable && self.memory.desired() == before && self.sync == Sync::InSync;
        if is_served {
            self.effects.push(Effect::Save);
        } else {
            self.sync = Sync::Applying;
            // It is saved when this instance serves it: until then the topic has it.
            self.need_reconcile(other_settings);
        }
        self.rebase(goes_back);
        self.serve_uncertain();
        self.forget_uncertain();
    }

    /// Releases what was prepared for a record that can no longer be accepted.
    pub(super) fn forget_uncertain(&mut self) {
        let revision = self.memory.accepted.revision;
        if self.uncertain.take_if(|it| it.revision <= revision).is_some() {
            self.effects.push(Effect::ReleaseUnused);
        }
    }

    /// A record arrived whose caller got `outcome_unknown`: what was prepared for it serves at once.
    fn serve_uncertain(&mut self) {
        let id = self.memory.accepted.change_id();
        let Some(Uncertain { desired, file, prepared, .. }) = self.uncertain.take_if(|it| it.id == id) else { return };
        let change = self.memory.accepted.change.clone().unwrap_or_default();
        self.warn(warnings::LATE_RECORD, format!("`{}` is in force after all", change.action.in_words()));
        let fits = desired == self.memory.desired() && file == self.file && matches!(self.phase, Phase::Idle);
        if fits && self.reconcile.is_some() {
            self.reconcile = self.reconcile.filter(|recheck| *recheck);
            self.unaudited.pop();
            self.audit_overtaken();
            self.serve(prepared, change, Vec::new());
        }
    }

    fn on_unreadable_record(&mut self, error: RecordError) {
        let is_newer = error.revision.is_some_and(|revision| revision > self.memory.revision());
        let Some(revision) = error.revision.filter(|_| is_newer) else {
            // Another record came first, or it has no revision: the accepted state stays.
            self.warn(warnings::UNREADABLE_RECORD, error.reason);
            return self.schedule_republish();
        };
        let change = Change { action: Action::default(), ..Change::default() };
        self.audit(change, AuditResult::OutOfSync("unreadable"), vec![error.reason.clone()]);
        self.sync = Sync::OutOfSync(error.reason.clone());
        // The next change must come after it.
        self.memory.unreadable = Some(UnreadableState { revision, reason: error.reason });
        self.republish_at = None;
        self.effects.push(Effect::Save);
        self.rebase(false);
    }

    /// Builds the command in progress on the state that has changed.
    fn rebase(&mut self, goes_back: bool) {
        match &mut self.phase {
            Phase::Preparing { goal: Goal::Command(draft), .. } => {
                let request = &draft.command.request;
                let keeps_target = request.command == Command::Rollback && request.if_match.is_none();
                if keeps_target && !goes_back && self.memory.unreadable.is_none() {
                    // The caller meant what served before, not what came since.
                    draft.next.revision = self.memory.revision() + 1;
                    // A rollback restores a configuration, not an older record format.
                    draft.format = draft.format.max(self.memory.record_format);
                    let undone = in_words(self.memory.accepted.change.as_ref());
                    draft.warnings.push(format!("this also undoes {undone}, which came at the same moment"));
                    return;
                }
                let Phase::Preparing { goal: Goal::Command(draft), .. } = self.take_preparation() else { return };
                if goes_back && request_is_not_repeated(&self.memory.accepted, &draft.command.request.id) {
                    self.refuse(&draft.command, ControlError::Superseded);
                    self.supersede_queue();
                } else {
                    self.queue.push_front(draft.command);
                }
            }
            Phase::Preparing { goal: Goal::Reconcile { .. }, .. } => self.cancel_preparation(),
            _ => {}
        }
    }

    /// The record of another instance came first. The change is built again upon it, so both are made.
    /// A rollback keeps its target: its caller meant what served before.
    fn on_lost_race(&mut self) {
        let Phase::AwaitingEcho(published) = std::mem::replace(&mut self.phase, Phase::Idle) else { return };
        let Published { mut draft, prepared, .. } = *published;
        let other = in_words(self.memory.accepted.change.as_ref());
        // Until the next record is accepted, the stale one is the last of the topic.
        self.schedule_republish();
        let request = &draft.command.request;
        if request.if_match.is_some() {
            // This command ends with `conflict`, so no later record of it repairs the topic.
            self.republish_at = self.republish_at.map(|_| self.now);
        }
        let keeps_target = request.command == Command::Rollback && request.if_match.is_none();
        if !keeps_target || self.memory.unreadable.is_some() {
            self.warn(warnings::LOST_RACE, format!("{other} came first; both changes are made"));
            return self.queue.push_front(draft.command);
        }
        let note = format!("this also undoes {other}, which came at the same moment");
        self.warn(warnings::LOST_RACE, note.clone());
        draft.warnings.push(note);
        draft.next.revision = self.memory.revision() + 1;
        draft.format = draft.format.max(self.memory.record_format);
        self.publish(draft, prepared);
    }

    /// Publishes the accepted state again.
    pub(super) fn republish(&mut self) {
        // An unreadable newer record must not be overwritten by what came before it.
        if self.memory.unreadable.is_some() {
            return;
        }
        match self.memory.accepted.republished() {
            Ok(state) => {
                self.warn(warnings::REPUBLISHED, "the control topic ended with a stale record".to_owned());
                self.effects.push(Effect::Publish(Box::new(state), self.memory.record_format));
            }
            Err(error) => self.warn(warnings::NOT_PUBLISHED, error.to_string()),
        }
    }

    /// Looks after the settings file once another state is accepted. True if a text of it waits now.
    pub(super) fn after_accept(&mut self, overrides_before: &Overrides) -> bool {
        if self.memory.follows_file() {
            let may_work = self.memory.accepted.current.overrides != *overrides_before;
            if let Some(file) = self.rejected.take_if(|file| may_work && file.may_fit) {
                self.candidate.get_or_insert(file.text);
            }
            return false;
        }
        let rejected = self.rejected.take().map(|file| file.text);
        let waiting = self.candidate.take().or(rejected).filter(|text| *text != self.file);
        let Some(text) = waiting else { return false };
        self.memory.file_changed(super::shared_text(&text), self.options.history_max);
        self.file = text;
        !self.memory.follows_file()
    }
}

/// True unless the accepted rollback is this very command, sent to two instances.
fn request_is_not_repeated(accepted: &GroupState, id: &str) -> bool {
    accepted.change_id() != id
}

fn in_words(change: Option<&Change>) -> String {
    match change {
        None => "another change".to_owned(),
        Some(change) => {
            let by = if change.by.is_empty() { "an unnamed caller" } else { &change.by };
            format!("`{}` of {by}", change.action.in_words())
        }
    }
}
