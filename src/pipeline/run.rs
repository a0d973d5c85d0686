//! The threads of a pipeline: started, watched, joined.

use std::{
    collections::BTreeSet,
    ffi::CString,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use super::{
    admission::Admitted,
    attempts::{Attempts, FirstAnswer},
    budget::ByteBudget,
    cluster::{self, Promise},
    gauges, intake,
    monitor::Monitor,
    outcome::Outcome,
    poll::Poller,
    release::{self, Release, Unacknowledged, lock},
    serving::{Serving, Switcher},
    specs::instance_name,
    stages::Stages,
    transact,
};
use crate::{
    delivery::{Breaker, BreakerLimits, Ledger, Ticket},
    engine::{AnswerKey, Engine, Identity, Judged},
    kafka::{Connection, Consumer, KafkaError, Publisher, TransactionalPublisher},
    message::Record,
    settings::{BreakerPlan, Delivery, Plan},
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
    /// What is kept of that about delivery.
    pub(super) delivery: Delivery,
    /// What requests are served by, which does.
    pub(super) serving: ArcSwap<Serving>,
    pub(super) ledger: Mutex<Ledger<Outcome>>,
    pub(super) breaker: Mutex<Breaker>,
    /// What decoders may hold, and prepared pictures.
    pub(super) decoding: ByteBudget,
    pub(super) prepared: ByteBudget,
    /// What earlier tries of records came to.
    pub(super) attempts: Attempts,
    /// What the intake threads are doing.
    pub(super) stages: Stages,
    /// Topics that take no record without a key.
    pub(super) compacted: BTreeSet<String>,
    /// The name of this instance.
    pub(super) instance: String,
    /// Topics that were made again, and are to be read from their beginning.
    pub(super) recreated: Mutex<Vec<String>>,
    /// At least once: outcomes on their way to the brokers, which are counted when they are there.
    pub(super) unacknowledged: Unacknowledged,
    pub(super) monitor: Arc<Monitor>,
    pub(super) failure: OnceLock<String>,
    pub(super) stop: AtomicBool,
    /// Set while somebody waits for what is finished to be committed: a rebalance, or a stop.
    pub(super) hurry: AtomicBool,
    /// Set while no records are taken for want of room.
    pub(super) held: AtomicBool,
    /// The name under which the brokers knew this member when what it owns was assigned.
    pub(super) member: ArcSwapOption<CString>,
    /// Set when they know it by another one now, of which its client said nothing.
    pub(super) replaced: AtomicBool,
    wake: Sender<()>,
    /// Set when the poll loop has ended, however it ended: what is still on its way is given up.
    over: AtomicBool,
}

impl Shared {
    /// Whether anybody still waits for this record's outcome.
    pub(super) fn is_wanted(&self, ticket: Ticket) -> bool {
        !self.is_over() && lock(self).is_wanted(ticket)
    }

    /// Whether the poll loop has ended.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// The next message of a channel; none once the poll loop has ended and the channel is empty. A
    /// channel alone would not do: one of the senders lives as long as the client it belongs to.
    pub(super) fn next<T>(&self, inbox: &Receiver<T>) -> Option<T> {
        loop {
            match inbox.recv_timeout(INBOX_TIMEOUT) {
                Ok(message) => return Some(message),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) if self.is_over() => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Keeps an answer for another try of its record.
    pub(super) fn keep_first(
        &self,
        ticket: Ticket,
        serving: &Serving,
        admitted: &Admitted,
        version: &Identity,
        judged: &Judged,
        latency: Duration,
    ) {
        if self.delivery == Delivery::AtLeastOnce {
            return;
        }
        let (texts, caption) = (admitted.request.text.as_slice(), admitted.request.caption.as_deref());
        let answer = FirstAnswer {
            config_digest: serving.plan.config_digest.clone(),
            model_digest: version.digest.clone(),
            content: AnswerKey::new(&admitted.image, texts, caption),
            judged: judged.clone(),
            fetching: admitted.fetching,
            preparing: admitted.preparing,
            latency,
        };
        self.attempts.answered(ticket, answer);
    }

    /// Says that records have left, where their room is waited for.
    pub(super) fn made_room(&self) {
        if self.held.load(Ordering::Acquire) {
            // One that is there already is enough.
            self.wake.try_send(()).ok();
        }
    }

    /// Stops the pipeline without committing what is not acknowledged.
    pub(super) fn fail(&self, reason: impl ToString) {
        // The first reason is the one that matters; later ones follow from it.
        self.failure.set(reason.to_string()).ok();
        self.stop.store(true, Ordering::Release);
    }
}

/// How soon a waiting thread notices that the poll loop has ended.
pub(super) const INBOX_TIMEOUT: Duration = Duration::from_millis(100);

/// A rebalance of healthy members takes less, and what the client knows of it is seconds old.
const REBALANCE_TIME: Duration = Duration::from_secs(10);

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
    /// When the cluster does not answer, lacks a topic, has topics that do not fit together, or a client cannot be made.
    pub fn start(plan: &Plan, connection: &Connection, engine: Engine) -> Result<Self, PipelineError> {
        let Promise { delivery, instance_id, batch_bytes, compacted } = cluster::look(plan, connection)?;
        let BreakerPlan { window, share_max, run_max, pause } = plan.breaker;
        let (wake, woken) = bounded(1);

        let serving = Serving::new(plan.clone(), engine.current());
        let shared = Arc::new(Shared {
            plan: plan.clone(),
            delivery,
            serving: ArcSwap::from_pointee(serving),
            ledger: Mutex::default(),
            breaker: Mutex::new(Breaker::new(BreakerLimits { window, share_max, run_max, pause })),
            decoding: ByteBudget::new(plan.limits.decode_bytes_max),
            prepared: ByteBudget::new(plan.pipeline.prepared_bytes_max),
            attempts: Attempts::new(match delivery {
                // Nothing is aborted there.
                Delivery::AtLeastOnce => 0,
                Delivery::ExactlyOnce => 2 * plan.pipeline.records_in_flight_max,
            }),
            stages: Stages::default(),
            compacted,
            instance: instance_name(plan),
            recreated: Mutex::default(),
            unacknowledged: Unacknowledged::default(),
            monitor: Arc::new(Monitor::new(
                (plan.kafka.publish_timeout + plan.kafka.rebalance_drain).max(REBALANCE_TIME),
                plan.pipeline.dead_after,
            )),
            failure: OnceLock::new(),
            stop: AtomicBool::new(false),
            hurry: AtomicBool::new(false),
            held: AtomicBool::new(false),
            member: ArcSwapOption::empty(),
            replaced: AtomicBool::new(false),
            wake: wake.clone(),
            over: AtomicBool::new(false),
        });

        engine.versions().iter().for_each(|version| gauges::show_version(version));

        // Every record in flight is in the channel once, and once more where it was too large, so a
        // sender never waits: the client's own thread is one of them.
        let (finished, inbox) = bounded(2 * plan.pipeline.records_in_flight_max + 2);
        let publisher = Arc::new(release::publisher(connection, &shared, batch_bytes, finished.clone())?);

        // Before the group is joined: it ends what an earlier process of this name has left open, whose offsets would be
        // waited for.
        let transactions = match delivery {
            Delivery::AtLeastOnce => None,
            Delivery::ExactlyOnce => {
                let id = instance_id.clone().unwrap_or_else(cluster::new_name);
                Some(TransactionalPublisher::open(connection, transact::options(&plan.kafka, &id, batch_bytes))?)
            }
        };

        let consumer = Arc::new(Consumer::join(connection, cluster::membership(plan, instance_id), wake)?);
        let outlet = match transactions {
            None => Outlet::AtLeastOnce,
            Some(transactions) => {
                let log = transact::Log::new(shared.clone(), transactions, consumer.clone());
                Outlet::ExactlyOnce(Box::new(log))
            }
        };

        let engine = Arc::new(engine);
        let parts =
            Parts { shared: shared.clone(), consumer, engine: engine.clone(), publisher, finished, inbox, woken };
        let thread = thread::Builder::new()
            .name("pipeline".to_owned())
            .spawn(move || supervise(parts, outlet))
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

    /// What is promised about delivery on this cluster.
    pub fn delivery(&self) -> Delivery {
        self.shared.delivery
    }

    /// How long it may take from [`Self::stopper`]'s call to the end of [`Self::join`]. Each wait on the way has a bound of its own, but
    /// they may come one after another: whoever waits for longer may end the process, by which nothing is lost.
    pub fn stop_max(&self) -> Duration {
        let plan = &self.shared.plan;
        plan.pipeline.drain_timeout + plan.kafka.publish_timeout
    }

    /// Asks the pipeline to finish what it has read, commit and leave the group.
    pub fn stopper(&self) -> impl Fn() + Send + Sync + 'static {
        let shared = self.shared.clone();
        move || {
            shared.monitor.set_ready(false);
            shared.monitor.set_stopping();
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

/// How outcomes leave.
enum Outlet {
    AtLeastOnce,
    ExactlyOnce(Box<transact::Log>),
}

/// What the pipeline's thread works with.
struct Parts {
    shared: Arc<Shared>,
    consumer: Arc<Consumer>,
    engine: Arc<Engine>,
    publisher: Arc<Publisher<Ticket>>,
    finished: Sender<Release>,
    inbox: Receiver<Release>,
    woken: Receiver<()>,
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
fn supervise(parts: Parts, outlet: Outlet) -> Result<usize, PipelineError> {
    let Parts { shared, consumer, engine, publisher, finished, inbox, woken } = parts;
    // The poll loop must not wait here; what is in it counts into its back-pressure.
    let (arrived, records) = unbounded::<Arrived>();
    let polled = thread::scope(|scope| {
        let _ending = Ending(&shared, &engine);
        let releasing = thread::Builder::new().name("release".to_owned());
        let (shared, inbox, publisher) = (&shared, &inbox, &publisher);
        let mut started = releasing
            .spawn_scoped(scope, move || match outlet {
                Outlet::AtLeastOnce => release::run(shared, publisher, inbox),
                Outlet::ExactlyOnce(log) => transact::run(shared, *log, inbox),
            })
            .is_ok();
        let watching = thread::Builder::new().name("ends".to_owned());
        let watched = consumer.clone();
        started &= watching.spawn_scoped(scope, move || gauges::watch_ends(shared, &watched)).is_ok();
        for index in 0..shared.plan.pipeline.decode_threads {
            let intake =
                intake::Thread { shared: shared.clone(), publisher: publisher.clone(), finished: finished.clone() };
            let records = records.clone();
            let worker = thread::Builder::new().name(format!("intake-{index}"));
            started &= worker.spawn_scoped(scope, move || intake.run(&records)).is_ok();
        }
        if started {
            Poller::new(shared, &consumer, &engine, publisher, &arrived, &woken).run()
        } else {
            Err(PipelineError::Thread("intake"))
        }
    });
    let left = lock(&shared).records();
    engine.stop();
    leave(consumer, shared.plan.kafka.publish_timeout);
    polled?;
    match shared.failure.get() {
        Some(reason) => Err(PipelineError::Stopped(reason.clone())),
        None => Ok(left),
    }
}

/// Leaves the group, which takes a moment, and for which nobody waits longer than for brokers: librdkafka was seen to wait for ever
/// at its end, within a rebalance, for an answer of its own. All is committed by then, and who does not leave is missed when its
/// session ends.
fn leave(consumer: Arc<Consumer>, longest: Duration) {
    let (leaving, left) = bounded::<()>(1);
    let thread = thread::Builder::new().name("leave".to_owned()).spawn(move || {
        drop(consumer);
        drop(leaving);
    });
    if thread.is_ok() && left.recv_timeout(longest) == Err(RecvTimeoutError::Timeout) {
        tracing::warn!(waited = ?longest, "The group was not left in time; it misses this member when its session ends.");
    }
}
