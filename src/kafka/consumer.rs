//! The group member that reads requests.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use crossbeam_channel::Sender;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer as _, RebalanceProtocol},
    error::{KafkaError as ClientError, RDKafkaErrorCode},
};

use super::{
    connection::{Connection, KafkaError},
    identity::Identity,
    inbox::Inbox,
    member::{self, Change, ConsumerOptions, GroupStatistics, Member, locked},
    topic_ids::topic_ids,
};
use crate::message::{Record, Source};

/// Reads some topics as a member of a group.
pub struct Consumer {
    connection: Connection,
    options: ConsumerOptions,
    client: ArcSwap<Member>,
    inbox: Mutex<Inbox>,
    /// When this member was last locked out by one of its own name.
    fenced: Mutex<Option<Instant>>,
    /// Rebalances of clients before this one.
    rebalances: AtomicU64,
    /// The ids of the topics that are read.
    topic_ids: Mutex<BTreeMap<String, String>>,
}

/// How long the poll loop waits for the group's coordinator; it comes round again.
const COORDINATOR_TIMEOUT: Duration = Duration::from_secs(5);
/// A member that is locked out a second time within this has a twin.
const FENCED_AGAIN: Duration = Duration::from_secs(60);

impl Consumer {
    /// Joins the group. Partitions arrive later, while it is served; `wake` is told when records have come.
    ///
    /// # Errors
    /// When the client cannot be made or refuses to subscribe.
    pub fn join(connection: &Connection, options: ConsumerOptions, wake: Sender<()>) -> Result<Self, KafkaError> {
        let client = ArcSwap::from(member::join(connection, &options)?);
        let (connection, inbox) = (connection.clone(), Mutex::new(Inbox::new(wake)));
        Ok(Self {
            connection,
            options,
            client,
            inbox,
            fenced: Mutex::default(),
            rebalances: AtomicU64::new(0),
            topic_ids: Mutex::default(),
        })
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
        self.join_anew()
    }

