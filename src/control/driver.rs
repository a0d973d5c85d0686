//! Runs the control machine: one thread that turns messages into events and carries out effects.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use tokio::sync::oneshot;

use super::{
    Applied, ConfigStore, ControlError, GroupState, InstanceStatus, RecordFormat,
    audit::Audit,
    file_watch::{FileWatch, Poll},
    handle::{Handle, Message, QUEUE_MAX, ReplySender, Start},
    machine::{Beginning, Effect, Event, Machine, MachineOptions, PendingCommand, ReplyId, Sync, Ticket},
    planner::SettingsPlanner,
    preparations::Preparations,
    presence::{Presence, REPEAT_INTERVAL},
    report, wire,
};
use crate::{engine::Reuse, kafka::ControlWriter, pipeline::Switcher, settings::Plan, telemetry};

/// The poll of a settings file that is not watched.
const IDLE: Duration = Duration::from_secs(3600);

/// The running controller.
pub struct Controller {
    handle: Handle,
    switcher: Switcher,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    following: Option<JoinHandle<()>>,
}

impl Controller {
    /// Starts the controller of a running pipeline.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(start: Start, switcher: Switcher) -> std::io::Result<Self> {
        let (sender, inbox) = bounded(QUEUE_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let has_topic = start.topic.is_some();
        let followed = start.topic.map(|topic| topic.follow(sender.clone(), stop.clone())).transpose()?;
        let (writer, following) = followed.unzip();
        let (storage, configs) = (start.storage.clone(), start.configs.clone());
        let instance = start.instance.as_str().into();
        let handle = Handle { inbox: sender.clone(), storage, configs, instance };

        let (served, serving) = (switcher.clone(), switcher.serving());
        let planner = SettingsPlanner {
            path: start.path.clone(),
            own_file: start.file.clone(),
            running: serving.plan.clone(),
            adapt: start.adapt,
        };
        let options = MachineOptions {
            instance: start.instance,
            history_max: start.plan.history,
            queue_max: QUEUE_MAX,
            has_topic,
            seed: fastrand::u64(..),
        };
        let watch = FileWatch::new(start.path, start.file.clone());
        let beginning = Beginning {
            memory: start.memory,
            file: start.file,
            serving,
            out_of_sync: start.out_of_sync,
            republish: start.republish,
            ask: start.ask,
        };
        let (machine, effects) = Machine::new(planner, options, beginning, Instant::now());

        let mut driver = Driver {
            machine,
            audit: Audit(start.storage),
            writer,
            watch,
            watch_interval: start.plan.watch,
            preparations: Preparations::new(switcher.clone()),
            switcher,
            sender,
            replies: BTreeMap::new(),
            replies_given: 0,
            events: VecDeque::new(),
            configs: start.configs,
            presence: Presence::default(),
            status: None,
            applying_since: None,
            unconfirmed: Vec::new(),
        };
        driver.carry_out(effects);
        driver.remember_config();
        driver.set_metrics();
        let thread = thread::Builder::new().name("control".to_owned()).spawn(move || driver.run(&inbox))?;
        Ok(Self { handle, switcher: served, stop, thread, following })
    }

    /// Sends commands to it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The configuration that it changes.
    pub fn switcher(&self) -> Switcher {
        self.switcher.clone()
    }

    /// Stops it. Open commands are answered.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.handle.inbox.send(Message::Stop).ok();
        // Both threads have nothing left to save.
        if let Some(following) = self.following {
            following.join().ok();
        }
        self.thread.join().ok();
    }
}

struct Driver {
    machine: Machine<SettingsPlanner>,
    audit: Audit,
    writer: Option<ControlWriter>,
    watch: FileWatch,
    watch_interval: Option<Duration>,
    preparations: Preparations,
    switcher: Switcher,
    sender: Sender<Message>,
    replies: BTreeMap<ReplyId, ReplySender<Result<Applied, ControlError>>>,
    replies_given: ReplyId,
    /// Events that effects led to.
    events: VecDeque<Event<SettingsPlanner>>,
    configs: Option<ConfigStore>,
    presence: Presence,
    /// The status that was published last, and when it is due again.
    status: Option<(InstanceStatus, Instant)>,
    /// Since when a change is being prepared here.
    applying_since: Option<Instant>,
    /// Changes that are in force here; their callers wait for the other instances.
    unconfirmed: Vec<Unconfirmed>,
}

/// An answer that waits until the other instances have settled.
struct Unconfirmed {
    reply: ReplySender<Result<Applied, ControlError>>,
    applied: Applied,
    until: Instant,
}

/// A command waits so long for the other instances. Then it lists those that are behind.
const CONFIRM_WAIT: Duration = Duration::from_secs(1);
/// Other instances see that one is preparing a change when that takes longer than this.
const APPLYING_SHOWN_AFTER: Duration = Duration::from_millis(200);
/// Answers that wait; more are given at once.
const UNCONFIRMED_MAX: usize = 64;
/// A stop waits so long until its status is withdrawn.
const WITHDRAW_WAIT: Duration = Duration::from_millis(500);

