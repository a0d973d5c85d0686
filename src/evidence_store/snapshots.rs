//! Writes snapshots to their topic, and restores a new store from them.

use std::{
    collections::BTreeMap,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{interrupted::Interrupted, snapshot::Assembly, store::Store};
use crate::{
    kafka::{Connection, Extent, Feeder, FeederOptions, KafkaError, TopicPartition},
    message::Outgoing,
    telemetry,
};

/// How snapshots are written.
pub(super) struct Snapshots {
    connection: Connection,
    /// None: no snapshots.
    topic: Option<String>,
    interval: Duration,
    group: String,
    /// The group, and who writes in it: instances that know each other share a name.
    writer: String,
    /// When the next one is due.
    due: Instant,
    publishing: Option<JoinHandle<()>>,
}

/// A chunk with its key and its frame. Kafka takes a megabyte where nothing else is set.
const RECORD_BYTES_MAX: usize = 900_000;
/// How long brokers may keep a snapshot waiting.
const PUBLISH_WAIT: Duration = Duration::from_secs(60);
const READ_WAIT: Duration = Duration::from_secs(30);

impl Snapshots {
    pub(super) fn new(
        connection: Connection,
        topic: Option<String>,
        interval: Duration,
        group: &str,
        writer: &str,
    ) -> Self {
        let writer = format!("{group}/{writer}");
        let (group, due) = (group.to_owned(), Instant::now() + interval);
        Self { connection, topic, interval, group, writer, due, publishing: None }
    }

    /// Restores a store where retention has cut records that it has not read.
    pub(super) fn restore(&self, store: &mut Store, topics: &[&str]) -> Result<(), Interrupted> {
        let Some(snapshot_topic) = self.topic.as_deref() else { return Ok(()) };
        let beginnings = self.connection.beginnings(topics)?;
        let next = |partition| store.offsets().get(partition).copied().unwrap_or_default();
        if beginnings.iter().any(|(partition, first)| next(partition) < *first) {
            self.restore_cut(store, snapshot_topic, &beginnings)?;
        }
        // A partition that is empty now is not cut at the next start.
        Ok(store.note_beginnings(&beginnings)?)
    }

    fn restore_cut(
        &self,
        store: &mut Store,
        snapshot_topic: &str,
        beginnings: &BTreeMap<TopicPartition, i64>,
    ) -> Result<(), Interrupted> {
        let mut assembly = Assembly::new(&self.group);
        match self.connection.read_backlog(snapshot_topic, &Extent::All, READ_WAIT, |record| {
            if let (Some(key), Some(value)) = (&record.key, &record.payload) {
                assembly.add(key, value);
            }
        }) {
            Ok(()) => {}
            Err(KafkaError::TopicMissing { .. }) => {
                tracing::warn!(
                    snapshot_topic,
                    "Retention has deleted records before evidence read them, and there is no topic of snapshots."
                );
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }

        let Some((snapshot, taken_ms)) = assembly.newest() else {
            tracing::warn!(
                snapshot_topic,
                "Retention has deleted records before evidence read them, and there is no snapshot."
            );
            return Ok(());
        };
        // Records between the snapshot and the beginning of a topic are in neither.
        let lost: i64 = snapshot
            .offsets
            .iter()
            .map(|(partition, next)| (beginnings.get(partition).copied().unwrap_or_default() - next).max(0))
            .sum();
        if !store.restore(&snapshot)? {
            tracing::warn!(
                snapshot_topic,
                "The snapshot is of topics that were deleted, or older than the store: it is not used."
            );
            return Ok(());
        }
        let age_s = (jiff::Timestamp::now().as_millisecond() - taken_ms) / 1_000;
        if lost > 0 {
            tracing::warn!(
                snapshot_topic,
                age_s,
                lost,
                "Restored evidence from a snapshot. Records after it are missing."
            );
        } else {
            tracing::info!(
                snapshot_topic,
                age_s,
                "Restored evidence from a snapshot, because retention has deleted older records."
            );
        }
        Ok(())
    }

    /// Whether it is time for a snapshot, and the one before is written.
    pub(super) fn is_due(&self) -> bool {
        let is_busy = self.publishing.as_ref().is_some_and(|publishing| !publishing.is_finished());
        self.topic.is_some() && Instant::now() >= self.due && !is_busy
    }

    /// Leaves out the snapshot that is due.
    pub(super) fn postpone(&mut self) {
        self.due = Instant::now() + self.interval;
    }

    /// Starts to write a snapshot.
    pub(super) fn write(&mut self, store: &Store) {
        self.postpone();
        let Some(topic) = self.topic.clone() else { return };
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let turn = now_ms as u64 / (self.interval.as_millis() as u64).max(1);

        let snapshot = match store.snapshot() {
            Ok(snapshot) => snapshot,
            Err(error) => return tracing::warn!(%error, "No snapshot of the evidence was taken."),
        };
        let Some(records) = snapshot.records(&self.writer, turn, now_ms) else {
            telemetry::evidence_snapshot("too_large");
            tracing::error!("The evidence is too large for a snapshot, more than 64 MiB.");
            return;
        };

        let connection = self.connection.clone();
        // Reading evidence does not wait for brokers that are slow to write.
        let spawned = std::thread::Builder::new().name("snapshot".to_owned()).spawn(move || {
            let bytes: usize = records.iter().map(|(_, value)| value.len()).sum();
            match publish(&connection, &topic, records) {
                Ok(()) => {
                    telemetry::evidence_snapshot("written");
                    tracing::debug!(bytes, "Wrote a snapshot of the evidence.");
                }
                Err(KafkaError::TopicMissing { topic, .. }) => {
                    telemetry::evidence_snapshot("no_topic");
                    tracing::debug!(topic, "There is no topic for snapshots of the evidence.");
                }
                Err(error) => {
                    telemetry::evidence_snapshot("failed");
                    tracing::warn!(%error, "No snapshot of the evidence was written.");
                }
            }
        });

        match spawned {
            Ok(publishing) => self.publishing = Some(publishing),
            Err(error) => tracing::warn!(%error, "No snapshot of the evidence was written."),
        }
    }
}

fn publish(connection: &Connection, topic: &str, records: Vec<(String, Vec<u8>)>) -> Result<(), KafkaError> {
    let options = FeederOptions {
        topic: topic.to_owned(),
        group_id: "ofa-stream-evidence".to_owned(),
        record_bytes_max: RECORD_BYTES_MAX,
        wait_max: PUBLISH_WAIT,
    };
    let feeder = Feeder::new(connection, options)?;
    for (key, value) in records {
        let topic = topic.to_owned();
        feeder.feed(&Outgoing { topic, key: Some(key.into_bytes()), payload: Some(value), headers: Vec::new() })?;
    }
    feeder.finish()
}
