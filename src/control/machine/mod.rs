//! The control machine: every decision about the configuration of one instance. Pure.
//!
//! [`Machine::step`] takes an event and returns effects. It has no clock, thread, file or topic. The
//! driver carries out the effects and reports back with events. `simulation` plays several machines
//! against random schedules; `schedules` and `crossings` have those that once went wrong.
//!
//! ```text
//!                 command, record or file change
//!                ┌──────────────────────────────┐
//!                ▼                              │
//! Announcing ─▶ Idle ─▶ Preparing ─────────────▶┤ dry run, reconciliation, no topic: done
//!  (topic is     ▲          │ command           │
//!   empty)       │          ▼ publish           │
//!                └──── AwaitingEcho ────────────┘
//!                  record read back, lost race, or outcome unknown
//! ```
//!
//! One thing happens at a time. Commands wait in a queue, in order of arrival. A reconciliation gives
//! way to a command and is done afterwards. Only a rollback does not wait: it cancels the command that
//! is being prepared.
//!
//! What happens when two people press rollback at once, on two instances: both publish a record with
//! the same next revision. The first in the topic is accepted by all instances. The instance whose
//! record came second has lost the race. With `If-Match` its caller gets `conflict`, because another
//! change is in force now. Without it, the instance publishes the same target again, so the group went
//! back one step and not two.

mod command;
#[cfg(test)]
mod crossings;
mod events;
mod file;
mod reconcile;
mod record;
#[cfg(test)]
mod schedules;
#[cfg(test)]
mod simulation;
mod state;
#[cfg(test)]
mod toy_settings;
#[cfg(test)]
mod world;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use fastrand::Rng;

pub use events::{AuditEntry, AuditResult, Effect, Event, PendingCommand, Planner, ReplyId, Ticket};
pub use state::{Beginning, MachineOptions, RejectedFile, Sync};
use state::{Draft, Goal, Phase, Published, Uncertain};

use super::{
    Action, Applied, Change, CommandRequest, ControlError, GroupState, Memory, RecordError, RecordFormat,
    RollbackTarget, Snapshot, memory::shared_text,
};

/// A record is read back within milliseconds. The client gives up publishing a little earlier.
pub(super) const ECHO_WAIT: Duration = Duration::from_secs(12);
/// Other instances answer an instance that found an empty topic within this time.
pub(super) const ANNOUNCE_WAIT: Duration = Duration::from_secs(3);
/// Wait before a preparation is tried again for which there was no thread.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// The author of a stale record has published it again by then.
const REPUBLISH_DELAY_MIN: Duration = Duration::from_millis(500);
/// Instances wait for different times, so that one of them publishes.
const REPUBLISH_SPREAD_MS: u64 = 2_000;

/// Event ids of warnings.
pub mod warnings {
    /// A file change waits, because applied settings are in force.
    pub const FILE_WAITS: &str = "file_waits";
    /// A record of another instance came first.
    pub const LOST_RACE: &str = "lost_race";
    /// The accepted state was published again.
    pub const REPUBLISHED: &str = "republished";
    /// A record could not be published.
    pub const NOT_PUBLISHED: &str = "not_published";
    /// A record cannot be read and carries no revision.
    pub const UNREADABLE_RECORD: &str = "unreadable_record";
    /// An override does not fit the settings and was removed.
    pub const OVERRIDE_REMOVED: &str = "override_removed";
    /// A record arrived after its caller got `outcome_unknown`.
    pub const LATE_RECORD: &str = "late_record";
}

pub(super) const FILE_WAITS: &str =
    "the settings file changed while other settings are in force; `ofa-stream use-file` follows it again";

/// The control machine of one instance.
pub struct Machine<P: Planner> {
    planner: P,
    options: MachineOptions,
    memory: Memory,
    /// The settings file in force, or as it would be followed, with its local sections.
    file: String,
    /// Another text of the followed file. It is prepared next.
    candidate: Option<String>,
    rejected: Option<RejectedFile>,
    serving: P::Prepared,
    phase: Phase<P>,
    sync: Sync,
    /// A reconciliation is needed; true if it must recheck the files of versions.
    reconcile: Option<bool>,
    /// Accepted changes of other instances without an audit line.
    unaudited: Vec<Change>,
    queue: VecDeque<PendingCommand>,
    uncertain: Option<Uncertain<P>>,
    /// The ids of rollbacks that cancelled a command, the latest last.
    cancelling: VecDeque<String>,
    /// A preparation could not begin; it is tried again then.
    retry_at: Option<Instant>,
    republish_at: Option<Instant>,
    tickets: Ticket,
    random: Rng,
    now: Instant,
    effects: Vec<Effect<P>>,
}

