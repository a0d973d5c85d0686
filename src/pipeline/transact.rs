//! Publishes outcomes in offset order, on one thread: exactly once, in transactions with the offsets they answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::{
    failure::{Consequence, Trouble},
    outcome::{Outcome, Told},
    parcel::{Taken, hand_over},
    release::{Release, lock},
    run::{Guarded, INBOX_TIMEOUT, Shared},
    tell::tell,
};
use crate::{
    delivery::{ExactlyOnce, Fault, Reached, Step, Ticket, Transactions, Window},
    kafka::{
        Consumer, Identity, RecordLimits, RecordRefusal, TransactionError, TransactionOptions, TransactionalPublisher,
    },
    message::Source,
    settings::KafkaPlan,
    telemetry,
};

/// How a plan's transactions are made.
pub(super) fn options(kafka: &KafkaPlan, instance_id: &str, batch_bytes: Option<usize>) -> TransactionOptions {
    TransactionOptions {
        transactional_id: format!("{}-{instance_id}", kafka.group_id),
        limits: RecordLimits {
            record_bytes_max: kafka.record_bytes_max,
            batch_bytes,
            queue_bytes_max: kafka.queue_bytes_max,
        },
        timeout: kafka.transaction_timeout,
        wait_max: kafka.publish_timeout,
        // Its offset says nothing to this group, whatever comes of it: the group reads other topics.
        group: Some((kafka.group_id.clone(), kafka.verdicts.clone())),
    }
}

/// Kafka, as [`ExactlyOnce`] drives it.
pub(super) struct Log {
    pub(super) shared: Arc<Shared>,
    pub(super) publisher: TransactionalPublisher<Ticket>,
    pub(super) consumer: Arc<Consumer>,
    /// With which the open transaction is to be committed.
    identity: Option<Identity>,
    /// What is to be told once it is committed.
    told: Vec<(Ticket, Told)>,
    /// Requests whose outcomes the brokers refused, and how often: they get other ones the next time.
    refused: BTreeMap<(Source, i64), (u32, Taken)>,
    /// Requests whose outcomes shared a batch with one that was refused: they are published alone the next time, which shows the
    /// one to blame.
    suspects: BTreeSet<(Source, i64)>,
    patience: Patience,
}

impl Log {
    pub(super) fn new(shared: Arc<Shared>, publisher: TransactionalPublisher<Ticket>, consumer: Arc<Consumer>) -> Self {
        let patience = Patience::new(shared.plan.kafka.publish_timeout);
        Self {
            shared,
            publisher,
            consumer,
            identity: None,
            told: Vec::new(),
            refused: BTreeMap::new(),
            suspects: BTreeSet::new(),
            patience,
        }
    }

    /// Takes note of outcomes that the brokers refused. They refuse whole batches, so of several none is known to be to blame;
    /// one alone is.
    fn note_refused(&mut self) {
        let refused = self.publisher.take_refused();
        let is_alone = refused.len() == 1;
        for (ticket, refusal) in refused {
            let place = (ticket.source, ticket.offset);
            let taken = match refusal {
                RecordRefusal::TooLarge => Taken::TooLarge,
                RecordRefusal::Invalid | RecordRefusal::Neighbour => Taken::Invalid,
            };
            if refusal != RecordRefusal::Neighbour && (is_alone || self.suspects.contains(&place)) {
                let known = self.refused.entry(place).or_insert((0, taken));
                *known = (known.0 + 1, taken);
            } else {
                self.suspects.insert(place);
            }
        }
    }
}

const OUTSIDE: &str = "this instance is in no generation of its group now, or was thrown out";

impl Transactions<Outcome> for Log {
    fn begin(&mut self) -> Result<(), Fault> {
        self.publisher.begin().map_err(|error| self.patience.fault(error))
    }

