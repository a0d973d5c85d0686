//! Where the cluster is, and how clients are made.

use std::{
    collections::BTreeMap,
    error::Error,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext,
    client::OAuthToken,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError as ClientError, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers, Message, OwnedHeaders},
    producer::BaseRecord,
    util::IntoOpaque,
};

use super::{EmbeddedBroker, security::Credentials};
use crate::message::{Header, Outgoing, Record};

/// What went wrong with Kafka.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// A client could not be made.
    #[error("the Kafka client cannot be made: {0}; see `[kafka.options]`")]
    Client(String),
    /// No broker answers.
    #[error("no broker answers at `{bootstrap_servers}`: {reason}")]
    Unreachable {
        /// Where it was asked.
        bootstrap_servers: String,
        /// What the client says.
        reason: String,
    },
    /// A topic is not there.
    #[error("topic `{topic}` does not exist on `{bootstrap_servers}`: create it, or correct `[kafka]`")]
    TopicMissing {
        /// Where it was looked for.
        bootstrap_servers: String,
        /// The topic.
        topic: String,
    },
    /// Reading or committing failed for good.
    #[error("Kafka: {0}")]
    Fatal(String),
    /// Requests may be larger than what they may have to go into.
    #[error(
        "{what} is {bytes} bytes, and topic `{requests}` takes records of {wanted}: a large request would lose its value in \
         the dead letters; raise it, or lower `max.message.bytes` of `{requests}`"
    )]
    TooSmall {
        /// What is too small.
        what: String,
        /// What it allows.
        bytes: usize,
        /// The requests topic.
        requests: String,
        /// What that allows.
        wanted: usize,
    },
    /// Another instance runs under the same name, and has taken over.
    #[error(
        "another instance runs as `{id}` and has taken over, so this one stops: give each instance a `{setting}` of its own (brokers that were away for longer than `kafka.transaction_timeout_ms` look the same)"
    )]
    Twin {
        /// The setting that gives the name.
        setting: &'static str,
        /// The name.
        id: String,
    },
    /// Nobody reads what is published, and the embedded broker's log would overflow.
    #[error(
        "nothing was read from `{topic}` for {waited:?} while {bytes} bytes wait: the embedded broker would drop the oldest records; start a consumer, or publish less"
    )]
    BacklogStuck {
        /// The topic.
        topic: String,
        /// How long it was waited.
        waited: Duration,
        /// Bytes that wait.
        bytes: usize,
    },
    /// A record alone is more than the embedded broker's log may hold.
    #[error("a record of {bytes} bytes is larger than the {bytes_max} bytes that the embedded broker is trusted with")]
    RecordTooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
}

impl From<rdkafka::error::KafkaError> for KafkaError {
    fn from(error: rdkafka::error::KafkaError) -> Self {
        Self::Fatal(error.to_string())
    }
}

impl KafkaError {
    /// A client that could not be made. The library's own words would quote the option's value, which
    /// may be a secret under a misspelt name.
    pub(super) fn client(error: rdkafka::error::KafkaError) -> Self {
        Self::Client(match error {
            rdkafka::error::KafkaError::ClientConfig(_, _, option, _) => {
                format!("option `{option}` is unknown, or its value is not allowed")
            }
            other => other.to_string(),
        })
    }
}

/// Where the cluster is, and the options passed through to librdkafka.
#[derive(Clone, PartialEq, Eq)]
pub struct Connection {
    /// Brokers to ask first, `host:port` separated by commas.
    pub bootstrap_servers: String,
    /// Options of librdkafka, as they are; they win over this program's own.
    pub options: BTreeMap<String, String>,
    /// Whether this is the embedded broker, which does not wake a fetch that waits.
    pub embedded: bool,
    /// Who this program is, where that is a token.
    pub credentials: Credentials,
}

impl fmt::Debug for Connection {
    /// Options may be secrets: only their names are shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bootstrap_servers, options, embedded, credentials } = self;
        let names: Vec<&String> = options.keys().collect();
        let mut shown = f.debug_struct("Connection");
        shown.field("bootstrap_servers", bootstrap_servers).field("options", &names);
        shown.field("embedded", embedded).field("credentials", credentials).finish()
    }
}

/// What a client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Reads,
    Writes,
    /// It is only looked whether options are good.
    Both,
}

/// Options of librdkafka that consumers alone take, of those that people set.
const CONSUMER_OPTIONS: [&str; 17] = [
    "auto.offset.reset",
    "check.crcs",
    "coordinator.query.interval.ms",
    "fetch.error.backoff.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.queue.backoff.ms",
    "fetch.wait.max.ms",
    "group.remote.assignor",
    "heartbeat.interval.ms",
    "max.partition.fetch.bytes",
    "max.poll.interval.ms",
    "max.poll.records",
    "queued.max.messages.kbytes",
    "queued.min.messages",
    "session.timeout.ms",
];

