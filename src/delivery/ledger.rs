//! Which records are where, per source. Pure: no Kafka, no clock, no threads.
//!
//! A record is registered when it is read, completed when its outcome is known, released when all
//! records before it in its source are released, and done when the brokers have its outcome: acknowledged one
//! by one, or settled by the transaction that held it. Inference may finish in any order; outcomes leave in offset
//! order, and a source's committable offset is the one behind its last record whose predecessors are all done.

use std::collections::{BTreeMap, VecDeque};

use crate::message::Source;

/// Names one record in one ownership of its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket {
    /// Where it was read.
    pub source: Source,
    /// Counts ownerships of the source: after a revocation, what was still on its way is void.
    pub epoch: u64,
    /// The offset.
    pub offset: i64,
}

/// How far the released records of a source go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reached {
    /// The source.
    pub source: Source,
    /// Its ownership.
    pub epoch: u64,
    /// The offset behind the last released record: what a transaction commits.
    pub next: i64,
}

/// The records in flight, with outcomes of type `T`.
#[derive(Debug)]
pub struct Ledger<T> {
    sources: BTreeMap<Source, Owned<T>>,
    epochs: u64,
    records: usize,
    bytes: usize,
    ready: usize,
}

#[derive(Debug)]
struct Owned<T> {
    epoch: u64,
    reading: Reading,
    /// In offset order; those at the front that are done are gone.
    entries: VecDeque<Entry<T>>,
    /// Entries at the front that are released.
    released: usize,
    /// The first and the last offset that were read here.
    first: Option<i64>,
    last: Option<i64>,
    /// Behind the last record whose predecessors are all done.
    next: Option<i64>,
    committed: Option<i64>,
    /// Where the group stands, as far as is known here.
    stands: Option<i64>,
    /// The generation of the group in which it was asked where it stands.
    asked_in: Option<i32>,
}

/// Whether records of a source are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Open,
    /// It is about to be given up: what was taken is finished, nothing more is.
    Leaving,
    /// It is to be read again from where it was committed; what arrives before that is not taken.
    Rewinding,
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
        Self { sources: BTreeMap::new(), epochs: 0, records: 0, bytes: 0, ready: 0 }
    }
}

impl<T> Owned<T> {
    fn new(epoch: u64) -> Self {
        Self {
            epoch,
            reading: Reading::Open,
            entries: VecDeque::new(),
            released: 0,
            first: None,
            last: None,
            next: None,
            committed: None,
            stands: None,
            asked_in: None,
        }
    }
}

impl<T> Ledger<T> {
    /// Takes a source over. One that is already owned keeps its records.
    pub fn assign(&mut self, source: Source) {
        if !self.sources.contains_key(&source) {
            self.epochs += 1;
            self.sources.insert(source, Owned::new(self.epochs));
        }
    }

    /// Takes no more records of a source: it is about to be given up.
    pub fn leave(&mut self, source: Source) {
        if let Some(owned) = self.sources.get_mut(&source) {
            owned.reading = Reading::Leaving;
        }
    }

    /// Gives a source up with everything in flight there; gives back the offset to commit, where
    /// there is a new one.
    pub fn revoke(&mut self, source: Source) -> Option<i64> {
        let gone = self.sources.remove(&source)?;
        self.forget(&gone);
        gone.next.filter(|next| gone.committed != Some(*next))
    }

    /// Notes a record that was read. None for a source that is not owned, or not read now, and for a record that is
    /// in flight already. An offset that lies behind what was read before means that the log was cut
    /// or made anew: what was in flight then is void, and reading goes on from there.
    pub fn register(&mut self, source: Source, offset: i64, bytes: usize) -> Option<Ticket> {
        if self.is_rewind(source, offset) {
            // The group still stands where it stood, though nothing is there any more.
            let stands = self.sources.get(&source).and_then(|owned| owned.stands);
            self.revoke(source);
            self.assign(source);
            if let Some(owned) = self.sources.get_mut(&source) {
                owned.stands = stands;
            }
        }
        let owned = self.sources.get_mut(&source).filter(|owned| owned.reading == Reading::Open)?;
        if owned.last.is_some_and(|last| last >= offset) {
            return None;
        }
        owned.first.get_or_insert(offset);
        owned.last = Some(offset);
        owned.entries.push_back(Entry { offset, bytes, state: State::Working });
        self.records += 1;
        self.bytes += bytes;
        Some(Ticket { source, epoch: owned.epoch, offset })
    }

