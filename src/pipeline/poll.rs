//! Reads, pauses, commits, drains; on the thread that owns the consumer.

use std::{
    sync::{PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender};

use super::{
    gauges::Gauging,
    in_hand::{InHand, Waiting},
    outcome::since_the_epoch,
    ownership::GivingUp,
    release::lock,
    run::{Arrived, PipelineError, Shared},
};
use crate::{
    delivery::{Flow, Ticket},
    engine::Engine,
    kafka::{Consumer, KafkaError, Publisher},
    message::{Record, Source, forget_retries, retry_due_ms},
    settings::Delivery,
    telemetry,
};

const POLL_TIMEOUT: Duration = Duration::from_millis(50);
/// Records taken before everything else has its turn.
const READ_AT_ONCE: usize = 64;

/// The poll loop.
pub(super) struct Poller<'p> {
    pub(super) shared: &'p Shared,
    pub(super) consumer: &'p Consumer,
    engine: &'p Engine,
    publisher: &'p Publisher<Ticket>,
    arrived: &'p Sender<Arrived>,
    woken: &'p Receiver<()>,
    pub(super) flow: Flow,
    /// Records of retry topics that are not due yet.
    pub(super) in_hand: InHand,
    /// Whether nothing more is taken, for good.
    draining: bool,
    /// Whether too many are in flight, and whether the breaker is open, when it was last looked.
    pressed: bool,
    broken: bool,
    /// Partitions that are to go to other members, oldest first.
    pub(super) giving_up: Vec<GivingUp>,
    /// When sources that are to be read again are looked at next.
    pub(super) rewind_at: Instant,
    commits: Interval,
    gauging: Gauging,
}

impl<'p> Poller<'p> {
    pub(super) fn new(
        shared: &'p Shared,
        consumer: &'p Consumer,
        engine: &'p Engine,
        publisher: &'p Publisher<Ticket>,
        arrived: &'p Sender<Arrived>,
        woken: &'p Receiver<()>,
    ) -> Self {
        Self {
            shared,
            consumer,
            engine,
            publisher,
            arrived,
            woken,
            flow: Flow::default(),
            in_hand: InHand::default(),
            draining: false,
            pressed: false,
            broken: false,
            giving_up: Vec::new(),
            rewind_at: Instant::now(),
            commits: Interval::every(shared.plan.kafka.commit_interval),
            gauging: Gauging::default(),
        }
    }

    /// Runs until the pipeline is told to stop, then drains.
    pub(super) fn run(&mut self) -> Result<(), PipelineError> {
        let shared = self.shared;
        shared.monitor.set_ready(true);
        while !shared.stop.load(Ordering::Acquire) {
            self.turn()?;
        }
        shared.monitor.set_ready(false);
        let drained = self.drain();
        self.give_up_all()?;
        drained?;
        if shared.failure.get().is_some() || shared.delivery == Delivery::ExactlyOnce {
            return Ok(());
        }
        // What is answered already must not wait for what is not, and shadow verdicts, which share the producer, are no
        // reason to fail.
        self.commit_all()?;
        let flushed = self.publisher.flush();
        self.commit_all()?;
        match lock(shared).records() {
            0 => Ok(()),
            _ => Ok(flushed?),
        }
    }

    /// One round.
    fn turn(&mut self) -> Result<(), PipelineError> {
        self.shared.monitor.beat();
        match self.consumer.serve() {
            Ok(changes) => self.follow(changes)?,
            Err(KafkaError::Twin { .. }) => self.rejoin()?,
            Err(error) => return Err(error.into()),
        }
        self.rejoin_if_replaced()?;
        self.read_recreated();
        let read = self.read()?;
        self.give_up()?;
        self.rewind();
        if self.shared.delivery == Delivery::AtLeastOnce && self.commits.is_due() {
            self.commit();
        }
        self.gauging.show(self.shared, self.consumer, self.engine, &self.flow, &self.in_hand);
        if !read {
            // Records that come, and room for them, end it early.
            self.woken.recv_timeout(POLL_TIMEOUT).ok();
        }
        Ok(())
    }

    /// Takes records while there is room, though not for ever; false where it took none.
    fn read(&mut self) -> Result<bool, PipelineError> {
        self.flow.end_delays(now_ms());
        for taken in 0..READ_AT_ONCE {
            self.apply_pressure();
            if let Some((source, waiting)) = self.next_due() {
                self.take(source, waiting);
                continue;
            }
            let Some((source, record)) = self.next_read()? else { return Ok(taken > 0) };
            let waiting = Waiting { due_ms: self.due_ms(source, &record), record };
            if self.in_hand.count(source) > 0 {
                self.in_hand.push_back(source, waiting);
            } else {
                self.take(source, waiting);
            }
        }
        Ok(true)
    }

    /// A record in hand whose partition is delayed no longer.
    fn next_due(&mut self) -> Option<(Source, Waiting)> {
        let is_open = |source: &Source| self.flow.is_open(*source) && lock(self.shared).is_open(*source);
        let source = self.in_hand.sources().find(is_open)?;
        Some((source, self.in_hand.pop(source)?))
    }

    /// A record that the client has: of a partition that is open, or delayed with room to read ahead.
    fn next_read(&self) -> Result<Option<(Source, Record)>, PipelineError> {
        let is_open = |source| {
            let is_wanted = if self.in_hand.count(source) > 0 {
                self.flow.is_open_but_for_delay(source) && self.in_hand.has_room(source)
            } else {
                self.flow.is_open(source)
            };
            // What is to be read again lies in wait until it was sought.
            is_wanted && lock(self.shared).is_open(source)
        };
        Ok(self.consumer.next(is_open)?)
    }

