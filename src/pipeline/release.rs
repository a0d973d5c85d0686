//! Publishes outcomes in offset order, on one thread: at least once, with acknowledgements behind them.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crossbeam_channel::{Receiver, Sender};

use super::{
    failure::{Failure, Trouble},
    outcome::{Outcome, Told},
    parcel::{NOTHING_LEFT, Taken, context_of, hand_over, smaller},
    run::{Guarded, Shared},
    tell::tell,
};
use crate::{
    delivery::{Ledger, Ticket},
    kafka::{Connection, KafkaError, PublishError, Publisher, RecordLimits},
    message::Outgoing,
    telemetry,
};

/// What the release thread is asked to do.
pub(super) enum Release {
    /// A record's outcome is known.
    Finished(Ticket, Box<Outcome>),
    /// The brokers refused a record after the client had taken it.
    Refused(Ticket, Box<Outgoing>, Taken),
}

/// Outcomes on their way, of which metrics and logs hear when the brokers have them.
#[derive(Default)]
pub(super) struct Unacknowledged(Mutex<HashMap<Ticket, Pending>>);

enum Pending {
    Told(Told),
    /// The brokers were faster than the thread that publishes.
    Acknowledged,
}

impl Unacknowledged {
    /// An outcome was handed to the client; gives it back where the brokers have it already.
    fn handed_over(&self, ticket: Ticket, told: Told) -> Option<Told> {
        let mut pending = self.lock();
        match pending.remove(&ticket) {
            Some(Pending::Acknowledged) => Some(told),
            Some(Pending::Told(_)) | None => {
                pending.insert(ticket, Pending::Told(told));
                None
            }
        }
    }

    /// The brokers have an outcome; gives it where it is known what it is.
    fn acknowledged(&self, ticket: Ticket) -> Option<Told> {
        let mut pending = self.lock();
        match pending.remove(&ticket) {
            Some(Pending::Told(told)) => Some(told),
            Some(Pending::Acknowledged) | None => {
                pending.insert(ticket, Pending::Acknowledged);
                None
            }
        }
    }

