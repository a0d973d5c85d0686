//! Creates topics.

use std::time::Duration;

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    config::FromClientConfig,
    types::RDKafkaErrorCode,
};

use super::connection::{Connection, KafkaError, Role};

/// A topic that is to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPlan {
    /// Its name.
    pub name: String,
    /// Its partitions.
    pub partitions: i32,
    /// Copies of each partition.
    pub replication: i32,
    /// Its settings, by name.
    pub config: Vec<(String, String)>,
}

/// The brokers answer within this time, or say that they go on creating.
const CREATE_TIMEOUT: Duration = Duration::from_secs(30);

impl Connection {
    /// Creates topics. Returns for each whether it was created; false where it exists already.
    ///
    /// # Errors
    /// The first topic that the brokers refuse, with the reason.
    pub fn create_topics(&self, topics: &[TopicPlan]) -> Result<Vec<(String, bool)>, KafkaError> {
        let client: AdminClient<DefaultClientContext> =
            AdminClient::from_config(&self.config(Role::Writes, &[])).map_err(KafkaError::client)?;
        let new = topics.iter().map(|topic| {
            let replication = TopicReplication::Fixed(topic.replication);
            let new = NewTopic::new(&topic.name, topic.partitions, replication);
            topic.config.iter().fold(new, |new, (name, value)| new.set(name, value))
        });
        let new: Vec<NewTopic<'_>> = new.collect();
        let options = AdminOptions::new().request_timeout(Some(CREATE_TIMEOUT)).operation_timeout(Some(CREATE_TIMEOUT));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.map_err(|error| KafkaError::Fatal(error.to_string()))?;
        let results = runtime.block_on(client.create_topics(&new, &options))?;
        let created = results.into_iter().map(|result| match result {
            Ok(topic) => Ok((topic, true)),
            Err((topic, RDKafkaErrorCode::TopicAlreadyExists)) => Ok((topic, false)),
            Err((topic, code)) => Err(KafkaError::Fatal(format!("topic `{topic}` was not created: {code}"))),
        });
        created.collect()
    }
}