    /// Joins the group anew with a client of its own: what it owned is not its own any more.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn join_anew(&self) -> Result<(), KafkaError> {
        self.client.load().context().closing.store(true, Ordering::Release);
        let so_far = self.statistics().rebalances;
        self.rebalances.store(so_far, Ordering::Release);
        locked(&self.inbox).clear();
        let replaced = self.client.swap(member::join(&self.connection, &self.options)?);
        // Closing it polls until the group has answered, which it may never do, least of all when the group is in trouble; the poll
        // loop must not wait for that. A member joins again once a minute at most, so few of these threads live at a time.
        let closing = std::thread::Builder::new().name("close".to_owned()).spawn(move || drop(replaced));
        closing.map(drop).map_err(|error| KafkaError::Fatal(format!("no thread to close a client: {error}")))
    }

    /// Serves the client: what has changed since it was last served.
    ///
    /// # Errors
    /// When the client can not go on. What passes by itself (a broker away, a leader moving) is
    /// logged, and the client retries.
    pub fn serve(&self) -> Result<Vec<Change>, KafkaError> {
        let client = self.client.load_full();
        locked(&self.inbox).serve(&client).map_err(|error| self.fatal(&error))?;
        Ok(locked(&client.context().changes).drain(..).collect())
    }

    /// The next record of a source that is `open`, sources taking turns.
    ///
    /// # Errors
    /// When the client can not go on.
    pub fn next(&self, open: impl Fn(Source) -> bool) -> Result<Option<(Source, Record)>, KafkaError> {
        locked(&self.inbox).next(open).map_err(|error| self.fatal(&error))
    }

    /// Gives up sources that are leaving or lost: the group goes on.
    ///
    /// # Errors
    /// When the client refuses.
    pub fn give_up(&self, sources: &[Source]) -> Result<(), KafkaError> {
        locked(&self.inbox).forget(sources);
        let client = self.client.load();
        let given_up = match client.rebalance_protocol() {
            RebalanceProtocol::Cooperative => client.incremental_unassign(&self.list(sources)),
            RebalanceProtocol::None | RebalanceProtocol::Eager => client.unassign(),
        };
        given_up.map_err(KafkaError::from)
    }

    /// Whether this member was thrown out of its group, and what it owned is another's.
    pub fn is_lost(&self) -> bool {
        self.client.load().assignment_lost()
    }

    /// Reads sources from these offsets, from the beginning where there is none; what was fetched ahead is thrown away.
    ///
    /// # Errors
    /// When one cannot be read from there now, because a rebalance is under way.
    pub fn seek(&self, offsets: &[(Source, Option<i64>)]) -> Result<(), KafkaError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let mut inbox = locked(&self.inbox);
        offsets.iter().for_each(|(source, _)| inbox.forget_early(*source));
        drop(inbox);
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (source, next) in offsets {
            let offset = next.map_or(Offset::Beginning, Offset::Offset);
            list.add_partition_offset(self.topic(*source), source.partition, offset)?;
        }
        let done = self.client.load().seek_partitions(list, COORDINATOR_TIMEOUT)?;
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
        let client = self.client.load();
        let mut known = locked(&client.context().statistics).clone();
        for (source, end) in locked(&client.context().ends).iter() {
            if let Some(fetched) = known.sources.get_mut(source) {
                fetched.end = fetched.end.max(*end);
            }
        }
        known.rebalances += self.rebalances.load(Ordering::Acquire);
        known
    }

    /// Asks the brokers where sources end, for [`Self::statistics`]: the client itself knows it only of what it fetches, which
    /// is little when much is waiting. May be held up by brokers that are away.
    ///
    /// # Errors
    /// When they do not answer.
    pub fn look_at_ends(&self, sources: &[Source]) -> Result<(), KafkaError> {
        if sources.is_empty() {
            return Ok(());
        }
        let mut list = TopicPartitionList::with_capacity(sources.len());
        for source in sources {
            list.add_partition_offset(self.topic(*source), source.partition, Offset::End)?;
        }
        let client = self.client.load_full();
        let found = client.offsets_for_times(list, COORDINATOR_TIMEOUT)?;
        let mut ends = locked(&client.context().ends);
        for element in found.elements() {
            if let (Offset::Offset(end), Some(source)) =
                (element.offset(), client.context().source(element.topic(), element.partition()))
            {
                ends.insert(source, end);
            }
        }
        Ok(())
    }

    /// Those of the topics that were deleted and made again since this was last asked.
    ///
    /// # Errors
    /// When the brokers do not say.
    pub fn recreated(&self) -> Result<Vec<String>, KafkaError> {
        if self.connection.embedded {
            return Ok(Vec::new());
        }
        let client = self.client.load_full();
        let now = topic_ids(client.client().native_ptr(), &self.options.topics, COORDINATOR_TIMEOUT)?;
        let mut known = locked(&self.topic_ids);
        let is_another = |(topic, id): &(&String, &String)| known.get(*topic).is_some_and(|before| before != *id);
        let recreated = now.iter().filter(is_another).map(|(topic, _)| topic.clone()).collect();
        known.extend(now);
        Ok(recreated)
    }

    /// How many records the group has not answered in each partition of the topics, with or without a reader: from where the group
    /// stands to the end.
    ///
    /// # Errors
    /// When the brokers do not answer.
    pub fn group_lag(&self) -> Result<Vec<(Source, i64)>, KafkaError> {
        let client = self.client.load_full();
        let mut sources = Vec::new();
        for (index, topic) in self.options.topics.iter().enumerate() {
            let metadata = client.fetch_metadata(Some(topic), COORDINATOR_TIMEOUT)?;
            let partitions = metadata.topics().iter().flat_map(rdkafka::metadata::MetadataTopic::partitions);
            let index = u16::try_from(index).unwrap_or(u16::MAX);
            sources.extend(partitions.map(|partition| Source { topic: index, partition: partition.id() }));
        }
        let committed = self.committed(&sources)?;
        let mut lag = Vec::with_capacity(sources.len());
        for source in sources {
            let (start, end) = client.fetch_watermarks(self.topic(source), source.partition, COORDINATOR_TIMEOUT)?;
            let stands = committed.get(&source).copied().flatten().unwrap_or(start);
            lag.push((source, (end - stands.max(start)).max(0)));
        }
        Ok(lag)
    }

    /// The name of the topic of a source.
    pub fn topic(&self, source: Source) -> &str {
        self.options.topics.get(usize::from(source.topic)).map_or("", String::as_str)
    }

    /// This member's identity now, for a transaction; none while it is in no generation of its group, or was thrown out.
    pub fn identity(&self) -> Option<Identity> {
        let client = self.client.load();
        Identity::of(&client).filter(|_| !client.assignment_lost())
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

    fn fatal(&self, error: &ClientError) -> KafkaError {
        match self.client.load().client().fatal_error() {
            Some((RDKafkaErrorCode::FencedInstanceId, _)) => self.twin(),
            Some((_, reason)) => KafkaError::Fatal(reason),
            None => KafkaError::Fatal(error.to_string()),
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        locked(&self.inbox).clear();
        self.client.load().context().closing.store(true, Ordering::Release);
    }
}
