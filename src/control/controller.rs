//! One thread that changes the configuration.
//!
//! A change is first made ready beside what serves, on a thread of its own where versions must be loaded: a rollback
//! does not wait for a large model. Then it is published, then switched to. Whoever comes later supersedes whoever is
//! not ready yet.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use crossbeam_channel::{Sender, TrySendError, bounded};
use tokio::sync::oneshot;

use super::{
    Applied, ControlError, Files, Order, Report, State,
    fleet_log::FleetLog,
    journal::Journal,
    preparations::Preparations,
    watch::FileWatch,
    worker::{Asked, Worker},
};
use crate::{
    pipeline::{Serving, SwitchError, Switcher},
    settings::{ControlPlan, Plan},
};

/// What a controller begins with.
pub struct Start {
    /// The settings file.
    pub path: PathBuf,
    /// Its text, by which the pipeline was started unless `state` says otherwise.
    pub file: String,
    /// What operators changed before, which the pipeline was started with.
    pub state: State,
    /// What the group has agreed upon, without what is known here alone.
    pub agreed: State,
    /// Why the pipeline was started without it, if so.
    pub behind: Option<String>,
    /// Why it is not what the group has, if so.
    pub unreadable: Option<String>,
    /// Whether the control topic lacks it, so that the others are to be told.
    pub forgotten: bool,
    /// Whether the file has become what was applied, so that it is followed again.
    pub reverted: bool,
    /// The applied settings that the file has become, and then something else, if so.
    pub overtaken: Option<String>,
    /// Where to keep it.
    pub files: Option<Files>,
    /// How other instances are told.
    pub log: Option<FleetLog>,
    /// Settings of all this.
    pub plan: ControlPlan,
    /// The group that follows the same changes.
    pub group: String,
    /// What this instance is called.
    pub instance: String,
    /// What has settings of other kinds read again from their sources, such as the demo's.
    pub adapt: fn(Plan) -> Plan,
}

pub(super) type Reply<T> = oneshot::Sender<T>;

/// What the controller is told.
pub(super) enum Message {
    Order(Asked),
    Report(Reply<Report>),
    /// SIGHUP.
    Reread,
    /// A record of the control topic, with its number as far as that can be read.
    Record(Result<State, ControlError>, Option<u64>),
    /// Why the record of a change did not arrive there.
    Lost(String, String),
    /// What was made ready.
    Prepared(u64, Box<Result<Arc<Serving>, SwitchError>>),
    Stop,
}

/// Asks the controller, from any thread.
#[derive(Clone)]
pub struct Handle {
    inbox: Sender<Message>,
    files: Option<Files>,
}

/// Commands that may wait.
pub(super) const INBOX: usize = 64;

impl Handle {
    /// Has a change made.
    ///
    /// # Errors
    /// Why it is refused; nothing has changed then.
    pub async fn order(&self, order: Order) -> Result<Applied, ControlError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Message::Order(Asked { order, at: Instant::now(), reply }))?;
        answer.await.unwrap_or(Err(ControlError::Stopping))
    }

    /// What is in force.
    ///
    /// # Errors
    /// When the program stops.
    pub async fn report(&self) -> Result<Report, ControlError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Message::Report(reply))?;
        answer.await.map_err(|_| ControlError::Stopping)
    }

    /// Has the settings file read again.
    pub fn reread(&self) {
        // Where too much waits, the file is looked at soon anyway.
        self.tell(Message::Reread).ok();
    }

    /// Where changes are kept.
    pub fn files(&self) -> Option<&Files> {
        self.files.as_ref()
    }

    fn tell(&self, message: Message) -> Result<(), ControlError> {
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
    /// Starts it beside a running pipeline.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(start: Start, switcher: Switcher) -> std::io::Result<Self> {
        let (sender, inbox) = bounded(INBOX);
        let stop = Arc::new(AtomicBool::new(false));
        let topic = start.log.as_ref().map(|log| log.topic.clone()).unwrap_or_default();
        let (writer, following) = start.log.map(|log| log.follow(sender.clone(), stop.clone())).transpose()?.unzip();

        let handle = Handle { inbox: sender.clone(), files: start.files.clone() };

        let mut worker = Worker {
            watch: FileWatch::new(start.path.clone(), start.file.clone()),
            path: start.path,
            journal: Journal(start.files),
            writer,
            plan: start.plan,
            group: start.group,
            topic,
            instance: start.instance,
            adapt: start.adapt,
            preparations: Preparations::new(switcher.clone()),
            switcher,
            myself: sender,
            agreed: start.agreed,
            state: start.state,
            unreadable: start.unreadable,
            reverted: start.reverted,
            overtaken: start.overtaken,
            own_file: start.file.clone(),
            file: start.file,
            candidate: None,
            refused_file: None,
            behind: start.behind,
            wanted: false,
            fresh: false,
            say_again: None,
            published: None,
            queue: VecDeque::new(),
            pending: None,
            given_up: VecDeque::new(),
            tickets: 0,
        };

        if start.forgotten {
            worker.become_uneasy();
        }
        worker.save();
        worker.tell_metrics();

        let thread = thread::Builder::new().name("control".to_owned()).spawn(move || worker.run(&inbox))?;
        Ok(Self { handle, stop, thread, following })
    }

    /// What asks it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Ends it; changes that are not ready are given up.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.handle.inbox.send(Message::Stop).ok();
        // They have nothing left to save.
        if let Some(following) = self.following {
            following.join().ok();
        }
        self.thread.join().ok();
    }
}
