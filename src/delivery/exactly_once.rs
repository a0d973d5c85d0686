//! Outcomes and the offsets they answer, in one transaction. Pure: the log is behind a trait, which Kafka implements, and
//! a log in memory in the tests, where thousands of schedules of faults are played.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::ledger::{Ledger, Reached, Ticket};
use crate::message::Source;

/// A log with transactions, for outcomes of type `T`. One thread calls it.
pub trait Transactions<T> {
    /// Begins a transaction.
    ///
    /// # Errors
    /// What follows from the fault.
    fn begin(&mut self) -> Result<(), Fault>;

    /// Writes an outcome into the open transaction.
    ///
    /// # Errors
    /// What follows from the fault.
    fn publish(&mut self, ticket: Ticket, outcome: T) -> Result<(), Fault>;

    /// Takes the identity of the group member, with which the open transaction is to be committed: the brokers refuse it once the
    /// group has shared its sources out anew. Gives back the generation that the identity is of.
    ///
    /// # Errors
    /// What follows from the fault.
    fn identify(&mut self) -> Result<i32, Fault>;

    /// Where the group stands in each of these sources: the next offset, none where it has committed none.
    ///
    /// # Errors
    /// What follows from the fault.
    fn committed(&mut self, sources: &[Source]) -> Result<BTreeMap<Source, Option<i64>>, Fault>;

    /// Commits the open transaction with these offsets, as the member that was identified last.
    ///
    /// # Errors
    /// What follows from the fault; the transaction is not committed then.
    fn commit(&mut self, reached: &[Reached]) -> Result<(), Fault>;

    /// Aborts the open transaction.
    ///
    /// # Errors
    /// What follows from the fault.
    fn abort(&mut self) -> Result<(), Fault>;
}

/// What follows from a fault of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The transaction is to be aborted, and what it held to be read and judged again.
    Abort(String),
    /// There is no going on: another instance took over, or the log refuses for good.
    Stop(String),
}

/// When a transaction is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// How long it stays open, at most: what read-committed consumers wait for.
    pub interval: Duration,
    /// Records in it, at most.
    pub records_max: usize,
}

/// What a step did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing that anybody needs to hear of.
    Nothing,
    /// A transaction was committed.
    Committed,
    /// A transaction was aborted. The ledger is empty, and its sources are to be read again.
    Aborted {
        /// Why.
        reason: String,
    },
}

/// Drives transactions.
#[derive(Debug)]
pub struct ExactlyOnce {
    window: Window,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    since: Instant,
    records: usize,
    /// Whose outcomes it holds, with the ownership in which they were read.
    sources: BTreeSet<(Source, u64)>,
}

impl ExactlyOnce {
    /// Drives transactions of such windows.
    pub fn new(window: Window) -> Self {
        Self { window, open: None }
    }

    /// When the open transaction is to be committed; none where none is open.
    pub fn due(&self) -> Option<Instant> {
        self.open.as_ref().map(|open| open.since + self.window.interval)
    }

    /// Writes what may leave, and commits when the window is full, its time is over, or `hurry` asks for it.
    ///
    /// # Errors
    /// Why there is no going on. What was not committed is aborted by the log, sooner or later.
    pub fn advance<T>(
        &mut self,
        ledger: &Mutex<Ledger<T>>,
        log: &mut impl Transactions<T>,
        now: Instant,
        hurry: bool,
    ) -> Result<Step, String> {
        match self.attempt(ledger, log, now, hurry) {
            Ok(step) => Ok(step),
            Err(Fault::Stop(reason)) => Err(reason),
            Err(Fault::Abort(reason)) => {
                let was_open = self.open.take().is_some();
                if was_open && let Err(Fault::Stop(reason) | Fault::Abort(reason)) = log.abort() {
                    return Err(reason);
                }
                locked(ledger).rewind();
                Ok(Step::Aborted { reason })
            }
        }
    }

    fn attempt<T>(
        &mut self,
        ledger: &Mutex<Ledger<T>>,
        log: &mut impl Transactions<T>,
        now: Instant,
        hurry: bool,
    ) -> Result<Step, Fault> {
        if self.open.as_ref().is_some_and(|open| !open.is_owned(ledger)) {
            return Err(Fault::Abort(LOST.to_owned()));
        }
        let leaving = locked(ledger).release();
        if !leaving.is_empty() && self.open.is_none() {
            log.begin()?;
            self.open = Some(Open { since: now, records: 0, sources: BTreeSet::new() });
        }
        let Some(open) = &mut self.open else { return Ok(Step::Nothing) };
        for (ticket, outcome) in leaving {
            open.records += 1;
            open.sources.insert((ticket.source, ticket.epoch));
            log.publish(ticket, outcome)?;
        }
        let is_due = now.saturating_duration_since(open.since) >= self.window.interval;
        if !hurry && !is_due && open.records < self.window.records_max {
            return Ok(Step::Nothing);
        }
        let reached = locked(ledger).reached();
        // The identity first: if anything that is looked at now ends later, the identity is an old one, which the brokers refuse. The
        // other way round, a member that has just joined again could commit offsets of a partition that it no longer has.
        let generation = log.identify()?;
        if !open.is_owned(ledger) {
            return Err(Fault::Abort(LOST.to_owned()));
        }
        look_where_the_group_stands(ledger, log, &reached, generation)?;
        log.commit(&reached)?;
        self.open = None;
        locked(ledger).settle(&reached);
        Ok(Step::Committed)
    }
}

/// The reason for an abort, where a partition went away whose outcomes the transaction held.
const LOST: &str = "a partition went to another member before its outcomes were committed";

/// Asks the log, once in each generation of the group, whether it stands where this member supposes. A member that brokers have
/// thrown out in the middle of a rebalance may be let in again without ever hearing of it, and would answer what another one has
/// answered meanwhile. And librdkafka 2.12 reads a new partition from its beginning, as if nothing were committed, where a
/// transaction of the member that had it before was still open when it asked and its assignment has changed since.
fn look_where_the_group_stands<T>(
    ledger: &Mutex<Ledger<T>>,
    log: &mut impl Transactions<T>,
    reached: &[Reached],
    generation: i32,
) -> Result<(), Fault> {
    let sources = locked(ledger).take_doubted(reached, generation);
    if sources.is_empty() {
        return Ok(());
    }
    let committed = log.committed(&sources)?;
    let ledger = locked(ledger);
    for source in sources {
        let committed = committed.get(&source).copied().flatten();
        if ledger.is_overtaken(source, committed) {
            let stands = committed.map_or("has committed nothing".to_owned(), |next| format!("stands at {next}"));
            return Err(Fault::Abort(format!("the group {stands} in {source}, which is not what was read supposes")));
        }
    }
    Ok(())
}

impl Open {
    fn is_owned<T>(&self, ledger: &Mutex<Ledger<T>>) -> bool {
        let ledger = locked(ledger);
        self.sources.iter().all(|(source, epoch)| ledger.owns(*source, *epoch))
    }
}

/// A thread that panicked while holding the ledger leaves it consistent: every method either
/// finishes or changes nothing.
fn locked<T>(ledger: &Mutex<Ledger<T>>) -> MutexGuard<'_, Ledger<T>> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod brokers;
#[cfg(test)]
mod tests;
