//! Which records are where, per partition. Pure: no Kafka, no clock, no threads.
//!
//! A record is registered when it is read, completed when its outcome is known, released when all
//! records before it in its partition are released, acknowledged when the brokers have its outcome.
//! Inference may finish in any order; outcomes leave in offset order, and a partition's committable
//! offset is the one behind its last record whose predecessors are all acknowledged.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Names one record in one ownership of its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket {
    /// The partition.
    pub partition: i32,
    /// Counts ownerships of the partition: after a revocation, what was still on its way is void.
    pub epoch: u64,
    /// The offset.
    pub offset: i64,
}

/// The records in flight, with outcomes of type `T`.
#[derive(Debug)]
pub struct Ledger<T> {
    partitions: BTreeMap<i32, Partition<T>>,
    epochs: u64,
    records: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Partition<T> {
    epoch: u64,
    /// In offset order; the acknowledged ones at the front are gone.
    entries: VecDeque<Entry<T>>,
    /// Entries at the front that are released.
    released: usize,
    /// The last offset that was read here.
    last: Option<i64>,
    /// Behind the last record whose predecessors are all acknowledged.
    next: Option<i64>,
    committed: Option<i64>,
}

#[derive(Debug)]
struct Entry<T> {
    offset: i64,
    bytes: usize,
    state: State<T>,
}

#[derive(Debug)]
enum State<T> {
    Working,
    Ready(T),
    Released,
    Acknowledged,
}

impl<T> Default for Ledger<T> {
    fn default() -> Self {
        Self { partitions: BTreeMap::new(), epochs: 0, records: 0, bytes: 0 }
    }
}

impl<T> Ledger<T> {
    /// Takes a partition over. One that is already owned keeps its records.
    pub fn assign(&mut self, partition: i32) {
        if self.partitions.contains_key(&partition) {
            return;
        }
        self.epochs += 1;
        let fresh = Partition {
            epoch: self.epochs,
            entries: VecDeque::new(),
            released: 0,
            last: None,
            next: None,
            committed: None,
        };
        self.partitions.insert(partition, fresh);
    }

    /// Gives a partition up with everything in flight there; gives back the offset to commit, where
    /// there is a new one.
    pub fn revoke(&mut self, partition: i32) -> Option<i64> {
        let gone = self.partitions.remove(&partition)?;
        self.records -= gone.entries.len();
        self.bytes -= gone.entries.iter().map(|entry| entry.bytes).sum::<usize>();
        gone.next.filter(|next| gone.committed != Some(*next))
    }

    /// Notes a record that was read. None for a partition that is not owned, and for a record that is
    /// in flight already. An offset that lies behind what was read before means that the log was cut
    /// or made anew: what was in flight then is void, and reading goes on from there.
    pub fn register(&mut self, partition: i32, offset: i64, bytes: usize) -> Option<Ticket> {
        if self.is_rewind(partition, offset) {
            self.revoke(partition);
            self.assign(partition);
        }
        let owned = self.partitions.get_mut(&partition)?;
        if owned.last.is_some_and(|last| last >= offset) {
            return None;
        }
        owned.last = Some(offset);
        owned.entries.push_back(Entry { offset, bytes, state: State::Working });
        self.records += 1;
        self.bytes += bytes;
        Some(Ticket { partition, epoch: owned.epoch, offset })
    }

    /// Whether an offset lies behind what was read of a partition, without being in flight.
    pub fn is_rewind(&self, partition: i32, offset: i64) -> bool {
        let Some(owned) = self.partitions.get(&partition) else { return false };
        let in_flight = owned.entries.binary_search_by_key(&offset, |entry| entry.offset).is_ok();
        owned.last.is_some_and(|last| last >= offset) && !in_flight
    }

    /// Whether somebody still waits for this record's outcome.
    pub fn is_wanted(&self, ticket: Ticket) -> bool {
        self.partitions.get(&ticket.partition).is_some_and(|owned| owned.epoch == ticket.epoch)
    }

    /// Offsets between the last record that was read from a partition and this one.
    pub fn gap_before(&self, partition: i32, offset: i64) -> i64 {
        let last = self.partitions.get(&partition).and_then(|owned| owned.last);
        last.map_or(0, |last| (offset - last - 1).max(0))
    }

    /// Notes a record's outcome. False when the ticket is void, or has its outcome already.
    pub fn complete(&mut self, ticket: Ticket, outcome: T) -> bool {
        match self.entry(ticket) {
            Some(entry) if matches!(entry.state, State::Working) => {
                entry.state = State::Ready(outcome);
                true
            }
            _ => false,
        }
    }

    /// Takes the outcomes that may leave now, per partition in offset order.
    pub fn release(&mut self) -> Vec<(Ticket, T)> {
        let mut leaving = Vec::new();
        for (&partition, owned) in &mut self.partitions {
            while let Some(entry) = owned.entries.get_mut(owned.released) {
                match std::mem::replace(&mut entry.state, State::Released) {
                    State::Ready(outcome) => {
                        leaving.push((Ticket { partition, epoch: owned.epoch, offset: entry.offset }, outcome));
                        owned.released += 1;
                    }
                    state => {
                        entry.state = state;
                        break;
                    }
                }
            }
        }
        leaving
    }

    /// Notes that the brokers have a released outcome. False when the ticket is void.
    pub fn acknowledge(&mut self, ticket: Ticket) -> bool {
        match self.entry(ticket) {
            Some(entry) if matches!(entry.state, State::Released) => entry.state = State::Acknowledged,
            _ => return false,
        }
        let Some(owned) = self.partitions.get_mut(&ticket.partition) else { return false };
        while let Some(entry) = owned.entries.pop_front_if(|entry| matches!(entry.state, State::Acknowledged)) {
            owned.released -= 1;
            owned.next = Some(entry.offset + 1);
            self.records -= 1;
            self.bytes -= entry.bytes;
        }
        true
    }

    /// Takes the offsets that are new to be committed, as partition and next offset.
    pub fn committable(&mut self) -> Vec<(i32, i64)> {
        let mut offsets = Vec::new();
        for (&partition, owned) in &mut self.partitions {
            if owned.next != owned.committed {
                owned.committed = owned.next;
                offsets.extend(owned.next.map(|next| (partition, next)));
            }
        }
        offsets
    }

    /// Makes the current offsets committable again, after a commit that failed.
    pub fn forget_committed(&mut self) {
        for owned in self.partitions.values_mut() {
            owned.committed = None;
        }
    }

    /// Records in flight.
    pub fn records(&self) -> usize {
        self.records
    }

    /// Bytes in flight.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Partitions owned.
    pub fn partitions(&self) -> BTreeSet<i32> {
        self.partitions.keys().copied().collect()
    }

    fn entry(&mut self, ticket: Ticket) -> Option<&mut Entry<T>> {
        let owned = self.partitions.get_mut(&ticket.partition).filter(|owned| owned.epoch == ticket.epoch)?;
        let index = owned.entries.binary_search_by_key(&ticket.offset, |entry| entry.offset).ok()?;
        owned.entries.get_mut(index)
    }
}

#[cfg(test)]
mod tests;
