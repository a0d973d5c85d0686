//! The controller's thread: takes commands, records and changes of the file one after the other.
//!
//! Two things are true whether this instance can serve by them or not: what the group has, `state`, and what the settings
//! file says, `candidate` until it has proved to work. The thread catches up with both whenever nothing else is being made
//! ready. A command is neither until it has been made ready and published.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use jiff::Timestamp;

use super::{
    Applied, Change, Command, ControlError, Order, Report, Snapshot, State,
    controller::{Message, Reply},
    journal::Journal,
    recall::plan_by,
    watch::FileWatch,
    writes::Writes,
};
use crate::{
    engine::{Reuse, Version, panic_message},
    kafka::ControlWriter,
    pipeline::{Serving, SwitchError, Switcher},
    routing::Overrides,
    settings::{ControlPlan, Plan},
    telemetry,
};

/// The look at the file where none is wanted.
const IDLE: Duration = Duration::from_secs(3600);

pub(super) struct Worker {
    pub(super) path: PathBuf,
    pub(super) watch: FileWatch,
    pub(super) journal: Journal,
    pub(super) writer: Option<ControlWriter>,
    pub(super) plan: ControlPlan,
    pub(super) instance: String,
    pub(super) adapt: fn(Plan) -> Plan,
    pub(super) switcher: Switcher,
    pub(super) myself: Sender<Message>,

    /// What the group has.
    pub(super) state: State,
    /// Of the last record that was read or written.
    pub(super) offset: i64,
    /// Why the last record could not be read, if so: then `state` is not what the group has.
    pub(super) unreadable: Option<String>,
    /// The text of the settings file that the program was started with: what cannot change while it runs is there.
    pub(super) own_file: String,
    /// The text of the settings file that is in force here, or would be.
    pub(super) file: String,
    /// Whether the file has become what was applied, so that it is followed again.
    pub(super) reverted: bool,
    /// Another text of it, that has not proved to work yet.
    pub(super) candidate: Option<String>,
    /// Another text of it, that did not prove to work.
    pub(super) refused_file: Option<RefusedFile>,
    /// Why this instance does not serve by `state`, if so.
    pub(super) behind: Option<String>,
    /// Whether it is to catch up with `state`.
    pub(super) wanted: bool,
    /// Whether that is about settings, so that the folders of versions are looked at again.
    pub(super) fresh: bool,

    /// Of the last record that was read; `offset` may be ahead of it.
    pub(super) read: i64,
    pub(super) writes: Writes,
    pub(super) pending: Option<Pending>,
    pub(super) tickets: u64,
}

/// A configuration that is being made ready.
pub(super) struct Pending {
    pub(super) ticket: u64,
    pub(super) goal: Goal,
}

pub(super) enum Goal {
    /// What the group has, and what the file says: the state that comes of both.
    CatchUp { state: State, file: Option<String> },
    /// What an operator asked for.
    Order { asked: Asked, state: State },
}

impl Goal {
    pub(super) fn state_mut(&mut self) -> &mut State {
        match self {
            Self::CatchUp { state, .. } | Self::Order { state, .. } => state,
        }
    }
}

/// An operator's command, and who waits for it.
pub(super) struct Asked {
    pub(super) order: Order,
    pub(super) at: Instant,
    pub(super) reply: Reply<Result<Applied, ControlError>>,
}

/// A text of the settings file that is not followed.
pub(super) struct RefusedFile {
    pub(super) text: String,
    pub(super) reason: String,
    /// Whether it may work once operators' changes are others.
    pub(super) may_fit: bool,
}