    /// Takes no records from the high mark on until the low one, nor while too much fails. The client goes on fetching up to its
    /// own bounds.
    fn apply_pressure(&mut self) {
        let limits = &self.shared.plan.pipeline;
        let (records, bytes) = {
            let ledger = lock(self.shared);
            (ledger.records(), ledger.bytes())
        };
        let open = self.shared.breaker.lock().unwrap_or_else(PoisonError::into_inner).is_open(Instant::now());
        self.shared.monitor.set_breaker(open);
        // Records that wait for their time lie in memory too. By themselves they hold nothing up: they leave in time.
        let bytes = if records > 0 { bytes + self.in_hand.bytes() } else { bytes };
        // After an abort nothing is in flight, and intake threads may still have to throw away what was.
        let records = records.max(self.arrived.len());
        let full = records >= limits.records_in_flight_max || bytes >= limits.bytes_in_flight_max;
        let roomy = records <= low_mark(limits.records_in_flight_max) && bytes <= low_mark(limits.bytes_in_flight_max);
        let pressed = full || (self.pressed && !roomy);
        if pressed && !self.pressed {
            telemetry::paused("pressure");
        }
        if open && !self.broken {
            telemetry::paused("breaker");
        }
        (self.pressed, self.broken) = (pressed, open);
        let held = open || pressed || self.draining;
        self.flow.hold(held);
        self.shared.held.store(held, Ordering::Release);
    }

    fn take(&mut self, source: Source, waiting: Waiting) {
        let now = Instant::now();
        if let Some(due_ms) = waiting.due_ms.filter(|due_ms| *due_ms > now_ms()) {
            self.flow.delay(source, due_ms);
            self.in_hand.push_front(source, waiting);
            return;
        }
        let mut record = waiting.record;
        if source.topic == 0 {
            // Only this program may say of a record where it came from and how often it was tried.
            forget_retries(&mut record);
        }
        let offset = record.offset;
        let (gap, rewind, ticket) = {
            let mut ledger = lock(self.shared);
            let (gap, rewind) = (ledger.gap_before(source, offset), ledger.is_rewind(source, offset));
            (gap, rewind, ledger.register(source, offset, record.size()))
        };
        let partition = source.partition;
        if rewind {
            tracing::warn!(partition, offset, "The log goes back: it was cut or made anew, and is read from here.");
        }
        // Only the embedded broker drops records that were not read; elsewhere gaps are compaction or
        // control records.
        if gap > 0 && self.shared.plan.kafka.bootstrap_servers.is_none() {
            telemetry::records_evicted(gap as u64);
            tracing::error!(
                partition,
                offset,
                records = gap,
                "The embedded broker dropped records before they were read; publish less at a time."
            );
        }
        let Some(ticket) = ticket else { return };
        telemetry::record_consumed();
        if record.key.is_none() {
            telemetry::key_missing();
        }
        self.gauging.read(source, record.timestamp_ms);
        // It is closed only after this loop.
        self.arrived.send((ticket, record, now)).ok();
    }

    /// When a record of a retry topic is due. An instance with a wrong clock may have written it, so it waits no longer than its
    /// topic's delay, from its own time or from now.
    fn due_ms(&self, source: Source, record: &Record) -> Option<i64> {
        let index = usize::from(source.topic).checked_sub(1)?;
        let delay = self.shared.plan.kafka.retries.get(index)?.delay.as_millis() as i64;
        let longest = record.timestamp_ms.unwrap_or(i64::MAX).min(now_ms()).saturating_add(delay);
        Some(retry_due_ms(record)?.min(longest))
    }

    fn commit(&mut self) {
        if self.consumer.commit_failed() {
            lock(self.shared).forget_committed();
        }
        let offsets = lock(self.shared).committable();
        if let Err(error) = self.consumer.commit(&offsets, false) {
            lock(self.shared).forget_committed();
            tracing::warn!(%error, "A commit failed and is tried again; until then a crash would repeat verdicts.");
        }
    }

    /// All offsets once more, and waited for: a commit that failed meanwhile has told nobody yet.
    fn commit_all(&self) -> Result<(), PipelineError> {
        let offsets = {
            let mut ledger = lock(self.shared);
            ledger.forget_committed();
            ledger.committable()
        };
        Ok(self.consumer.commit(&offsets, true)?)
    }

    /// Waits for what is in flight. Polling goes on, so that the group keeps this member meanwhile.
    fn drain(&mut self) -> Result<(), PipelineError> {
        let shared = self.shared;
        self.engine.hurry();
        shared.hurry.store(true, Ordering::Release);
        self.draining = true;
        let deadline = Instant::now() + shared.plan.pipeline.drain_timeout;
        loop {
            let left = lock(shared).records();
            if left == 0 || shared.failure.get().is_some() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                tracing::warn!(records = left, "The drain took too long; these records will be read again.");
                return Ok(());
            }
            self.turn()?;
        }
    }
}

/// Where reading goes on after it was held up at a high mark.
fn low_mark(high: usize) -> usize {
    high - high.div_ceil(4)
}

pub(super) fn now_ms() -> i64 {
    since_the_epoch().as_millis() as i64
}

struct Interval {
    length: Duration,
    last: Instant,
}

impl Interval {
    fn every(length: Duration) -> Self {
        Self { length, last: Instant::now() }
    }

    fn is_due(&mut self) -> bool {
        let due = self.last.elapsed() >= self.length;
        if due {
            self.last = Instant::now();
        }
        due
    }
}
