//! Outcomes and offsets in one transaction.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::ConsumerGroupMetadata,
    error::{KafkaError as ClientError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::BaseRecord,
};

use super::{
    connection::{Connection, KafkaError, has_code, to_record},
    consumer::Consumer,
    identity::Identity,
    marks::{self, Place},
    publisher::{RecordLimits, RecordRefusal},
    transactional_client::{Client, Reports, Sent, is_refusal, locked, outsider},
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
    /// The group whose offsets its transactions carry, and a topic that it does not read; none where they carry none.
    pub group: Option<(String, String)>,
}

/// What a step of a transaction came to, where it did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    /// The transaction is to be aborted, and can be begun anew.
    #[error("{0}")]
    Abort(String),
    /// The same, for a reason that goes away only when somebody changes the cluster: a topic that is gone, or forbidden.
    #[error("{0}")]
    Refused(String),
    /// The producer is of no use any more.
    #[error(transparent)]
    Stop(#[from] KafkaError),
}

impl From<TransactionError> for KafkaError {
    fn from(error: TransactionError) -> Self {
        match error {
            TransactionError::Abort(reason) | TransactionError::Refused(reason) => Self::Fatal(reason),
            TransactionError::Stop(error) => error,
        }
    }
}

/// Publishes records in transactions, together with the offsets that they answer. All its calls may wait for brokers, and
/// are made from one thread.
///
/// Its client is replaced where something was not as it should be: after an abort, after a connection was lost, after an error
/// for which the client has no other way. A request that was sent on a lost connection may reach its broker late, in the middle
/// of the next transaction, and brokers take it for a part of that one, because the client keeps its epoch from one
/// transaction to the next (KIP-890 tells what comes of it). A new client has a new epoch, which locks the old one's
/// requests out. Offsets that came late before it are undecided for ever, and whoever gets their partition waits for them: so
/// a new client begins with a transaction of nothing but an offset, and aborts it, which decides them. Where the brokers have not
/// marked the end of what was aborted, it writes an empty record too, so that the mark of its own abort ends both (`marks` tells why).
pub struct TransactionalPublisher<T: Send + Sync + 'static> {
    connection: Connection,
    options: TransactionOptions,
    client: Client<T>,
    reports: Arc<Reports<T>>,
    /// One who is no member of the group, and an offset that means nothing to it; none where no offsets are committed.
    outsider: Option<(Arc<ConsumerGroupMetadata>, TopicPartitionList)>,
    /// Clients whose calls do not come back.
    stuck: usize,
}

/// Header of an empty record that ends an earlier transaction, for those who read what was aborted too.
const SETTLES: &str = "ofa-settles";

/// Waited between two tries of a step.
const PAUSE: Duration = Duration::from_millis(100);
/// How long this program itself looks at what is on its way, and waits between two looks.
const DELIVERY_WAIT: Duration = Duration::from_secs(1);
const DELIVERY_PAUSE: Duration = Duration::from_millis(1);
/// How long the client library is asked to try by itself, at most: it says more when asked again.
const TRY: Duration = Duration::from_secs(10);
/// Clients whose calls do not come back, before this program gives up: each keeps its threads.
const STUCK_MAX: usize = 16;

