//! The controller's thread: takes commands, records and changes of the file one after the other.
//!
//! Two things are true whether this instance can serve by them or not: what the group has, `state`, and what the settings
//! file says, `candidate` until it has proved to work. The thread catches up with both whenever nothing else is being made
//! ready. A command is neither until it has been made ready and published.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use jiff::Timestamp;

use super::{
    Applied, Change, Command, ControlError, Order, Report, Snapshot, State,
    controller::{Message, Reply},
    files::Saved,
    fleet_log::PUBLISH_WAIT_MAX,
    following::stays_followed,
    journal::Journal,
    preparations::Preparations,
    recall::plan_by,
    watch::{FileWatch, Look},
};
use crate::{
    engine::{Reuse, Version},
    kafka::ControlWriter,
    pipeline::{Serving, SwitchError, Switcher},
    routing::Overrides,
    settings::{ControlPlan, Plan},
    telemetry,
};

pub(super) const WAITS: &str =
    "The settings file changed, and other settings are in force: `ofa-stream use-file` follows it again";
/// The look at the file where none is wanted.
const IDLE: Duration = Duration::from_secs(3600);
/// What was published is read back within milliseconds; the client gives publishing up a little earlier than this.
pub(super) const COMES_BACK_MAX: Duration = PUBLISH_WAIT_MAX.saturating_add(Duration::from_secs(2));

pub(super) struct Worker {
    pub(super) path: PathBuf,
    pub(super) watch: FileWatch,
    pub(super) journal: Journal,
    pub(super) writer: Option<ControlWriter>,
    pub(super) plan: ControlPlan,
    pub(super) group: String,
    pub(super) topic: String,
    pub(super) instance: String,
    pub(super) adapt: fn(Plan) -> Plan,
    pub(super) switcher: Switcher,
    pub(super) myself: Sender<Message>,

    /// What the group has.
    pub(super) state: State,
    /// Why the last record could not be read, if so: then `state` is not what the group has, but for its number.
    pub(super) unreadable: Option<String>,
    /// The text of the settings file that the program was started with: what cannot change while it runs is there.
    pub(super) own_file: String,
    /// The text of the settings file that is in force here, or would be.
    pub(super) file: String,
    /// What counts of the control topic, as it was read: `state` may differ by what is known here alone.
    pub(super) agreed: State,
    /// Whether the file has become what was applied, so that it is followed again.
    pub(super) reverted: bool,
    /// The applied settings that the file has become, and then something else: others of the group may not have seen that yet.
    pub(super) overtaken: Option<String>,
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

    /// When to say again what the group has, because a record came that does not count.
    pub(super) say_again: Option<Instant>,
    /// A change that was published and has not come back.
    pub(super) published: Option<Published>,
    /// Commands that came meanwhile.
    pub(super) queue: VecDeque<Asked>,
    pub(super) pending: Option<Pending>,
    /// Ids of changes that were sent and given up, the latest last: the brokers may still take them.
    pub(super) given_up: VecDeque<String>,
    pub(super) tickets: u64,
    pub(super) preparations: Preparations,
}

/// A configuration that is being made ready.
pub(super) struct Pending {
    pub(super) ticket: u64,
    pub(super) goal: Goal,
}

/// A change that is ready, on its way through the control topic.
pub(super) struct Published {
    pub(super) asked: Asked,
    pub(super) state: State,
    pub(super) serving: Arc<Serving>,
    /// The text of the settings file that it was made with.
    pub(super) file: String,
    pub(super) until: Instant,
}

pub(super) enum Goal {
    /// What the group has, and what the file says: the state that comes of both.
    CatchUp { state: State, file: Option<String> },
    /// What an operator asked for.
    Order { asked: Asked, state: State },
}

impl Pending {
    fn is_order(&self) -> bool {
        matches!(self.goal, Goal::Order { .. })
    }
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
            while self.published.is_none() && self.pending.as_ref().is_none_or(|pending| !pending.is_order()) {
                let Some(asked) = self.queue.pop_front() else { break };
                // Nobody may wait for it any more, and would not know of it.
                if !asked.reply.is_closed() {
                    self.obey(asked);
                }
            }
            self.catch_up();
            let until = self.published.as_ref().map(|published| published.until);
            let wake = [Some(look), self.say_again, until].into_iter().flatten().min().unwrap_or(look);
            match inbox.recv_timeout(wake.saturating_duration_since(Instant::now())) {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return self.refuse_all(),
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.when_due();
            if Instant::now() >= look {
                look = Instant::now() + interval;
                match self.plan.watch.map(|_| self.watch.look()) {
                    Some(Look::Another(text)) => self.file_changed(text),
                    Some(Look::Unreadable(reason)) => self.file_is_away(reason),
                    Some(Look::Same) | None => {}
                }
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Order(asked) => self.obey(asked),
            // Whoever asked may have gone.
            Message::Report(reply) => drop(reply.send(self.report())),
            Message::Reread => {
                (self.wanted, self.fresh) = (true, true);
                match self.watch.read() {
                    Ok(text) => self.file_changed(text),
                    Err(error) => self.file_is_away(error.to_string()),
                }
            }
            Message::Record(record, revision) => {
                self.read(record, revision);
                self.release();
            }
            Message::Lost(id, reason) => {
                self.lost(&id, reason);
                self.release();
            }
            Message::Prepared(ticket, prepared) => {
                match self.pending.take_if(|pending| pending.ticket == ticket) {
                    Some(pending) => self.finish(pending.goal, *prepared),
                    // It was given up meanwhile.
                    None => drop(prepared),
                }
                self.release();
            }
            // Comes to nobody else.
            Message::Stop => {}
        }
    }

