//! The client of a transactional producer: how it is made, what it calls back, and how one bears with its waits.

use std::{
    error::Error,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, bounded};
use rdkafka::{
    ClientContext, Message, TopicPartitionList,
    client::OAuthToken,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer as _, ConsumerGroupMetadata},
    error::{KafkaError as ClientError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer},
};

use super::{
    connection::{Connection, KafkaError, Role, pass_on},
    marks::Touched,
    publisher::{RecordRefusal, reason},
    security::Credentials,
    transactions::TransactionOptions,
};

/// What brokers have told of records, over all clients of a publisher.
pub(super) struct Reports<T> {
    /// Where the last transaction has written.
    pub(super) touched: Touched,
    /// Those that the brokers did not take, for what they or their neighbours in a batch are.
    pub(super) refused: Mutex<Vec<(T, RecordRefusal)>>,
    /// What the brokers did not take though nothing is wrong with the record: its topic is gone, or this client may not write it.
    pub(super) refusal: Mutex<Option<String>>,
}

impl<T> Default for Reports<T> {
    fn default() -> Self {
        Self { touched: Touched::default(), refused: Mutex::default(), refusal: Mutex::default() }
    }
}

pub(super) fn locked<V>(value: &Mutex<V>) -> MutexGuard<'_, V> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A producer.
pub(super) struct Client<T: Send + Sync + 'static> {
    producer: Arc<Producer<T>>,
    asked: Sender<Offsets>,
    answered: Receiver<Result<(), ClientError>>,
    stuck: AtomicBool,
}

/// A record, with what it answers; one that answers nothing ends an earlier transaction.
pub(super) type Sent<'r, T> = BaseRecord<'r, [u8], [u8], Box<Option<T>>>;

type Producer<T> = ThreadedProducer<Context<T>>;

struct Offsets {
    list: TopicPartitionList,
    identity: Arc<ConsumerGroupMetadata>,
    wait: Duration,
}

pub(super) struct Context<T> {
    credentials: Credentials,
    reports: Arc<Reports<T>>,
    /// A connection was lost, or a request not answered.
    disturbed: AtomicBool,
}

/// The identity of one who is no member of a group.
pub(super) fn outsider(connection: &Connection, group: &str) -> Result<Arc<ConsumerGroupMetadata>, KafkaError> {
    let client: BaseConsumer =
        connection.config(Role::Reads, &[("group.id", group)]).create().map_err(KafkaError::client)?;
    let identity = client.group_metadata();
    identity.map(Arc::new).ok_or_else(|| KafkaError::Fatal(format!("the client knows no group `{group}`")))
}

/// Waited between two tries to begin.
const PAUSE: Duration = Duration::from_millis(100);
/// How much longer than it was told the client library may take, before it counts as stuck.
const GRACE: Duration = Duration::from_secs(2);

