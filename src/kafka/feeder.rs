//! Publishes requests, never more than an embedded broker's log can hold.

use std::{
    collections::VecDeque,
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList,
    client::OAuthToken,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer as _},
    error::RDKafkaErrorCode,
    message::DeliveryResult,
    producer::{Producer as _, ProducerContext, ThreadedProducer},
};

use super::{
    EmbeddedBroker,
    connection::{Authenticated, Connection, KafkaError, METADATA_TIMEOUT, Role, to_record},
    security::Credentials,
};
use crate::message::Outgoing;

/// How requests are published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeederOptions {
    /// The requests topic.
    pub topic: String,
    /// The group that reads it; on an embedded broker its progress limits publishing.
    pub group_id: String,
    /// Largest record to publish.
    pub record_bytes_max: usize,
    /// How long it may stand still before publishing is given up.
    pub wait_max: Duration,
}

/// Publishes requests and waits for each to be stored. On an embedded broker it also waits for the
/// group to read, so that at most [`EmbeddedBroker::BACKLOG_BYTES_MAX`] lie unread.
pub struct Feeder {
    client: ThreadedProducer<Context>,
    options: FeederOptions,
    /// Only on an embedded broker: reads the group's committed offsets.
    progress: Option<BaseConsumer<Authenticated>>,
    delivered: Arc<Mutex<Delivered>>,
}

#[derive(Default)]
struct Delivered {
    unread: VecDeque<Unread>,
    in_flight: usize,
    in_flight_bytes: usize,
    failure: Option<String>,
}

struct Unread {
    partition: i32,
    offset: i64,
    bytes: usize,
}

struct Context {
    credentials: Credentials,
    delivered: Arc<Mutex<Delivered>>,
    embedded: bool,
}

const RECORD_OVERHEAD: usize = 256;
const PROGRESS_INTERVAL: Duration = Duration::from_millis(20);
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

impl Feeder {
    /// Connects, and finds out whether the broker is an embedded one.
    ///
    /// # Errors
    /// When no broker answers or the topic does not exist.
    pub fn new(connection: &Connection, options: FeederOptions) -> Result<Self, KafkaError> {
        connection.partitions_within(&[&options.topic], options.wait_max.min(METADATA_TIMEOUT))?;
        let reader = connection.reader(&options.group_id)?;
        let cluster_id = reader.client().fetch_cluster_id(CLIENT_TIMEOUT).unwrap_or_default();
        let embedded = EmbeddedBroker::is_embedded(&cluster_id);
        let delivered = Arc::new(Mutex::new(Delivered::default()));
        let context = Context { credentials: connection.credentials.clone(), delivered: delivered.clone(), embedded };
        let config = connection.config(
            Role::Writes,
            &[
                ("enable.idempotence", "true"),
                ("linger.ms", "5"),
                ("partitioner", "murmur2_random"),
                ("message.max.bytes", &options.record_bytes_max.to_string()),
            ],
        );
        let client = ThreadedProducer::from_config_and_context(&config, context).map_err(KafkaError::client)?;
        Ok(Self { client, options, progress: embedded.then_some(reader), delivered })
    }

    /// Publishes one record to the topic of the options, as soon as there is room.
    ///
    /// # Errors
    /// When nobody reads for as long as the options allow, or the broker refuses.
    pub fn feed(&self, record: &Outgoing) -> Result<(), KafkaError> {
        let bytes =
            RECORD_OVERHEAD + record.key.as_ref().map_or(0, Vec::len) + record.payload.as_ref().map_or(0, Vec::len);
        if self.progress.is_some() {
            self.wait_for_room(bytes)?;
        }
        let deadline = Instant::now() + self.options.wait_max;
        loop {
            self.with_delivered(|delivered| delivered.sent(bytes));
            match self.client.send(to_record(record, &self.options.topic, Box::new(bytes))) {
                Ok(()) => break,
                Err((error, _)) => {
                    self.with_delivered(|delivered| delivered.settled(bytes));
                    let full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
                    if !full || Instant::now() >= deadline {
                        return Err(error.into());
                    }
                    std::thread::sleep(PROGRESS_INTERVAL);
                }
            }
        }
        self.failure()
    }

