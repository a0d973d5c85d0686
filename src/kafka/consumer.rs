//! The group member that reads requests.
//!
//! Each partition has a queue of its own, so that one is read no further while others are: pausing at the client would throw
//! away what it has fetched ahead, and cost up to a second until records come again.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    error::Error,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use crossbeam_channel::Sender;
use rdkafka::{
    ClientContext, Offset, Statistics, TopicPartitionList,
    client::OAuthToken,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{
        BaseConsumer, CommitMode, Consumer as _, ConsumerContext, ConsumerGroupMetadata, RebalanceProtocol,
        base_consumer::PartitionQueue,
    },
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
    /// Bytes that librdkafka may fetch ahead of each partition.
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
    /// Where each source ends for a read-committed consumer, and how far it was fetched.
    pub sources: BTreeMap<Source, Fetched>,
    /// Assignments and revocations since the start.
    pub rebalances: u64,
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

/// Reads some topics as a member of a group.
pub struct Consumer {
    connection: Connection,
    options: ConsumerOptions,
    client: ArcSwap<BaseConsumer<Context>>,
    inbox: Mutex<Inbox>,
    /// Told when a queue is no longer empty.
    wake: Sender<()>,
    /// When this member was last locked out by one of its own name.
    fenced: Mutex<Option<Instant>>,
}

/// What was fetched and not taken.
#[derive(Default)]
struct Inbox {
    queues: BTreeMap<Source, PartitionQueue<Context>>,
    /// Records that came before their partition had its queue. They are older than what is in there.
    early: BTreeMap<Source, VecDeque<Record>>,
    /// Sources of which more of those may come: their queues are not read.
    settling: BTreeSet<Source>,
    /// The source that had its turn last.
    last: Option<Source>,
}

struct Context {
    topics: Vec<String>,
    credentials: Credentials,
    changes: Mutex<VecDeque<Change>>,
    /// Sources that have come and have no queue yet.
    assigned: Mutex<Vec<Source>>,
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
/// How long the client's own queue is looked at for records of a partition that has just got one.
const SETTLING: Duration = Duration::from_millis(2);
/// A member that is locked out a second time within this has a twin.
const FENCED_AGAIN: Duration = Duration::from_secs(60);

impl Consumer {
    /// Joins the group. Partitions arrive later, while it is served; `wake` is told when records have come.
    ///
    /// # Errors
    /// When the client cannot be made or refuses to subscribe.
    pub fn join(connection: &Connection, options: ConsumerOptions, wake: Sender<()>) -> Result<Self, KafkaError> {
        let client = ArcSwap::from_pointee(client(connection, &options)?);
        let (connection, inbox, fenced) = (connection.clone(), Mutex::default(), Mutex::default());
        Ok(Self { connection, options, client, inbox, wake, fenced })
    }

    /// Joins the group anew, after [`Self::serve`] has told that another member has this one's name. That may be this one: a
    /// request to join that brokers answered too late is a second member to them. What it owned is not its own any more.
    ///
    /// # Errors
    /// When it was locked out a short while ago too: then there is another one, and the two would take turns for ever.
    pub fn rejoin(&self) -> Result<(), KafkaError> {
        let before = locked(&self.fenced).replace(Instant::now());
        if before.is_some_and(|before| before.elapsed() < FENCED_AGAIN) {
            return Err(self.twin());
        }
        self.client.load().context().closing.store(true, Ordering::Release);
        *locked(&self.inbox) = Inbox::default();
        self.client.store(Arc::new(client(&self.connection, &self.options)?));
        Ok(())
    }

    /// Serves the client: what has changed since it was last served.
    ///
    /// # Errors
    /// When the client can not go on. What passes by itself (a broker away, a leader moving) is
    /// logged, and the client retries.
    pub fn serve(&self) -> Result<Vec<Change>, KafkaError> {
        let client = self.client.load_full();
        let mut inbox = locked(&self.inbox);
        loop {
            // Only one that waited in vain has found the client's own queue empty.
            let wait = if inbox.settling.is_empty() { Duration::ZERO } else { SETTLING };
            let begun = Instant::now();
            match client.poll(wait) {
                None if begun.elapsed() < wait => {}
                None => break,
                Some(Ok(message)) => {
                    let record = owned(&message);
                    let Some(source) = client.context().source(&record.topic, record.partition) else { continue };
                    inbox.early.entry(source).or_default().push_back(record);
                    // The client has begun to fetch it after its queue was made, which undoes that.
                    self.open_queue(&client, &mut inbox, source);
                }
                Some(Err(error)) if is_fatal(&error) => return Err(self.fatal(&client, &error)),
                Some(Err(error)) => tracing::warn!(%error, "Kafka reported a passing error."),
            }
            self.open_queues(&client, &mut inbox);
        }
        inbox.settling.clear();
        self.open_queues(&client, &mut inbox);
        Ok(locked(&client.context().changes).drain(..).collect())
    }

    /// Gives every partition that has come a queue of its own.
    fn open_queues(&self, client: &Arc<BaseConsumer<Context>>, inbox: &mut Inbox) {
        for source in std::mem::take(&mut *locked(&client.context().assigned)) {
            inbox.early.remove(&source);
            self.open_queue(client, inbox, source);
        }
    }

    fn open_queue(&self, client: &Arc<BaseConsumer<Context>>, inbox: &mut Inbox, source: Source) {
        let Some(mut queue) = client.split_partition_queue(self.topic(source), source.partition) else { return };
        let wake = self.wake.clone();
        // A wake-up that is there already is enough.
        queue.set_nonempty_callback(move || {
            wake.try_send(()).ok();
        });
        inbox.queues.insert(source, queue);
        inbox.settling.insert(source);
    }

    /// The next record of a source that is `open`, sources taking turns.
    ///
    /// # Errors
    /// When the client can not go on.
    pub fn next(&self, open: impl Fn(Source) -> bool) -> Result<Option<(Source, Record)>, KafkaError> {
        let mut inbox = locked(&self.inbox);
        let mut sources: Vec<Source> = inbox.queues.keys().copied().filter(|source| open(*source)).collect();
        let turn = sources.iter().position(|source| inbox.last.is_none_or(|last| *source > last)).unwrap_or(0);
        sources.rotate_left(turn);
        for source in sources {
            let early = inbox.early.get_mut(&source).and_then(VecDeque::pop_front);
            let record = match (early, inbox.queues.get(&source)) {
                (Some(record), _) => Some(record),
                (None, Some(queue)) if !inbox.settling.contains(&source) => match queue.poll(Duration::ZERO) {
                    None => None,
                    Some(Ok(message)) => Some(owned(&message)),
                    Some(Err(error)) if is_fatal(&error) => return Err(self.fatal(&self.client.load(), &error)),
                    Some(Err(error)) => {
                        tracing::warn!(%error, "Kafka reported a passing error.");
                        None
                    }
                },
                (None, _) => None,
            };
            if let Some(record) = record {
                inbox.last = Some(source);
                return Ok(Some((source, record)));
            }
        }
        Ok(None)
    }

    /// Gives up sources that are leaving or lost: the group goes on.
    ///
    /// # Errors
    /// When the client refuses.
    pub fn give_up(&self, sources: &[Source]) -> Result<(), KafkaError> {
        let mut inbox = locked(&self.inbox);
        for source in sources {
            inbox.queues.remove(source);
            inbox.early.remove(source);
            inbox.settling.remove(source);
        }
        drop(inbox);
        let client = self.client.load();
        Ok(match client.rebalance_protocol() {
            RebalanceProtocol::Cooperative => client.incremental_unassign(&self.list(sources))?,
            RebalanceProtocol::None | RebalanceProtocol::Eager => client.unassign()?,
        })
    }

    /// Whether this member was thrown out of its group, and what it owned is another's.
    pub fn is_lost(&self) -> bool {
        self.client.load().assignment_lost()
    }

    /// Reads sources from these offsets; what was fetched ahead is thrown away.
    ///
    /// # Errors
    /// When one cannot be read from there now, because a rebalance is under way.
    pub fn seek(&self, offsets: &[(Source, i64)]) -> Result<(), KafkaError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let mut inbox = locked(&self.inbox);
        offsets.iter().for_each(|(source, _)| {
            inbox.early.remove(source);
        });
        drop(inbox);
        let done = self.client.load().seek_partitions(self.offsets(offsets)?, COORDINATOR_TIMEOUT)?;
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
        let list = self.client.load().committed_offsets(self.list(sources), COORDINATOR_TIMEOUT)?;
        let mut committed = BTreeMap::new();
        for element in list.elements() {
            element.error()?;
            let next = if let Offset::Offset(next) = element.offset() { Some(next) } else { None };
            committed.extend(self.source(element.topic(), element.partition()).map(|source| (source, next)));
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
        Ok(self.client.load().commit(&self.offsets(next_offsets)?, mode)?)
    }

    /// Whether a commit that was not waited for has failed since this was last asked.
    pub fn commit_failed(&self) -> bool {
        self.client.load().context().commit_failed.swap(false, Ordering::AcqRel)
    }

    /// What the client knows about the group.
    pub fn statistics(&self) -> GroupStatistics {
        locked(&self.client.load().context().statistics).clone()
    }

    /// The name of the topic of a source.
    pub fn topic(&self, source: Source) -> &str {
        self.options.topics.get(usize::from(source.topic)).map_or("", String::as_str)
    }

    /// This member's identity now, for a transaction.
    pub(super) fn group_metadata(&self) -> Option<ConsumerGroupMetadata> {
        self.client.load().group_metadata()
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

    fn source(&self, topic: &str, partition: i32) -> Option<Source> {
        self.client.load().context().source(topic, partition)
    }

    fn twin(&self) -> KafkaError {
        let id = self.options.instance_id.clone().unwrap_or_default();
        KafkaError::Twin { setting: "kafka.instance_id", id }
    }

    fn fatal(&self, client: &BaseConsumer<Context>, error: &ClientError) -> KafkaError {
        match client.client().fatal_error() {
            Some((RDKafkaErrorCode::FencedInstanceId, _)) => self.twin(),
            Some((_, reason)) => KafkaError::Fatal(reason),
            None => KafkaError::Fatal(error.to_string()),
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // They hold the client.
        *locked(&self.inbox) = Inbox::default();
        self.client.load().context().closing.store(true, Ordering::Release);
    }
}

/// A client that has subscribed.
fn client(connection: &Connection, options: &ConsumerOptions) -> Result<BaseConsumer<Context>, KafkaError> {
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
        commit_failed: AtomicBool::new(false),
        closing: AtomicBool::new(false),
    };
    let mut config = connection.config(&settings);
    config.set_log_level(RDKafkaLogLevel::Warning);
    let client = BaseConsumer::from_config_and_context(&config, context).map_err(KafkaError::client)?;
    client.subscribe(&options.topics.iter().map(String::as_str).collect::<Vec<_>>())?;
    Ok(client)
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
                let end = if state.ls_offset >= 0 { state.ls_offset } else { state.hi_offset };
                if let (true, Some(source)) = (end >= 0, self.source(topic, *partition)) {
                    known.sources.insert(source, Fetched { end, next: state.next_offset, waiting: state.fetchq_cnt });
                }
            }
        }
        known.rebalances = statistics.cgrp.map_or(0, |group| group.rebalance_cnt.max(0) as u64);
        *locked(&self.statistics) = known;
    }
}

impl ConsumerContext for Context {
    /// Called from within [`Consumer::serve`], which must not be held up: a revocation is noted and answered later, by
    /// [`Consumer::give_up`], for which the client keeps the rebalance open.
    fn rebalance(&self, client: &BaseConsumer<Self>, error: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let cooperative = matches!(client.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let answered = match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                let sources = self.sources(list);
                locked(&self.assigned).extend(&sources);
                self.note(Change::Assigned(sources));
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
