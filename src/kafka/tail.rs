//! Reads whole topics from the beginning, outside any group.

use std::time::Duration;

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
};

use super::connection::{Authenticated, Connection, KafkaError, owned};
use crate::message::Record;

/// A reader of every partition of some topics.
pub struct Tail {
    client: BaseConsumer<Authenticated>,
}

impl Tail {
    /// Reads these topics from their beginning.
    ///
    /// # Errors
    /// When no broker answers or a topic does not exist.
    pub fn new(connection: &Connection, topics: &[&str]) -> Result<Self, KafkaError> {
        Self::from(connection, topics, Offset::Beginning)
    }

    /// Reads what is written from now on.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn from_end(connection: &Connection, topics: &[&str]) -> Result<Self, KafkaError> {
        Self::from(connection, topics, Offset::End)
    }

    fn from(connection: &Connection, topics: &[&str], offset: Offset) -> Result<Self, KafkaError> {
        let mut list = TopicPartitionList::new();
        for (topic, partitions) in connection.partitions(topics)? {
            for partition in 0..partitions {
                list.add_partition_offset(&topic, partition, offset)?;
            }
        }
        let client = connection.reader("ofa-stream-tail")?;
        client.assign(&list)?;
        Ok(Self { client })
    }

    /// The next record, or none within the timeout.
    ///
    /// # Errors
    /// When the client cannot go on.
    pub fn next(&self, timeout: Duration) -> Result<Option<Record>, KafkaError> {
        match self.client.poll(timeout) {
            None => Ok(None),
            Some(message) => Ok(Some(owned(&message?))),
        }
    }
}
