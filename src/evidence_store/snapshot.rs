//! All sums with their offsets, as records of a compacted topic. Pure.
//!
//! A new instance reads the topics of outcomes from their beginning. Where retention has cut them,
//! it takes the sums of the newest snapshot, and reads on from its offsets.
//!
//! A snapshot is cut into chunks, a record each. Two slots take turns, so that one whole snapshot
//! stays there while the next one is written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    error::StoreError,
    tables::{FORMAT, decode, encode},
};
use crate::evidence::{ArmKey, Excluded, ExperimentKey, ExperimentSums, Hour, PairSums, ReviewCounts, Sums};

/// Bytes of a snapshot in one record.
const CHUNK_BYTES: usize = 512 << 10;
/// Chunks of one snapshot, at most: 64 MiB.
const CHUNKS_MAX: usize = 128;

/// What a snapshot holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Snapshot {
    /// Names and ids of the topics that were read; an empty id is not known.
    pub(super) topics: BTreeMap<String, String>,
    /// The next offset of each partition.
    pub(super) offsets: BTreeMap<(String, i32), i64>,
    experiments: Vec<(ExperimentKey, ExperimentSums)>,
    hours: Vec<(ArmKey, i64, Hour)>,
    pairs: BTreeMap<(String, String), PairSums>,
    reviews: ReviewCounts,
    excluded: Excluded,
}

impl Snapshot {
    pub(super) fn new(topics: BTreeMap<String, String>, offsets: BTreeMap<(String, i32), i64>, sums: &Sums) -> Self {
        let mut hours = Vec::new();
        for (experiment, of) in &sums.experiments {
            for (variant, arm) in &of.arms {
                let key = ArmKey { experiment: experiment.clone(), variant: variant.clone() };
                hours.extend(arm.hours.iter().map(|(hour, sums)| (key.clone(), *hour, *sums)));
            }
        }
        Self {
            topics,
            offsets,
            experiments: sums.experiments.iter().map(|(key, sums)| (key.clone(), without_hours(sums))).collect(),
            hours,
            pairs: sums.pairs.clone(),
            reviews: sums.reviews,
            excluded: sums.excluded,
        }
    }

    /// The sums.
    pub(super) fn sums(&self) -> Sums {
        let mut sums = Sums {
            experiments: self.experiments.iter().cloned().collect(),
            pairs: self.pairs.clone(),
            reviews: self.reviews,
            excluded: self.excluded,
        };
        for (key, hour, of_hour) in &self.hours {
            let arm = sums.experiments.get_mut(&key.experiment).and_then(|of| of.arms.get_mut(&key.variant));
            if let Some(arm) = arm {
                arm.hours.insert(*hour, *of_hour);
            }
        }
        sums
    }

    /// The records, as keys and values, for a writer in its turn. None where it is too large.
    pub(super) fn records(&self, writer: &str, turn: u64, taken_ms: i64) -> Option<Vec<(String, Vec<u8>)>> {
        let bytes = encode(self);
        let chunks: Vec<&[u8]> = bytes.chunks(CHUNK_BYTES).collect();
        if chunks.len() > CHUNKS_MAX {
            return None;
        }
        let slot = turn % 2;
        let count = chunks.len() as u32;
        let record = |(place, bytes): (usize, &&[u8])| {
            let chunk = Chunk { format: FORMAT, taken_ms, place: place as u32, count, bytes: bytes.to_vec() };
            (format!("{writer}/{slot}/{place}"), encode(&chunk))
        };
        Some(chunks.iter().enumerate().map(record).collect())
    }
}

/// Hours are kept apart.
fn without_hours(sums: &ExperimentSums) -> ExperimentSums {
    let mut sums = sums.clone();
    sums.arms.values_mut().for_each(|arm| arm.hours.clear());
    sums
}

#[derive(Serialize, Deserialize)]
struct Chunk {
    format: u32,
    /// Identifies the snapshot within its slot.
    taken_ms: i64,
    place: u32,
    count: u32,
    bytes: Vec<u8>,
}

/// Puts the records of the topic together.
pub(super) struct Assembly {
    /// Records of other groups are left out: they may be of other topics.
    group: String,
    /// By writer and slot the chunks, by their place.
    slots: BTreeMap<String, BTreeMap<u32, Chunk>>,
}

impl Assembly {
    /// Without a record, for the snapshots of a group.
    pub(super) fn new(group: &str) -> Self {
        Self { group: format!("{group}/"), slots: BTreeMap::new() }
    }

