//! Outcomes and offsets in one transaction.

use std::{
    error::Error,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Message,
    client::OAuthToken,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::{KafkaError as ClientError, RDKafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{Producer as _, ProducerContext, ThreadedProducer},
};

use super::{
    connection::{Connection, KafkaError, Role, has_code, to_record},
    consumer::Consumer,
    publisher::RecordLimits,
    security::Credentials,
};
use crate::message::{Outgoing, Source};

/// How a transactional producer is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionOptions {
    /// Its name, kept over restarts: a new producer of this name ends the transactions of the old one, and locks it out.
    pub transactional_id: String,
    /// How large what is published may be.
    pub limits: RecordLimits,
    /// After how long the brokers abort a transaction that is not ended.
    pub timeout: Duration,
    /// How long one step may be tried again while brokers are away.
    pub wait_max: Duration,
}

/// What a step of a transaction came to, where it did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    /// The transaction is to be aborted, and can be begun anew.
    #[error("{0}")]
    Abort(String),
    /// The producer is of no use any more.
    #[error(transparent)]
    Stop(#[from] KafkaError),
}

/// Publishes records in transactions, together with the offsets that they answer. All its calls may wait for brokers, and
/// are made from one thread.
pub struct TransactionalPublisher<T: Send + Sync + 'static> {
    client: ThreadedProducer<Context<T>>,
    options: TransactionOptions,
}

struct Context<T> {
    credentials: Credentials,
    /// Those that the brokers will not take as they are: too large, or without the key that a compacted topic asks for.
    too_large: Mutex<Vec<T>>,
    /// Why the brokers take nothing at all, where they do not.
    forbidden: Mutex<Option<String>>,
}

/// Waited between two tries of a step.
const PAUSE: Duration = Duration::from_millis(100);
/// How long this program itself looks at what is on its way, and waits between two looks.
const DELIVERY_WAIT: Duration = Duration::from_secs(1);
const DELIVERY_PAUSE: Duration = Duration::from_millis(1);
/// How long the client library is asked to try by itself, at most: it says more when asked again.
const TRY: Duration = Duration::from_secs(10);

