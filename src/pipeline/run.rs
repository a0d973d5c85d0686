//! The threads, the back-pressure, the drain.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::{
    failure::Failure,
    intake::Intake,
    ledger::{Ledger, Ticket},
    outcome::{Outcome, Outcomes},
    poll,
    release::{self, Release, lock},
};
use crate::{
    engine::{Engine, InferenceError, Job, Judged, ModelOptions, Reply, VersionSpec, panic_message},
    kafka::{Connection, Consumer, ConsumerOptions, KafkaError, Ownership, Publisher},
    message::{Load, Record},
    settings::Plan,
    store::Thoroughness,
    telemetry,
    vision::Limits,
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
    pub(super) plan: Plan,
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

/// What a running pipeline says about itself.
#[derive(Debug)]
pub struct Monitor {
    verdicts: AtomicU64,
    dead_letters: AtomicU64,
    ready: AtomicBool,
    started: Instant,
    /// Milliseconds from the start to the last poll.
    polled: AtomicU64,
}

/// A poll loop that has not come round for so long is stuck.
const HEARTBEAT_MAX: Duration = Duration::from_secs(60);
/// How soon a waiting thread notices that the poll loop has ended.
const INBOX_TIMEOUT: Duration = Duration::from_millis(100);

impl Monitor {
    fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            verdicts: zero(),
            dead_letters: zero(),
            ready: AtomicBool::new(false),
            started: Instant::now(),
            polled: zero(),
        }
    }

    /// Verdicts published since the start.
    pub fn verdicts(&self) -> u64 {
        self.verdicts.load(Ordering::Relaxed)
    }

    /// Dead letters published since the start.
    pub fn dead_letters(&self) -> u64 {
        self.dead_letters.load(Ordering::Relaxed)
    }

    /// Whether requests are taken: versions are loaded, the cluster answered, no stop was asked for.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Whether the poll loop still comes round.
    pub fn is_alive(&self) -> bool {
        let polled = Duration::from_millis(self.polled.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(polled) < HEARTBEAT_MAX
    }

    pub(super) fn count_verdict(&self) {
        self.verdicts.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_dead_letter(&self) {
        self.dead_letters.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    pub(super) fn beat(&self) {
        self.polled.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
}

/// Where the plan's cluster is; `embedded` is the address of the embedded broker, where the plan
/// wants one.
pub fn connection(plan: &Plan, embedded: Option<String>) -> Connection {
    let (embedded, bootstrap_servers) = match &plan.kafka.bootstrap_servers {
        Some(address) => (false, address.clone()),
        None => (true, embedded.unwrap_or_default()),
    };
    Connection { bootstrap_servers, options: plan.kafka.options.clone(), embedded }
}

/// The plan's versions, as the engine takes them.
pub fn engine_specs(plan: &Plan, thoroughness: Thoroughness) -> Vec<VersionSpec> {
    let spec = |(name, version): (&String, &crate::settings::VersionPlan)| VersionSpec {
        name: name.clone(),
        folder: version.folder.clone(),
        thoroughness,
        load: version.load,
        options: ModelOptions {
            device: version.device,
            precision: version.precision,
            bias_cache_bytes: version.position_cache_bytes,
        },
        batch_size: version.batch_size,
        queue_size: match version.load {
            Load::Start => version.queue_size,
            // Whoever hands a request over must not be held up while the version loads: the same threads
            // serve the others.
            Load::FirstUse => version.queue_size.max(plan.pipeline.records_in_flight_max),
        },
    };
    plan.versions.iter().map(spec).collect()
}

/// The plan's image limits.
pub fn image_limits(plan: &Plan) -> Limits {
    Limits { bytes_max: plan.limits.image_bytes_max, pixels_max: plan.limits.image_pixels_max }
}

/// A running pipeline.
pub struct Pipeline {
    shared: Arc<Shared>,
    thread: JoinHandle<Result<usize, PipelineError>>,
}

impl Pipeline {
    /// Checks the topics, joins the group and starts the threads.
    ///
    /// # Errors
    /// When the cluster does not answer, lacks a topic, or a client cannot be made.
    pub fn start(plan: &Plan, connection: &Connection, engine: Engine) -> Result<Self, PipelineError> {
        let kafka = &plan.kafka;
        connection.partitions(&[&kafka.requests, &kafka.verdicts, &kafka.dead_letters])?;
        let shared = Arc::new(Shared {
            plan: plan.clone(),
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
        engine.versions().for_each(poll::show_version);
        // Every record in flight is in the channel once, and once more where it was too large, so a
        // sender never waits: the client's own thread is one of them.
        let (finished, inbox) = bounded(2 * plan.pipeline.records_in_flight_max + 2);
        let publisher = release::publisher(connection, &shared, finished.clone())?;
        let for_thread = shared.clone();
        let thread = thread::Builder::new()
            .name("pipeline".to_owned())
            .spawn(move || supervise(&for_thread, &consumer, engine, &publisher, &finished, &inbox))
            .map_err(|_| PipelineError::Thread("pipeline"))?;
        Ok(Self { shared, thread })
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
struct Ending<'s>(&'s Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.monitor.set_ready(false);
        self.0.over.store(true, Ordering::Release);
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
    engine: Engine,
    publisher: &Publisher,
    finished: &Sender<Release>,
    inbox: &Receiver<Release>,
) -> Result<usize, PipelineError> {
    let engine = Arc::new(engine);
    // Room for everything in flight, so that the poll loop does not wait here.
    let (arrived, records) = bounded::<Arrived>(shared.plan.pipeline.records_in_flight_max + 1);
    let polled = thread::scope(|scope| {
        let _ending = Ending(shared);
        let releasing = thread::Builder::new().name("release".to_owned());
        let mut started = releasing.spawn_scoped(scope, || release::run(shared, publisher, inbox)).is_ok();
        for index in 0..shared.plan.pipeline.decode_threads {
            let (records, finished, engine) = (records.clone(), finished.clone(), engine.clone());
            let worker = thread::Builder::new().name(format!("intake-{index}"));
            started &= worker.spawn_scoped(scope, move || take_in(shared, &engine, &records, &finished)).is_ok();
        }
        match started {
            true => poll::run(shared, consumer, &engine, publisher, &arrived),
            false => Err(PipelineError::Thread("intake")),
        }
    });
    let left = lock(shared).records();
    if let Ok(engine) = Arc::try_unwrap(engine) {
        engine.stop();
    }
    polled?;
    match shared.failure.get() {
        Some(reason) => Err(PipelineError::Stopped(reason.clone())),
        None => Ok(left),
    }
}

/// One intake thread: records in, jobs to the engine, outcomes to the release thread.
fn take_in(shared: &Arc<Shared>, engine: &Engine, records: &Receiver<Arrived>, finished: &Sender<Release>) {
    let _guarded = Guarded(shared, "intake");
    let plan = &shared.plan;
    let intake = Intake { table: &plan.table, limits: &plan.limits, images: image_limits(plan), engine };
    while let Some((ticket, record, arrived)) = shared.next(records) {
        if !shared.is_wanted(ticket) {
            continue;
        }
        // Decoders meet hostile bytes here; one that panics must not take its thread, and with it a
        // partition, along.
        let admitted = catch_unwind(AssertUnwindSafe(|| intake.admit(&record)));
        let defect = |panic: Box<dyn std::any::Any + Send>| Failure::Defect(panic_message(panic.as_ref()));
        match admitted.unwrap_or_else(|panic| Err((defect(panic), None))) {
            Ok((admitted, prepared)) => {
                let asking = shared.clone();
                let wanted = Box::new(move || asking.is_wanted(ticket));
                let version = engine.version(&admitted.route.version);
                let identity = version.map(|version| version.identity().clone());
                let (shared, finished) = (shared.clone(), finished.clone());
                let reply = Reply::new(move |judged: Result<Judged, InferenceError>| {
                    let outcomes = Outcomes::of(&shared.plan);
                    let outcome = match (judged, identity) {
                        (Ok(judged), Some(identity)) => {
                            telemetry::batch(&identity.name, judged.batch);
                            outcomes.answered(record, arrived, admitted, &identity, &judged)
                        }
                        // Everything for this version would fail: a topic must not be emptied into the
                        // dead letters because a device is gone.
                        (Err(InferenceError::Stopped(reason)), _) => {
                            return shared.fail(format!("version `{}`: {reason}", admitted.route.version));
                        }
                        (Err(error), _) => {
                            let group = admitted.group();
                            outcomes.refused(record, &error.into(), group)
                        }
                        (Ok(_), None) => return,
                    };
                    finish(&finished, ticket, outcome);
                });
                // Without a version the reply is dropped, which answers that it has stopped.
                if let Some(version) = version {
                    version.submit(Job { prepared, wanted, reply });
                }
            }
            Err((failure, group)) => finish(finished, ticket, Outcomes::of(plan).refused(record, &failure, group)),
        }
    }
}

fn finish(finished: &Sender<Release>, ticket: Ticket, outcome: Outcome) {
    // The receiver lives as long as the pipeline's thread; without it nobody waits any more.
    finished.send(Release::Finished(ticket, Box::new(outcome))).ok();
}
