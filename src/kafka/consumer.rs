//! The group member that reads requests.

use std::{
    collections::{BTreeMap, VecDeque},
    error::Error,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    ClientContext, Offset, Statistics, TopicPartitionList,
    client::OAuthToken,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, ConsumerGroupMetadata, RebalanceProtocol},
    error::{KafkaError as ClientError, RDKafkaErrorCode},
    types::RDKafkaRespErr,
};

use super::{
    connection::{Connection, KafkaError, owned},
    security::Credentials,
};
use crate::message::{Record, Source};

/// How requests are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerOptions {
    /// The consumer group.
    pub group_id: String,
    /// The name of this member in its group, kept over restarts; none is a new one each time.
    pub instance_id: Option<String>,
    /// Who divides the partitions.
    pub protocol: GroupProtocol,
    /// The topics: [`Source::topic`] is an index into them.
    pub topics: Vec<String>,
    /// Bytes that librdkafka may fetch ahead.
    pub prefetch_bytes: usize,
}

/// Who divides the partitions of a group among its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupProtocol {
    /// A member, and only those that move stop (`cooperative-sticky`).
    Classic,
    /// The brokers, step by step (KIP-848, Kafka 4).
    Consumer,
}

/// A change of what this member owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// These are now read here.
    Assigned(Vec<Source>),
    /// These are to go to another member. They stay here until [`Consumer::give_up`], for which the group waits.
    Leaving(Vec<Source>),
    /// These are another member's already. They are to be given up at once, without committing.
    Lost(Vec<Source>),
}

/// What the client knows about its group, from its statistics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupStatistics {
    /// Records behind the end of each source that are not committed.
    pub lag: BTreeMap<Source, i64>,
    /// Assignments and revocations since the start.
    pub rebalances: u64,
}

/// Reads some topics as a member of a group.
pub struct Consumer {
    client: BaseConsumer<Context>,
    instance_id: Option<String>,
}

struct Context {
    topics: Vec<String>,
    credentials: Credentials,
    changes: Mutex<VecDeque<Change>>,
    statistics: Mutex<GroupStatistics>,
    commit_failed: AtomicBool,
    /// At the end nobody calls [`Consumer::give_up`] any more.
    closing: AtomicBool,
}

const STATISTICS_INTERVAL_MS: &str = "2000";
/// How long the client waits for a broker's answer.
const ANSWER_TIMEOUT_MS: &str = "10000";
/// How long the poll loop waits for the group's coordinator; it comes round again.
const COORDINATOR_TIMEOUT: Duration = Duration::from_secs(5);