    fn publish(&mut self, ticket: Ticket, outcome: Outcome) -> Result<(), Fault> {
        let place = (ticket.source, ticket.offset);
        let (mut refusals, refusal) = self.refused.get(&place).copied().unwrap_or((0, Taken::TooLarge));
        let is_suspect = self.suspects.contains(&place);
        if is_suspect {
            self.publisher.drain();
        }
        let nothing_left = |reason| Fault::Stop(reason);
        let kafka = &self.shared.plan.kafka;
        let told = hand_over(outcome, ticket, kafka, nothing_left, |outgoing| {
            // The brokers have refused what the client took: as many of the first offers are not made again.
            if refusals > 0 {
                refusals -= 1;
                return Ok(refusal);
            }
            match self.publisher.publish(ticket, outgoing) {
                Ok(true) => Ok(Taken::Yes),
                Ok(false) => Ok(Taken::TooLarge),
                Err(error) => Err(self.patience.fault(error)),
            }
        })?;
        if is_suspect {
            self.publisher.drain();
        }
        self.told.push((ticket, told));
        Ok(())
    }

    fn identify(&mut self) -> Result<i32, Fault> {
        self.identity = self.consumer.identity();
        let identity = self.identity.as_ref().ok_or_else(|| Fault::Abort(OUTSIDE.to_owned()))?;
        // Members with names of their own that were thrown out join again under another name of the brokers', keep what they had, and
        // their client does not tell.
        if self.shared.member.load().as_ref().is_none_or(|member| member.as_c_str() != identity.member()) {
            self.shared.replaced.store(true, Ordering::Release);
            return Err(Fault::Abort("the group has thrown this member out and let it in as another one".to_owned()));
        }
        Ok(identity.generation())
    }

    fn committed(&mut self, sources: &[Source]) -> Result<BTreeMap<Source, Option<i64>>, Fault> {
        let begun = Instant::now();
        loop {
            match self.consumer.committed(sources) {
                Ok(committed) => return Ok(committed),
                // Coordinators move, and offsets are undecided for a while, just when the group has changed.
                Err(error)
                    if begun.elapsed() < self.shared.plan.kafka.publish_timeout
                        && !self.shared.stop.load(Ordering::Acquire) =>
                {
                    tracing::debug!(%error, "The group is asked again where it stands.");
                    thread::sleep(INBOX_TIMEOUT);
                }
                Err(error) => return Err(Fault::Abort(format!("where the group stands is not known: {error}"))),
            }
        }
    }

    fn commit(&mut self, reached: &[Reached]) -> Result<(), Fault> {
        let offsets: Vec<(Source, i64)> = reached.iter().map(|reached| (reached.source, reached.next)).collect();
        let identity = self.identity.take().ok_or_else(|| Fault::Abort(OUTSIDE.to_owned()))?;
        let begun = Instant::now();
        let committed = self.publisher.commit(&self.consumer, &identity, &offsets);
        committed.map_err(|error| self.patience.fault(error))?;
        self.patience.restore();
        let took = begun.elapsed();
        telemetry::transaction_committed(self.told.len(), took);
        tracing::debug!(records = self.told.len(), ?took, "Transaction committed.");
        for (ticket, told) in self.told.drain(..) {
            let place = (ticket.source, ticket.offset);
            self.refused.remove(&place);
            self.suspects.remove(&place);
            self.shared.attempts.settled(ticket);
            tell(&self.shared, &told, ticket);
        }
        Ok(())
    }

    fn abort(&mut self) -> Result<(), Fault> {
        self.told.clear();
        let aborted = self.publisher.abort_and_renew().map_err(|error| self.patience.fault(error));
        self.note_refused();
        aborted
    }
}

/// How long refusals are borne with: a topic may be on its way, and so may a right to write it.
struct Patience {
    limit: Duration,
    /// When the first of the refusals came since the last commit.
    first: Option<Instant>,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self { limit, first: None }
    }

    fn restore(&mut self) {
        self.first = None;
    }

    /// What follows from an error of a transaction.
    fn fault(&mut self, error: TransactionError) -> Fault {
        let is_refused = matches!(error, TransactionError::Refused(_));
        let trouble = Trouble::from(error);
        match trouble.consequence() {
            Consequence::RetryInPlace if is_refused && self.is_over(Instant::now()) => Fault::Stop(format!(
                "{trouble}; tried for longer than `kafka.publish_timeout_ms`: correct the cluster or `[kafka]`"
            )),
            Consequence::RetryInPlace => {
                if is_refused {
                    let (error, limit) = (trouble.to_string(), self.limit);
                    tracing::error!(
                        error,
                        ?limit,
                        "The brokers refuse what is published. It is tried again; beyond this limit the process stops. Nothing is lost."
                    );
                }
                Fault::Abort(trouble.to_string())
            }
            Consequence::RetryLater | Consequence::DeadLetter | Consequence::Stop => Fault::Stop(trouble.to_string()),
        }
    }

    /// Whether a refusal at this time is one too many.
    fn is_over(&mut self, now: Instant) -> bool {
        now.saturating_duration_since(*self.first.get_or_insert(now)) > self.limit
    }
}

