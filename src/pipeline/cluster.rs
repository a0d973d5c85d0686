//! What the cluster can do and how its topics are set, looked at before the group is joined.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    kafka::{Connection, ConsumerOptions, GroupProtocol, KafkaError},
    settings::{self, Delivery, KafkaPlan, Plan},
};

/// What can be promised on a cluster.
pub(super) struct Promise {
    pub(super) delivery: Delivery,
    /// What this instance is called in its group; none is a new name each time.
    pub(super) instance_id: Option<String>,
    /// What a batch of records may be, so that no topic finds one too large; none where the cluster does not say.
    pub(super) batch_bytes: Option<usize>,
    /// Topics that take no record without a key, as far as the cluster says.
    pub(super) compacted: BTreeSet<String>,
}

/// Checks that the cluster answers, has every topic, and that they fit together.
///
/// # Errors
/// What is not as it must be.
pub fn check_cluster(plan: &Plan, connection: &Connection) -> Result<(), KafkaError> {
    let is_embedded = topics(plan, connection)?.is_none();
    if let Some(control) = plan.kafka.control.as_deref().filter(|_| !is_embedded)
        // Who may not ask is not kept from starting.
        && connection.is_compacted(control).is_ok_and(|compacted| !compacted)
    {
        tracing::warn!(
            topic = control,
            "The control topic is not compacted: instances that start after its retention know nothing of what operators changed. Set \
             cleanup.policy=compact."
        );
    }
    Ok(())
}

/// Everything on the cluster that is not as it must be: missing topics, and topics that take too small records.
///
/// # Errors
/// When no broker answers.
pub fn cluster_problems(plan: &Plan, connection: &Connection) -> Result<Vec<KafkaError>, KafkaError> {
    let mut problems = Vec::new();
    let mut existing = Vec::new();
    let control = plan.kafka.control.as_deref();
    for topic in named_topics(plan).into_iter().chain(control) {
        match connection.partitions(&[topic]) {
            Ok(_) => existing.push(topic),
            Err(error @ KafkaError::TopicMissing { .. }) => problems.push(error),
            Err(error) => return Err(error),
        }
    }

    if !connection.is_mock()? {
        // The control topic holds no requests.
        existing.retain(|topic| Some(*topic) != control);
        problems.extend(too_small(plan, &connection.record_limits(&existing)?));
    }
    Ok(problems)
}

/// The topics of requests and their outcomes.
fn named_topics(plan: &Plan) -> Vec<&str> {
    let kafka = &plan.kafka;
    let mut topics = vec![kafka.requests.as_str(), &kafka.verdicts, &kafka.dead_letters];
    topics.extend(plan.table.has_shadows().then_some(kafka.shadows.as_str()));
    topics.extend(kafka.retries.iter().map(|retry| retry.topic.as_str()));
    topics
}

/// What records may be in the topics: none on an embedded broker, an error where brokers do not say.
type Limits = Option<Result<BTreeMap<String, usize>, KafkaError>>;

fn topics(plan: &Plan, connection: &Connection) -> Result<Limits, KafkaError> {
    let topics = named_topics(plan);
    connection.partitions(&topics)?;
    if connection.is_mock()? {
        return Ok(None);
    }
    let limits = connection.record_limits(&topics);
    if let Ok(limits) = &limits
        && let Some(problem) = too_small(plan, limits).into_iter().next()
    {
        return Err(problem);
    }
    Ok(Some(limits))
}

