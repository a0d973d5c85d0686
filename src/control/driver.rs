//! Runs the control machine: one thread that turns messages into events and carries out effects.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use tokio::sync::oneshot;

use super::{
    Applied, CommandRequest, ControlError, ControlTopic, GroupState, Memory, RecordError, RecordFormat, Report,
    Storage,
    audit::Audit,
    file_watch::{FileWatch, Poll},
    machine::{Beginning, Effect, Event, Machine, MachineOptions, PendingCommand, ReplyId, Sync, Ticket},
    planner::SettingsPlanner,
    preparations::Preparations,
    report, wire,
};
use crate::{
    engine::Reuse,
    kafka::ControlWriter,
    pipeline::{Serving, SwitchError, Switcher},
    settings::{ControlPlan, Plan},
    telemetry,
};

/// What a controller starts with.
pub struct Start {
    /// The settings file.
    pub path: PathBuf,
    /// Its text.
    pub file: String,
    /// What was restored.
    pub memory: Memory,
    /// Why the pipeline serves something else, if so.
    pub out_of_sync: Option<String>,
    /// True if the control topic lacks the accepted state.
    pub republish: bool,
    /// True if other instances must be asked for the state.
    pub ask: bool,
    /// The folder of this instance.
    pub storage: Option<Storage>,
    /// The control topic.
    pub topic: Option<ControlTopic>,
    /// Its settings.
    pub plan: ControlPlan,
    /// The name of this instance.
    pub instance: String,
    /// Reads settings of other kinds again from their sources, such as the demo's.
    pub adapt: fn(Plan) -> Plan,
}

type ReplySender<T> = oneshot::Sender<T>;

/// A message to the driver's thread.
pub(super) enum Message {
    Command(Box<CommandRequest>, ReplySender<Result<Applied, ControlError>>),
    Report(ReplySender<Report>),
    /// SIGHUP.
    Reload,
    Record(Box<Result<(GroupState, RecordFormat), RecordError>>),
    PublishFailed {
        id: String,
        reason: String,
        certain: bool,
    },
    Prepared(Ticket, Box<Result<Arc<Serving>, SwitchError>>),
    Stop,
}

/// Messages that may wait, and commands that may wait.
const QUEUE_MAX: usize = 64;
/// The poll of a settings file that is not watched.
const IDLE: Duration = Duration::from_secs(3600);

/// Sends commands to the controller, from any thread.
#[derive(Clone)]
pub struct Handle {
    inbox: Sender<Message>,
    storage: Option<Storage>,
}

impl Handle {
    /// Carries out a command.
    ///
    /// # Errors
    /// When it is refused: nothing has changed then. [`ControlError::OutcomeUnknown`] is the exception.
    pub async fn command(&self, request: CommandRequest) -> Result<Applied, ControlError> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Command(Box::new(request), reply))?;
        answer.await.unwrap_or(Err(ControlError::Stopping))
    }

    /// The state of this instance.
    ///
    /// # Errors
    /// When the program stops.
    pub async fn report(&self) -> Result<Report, ControlError> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Report(reply))?;
        answer.await.map_err(|_| ControlError::Stopping)
    }

    /// Reads the settings file and the folders of versions again.
    pub fn reload(&self) {
        // If too many messages wait, the file is polled soon anyway.
        self.send(Message::Reload).ok();
    }

    /// The folder of this instance.
    pub fn storage(&self) -> Option<&Storage> {
        self.storage.as_ref()
    }

    fn send(&self, message: Message) -> Result<(), ControlError> {
        self.inbox.try_send(message).map_err(|error| match error {
            TrySendError::Full(_) => ControlError::Busy,
            TrySendError::Disconnected(_) => ControlError::Stopping,
        })
    }
}

/// The running controller.
pub struct Controller {
    handle: Handle,
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
        let handle = Handle { inbox: sender.clone(), storage: start.storage.clone() };

        let serving = switcher.serving();
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
        };
        driver.carry_out(effects);
        driver.set_metrics();
        let thread = thread::Builder::new().name("control".to_owned()).spawn(move || driver.run(&inbox))?;
        Ok(Self { handle, stop, thread, following })
    }

    /// Sends commands to it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
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
}

impl Driver {
    fn run(&mut self, inbox: &Receiver<Message>) {
        let interval = self.watch_interval.unwrap_or(IDLE);
        let mut next_poll = Instant::now() + interval;
        loop {
            let wake = self.machine.next_tick().into_iter().fold(next_poll, Instant::min);
            match inbox.recv_timeout(wake.saturating_duration_since(Instant::now())) {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return self.step(Event::Stop),
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.drop_closed();
            self.step(Event::Tick);
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
        let mut unsaved = None;
        for effect in effects {
            match effect {
                Effect::Prepare { ticket, plan, recheck } => self.prepare(ticket, *plan, recheck),
                Effect::CancelPrepare(ticket) => self.preparations.cancel(ticket),
                Effect::ReleaseUnused => self.preparations.release_unused(),
                Effect::Publish(state, format) => self.publish(&state, format),
                Effect::Serve(serving) => self.switcher.switch(serving),
                Effect::Save => unsaved = self.audit.save(self.machine.memory()),
                Effect::Audit(entry) => self.audit.write(&entry),
                Effect::Reply(id, answer) => {
                    let Some(reply) = self.replies.remove(&id) else { continue };
                    let answer = answer.map(|mut applied| {
                        applied.warnings.extend(unsaved.clone());
                        applied
                    });
                    // The caller may be gone.
                    reply.send(answer).ok();
                }
                Effect::Warn(event, text) => tracing::warn!(event, "Control: {text}."),
            }
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
