//! Publishes outcomes in offset order, on one thread, and tells about them.

use std::sync::{Arc, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender};

use super::{
    failure::Failure,
    ledger::{Ledger, Ticket},
    outcome::{Outcome, Told},
    run::{Guarded, Shared},
};
use crate::{
    kafka::{Connection, KafkaError, PublishError, Publisher, Token},
    message::{Outgoing, Record},
    telemetry::{self, FinishedVerdict},
};

/// What the release thread is asked to do.
pub(super) enum Release {
    /// A record's outcome is known.
    Finished(Ticket, Box<Outcome>),
    /// The brokers found a record too large after the client had taken it.
    TooLarge(Ticket, Box<Outgoing>),
}

impl From<Ticket> for Token {
    fn from(Ticket { partition, epoch, offset }: Ticket) -> Self {
        Self { partition, epoch, offset }
    }
}

impl From<Token> for Ticket {
    fn from(Token { partition, epoch, offset }: Token) -> Self {
        Self { partition, epoch, offset }
    }
}

/// Makes the publisher whose acknowledgements move the ledger on.
pub(super) fn publisher(
    connection: &Connection,
    shared: &Arc<Shared>,
    again: Sender<Release>,
) -> Result<Publisher, KafkaError> {
    let kafka = &shared.plan.kafka;
    let acknowledged = shared.clone();
    Publisher::new(connection, kafka.record_bytes_max, kafka.publish_timeout, move |token, result| match result {
        Ok(()) => {
            lock(&acknowledged).acknowledge(token.into());
        }
        // This is the client's own thread: it must not wait.
        Err(PublishError::TooLarge(outgoing)) => {
            if again.try_send(Release::TooLarge(token.into(), outgoing)).is_err() {
                acknowledged.fail("a record was too large, and there was no room to say so".to_owned());
            }
        }
        Err(error) => acknowledged.fail(error.to_string()),
    })
}

/// Runs until the poll loop has ended. After a failure nothing is published any more: what follows a
/// missing outcome would be out of order.
pub(super) fn run(shared: &Shared, publisher: &Publisher, inbox: &Receiver<Release>) {
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
            shared.fail(error.to_string());
        }
    }
}

fn publish(shared: &Shared, publisher: &Publisher, ticket: Ticket, outcome: Outcome) -> Result<(), PublishError> {
    match (publisher.publish(ticket.into(), &outcome.outgoing), outcome.record) {
        (Err(PublishError::TooLarge(_)), Some(record)) => {
            let failure = Failure::VerdictTooLarge;
            let group = match outcome.told {
                Told::Verdict(verdict) => verdict.ab_variant,
                Told::Refused { group, .. } => group,
            };
            tell(shared, &Told::Refused { code: failure.code(), message: failure.message(), group }, ticket);
            let letter = failure.dead_letter().into_record(record, &shared.plan.kafka.dead_letters);
            match publisher.publish(ticket.into(), &letter) {
                Err(PublishError::TooLarge(letter)) => publish_smaller(shared, publisher, ticket, *letter),
                published => published,
            }
        }
        (Err(PublishError::TooLarge(letter)), None) => {
            tell(shared, &outcome.told, ticket);
            publish_smaller(shared, publisher, ticket, *letter)
        }
        (published, _) => {
            if published.is_ok() {
                tell(shared, &outcome.told, ticket);
            }
            published
        }
    }
}

/// Publishes what Kafka finds too large with less in it, until it is taken or nothing is left to take
/// away. The request itself stays in its topic; waiting for room that never comes would stop the
/// partition.
fn publish_smaller(
    shared: &Shared,
    publisher: &Publisher,
    ticket: Ticket,
    mut outgoing: Outgoing,
) -> Result<(), PublishError> {
    loop {
        let topic = outgoing.topic.clone();
        let Some(less) = smaller(&shared.plan.kafka.dead_letters, ticket, outgoing) else {
            let reason = "not even a dead letter without its payload and headers is small enough".to_owned();
            return Err(PublishError::Failed { topic, reason });
        };
        match publisher.publish(ticket.into(), &less) {
            Err(PublishError::TooLarge(refused)) => outgoing = *refused,
            published => return published,
        }
    }
}

