//! The group member that reads requests.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rdkafka::{
    ClientContext, Offset, Statistics, TopicPartitionList,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance},
    error::{KafkaError as ClientError, RDKafkaErrorCode},
    topic_partition_list::TopicPartitionListElem,
};

use super::connection::{Connection, KafkaError, owned};
use crate::message::Record;

/// Hears which partitions are this member's. Called from within [`Consumer::poll`]; must not block.
pub trait Ownership: Send + Sync {
    /// These partitions are now read here.
    fn assigned(&self, partitions: &[i32]);

    /// These partitions go to another member; gives back the next offset of each whose records are
    /// all answered, to be committed before they go.
    fn revoked(&self, partitions: &[i32]) -> Vec<(i32, i64)>;

    /// A commit that was not waited for has failed: its offsets are to be committed again.
    fn commit_failed(&self);
}

/// How requests are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerOptions {
    /// The consumer group.
    pub group_id: String,
    /// The requests topic.
    pub topic: String,
    /// Bytes that librdkafka may fetch ahead.
    pub prefetch_bytes: usize,
}

/// Reads one topic as a member of a group.
pub struct Consumer {
    client: BaseConsumer<Context>,
    topic: String,
}

struct Context {
    topic: String,
    ownership: Arc<dyn Ownership>,
    lag: Mutex<BTreeMap<i32, i64>>,
}

const STATISTICS_INTERVAL_MS: &str = "5000";
/// How long the client waits for a broker's answer: a commit at a rebalance holds up the poll loop.
const ANSWER_TIMEOUT_MS: &str = "10000";

impl Consumer {
    /// Joins the group. Partitions arrive later, while polling.
    ///
    /// # Errors
    /// When the client cannot be made or refuses to subscribe.
    pub fn join(
        connection: &Connection,
        options: &ConsumerOptions,
        ownership: Arc<dyn Ownership>,
    ) -> Result<Self, KafkaError> {
        let prefetch_kilobytes = (options.prefetch_bytes / 1024).max(1).to_string();
        let fetch_bytes = options.prefetch_bytes.max(1024).to_string();
        let config = connection.config(&[
            ("group.id", &options.group_id),
            // Only offsets whose verdicts are durable are committed, by this program alone.
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "earliest"),
            ("isolation.level", "read_committed"),
            ("partition.assignment.strategy", "cooperative-sticky"),
            // Records are images: the client's default of 100,000 ahead would be gigabytes.
            ("queued.min.messages", "200"),
            ("queued.max.messages.kbytes", &prefetch_kilobytes),
            ("fetch.max.bytes", &fetch_bytes),
            ("fetch.message.max.bytes", &fetch_bytes),
            // Small queues refill every second by default, which throughput shows as a saw-tooth.
            ("fetch.queue.backoff.ms", "50"),
            ("fetch.wait.max.ms", connection.fetch_wait_ms()),
            ("statistics.interval.ms", STATISTICS_INTERVAL_MS),
            ("socket.timeout.ms", ANSWER_TIMEOUT_MS),
        ]);
        let context = Context { topic: options.topic.clone(), ownership, lag: Mutex::default() };
        let mut config = config;
        config.set_log_level(RDKafkaLogLevel::Warning);
        let client = BaseConsumer::from_config_and_context(&config, context).map_err(KafkaError::client)?;
        client.subscribe(&[&options.topic])?;
        Ok(Self { client, topic: options.topic.clone() })
    }

    /// The next record, or none within the timeout.
    ///
    /// # Errors
    /// When the client can not go on. What passes by itself (a broker away, a leader moving) is
    /// logged, and the client retries.
    pub fn poll(&self, timeout: Duration) -> Result<Option<Record>, KafkaError> {
        match self.client.poll(timeout) {
            None => Ok(None),
            Some(Ok(message)) => Ok(Some(owned(&message))),
            Some(Err(error)) => match is_fatal(&error) {
                true => Err(KafkaError::Fatal(error.to_string())),
                false => {
                    tracing::warn!(%error, "Kafka reported a passing error.");
                    Ok(None)
                }
            },
        }
    }

    /// Stops fetching on every partition owned.
    ///
    /// # Errors
    /// When the client refuses.
    pub fn pause(&self) -> Result<(), KafkaError> {
        Ok(self.client.pause(&self.client.assignment()?)?)
    }

    /// Fetches again on every partition owned.
    ///
    /// # Errors
    /// When the client refuses.
    pub fn resume(&self) -> Result<(), KafkaError> {
        Ok(self.client.resume(&self.client.assignment()?)?)
    }

    /// Commits the next offset of each partition; with `wait`, returns when the broker has them.
    ///
    /// # Errors
    /// When the broker refuses, which after a rebalance only means that another member has them.
    pub fn commit(&self, next_offsets: &[(i32, i64)], wait: bool) -> Result<(), KafkaError> {
        if next_offsets.is_empty() {
            return Ok(());
        }
        let mode = if wait { CommitMode::Sync } else { CommitMode::Async };
        Ok(self.client.commit(&offsets(&self.topic, next_offsets)?, mode)?)
    }

    /// Records behind the end of each partition, as far as known.
    pub fn lag(&self) -> BTreeMap<i32, i64> {
        self.client.context().lag.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn offsets(topic: &str, next_offsets: &[(i32, i64)]) -> Result<TopicPartitionList, ClientError> {
    let mut list = TopicPartitionList::with_capacity(next_offsets.len());
    for (partition, next) in next_offsets {
        list.add_partition_offset(topic, *partition, Offset::Offset(*next))?;
    }
    Ok(list)
}

fn is_fatal(error: &ClientError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::Fatal
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::SaslAuthenticationFailed
        )
    )
}

fn partitions(list: &TopicPartitionList) -> Vec<i32> {
    list.elements().iter().map(TopicPartitionListElem::partition).collect()
}

impl ClientContext for Context {
    fn stats(&self, statistics: Statistics) {
        let Some(topic) = statistics.topics.get(&self.topic) else { return };
        let known = topic.partitions.iter().filter(|(partition, state)| **partition >= 0 && state.consumer_lag >= 0);
        let lag = known.map(|(partition, state)| (*partition, state.consumer_lag)).collect();
        *self.lag.lock().unwrap_or_else(PoisonError::into_inner) = lag;
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, client: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(_) => {}
            Rebalance::Revoke(list) => {
                let answered = self.ownership.revoked(&partitions(list));
                if client.assignment_lost() || answered.is_empty() {
                    return;
                }
                let committed = offsets(&self.topic, &answered).and_then(|list| client.commit(&list, CommitMode::Sync));
                if let Err(error) = committed {
                    tracing::warn!(%error, "Offsets were not committed before a rebalance; their records will be answered again.");
                }
            }
            Rebalance::Error(error) => tracing::warn!(%error, "A rebalance failed; the client tries again."),
        }
    }

    fn post_rebalance(&self, _client: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(list) = rebalance {
            self.ownership.assigned(&partitions(list));
        }
    }

    fn commit_callback(&self, result: Result<(), ClientError>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::warn!(%error, "A commit failed; the next one covers it.");
            self.ownership.commit_failed();
        }
    }
}