/// Options of librdkafka that producers alone take, of those that people set.
const PRODUCER_OPTIONS: [&str; 16] = [
    "batch.num.messages",
    "batch.size",
    "compression.codec",
    "compression.level",
    "compression.type",
    "delivery.timeout.ms",
    "linger.ms",
    "message.send.max.retries",
    "message.timeout.ms",
    "partitioner",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "queue.buffering.max.ms",
    "request.timeout.ms",
    "retries",
    "sticky.partitioning.linger.ms",
];

/// How long a client is polled for its token.
const TOKEN_WAIT: Duration = Duration::from_millis(200);
/// How long metadata may take before the cluster counts as unreachable.
pub(super) const METADATA_TIMEOUT: Duration = Duration::from_secs(15);

impl Connection {
    /// To brokers that ask nobody who they are, with nothing set.
    pub fn to(bootstrap_servers: impl Into<String>) -> Self {
        let (bootstrap_servers, credentials) = (bootstrap_servers.into(), Credentials::default());
        Self { bootstrap_servers, options: BTreeMap::new(), embedded: false, credentials }
    }

    /// How long a fetch waits for records: real brokers answer as soon as there is one, the embedded
    /// one only after this time.
    pub(super) fn fetch_wait_ms(&self) -> &'static str {
        if self.embedded { "10" } else { "500" }
    }

    /// A client configuration with these settings, overridden by the options that people set and that are for such a client:
    /// of others the library would warn each time.
    pub(super) fn config(&self, role: Role, settings: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap_servers).set("client.id", env!("CARGO_PKG_NAME"));
        for (name, value) in settings {
            config.set(*name, *value);
        }
        let others: &[&str] = match role {
            Role::Reads => &PRODUCER_OPTIONS,
            Role::Writes => &CONSUMER_OPTIONS,
            Role::Both => &[],
        };
        for (name, value) in self.options.iter().filter(|(name, _)| !others.contains(&name.as_str())) {
            config.set(name, value);
        }
        config
    }

    /// A consumer outside any group, for metadata and for reading whole topics.
    pub(super) fn reader(&self, group_id: &str) -> Result<BaseConsumer<Authenticated>, KafkaError> {
        let settings = [
            ("group.id", group_id),
            ("enable.auto.commit", "false"),
            ("auto.offset.reset", "earliest"),
            ("isolation.level", "read_committed"),
            ("fetch.wait.max.ms", self.fetch_wait_ms()),
        ];
        let context = Authenticated(self.credentials.clone());
        let reader = BaseConsumer::from_config_and_context(&self.config(Role::Reads, &settings), context)
            .map_err(KafkaError::client)?;
        if self.credentials.token_file.is_some() {
            // The client asks for its token while it is polled, and without one it asks no broker for anything.
            reader.poll(TOKEN_WAIT);
        }
        Ok(reader)
    }

    /// Checks the options without connecting.
    ///
    /// # Errors
    /// When the client library refuses one.
    pub fn check(&self) -> Result<(), KafkaError> {
        self.config(Role::Both, &[]).create_native_config().map(drop).map_err(KafkaError::client)
    }

    /// Whether this is an embedded broker, of this process or another: it has no transactions.
    ///
    /// # Errors
    /// When no broker answers.
    pub fn is_mock(&self) -> Result<bool, KafkaError> {
        let reader = self.reader("ofa-stream-metadata")?;
        let cluster_id = reader.client().fetch_cluster_id(METADATA_TIMEOUT);
        Ok(EmbeddedBroker::is_embedded(&cluster_id.unwrap_or_default()))
    }

    /// Partitions of each topic.
    ///
    /// # Errors
    /// When no broker answers, or a topic does not exist.
    pub fn partitions(&self, topics: &[&str]) -> Result<BTreeMap<String, i32>, KafkaError> {
        self.partitions_within(topics, METADATA_TIMEOUT)
    }

    /// As [`Self::partitions`], with another time for an answer.
    ///
    /// # Errors
    /// As [`Self::partitions`].
    pub(super) fn partitions_within(
        &self,
        topics: &[&str],
        timeout: Duration,
    ) -> Result<BTreeMap<String, i32>, KafkaError> {
        let reader = self.reader("ofa-stream-metadata")?;
        let mut counts = BTreeMap::new();
        for topic in topics {
            let metadata = reader.fetch_metadata(Some(topic), timeout).map_err(|error| {
                // Why (a certificate, a name that is unknown) is told while the client is polled, and logged then.
                reader.poll(TOKEN_WAIT);
                KafkaError::Unreachable { bootstrap_servers: self.bootstrap_servers.clone(), reason: error.to_string() }
            })?;
            let found = metadata.topics().iter().find(|found| found.name() == *topic && found.error().is_none());
            match found.map(|found| found.partitions().len()) {
                Some(count) if count > 0 => counts.insert((*topic).to_owned(), count as i32),
                _ => {
                    let (bootstrap_servers, topic) = (self.bootstrap_servers.clone(), (*topic).to_owned());
                    return Err(KafkaError::TopicMissing { bootstrap_servers, topic });
                }
            };
        }
        Ok(counts)
    }
}

