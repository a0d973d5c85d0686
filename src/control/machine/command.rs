//! Commands: arrival, checks, preparation, publication, answer.

use super::{
    Action, Applied, AuditResult, Change, CommandRequest, ControlError, Draft, ECHO_WAIT, Effect, FILE_WAITS, Goal,
    GroupState, Machine, PendingCommand, Phase, Planner, Published, RecordFormat, ReplyId, Snapshot, Ticket, Uncertain,
    milliseconds, shared_text, warnings,
};
use crate::{
    control::{
        Command, Outcome,
        group_state::{check_names, check_step},
    },
    routing::Overrides,
};

/// Rollbacks that cancelled a command, and whose retries are recognised.
const CANCELLING_MAX: usize = 64;

impl<P: Planner> Machine<P> {
    pub(super) fn on_command(&mut self, command: PendingCommand) {
        let request = &command.request;
        if request.dry_run {
            return self.on_dry_run(command);
        }
        if self.is_repeated(request) {
            // A retried rollback must not cancel what was begun since.
            return self.answer_repeated(&command);
        }
        if request.command == Command::Rollback {
            // A retry of the one in progress waits for its outcome.
            let id = request.id.clone();
            let is_rollback = |draft: &Draft| {
                let request = &draft.command.request;
                request.command == Command::Rollback && request.id != id
            };
            let in_progress = match &self.phase {
                Phase::Preparing { goal: Goal::Command(draft), .. } => is_rollback(draft),
                Phase::AwaitingEcho(published) => is_rollback(&published.draft),
                _ => false,
            };
            let waits = self.queue.iter().any(|it| it.request.command == Command::Rollback);
            if in_progress || waits {
                // A second press must not go back twice.
                return self.reply(command.reply, Err(ControlError::Busy));
            }
            let cancels = |draft: &Draft| draft.command.request.id != id;
            if matches!(&self.phase, Phase::Preparing { goal: Goal::Command(draft), .. } if cancels(draft)) {
                return self.cancel_pending(&command);
            }
        }
        if self.queue.len() >= self.options.queue_max {
            return self.reply(command.reply, Err(ControlError::Busy));
        }
        // A dry run must not delay a change.
        if let Phase::Preparing { goal: Goal::DryRun(_), .. } = self.phase {
            self.cancel_preparation();
        }
        self.queue.push_back(command);
    }

    fn on_dry_run(&mut self, command: PendingCommand) {
        if !matches!(self.phase, Phase::Idle) {
            return self.reply(command.reply, Err(ControlError::Busy));
        }
        let (draft, plan) = match self.draft(&command) {
            Ok(built) => built,
            Err(error) => return self.reply(command.reply, Err(error)),
        };
        let recheck = draft.command.request.command.is_about_settings();
        self.prepare(Goal::DryRun(Box::new(command)), plan, recheck);
    }

    pub(super) fn on_client_gone(&mut self, reply: ReplyId) {
        let Some(place) = self.queue.iter().position(|command| command.reply == reply) else { return };
        if let Some(command) = self.queue.remove(place) {
            let change = self.change(&command.request);
            self.audit(change, AuditResult::Abandoned, vec!["its caller left before it was begun".to_owned()]);
        }
    }

    /// A rollback while another command is being prepared: that command is cancelled, and nothing else
    /// is undone.
    fn cancel_pending(&mut self, rollback: &PendingCommand) {
        let expected = rollback.request.if_match.as_ref();
        if expected.is_some_and(|expected| *expected != self.etag()) {
            return self.refuse(rollback, self.conflict());
        }
        let Phase::Preparing { goal: Goal::Command(draft), .. } = self.take_preparation() else { return };
        let cancelled = draft.command.request.command.action().in_words();
        self.refuse(&draft.command, ControlError::Superseded);
        self.supersede_queue();

        let note = format!("`{cancelled}` was not in force yet and is cancelled; nothing else is undone");
        let change = self.change(&rollback.request);
        self.audit(change, AuditResult::Unchanged, vec![note.clone()]);
        if self.cancelling.len() >= CANCELLING_MAX {
            self.cancelling.pop_front();
        }
        self.cancelling.push_back(rollback.request.id.clone());
        let mut applied = self.applied(rollback, Outcome::Cancelled);
        applied.undone = Some(format!("`{cancelled}`"));
        applied.warnings.push(note);
        self.reply(rollback.reply, Ok(applied));
    }