impl Consumer {
    /// Joins the group. Partitions arrive later, while polling.
    ///
    /// # Errors
    /// When the client cannot be made or refuses to subscribe.
    pub fn join(connection: &Connection, options: &ConsumerOptions) -> Result<Self, KafkaError> {
        let prefetch_kilobytes = (options.prefetch_bytes / 1024).max(1).to_string();
        let fetch_bytes = options.prefetch_bytes.max(1024).to_string();
        let mut settings = vec![
            ("group.id", options.group_id.as_str()),
            // Only offsets whose outcomes are durable are committed, by this program alone.
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "earliest"),
            ("isolation.level", "read_committed"),
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
        ];
        settings.extend(options.instance_id.as_deref().map(|id| ("group.instance.id", id)));
        settings.push(match options.protocol {
            GroupProtocol::Classic => ("partition.assignment.strategy", "cooperative-sticky"),
            GroupProtocol::Consumer => ("group.protocol", "consumer"),
        });
        let context = Context {
            topics: options.topics.clone(),
            credentials: connection.credentials.clone(),
            changes: Mutex::default(),
            statistics: Mutex::default(),
            commit_failed: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        };
        let mut config = connection.config(&settings);
        config.set_log_level(RDKafkaLogLevel::Warning);
        let client = BaseConsumer::from_config_and_context(&config, context).map_err(KafkaError::client)?;
        client.subscribe(&options.topics.iter().map(String::as_str).collect::<Vec<_>>())?;
        Ok(Self { client, instance_id: options.instance_id.clone() })
    }

    /// The next record and where it comes from, or none within the timeout. Whoever polls looks at [`Self::changes`] before
    /// taking the record: it may be the first of a source.
    ///
    /// # Errors
    /// When the client can not go on. What passes by itself (a broker away, a leader moving) is
    /// logged, and the client retries.
    pub fn poll(&self, timeout: Duration) -> Result<Option<(Source, Record)>, KafkaError> {
        match self.client.poll(timeout) {
            None => Ok(None),
            Some(Ok(message)) => {
                let record = owned(&message);
                Ok(self.context().source(&record.topic, record.partition).map(|source| (source, record)))
            }
            Some(Err(error)) => match is_fatal(&error) {
                true => Err(self.fatal(&error)),
                false => {
                    tracing::warn!(%error, "Kafka reported a passing error.");
                    Ok(None)
                }
            },
        }
    }

    /// What has changed since it was last asked.
    pub fn changes(&self) -> Vec<Change> {
        locked(&self.context().changes).drain(..).collect()
    }

    /// Gives up sources that are leaving or lost: the group goes on.
    ///
    /// # Errors
    /// When the client refuses.
    pub fn give_up(&self, sources: &[Source]) -> Result<(), KafkaError> {
        Ok(match self.client.rebalance_protocol() {
            RebalanceProtocol::Cooperative => self.client.incremental_unassign(&self.list(sources))?,
            RebalanceProtocol::None | RebalanceProtocol::Eager => self.client.unassign()?,
        })
    }

    /// Whether this member was thrown out of its group, and what it owned is another's.
    pub fn is_lost(&self) -> bool {
        self.client.assignment_lost()
    }

    /// Stops fetching these sources.
    ///
    /// # Errors
    /// When the client refuses.
    pub fn pause(&self, sources: &[Source]) -> Result<(), KafkaError> {
        Ok(self.client.pause(&self.list(sources))?)
    }

    /// Fetches these sources again.
    ///
    /// # Errors
    /// When the client refuses.
    pub fn resume(&self, sources: &[Source]) -> Result<(), KafkaError> {
        Ok(self.client.resume(&self.list(sources))?)
    }

    /// Reads sources from these offsets; what was fetched ahead is thrown away.
    ///
    /// # Errors
    /// When one cannot be read from there now, because a rebalance is under way.
    pub fn seek(&self, offsets: &[(Source, i64)]) -> Result<(), KafkaError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let done = self.client.seek_partitions(self.offsets(offsets)?, COORDINATOR_TIMEOUT)?;
        match done.elements().iter().find_map(|element| element.error().err()) {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// Where the group stands in each of these sources: the next offset, none where it has none.
    ///
    /// # Errors
    /// When the coordinator does not answer.
    pub fn committed(&self, sources: &[Source]) -> Result<BTreeMap<Source, Option<i64>>, KafkaError> {
        if sources.is_empty() {
            return Ok(BTreeMap::new());
        }
        let list = self.client.committed_offsets(self.list(sources), COORDINATOR_TIMEOUT)?;
        let mut committed = BTreeMap::new();
        for element in list.elements() {
            element.error()?;
            let next = if let Offset::Offset(next) = element.offset() { Some(next) } else { None };
            committed.extend(self.context().source(element.topic(), element.partition()).map(|source| (source, next)));
        }
        Ok(committed)
    }

    /// Commits the next offset of each source; with `wait`, returns when the broker has them.
    ///
    /// # Errors
    /// When the broker refuses, which after a rebalance only means that another member has them.
    pub fn commit(&self, next_offsets: &[(Source, i64)], wait: bool) -> Result<(), KafkaError> {
        if next_offsets.is_empty() {
            return Ok(());
        }
        let mode = if wait { CommitMode::Sync } else { CommitMode::Async };
        Ok(self.client.commit(&self.offsets(next_offsets)?, mode)?)
    }

    /// Whether a commit that was not waited for has failed since this was last asked.
    pub fn commit_failed(&self) -> bool {
        self.context().commit_failed.swap(false, Ordering::AcqRel)
    }

    /// What the client knows about the group.
    pub fn statistics(&self) -> GroupStatistics {
        locked(&self.context().statistics).clone()
    }

    /// The name of the topic of a source.
    pub fn topic(&self, source: Source) -> &str {
        self.context().topics.get(usize::from(source.topic)).map_or("", String::as_str)
    }

    /// This member's identity now, for a transaction.
    pub(super) fn group_metadata(&self) -> Option<ConsumerGroupMetadata> {
        self.client.group_metadata()
    }

    pub(super) fn offsets(&self, offsets: &[(Source, i64)]) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (source, next) in offsets {
            list.add_partition_offset(self.topic(*source), source.partition, Offset::Offset(*next))?;
        }
        Ok(list)
    }

    fn list(&self, sources: &[Source]) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(sources.len());
        sources.iter().for_each(|source| {
            list.add_partition(self.topic(*source), source.partition);
        });
        list
    }

    fn context(&self) -> &Context {
        self.client.context()
    }

    fn fatal(&self, error: &ClientError) -> KafkaError {
        let told = self.client.client().fatal_error();
        match (&self.instance_id, told) {
            (Some(id), Some((RDKafkaErrorCode::FencedInstanceId, _))) => {
                KafkaError::Twin { setting: "kafka.instance_id", id: id.clone() }
            }
            (_, Some((_, reason))) => KafkaError::Fatal(reason),
            (_, None) => KafkaError::Fatal(error.to_string()),
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.context().closing.store(true, Ordering::Release);
    }
}

fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_fatal(error: &ClientError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::Fatal
                | RDKafkaErrorCode::FencedInstanceId
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::SaslAuthenticationFailed
        )
    )
}

impl Context {
    fn source(&self, topic: &str, partition: i32) -> Option<Source> {
        let topic = self.topics.iter().position(|known| known == topic)?;
        Some(Source { topic: topic as u16, partition })
    }

    fn sources(&self, list: &TopicPartitionList) -> Vec<Source> {
        list.elements().iter().filter_map(|element| self.source(element.topic(), element.partition())).collect()
    }

    fn note(&self, change: Change) {
        locked(&self.changes).push_back(change);
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.credentials.token()
    }

    fn stats(&self, statistics: Statistics) {
        let mut known = GroupStatistics::default();
        for (topic, state) in &statistics.topics {
            for (partition, state) in &state.partitions {
                if let (true, Some(source)) = (state.consumer_lag >= 0, self.source(topic, *partition)) {
                    known.lag.insert(source, state.consumer_lag);
                }
            }
        }
        known.rebalances = statistics.cgrp.map_or(0, |group| group.rebalance_cnt.max(0) as u64);
        *locked(&self.statistics) = known;
    }
}

impl ConsumerContext for Context {
    /// Called from within `poll`, which must not be held up: a revocation is noted and answered later, by
    /// [`Consumer::give_up`], for which the client keeps the rebalance open.
    fn rebalance(&self, client: &BaseConsumer<Self>, error: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let cooperative = matches!(client.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let answered = match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                self.note(Change::Assigned(self.sources(list)));
                if cooperative { client.incremental_assign(list) } else { client.assign(list) }
            }
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS if !self.closing.load(Ordering::Acquire) => {
                let sources = self.sources(list);
                let lost = client.assignment_lost();
                return self.note(if lost { Change::Lost(sources) } else { Change::Leaving(sources) });
            }
            _ if cooperative => client.incremental_unassign(list),
            _ => client.unassign(),
        };
        if let Err(error) = answered {
            tracing::warn!(%error, "A rebalance failed; the client tries again.");
        }
    }

    fn commit_callback(&self, result: Result<(), ClientError>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::warn!(%error, "A commit failed; the next one covers it.");
            self.commit_failed.store(true, Ordering::Release);
        }
    }
}
