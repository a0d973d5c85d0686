//! How large records may be in a topic, as the brokers are set.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{
    admin::{AdminClient, AdminOptions, ResourceSpecifier},
    client::DefaultClientContext,
    config::FromClientConfig,
};

use super::{Connection, KafkaError, connection::Role};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

impl Connection {
    /// `max.message.bytes` of each topic.
    ///
    /// # Errors
    /// When the cluster does not say: an embedded broker cannot, others may want an authorization for it
    /// (`DescribeConfigs` on the topic).
    pub fn record_limits(&self, topics: &[&str]) -> Result<BTreeMap<String, usize>, KafkaError> {
        let client: AdminClient<DefaultClientContext> =
            AdminClient::from_config(&self.config(Role::Writes, &[])).map_err(KafkaError::client)?;
        let wanted: Vec<ResourceSpecifier<'_>> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let options = AdminOptions::new().request_timeout(Some(ANSWER_TIMEOUT));
        // The client answers from a thread of its own; this one only waits.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(|error| KafkaError::Fatal(error.to_string()))?;
        let described = runtime.block_on(client.describe_configs(&wanted, &options))?;
        let mut limits = BTreeMap::new();
        for (topic, resource) in topics.iter().zip(described) {
            let resource = resource.map_err(|error| KafkaError::Fatal(format!("topic `{topic}`: {error}")))?;
            let entry = resource.entries.iter().find(|entry| entry.name == "max.message.bytes");
            let bytes = entry.and_then(|entry| entry.value.as_deref()?.parse().ok());
            limits.extend(bytes.map(|bytes| ((*topic).to_owned(), bytes)));
        }
        Ok(limits)
    }
}
