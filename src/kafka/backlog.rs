//! Reads all that a topic holds now.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError as ClientError,
};

use super::connection::{Authenticated, Connection, KafkaError, Role, owned};
use crate::message::Record;

const POLL_TIMEOUT: Duration = Duration::from_millis(100);

impl Connection {
    /// Reads every committed record of a topic from its beginning to where it ends now, partition by partition as they
    /// come.
    ///
    /// # Errors
    /// When no broker answers, the topic does not exist, or nothing comes for `wait_max`.
    pub fn read_all(&self, topic: &str, wait_max: Duration, mut each: impl FnMut(Record)) -> Result<(), KafkaError> {
        let partitions = self.partitions(&[topic])?.get(topic).copied().unwrap_or_default();
        let config = self.config(
            Role::Reads,
            &[
                ("group.id", "ofa-stream-backlog"),
                ("enable.auto.commit", "false"),
                ("isolation.level", "read_committed"),
                ("enable.partition.eof", "true"),
                ("fetch.wait.max.ms", self.fetch_wait_ms()),
            ],
        );
        let context = Authenticated(self.credentials.clone());
        let client = BaseConsumer::from_config_and_context(&config, context).map_err(KafkaError::client)?;
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition, Offset::Beginning)?;
        }
        client.assign(&list)?;
        let mut left: BTreeSet<i32> = (0..partitions).collect();
        let mut heard = Instant::now();
        while !left.is_empty() {
            match client.poll(POLL_TIMEOUT) {
                None if heard.elapsed() < wait_max => continue,
                None => return Err(KafkaError::Fatal(format!("nothing came from `{topic}` for {wait_max:?}"))),
                Some(Err(ClientError::PartitionEOF(partition))) => {
                    left.remove(&partition);
                }
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(message)) => each(owned(&message)),
            }
            heard = Instant::now();
        }
        Ok(())
    }
}