impl Driver {
    fn run(&mut self, inbox: &Receiver<Message>) {
        let interval = self.watch_interval.unwrap_or(IDLE);
        let mut next_poll = Instant::now() + interval;
        self.publish_status();
        loop {
            let now = Instant::now();
            let status_due = self.status.as_ref().map(|(_, due)| *due);
            let applying_shown = self.applying_since.map(|since| since + APPLYING_SHOWN_AFTER);
            // Those that have passed were handled, or wait for something else.
            let status = status_due.into_iter().chain(applying_shown).filter(|at| *at > now);
            let answers = self.unconfirmed.iter().map(|unconfirmed| unconfirmed.until);
            let wakes = self.machine.next_tick().into_iter().chain(status).chain(answers);
            let wake = wakes.fold(next_poll, Instant::min);
            match inbox.recv_timeout(wake.saturating_duration_since(now)) {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return self.stop(),
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.drop_closed();
            self.step(Event::Tick);
            self.publish_status();
            self.confirm();
            if Instant::now() >= next_poll {
                next_poll = Instant::now() + interval;
                self.poll_file();
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Command(request, reply) => {
                self.replies_given += 1;
                let id = self.replies_given;
                self.replies.insert(id, reply);
                let command = PendingCommand { request: *request, reply: id, received: Instant::now() };
                self.step(Event::Command(Box::new(command)));
            }
            // The caller may be gone.
            Message::Report(reply) => drop(reply.send(report::of(&self.machine, &self.switcher))),
            Message::Config(reply) => drop(reply.send(report::config_in_force(&self.machine))),
            Message::Instances(reply) => drop(reply.send(self.presence.list(Instant::now()))),
            Message::Instance(instance, status) => {
                if status.is_some() && !self.presence.knows(&instance) {
                    // It does not know this instance either.
                    self.status = None;
                }
                self.presence.heard(&instance, status.map(|status| *status), Instant::now());
            }
            Message::Reload => {
                self.step(Event::Reload);
                match self.watch.read() {
                    Ok(text) => self.step(Event::FileChanged(text)),
                    Err(error) => self.step(Event::FileUnreadable(error.to_string())),
                }
            }
            Message::Record(record) => self.step(Event::Record(record)),
            Message::PublishFailed { id, reason, certain } => self.step(Event::PublishFailed { id, reason, certain }),
            Message::Prepared(ticket, prepared) => {
                self.preparations.ended(ticket);
                self.step(Event::Prepared(ticket, prepared.map_err(ControlError::from)));
            }
            Message::Stop => self.step(Event::Stop),
        }
    }

    /// Answers everything, and withdraws the status of this instance.
    fn stop(&mut self) {
        self.step(Event::Stop);
        for Unconfirmed { reply, applied, .. } in self.unconfirmed.drain(..) {
            reply.send(Ok(applied)).ok();
        }
        if let Some(writer) = &self.writer {
            writer.publish_status(self.machine.instance(), None);
            writer.flush(WITHDRAW_WAIT);
        }
    }

    /// Publishes the status of this instance when it changed, and at intervals.
    fn publish_status(&mut self) {
        let Some(writer) = &self.writer else { return };
        let (now, status) = (Instant::now(), report::status(&self.machine));
        // A switch takes milliseconds, and most records of it would be about its middle.
        self.applying_since = (status.sync == "applying").then(|| self.applying_since.unwrap_or(now));
        if self.applying_since.is_some_and(|since| now < since + APPLYING_SHOWN_AFTER) {
            return;
        }
        let is_known = self.status.as_ref().is_some_and(|(known, due)| *known == status && now < *due);
        if is_known {
            return;
        }
        // Plain data with string keys: serializing cannot fail.
        let json = serde_json::to_vec(&status).unwrap_or_default();
        writer.publish_status(&status.instance, Some(&json));
        for gone in self.presence.forget_silent(now) {
            writer.publish_status(&gone, None);
        }
        self.presence.heard(&status.instance.clone(), Some(status.clone()), now);
        self.status = Some((status, now + REPEAT_INTERVAL));
    }

    /// Answers the commands that all instances have settled on, or that waited long enough.
    fn confirm(&mut self) {
        let now = Instant::now();
        let is_due = |waiting: &mut Unconfirmed| {
            now >= waiting.until || self.presence.has_settled(waiting.applied.revision, now)
        };
        let due: Vec<Unconfirmed> = self.unconfirmed.extract_if(.., is_due).collect();
        for Unconfirmed { reply, mut applied, .. } in due {
            applied.instances = self.presence.list(now);
            // The caller may be gone.
            reply.send(Ok(applied)).ok();
        }
    }

    fn remember_config(&self) {
        let Some(configs) = &self.configs else { return };
        // Otherwise something else serves than what is remembered.
        if *self.machine.sync() != Sync::InSync {
            return;
        }
        let digest = &self.machine.serving().plan.config_digest;
        if let Err(error) = configs.remember(digest, self.machine.memory()) {
            telemetry::config_unwritten("configs");
            tracing::warn!(%error, "The configuration in force cannot be kept for `config show`.");
        }
    }

    fn poll_file(&mut self) {
        if self.watch_interval.is_none() {
            return;
        }
        match self.watch.poll() {
            Poll::Another(text) => self.step(Event::FileChanged(text)),
            Poll::Unreadable(reason) => self.step(Event::FileUnreadable(reason)),
            Poll::Same => {}
        }
    }

    /// Drops waiting commands whose callers are gone: they would not know of the change.
    fn drop_closed(&mut self) {
        let is_closed = |id: &ReplyId| self.replies.get(id).is_none_or(oneshot::Sender::is_closed);
        let closed: Vec<ReplyId> = self.machine.waiting().filter(is_closed).collect();
        for id in closed {
            self.replies.remove(&id);
            self.step(Event::ClientGone(id));
        }
    }

    /// Takes one event, and the events that its effects lead to.
    fn step(&mut self, event: Event<SettingsPlanner>) {
        self.events.push_back(event);
        while let Some(event) = self.events.pop_front() {
            let effects = self.machine.step(event, Instant::now());
            if !effects.is_empty() {
                self.carry_out(effects);
                self.set_metrics();
            }
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect<SettingsPlanner>>) {
        let (mut unsaved, mut has_switched) = (None, false);
        for effect in effects {
            match effect {
                Effect::Prepare { ticket, plan, recheck } => self.prepare(ticket, *plan, recheck),
                Effect::CancelPrepare(ticket) => self.preparations.cancel(ticket),
                Effect::ReleaseUnused => self.preparations.release_unused(),
                Effect::Publish(state, format) => self.publish(&state, format),
                Effect::Serve(serving) => {
                    self.switcher.switch(serving);
                    has_switched = true;
                }
                Effect::Save => unsaved = self.audit.save(self.machine.memory()),
                Effect::Audit(entry) => self.audit.write(&entry),
                Effect::Reply(id, answer) => {
                    let Some(reply) = self.replies.remove(&id) else { continue };
                    let answer = answer.map(|mut applied| {
                        applied.warnings.extend(unsaved.clone());
                        applied
                    });
                    self.answer(reply, answer);
                }
                Effect::Warn(event, text) => tracing::warn!(event, "Control: {text}."),
            }
        }
        if has_switched {
            self.remember_config();
        }
    }

    /// Answers a caller; a change in a group waits until the other instances have settled.
    fn answer(&mut self, reply: ReplySender<Result<Applied, ControlError>>, answer: Result<Applied, ControlError>) {
        match answer {
            Ok(applied) if self.writer.is_some() && !applied.dry_run && self.unconfirmed.len() < UNCONFIRMED_MAX => {
                let until = Instant::now() + CONFIRM_WAIT;
                self.unconfirmed.push(Unconfirmed { reply, applied, until });
            }
            // The caller may be gone.
            answer => drop(reply.send(answer)),
        }
    }

    fn prepare(&mut self, ticket: Ticket, plan: Plan, recheck: bool) {
        let reuse = if recheck { Reuse::SameFiles } else { Reuse::Running };
        let sender = self.sender.clone();
        let deliver = move |prepared| {
            // The driver may have ended.
            sender.send(Message::Prepared(ticket, Box::new(prepared))).ok();
        };
        if !self.preparations.begin(ticket, plan, reuse, deliver) {
            self.preparations.ended(ticket);
            self.events.push_back(Event::Prepared(ticket, Err(ControlError::Busy)));
        }
    }

    fn publish(&mut self, state: &GroupState, format: RecordFormat) {
        let Some(writer) = &self.writer else { return };
        let id = state.change_id().to_owned();
        let (sender, failed_id) = (self.sender.clone(), id.clone());
        let failed = move |reason: String, certain: bool| {
            // The driver may have ended, and does not wait: a record that is not read back times out.
            sender.try_send(Message::PublishFailed { id: failed_id, reason, certain }).ok();
        };
        if let Err(reason) = writer.publish(&wire::write(state, format), failed) {
            self.events.push_back(Event::PublishFailed { id, reason, certain: true });
        }
    }

    fn set_metrics(&self) {
        let digest = &self.machine.serving().plan.config_digest;
        let out_of_sync = matches!(self.machine.sync(), Sync::OutOfSync(_));
        telemetry::config(digest, self.machine.memory().revision(), out_of_sync);
    }
}
