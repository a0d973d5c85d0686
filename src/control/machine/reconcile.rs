//! Reconciliation: preparing and serving what the group wants and the settings file says.

use super::{
    AuditResult, ControlError, Effect, Goal, Machine, Planner, RETRY_PAUSE, RejectedFile, Snapshot, Sync, shared_text,
};

impl<P: Planner> Machine<P> {
    /// Prepares what this instance should serve, with a new text of the followed file if there is one.
    pub(super) fn start_reconcile(&mut self) {
        let recheck = self.reconcile.take().unwrap_or(false);
        let file = self.candidate.clone();
        let mut desired = self.memory.desired();
        if file.is_some() {
            desired = Snapshot { config: None, ..desired };
        }
        let plan = self.planner.plan(&desired, file.as_ref().unwrap_or(&self.file));
        match plan {
            Ok(plan) => {
                let recheck = recheck || file.is_some();
                self.prepare(Goal::Reconcile { file, recheck }, plan, recheck);
            }
            Err(error) => self.reconcile_failed(file, &error),
        }
    }

    pub(super) fn reconciled(&mut self, file: Option<String>, prepared: P::Prepared) {
        let is_same = self.planner.is_same(&prepared, &self.serving);
        let is_file_change = file.is_some();
        if let Some(text) = file {
            let shared = shared_text(&text);
            if is_same {
                self.memory.file_reworded(shared);
            } else {
                self.memory.file_changed(shared, self.options.history_max);
            }
            self.file = text;
            (self.candidate, self.rejected) = (None, None);
        }
        let accepted = self.unaudited.pop();
        self.audit_overtaken();
        if is_same {
            self.sync = self.settled();
            if let Some(change) = accepted {
                self.audit(change, AuditResult::Unchanged, Vec::new());
            }
            return self.effects.push(Effect::Save);
        }
        let file_change = is_file_change.then(|| self.file_change());
        let own = self.memory.accepted.change.clone().filter(|_| !is_file_change);
        let change = accepted.or(file_change).or(own).unwrap_or_else(|| self.file_change());
        let notes = self.masked();
        self.serve(prepared, change, notes);
    }

    /// Nothing changes here. What served goes on.
    pub(super) fn reconcile_failed(&mut self, file: Option<String>, error: &ControlError) {
        if matches!(error, ControlError::Busy) {
            // Cancelled loads still end. A text of the file stays the candidate.
            self.retry_at = Some(self.now + RETRY_PAUSE);
            return self.need_reconcile(false);
        }
        if let Some(text) = file {
            let change = self.file_change();
            self.audit(change, AuditResult::Refused(error.code()), vec![error.to_string()]);
            if self.candidate.take_if(|candidate| *candidate == text).is_some() {
                self.rejected = Some(RejectedFile { text, reason: error.to_string(), may_fit: true });
            }
            if self.sync != Sync::InSync {
                self.need_reconcile(false);
            }
            return;
        }
        let accepted = self.unaudited.pop();
        self.audit_overtaken();
        let result = AuditResult::OutOfSync(error.code());
        let change = accepted.or_else(|| self.memory.accepted.change.clone()).unwrap_or_else(|| self.file_change());
        self.audit(change, result, vec![error.to_string()]);
        // A recheck that fails leaves an instance that was in sync as it is.
        if self.sync != Sync::InSync {
            self.sync = Sync::OutOfSync(error.to_string());
        }
        self.effects.push(Effect::Save);
    }

    /// Writes audit lines for accepted changes that a later one overtook.
    pub(super) fn audit_overtaken(&mut self) {
        for change in std::mem::take(&mut self.unaudited) {
            self.audit(change, AuditResult::Overtaken, Vec::new());
        }
    }
}
