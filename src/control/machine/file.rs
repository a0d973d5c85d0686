//! The settings file of this instance.

use super::{
    AuditResult, ControlError, Effect, FILE_WAITS, Goal, Machine, Phase, Planner, RejectedFile, Sync, shared_text,
    warnings,
};

impl<P: Planner> Machine<P> {
    /// The file has another text. A followed file is loaded; otherwise the text waits.
    pub(super) fn on_file_changed(&mut self, text: String) {
        if let Phase::Preparing { goal: Goal::Reconcile { file: Some(_), recheck }, .. } = self.phase {
            // An older text was being prepared.
            self.take_preparation();
            if self.sync != Sync::InSync {
                self.need_reconcile(recheck);
            }
        }
        self.rejected = None;
        if text == self.file {
            self.candidate = None;
        } else if self.memory.follows_file() {
            self.candidate = Some(text);
        } else {
            self.file_waits(text);
        }
    }

    fn file_waits(&mut self, text: String) {
        self.memory.file_changed(shared_text(&text), self.options.history_max);
        self.file = text;
        self.effects.push(Effect::Save);
        if !self.memory.follows_file() {
            self.warn(warnings::FILE_WAITS, FILE_WAITS.to_owned());
        }
        let uses_file = |goal: &Goal| matches!(goal, Goal::Command(draft) if draft.next.current.config.is_none());
        if matches!(&self.phase, Phase::Preparing { goal, .. } if uses_file(goal)) {
            // It is being prepared with the older text.
            let Phase::Preparing { goal: Goal::Command(draft), .. } = self.take_preparation() else { return };
            self.queue.push_front(draft.command);
        }
    }

    /// The file cannot be read. What served goes on.
    pub(super) fn on_file_unreadable(&mut self, reason: String) {
        let error = ControlError::Unreadable { place: "the settings file".to_owned(), reason };
        let change = self.file_change();
        self.audit(change, AuditResult::Refused(error.code()), vec![error.to_string()]);
        let text = self.file.clone();
        self.rejected = Some(RejectedFile { text, reason: error.to_string(), may_fit: false });
    }
}
