//! The threads, the back-pressure, the drain.

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::{
    intake,
    ledger::{Ledger, Ticket},
    monitor::Monitor,
    outcome::Outcome,
    poll,
    release::{self, Release, lock},
    serving::{Serving, Switcher},
};
use crate::{
    engine::Engine,
    kafka::{Connection, Consumer, ConsumerOptions, KafkaError, Ownership, Publisher},
    message::Record,
    settings::Plan,
    store::Thoroughness,
};

/// Why a pipeline stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// Kafka cannot be used any more.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// It could not go on; what was not acknowledged was not committed, and is read again.
    #[error("stopped before losing anything: {0}")]
    Stopped(String),
    /// A thread could not be started, or ended by a defect.
    #[error("thread `{0}` failed")]
    Thread(&'static str),
}

/// What all threads of one pipeline share.
pub(super) struct Shared {
    /// What the pipeline was started with: topics, threads, queues and waits, which do not change.
    pub(super) plan: Plan,
    /// What requests are served by, which does.
    pub(super) serving: ArcSwap<Serving>,
    pub(super) ledger: Mutex<Ledger<Outcome>>,
    pub(super) monitor: Arc<Monitor>,
    pub(super) failure: OnceLock<String>,
    pub(super) stop: AtomicBool,
    /// Set when the poll loop has ended, however it ended: what is still on its way is given up.
    over: AtomicBool,
    /// Set when partitions arrive while reading is paused: new ones begin unpaused.
    pub(super) reassigned: AtomicBool,
}

impl Shared {
    /// Whether anybody still waits for this record's outcome.
    pub(super) fn is_wanted(&self, ticket: Ticket) -> bool {
        !self.over.load(Ordering::Acquire) && lock(self).is_wanted(ticket)
    }

    /// The next message of a channel; none once the poll loop has ended and the channel is empty. A
    /// channel alone would not do: one of the senders lives as long as the client it belongs to.
    pub(super) fn next<T>(&self, inbox: &Receiver<T>) -> Option<T> {
        loop {
            match inbox.recv_timeout(INBOX_TIMEOUT) {
                Ok(message) => return Some(message),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) if self.over.load(Ordering::Acquire) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Stops the pipeline without committing what is not acknowledged.
    pub(super) fn fail(&self, reason: String) {
        // The first reason is the one that matters; later ones follow from it.
        self.failure.set(reason).ok();
        self.stop.store(true, Ordering::Release);
    }
}

/// How soon a waiting thread notices that the poll loop has ended.
const INBOX_TIMEOUT: Duration = Duration::from_millis(100);

/// A running pipeline.
pub struct Pipeline {
    shared: Arc<Shared>,
    engine: Arc<Engine>,
    connection: Connection,
    thread: JoinHandle<Result<usize, PipelineError>>,
}

impl Pipeline {
    /// Checks the topics, joins the group and starts the threads.
    ///
    /// # Errors
    /// When the cluster does not answer, lacks a topic, or a client cannot be made.
    pub fn start(plan: &Plan, connection: &Connection, engine: Engine) -> Result<Self, PipelineError> {
        let kafka = &plan.kafka;
        let mut topics = vec![kafka.requests.as_str(), &kafka.verdicts, &kafka.dead_letters];
        topics.extend(plan.table.has_shadows().then_some(kafka.shadows.as_str()));
        connection.partitions(&topics)?;
        let serving = Serving { plan: plan.clone(), fleet: engine.current() };
        let shared = Arc::new(Shared {
            plan: plan.clone(),
            serving: ArcSwap::from_pointee(serving),
            ledger: Mutex::default(),
            monitor: Arc::new(Monitor::new()),
            failure: OnceLock::new(),
            stop: AtomicBool::new(false),
            over: AtomicBool::new(false),
            reassigned: AtomicBool::new(false),
        });
        let options = ConsumerOptions {
            group_id: kafka.group_id.clone(),
            topic: kafka.requests.clone(),
            prefetch_bytes: kafka.prefetch_bytes,
        };
        let consumer = Consumer::join(connection, &options, Arc::new(Owned(shared.clone())))?;
        engine.versions().iter().for_each(|version| poll::show_version(version));
        // Every record in flight is in the channel once, and once more where it was too large, so a
        // sender never waits: the client's own thread is one of them.
        let (finished, inbox) = bounded(2 * plan.pipeline.records_in_flight_max + 2);
        let publisher = Arc::new(release::publisher(connection, &shared, finished.clone())?);
        let engine = Arc::new(engine);
        let (for_thread, its_engine) = (shared.clone(), engine.clone());
        let thread = thread::Builder::new()
            .name("pipeline".to_owned())
            .spawn(move || supervise(&for_thread, &consumer, &its_engine, &publisher, &finished, &inbox))
            .map_err(|_| PipelineError::Thread("pipeline"))?;
        Ok(Self { shared, engine, connection: connection.clone(), thread })
    }

    /// Changes the configuration, for whoever does not own the pipeline.
    pub fn switcher(&self, thoroughness: Thoroughness) -> Switcher {
        let (shared, engine, connection) = (self.shared.clone(), self.engine.clone(), self.connection.clone());
        Switcher { shared, engine, connection, thoroughness }
    }

    /// What the pipeline says about itself.
    pub fn monitor(&self) -> Arc<Monitor> {
        self.shared.monitor.clone()
    }

    /// Asks the pipeline to finish what it has read, commit and leave the group.
    pub fn stopper(&self) -> impl Fn() + Send + Sync + 'static {
        let shared = self.shared.clone();
        move || {
            shared.monitor.set_ready(false);
            shared.stop.store(true, Ordering::Release);
        }
    }

    /// Waits until the pipeline has ended; gives back the records that the drain had no time for, which
    /// will be read again.
    ///
    /// # Errors
    /// When it ended by itself.
    pub fn join(self) -> Result<usize, PipelineError> {
        self.thread.join().map_err(|_| PipelineError::Thread("pipeline"))?
    }
}

/// Tells the ledger which partitions are ours.
struct Owned(Arc<Shared>);

impl Ownership for Owned {
    fn assigned(&self, partitions: &[i32]) {
        let mut ledger = lock(&self.0);
        partitions.iter().for_each(|partition| ledger.assign(*partition));
        self.0.reassigned.store(true, Ordering::Release);
        tracing::info!(?partitions, "Partitions assigned.");
    }