/// A client's context that does nothing but say who it is.
pub(super) struct Authenticated(pub(super) Credentials);

impl ClientContext for Authenticated {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.0.token()
    }

    /// The end of a topic is news, and no error.
    fn error(&self, error: ClientError, reason: &str) {
        if !matches!(error, ClientError::PartitionEOF(_)) && !has_code(&error, RDKafkaErrorCode::PartitionEOF) {
            tracing::error!(%error, reason, "A Kafka client has an error.");
        }
    }
}

impl ConsumerContext for Authenticated {}

pub(super) fn has_code(error: &ClientError, code: RDKafkaErrorCode) -> bool {
    error.rdkafka_error_code() == Some(code)
}

/// Detaches a record from the client's buffers.
pub(super) fn owned(message: &BorrowedMessage<'_>) -> Record {
    Record {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        payload: message.payload().map(<[u8]>::to_vec),
        headers: headers(message.headers()),
    }
}

/// The headers of a record. The client library panics on a name that is not UTF-8, and one producer's
/// bytes must not end the poll thread: such a header is kept under another name.
pub(super) fn headers(headers: Option<&impl Headers>) -> Vec<Header> {
    let Some(headers) = headers else { return Vec::new() };
    let one = |index| catch_unwind(AssertUnwindSafe(|| headers.try_get(index)));
    let read = (0..headers.count()).filter_map(|index| match one(index) {
        Ok(header) => header.map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))),
        Err(_) => Some((UNREADABLE_HEADER.to_owned(), None)),
    });
    read.collect()
}

/// Stands for a header whose name is not UTF-8.
const UNREADABLE_HEADER: &str = "ofa-unreadable-header";

/// A record as the client library takes it; `opaque` comes back with its acknowledgement.
pub(super) fn to_record<'r, D: IntoOpaque>(
    record: &'r Outgoing,
    topic: &'r str,
    opaque: D,
) -> BaseRecord<'r, [u8], [u8], D> {
    let mut outgoing = BaseRecord::with_opaque_to(topic, opaque).headers(to_headers(&record.headers));
    outgoing.key = record.key.as_deref();
    outgoing.payload = record.payload.as_deref();
    outgoing
}

fn to_headers(headers: &[Header]) -> OwnedHeaders {
    headers.iter().fold(OwnedHeaders::new_with_capacity(headers.len()), |out, (name, value)| {
        out.insert(rdkafka::message::Header { key: name, value: value.as_deref() })
    })
}

/// Passes a line of the client library's log on to our own.
pub(super) fn pass_on(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", facility, "{message}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
            tracing::debug!(target: "librdkafka", facility, "{message}");
        }
        _ => tracing::error!(target: "librdkafka", facility, "{message}"),
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::message::Header as ClientHeader;

    use super::*;

    /// Behaves as the client library does where the second header's name is not UTF-8.
    struct Hostile;

    impl Headers for Hostile {
        fn count(&self) -> usize {
            3
        }

        fn try_get(&self, index: usize) -> Option<ClientHeader<'_, &[u8]>> {
            match index {
                0 => Some(ClientHeader { key: "first", value: Some(b"1") }),
                1 => panic!("not UTF-8"),
                _ => Some(ClientHeader { key: "third", value: None }),
            }
        }
    }

    #[test]
    fn a_header_that_the_client_cannot_read_costs_that_header() {
        let read = headers(Some(&Hostile));
        let names: Vec<&str> = read.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["first", UNREADABLE_HEADER, "third"]);
    }

    #[test]
    fn an_option_that_is_refused_is_named_without_its_value() {
        let options = [("sasl.pasword".to_owned(), "secret".to_owned())].into();
        let connection = Connection { options, ..Connection::to("localhost:1") };
        let error = connection.check().unwrap_err().to_string();
        assert!(error.contains("sasl.pasword") && !error.contains("secret"), "{error}");
    }
}