impl<T: Send + Sync + 'static> Client<T> {
    /// Makes the producer, and ends what an earlier one of its name left open.
    pub(super) fn open(
        connection: &Connection,
        options: &TransactionOptions,
        reports: &Arc<Reports<T>>,
    ) -> Result<Self, KafkaError> {
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
                // A leader that is none any more would be found out after five minutes.
                ("topic.metadata.refresh.interval.ms", "10000"),
                ("linger.ms", "5"),
                ("compression.codec", "lz4"),
                // The partitioner of the Java client, so that verdicts lie where others look for a key.
                ("partitioner", "murmur2_random"),
                ("message.max.bytes", &options.limits.record_bytes_max.to_string()),
                ("batch.size", &options.limits.batch_size()),
                ("queue.buffering.max.kbytes", &options.limits.queue_kilobytes()),
            ],
        );
        // That a connection was closed it says as information only.
        config.set_log_level(RDKafkaLogLevel::Info);
        let context = Context {
            credentials: connection.credentials.clone(),
            reports: reports.clone(),
            disturbed: AtomicBool::new(false),
        };
        let producer = Arc::new(Producer::from_config_and_context(&config, context).map_err(KafkaError::client)?);
        let deadline = Instant::now() + options.wait_max;
        loop {
            match producer.init_transactions(options.wait_max) {
                Ok(()) => break,
                Err(ClientError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => {
                    thread::sleep(PAUSE);
                }
                Err(error) => return Err(KafkaError::Fatal(error.to_string())),
            }
        }
        // What was met until now is over.
        producer.context().disturbed.store(false, Ordering::Release);
        let (asked, questions) = bounded::<Offsets>(1);
        let (answers, answered) = bounded(1);
        let sending = producer.clone();
        let send = move || {
            for Offsets { list, identity, wait } in questions {
                if answers.send(sending.send_offsets_to_transaction(&list, &identity, wait)).is_err() {
                    break;
                }
            }
        };
        thread::Builder::new()
            .name("offsets".to_owned())
            .spawn(send)
            .map_err(|error| KafkaError::Fatal(format!("no thread for a producer: {error}")))?;
        Ok(Self { producer, asked, answered, stuck: AtomicBool::new(false) })
    }

    /// Whether a connection was lost, or a request not answered, since it was made.
    pub(super) fn is_disturbed(&self) -> bool {
        self.producer.context().disturbed.load(Ordering::Acquire)
    }

    /// Says that an answer did not come when it should have, so that this client is replaced before its next transaction.
    pub(super) fn disturb(&self) {
        self.producer.context().disturbed.store(true, Ordering::Release);
    }

    /// Whether a call did not come back.
    pub(super) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Acquire)
    }

    /// Sends the offsets, on a thread of its own: where a broker leaves the cluster in the middle of it, librdkafka 2.12 may
    /// never come back, whatever it was told to wait (its issues 5456 and 5511).
    pub(super) fn send_offsets(
        &self,
        list: &TopicPartitionList,
        identity: &Arc<ConsumerGroupMetadata>,
        wait: Duration,
    ) -> Result<(), ClientError> {
        let asked = self.asked.try_send(Offsets { list: list.clone(), identity: identity.clone(), wait });
        let answer = asked.ok().and_then(|()| self.answered.recv_timeout(wait + GRACE).ok());
        answer.unwrap_or_else(|| {
            self.stuck.store(true, Ordering::Release);
            tracing::warn!(?wait, "The client library does not come back from sending offsets.");
            Err(ClientError::Canceled)
        })
    }

    pub(super) fn begin_transaction(&self) -> Result<(), ClientError> {
        self.producer.begin_transaction()
    }

    pub(super) fn commit_transaction(&self, wait: Duration) -> Result<(), ClientError> {
        self.producer.commit_transaction(wait)
    }

    pub(super) fn abort_transaction(&self, wait: Duration) -> Result<(), ClientError> {
        self.producer.abort_transaction(wait)
    }

    pub(super) fn in_flight_count(&self) -> i32 {
        self.producer.in_flight_count()
    }

    pub(super) fn fatal_error(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.producer.client().fatal_error()
    }

    /// Hands a record over; gives it back where it was not taken.
    #[expect(clippy::result_large_err, reason = "the record is given back")]
    pub(super) fn send<'r>(&self, record: Sent<'r, T>) -> Result<(), (ClientError, Sent<'r, T>)> {
        self.producer.send(record)
    }
}

impl<T: Send + Sync + 'static> ClientContext for Context<T> {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.credentials.token()
    }

    fn error(&self, error: ClientError, reason: &str) {
        self.disturbed.store(true, Ordering::Release);
        tracing::warn!(%error, reason, "The producer was disturbed.");
    }

    /// The client library tells of most lost connections here alone: as an error only what it has no other broker for.
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if tells_of_disturbance(facility, message) {
            self.disturbed.store(true, Ordering::Release);
        }
        pass_on(level, facility, message);
    }
}

/// Whether a line of the client library's log says that requests may have been lost on their way. A connection that did not come
/// about has carried none.
fn tells_of_disturbance(facility: &str, message: &str) -> bool {
    match facility {
        "REQTMOUT" => true,
        "FAIL" => !message.contains("state CONNECT"),
        _ => false,
    }
}

impl<T: Send + Sync + 'static> ProducerContext for Context<T> {
    type DeliveryOpaque = Box<Option<T>>;

    /// A record that was not delivered fails its transaction by itself; here only the reason is kept that asks for another
    /// record the next time, and where records may be.
    fn delivery(&self, result: &DeliveryResult<'_>, answering: Box<Option<T>>) {
        let (error, message) = match result {
            Ok(message) => return self.reports.touched.delivered(message),
            Err((error, message)) => (error, message),
        };
        if let Some(refusal) = RecordRefusal::of(error) {
            locked(&self.reports.refused).extend(answering.map(|answering| (answering, refusal)));
            return;
        }
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::PurgeInflight) => self.reports.touched.perhaps_delivered(message),
            Some(code) if is_refusal(code) => {
                let reason = format!("a record for `{}` was not taken: {}", message.topic(), reason(error));
                locked(&self.reports.refusal).get_or_insert(reason);
            }
            _ => {}
        }
    }
}

