//! Records of retry topics that were read and are not due yet, in their order. The client library
//! counts transaction markers as fetched records. The lag of a retry topic is therefore known only
//! for records that were taken from the client.

use std::collections::{BTreeMap, VecDeque};

use crate::message::{Record, Source};

/// Records of one partition that were read before they are due, and the bytes of all of them. The
/// first one is read at any size.
const RECORDS_MAX: usize = 100;
const BYTES_MAX: usize = 256 << 10;

#[derive(Debug, Default)]
pub(super) struct InHand {
    sources: BTreeMap<Source, Held>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Held {
    records: VecDeque<Waiting>,
    bytes: usize,
}

/// A record, and when it is due, in milliseconds since the Unix epoch. That is computed once, when the record is read: it depends on
/// this machine's clock where the record's own time is missing or wrong.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) record: Record,
    pub(super) due_ms: Option<i64>,
}

impl InHand {
    /// Bytes of all records.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Records of a source.
    pub(super) fn count(&self, source: Source) -> usize {
        self.sources.get(&source).map_or(0, |held| held.records.len())
    }

    /// The offset of the first record of a source.
    pub(super) fn first_offset(&self, source: Source) -> Option<i64> {
        self.sources.get(&source)?.records.front().map(|waiting| waiting.record.offset)
    }

    /// Whether another record of a source is read ahead.
    pub(super) fn has_room(&self, source: Source) -> bool {
        self.sources.get(&source).is_none_or(|held| held.records.len() < RECORDS_MAX && held.bytes < BYTES_MAX)
    }

    /// Sources of which there are records.
    pub(super) fn sources(&self) -> impl Iterator<Item = Source> {
        self.sources.keys().copied()
    }

    /// Puts the first record of a source back.
    pub(super) fn push_front(&mut self, source: Source, waiting: Waiting) {
        self.count_bytes(source, waiting.record.size()).records.push_front(waiting);
    }

    /// Adds the next record of a source.
    pub(super) fn push_back(&mut self, source: Source, waiting: Waiting) {
        self.count_bytes(source, waiting.record.size()).records.push_back(waiting);
    }

    /// Takes the first record of a source.
    pub(super) fn pop(&mut self, source: Source) -> Option<Waiting> {
        let held = self.sources.get_mut(&source)?;
        let waiting = held.records.pop_front()?;
        held.bytes -= waiting.record.size();
        self.bytes -= waiting.record.size();
        if held.records.is_empty() {
            self.sources.remove(&source);
        }
        Some(waiting)
    }

    /// Forgets the records of a source: it is read from elsewhere, or by another member.
    pub(super) fn forget(&mut self, source: Source) {
        if let Some(held) = self.sources.remove(&source) {
            self.bytes -= held.bytes;
        }
    }

    fn count_bytes(&mut self, source: Source, bytes: usize) -> &mut Held {
        let held = self.sources.entry(source).or_default();
        held.bytes += bytes;
        self.bytes += bytes;
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(offset: i64, bytes: usize) -> Waiting {
        let record = Record { offset, payload: Some(vec![0; bytes]), ..Record::default() };
        Waiting { record, due_ms: None }
    }

    #[test]
    fn records_keep_their_order_and_bytes_are_counted() {
        let (source, other) = (Source { topic: 1, partition: 0 }, Source { topic: 1, partition: 1 });
        let mut in_hand = InHand::default();
        assert!(in_hand.has_room(source) && in_hand.pop(source).is_none());
        in_hand.push_front(source, record(5, 10));
        in_hand.push_back(source, record(7, 20));
        in_hand.push_back(other, record(1, 30));
        assert_eq!((in_hand.count(source), in_hand.first_offset(source)), (2, Some(5)));
        let first = in_hand.pop(source).unwrap();
        assert_eq!((first.record.offset, in_hand.first_offset(source)), (5, Some(7)));
        in_hand.push_front(source, first);
        assert_eq!(in_hand.first_offset(source), Some(5));
        in_hand.forget(source);
        assert_eq!((in_hand.count(source), in_hand.sources().collect::<Vec<_>>()), (0, vec![other]));
        in_hand.pop(other).unwrap();
        assert_eq!(in_hand.bytes(), 0);
    }

    #[test]
    fn so_many_records_and_bytes_of_a_partition_are_read_ahead() {
        let source = Source { topic: 1, partition: 0 };
        let mut many = InHand::default();
        (0..RECORDS_MAX as i64).for_each(|offset| many.push_back(source, record(offset, 1)));
        let mut large = InHand::default();
        large.push_back(source, record(0, BYTES_MAX));
        assert!(!many.has_room(source) && !large.has_room(source));
        assert!(many.has_room(Source { topic: 1, partition: 1 }));
    }
}
