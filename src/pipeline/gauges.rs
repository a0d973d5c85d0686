//! What the poll loop sees from time to time, as metrics.

use std::{
    collections::BTreeMap,
    sync::PoisonError,
    time::{Duration, Instant},
};

use super::{
    in_hand::InHand,
    monitor::Stall,
    poll::now_ms,
    release::lock,
    run::{INBOX_TIMEOUT, Shared},
};
use crate::{
    delivery::Flow,
    engine::{Busy, Cost, Engine, Identity, Lane, State, Version},
    kafka::{Consumer, Fetched, KafkaError},
    message::Source,
    settings::{GroupProtocol, PipelinePlan},
    telemetry::{self, Gauges, Lag},
};

const INTERVAL: Duration = Duration::from_secs(1);
const ENDS_INTERVAL: Duration = Duration::from_secs(2);
/// Every so many looks at the ends, the group's lag is looked at.
const GROUP_LAG_LOOKS: u32 = 3;

/// Looks at the gauges, and remembers what they need.
#[derive(Default)]
pub(super) struct Gauging {
    last: Option<Instant>,
    /// When the last record that was read of each source was published.
    timestamps: BTreeMap<Source, i64>,
    /// Every source that was ever shown: one that has gone to another member counts as zero here, or the sum over members
    /// would count it twice.
    shown: BTreeMap<Source, (i64, f64)>,
    /// The oldest record in flight of each source, and since when it is that.
    heads: BTreeMap<Source, (i64, Instant)>,
    /// Whether it was told that this member has no place in its group.
    outside: bool,
}

impl Gauging {
    /// A record was read.
    pub(super) fn read(&mut self, source: Source, timestamp_ms: Option<i64>) {
        self.timestamps.extend(timestamp_ms.map(|timestamp_ms| (source, timestamp_ms)));
    }

    /// Sets the gauges, where it is time.
    /// `in_hand` has the records of retry topics that are not due yet.
    pub(super) fn show(
        &mut self,
        shared: &Shared,
        consumer: &Consumer,
        engine: &Engine,
        flow: &Flow,
        in_hand: &InHand,
    ) {
        if self.last.is_some_and(|last| last.elapsed() < INTERVAL) {
            return;
        }
        self.last = Some(Instant::now());

        let (records, bytes, ready, sources, positions) = {
            let ledger = lock(shared);
            let sources = ledger.sources();
            let position = |source: &Source| (ledger.position(*source), ledger.records_of(*source) as i64);
            let positions: Vec<(Option<i64>, i64)> = sources.iter().map(position).collect();
            (ledger.records(), ledger.bytes(), ledger.ready(), sources, positions)
        };

        let statistics = consumer.statistics();
        self.belong(shared, statistics.belongs);
        self.shown.values_mut().for_each(|lag| *lag = (0, 0.0));

        let now = now_ms();
        for (source, (position, in_flight)) in sources.iter().zip(positions) {
            let idle = in_flight == 0;
            let Some(Fetched { end, next, waiting }) = statistics.sources.get(source).copied() else { continue };

            // Behind the last record there may be nothing but the marks of transactions.
            let first_held = in_hand.first_offset(*source);
            let all_read = idle && waiting == 0 && next >= end && first_held.is_none();
            // One that waits for its time is behind all that is in flight.
            let oldest = if idle { first_held.or(position) } else { position };

            let behind = match (all_read, source.topic) {
                (true, _) => 0,
                (false, 0) => (end - oldest.unwrap_or(next)).max(0),
                // Each record of a retry topic may come with the mark of a transaction of its own, which is no record.
                (false, _) => in_flight + in_hand.count(*source) as i64 + waiting + (end - next).max(0),
            };

            let timestamp = self.timestamps.get(source).filter(|_| behind > 0);
            let seconds = timestamp.map_or(0.0, |timestamp_ms| (now - timestamp_ms).max(0) as f64 / 1e3);
            self.shown.insert(*source, (behind, seconds));
        }

        let stalled_seconds = shared.monitor.set_stall(self.stalls(shared, consumer, engine));
        let lag = self.shown.iter().map(|(source, (records, seconds))| Lag {
            topic: consumer.topic(*source),
            kind: if source.topic == 0 { "requests" } else { "retry" },
            partition: source.partition,
            records: *records,
            seconds: *seconds,
        });
        unload(shared, engine);
        shared.monitor.set_unhealthy(engine.unhealthy());

        let serving = shared.serving.load();
        telemetry::gauges(&Gauges {
            records,
            bytes,
            ready,
            partitions: sources.len(),
            belongs: statistics.belongs,
            paused: flow.is_held(),
            breaker_open: shared.monitor.is_breaker_open(),
            delayed: flow.delayed(),
            rebalances: statistics.rebalances,
            stalled_seconds,
            decoding_bytes: shared.decoding.used(),
            prepared_bytes: shared.prepared.used(),
            reading_files: serving.sources.files.reading(),
            fetching: serving.sources.fetcher.fetching(),
            lag: lag.collect(),
        });
    }