impl<T: Send + Sync + 'static> TransactionalPublisher<T> {
    /// Makes the producer, and ends what an earlier one of this name left open.
    ///
    /// # Errors
    /// When the client cannot be made, or the cluster does not answer in time.
    pub fn open(connection: &Connection, options: TransactionOptions) -> Result<Self, KafkaError> {
        let reports = Arc::new(Reports::default());
        let outsider = match &options.group {
            None => None,
            Some((group, topic)) => {
                let mut list = TopicPartitionList::with_capacity(1);
                list.add_partition_offset(topic, 0, Offset::Offset(0)).map_err(KafkaError::client)?;
                Some((outsider(connection, group)?, list))
            }
        };
        let client = Client::open(connection, &options, &reports)?;
        let mut publisher = Self { connection: connection.clone(), options, client, reports, outsider, stuck: 0 };
        match publisher.settle() {
            Ok(()) => {}
            Err(TransactionError::Abort(_) | TransactionError::Refused(_)) => {
                publisher.renew().map_err(KafkaError::from)?;
            }
            Err(TransactionError::Stop(error)) => return Err(error),
        }
        Ok(publisher)
    }

    /// Replaces the client; what is still open of the old one is aborted.
    fn renew(&mut self) -> Result<(), TransactionError> {
        // One that another has locked out must not lock the other out.
        if self.client.fatal_error().is_some_and(|(code, _)| is_fencing(code)) {
            return Err(TransactionError::Stop(self.twin()));
        }
        let deadline = Instant::now() + self.options.wait_max;
        loop {
            self.stuck += usize::from(self.client.is_stuck());
            if self.stuck > STUCK_MAX {
                let reason =
                    format!("the client library did not come back from {STUCK_MAX} calls: start this program again");
                return Err(TransactionError::Stop(KafkaError::Fatal(reason)));
            }
            self.client = Client::open(&self.connection, &self.options, &self.reports)?;
            match self.settle() {
                Ok(()) => break,
                Err(TransactionError::Abort(reason) | TransactionError::Refused(reason))
                    if Instant::now() < deadline =>
                {
                    tracing::debug!(reason, "A new producer is not settled yet; this is tried on.");
                    std::thread::sleep(PAUSE);
                }
                Err(error) => return Err(TransactionError::Stop(error.into())),
            }
        }
        tracing::info!("The producer was made anew, so that nothing of the old one can come late.");
        Ok(())
    }

    /// Decides what earlier clients have left undecided: an aborted transaction with an offset of the group, and with a record in each
    /// partition where the end of an aborted one is not marked.
    fn settle(&self) -> Result<(), TransactionError> {
        let Some((outsider, offset)) = &self.outsider else { return Ok(()) };
        let missing = marks::missing(&self.connection, &self.reports.touched)?;
        let deadline = Instant::now() + self.options.wait_max;
        self.client.begin_transaction().map_err(|error| self.consequence(error))?;
        self.write_into(&missing, deadline)?;
        match self.client.send_offsets(offset, outsider, TRY.min(self.options.wait_max)) {
            Ok(()) => {}
            // That the group refuses an outsider's offset is expected: its offsets' partition is in the transaction by then.
            Err(ClientError::Transaction(error)) if error.txn_requires_abort() => {}
            Err(error) => return Err(self.consequence(error)),
        }
        self.patiently_until(deadline, Client::abort_transaction)?;
        self.reports.touched.clear();
        Ok(())
    }

    /// Writes an empty record into each of these partitions, and waits until they are there: what is still on its way when a transaction
    /// is aborted has no part in it.
    fn write_into(&self, places: &[Place], deadline: Instant) -> Result<(), TransactionError> {
        for (topic, partition) in places {
            tracing::warn!(
                topic,
                partition,
                "The end of an aborted transaction is not seen here: its mark was left out, or another producer has something open. It is \
                 ended anew."
            );
            let headers = OwnedHeaders::new()
                .insert(Header { key: SETTLES, value: Some(self.options.transactional_id.as_bytes()) });
            let record: Sent<'_, T> = BaseRecord::with_opaque_to(topic, Box::new(None));
            let record = record.partition(*partition).key(SETTLES.as_bytes()).payload(&[]).headers(headers);
            self.reports.touched.expect((topic.clone(), *partition));
            self.client.send(record).map_err(|(error, _)| self.consequence(error))?;
        }
        while self.client.in_flight_count() > 0 && Instant::now() < deadline {
            std::thread::sleep(DELIVERY_PAUSE);
        }
        if self.reports.touched.is_known(places) {
            Ok(())
        } else {
            Err(TransactionError::Abort("an aborted transaction could not be ended yet".to_owned()))
        }
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// When the producer is of no use any more.
    pub fn begin(&mut self) -> Result<(), TransactionError> {
        if self.client.is_disturbed() {
            self.renew()?;
        }
        // What was said of an earlier transaction is no reason for the end of this one.
        locked(&self.reports.refusal).take();
        self.reports.touched.clear();
        self.client.begin_transaction().map_err(|error| self.consequence(error))
    }

    /// Hands a record to the open transaction; `answering` names the request that it answers. Gives back whether it was taken: one that
    /// is larger than the client takes is not.
    ///
    /// # Errors
    /// When the transaction is to be aborted, or the producer is of no use any more.
    pub fn publish(&self, answering: T, record: &Outgoing) -> Result<bool, TransactionError> {
        let deadline = Instant::now() + self.options.wait_max;
        let mut answering = Box::new(Some(answering));
        loop {
            match self.client.send(to_record(record, &record.topic, answering)) {
                Ok(()) => return Ok(true),
                Err((error, _)) if has_code(&error, RDKafkaErrorCode::MessageSizeTooLarge) => return Ok(false),
                Err((error, back)) if has_code(&error, RDKafkaErrorCode::QueueFull) && Instant::now() < deadline => {
                    answering = back.delivery_opaque;
                    std::thread::sleep(PAUSE);
                }
                Err((error, _)) => return Err(self.consequence(error)),
            }
        }
    }

    /// Commits the open transaction with the next offset of each source, as the member of this identity.
    ///
    /// # Errors
    /// When the transaction is to be aborted, or the producer is of no use any more.
    pub fn commit(
        &mut self,
        consumer: &Consumer,
        identity: &Identity,
        offsets: &[(Source, i64)],
    ) -> Result<(), TransactionError> {
        let list = consumer.offsets(offsets)?;
        let deadline = Instant::now() + self.options.wait_max;
        self.patiently_until(deadline, |client, wait| client.send_offsets(&list, &identity.metadata, wait))?;
        self.end(deadline)?;
        // It is committed, whatever comes of this; the next transaction tries it again.
        if self.client.is_disturbed()
            && let Err(error) = self.renew()
        {
            tracing::warn!(%error, "The producer is not made anew yet.");
        }
        Ok(())
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
        self.patiently_until(deadline, |client, wait| {
            let ended = client.commit_transaction(wait);
            // Unless it is sure that it was not committed, nothing may end it otherwise.
            if !matches!(&ended, Err(ClientError::Transaction(error)) if error.txn_requires_abort()) {
                self.reports.touched.clear();
            }
            ended
        })
    }

    /// Aborts the open transaction, after which nothing is published any more.
    ///
    /// # Errors
    /// When it could not be aborted: the brokers do so after a time, or the next producer of this name.
    pub fn abort(&self) -> Result<(), TransactionError> {
        if self.client.is_stuck() {
            Err(TransactionError::Abort("the client library does not come back".to_owned()))
        } else {
            self.patiently_until(Instant::now() + self.options.wait_max, Client::abort_transaction)
        }
    }

    /// Aborts the open transaction, and is ready for another.
    ///
    /// # Errors
    /// When the producer is of no use any more, and cannot be replaced.
    pub fn abort_and_renew(&mut self) -> Result<(), TransactionError> {
        match self.abort() {
            // What a new producer finds open of the old one, it aborts. Now rather than at the next transaction: there may be
            // none for a long time, while others wait for what this one has left undecided.
            Ok(()) | Err(TransactionError::Abort(_) | TransactionError::Refused(_)) => self.renew(),
            Err(stop) => Err(stop),
        }
    }

    /// Takes the requests whose records the brokers refused: that is why a transaction was aborted.
    pub fn take_refused(&self) -> Vec<(T, RecordRefusal)> {
        std::mem::take(&mut *locked(&self.reports.refused))
    }

    /// Waits until nothing is on its way to the brokers, so that the next record shares its batch with none before it.
    pub fn drain(&self) {
        let deadline = Instant::now() + self.options.wait_max;
        while self.client.in_flight_count() > 0 && Instant::now() < deadline {
            std::thread::sleep(DELIVERY_PAUSE);
        }
    }

    /// Tries a step again while the client says that it may succeed: an unanswered commit is neither done nor undone.
    fn patiently_until(
        &self,
        deadline: Instant,
        step: impl Fn(&Client<T>, Duration) -> Result<(), ClientError>,
    ) -> Result<(), TransactionError> {
        loop {
            match step(&self.client, TRY.min(self.options.wait_max)) {
                Ok(()) => return Ok(()),
                // Another step that did not come to its end will not end while this one is tried.
                Err(ClientError::Transaction(error))
                    if error.is_retriable()
                        && error.code() != RDKafkaErrorCode::Conflict
                        && Instant::now() < deadline =>
                {
                    tracing::debug!(%error, "A step of a transaction is tried again.");
                    self.client.disturb();
                    std::thread::sleep(PAUSE);
                }
                Err(error) => return Err(self.consequence(error)),
            }
        }
    }

    fn twin(&self) -> KafkaError {
        KafkaError::Twin { setting: "kafka.instance_id", id: self.options.transactional_id.clone() }
    }

    /// What follows from an error of the client. A fatal one is the end of the client, not of this program: whatever it was
    /// about, a new client says so again, or does not. But one that another has locked out must not lock the other out.
    fn consequence(&self, error: ClientError) -> TransactionError {
        if let Some(reason) = locked(&self.reports.refusal).take() {
            return TransactionError::Refused(reason);
        }
        let (code, reason, is_fatal) = match &error {
            ClientError::Transaction(error) => (Some(error.code()), error.string(), !error.txn_requires_abort()),
            // A record that could not be handed over: without it the transaction must not be committed.
            other => match self.client.fatal_error() {
                Some((code, reason)) => (Some(code), reason, true),
                None => (other.rdkafka_error_code(), other.to_string(), false),
            },
        };
        match code {
            Some(code) if is_fatal && is_fencing(code) => TransactionError::Stop(self.twin()),
            Some(code) if is_refusal(code) => TransactionError::Refused(reason),
            _ => TransactionError::Abort(reason),
        }
    }
}

/// Whether another producer of the same name has locked this one out.
fn is_fencing(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced | RDKafkaErrorCode::InvalidProducerEpoch)
}