    fn revoked(&self, partitions: &[i32]) -> Vec<(i32, i64)> {
        let mut ledger = lock(&self.0);
        tracing::info!(?partitions, "Partitions revoked.");
        partitions.iter().filter_map(|&partition| Some((partition, ledger.revoke(partition)?))).collect()
    }

    fn commit_failed(&self) {
        lock(&self.0).forget_committed();
    }
}

/// A record on its way to an intake thread.
pub(super) type Arrived = (Ticket, Record, Instant);

/// Says that the poll loop has ended, even where it ended by a panic: the other threads would wait for
/// ever otherwise.
struct Ending<'s>(&'s Shared, &'s Engine);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.monitor.set_ready(false);
        self.0.over.store(true, Ordering::Release);
        // Intake threads may stand before a version that is broken and holds them up.
        self.1.close();
    }
}

/// Stops the pipeline when its thread panics: a record would stay unanswered, and its partition stand
/// still behind it.
pub(super) struct Guarded<'s>(pub(super) &'s Shared, pub(super) &'static str);

impl Drop for Guarded<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail(format!("thread `{}` ended by a defect", self.1));
        }
    }
}

/// Runs the threads of one pipeline until it is told to stop or cannot go on.
fn supervise(
    shared: &Arc<Shared>,
    consumer: &Consumer,
    engine: &Arc<Engine>,
    publisher: &Arc<Publisher>,
    finished: &Sender<Release>,
    inbox: &Receiver<Release>,
) -> Result<usize, PipelineError> {
    // Room for everything in flight, so that the poll loop does not wait here.
    let (arrived, records) = bounded::<Arrived>(shared.plan.pipeline.records_in_flight_max + 1);
    let polled = thread::scope(|scope| {
        let _ending = Ending(shared, engine);
        let releasing = thread::Builder::new().name("release".to_owned());
        let mut started = releasing.spawn_scoped(scope, || release::run(shared, publisher, inbox)).is_ok();
        for index in 0..shared.plan.pipeline.decode_threads {
            let intake =
                intake::Thread { shared: shared.clone(), publisher: publisher.clone(), finished: finished.clone() };
            let records = records.clone();
            let worker = thread::Builder::new().name(format!("intake-{index}"));
            started &= worker.spawn_scoped(scope, move || intake.run(&records)).is_ok();
        }
        match started {
            true => poll::run(shared, consumer, engine, publisher, &arrived),
            false => Err(PipelineError::Thread("intake")),
        }
    });
    let left = lock(shared).records();
    engine.stop();
    polled?;
    match shared.failure.get() {
        Some(reason) => Err(PipelineError::Stopped(reason.clone())),
        None => Ok(left),
    }
}
