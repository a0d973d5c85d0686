//! What a group member has fetched and not taken: a queue for each partition, so that one is read no further while others are.
//! Pausing at the client would throw away what it has fetched, and cost up to a second until records come again.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::Sender;
use rdkafka::{
    consumer::{Consumer as _, base_consumer::PartitionQueue},
    error::KafkaError as ClientError,
};

use super::{
    connection::owned,
    member::{Context, Member, is_fatal, locked},
};
use crate::message::{Record, Source};

/// The queues of a member's partitions.
pub(super) struct Inbox {
    queues: BTreeMap<Source, PartitionQueue<Context>>,
    /// Records that came before their partition had its queue. They are older than what is in there.
    early: BTreeMap<Source, VecDeque<Record>>,
    /// Sources of which more of those may come: their queues are not read.
    settling: BTreeSet<Source>,
    /// The source that had its turn last.
    last: Option<Source>,
    /// Told when a queue is no longer empty.
    wake: Sender<()>,
}

/// How long the client's own queue is looked at for records of a partition that has just got one.
const SETTLING: Duration = Duration::from_millis(2);

impl Inbox {
    pub(super) fn new(wake: Sender<()>) -> Self {
        let (queues, early, settling) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { queues, early, settling, last: None, wake }
    }

    /// Lets the client call back, and gives partitions that have come their queues.
    ///
    /// # Errors
    /// What the client cannot go on after.
    pub(super) fn serve(&mut self, client: &Arc<Member>) -> Result<(), ClientError> {
        loop {
            // Only one that waited in vain has found the client's own queue empty.
            let wait = if self.settling.is_empty() { Duration::ZERO } else { SETTLING };
            let begun = Instant::now();
            match client.poll(wait) {
                None if begun.elapsed() < wait => {}
                None => break,
                Some(Ok(message)) => {
                    let record = owned(&message);
                    let Some(source) = client.context().source(&record.topic, record.partition) else { continue };
                    self.early.entry(source).or_default().push_back(record);
                    // It was fetched before its queue was made.
                    self.open(client, source);
                }
                Some(Err(error)) => passes(error)?,
            }
            self.open_assigned(client);
        }
        self.settling.clear();
        self.open_assigned(client);
        Ok(())
    }

    /// The next record of a source that is `open`, sources taking turns.
    ///
    /// # Errors
    /// What the client cannot go on after.
    pub(super) fn next(&mut self, open: impl Fn(Source) -> bool) -> Result<Option<(Source, Record)>, ClientError> {
        let mut sources: Vec<Source> = self.queues.keys().copied().filter(|source| open(*source)).collect();
        let turn = sources.iter().position(|source| self.last.is_none_or(|last| *source > last)).unwrap_or(0);
        sources.rotate_left(turn);
        for source in sources {
            if let Some(record) = self.take(source)? {
                self.last = Some(source);
                return Ok(Some((source, record)));
            }
        }
        Ok(None)
    }

    /// Forgets sources that are given up.
    pub(super) fn forget(&mut self, sources: &[Source]) {
        for source in sources {
            self.queues.remove(source);
            self.early.remove(source);
            self.settling.remove(source);
        }
    }

    /// Forgets what came early of a source: it is read from elsewhere.
    pub(super) fn forget_early(&mut self, source: Source) {
        self.early.remove(&source);
    }

    /// Forgets everything: the queues hold the client.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.wake.clone());
    }

    fn take(&mut self, source: Source) -> Result<Option<Record>, ClientError> {
        if let Some(record) = self.early.get_mut(&source).and_then(VecDeque::pop_front) {
            return Ok(Some(record));
        }
        let Some(queue) = self.queues.get(&source).filter(|_| !self.settling.contains(&source)) else {
            return Ok(None);
        };
        match queue.poll(Duration::ZERO) {
            None => Ok(None),
            Some(Ok(message)) => Ok(Some(owned(&message))),
            Some(Err(error)) => passes(error).map(|()| None),
        }
    }

    fn open_assigned(&mut self, client: &Arc<Member>) {
        for source in std::mem::take(&mut *locked(&client.context().assigned)) {
            self.early.remove(&source);
            self.open(client, source);
        }
    }

    fn open(&mut self, client: &Arc<Member>, source: Source) {
        self.settling.insert(source);
        if self.queues.contains_key(&source) {
            return;
        }
        let topic = client.context().topic(source);
        let Some(mut queue) = client.split_partition_queue(topic, source.partition) else { return };
        let wake = self.wake.clone();
        queue.set_nonempty_callback(move || {
            // One that is there already is enough.
            wake.try_send(()).ok();
        });
        self.queues.insert(source, queue);
    }
}

fn passes(error: ClientError) -> Result<(), ClientError> {
    if is_fatal(&error) {
        return Err(error);
    }
    tracing::warn!(%error, "Kafka reported a passing error.");
    Ok(())
}