    /// Lets go of what was loaded for nothing; not while something is made ready, which may be for it.
    pub(super) fn release(&self) {
        if self.pending.is_none() {
            self.switcher.release();
        }
    }

    pub(super) fn plan_of(&self, state: &State, file: &str) -> Result<Plan, ControlError> {
        let Snapshot { config, overrides } = &state.current;
        let running = self.switcher.serving();
        let plan = plan_by(config.as_ref(), overrides, &self.path, file, &self.own_file, Some(&running.plan));
        Ok((self.adapt)(plan?))
    }

    /// Starts to prepare a configuration, and supersedes the change that was being prepared.
    pub(super) fn begin(&mut self, goal: Goal, plan: Plan, reuse: Reuse) {
        self.tickets += 1;
        let ticket = self.tickets;
        let myself = self.myself.clone();
        let deliver = move |prepared| {
            // The controller may have ended.
            myself.send(Message::Prepared(ticket, Box::new(prepared))).ok();
        };
        if !self.preparations.begin(plan, reuse, deliver) {
            return self.fail(goal, ControlError::Busy);
        }
        match self.pending.replace(Pending { ticket, goal }).map(|pending| pending.goal) {
            Some(Goal::Order { asked, .. }) => {
                self.refuse(asked, ControlError::Superseded);
                self.supersede_queue();
            }
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
            Goal::Order { asked, state } => self.publish(asked, state, serving),
            Goal::CatchUp { file: None, .. } if self.is_served(&serving) => {
                // Asked for again, and nothing is new.
                self.behind.clone_from(&self.unreadable);
                self.save();
                self.tell_metrics();
            }
            Goal::CatchUp { state, file } => {
                let change = match file {
                    Some(text) => {
                        if let Some(applied) = self.state.current.config.clone() {
                            self.overtaken = Some(applied);
                        }
                        self.file = text;
                        (self.candidate, self.reverted) = (None, false);
                        Change { action: "settings file".to_owned(), ..self.own_change() }
                    }
                    None => state.change.clone().unwrap_or_else(|| self.own_change()),
                };
                let warnings = self.warnings(&state);
                self.switch(state, &serving, &change, &warnings);
            }
        }
    }

    /// What an operator asked for counts: it is switched to, and told.
    pub(super) fn make(&mut self, asked: Asked, state: State, serving: &Arc<Serving>) {
        let change = state.change.clone().unwrap_or_else(|| self.own_change());
        // Whoever changes one thing on top of settings knows that; whoever changes settings may not.
        let of_settings = asked.order.command.is_about_settings();
        let mut warnings = if of_settings { self.warnings(&state) } else { Vec::new() };
        let applied = self.applied(&asked, serving, Vec::new());
        // Who asked for the file to be looked at is not forgotten.
        (self.unreadable, self.wanted) = (None, self.fresh);
        let goes_elsewhere = of_settings || asked.order.command == Command::Rollback;
        if goes_elsewhere {
            self.overtaken = None;
        }
        self.reverted &= stays_followed(&state, &self.state);
        let before = std::mem::replace(&mut self.state, state);
        if goes_elsewhere && self.leave_file_aside() {
            warnings.push(WAITS.to_owned());
        }
        self.try_refused_file_again(&before.current.overrides);
        let unsaved = self.switch(self.state.clone(), serving, &change, &warnings);
        let took_ms = milliseconds(asked.at);
        let warnings = warnings.into_iter().chain(unsaved).collect();
        let revision = self.state.revision;
        asked.reply.send(Ok(Applied { revision, took_ms, warnings, ..applied })).ok();
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
        let before = self.switcher.serving();
        let from = before.plan.config_digest.clone();
        let gone = serving.plan.table_spec.gone_since(&before.plan.table_spec);
        self.switcher.switch(serving.clone());
        self.state = state;
        self.behind.clone_from(&self.unreadable);
        let unsaved = self.save();
        let digests = (from.as_str(), serving.plan.config_digest.as_str());
        self.journal.switched(self.state.revision, change, digests, &gone, warnings);
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
        let (id, at) = (format!("{:032x}", fastrand::u128(..)), Timestamp::now().to_string());
        Change { id, at, instance: self.instance.clone(), ..Change::default() }
    }

    pub(super) fn save(&self) -> Option<String> {
        let (state, file, group) = (self.state.clone(), self.file.clone(), self.group.clone());
        let (topic, reverted, overtaken) = (self.topic.clone(), self.reverted, self.overtaken.clone());
        let (agreed, unread) = (Some(self.agreed.clone()), self.unreadable.is_some());
        self.journal.save(&Saved { state, agreed, unread, file, group, topic, reverted, overtaken })
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
