//! The client of a group member: how it is made, and what it calls back.

use std::{
    collections::{BTreeMap, VecDeque},
    error::Error,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rdkafka::{
    ClientContext, Statistics, TopicPartitionList,
    client::OAuthToken,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer as _, ConsumerContext, RebalanceProtocol},
    error::{KafkaError as ClientError, RDKafkaErrorCode},
    types::RDKafkaRespErr,
};

use super::{
    connection::{Connection, KafkaError, Role, pass_on},
    security::Credentials,
};
use crate::message::Source;

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
    /// Bytes that librdkafka may fetch ahead of each partition.
    pub prefetch_bytes: usize,
}

/// Who divides the partitions of a group among its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupProtocol {
    /// A member, and only those that move are given up (`cooperative-sticky`).
    Classic,
    /// The brokers, step by step (KIP-848, Kafka 4).
    Consumer,
}

/// A change of what this member owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// These are now read here.
    Assigned(Vec<Source>),
    /// These are to go to another member. They stay here until [`give_up`](super::Consumer::give_up), for which the group waits.
    Leaving(Vec<Source>),
    /// These are another member's already. They are to be given up at once, without committing.
    Lost(Vec<Source>),
    /// What a source was to go on with is not in its log any more, and the oldest that is there is read next. In the client's words.
    Reset(String),
}

/// What the client knows about its group, from its statistics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupStatistics {
    /// Where each source ends for a read-committed consumer, and how far it was fetched.
    pub sources: BTreeMap<Source, Fetched>,
    /// Assignments and revocations since the start.
    pub rebalances: u64,
    /// Whether this member has its place in the group: its coordinator is known, and no rebalance is under way.
    pub belongs: bool,
}

/// How far a source was fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The offset behind its last record.
    pub end: i64,
    /// The offset that is fetched next.
    pub next: i64,
    /// Records that are fetched and not taken.
    pub waiting: i64,
}

/// The client.
pub(super) type Member = BaseConsumer<Context>;

/// What the client has told, from its own threads and from within its polls.
pub(super) struct Context {
    pub(super) topics: Vec<String>,
    pub(super) credentials: Credentials,
    pub(super) changes: Mutex<VecDeque<Change>>,
    /// Sources that have come and have no queue yet.
    pub(super) assigned: Mutex<Vec<Source>>,
    pub(super) statistics: Mutex<GroupStatistics>,
    pub(super) ends: Mutex<BTreeMap<Source, i64>>,
    pub(super) commit_failed: AtomicBool,
    /// At the end nobody calls [`give_up`](super::Consumer::give_up) any more.
    pub(super) closing: AtomicBool,
}

const STATISTICS_INTERVAL_MS: &str = "2000";
/// How often the client asks who the group's coordinator and the partitions' leaders are.
const LOOK_AGAIN_MS: &str = "10000";
/// How long the client waits for a broker's answer.
const ANSWER_TIMEOUT_MS: &str = "10000";

/// Makes a client, and subscribes. Partitions arrive later, while it is polled.
pub(super) fn join(connection: &Connection, options: &ConsumerOptions) -> Result<Arc<Member>, KafkaError> {
    let prefetch_kilobytes = (options.prefetch_bytes / 1024).max(1).to_string();
    let fetch_bytes = options.prefetch_bytes.max(1024).to_string();
    let mut settings = vec![
        ("group.id", options.group_id.as_str()),
        // Only offsets whose outcomes are durable are committed, by this program alone.
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("auto.offset.reset", "earliest"),
        ("isolation.level", "read_committed"),
        // Records are images: the client's default of 100,000 ahead would be gigabytes. Both are of each partition.
        ("queued.min.messages", "100"),
        ("queued.max.messages.kbytes", &prefetch_kilobytes),
        ("fetch.max.bytes", &fetch_bytes),
        ("fetch.message.max.bytes", &fetch_bytes),
        // Small queues refill every second by default, which throughput shows as a saw-tooth.
        ("fetch.queue.backoff.ms", "50"),
        ("fetch.wait.max.ms", connection.fetch_wait_ms()),
        ("statistics.interval.ms", STATISTICS_INTERVAL_MS),
        ("socket.timeout.ms", ANSWER_TIMEOUT_MS),
        // After brokers were away the client may go on with a coordinator or a leader that is none any more, until it asks
        // again: by default after ten and five minutes.
        ("coordinator.query.interval.ms", LOOK_AGAIN_MS),
        ("topic.metadata.refresh.interval.ms", LOOK_AGAIN_MS),
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
        assigned: Mutex::default(),
        statistics: Mutex::default(),
        ends: Mutex::default(),
        commit_failed: AtomicBool::new(false),
        closing: AtomicBool::new(false),
    };
    let mut config = connection.config(Role::Reads, &settings);
    config.set_log_level(RDKafkaLogLevel::Warning);
    let client: Member = BaseConsumer::from_config_and_context(&config, context).map_err(KafkaError::client)?;
    client.subscribe(&options.topics.iter().map(String::as_str).collect::<Vec<_>>())?;
    Ok(Arc::new(client))
}

pub(super) fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a client cannot go on after an error.
pub(super) fn is_fatal(error: &ClientError) -> bool {
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
    /// The name of the topic of a source.
    pub(super) fn topic(&self, source: Source) -> &str {
        self.topics.get(usize::from(source.topic)).map_or("", String::as_str)
    }

    /// Which of the sources this is.
    pub(super) fn source(&self, topic: &str, partition: i32) -> Option<Source> {
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

/// Whether a line of the client library's log says that what was to be read next is gone; it says so nowhere else. In such lines it
/// tells of questions too that brokers did not answer, and asks again.
fn tells_of_reset(level: RDKafkaLogLevel, facility: &str, message: &str) -> bool {
    let is_reset =
        matches!(level, RDKafkaLogLevel::Warning) && facility == "OFFSET" && message.contains("offset reset");
    is_reset && !message.contains("failed to query logical offset")
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match tells_of_reset(level, facility, message) {
            true => self.note(Change::Reset(message.to_owned())),
            false => pass_on(level, facility, message),
        }
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.credentials.token()
    }

    fn stats(&self, statistics: Statistics) {
        let mut known = GroupStatistics::default();
        for (topic, state) in &statistics.topics {
            for (partition, state) in &state.partitions {
                let end = if state.ls_offset >= 0 { state.ls_offset } else { state.hi_offset };
                if let (true, Some(source)) = (end >= 0, self.source(topic, *partition)) {
                    known.sources.insert(source, Fetched { end, next: state.next_offset, waiting: state.fetchq_cnt });
                }
            }
        }
        if let Some(group) = statistics.cgrp {
            known.rebalances = group.rebalance_cnt.max(0) as u64;
            known.belongs = group.state == "up" && group.join_state == "steady";
        }
        *locked(&self.statistics) = known;
    }
}

impl ConsumerContext for Context {
    /// Called from within [`serve`](super::Consumer::serve), which must not be held up: a revocation is noted and answered later, by
    /// [`give_up`](super::Consumer::give_up), for which the client keeps the rebalance open.
    fn rebalance(&self, client: &BaseConsumer<Self>, error: RDKafkaRespErr, list: &mut TopicPartitionList) {
        // While it closes nobody may answer that question any more, and it waits for the answer for ever.
        let closing = self.closing.load(Ordering::Acquire);
        let cooperative = closing || matches!(client.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let answered = match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                let sources = self.sources(list);
                locked(&self.assigned).extend(&sources);
                self.note(Change::Assigned(sources));
                if cooperative { client.incremental_assign(list) } else { client.assign(list) }
            }
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS if !closing => {
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