    /// True for a retry: the first attempt is in force, or was.
    fn is_repeated(&self, request: &CommandRequest) -> bool {
        self.memory.accepted.recent.contains(&request.id) || self.cancelling.contains(&request.id)
    }

    fn answer_repeated(&mut self, command: &PendingCommand) {
        let has_cancelled = self.cancelling.contains(&command.request.id);
        let outcome = if has_cancelled { Outcome::Cancelled } else { Outcome::Repeated };
        let applied = self.applied(command, outcome);
        self.reply(command.reply, Ok(applied));
    }

    /// Begins a command. Everything else that is being prepared gives way.
    pub(super) fn start_command(&mut self, command: PendingCommand) {
        if self.is_repeated(&command.request) {
            return self.answer_repeated(&command);
        }
        let expected = command.request.if_match.as_ref();
        if expected.is_some_and(|expected| *expected != self.etag()) {
            return self.refuse(&command, self.conflict());
        }
        match self.draft(&command) {
            Ok((draft, plan)) => {
                // Other settings may mean other files of versions. A rollback or a pause means what runs.
                let recheck = draft.command.request.command.is_about_settings();
                self.cancel_preparation();
                self.prepare(Goal::Command(Box::new(draft)), plan, recheck);
            }
            Err(error) => self.refuse(&command, error),
        }
    }

    /// Computes the state that a command leads to, and checks its settings.
    fn draft(&self, command: &PendingCommand) -> Result<(Draft, P::Plan), ControlError> {
        let request = &command.request;
        let about_settings = request.command.is_about_settings();
        if let Some(record) = &self.memory.unreadable
            && !about_settings
            && !request.force
        {
            return Err(ControlError::UnknownState(record.reason.clone()));
        }
        let mut warnings = match &request.command {
            Command::Apply { text } => self.planner.check_applied(text)?,
            _ => Vec::new(),
        };
        let (mut next, undoes) = self.next_state(request)?;
        let format = match request.command {
            Command::UpgradeFormat => RecordFormat::V2,
            _ => self.memory.record_format,
        };

        let mut memory = self.memory.clone();
        memory.accept(next.clone(), format);
        if !about_settings {
            // A deploy may have removed a name. That must not block a command in an emergency.
            let desired = memory.desired();
            let alone = Snapshot { overrides: Overrides::default(), ..desired };
            let plan = self.planner.plan(&alone, &self.file)?;
            let (fitting, removed) = next.current.overrides.fitting(&self.planner.table(&plan));
            next.current.overrides = fitting;
            memory.accepted.current.overrides.clone_from(&next.current.overrides);
            warnings
                .extend(removed.into_iter().map(|it| format!("removed because it does not fit the settings: {it}")));
        }
        let plan = self.planner.plan(&memory.desired(), &self.file)?;
        let (command, file) = (command.clone(), self.file.clone());
        Ok((Draft { command, next, format, file, undoes, warnings }, plan))
    }

    fn next_state(&self, request: &CommandRequest) -> Result<(GroupState, Option<String>), ControlError> {
        let mut change = self.change(request);
        let history_max = self.options.history_max;
        let mut base = self.memory.accepted.clone();
        base.revision = self.memory.revision();
        if request.command == Command::Rollback {
            let target = self.rollback_target().ok_or(ControlError::NoHistory)?;
            change.restores_file = target.restores_file;
            let next = base.replaced_by(target.snapshot, target.history, change, history_max)?;
            return Ok((next, Some(target.undoes)));
        }
        if !request.command.is_about_settings() {
            // Names must exist in the settings that this instance should serve, without overrides.
            let alone = Snapshot { overrides: Overrides::default(), ..self.memory.desired() };
            let plan = self.planner.plan(&alone, &self.file)?;
            let table = self.planner.table(&plan);
            check_names(&request.command, &table)?;
            check_step(&request.command, &table, &base.current.overrides)?;
        }
        let snapshot = base.snapshot_after(&request.command)?;
        Ok((base.followed_by(snapshot, change, history_max)?, None))
    }