impl<T: Send + Sync + 'static> TransactionalPublisher<T> {
    /// Makes the producer, and ends what an earlier one of this name left open.
    ///
    /// # Errors
    /// When the client cannot be made, or the cluster does not answer in time.
    pub fn open(connection: &Connection, options: TransactionOptions) -> Result<Self, KafkaError> {
        let mut config = connection.config(
            Role::Writes,
            &[
                ("transactional.id", &options.transactional_id),
                ("transaction.timeout.ms", &options.timeout.as_millis().to_string()),
                // Less than the transaction may take: which of the two ends first must not be chance.
                ("delivery.timeout.ms", &options.wait_max.as_millis().to_string()),
                // A transaction that follows closely on another is told to come again until that one is marked everywhere, which
                // takes milliseconds; with the client's 100 ms each would take that long. It doubles with every try.
                ("retry.backoff.ms", "5"),
                ("linger.ms", "5"),
                ("compression.codec", "lz4"),
                // The partitioner of the Java client, so that verdicts lie where others look for a key.
                ("partitioner", "murmur2_random"),
                ("message.max.bytes", &options.limits.record_bytes_max.to_string()),
                ("batch.size", &options.limits.batch_size()),
            ],
        );
        config.set_log_level(RDKafkaLogLevel::Warning);
        let context = Context {
            credentials: connection.credentials.clone(),
            too_large: Mutex::default(),
            forbidden: Mutex::default(),
        };
        let client = ThreadedProducer::from_config_and_context(&config, context).map_err(KafkaError::client)?;
        let publisher = Self { client, options };
        publisher.patiently(ThreadedProducer::init_transactions).map_err(|error| match error {
            TransactionError::Abort(reason) => KafkaError::Fatal(reason),
            TransactionError::Stop(error) => error,
        })?;
        Ok(publisher)
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// When the producer is of no use any more.
    pub fn begin(&self) -> Result<(), TransactionError> {
        self.client.begin_transaction().map_err(|error| self.consequence(error))
    }

    /// Hands a record to the open transaction; `answering` names the request that it answers. One that is larger than the
    /// client takes is given back.
    ///
    /// # Errors
    /// When the transaction is to be aborted, or the producer is of no use any more.
    pub fn publish(&self, answering: T, record: &Outgoing) -> Result<Result<(), T>, TransactionError> {
        let deadline = Instant::now() + self.options.wait_max;
        let mut answering = Box::new(answering);
        loop {
            match self.client.send(to_record(record, &record.topic, answering)) {
                Ok(()) => return Ok(Ok(())),
                Err((error, back)) if has_code(&error, RDKafkaErrorCode::MessageSizeTooLarge) => {
                    return Ok(Err(*back.delivery_opaque));
                }
                Err((error, back)) if has_code(&error, RDKafkaErrorCode::QueueFull) && Instant::now() < deadline => {
                    answering = back.delivery_opaque;
                    std::thread::sleep(PAUSE);
                }
                Err((error, _)) => return Err(self.consequence(error)),
            }
        }
    }

    /// Commits the open transaction with the next offset of each source. The member's identity in its group is taken first,
    /// then `still_owned` is asked, so that an identity of before a loss meets brokers that refuse it.
    ///
    /// # Errors
    /// When the transaction is to be aborted, or the producer is of no use any more.
    pub fn commit(
        &self,
        consumer: &Consumer,
        offsets: &[(Source, i64)],
        still_owned: &dyn Fn() -> bool,
    ) -> Result<(), TransactionError> {
        let Some(identity) = consumer.group_metadata() else {
            return Err(TransactionError::Abort("this instance is in no group now".to_owned()));
        };
        if consumer.is_lost() || !still_owned() {
            return Err(TransactionError::Abort("a partition went to another member".to_owned()));
        }
        let list = consumer.offsets(offsets)?;
        let deadline = Instant::now() + self.options.wait_max;
        self.patiently_until(deadline, |client, wait| client.send_offsets_to_transaction(&list, &identity, wait))?;
        self.end(deadline)
    }

    /// Commits the open transaction, which answers nothing.
    ///
    /// # Errors
    /// When the transaction is to be aborted, or the producer is of no use any more.
    pub fn commit_alone(&self) -> Result<(), TransactionError> {
        self.end(Instant::now() + self.options.wait_max)
    }

    fn end(&self, deadline: Instant) -> Result<(), TransactionError> {
        // The library's own wait for what is on its way goes by steps of 100 ms; what takes longer than a second is its affair.
        let soon = deadline.min(Instant::now() + DELIVERY_WAIT);
        while self.client.in_flight_count() > 0 && Instant::now() < soon {
            std::thread::sleep(DELIVERY_PAUSE);
        }
        self.patiently_until(deadline, ThreadedProducer::commit_transaction)
    }

    /// Aborts the open transaction.
    ///
    /// # Errors
    /// When the producer is of no use any more.
    pub fn abort(&self) -> Result<(), TransactionError> {
        self.patiently(ThreadedProducer::abort_transaction)
    }

    /// Takes the requests whose records the brokers found too large: that is why a transaction was aborted.
    pub fn too_large(&self) -> Vec<T> {
        let mut found = self.client.context().too_large.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *found)
    }

    /// Tries a step again while the client says that it may succeed: an unanswered commit is neither done nor undone.
    fn patiently(
        &self,
        step: impl Fn(&ThreadedProducer<Context<T>>, Duration) -> Result<(), ClientError>,
    ) -> Result<(), TransactionError> {
        self.patiently_until(Instant::now() + self.options.wait_max, step)
    }

    fn patiently_until(
        &self,
        deadline: Instant,
        step: impl Fn(&ThreadedProducer<Context<T>>, Duration) -> Result<(), ClientError>,
    ) -> Result<(), TransactionError> {
        loop {
            match step(&self.client, TRY.min(self.options.wait_max)) {
                Ok(()) => return Ok(()),
                Err(ClientError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => {
                    tracing::debug!(%error, "A step of a transaction is tried again.");
                    std::thread::sleep(PAUSE);
                }
                Err(error) => return Err(self.consequence(error)),
            }
        }
    }

    /// What follows from an error of the client.
    fn consequence(&self, error: ClientError) -> TransactionError {
        let forbidden = self.client.context().forbidden.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reason) = forbidden {
            return TransactionError::Stop(KafkaError::Fatal(reason));
        }
        let ClientError::Transaction(error) = error else {
            return match self.client.client().fatal_error() {
                Some((code, reason)) => TransactionError::Stop(self.fatal(code, reason)),
                // A record that could not be handed over: without it the transaction must not be committed.
                None => TransactionError::Abort(error.to_string()),
            };
        };
        match &error {
            error if error.txn_requires_abort() => TransactionError::Abort(RDKafkaError::string(error)),
            error => TransactionError::Stop(self.fatal(error.code(), error.string())),
        }
    }

    fn fatal(&self, code: RDKafkaErrorCode, reason: String) -> KafkaError {
        match code {
            RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced | RDKafkaErrorCode::InvalidProducerEpoch => {
                KafkaError::Twin { setting: "kafka.instance_id", id: self.options.transactional_id.clone() }
            }
            _ => KafkaError::Fatal(reason),
        }
    }
}

impl<T: Send + Sync + 'static> ClientContext for Context<T> {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.credentials.token()
    }
}

impl<T: Send + Sync + 'static> ProducerContext for Context<T> {
    type DeliveryOpaque = Box<T>;

    /// A record that was not delivered fails its transaction by itself; here only the reason is kept that asks for another
    /// record the next time.
    fn delivery(&self, result: &DeliveryResult<'_>, answering: Box<T>) {
        let Err((error, message)) = result else { return };
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidRecord) => {
                self.too_large.lock().unwrap_or_else(PoisonError::into_inner).push(*answering);
            }
            Some(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed) => {
                let reason = format!("a record for `{}` was refused: {error}", message.topic());
                self.forbidden.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
            }
            _ => {}
        }
    }
}