    /// Adds a record. A later one of the same key replaces an earlier one. Records that are no
    /// chunks are ignored.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        let key = std::str::from_utf8(key).ok().filter(|key| key.starts_with(&self.group));
        let slot = key.and_then(|key| key.rsplit_once('/'));
        let chunk = decode::<Chunk>(value).ok().filter(|chunk| chunk.format == FORMAT && chunk.count > 0);
        if let (Some((slot, _)), Some(chunk)) = (slot, chunk) {
            self.slots.entry(slot.to_owned()).or_default().insert(chunk.place, chunk);
        }
    }

    /// The newest snapshot that is whole, and when it was taken.
    pub(super) fn newest(self) -> Option<(Snapshot, i64)> {
        let mut whole: Vec<(i64, Vec<u8>)> = self.slots.into_values().filter_map(joined).collect();
        whole.sort_by_key(|(taken_ms, _)| std::cmp::Reverse(*taken_ms));
        let read = |(taken_ms, bytes): (i64, Vec<u8>)| Some((read(&bytes).ok()?, taken_ms));
        whole.into_iter().find_map(read)
    }
}

fn read(bytes: &[u8]) -> Result<Snapshot, StoreError> {
    decode(bytes)
}

/// The bytes of the newest snapshot of a slot; none where a chunk of it is missing.
fn joined(chunks: BTreeMap<u32, Chunk>) -> Option<(i64, Vec<u8>)> {
    let newest = chunks.values().map(|chunk| chunk.taken_ms).max()?;
    // A longer snapshot that was there before leaves chunks behind.
    let own: Vec<&Chunk> = chunks.values().filter(|chunk| chunk.taken_ms == newest).collect();
    let count = own.first()?.count as usize;
    let is_whole = own.len() == count && own.iter().enumerate().all(|(place, chunk)| chunk.place as usize == place);
    is_whole.then(|| (newest, own.iter().flat_map(|chunk| chunk.bytes.iter().copied()).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::{VerdictSet, tests::verdict};

    fn snapshot(verdicts: usize) -> (Snapshot, Sums) {
        let mut set = VerdictSet::default();
        for number in 0..verdicts {
            set.add(&verdict(&number.to_string(), ["control", "treatment"][number % 2], "no", |verdict| {
                let hour = number % 24;
                verdict["timestamp"] = serde_json::json!(format!("2026-11-30T{hour:02}:00:00.000Z"));
            }));
        }
        let offsets = BTreeMap::from([(("verdicts".to_owned(), 0), verdicts as i64)]);
        (Snapshot::new(BTreeMap::new(), offsets, set.sums()), set.sums().clone())
    }

    fn newest(records: &[(String, Vec<u8>)]) -> Option<(Snapshot, i64)> {
        let mut assembly = Assembly::new("g");
        records.iter().for_each(|(key, value)| assembly.add(key.as_bytes(), value));
        assembly.newest()
    }

    #[test]
    fn a_snapshot_reads_back_as_the_sums_it_was_taken_of() {
        let (snapshot, sums) = snapshot(100);
        let records = snapshot.records("g/a", 7, 1_000).unwrap();
        let (read, taken_ms) = newest(&records).unwrap();
        assert_eq!((&read, taken_ms), (&snapshot, 1_000));
        assert_eq!(read.sums(), sums);
        assert_eq!(newest(&[]), None);
        assert_eq!(newest(&snapshot.records("other/a", 7, 1_000).unwrap()), None, "of another group");
        assert_eq!(newest(&[("g/a/0/0".to_owned(), b"no chunk".to_vec())]), None);
    }

    #[test]
    fn a_snapshot_that_is_half_written_leaves_the_one_before() {
        let (first, _) = snapshot(10);
        let (second, _) = snapshot(20);
        // Chunks as small as this come of large snapshots only.
        let cut = |snapshot: &Snapshot, turn: u64, taken_ms: i64| {
            let bytes = encode(snapshot);
            let chunks: Vec<&[u8]> = bytes.chunks(bytes.len() / 3 + 1).collect();
            let count = chunks.len() as u32;
            let record = |(place, bytes): (usize, &&[u8])| {
                let chunk = Chunk { format: FORMAT, taken_ms, place: place as u32, count, bytes: bytes.to_vec() };
                (format!("g/a/{}/{place}", turn % 2), encode(&chunk))
            };
            chunks.iter().enumerate().map(record).collect::<Vec<_>>()
        };
        let mut records = cut(&first, 0, 1_000);
        records.extend(cut(&second, 1, 2_000));
        assert_eq!(newest(&records).unwrap().0, second);
        records.pop();
        assert_eq!(newest(&records).unwrap(), (first.clone(), 1_000), "a chunk is missing");
        // The third one has begun to overwrite the first, and the second was never whole.
        records.push(cut(&second, 0, 3_000).remove(0));
        assert_eq!(newest(&records), None);
        // Another writer has slots of its own.
        records.extend(first.records("g/b", 1, 500).unwrap());
        assert_eq!(newest(&records).unwrap(), (first, 500));
    }
}