/// Looks at the cluster.
///
/// # Errors
/// When it does not answer, lacks a topic, or topics do not fit together.
pub(super) fn look(plan: &Plan, connection: &Connection) -> Result<Promise, KafkaError> {
    let kafka = &plan.kafka;
    let Some(limits) = topics(plan, connection)? else {
        if kafka.delivery == Delivery::ExactlyOnce {
            tracing::warn!(
                "This is an embedded broker, which has no transactions: delivery is at least once, and a crash may repeat \
                 verdicts. On Apache Kafka it is exactly once."
            );
        }
        return Ok(Promise {
            delivery: Delivery::AtLeastOnce,
            instance_id: None,
            batch_bytes: None,
            compacted: BTreeSet::new(),
        });
    };
    let batch_bytes = match limits {
        // The brokers hold batches to this, and refuse all records of one.
        Ok(limits) => limits.iter().filter(|(topic, _)| **topic != kafka.requests).map(|(_, bytes)| *bytes).min(),
        Err(error) => {
            tracing::warn!(%error, "How large records may be in the topics is not known; too large ones are found when they come.");
            None
        }
    };
    let compacted = compacted(kafka, connection);
    Ok(Promise { delivery: kafka.delivery, instance_id: kafka.instance_id.clone(), batch_bytes, compacted })
}

/// The topics that are written and compacted. In the verdicts that is right for tombstones; elsewhere records of one key replace
/// each other.
fn compacted(kafka: &KafkaPlan, connection: &Connection) -> BTreeSet<String> {
    let mut topics = vec![kafka.verdicts.as_str(), &kafka.dead_letters];
    topics.extend(kafka.retries.iter().map(|retry| retry.topic.as_str()));
    let compacted = match connection.compacted(&topics) {
        Ok(compacted) => compacted,
        Err(error) => {
            tracing::warn!(%error, "Whether the topics are compacted is not known; records without a key may be refused.");
            return BTreeSet::new();
        }
    };
    if compacted.contains(&kafka.verdicts) {
        tracing::info!(
            topic = kafka.verdicts,
            "The verdicts topic is compacted: a request without a key becomes a dead letter, `key_missing`."
        );
    }
    for topic in compacted.iter().filter(|topic| **topic != kafka.verdicts) {
        tracing::warn!(
            topic,
            "This topic is compacted: its records of one key replace each other, and are lost by that. Set cleanup.policy=delete."
        );
    }
    compacted
}

/// Every request must fit into the topics that it may go to as a whole, and into a record that this program may publish.
/// Returns what is too small for that.
fn too_small(plan: &Plan, limits: &BTreeMap<String, usize>) -> Vec<KafkaError> {
    let kafka = &plan.kafka;
    let Some(wanted) = limits.get(&kafka.requests).copied() else { return Vec::new() };

    let own = ("`kafka.record_bytes_max`".to_owned(), kafka.record_bytes_max);
    let whole = std::iter::once(&kafka.dead_letters).chain(kafka.retries.iter().map(|retry| &retry.topic));
    let of_topic = |topic: &String| Some((format!("`max.message.bytes` of topic `{topic}`"), *limits.get(topic)?));
    std::iter::once(own)
        .chain(whole.filter_map(of_topic))
        .filter(|(_, bytes)| *bytes < wanted)
        .map(|(what, bytes)| KafkaError::TooSmall { what, bytes, requests: kafka.requests.clone(), wanted })
        .collect()
}

/// The topics that are read: [`Source::topic`](crate::message::Source::topic) is an index into them.
pub(super) fn read_topics(kafka: &KafkaPlan) -> impl Iterator<Item = &str> {
    std::iter::once(kafka.requests.as_str()).chain(kafka.retries.iter().map(|retry| retry.topic.as_str()))
}

/// How this instance is a member of its group.
pub(super) fn membership(plan: &Plan, instance_id: Option<String>) -> ConsumerOptions {
    let kafka = &plan.kafka;
    ConsumerOptions {
        group_id: kafka.group_id.clone(),
        instance_id,
        protocol: match kafka.group_protocol {
            settings::GroupProtocol::Classic => GroupProtocol::Classic,
            settings::GroupProtocol::Consumer => GroupProtocol::Consumer,
        },
        topics: read_topics(kafka).map(str::to_owned).collect(),
        prefetch_bytes: kafka.prefetch_bytes,
    }
}

/// A name for an instance that has none: transactions need one, if only for as long as the process lives.
pub(super) fn new_name() -> String {
    let mut random = [0_u8; 8];
    // Without chance the process still has a number of its own.
    match getrandom::fill(&mut random) {
        Ok(()) => hex::encode(random),
        Err(_) => std::process::id().to_string(),
    }
}
