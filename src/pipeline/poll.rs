//! Reads, pauses, commits, drains; on the thread that owns the consumer.

use std::{
    collections::BTreeMap,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use crossbeam_channel::Sender;

use super::{
    release::lock,
    run::{Arrived, PipelineError, Shared},
};
use crate::{
    engine::{Cost, Engine, Identity, Lane, State, Version},
    kafka::{Consumer, Publisher},
    message::Record,
    telemetry::{self, Gauges},
};

const POLL_TIMEOUT: Duration = Duration::from_millis(50);
const GAUGE_INTERVAL: Duration = Duration::from_secs(1);

/// Runs until the pipeline is told to stop, then drains.
pub(super) fn run(
    shared: &Shared,
    consumer: &Consumer,
    engine: &Engine,
    publisher: &Publisher,
    arrived: &Sender<Arrived>,
) -> Result<(), PipelineError> {
    let mut pressure = Pressure { paused: false };
    let mut commits = Interval::every(shared.plan.kafka.commit_interval);
    let mut gauges = Interval::every(GAUGE_INTERVAL);
    let mut lag = BTreeMap::new();
    shared.monitor.set_ready(true);
    while !shared.stop.load(Ordering::Acquire) {
        shared.monitor.beat();
        pressure.apply(shared, consumer)?;
        if let Some(record) = consumer.poll(POLL_TIMEOUT)? {
            take(shared, record, arrived);
        }
        if commits.is_due() {
            commit(shared, consumer);
        }
        if gauges.is_due() {
            show(shared, consumer, engine, pressure.paused, &mut lag);
        }
    }
    shared.monitor.set_ready(false);
    drain(shared, consumer, engine)?;
    if shared.failure.get().is_some() {
        return Ok(());
    }
    // What is answered already must not wait for what is not, and shadow verdicts, which share the producer, are no
    // reason to fail.
    commit_all(shared, consumer)?;
    let flushed = publisher.flush();
    commit_all(shared, consumer)?;
    match lock(shared).records() {
        0 => Ok(()),
        _ => Ok(flushed?),
    }
}

/// All offsets once more, and waited for: a commit that failed meanwhile has told nobody yet.
fn commit_all(shared: &Shared, consumer: &Consumer) -> Result<(), PipelineError> {
    let offsets = {
        let mut ledger = lock(shared);
        ledger.forget_committed();
        ledger.committable()
    };
    Ok(consumer.commit(&offsets, true)?)
}

/// Pause at the high mark, resume at half of it: toggling per record would throw away what the client
/// has fetched each time.
struct Pressure {
    paused: bool,
}

impl Pressure {
    fn apply(&mut self, shared: &Shared, consumer: &Consumer) -> Result<(), PipelineError> {
        let limits = &shared.plan.pipeline;
        let (records, bytes) = {
            let ledger = lock(shared);
            (ledger.records(), ledger.bytes())
        };
        let full = records >= limits.records_in_flight_max || bytes >= limits.bytes_in_flight_max;
        let roomy = records <= limits.records_in_flight_max / 2 && bytes <= limits.bytes_in_flight_max / 2;
        let arrivals = shared.reassigned.swap(false, Ordering::AcqRel);
        if (full && !self.paused) || (self.paused && arrivals) {
            consumer.pause()?;
            self.paused = true;
        } else if roomy && self.paused {
            consumer.resume()?;
            self.paused = false;
        }
        Ok(())
    }
}

fn take(shared: &Shared, record: Record, arrived: &Sender<Arrived>) {
    let now = Instant::now();
    let (partition, offset) = (record.partition, record.offset);
    let (gap, rewind, ticket) = {
        let mut ledger = lock(shared);
        let (gap, rewind) = (ledger.gap_before(partition, offset), ledger.is_rewind(partition, offset));
        (gap, rewind, ledger.register(partition, offset, record.size()))
    };
    if rewind {
        tracing::warn!(partition, offset, "The log goes back: it was cut or made anew, and is read from here.");
    }
    // Only the embedded broker drops records that were not read; elsewhere gaps are compaction or
    // control records.
    if gap > 0 && shared.plan.kafka.bootstrap_servers.is_none() {
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
    // The channel has room for everything in flight; it is closed only after this loop.
    arrived.send((ticket, record, now)).ok();
}

fn commit(shared: &Shared, consumer: &Consumer) {
    let offsets = lock(shared).committable();
    if let Err(error) = consumer.commit(&offsets, false) {
        lock(shared).forget_committed();
        tracing::warn!(%error, "A commit failed and is tried again; until then a crash would repeat verdicts.");
    }
}

/// Waits for what is in flight. Polling goes on, so that the group keeps this member meanwhile.
fn drain(shared: &Shared, consumer: &Consumer, engine: &Engine) -> Result<(), PipelineError> {
    engine.hurry();
    let deadline = Instant::now() + shared.plan.pipeline.drain_timeout;
    consumer.pause()?;
    loop {
        shared.monitor.beat();
        let left = lock(shared).records();
        if left == 0 || shared.failure.get().is_some() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            tracing::warn!(records = left, "The drain took too long; these records will be read again.");
            return Ok(());
        }
        // A record that arrives now stays unregistered and uncommitted: it is read again later.
        consumer.poll(POLL_TIMEOUT)?;
        commit(shared, consumer);
    }
}

/// `lag` keeps every partition that was ever shown: one that has gone to another member counts as zero
/// here, or the sum over members would count it twice.
fn show(shared: &Shared, consumer: &Consumer, engine: &Engine, paused: bool, lag: &mut BTreeMap<i32, i64>) {
    let (records, bytes, partitions) = {
        let ledger = lock(shared);
        (ledger.records(), ledger.bytes(), ledger.partitions())
    };
    lag.values_mut().for_each(|records| *records = 0);
    lag.extend(consumer.lag().into_iter().filter(|(partition, _)| partitions.contains(partition)));
    for gone in engine.unload(shared.serving.load().plan.keep_warm) {
        tracing::info!(version = gone.name, digest = gone.digest, "Version unloaded: no configuration names it.");
        telemetry::model_unloaded(&labels(&gone, &gone.device.to_string()), &State::NAMES);
    }
    // Afterwards: another of the same name may serve.
    engine.versions().iter().for_each(|version| show_version(version));
    shared.monitor.set_unhealthy(engine.unhealthy());
    for (device, Cost { threads, tokens, bytes }) in engine.used() {
        telemetry::device(&device, threads, tokens, bytes);
    }
    telemetry::gauges(&Gauges { records, bytes, partitions: partitions.len(), paused, lag });
}

/// What is known of a version now.
pub(super) fn show_version(version: &Version) {
    let identity = version.identity();
    let device = identity.device.to_string();
    let labels = labels(identity, &device);
    let loaded = version.loaded().map(|loaded| (loaded.loading, loaded.memory_bytes));
    telemetry::model(&labels, version.state().as_str(), &State::NAMES, loaded);
    for lane in Lane::ALL {
        telemetry::queue_depth(&identity.name, lane.as_str(), version.queue_depth(lane));
    }
}

fn labels<'i>(identity: &'i Identity, device: &'i str) -> telemetry::ModelLabels<'i> {
    telemetry::ModelLabels { version: &identity.name, device, digest: &identity.digest }
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
