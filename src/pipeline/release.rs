//! Publishes outcomes in offset order, on one thread, and tells about them.

use std::sync::{Arc, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender};

use super::{
    failure::Failure,
    ledger::{Ledger, Ticket},
    outcome::{Outcome, Told},
    run::Shared,
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
    /// Nothing more will come.
    End,
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
        // The channel is closed only after everything is drained or given up.
        Err(PublishError::TooLarge(outgoing)) => drop(again.send(Release::TooLarge(token.into(), outgoing))),
        Err(error) => acknowledged.fail(error.to_string()),
    })
}

/// Runs until the end is said.
pub(super) fn run(shared: &Shared, publisher: &Publisher, inbox: &Receiver<Release>) {
    for release in inbox {
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
            Release::TooLarge(ticket, outgoing) => {
                let topic = &shared.plan.kafka.dead_letters;
                publisher.publish(ticket.into(), &without_payload(topic, ticket, *outgoing))
            }
            Release::End => return,
        };
        if let Err(error) = published {
            shared.fail(error.to_string());
        }
    }
}

fn publish(shared: &Shared, publisher: &Publisher, ticket: Ticket, outcome: Outcome) -> Result<(), PublishError> {
    let dead_letters = &shared.plan.kafka.dead_letters;
    let published = match publisher.publish(ticket.into(), &outcome.outgoing) {
        Err(PublishError::TooLarge(outgoing)) => match outcome.record {
            Some(record) => {
                let failure = Failure::VerdictTooLarge;
                tell(
                    shared,
                    &Told::Refused { code: failure.code(), message: failure.to_string(), group: None },
                    ticket,
                );
                let letter = failure.dead_letter().into_record(record, dead_letters);
                return match publisher.publish(ticket.into(), &letter) {
                    Err(PublishError::TooLarge(letter)) => {
                        publisher.publish(ticket.into(), &without_payload(dead_letters, ticket, *letter))
                    }
                    published => published,
                };
            }
            None => publisher.publish(ticket.into(), &without_payload(dead_letters, ticket, *outgoing)),
        },
        published => published,
    };
    tell(shared, &outcome.told, ticket);
    published
}

/// What is left of a record that Kafka finds too large: its headers and where the request lies. The
/// payload stays in the requests topic; waiting for room that never comes would stop the partition.
fn without_payload(dead_letters: &str, ticket: Ticket, outgoing: Outgoing) -> Outgoing {
    let mut letter = match outgoing.topic == dead_letters {
        true => outgoing,
        false => {
            let record =
                Record { partition: ticket.partition, offset: ticket.offset, key: outgoing.key, ..Record::default() };
            Failure::VerdictTooLarge.dead_letter().into_record(record, dead_letters)
        }
    };
    let bytes = letter.payload.take().map_or(0, |payload| payload.len());
    letter.headers.push(("ofa-payload-omitted".to_owned(), Some(bytes.to_string().into_bytes())));
    letter
}

fn tell(shared: &Shared, told: &Told, ticket: Ticket) {
    match told {
        Told::Verdict(verdict) => {
            shared.monitor.count_verdict();
            telemetry::verdict(&FinishedVerdict {
                version: &verdict.model_version,
                variant: verdict.ab_variant.as_deref(),
                result: verdict.result.as_str(),
                latency_ms: verdict.latency_ms,
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
