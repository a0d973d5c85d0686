//! Follows whole topics from offsets that the caller keeps, outside any group.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, bounded};
use rdkafka::{
    Offset, TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer as _, base_consumer::PartitionQueue},
    error::KafkaError as ClientError,
};

use super::{
    connection::{Authenticated, Connection, KafkaError, METADATA_TIMEOUT, Role, has_code, owned},
    topic_ids::topic_ids,
};
use crate::message::Record;

/// Kilobytes that the client fetches ahead, all partitions together, and of one partition at least.
const PREFETCH_KILOBYTES: usize = 16_384;
const PREFETCH_KILOBYTES_MIN: usize = 64;

/// A topic and a partition of it.
pub type TopicPartition = (String, i32);

/// What came from a partition.
#[derive(Debug)]
pub enum Followed {
    /// The next committed record.
    Record(Box<Record>),
    /// The partition was read to its end.
    End(TopicPartition),
}

/// A reader of every partition of some topics.
pub struct Follower {
    client: Arc<BaseConsumer<Authenticated>>,
    queues: Vec<(TopicPartition, PartitionQueue<Authenticated>)>,
    /// The queue that is looked at first, so that a full one does not keep others waiting.
    next: usize,
    /// Ends that came before their partitions had queues of their own.
    ends: Vec<TopicPartition>,
    /// Partitions from which anything came.
    heard: BTreeSet<TopicPartition>,
    wake: Receiver<()>,
    /// Kept, so that waiting lasts as long as it should where there is no partition.
    _waker: Sender<()>,
}

impl Follower {
    /// Reads the partitions of these topics from the given offsets on, others from their beginning.
    /// Only committed records are read.
    ///
    /// # Errors
    /// When no broker answers, or a topic does not exist.
    pub fn new(
        connection: &Connection,
        topics: &[&str],
        offsets: &BTreeMap<TopicPartition, i64>,
    ) -> Result<Self, KafkaError> {
        let counts = connection.partitions(topics)?;
        let partitions: i32 = counts.values().sum();
        // The client counts each queue of a partition by itself.
        let prefetch =
            (PREFETCH_KILOBYTES / usize::try_from(partitions).unwrap_or(1).max(1)).max(PREFETCH_KILOBYTES_MIN);
        let config = connection.config(
            Role::Reads,
            &[
                ("group.id", "ofa-stream-evidence"),
                ("enable.auto.commit", "false"),
                ("isolation.level", "read_committed"),
                ("enable.partition.eof", "true"),
                ("auto.offset.reset", "earliest"),
                ("queued.max.messages.kbytes", &prefetch.to_string()),
                ("fetch.wait.max.ms", connection.fetch_wait_ms()),
            ],
        );
        let context = Authenticated(connection.credentials.clone());
        let client = BaseConsumer::from_config_and_context(&config, context).map_err(KafkaError::client)?;
        let client = Arc::new(client);

        let mut list = TopicPartitionList::new();
        let mut partitions: Vec<TopicPartition> = Vec::new();
        for (topic, count) in counts {
            for partition in 0..count {
                let at = offsets.get(&(topic.clone(), partition)).copied();
                list.add_partition_offset(&topic, partition, at.map_or(Offset::Beginning, Offset::Offset))?;
                partitions.push((topic.clone(), partition));
            }
        }
        client.assign(&list)?;

        let (waker, wake) = bounded(1);
        let mut queues = Vec::new();
        for partition in partitions {
            let missing = || KafkaError::Fatal(format!("partition {} of `{}` has no queue", partition.1, partition.0));
            let mut queue = client.split_partition_queue(&partition.0, partition.1).ok_or_else(missing)?;
            let waker = waker.clone();
            // A full channel means that the reader wakes anyway.
            queue.set_nonempty_callback(move || {
                waker.try_send(()).ok();
            });
            queues.push((partition, queue));
        }
        let (ends, heard) = (Vec::new(), BTreeSet::new());
        Ok(Self { client, queues, next: 0, ends, heard, wake, _waker: waker })
    }

    /// The partitions that are read.
    pub fn partitions(&self) -> BTreeSet<TopicPartition> {
        self.queues.iter().map(|(partition, _)| partition.clone()).collect()
    }