    /// Everything that may stand still, each with its patience.
    fn stalls(&mut self, shared: &Shared, consumer: &Consumer, engine: &Engine) -> Vec<Stall> {
        let PipelinePlan { stalled_after, dead_after, .. } = shared.plan.pipeline;
        let mut stalls = self.records_that_stand_still(shared, consumer, stalled_after);
        if let Some((stage, ticket, lasted)) = shared.stages.oldest() {
            let place =
                format!("{}/{} offset {}", consumer.topic(ticket.source), ticket.source.partition, ticket.offset);
            let since = Instant::now().checked_sub(lasted).unwrap_or_else(Instant::now);
            let what = format!("{stage} of {place} lasts");
            stalls.push(Stall { what, since, patience: stalled_after, is_cause: true });
        }
        for version in engine.versions() {
            let name = &version.identity().name;
            stalls.extend(version.busy().map(|(busy, since)| {
                let (what, patience) = match busy {
                    Busy::Pass => (format!("a forward pass of version `{name}` lasts"), stalled_after),
                    // A large version takes minutes, and others answer meanwhile.
                    Busy::Load => (format!("loading version `{name}` lasts"), dead_after),
                };
                Stall { what, since, patience, is_cause: true }
            }));
        }
        stalls
    }

    fn records_that_stand_still(&mut self, shared: &Shared, consumer: &Consumer, patience: Duration) -> Vec<Stall> {
        let oldest: BTreeMap<Source, i64> = {
            let ledger = lock(shared);
            let in_flight = ledger.sources().into_iter().filter(|source| ledger.records_of(*source) > 0);
            in_flight.filter_map(|source| Some((source, ledger.position(source)?))).collect()
        };
        self.heads.retain(|source, (offset, _)| oldest.get(source) == Some(offset));
        let now = Instant::now();
        let mut stalls = Vec::new();
        for (source, offset) in oldest {
            let (_, since) = *self.heads.entry(source).or_insert((offset, now));
            let what = format!("{}/{} offset {offset} is in flight", consumer.topic(source), source.partition);
            stalls.push(Stall { what, since, patience, is_cause: false });
        }
        stalls
    }

    /// Tells once when the group does not let this member in: the client itself may say nothing, for ever.
    fn belong(&mut self, shared: &Shared, belongs: bool) {
        shared.monitor.set_belongs(belongs);
        let outside = shared.monitor.outside();
        if let Some(time) = outside.filter(|_| !self.outside) {
            let remedy = match shared.plan.kafka.group_protocol {
                GroupProtocol::Classic => "",
                GroupProtocol::Consumer => {
                    " Or brokers do not know `kafka.group_protocol = \"consumer\"`, which needs Kafka 4."
                }
            };
            tracing::error!(
                ?time,
                "The consumer group does not let this member in, and nothing is read. Brokers do not answer, or another member holds a \
                 rebalance up.{remedy}"
            );
        }
        if outside.is_none() && self.outside {
            tracing::info!("The consumer group has let this member in again.");
        }
        self.outside = outside.is_some();
    }
}

fn unload(shared: &Shared, engine: &Engine) {
    for gone in engine.unload(shared.serving.load().plan.keep_warm) {
        tracing::info!(version = gone.name, digest = gone.digest, "Version unloaded: no configuration names it.");
        telemetry::model_unloaded(&labels(&gone, &gone.device.to_string()), &State::NAMES);
    }
    // Afterwards: another of the same name may serve.
    engine.versions().iter().for_each(|version| show_version(version));
    for (device, Cost { threads, tokens, bytes }) in engine.used() {
        telemetry::device(&device, threads, tokens, bytes);
    }
}

/// Looks from time to time where the topics end, on a thread of its own: brokers may keep it waiting. Runs until the poll loop
/// has ended.
pub(super) fn watch_ends(shared: &Shared, consumer: &Consumer) {
    let mut looked: Option<Instant> = None;
    let mut looks = 0_u32;
    while !shared.is_over() {
        if looked.is_none_or(|looked| looked.elapsed() >= ENDS_INTERVAL) {
            let sources = lock(shared).sources();
            if let Err(error) = consumer.look_at_ends(&sources) {
                tracing::debug!(%error, "Where the topics end is not known now.");
            }
            if let Err(error) = look_at_topics(shared, consumer) {
                tracing::debug!(%error, "Whether topics were made again is not known now.");
            }
            if looks.is_multiple_of(GROUP_LAG_LOOKS) {
                show_group_lag(consumer);
            }
            looks = looks.wrapping_add(1);
            looked = Some(Instant::now());
        }
        std::thread::sleep(INBOX_TIMEOUT);
    }
}

/// Looks whether a topic was deleted and made again. Offsets of the old one mean nothing in it, so it is read from its beginning.
fn look_at_topics(shared: &Shared, consumer: &Consumer) -> Result<(), KafkaError> {
    for topic in consumer.recreated()? {
        telemetry::topic_recreated();
        tracing::error!(
            topic,
            "This topic was deleted and made again. It is read from its beginning: requests that were answered of the new one \
             before this was noticed are answered twice."
        );
        shared.recreated.lock().unwrap_or_else(PoisonError::into_inner).push(topic);
    }
    Ok(())
}

/// The group's lag of every partition, also of those that no member owns now.
fn show_group_lag(consumer: &Consumer) {
    match consumer.group_lag() {
        Ok(lag) => {
            for (source, records) in lag {
                telemetry::group_lag(consumer.topic(source), source.partition, records);
            }
        }
        Err(error) => tracing::debug!(%error, "The group's lag is not known now."),
    }
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
    let precision = identity.precision.as_str();
    telemetry::ModelLabels { version: &identity.name, device, precision, digest: &identity.digest }
}