impl Worker {
    pub(super) fn run(&mut self, inbox: &Receiver<Message>) {
        let interval = self.plan.watch.unwrap_or(IDLE);
        let mut look = Instant::now() + interval;
        loop {
            self.catch_up();
            match inbox.recv_timeout(look.saturating_duration_since(Instant::now())) {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    if let Some(Pending { goal: Goal::Order { asked, .. }, .. }) = self.pending.take() {
                        asked.reply.send(Err(ControlError::Stopping)).ok();
                    }
                    return;
                }
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if Instant::now() >= look {
                look = Instant::now() + interval;
                if let Some(text) = self.plan.watch.and_then(|_| self.watch.look()) {
                    self.file_changed(text);
                }
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Order(asked) => self.obey(asked),
            // Whoever asked may have gone.
            Message::Report(reply) => drop(reply.send(self.report())),
            Message::Reread => match self.watch.read() {
                Ok(text) => {
                    (self.wanted, self.fresh) = (true, true);
                    self.file_changed(text);
                }
                Err(error) => tracing::error!(%error, "The settings file cannot be read, and nothing changed."),
            },
            Message::Record(record, offset) => {
                // Offsets that begin anew are those of a topic that was made anew.
                let anew = offset <= std::mem::replace(&mut self.read, offset);
                if anew {
                    self.writes = Writes::default();
                }
                match anew || offset > self.offset {
                    true => self.follow(record, offset),
                    false => self.came_back(record, offset),
                }
            }
            Message::Prepared(ticket, prepared) => {
                match self.pending.take_if(|pending| pending.ticket == ticket) {
                    Some(pending) => self.finish(pending.goal, *prepared),
                    // It was given up meanwhile.
                    None => drop(prepared),
                }
                self.switcher.release();
            }
            // Comes to nobody else.
            Message::Stop => {}
        }
    }

    pub(super) fn plan_of(&self, state: &State, file: &str) -> Result<Plan, ControlError> {
        let Snapshot { config, overrides } = &state.current;
        let plan = plan_by(config.as_ref(), overrides, &self.path, file, &self.own_file);
        Ok((self.adapt)(plan?))
    }

    /// Has a configuration made ready on a thread of its own: a rollback does not wait for a large model. Whatever was
    /// under way is superseded.
    pub(super) fn begin(&mut self, goal: Goal, plan: Plan, reuse: Reuse) {
        self.tickets += 1;
        let (switcher, myself, ticket) = (self.switcher.clone(), self.myself.clone(), self.tickets);
        let prepare = move || {
            // Whoever waits for it must hear of it, whatever happens.
            let prepared = catch_unwind(AssertUnwindSafe(|| switcher.prepare(plan, reuse)))
                .unwrap_or_else(|panic| Err(SwitchError::Defect(panic_message(panic.as_ref()))));
            // The controller may have ended.
            myself.send(Message::Prepared(ticket, Box::new(prepared))).ok();
        };
        if thread::Builder::new().name("control-prepare".to_owned()).spawn(prepare).is_err() {
            return self.fail(goal, ControlError::Busy);
        }
        match self.pending.replace(Pending { ticket, goal }).map(|pending| pending.goal) {
            Some(Goal::Order { asked, .. }) => self.refuse(asked, ControlError::Superseded),
            Some(Goal::CatchUp { .. }) => self.wanted = true,
            None => {}
        }
    }

    fn finish(&mut self, goal: Goal, prepared: Result<Arc<Serving>, SwitchError>) {
        let serving = match prepared {
            Ok(serving) => serving,
            Err(error) => return self.fail(goal, error.into()),
        };
        match goal {
            Goal::Order { asked, .. } if asked.order.dry_run => {
                let applied = self.applied(&asked, &serving, Vec::new());
                asked.reply.send(Ok(applied)).ok();
            }
            Goal::Order { asked, state } => match self.publish(&state, &asked.order) {
                Err(error) => self.fail(Goal::Order { asked, state }, error),
                Ok(()) => {
                    let change = self.change(&asked.order);
                    // Whoever changes one thing on top of settings knows that; whoever changes settings may not.
                    let of_settings = asked.order.command.is_about_settings();
                    let warnings = if of_settings { self.warnings(&state) } else { Vec::new() };
                    let applied = self.applied(&asked, &serving, warnings.clone());
                    (self.unreadable, self.wanted) = (None, false);
                    if of_settings {
                        self.reverted = false;
                    }
                    let overrides = matches!(
                        asked.order.command,
                        Command::Clear | Command::SetDefault { .. } | Command::Promote { .. }
                    );
                    if let Some(file) = self.refused_file.take_if(|file| overrides && file.may_fit) {
                        self.candidate.get_or_insert(file.text);
                    }
                    let unsaved = self.switch(state, &serving, &change, &warnings);
                    let took_ms = milliseconds(asked.at);
                    let warnings = applied.warnings.iter().cloned().chain(unsaved).collect();
                    let revision = self.state.revision;
                    asked.reply.send(Ok(Applied { revision, took_ms, warnings, ..applied })).ok();
                }
            },
            Goal::CatchUp { file: None, .. } if self.is_served(&serving) => {
                // Asked for again, and nothing is new.
                self.behind.clone_from(&self.unreadable);
                self.tell_metrics();
            }
            Goal::CatchUp { state, file } => {
                let change = match file {
                    Some(text) => {
                        self.file = text;
                        self.candidate = None;
                        Change { action: "settings file".to_owned(), ..self.own_change() }
                    }
                    None => state.change.clone().unwrap_or_else(|| self.own_change()),
                };
                let warnings = self.warnings(&state);
                self.switch(state, &serving, &change, &warnings);
            }
        }
    }

    /// Whether this is what serves already: the same settings, and the same versions.
    fn is_served(&self, serving: &Serving) -> bool {
        let now = self.switcher.serving();
        let same = |version: &Arc<Version>| {
            now.fleet.version(&version.identity().name).is_some_and(|served| Arc::ptr_eq(served, version))
        };
        serving.plan.config_digest == now.plan.config_digest
            && serving.plan.versions == now.plan.versions
            && serving.plan.devices == now.plan.devices
            && serving.plan.limits == now.plan.limits
            && serving.plan.keep_warm == now.plan.keep_warm
            && serving.plan.telemetry == now.plan.telemetry
            && serving.fleet.versions().all(same)
    }

    /// Switches, and writes down that it did; gives what to warn about.
    fn switch(&mut self, state: State, serving: &Arc<Serving>, change: &Change, warnings: &[String]) -> Option<String> {
        let from = self.switcher.serving().plan.config_digest.clone();
        self.switcher.switch(serving.clone());
        self.state = state;
        self.behind.clone_from(&self.unreadable);
        let unsaved = self.save();
        self.journal.switched(self.state.revision, change, &from, &serving.plan.config_digest, warnings);
        self.tell_metrics();
        unsaved
    }

    /// Nothing changes here; whoever asked is told.
    pub(super) fn fail(&mut self, goal: Goal, error: ControlError) {
        match goal {
            Goal::Order { asked, .. } => self.refuse(asked, error),
            Goal::CatchUp { file: Some(text), .. } => {
                self.refused(&Change { action: "settings file".to_owned(), ..self.own_change() }, &error);
                // Another one may have come meanwhile; and without it there may still be something to catch up with.
                if self.candidate.take_if(|candidate| *candidate == text).is_some() {
                    self.refused_file = Some(RefusedFile { text, reason: error.to_string(), may_fit: true });
                }
                self.wanted |= self.behind.is_some();
            }
            Goal::CatchUp { state, file: None } => {
                self.refused(&state.change.clone().unwrap_or_else(|| self.own_change()), &error);
                // Where it served before it was asked for again, it goes on.
                if self.behind.is_some() {
                    self.behind = Some(error.to_string());
                }
                self.save();
                self.tell_metrics();
            }
        }
    }

    pub(super) fn refused(&self, change: &Change, error: &ControlError) {
        let serving = self.switcher.serving();
        self.journal.refused(self.state.revision, change, error, &serving.plan.config_digest);
    }

    fn applied(&self, asked: &Asked, serving: &Serving, warnings: Vec<String>) -> Applied {
        Applied {
            revision: self.state.revision,
            config_digest: serving.plan.config_digest.clone(),
            previous_digest: self.switcher.serving().plan.config_digest.clone(),
            changed: !self.is_served(serving),
            took_ms: milliseconds(asked.at),
            dry_run: asked.order.dry_run,
            warnings,
        }
    }

    /// What works, and may not be what was meant: operators' changes that settings say otherwise.
    fn warnings(&self, state: &State) -> Vec<String> {
        let plan = self.plan_of(&without_overrides(state), &self.file);
        plan.map_or_else(|_| Vec::new(), |plan| plan.table_spec.masked_by(&state.current.overrides))
    }

    pub(super) fn own_change(&self) -> Change {
        Change { at: Timestamp::now().to_string(), instance: self.instance.clone(), ..Change::default() }
    }

    pub(super) fn save(&self) -> Option<String> {
        self.journal.save(&self.state, &self.file)
    }

    pub(super) fn tell_metrics(&self) {
        telemetry::config(&self.switcher.serving().plan.config_digest, self.state.revision, self.behind.is_some());
    }

    fn report(&self) -> Report {
        let change = |change: &Change| {
            let by = if change.by.is_empty() { "nobody named" } else { &change.by };
            format!("{} by {by} at {}", change.action, change.at)
        };
        let report = Report {
            instance: self.instance.clone(),
            revision: self.state.revision,
            source: if self.follows_file() { "file" } else { "applied" }.to_owned(),
            behind: self.behind.clone(),
            file_refused: self.refused_file.as_ref().map(|file| file.reason.clone()),
            last_change: self.state.change.as_ref().map(change),
            history: self.state.history.len(),
            warnings: self.warnings(&self.state),
            ..Report::default()
        };
        super::report::of(&self.switcher.serving(), &self.switcher.running(), report)
    }
}

pub(super) fn without_overrides(state: &State) -> State {
    let mut alone = state.clone();
    alone.current.overrides = Overrides::default();
    alone
}

pub(super) fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