    /// An outcome becomes another one, because the brokers did not take it.
    fn replace(&self, ticket: Ticket, failure: &Failure) {
        let mut pending = self.lock();
        let context = match pending.remove(&ticket) {
            Some(Pending::Told(Told::Verdict(verdict))) => Box::new(context_of(*verdict)),
            Some(Pending::Told(told @ Told::Refused { .. })) => {
                pending.insert(ticket, Pending::Told(told));
                return;
            }
            _ => Box::default(),
        };
        let told = Told::Refused { code: failure.code(), message: failure.message(), context };
        pending.insert(ticket, Pending::Told(told));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Ticket, Pending>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the publisher whose acknowledgements move the ledger on.
pub(super) fn publisher(
    connection: &Connection,
    shared: &Arc<Shared>,
    batch_bytes: Option<usize>,
    again: Sender<Release>,
) -> Result<Publisher<Ticket>, KafkaError> {
    let kafka = &shared.plan.kafka;
    let acknowledged = shared.clone();
    let limits =
        RecordLimits { record_bytes_max: kafka.record_bytes_max, batch_bytes, queue_bytes_max: kafka.queue_bytes_max };
    // This is the client's own thread: it must not wait.
    let refused = move |shared: &Shared, refused: Release| {
        if again.try_send(refused).is_err() {
            shared.fail("a record was refused, and there was no room to say so");
        }
    };
    Publisher::new(connection, limits, kafka.publish_timeout, move |ticket, result| match result {
        Ok(()) => {
            let is_known = lock(&acknowledged).acknowledge(ticket);
            // A ticket that is void answers nothing, and its record is judged again.
            if let Some(told) = acknowledged.unacknowledged.acknowledged(ticket).filter(|_| is_known) {
                tell(&acknowledged, &told, ticket);
            }
            acknowledged.made_room();
        }
        Err(PublishError::TooLarge(outgoing)) => {
            refused(&acknowledged, Release::Refused(ticket, outgoing, Taken::TooLarge));
        }
        Err(PublishError::Invalid(outgoing)) => {
            refused(&acknowledged, Release::Refused(ticket, outgoing, Taken::Invalid));
        }
        Err(error) => acknowledged.fail(Trouble::from(error)),
    })
}

/// Runs until the poll loop has ended. After a failure nothing is published any more: what follows a
/// missing outcome would be out of order.
pub(super) fn run(shared: &Shared, publisher: &Publisher<Ticket>, inbox: &Receiver<Release>) {
    let _guarded = Guarded(shared, "release");
    // Records that shared a batch with one that was refused, and are published again alone.
    let mut suspects: HashSet<Ticket> = HashSet::new();
    while let Some(release) = shared.next(inbox) {
        if shared.failure.get().is_some() {
            continue;
        }
        let published = match release {
            Release::Finished(ticket, outcome) => {
                let leaving = {
                    let mut ledger = lock(shared);
                    if !ledger.complete(ticket, *outcome) {
                        telemetry::stale_outcome();
                    }
                    ledger.release()
                };
                leaving.into_iter().try_for_each(|(ticket, outcome)| publish(shared, publisher, ticket, outcome))
            }
            Release::Refused(ticket, outgoing, Taken::Invalid) if suspects.insert(ticket) => {
                publish_alone(publisher, ticket, &outgoing)
            }
            Release::Refused(ticket, outgoing, taken) => {
                suspects.remove(&ticket);
                publish_smaller(shared, publisher, ticket, *outgoing, taken)
            }
        };
        suspects.retain(|ticket| shared.is_wanted(*ticket));
        if let Err(error) = published {
            shared.fail(Trouble::from(error));
        }
    }
}

fn publish(
    shared: &Shared,
    publisher: &Publisher<Ticket>,
    ticket: Ticket,
    outcome: Outcome,
) -> Result<(), PublishError> {
    let is_nothing = outcome.outgoing.is_none();
    if is_nothing {
        lock(shared).acknowledge(ticket);
    }
    let kafka = &shared.plan.kafka;
    let nothing_left = |reason| PublishError::Failed { topic: kafka.dead_letters.clone(), reason };
    let told = hand_over(outcome, ticket, kafka, nothing_left, |outgoing| match publisher.publish(ticket, outgoing) {
        Ok(()) => Ok(Taken::Yes),
        Err(PublishError::TooLarge(_)) => Ok(Taken::TooLarge),
        Err(error) => Err(error),
    })?;
    let known = if is_nothing { Some(told) } else { shared.unacknowledged.handed_over(ticket, told) };
    if let Some(told) = known {
        tell(shared, &told, ticket);
    }
    Ok(())
}

/// Publishes a record so that it shares its batch with no other: brokers refuse whole batches, and this shows which record is to
/// blame.
fn publish_alone(publisher: &Publisher<Ticket>, ticket: Ticket, outgoing: &Outgoing) -> Result<(), PublishError> {
    let failed = |error: KafkaError| PublishError::Failed { topic: outgoing.topic.clone(), reason: error.to_string() };
    publisher.flush().map_err(failed)?;
    publisher.publish(ticket, outgoing)?;
    publisher.flush().map_err(failed)
}

/// Publishes what the brokers refused with less in it, until it is taken or nothing is left to take away.
fn publish_smaller(
    shared: &Shared,
    publisher: &Publisher<Ticket>,
    ticket: Ticket,
    mut outgoing: Outgoing,
    taken: Taken,
) -> Result<(), PublishError> {
    shared.unacknowledged.replace(ticket, &taken.failure());
    loop {
        let topic = outgoing.topic.clone();
        let Some(less) = smaller(&shared.plan.kafka, ticket, outgoing, taken) else {
            return Err(PublishError::Failed { topic, reason: NOTHING_LEFT.to_owned() });
        };
        match publisher.publish(ticket, &less) {
            Err(PublishError::TooLarge(refused)) => outgoing = *refused,
            published => return published,
        }
    }
}

/// A thread that panicked while holding the ledger leaves it consistent: every method either
/// finishes or changes nothing.
pub(super) fn lock(shared: &Shared) -> MutexGuard<'_, Ledger<Outcome>> {
    shared.ledger.lock().unwrap_or_else(PoisonError::into_inner)
}
