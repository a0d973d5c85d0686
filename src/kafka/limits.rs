//! How topics are set: how large records may be, and whether they are compacted.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

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
        let settings = self.settings(topics, "max.message.bytes")?;
        Ok(settings.into_iter().filter_map(|(topic, bytes)| Some((topic, bytes.parse().ok()?))).collect())
    }

    /// Whether the last record of each key stays in a topic for good.
    ///
    /// # Errors
    /// As [`Self::record_limits`].
    pub fn is_compacted(&self, topic: &str) -> Result<bool, KafkaError> {
        let policies = self.settings(&[topic], "cleanup.policy")?;
        // With both, records are deleted too, the last one of a key among them.
        Ok(policies.get(topic).is_none_or(|policy| policy == "compact"))
    }

    /// Those of some topics that are compacted, whether or not old records are deleted as well: they take no record without a key.
    ///
    /// # Errors
    /// As [`Self::record_limits`].
    pub fn compacted(&self, topics: &[&str]) -> Result<BTreeSet<String>, KafkaError> {
        let policies = self.settings(topics, "cleanup.policy")?;
        let is_compacted = |policy: &str| policy.split(',').any(|part| part.trim() == "compact");
        Ok(policies.into_iter().filter(|(_, policy)| is_compacted(policy)).map(|(topic, _)| topic).collect())
    }

    /// One setting of each topic, as far as it has it.
    fn settings(&self, topics: &[&str], name: &str) -> Result<BTreeMap<String, String>, KafkaError> {
        let client: AdminClient<DefaultClientContext> =
            AdminClient::from_config(&self.config(Role::Writes, &[])).map_err(KafkaError::client)?;
        let wanted: Vec<ResourceSpecifier<'_>> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let options = AdminOptions::new().request_timeout(Some(ANSWER_TIMEOUT));
        // The client answers from a thread of its own; this one only waits.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(|error| KafkaError::Fatal(error.to_string()))?;
        let described = runtime.block_on(client.describe_configs(&wanted, &options))?;
        let mut settings = BTreeMap::new();
        for (topic, resource) in topics.iter().zip(described) {
            let resource = resource.map_err(|error| KafkaError::Fatal(format!("topic `{topic}`: {error}")))?;
            let entry = resource.entries.into_iter().find(|entry| entry.name == name);
            settings.extend(entry.and_then(|entry| Some(((*topic).to_owned(), entry.value?))));
        }
        Ok(settings)
    }
}