    /// Waits until everything published is stored.
    ///
    /// # Errors
    /// When the broker refused a record or does not answer.
    pub fn finish(&self) -> Result<(), KafkaError> {
        self.client.flush(self.options.wait_max)?;
        self.failure()
    }

    /// Which partition a record goes to is the client's to know, so all of them count as one: the
    /// bound then holds for each.
    fn wait_for_room(&self, bytes: usize) -> Result<(), KafkaError> {
        let bytes_max = EmbeddedBroker::BACKLOG_BYTES_MAX;
        if bytes > bytes_max {
            return Err(KafkaError::RecordTooLarge { bytes, bytes_max });
        }
        let mut since = Instant::now();
        let mut waiting = self.with_delivered(|delivered| delivered.waiting());
        while waiting + bytes > bytes_max {
            self.forget_read()?;
            let now_waiting = self.with_delivered(|delivered| delivered.waiting());
            if now_waiting < waiting {
                since = Instant::now();
            } else if since.elapsed() > self.options.wait_max {
                let topic = self.options.topic.clone();
                return Err(KafkaError::BacklogStuck { topic, waited: since.elapsed(), bytes: now_waiting });
            }
            waiting = now_waiting;
            std::thread::sleep(PROGRESS_INTERVAL);
        }
        Ok(())
    }

    fn forget_read(&self) -> Result<(), KafkaError> {
        let Some(progress) = &self.progress else { return Ok(()) };
        let mut asked = TopicPartitionList::new();
        let mut partitions: Vec<i32> =
            self.with_delivered(|delivered| delivered.unread.iter().map(|unread| unread.partition).collect());
        partitions.sort_unstable();
        partitions.dedup();
        for partition in partitions {
            asked.add_partition(&self.options.topic, partition);
        }
        if asked.count() == 0 {
            return Ok(());
        }
        let committed = progress.committed_offsets(asked, CLIENT_TIMEOUT)?;
        self.with_delivered(|delivered| {
            for element in committed.elements() {
                if let Offset::Offset(next) = element.offset() {
                    delivered.unread.retain(|unread| unread.partition != element.partition() || unread.offset >= next);
                }
            }
        });
        Ok(())
    }

    fn failure(&self) -> Result<(), KafkaError> {
        match self.with_delivered(|delivered| delivered.failure.take()) {
            Some(reason) => Err(KafkaError::Fatal(reason)),
            None => Ok(()),
        }
    }

    fn with_delivered<T>(&self, act: impl FnOnce(&mut Delivered) -> T) -> T {
        act(&mut self.delivered.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Delivered {
    fn sent(&mut self, bytes: usize) {
        self.in_flight += 1;
        self.in_flight_bytes += bytes;
    }

    fn settled(&mut self, bytes: usize) {
        self.in_flight -= 1;
        self.in_flight_bytes -= bytes;
    }

    fn waiting(&self) -> usize {
        self.in_flight_bytes + self.unread.iter().map(|unread| unread.bytes).sum::<usize>()
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.credentials.token()
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<usize>;

    fn delivery(&self, result: &DeliveryResult<'_>, bytes: Box<usize>) {
        let mut delivered = self.delivered.lock().unwrap_or_else(PoisonError::into_inner);
        delivered.settled(*bytes);
        match result {
            Ok(message) if self.embedded => {
                delivered.unread.push_back(Unread {
                    partition: message.partition(),
                    offset: message.offset(),
                    bytes: *bytes,
                });
            }
            Ok(_) => {}
            Err((error, _)) => delivered.failure = Some(format!("a request was not published: {error}")),
        }
    }
}
