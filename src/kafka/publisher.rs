//! Verdicts and dead letters out, acknowledgements back.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Message,
    client::OAuthToken,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::{KafkaError as ClientError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{Producer as _, ProducerContext, ThreadedProducer},
};

use super::{
    connection::{Connection, KafkaError, Role, has_code, headers, to_record},
    security::Credentials,
};
use crate::message::Outgoing;

/// A record that was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// It is larger than the broker or the client takes. The record is handed back.
    #[error("a record for `{}` is larger than Kafka takes", .0.topic)]
    TooLarge(Box<Outgoing>),
    /// The brokers found something wrong with it, or with another record of its batch: a compacted topic takes none without a key,
    /// say. The record is handed back.
    #[error("a record for `{}` was refused as invalid", .0.topic)]
    Invalid(Box<Outgoing>),
    /// Kafka did not take it within its time limit, or refused it for good.
    #[error("a record for `{topic}` was not published: {reason}")]
    Failed {
        /// Where it should have gone.
        topic: String,
        /// What the client says.
        reason: String,
    },
}

/// How large what is published may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordLimits {
    /// A record.
    pub record_bytes_max: usize,
    /// A batch of several, where the brokers say: they refuse all records of one that is too large.
    pub batch_bytes: Option<usize>,
    /// All records that wait in the client.
    pub queue_bytes_max: usize,
}

impl RecordLimits {
    pub(super) fn batch_size(&self) -> String {
        // Never more than the client's own default, never so little that it takes nothing.
        self.batch_bytes.unwrap_or(BATCH_BYTES_MAX).clamp(1, BATCH_BYTES_MAX).to_string()
    }

    /// The client's own queue, in the unit that it takes.
    pub(super) fn queue_kilobytes(&self) -> String {
        (self.queue_bytes_max >> 10).max(1).to_string()
    }
}

const BATCH_BYTES_MAX: usize = 1_000_000;

/// Why brokers do not take a record, where that is about the record or its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordRefusal {
    /// It, or its batch, is too large.
    TooLarge,
    /// It, or another record of its batch, is invalid.
    Invalid,
    /// Another record of its batch is invalid.
    Neighbour,
}

impl RecordRefusal {
    pub(super) fn of(error: &ClientError) -> Option<Self> {
        match error.rdkafka_error_code()? {
            RDKafkaErrorCode::MessageSizeTooLarge => Some(Self::TooLarge),
            RDKafkaErrorCode::InvalidRecord => Some(Self::Invalid),
            RDKafkaErrorCode::InvalidDifferentRecord => Some(Self::Neighbour),
            _ => None,
        }
    }
}

/// What the client says, and what to do about it where its words do not help.
pub(super) fn reason(error: &ClientError) -> String {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::InvalidTimestamp) => format!(
            "{error}: the clocks of this machine and of the brokers differ by more than `message.timestamp.after.max.ms` or \
             `message.timestamp.before.max.ms` of the topic allow; set the clock, or the topic's \
             `message.timestamp.type=LogAppendTime`"
        ),
        _ => error.to_string(),
    }
}

type OnDelivery<T> = dyn Fn(T, Result<(), PublishError>) + Send + Sync;

/// Publishes with an idempotent producer: no duplicates by its own retries, and records leave in the
/// order in which they were handed over. `T` names the request that a record answers, and comes back with its
/// acknowledgement.
pub struct Publisher<T: Send + Sync + 'static> {
    client: ThreadedProducer<Context<T>>,
    wait_max: Duration,
}

struct Context<T> {
    credentials: Credentials,
    on_delivery: Box<OnDelivery<T>>,
}

const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(5);