    /// Starts to prepare a goal.
    pub(super) fn prepare(&mut self, goal: Goal, plan: P::Plan, recheck: bool) {
        self.tickets += 1;
        let ticket = self.tickets;
        self.phase = Phase::Preparing { ticket, goal };
        self.effects.push(Effect::Prepare { ticket, plan: Box::new(plan), recheck });
    }

    /// Cancels what is being prepared. A reconciliation is done later; a dry run is answered.
    pub(super) fn cancel_preparation(&mut self) {
        if !matches!(self.phase, Phase::Preparing { .. }) {
            return;
        }
        match self.take_preparation() {
            Phase::Preparing { goal: Goal::Command(draft), .. } => {
                self.refuse(&draft.command, ControlError::Superseded);
            }
            Phase::Preparing { goal: Goal::DryRun(command), .. } => {
                self.reply(command.reply, Err(ControlError::Superseded));
            }
            Phase::Preparing { goal: Goal::Reconcile { recheck, .. }, .. } => self.need_reconcile(recheck),
            _ => {}
        }
    }

    /// Ends a preparation without a result; the caller looks after its goal.
    pub(super) fn take_preparation(&mut self) -> Phase<P> {
        let phase = std::mem::replace(&mut self.phase, Phase::Idle);
        if let Phase::Preparing { ticket, .. } = &phase {
            self.effects.push(Effect::CancelPrepare(*ticket));
        }
        phase
    }

    pub(super) fn on_prepared(&mut self, ticket: Ticket, result: Result<P::Prepared, ControlError>) {
        let is_awaited = matches!(&self.phase, Phase::Preparing { ticket: awaited, .. } if *awaited == ticket);
        if !is_awaited {
            // It was cancelled.
            drop(result);
            return self.effects.push(Effect::ReleaseUnused);
        }
        let Phase::Preparing { goal, .. } = std::mem::replace(&mut self.phase, Phase::Idle) else { return };
        match (goal, result) {
            (Goal::Command(draft), Ok(prepared)) => self.publish(*draft, prepared),
            (Goal::Command(draft), Err(error)) => self.refuse(&draft.command, error),
            (Goal::DryRun(command), Ok(prepared)) => {
                let mut applied = self.applied(&command, Outcome::Tried);
                applied.config_digest = self.planner.digest(&prepared);
                applied.changed = !self.planner.is_same(&prepared, &self.serving);
                self.reply(command.reply, Ok(applied));
            }
            (Goal::DryRun(command), Err(error)) => self.reply(command.reply, Err(error)),
            (Goal::Reconcile { file, .. }, Ok(prepared)) => self.reconciled(file, prepared),
            (Goal::Reconcile { file, .. }, Err(error)) => self.reconcile_failed(file, &error),
        }
        self.effects.push(Effect::ReleaseUnused);
    }

    /// Publishes a prepared change. Without a topic it is in force at once.
    pub(super) fn publish(&mut self, draft: Draft, prepared: P::Prepared) {
        if !self.options.has_topic {
            return self.commit(Published { draft, prepared, until: self.now });
        }
        self.effects.push(Effect::Publish(Box::new(draft.next.clone()), draft.format));
        let until = self.now + ECHO_WAIT;
        self.phase = Phase::AwaitingEcho(Box::new(Published { draft, prepared, until }));
    }

    /// The change is accepted: it is in force from now on, and its caller is answered.
    pub(super) fn commit(&mut self, published: Published<P>) {
        let Published { draft: Draft { command, next, format, file, undoes, warnings }, prepared, .. } = published;
        let change = next.change.clone().unwrap_or_default();
        let overrides_before = self.memory.accepted.current.overrides.clone();
        let changed = !self.planner.is_same(&prepared, &self.serving);
        let previous_digest = self.planner.digest(&self.serving);

        self.memory.accept(next, format);
        self.forget_uncertain();
        self.audit_overtaken();
        let mut notes = warnings;
        if command.request.command.is_about_settings() {
            notes.extend(self.masked());
        }
        if self.after_accept(&overrides_before) {
            notes.push(FILE_WAITS.to_owned());
        }
        // A pending recheck is still needed: this configuration was prepared without one.
        self.reconcile = self.reconcile.filter(|recheck| *recheck);
        if file != self.file && self.memory.desired().config.is_none() {
            // The file changed while the record was on its way. Its new text must prove that it works.
            let newer = std::mem::replace(&mut self.file, file);
            self.memory.file_reworded(shared_text(&self.file));
            self.candidate = Some(newer);
        }
        let notes = self.serve(prepared, change, notes);

        let mut applied = self.applied(&command, if changed { Outcome::Switched } else { Outcome::Unchanged });
        (applied.previous_digest, applied.changed) = (previous_digest, changed);
        (applied.undone, applied.warnings) = (undoes, notes);
        self.reply(command.reply, Ok(applied));
    }