    /// Whether an offset lies behind what was read of a source, without being in flight.
    pub fn is_rewind(&self, source: Source, offset: i64) -> bool {
        let Some(owned) = self.sources.get(&source).filter(|owned| owned.reading == Reading::Open) else {
            return false;
        };
        let in_flight = owned.entries.binary_search_by_key(&offset, |entry| entry.offset).is_ok();
        owned.last.is_some_and(|last| last >= offset) && !in_flight
    }

    /// Whether somebody still waits for this record's outcome.
    pub fn is_wanted(&self, ticket: Ticket) -> bool {
        self.sources.get(&ticket.source).is_some_and(|owned| owned.epoch == ticket.epoch)
    }

    /// Offsets between the last record that was read from a source and this one.
    pub fn gap_before(&self, source: Source, offset: i64) -> i64 {
        let last = self.sources.get(&source).and_then(|owned| owned.last);
        last.map_or(0, |last| (offset - last - 1).max(0))
    }

    /// Notes a record's outcome. False when the ticket is void, or has its outcome already.
    pub fn complete(&mut self, ticket: Ticket, outcome: T) -> bool {
        match self.entry(ticket) {
            Some(entry) if matches!(entry.state, State::Working) => {
                entry.state = State::Ready(outcome);
                self.ready += 1;
                true
            }
            _ => false,
        }
    }

    /// Takes the outcomes that may leave now, per source in offset order.
    pub fn release(&mut self) -> Vec<(Ticket, T)> {
        let mut leaving = Vec::new();
        for (&source, owned) in &mut self.sources {
            while let Some(entry) = owned.entries.get_mut(owned.released) {
                match std::mem::replace(&mut entry.state, State::Released) {
                    State::Ready(outcome) => {
                        leaving.push((Ticket { source, epoch: owned.epoch, offset: entry.offset }, outcome));
                        owned.released += 1;
                    }
                    state => {
                        entry.state = state;
                        break;
                    }
                }
            }
        }
        self.ready -= leaving.len();
        leaving
    }

    /// Notes that the brokers have a released outcome. False when the ticket is void.
    pub fn acknowledge(&mut self, ticket: Ticket) -> bool {
        match self.entry(ticket) {
            Some(entry) if matches!(entry.state, State::Released) => entry.state = State::Acknowledged,
            _ => return false,
        }
        let Some(owned) = self.sources.get_mut(&ticket.source) else { return false };
        while let Some(entry) = owned.entries.pop_front_if(|entry| matches!(entry.state, State::Acknowledged)) {
            owned.released -= 1;
            owned.next = Some(entry.offset + 1);
            self.records -= 1;
            self.bytes -= entry.bytes;
        }
        true
    }

    /// Takes the offsets that are new to be committed, as source and next offset.
    pub fn committable(&mut self) -> Vec<(Source, i64)> {
        let mut offsets = Vec::new();
        for (&source, owned) in &mut self.sources {
            if owned.next != owned.committed {
                owned.committed = owned.next;
                offsets.extend(owned.next.map(|next| (source, next)));
            }
        }
        offsets
    }

    /// Makes the current offsets committable again, after a commit that failed.
    pub fn forget_committed(&mut self) {
        for owned in self.sources.values_mut() {
            owned.committed = None;
        }
    }

    /// How far what was released and is not settled goes, per source: the offsets of a transaction.
    pub fn reached(&self) -> Vec<Reached> {
        let reached = |(&source, owned): (&Source, &Owned<T>)| {
            let last = owned.entries.get(owned.released.checked_sub(1)?)?;
            Some(Reached { source, epoch: owned.epoch, next: last.offset + 1 })
        };
        self.sources.iter().filter_map(reached).collect()
    }

    /// Whether a source is still owned as it was.
    pub fn owns(&self, source: Source, epoch: u64) -> bool {
        self.sources.get(&source).is_some_and(|owned| owned.epoch == epoch)
    }

    /// Notes that a transaction with these offsets was committed.
    pub fn settle(&mut self, reached: &[Reached]) {
        for Reached { source, epoch, next } in reached {
            let Some(owned) = self.sources.get_mut(source).filter(|owned| owned.epoch == *epoch) else { continue };
            while let Some(entry) = owned.entries.pop_front_if(|entry| entry.offset < *next) {
                owned.released -= 1;
                self.records -= 1;
                self.bytes -= entry.bytes;
            }
            owned.next = Some(*next);
            owned.committed = owned.next;
            owned.stands = owned.next;
        }
    }