    /// The next record or the end of a partition; none within the timeout.
    ///
    /// # Errors
    /// When the client cannot go on.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Followed>, KafkaError> {
        let until = Instant::now() + timeout;
        loop {
            if let Some(followed) = self.next_of_client()? {
                return Ok(Some(followed));
            }
            if let Some(followed) = self.next_ready()? {
                return Ok(Some(followed));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.wake.recv_timeout(left.min(POLL_INTERVAL)).ok();
        }
    }

    /// Errors of the client and callbacks, such as that of a token, come this way. So does what was
    /// fetched before its partition had a queue.
    fn next_of_client(&mut self) -> Result<Option<Followed>, KafkaError> {
        match self.client.poll(Duration::ZERO) {
            None => {}
            Some(Ok(message)) => {
                let record = owned(&message);
                self.heard.insert((record.topic.clone(), record.partition));
                return Ok(Some(Followed::Record(Box::new(record))));
            }
            Some(Err(ClientError::PartitionEOF(number))) => {
                // It does not say of which topic.
                let silent = self.queues.iter().map(|(partition, _)| partition);
                let silent = silent.filter(|partition| partition.1 == number && !self.heard.contains(*partition));
                self.ends.extend(silent.cloned());
            }
            Some(Err(error)) if is_transient(&error) => {}
            Some(Err(error)) => return Err(error.into()),
        }
        Ok(self.ends.pop().map(Followed::End))
    }

    fn next_ready(&mut self) -> Result<Option<Followed>, KafkaError> {
        for turn in 0..self.queues.len() {
            let place = (self.next + turn) % self.queues.len();
            let Some((partition, queue)) = self.queues.get(place) else { continue };
            let followed = match queue.poll(Duration::ZERO) {
                None => continue,
                Some(Ok(message)) => Followed::Record(Box::new(owned(&message))),
                Some(Err(ClientError::PartitionEOF(_))) => Followed::End(partition.clone()),
                Some(Err(error)) if is_transient(&error) => continue,
                Some(Err(error)) => return Err(error.into()),
            };
            self.heard.insert(partition.clone());
            self.next = place + 1;
            return Ok(Some(followed));
        }
        Ok(None)
    }
}

/// How often errors of the client are looked for while nothing comes.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Errors after which the client goes on by itself.
fn is_transient(error: &ClientError) -> bool {
    use rdkafka::error::RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, OperationTimedOut, Resolve};
    matches!(error, ClientError::PartitionEOF(_))
        || [AllBrokersDown, BrokerTransportFailure, OperationTimedOut, Resolve]
            .into_iter()
            .any(|code| has_code(error, code))
}

impl Connection {
    /// The first offset that is still there, of every partition of these topics.
    ///
    /// # Errors
    /// When no broker answers, or a topic does not exist.
    pub fn beginnings(&self, topics: &[&str]) -> Result<BTreeMap<TopicPartition, i64>, KafkaError> {
        let mut list = TopicPartitionList::new();
        for (topic, count) in self.partitions(topics)? {
            for partition in 0..count {
                // Brokers take the beginning for a time before all others.
                list.add_partition_offset(&topic, partition, Offset::Beginning)?;
            }
        }
        // One request for each broker, and not one for each partition.
        let found = self.reader("ofa-stream-metadata")?.offsets_for_times(list, METADATA_TIMEOUT)?;
        let mut beginnings = BTreeMap::new();
        for element in found.elements() {
            element.error()?;
            let first = element.offset().to_raw().unwrap_or_default().max(0);
            beginnings.insert((element.topic().to_owned(), element.partition()), first);
        }
        Ok(beginnings)
    }

    /// The id of each of these topics that exists: a topic that was deleted and created again has
    /// another one. Empty where brokers have none (the embedded broker, and Kafka before 2.8).
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn topic_ids(&self, topics: &[&str]) -> Result<BTreeMap<String, String>, KafkaError> {
        // The embedded broker does not answer at all.
        if self.embedded || self.is_mock()? {
            return Ok(BTreeMap::new());
        }
        let reader = self.reader("ofa-stream-metadata")?;
        let topics: Vec<String> = topics.iter().map(ToString::to_string).collect();
        Ok(topic_ids(reader.client().native_ptr(), &topics, METADATA_TIMEOUT).unwrap_or_default())
    }
}
