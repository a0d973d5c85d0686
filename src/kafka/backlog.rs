//! Reads what a topic holds now: all of it, what was written since a time, or some records.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError as ClientError,
};

use super::connection::{Authenticated, Connection, KafkaError, METADATA_TIMEOUT, Role, owned};
use crate::message::Record;

/// Which records of a topic are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All that are there.
    All,
    /// Those that come at or after the first that was written at this time, in milliseconds since the epoch, or later.
    Since(i64),
    /// Those of each partition from the first of these offsets to the last.
    Between(BTreeMap<i32, (i64, i64)>),
}

const POLL_TIMEOUT: Duration = Duration::from_millis(100);

impl Connection {
    /// Reads every committed record of an extent of a topic, as it is now, partition by partition as they come.
    ///
    /// # Errors
    /// When no broker answers, the topic does not exist, or nothing comes for `wait_max`.
    pub fn read_backlog(
        &self,
        topic: &str,
        extent: &Extent,
        wait_max: Duration,
        mut each: impl FnMut(Record),
    ) -> Result<(), KafkaError> {
        let partitions =
            self.partitions_within(&[topic], wait_max.min(METADATA_TIMEOUT))?.get(topic).copied().unwrap_or_default();
        let config = self.config(
            Role::Reads,
            &[
                ("group.id", "ofa-stream-backlog"),
                ("enable.auto.commit", "false"),
                ("isolation.level", "read_committed"),
                ("enable.partition.eof", "true"),
                // Of a position that is past retention, the first record that is still there.
                ("auto.offset.reset", "earliest"),
                ("fetch.wait.max.ms", self.fetch_wait_ms()),
            ],
        );

        let context = Authenticated(self.credentials.clone());
        let client = BaseConsumer::from_config_and_context(&config, context).map_err(KafkaError::client)?;

        let mut list = TopicPartitionList::new();
        // The last offset that is wanted of each partition that is still read.
        let mut left: BTreeMap<i32, i64> = BTreeMap::new();
        for partition in 0..partitions {
            let (first, last) = match extent {
                Extent::All => (Offset::Beginning, i64::MAX),
                Extent::Since(time_ms) => (Offset::Offset(*time_ms), i64::MAX),
                Extent::Between(offsets) => match offsets.get(&partition) {
                    Some((first, last)) => (Offset::Offset(*first), *last),
                    None => continue,
                },
            };
            list.add_partition_offset(topic, partition, first)?;
            left.insert(partition, last);
        }

        if let Extent::Since(_) = extent {
            list = client.offsets_for_times(list, wait_max)?;
        }
        client.assign(&list)?;

        let mut heard = Instant::now();
        while !left.is_empty() {
            match client.poll(POLL_TIMEOUT) {
                None if heard.elapsed() < wait_max => continue,
                None => return Err(KafkaError::Fatal(format!("nothing came from `{topic}` for {wait_max:?}"))),
                Some(Err(ClientError::PartitionEOF(partition))) => {
                    left.remove(&partition);
                }
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(message)) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    let last = left.get(&partition).copied();
                    if last.is_some_and(|last| offset <= last) {
                        each(owned(&message));
                    }
                    if last.is_some_and(|last| offset >= last) {
                        left.remove(&partition);
                    }
                }
            }
            heard = Instant::now();
        }
        Ok(())
    }
}