impl<T: Send + Sync + 'static> Publisher<T> {
    /// Makes the producer. `on_delivery` is called once per record, on the client's thread, when the
    /// brokers have it or will not have it.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn new(
        connection: &Connection,
        limits: RecordLimits,
        wait_max: Duration,
        on_delivery: impl Fn(T, Result<(), PublishError>) + Send + Sync + 'static,
    ) -> Result<Self, KafkaError> {
        let mut config = connection.config(
            Role::Writes,
            &[
                ("enable.idempotence", "true"),
                ("acks", "all"),
                ("linger.ms", "5"),
                ("compression.codec", "lz4"),
                // The partitioner of the Java client, so that verdicts lie where others look for a key.
                ("partitioner", "murmur2_random"),
                ("message.max.bytes", &limits.record_bytes_max.to_string()),
                ("batch.size", &limits.batch_size()),
                ("queue.buffering.max.kbytes", &limits.queue_kilobytes()),
                ("delivery.timeout.ms", &wait_max.as_millis().to_string()),
            ],
        );
        config.set_log_level(RDKafkaLogLevel::Warning);
        let context = Context { credentials: connection.credentials.clone(), on_delivery: Box::new(on_delivery) };
        let client = ThreadedProducer::from_config_and_context(&config, context).map_err(KafkaError::client)?;
        Ok(Self { client, wait_max })
    }

    /// Hands a record to the client; waits, within its time limit, while the client's queue is full.
    ///
    /// # Errors
    /// When the record is too large for the client, or its queue stayed full.
    pub fn publish(&self, answering: T, record: &Outgoing) -> Result<(), PublishError> {
        self.send(Some(answering), record, Instant::now() + self.wait_max)
    }

    /// Hands over a record that answers no request, and does not wait for room. Nobody is told what becomes of it.
    ///
    /// # Errors
    /// As [`Self::publish`], and at once.
    pub fn publish_aside(&self, record: &Outgoing) -> Result<(), PublishError> {
        self.send(None, record, Instant::now())
    }

    fn send(&self, answering: Option<T>, record: &Outgoing, deadline: Instant) -> Result<(), PublishError> {
        let failed = |reason: String| PublishError::Failed { topic: record.topic.clone(), reason };
        let mut answering = Box::new(answering);
        loop {
            match self.client.send(to_record(record, &record.topic, answering)) {
                Ok(()) => return Ok(()),
                Err((error, back)) if has_code(&error, RDKafkaErrorCode::QueueFull) && Instant::now() < deadline => {
                    answering = back.delivery_opaque;
                    std::thread::sleep(QUEUE_FULL_PAUSE);
                }
                Err((error, _)) if has_code(&error, RDKafkaErrorCode::MessageSizeTooLarge) => {
                    return Err(PublishError::TooLarge(Box::new(record.clone())));
                }
                Err((error, _)) => return Err(failed(error.to_string())),
            }
        }
    }

    /// Waits until everything handed over is acknowledged or given up.
    ///
    /// # Errors
    /// When that takes longer than the time limit.
    pub fn flush(&self) -> Result<(), KafkaError> {
        Ok(self.client.flush(self.wait_max)?)
    }
}

impl<T: Send + Sync + 'static> ClientContext for Context<T> {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.credentials.token()
    }
}

impl<T: Send + Sync + 'static> ProducerContext for Context<T> {
    type DeliveryOpaque = Box<Option<T>>;

    fn delivery(&self, result: &DeliveryResult<'_>, answering: Box<Option<T>>) {
        let Some(answering) = *answering else { return };
        let outcome = match result {
            Ok(_) => Ok(()),
            Err((error, message)) => {
                let back = || {
                    Box::new(Outgoing {
                        topic: message.topic().to_owned(),
                        key: message.key().map(<[u8]>::to_vec),
                        payload: message.payload().map(<[u8]>::to_vec),
                        headers: headers(message.headers()),
                    })
                };
                Err(match RecordRefusal::of(error) {
                    Some(RecordRefusal::TooLarge) => PublishError::TooLarge(back()),
                    Some(RecordRefusal::Invalid | RecordRefusal::Neighbour) => PublishError::Invalid(back()),
                    None => PublishError::Failed { topic: message.topic().to_owned(), reason: reason(error) },
                })
            }
        };
        (self.on_delivery)(answering, outcome);
    }
}
