//! Publishes outcomes in offset order, on one thread: at least once, with acknowledgements behind them.

use std::sync::{Arc, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender};

use super::{
    failure::Trouble,
    outcome::Outcome,
    parcel::{NOTHING_LEFT, Taken, hand_over, smaller},
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
    /// The brokers found a record too large after the client had taken it.
    TooLarge(Ticket, Box<Outgoing>),
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
    let limits = RecordLimits { record_bytes_max: kafka.record_bytes_max, batch_bytes };
    Publisher::new(connection, limits, kafka.publish_timeout, move |ticket, result| match result {
        Ok(()) => {
            lock(&acknowledged).acknowledge(ticket);
            acknowledged.made_room();
        }
        // This is the client's own thread: it must not wait.
        Err(PublishError::TooLarge(outgoing)) => {
            if again.try_send(Release::TooLarge(ticket, outgoing)).is_err() {
                let reason = "a record was too large, and there was no room to say so".to_owned();
                acknowledged.fail(reason);
            }
        }
        Err(error) => acknowledged.fail(Trouble::from(error)),
    })
}

/// Runs until the poll loop has ended. After a failure nothing is published any more: what follows a
/// missing outcome would be out of order.
pub(super) fn run(shared: &Shared, publisher: &Publisher<Ticket>, inbox: &Receiver<Release>) {
    let _guarded = Guarded(shared, "release");
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
            Release::TooLarge(ticket, outgoing) => publish_smaller(shared, publisher, ticket, *outgoing),
        };
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
    if outcome.outgoing.is_none() {
        lock(shared).acknowledge(ticket);
    }
    let kafka = &shared.plan.kafka;
    let nothing_left = |reason| PublishError::Failed { topic: kafka.dead_letters.clone(), reason };
    let told = hand_over(outcome, ticket, kafka, nothing_left, |outgoing| match publisher.publish(ticket, outgoing) {
        Ok(()) => Ok(Taken::Yes),
        Err(PublishError::TooLarge(_)) => Ok(Taken::TooLarge),
        Err(error) => Err(error),
    })?;
    tell(shared, &told, ticket);
    Ok(())
}

/// Publishes what the brokers found too large with less in it, until it is taken or nothing is left to take away.
fn publish_smaller(
    shared: &Shared,
    publisher: &Publisher<Ticket>,
    ticket: Ticket,
    mut outgoing: Outgoing,
) -> Result<(), PublishError> {
    loop {
        let topic = outgoing.topic.clone();
        let Some(less) = smaller(&shared.plan.kafka, ticket, outgoing) else {
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