/// Whether another try changes nothing, until somebody changes the cluster or the settings. Of a topic that was deleted the client
/// says no more than that a record waited for too long.
pub(super) fn is_refusal(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::MessageTimedOut
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::InvalidTopic
            | RDKafkaErrorCode::PolicyViolation
            | RDKafkaErrorCode::InvalidTimestamp
            | RDKafkaErrorCode::UnsupportedForMessageFormat
            | RDKafkaErrorCode::UnsupportedCompressionType
    )
}

#[cfg(test)]
mod tests {
    use rdkafka::{
        ClientConfig, Offset,
        mocking::{MockCluster, MockCoordinator},
    };

    use super::*;
    use crate::kafka::RecordLimits;

    /// Two brokers: one leads the verdicts and coordinates transactions, the other coordinates the group.
    fn cluster() -> (MockCluster<'static, impl ClientContext>, Connection, TransactionOptions) {
        let mock = MockCluster::new(2).unwrap();
        mock.create_topic("requests", 1, 1).unwrap();
        mock.create_topic("verdicts", 1, 1).unwrap();
        mock.partition_leader("verdicts", 0, Some(1)).unwrap();
        mock.coordinator(MockCoordinator::Transaction("writer".to_owned()), 1).unwrap();
        mock.coordinator(MockCoordinator::Group("readers".to_owned()), 2).unwrap();
        let connection = Connection::to(mock.bootstrap_servers());
        let options = TransactionOptions {
            transactional_id: "writer".to_owned(),
            limits: RecordLimits { record_bytes_max: 1 << 20, batch_bytes: None, queue_bytes_max: 1 << 26 },
            timeout: Duration::from_secs(60),
            wait_max: Duration::from_secs(20),
            group: None,
        };
        (mock, connection, options)
    }

    #[test]
    fn a_lost_connection_is_told_from_one_that_did_not_come_about() {
        let lost = "GroupCoordinator: 127.0.0.1:9092: Disconnected (after 4021ms in state UP)";
        let refused =
            "127.0.0.1:9093/2: Connect to ipv4#127.0.0.1:9093 failed: Connection refused (after 0ms in state CONNECT)";
        let late = "127.0.0.1:9092/1: Timed out 1 in-flight, 0 retry-queued, 0 out-queue, 0 partially-sent requests";
        for (facility, message, expected) in
            [("FAIL", lost, true), ("FAIL", refused, false), ("REQTMOUT", late, true), ("CONFWARN", lost, false)]
        {
            assert_eq!(tells_of_disturbance(facility, message), expected, "{facility} {message}");
        }
    }

    #[test]
    fn a_connection_that_was_lost_is_noticed_though_other_brokers_are_there() {
        let (mock, connection, options) = cluster();
        let client = Client::open(&connection, &options, &Arc::new(Reports::<()>::default())).unwrap();
        client.begin_transaction().unwrap();
        let record =
            BaseRecord::with_opaque_to("verdicts", Box::new(Some(()))).payload(b"yes".as_slice()).key(b"k".as_slice());
        assert!(client.send(record).is_ok());
        client.commit_transaction(Duration::from_secs(10)).unwrap();
        assert!(!client.is_disturbed());
        mock.broker_down(1).unwrap();
        let begun = Instant::now();
        while !client.is_disturbed() {
            assert!(begun.elapsed() < Duration::from_secs(10), "nothing was noticed");
            thread::sleep(PAUSE);
        }
    }

    #[test]
    fn offsets_that_no_coordinator_takes_are_given_up_in_time_and_a_new_client_goes_on() {
        let (mock, connection, options) = cluster();
        let reports = Arc::new(Reports::<()>::default());
        let client = Client::open(&connection, &options, &reports).unwrap();
        client.begin_transaction().unwrap();
        let record =
            BaseRecord::with_opaque_to("verdicts", Box::new(Some(()))).payload(b"yes".as_slice()).key(b"k".as_slice());
        assert!(client.send(record).is_ok());
        let reader: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", mock.bootstrap_servers())
            .set("group.id", "readers")
            .create()
            .unwrap();
        let identity = Arc::new(reader.group_metadata().unwrap());
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("requests", 0, Offset::Offset(1)).unwrap();
        mock.broker_down(2).unwrap();
        let begun = Instant::now();
        let wait = Duration::from_millis(500);
        assert!(client.send_offsets(&list, &identity, wait).is_err());
        assert!(begun.elapsed() < wait + GRACE + Duration::from_secs(2), "{:?}", begun.elapsed());
        mock.broker_up(2).unwrap();
        let next = Client::open(&connection, &options, &reports).unwrap();
        next.begin_transaction().unwrap();
        next.send_offsets(&list, &identity, Duration::from_secs(10)).unwrap();
        next.commit_transaction(Duration::from_secs(10)).unwrap();
    }
}