impl<P: Planner> Machine<P> {
    /// A machine, and what the driver must do first.
    pub fn new(planner: P, options: MachineOptions, beginning: Beginning<P>, now: Instant) -> (Self, Vec<Effect<P>>) {
        let Beginning { memory, file, serving, out_of_sync, republish, ask } = beginning;
        let mut machine = Self {
            random: Rng::with_seed(options.seed),
            planner,
            options,
            memory,
            file,
            candidate: None,
            rejected: None,
            serving,
            phase: Phase::Idle,
            sync: out_of_sync.map_or(Sync::InSync, Sync::OutOfSync),
            reconcile: None,
            unaudited: Vec::new(),
            queue: VecDeque::new(),
            uncertain: None,
            cancelling: VecDeque::new(),
            retry_at: None,
            republish_at: None,
            tickets: 0,
            now,
            effects: Vec::new(),
        };
        if republish {
            machine.schedule_republish();
        }
        if ask {
            machine.phase = Phase::Announcing { until: now + ANNOUNCE_WAIT };
            // Revision 0 asks: each instance that knows more publishes it again.
            let question = GroupState::default();
            machine.effects.push(Effect::Publish(Box::new(question), machine.memory.record_format));
        }
        machine.effects.push(Effect::Save);
        let effects = std::mem::take(&mut machine.effects);
        (machine, effects)
    }

    /// Takes an event; returns what the driver must do.
    pub fn step(&mut self, event: Event<P>, now: Instant) -> Vec<Effect<P>> {
        self.now = now;
        if matches!(self.phase, Phase::Stopped) {
            if let Event::Command(command) = event {
                self.reply(command.reply, Err(ControlError::Stopping));
            }
            return std::mem::take(&mut self.effects);
        }
        match event {
            Event::Command(command) => self.on_command(*command),
            Event::ClientGone(reply) => self.on_client_gone(reply),
            Event::Reload => self.need_reconcile(true),
            Event::FileChanged(text) => self.on_file_changed(text),
            Event::FileUnreadable(reason) => self.on_file_unreadable(reason),
            Event::Record(record) => self.on_record(*record),
            Event::PublishFailed { id, reason, certain } => self.on_publish_failed(&id, reason, certain),
            Event::Prepared(ticket, result) => self.on_prepared(ticket, result),
            Event::Tick => self.on_tick(),
            Event::Stop => self.on_stop(),
        }
        self.advance();
        std::mem::take(&mut self.effects)
    }

    /// Begins what waits, as long as nothing else is in progress.
    fn advance(&mut self) {
        loop {
            let command_may_begin =
                matches!(self.phase, Phase::Idle | Phase::Preparing { goal: Goal::Reconcile { .. }, .. });
            if command_may_begin && let Some(command) = self.queue.pop_front() {
                self.start_command(command);
                continue;
            }
            let is_needed = self.reconcile.is_some() || self.candidate.is_some();
            if !is_needed || self.retry_at.is_some_and(|at| self.now < at) {
                return;
            }
            // A dry run must not delay a change of the group or of the file.
            if matches!(self.phase, Phase::Preparing { goal: Goal::DryRun(_), .. }) {
                self.cancel_preparation();
            }
            if !matches!(self.phase, Phase::Idle) {
                return;
            }
            self.retry_at = None;
            self.start_reconcile();
        }
    }

    fn on_tick(&mut self) {
        match &self.phase {
            Phase::Announcing { until } if *until <= self.now => self.phase = Phase::Idle,
            Phase::AwaitingEcho(published) if published.until <= self.now => {
                self.give_up_echo("it was published, and was not read back in time".to_owned());
            }
            _ => {}
        }
        if self.republish_at.take_if(|due| *due <= self.now).is_some() {
            self.republish();
        }
    }

    fn on_stop(&mut self) {
        match std::mem::replace(&mut self.phase, Phase::Stopped) {
            Phase::Preparing { goal: Goal::Command(draft), .. } => {
                self.reply(draft.command.reply, Err(ControlError::Stopping));
            }
            Phase::Preparing { goal: Goal::DryRun(command), .. } => {
                self.reply(command.reply, Err(ControlError::Stopping));
            }
            Phase::AwaitingEcho(published) => {
                let reason = "the program stopped before the record was read back".to_owned();
                let error = ControlError::OutcomeUnknown { id: published.draft.command.request.id, reason };
                self.reply(published.draft.command.reply, Err(error));
            }
            _ => {}
        }
        for command in std::mem::take(&mut self.queue) {
            self.reply(command.reply, Err(ControlError::Stopping));
        }
    }

