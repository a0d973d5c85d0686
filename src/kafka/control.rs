//! The control topic: what operators changed, for every instance of a group. Compacted, so its last record is all there
//! is to know; partition 0 alone, so that all instances see the same order.

use std::{error::Error, time::Duration};

use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList,
    client::OAuthToken,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError as ClientError,
    message::DeliveryResult,
    producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer},
    types::RDKafkaErrorCode,
};

use super::{
    connection::{Authenticated, Connection, KafkaError, Role},
    security::Credentials,
};

const PARTITION: i32 = 0;

/// A record of the control topic that is meant for this group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlRecord {
    /// Its place in the order of all changes.
    pub offset: i64,
    /// Its value.
    pub payload: Vec<u8>,
}

/// What comes from the control topic.
pub enum ControlEvent {
    /// A change.
    Record(ControlRecord),
    /// The status of an instance of the group; without a value, it stopped.
    Instance(String, Option<Vec<u8>>),
    /// All that there is has been read.
    CaughtUp,
}

/// Reads the control topic from its beginning.
pub struct ControlReader {
    client: BaseConsumer<Authenticated>,
    group_id: String,
}

/// Writes to the control topic.
pub struct ControlWriter {
    client: ThreadedProducer<DeliveryReports>,
    topic: String,
    group_id: String,
}

impl ControlReader {
    /// Reads the changes for a group.
    ///
    /// # Errors
    /// When no broker answers, or the topic does not exist.
    pub fn new(connection: &Connection, topic: &str, group_id: &str) -> Result<Self, KafkaError> {
        connection.partitions(&[topic])?;
        let settings = [
            ("group.id", "ofa-stream-control"),
            ("enable.auto.commit", "false"),
            ("auto.offset.reset", "earliest"),
            ("enable.partition.eof", "true"),
            ("fetch.wait.max.ms", connection.fetch_wait_ms()),
        ];
        let client = BaseConsumer::from_config_and_context(
            &connection.config(Role::Reads, &settings),
            Authenticated(connection.credentials.clone()),
        )
        .map_err(KafkaError::client)?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, PARTITION, Offset::Beginning)?;
        client.assign(&list)?;
        Ok(Self { client, group_id: group_id.to_owned() })
    }

    /// The next event, or none within the timeout. Records of other groups, and deletions of changes, are left out.
    ///
    /// # Errors
    /// When the client cannot go on.
    pub fn next(&self, timeout: Duration) -> Result<Option<ControlEvent>, KafkaError> {
        match self.client.poll(timeout) {
            None => Ok(None),
            Some(Err(ClientError::PartitionEOF(_))) => Ok(Some(ControlEvent::CaughtUp)),
            Some(Err(error)) => Err(error.into()),
            Some(Ok(message)) if message.key() != Some(self.group_id.as_bytes()) => {
                let instance = message.key().and_then(|key| instance_of(key, &self.group_id));
                let value = message.payload().map(<[u8]>::to_vec);
                Ok(instance.map(|instance| ControlEvent::Instance(instance, value)))
            }
            Some(Ok(message)) => Ok(message.payload().map(|payload| {
                ControlEvent::Record(ControlRecord { offset: message.offset(), payload: payload.to_vec() })
            })),
        }
    }
}

impl ControlWriter {
    /// Writes changes for a group; each may take so long.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn new(connection: &Connection, topic: &str, group_id: &str, wait_max: Duration) -> Result<Self, KafkaError> {
        let config = connection.config(
            Role::Writes,
            &[
                ("enable.idempotence", "true"),
                ("acks", "all"),
                // A person waits for it.
                ("linger.ms", "0"),
                ("delivery.timeout.ms", &wait_max.as_millis().to_string()),
            ],
        );
        let client =
            ThreadedProducer::from_config_and_context(&config, DeliveryReports(connection.credentials.clone()))
                .map_err(KafkaError::client)?;
        Ok(Self { client, topic: topic.to_owned(), group_id: group_id.to_owned() })
    }

    /// Publishes a record. `failed` gets the reason if that does not work within the time limit, and whether the brokers can be sure
    /// not to have taken it.
    ///
    /// # Errors
    /// When the client refuses it.
    pub fn publish(
        &self,
        payload: &[u8],
        failed: impl FnOnce(String, bool) + Send + Sync + 'static,
    ) -> Result<(), String> {
        let record = BaseRecord::<[u8], [u8], Failed>::with_opaque_to(&self.topic, Box::new(Box::new(failed)));
        let record = record.partition(PARTITION).key(self.group_id.as_bytes()).payload(payload);
        self.client.send(record).map_err(|(error, _)| error.to_string())
    }

    /// Publishes the status of an instance; without a value, withdraws it. A status that is lost comes again.
    pub fn publish_status(&self, instance: &str, payload: Option<&[u8]>) {
        let key = instance_key(&self.group_id, instance);
        let ignored: Failed = Box::new(Box::new(|_: String, _: bool| {}));
        let record = BaseRecord::<[u8], [u8], Failed>::with_opaque_to(&self.topic, ignored);
        let mut record = record.partition(PARTITION).key(&key);
        if let Some(payload) = payload {
            record = record.payload(payload);
        }
        if let Err((error, _)) = self.client.send(record) {
            tracing::debug!(%error, "The status of this instance was not published.");
        }
    }

    /// Waits until everything is published, but not longer.
    pub fn flush(&self, wait_max: Duration) {
        self.client.flush(wait_max).ok();
    }
}

/// Stands between the group and the instance in a key. No group's name has it.
const SEPARATOR: u8 = 0;

fn instance_key(group_id: &str, instance: &str) -> Vec<u8> {
    [group_id.as_bytes(), &[SEPARATOR], instance.as_bytes()].concat()
}

fn instance_of(key: &[u8], group_id: &str) -> Option<String> {
    let instance = key.strip_prefix(group_id.as_bytes())?.strip_prefix(&[SEPARATOR])?;
    std::str::from_utf8(instance).ok().map(str::to_owned)
}

/// Called when a record was not published. Boxed twice: the client takes the address of one box.
type Failed = Box<Box<dyn FnOnce(String, bool) + Send + Sync>>;

/// Failures after which no broker has the record. After others, such as a timeout, one may have it.
const NOT_TAKEN: [RDKafkaErrorCode; 7] = [
    RDKafkaErrorCode::MessageSizeTooLarge,
    RDKafkaErrorCode::TopicAuthorizationFailed,
    RDKafkaErrorCode::ClusterAuthorizationFailed,
    RDKafkaErrorCode::UnknownTopicOrPartition,
    RDKafkaErrorCode::UnknownTopic,
    RDKafkaErrorCode::UnknownPartition,
    RDKafkaErrorCode::PurgeQueue,
];

struct DeliveryReports(Credentials);

impl ClientContext for DeliveryReports {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.0.token()
    }
}

impl ProducerContext for DeliveryReports {
    type DeliveryOpaque = Failed;

    fn delivery(&self, result: &DeliveryResult<'_>, failed: Self::DeliveryOpaque) {
        if let Err((error, _)) = result {
            let certain = error.rdkafka_error_code().is_some_and(|code| NOT_TAKEN.contains(&code));
            failed(error.to_string(), certain);
        }
    }
}