    pub(super) fn on_publish_failed(&mut self, id: &str, reason: String, certain: bool) {
        let is_awaited = matches!(&self.phase, Phase::AwaitingEcho(it) if it.draft.command.request.id == id);
        if is_awaited && certain {
            let Phase::AwaitingEcho(published) = std::mem::replace(&mut self.phase, Phase::Idle) else { return };
            self.refuse(&published.draft.command, ControlError::NotPublished(reason));
            self.effects.push(Effect::ReleaseUnused);
        } else if is_awaited {
            self.give_up_echo(reason);
        } else if self.memory.accepted.change_id() == id {
            self.warn(warnings::NOT_PUBLISHED, reason);
            self.schedule_republish();
        }
    }

    /// Stops waiting for a record. It may still arrive, so its caller does not get a refusal.
    pub(super) fn give_up_echo(&mut self, reason: String) {
        let Phase::AwaitingEcho(published) = std::mem::replace(&mut self.phase, Phase::Idle) else { return };
        let Published { draft, prepared, .. } = *published;
        let id = draft.command.request.id.clone();
        let change = self.change(&draft.command.request);
        self.audit(change, AuditResult::Unknown, vec![reason.clone()]);
        let mut memory = self.memory.clone();
        memory.accept(draft.next, draft.format);
        let (revision, desired) = (memory.accepted.revision, memory.desired());
        self.uncertain = Some(Uncertain { id: id.clone(), revision, desired, file: draft.file, prepared });
        self.reply(draft.command.reply, Err(ControlError::OutcomeUnknown { id, reason }));
    }

    /// Refuses the commands that wait, because a rollback goes first.
    pub(super) fn supersede_queue(&mut self) {
        for command in std::mem::take(&mut self.queue) {
            self.refuse(&command, ControlError::Superseded);
        }
    }

    pub(super) fn refuse(&mut self, command: &PendingCommand, error: ControlError) {
        if !command.request.dry_run {
            let change = self.change(&command.request);
            self.audit(change, AuditResult::Refused(error.code()), vec![error.to_string()]);
        }
        self.reply(command.reply, Err(error));
    }

    pub(super) fn conflict(&self) -> ControlError {
        let change = self.memory.accepted.change.as_ref();
        let last = change.map_or_else(|| "none".to_owned(), |change| change.action.in_words());
        ControlError::Conflict { revision: self.memory.revision(), etag: self.etag(), last }
    }

    pub(super) fn change(&self, request: &CommandRequest) -> Change {
        let action = request.command.action();
        debug_assert!(action != Action::SettingsFile);
        Change {
            id: request.id.clone(),
            action,
            at: request.at.clone(),
            by: request.info.by.clone(),
            claimed: request.info.claimed.clone(),
            why: request.info.why.clone(),
            instance: self.options.instance.clone(),
            forced: request.force && self.memory.unreadable.is_some(),
            ..Change::default()
        }
    }

    /// The answer to a command: what is in force now.
    fn applied(&self, command: &PendingCommand, outcome: Outcome) -> Applied {
        let digest = self.planner.digest(&self.serving);
        Applied {
            id: command.request.id.clone(),
            revision: self.memory.revision(),
            etag: self.etag(),
            config_digest: digest.clone(),
            previous_digest: digest,
            changed: false,
            outcome,
            undone: None,
            took_ms: milliseconds(self.now.saturating_duration_since(command.received)),
            dry_run: command.request.dry_run,
            warnings: Vec::new(),
            instances: Vec::new(),
        }
    }
}