const OMITTED: &str = "ofa-payload-omitted";

/// A dead letter with less in it: first without the payload, then without the original key and headers.
fn smaller(dead_letters: &str, ticket: Ticket, outgoing: Outgoing) -> Option<Outgoing> {
    if outgoing.topic != dead_letters {
        let Ticket { partition, offset, .. } = ticket;
        let record = Record { partition, offset, key: outgoing.key, ..Record::default() };
        return Some(Failure::VerdictTooLarge.dead_letter().into_record(record, dead_letters));
    }
    let mut letter = outgoing;
    if let Some(payload) = letter.payload.take() {
        letter.headers.push((OMITTED.to_owned(), Some(payload.len().to_string().into_bytes())));
        return Some(letter);
    }
    let whole = letter.headers.len();
    letter.headers.retain(|(name, _)| name.starts_with("__connect.errors.") || name.starts_with("ofa-"));
    let had_key = letter.key.take().is_some();
    (had_key || letter.headers.len() < whole).then_some(letter)
}

fn tell(shared: &Shared, told: &Told, ticket: Ticket) {
    match told {
        Told::Verdict(verdict) => {
            shared.monitor.count_verdict();
            telemetry::verdict(&FinishedVerdict {
                version: &verdict.model_version,
                variant: verdict.ab_variant.as_deref(),
                result: verdict.result.as_str(),
                latency_ms: (!verdict.cached).then_some(verdict.latency_ms),
                stages_ms: [
                    ("fetch", verdict.timings_ms.fetch),
                    ("decode", verdict.timings_ms.decode),
                    ("queue", verdict.timings_ms.queue),
                    ("inference", verdict.timings_ms.inference),
                ],
            });
            tracing::info!(
                request_id = verdict.request_id,
                version = verdict.model_version,
                result = verdict.result.as_str(),
                confidence = verdict.confidence,
                latency_ms = verdict.latency_ms,
                reason = verdict.route.reason,
                "[AB:{}] Verdict.",
                verdict.ab_variant.as_deref().unwrap_or("-"),
            );
        }
        Told::Refused { code, message, group } => {
            shared.monitor.count_dead_letter();
            telemetry::dead_letter(code);
            let Ticket { partition, offset, .. } = ticket;
            tracing::warn!(
                partition,
                offset,
                code,
                error = message,
                "[AB:{}] Dead letter.",
                group.as_deref().unwrap_or("-")
            );
        }
    }
}

/// A thread that panicked while holding the ledger leaves it consistent: every method either
/// finishes or changes nothing.
pub(super) fn lock(shared: &Shared) -> MutexGuard<'_, Ledger<Outcome>> {
    shared.ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_that_is_too_large_loses_payload_then_key_and_headers_and_then_nothing_more() {
        let record = Record {
            key: Some(vec![1]),
            payload: Some(vec![2; 9]),
            headers: vec![("long".to_owned(), Some(vec![3; 9]))],
            ..Record::default()
        };
        let letter = Failure::VerdictTooLarge.dead_letter().into_record(record, "dead");
        let ticket = Ticket { partition: 0, epoch: 1, offset: 7 };
        let first = smaller("dead", ticket, letter).unwrap();
        assert_eq!((first.payload.is_none(), first.key.is_some()), (true, true));
        assert!(first.headers.contains(&(OMITTED.to_owned(), Some(b"9".to_vec()))));
        let second = smaller("dead", ticket, first).unwrap();
        assert!(second.key.is_none() && second.headers.iter().all(|(name, _)| name != "long"));
        assert_eq!(smaller("dead", ticket, second), None);
    }
}