    /// Forgets all that is in flight, everywhere: it is to be read again from where it was committed. Until
    /// [`Self::resume`], nothing is taken of a source.
    pub fn rewind(&mut self) {
        for owned in self.sources.values_mut() {
            self.epochs += 1;
            let (first, next, stands) = (owned.first, owned.next, owned.stands);
            let reading = if owned.reading == Reading::Leaving { Reading::Leaving } else { Reading::Rewinding };
            *owned = Owned { reading, first, next, committed: next, stands, ..Owned::new(self.epochs) };
        }
        (self.records, self.bytes, self.ready) = (0, 0, 0);
    }

    /// The sources to be read again, and from which offset where the group has none committed; none where nothing was
    /// read yet.
    pub fn rewinding(&self) -> Vec<(Source, Option<i64>)> {
        let sources = self.sources.iter().filter(|(_, owned)| owned.reading == Reading::Rewinding);
        sources.map(|(source, owned)| (*source, owned.next.or(owned.first))).collect()
    }

    /// Takes records of a source again: it is read from where the group stands, which is `committed`.
    pub fn resume(&mut self, source: Source, committed: Option<i64>) {
        if let Some(owned) = self.sources.get_mut(&source).filter(|owned| owned.reading == Reading::Rewinding) {
            owned.reading = Reading::Open;
            // Where the group has nothing any more, reading goes on from where it was, and that is its beginning now.
            owned.first = owned.next.or(owned.first).filter(|_| committed.is_none());
            (owned.next, owned.committed, owned.stands) = (committed, committed, committed);
        }
    }

    /// Whether records of a source are taken now.
    pub fn is_open(&self, source: Source) -> bool {
        self.sources.get(&source).is_some_and(|owned| owned.reading == Reading::Open)
    }

    /// Takes those of some sources for which the group was not asked yet in this generation where it stands: whoever takes them asks,
    /// and does not commit before.
    pub fn take_doubted(&mut self, reached: &[Reached], generation: i32) -> Vec<Source> {
        let mut doubted = Vec::new();
        for Reached { source, .. } in reached {
            let Some(owned) = self.sources.get_mut(source) else { continue };
            if owned.asked_in.replace(generation) != Some(generation) {
                doubted.push(*source);
            }
        }
        doubted
    }

    /// Whether the group, which is at `committed`, stands elsewhere in a source than what was read here supposes: another member
    /// has answered meanwhile, or reading began before it.
    pub fn is_overtaken(&self, source: Source, committed: Option<i64>) -> bool {
        let Some(owned) = self.sources.get(&source) else { return false };
        match (owned.stands, owned.first) {
            (Some(stands), _) => committed != Some(stands),
            (None, Some(first)) => committed.is_some_and(|committed| committed > first),
            (None, None) => false,
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

    /// Records whose outcome is known and waits for that of an earlier one.
    pub fn ready(&self) -> usize {
        self.ready
    }

    /// Whether all that is in flight has left, and waits for nothing but to be committed.
    pub fn only_waits_to_be_committed(&self) -> bool {
        self.records > 0 && self.sources.values().all(|owned| owned.released == owned.entries.len())
    }

    /// Records of a source in flight.
    pub fn records_of(&self, source: Source) -> usize {
        self.sources.get(&source).map_or(0, |owned| owned.entries.len())
    }

    /// The offset of the oldest record of a source that is in flight; where none is, the one behind the last that was read.
    pub fn position(&self, source: Source) -> Option<i64> {
        let owned = self.sources.get(&source)?;
        let oldest = owned.entries.front().map(|entry| entry.offset);
        oldest.or_else(|| owned.last.map(|last| last + 1)).or(owned.next)
    }

    /// Sources owned.
    pub fn sources(&self) -> Vec<Source> {
        self.sources.keys().copied().collect()
    }

    fn entry(&mut self, ticket: Ticket) -> Option<&mut Entry<T>> {
        let owned = self.sources.get_mut(&ticket.source).filter(|owned| owned.epoch == ticket.epoch)?;
        let index = owned.entries.binary_search_by_key(&ticket.offset, |entry| entry.offset).ok()?;
        owned.entries.get_mut(index)
    }

    fn forget(&mut self, gone: &Owned<T>) {
        self.records -= gone.entries.len();
        self.bytes -= gone.entries.iter().map(|entry| entry.bytes).sum::<usize>();
        self.ready -= gone.entries.iter().filter(|entry| matches!(entry.state, State::Ready(_))).count();
    }
}

#[cfg(test)]
mod tests;