    /// When [`Event::Tick`] is due, if at all.
    pub fn next_tick(&self) -> Option<Instant> {
        let phase = match &self.phase {
            Phase::Announcing { until } => Some(*until),
            Phase::AwaitingEcho(published) => Some(published.until),
            _ => None,
        };
        let retry = self.retry_at.filter(|_| matches!(self.phase, Phase::Idle));
        phase.into_iter().chain(self.republish_at).chain(retry).min()
    }

    /// What survives a restart.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Whether this instance serves what the group wants.
    pub fn sync(&self) -> &Sync {
        &self.sync
    }

    /// The name of this instance.
    pub fn instance(&self) -> &str {
        &self.options.instance
    }

    /// The configuration that serves.
    pub fn serving(&self) -> &P::Prepared {
        &self.serving
    }

    /// A text of the settings file that does not work, if any.
    pub fn rejected_file(&self) -> Option<&RejectedFile> {
        self.rejected.as_ref()
    }

    /// True while another text of the settings file is being prepared.
    pub fn has_candidate(&self) -> bool {
        self.candidate.is_some()
    }

    /// What a rollback would do now.
    pub fn rollback_target(&self) -> Option<RollbackTarget> {
        self.memory.rollback_target(self.candidate.is_some())
    }

    /// Identifies what is in force here; see [`Memory::etag`].
    pub fn etag(&self) -> String {
        let candidate = self.candidate.as_deref().map(shared_text);
        self.memory.etag(candidate.as_deref())
    }

    /// The callers of commands that have not begun.
    pub fn waiting(&self) -> impl Iterator<Item = ReplyId> {
        self.queue.iter().map(|command| command.reply)
    }

    /// Overrides that say other than the settings in force, in words.
    pub fn masked(&self) -> Vec<String> {
        let desired = self.memory.desired();
        let alone = Snapshot { overrides: Default::default(), ..desired.clone() };
        let plan = self.planner.plan(&alone, &self.file);
        plan.map_or_else(|_| Vec::new(), |plan| self.planner.table(&plan).masked_by(&desired.overrides))
    }

    fn need_reconcile(&mut self, recheck: bool) {
        self.reconcile = Some(self.reconcile.unwrap_or(false) || recheck);
    }

    fn schedule_republish(&mut self) {
        // Without a change there is nothing to publish.
        if self.memory.accepted.change.is_none() || !self.options.has_topic {
            return;
        }
        let delay = REPUBLISH_DELAY_MIN + Duration::from_millis(self.random.u64(..REPUBLISH_SPREAD_MS));
        let now = self.now;
        self.republish_at.get_or_insert_with(|| now + delay);
    }

    fn reply(&mut self, reply: ReplyId, answer: Result<Applied, ControlError>) {
        self.effects.push(Effect::Reply(reply, Box::new(answer)));
    }

    fn warn(&mut self, event: &'static str, text: String) {
        self.effects.push(Effect::Warn(event, text));
    }

    fn audit(&mut self, change: Change, result: AuditResult, notes: Vec<String>) {
        let digest = self.planner.digest(&self.serving);
        let digests = [digest.clone(), digest];
        let revision = self.memory.revision();
        let entry = AuditEntry { revision, change, result, digests, notes, missing: Vec::new() };
        self.effects.push(Effect::Audit(Box::new(entry)));
    }

    /// Serves a configuration from now on, and writes an audit line for the change that led to it. Returns the notes
    /// with warnings about redefined experiments.
    fn serve(&mut self, prepared: P::Prepared, change: Change, mut notes: Vec<String>) -> Vec<String> {
        notes.extend(self.planner.redefined(&self.serving, &prepared));
        let digests = [self.planner.digest(&self.serving), self.planner.digest(&prepared)];
        let missing = self.planner.missing(&self.serving, &prepared);
        self.serving = prepared.clone();
        self.sync = self.settled();
        self.effects.push(Effect::Serve(prepared));
        self.effects.push(Effect::Save);
        let revision = self.memory.revision();
        let result = AuditResult::Switched;
        let entry = AuditEntry { revision, change, result, digests, notes: notes.clone(), missing };
        self.effects.push(Effect::Audit(Box::new(entry)));
        notes
    }

    /// The state of an instance that has nothing left to do.
    fn settled(&self) -> Sync {
        match &self.memory.unreadable {
            None => Sync::InSync,
            Some(record) => Sync::OutOfSync(record.reason.clone()),
        }
    }

    fn file_change(&self) -> Change {
        Change { action: Action::SettingsFile, instance: self.options.instance.clone(), ..Change::default() }
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
