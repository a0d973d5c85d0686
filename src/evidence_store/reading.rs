//! How far the reader is within the topics.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use super::store::TopicKind;
use crate::{
    kafka::{Follower, TopicPartition},
    message::Record,
};

/// The state of reading.
pub(super) struct Reading {
    pub(super) follower: Follower,
    pub(super) kinds: BTreeMap<String, TopicKind>,
    pub(super) batch: Vec<(TopicKind, Record)>,
    /// Partitions that were read to their end.
    pub(super) at_end: BTreeSet<TopicPartition>,
    pub(super) partitions: BTreeSet<TopicPartition>,
    /// The time of the last record of each partition, in milliseconds since 1970.
    pub(super) newest_ms: BTreeMap<TopicPartition, i64>,
    /// Whether every partition was at its end at some time.
    pub(super) has_caught_up: bool,
    /// When the batch is written.
    pub(super) due: Instant,
}

impl Reading {
    pub(super) fn take(&mut self, mut record: Record) {
        let Some(kind) = self.kinds.get(&record.topic).copied() else { return };
        let partition = (record.topic.clone(), record.partition);
        self.at_end.remove(&partition);
        self.newest_ms.insert(partition, record.timestamp_ms.unwrap_or_default());
        if kind == TopicKind::DeadLetters {
            // It holds the request with its picture. Headers are enough.
            record.payload = None;
        }
        self.batch.push((kind, record));
    }

    /// The age of the last record of the partition that is furthest behind; 0 when all are at their
    /// end.
    pub(super) fn behind_ms(&self, now_ms: i64) -> u64 {
        let behind = self.partitions.iter().filter(|partition| !self.at_end.contains(*partition));
        let ages = behind.map(|partition| now_ms - self.newest_ms.get(partition).copied().unwrap_or(now_ms));
        ages.max().unwrap_or_default().max(0) as u64
    }
}