/// Waited after an abort, twice as long after each that follows: what was aborted is judged again, and must not turn in a
/// circle.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Runs until the poll loop has ended. What is not committed then is aborted: it would hold up read-committed consumers.
pub(super) fn run(shared: &Shared, mut log: Log, inbox: &Receiver<Release>) {
    let _guarded = Guarded(shared, "release");
    let kafka = &shared.plan.kafka;
    // While one half of what may be in flight is committed, the other is worked on.
    let records_max = kafka.transaction_records_max.min(shared.plan.pipeline.records_in_flight_max.div_ceil(2));
    let window = Window { interval: kafka.commit_interval, records_max };
    let mut driver = ExactlyOnce::new(window);
    let mut backoff = BACKOFF.0;
    while collect(shared, &driver, inbox) {
        if shared.failure.get().is_some() {
            continue;
        }
        let hurry = stands_still(shared) || shared.hurry.load(Ordering::Acquire);
        match driver.advance(&shared.ledger, &mut log, Instant::now(), hurry) {
            Ok(Step::Nothing) => {}
            Ok(Step::Committed) => {
                backoff = BACKOFF.0;
                shared.made_room();
            }
            Ok(Step::Aborted { reason }) => {
                telemetry::transaction_aborted();
                tracing::warn!(reason, ?backoff, "A transaction was aborted; its requests are judged again.");
                pause(shared, backoff);
                backoff = (backoff * 2).min(BACKOFF.1);
            }
            Err(reason) => shared.fail(reason),
        }
    }
    if driver.due().is_some()
        && let Err(error) = log.publisher.abort()
    {
        tracing::warn!(%error, "The last transaction was not aborted; the brokers will do it.");
    }
}

/// Takes outcomes until the open transaction is due; false once the poll loop has ended and nothing is left.
fn collect(shared: &Shared, driver: &ExactlyOnce, inbox: &Receiver<Release>) -> bool {
    if driver.due().is_some() && stands_still(shared) {
        return !shared.is_over();
    }
    let due = driver.due().map_or(INBOX_TIMEOUT, |due| due.saturating_duration_since(Instant::now()));
    let first = match inbox.recv_timeout(due.min(INBOX_TIMEOUT)) {
        Ok(first) => first,
        Err(RecvTimeoutError::Timeout) => return !shared.is_over(),
        Err(RecvTimeoutError::Disconnected) => return false,
    };
    let mut ledger = lock(shared);
    for release in std::iter::once(first).chain(inbox.try_iter()) {
        if let Release::Finished(ticket, outcome) = release
            && !ledger.complete(ticket, *outcome)
        {
            telemetry::stale_outcome();
        }
    }
    true
}

/// Whether nothing more is taken and nothing is worked on, until what is finished is committed.
fn stands_still(shared: &Shared) -> bool {
    shared.held.load(Ordering::Acquire) && lock(shared).only_waits_to_be_committed()
}

fn pause(shared: &Shared, length: Duration) {
    let until = Instant::now() + length;
    while Instant::now() < until && !shared.stop.load(Ordering::Acquire) {
        thread::sleep(INBOX_TIMEOUT.min(length));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_borne_with_for_a_time_and_other_aborts_for_ever() {
        let mut patience = Patience::new(Duration::from_secs(45));
        let begun = Instant::now();
        let lost = |patience: &mut Patience, seconds| patience.is_over(begun + Duration::from_secs(seconds));
        assert!([0, 1, 45].into_iter().all(|seconds| !lost(&mut patience, seconds)));
        assert!(lost(&mut patience, 46));
        patience.restore();
        assert!([50, 60, 70, 80, 95].into_iter().all(|seconds| !lost(&mut patience, seconds)));
        assert!(lost(&mut patience, 96));
        let aborted = patience.fault(TransactionError::Abort("a broker left".to_owned()));
        assert_eq!(aborted, Fault::Abort("a broker left".to_owned()));
    }
}
