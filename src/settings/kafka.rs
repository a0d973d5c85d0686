//! Topics and cluster, checked.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use super::{
    control::{OFF, Secret},
    load::{SettingsError, Source},
    raw,
    written::{Delivery, GroupProtocol, Tombstones},
};

/// Topics and cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaPlan {
    /// `host:port`, or none for the embedded broker.
    pub bootstrap_servers: Option<String>,
    /// The consumer group.
    pub group_id: String,
    /// What this instance is called in the group, over restarts; none is a new name each time.
    pub instance_id: Option<String>,
    /// Who divides the partitions.
    pub group_protocol: GroupProtocol,
    /// Topic of requests.
    pub requests: String,
    /// Topic of verdicts.
    pub verdicts: String,
    /// Topic of dead letters.
    pub dead_letters: String,
    /// Topic of shadow verdicts.
    pub shadows: String,
    /// Topic in which operators' changes travel to every instance; none keeps them on this one.
    pub control: Option<String>,
    /// What people say about verdicts.
    pub reviews: String,
    /// Snapshots of the evidence, where there are any.
    pub evidence: Option<String>,
    /// Where requests wait that may succeed later, one after the other.
    pub retries: Vec<RetryPlan>,
    /// What becomes of records without a value.
    pub tombstones: Tombstones,
    /// What is promised about outcomes.
    pub delivery: Delivery,
    /// Partitions of each topic on the embedded broker.
    pub embedded_partitions: i32,
    /// Largest record to be published.
    pub record_bytes_max: usize,
    /// Bytes that the client may fetch ahead of each partition.
    pub prefetch_bytes: usize,
    /// Bytes that each producer's own queue holds, while brokers are slow.
    pub queue_bytes_max: usize,
    /// Time between commits.
    pub commit_interval: Duration,
    /// Records in a transaction from which on it is committed.
    pub transaction_records_max: usize,
    /// After how long the brokers abort a transaction that is not ended.
    pub transaction_timeout: Duration,
    /// How long publishing one record, or a step of a transaction, may take.
    pub publish_timeout: Duration,
    /// How long a partition that goes to another instance is waited for.
    pub rebalance_drain: Duration,
    /// A file with a token for SASL/OAUTHBEARER.
    pub oauth_token_file: Option<PathBuf>,
    /// Options of librdkafka.
    pub options: BTreeMap<String, Secret>,
    /// Which of them were read from files, and from which.
    pub secret_files: BTreeMap<String, String>,
}

/// A topic in which requests wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPlan {
    /// The topic.
    pub topic: String,
    /// For how long.
    pub delay: Duration,
}

/// What the brokers decide in the new group protocol.
const BROKERS_SET: [&str; 2] = ["session.timeout.ms", "heartbeat.interval.ms"];

const EMBEDDED: &str = "embedded";

/// Options that the promises rest on.
const PROTECTED_OPTIONS: [(&str, &str); 22] = [
    ("bootstrap.servers", "set `kafka.bootstrap_servers`"),
    ("group.id", "set `kafka.group_id`"),
    ("group.instance.id", "set `kafka.instance_id`"),
    ("group.protocol", "set `kafka.group_protocol`"),
    ("partition.assignment.strategy", "partitions move one by one, and members with other strategies cannot join"),
    ("enable.auto.commit", "offsets are committed behind their verdicts only"),
    ("enable.auto.offset.store", "offsets are committed behind their verdicts only"),
    ("enable.idempotence", "without it, retries repeat and reorder verdicts"),
    ("acks", "a verdict counts when all in-sync replicas have it"),
    ("request.required.acks", "a verdict counts when all in-sync replicas have it"),
    ("auto.offset.reset", "requests that came before the first commit would be skipped"),
    ("delivery.timeout.ms", "set `kafka.publish_timeout_ms`"),
    ("message.timeout.ms", "set `kafka.publish_timeout_ms`"),
    ("isolation.level", "aborted requests must not be judged"),
    ("transactional.id", "it is made of `kafka.group_id` and `kafka.instance_id`"),
    ("transaction.timeout.ms", "set `kafka.transaction_timeout_ms`"),
    ("message.max.bytes", "set `kafka.record_bytes_max`"),
    ("queue.buffering.max.kbytes", "set `kafka.queue_bytes_max`"),
    ("queue.buffering.max.messages", "`kafka.queue_bytes_max` bounds the queue"),
    ("partitioner", "answers of one key would go to another partition than its requests"),
    ("partitioner_cb", "answers of one key would go to another partition than its requests"),
    (
        "enable.ssl.certificate.verification",
        "a certificate that is not checked protects from nobody: set `ssl.ca.location`",
    ),
];

/// Refuses options of the client that brokers decide on in the newer group protocol.
fn check_protocol(source: &Source, raw: &raw::Kafka) -> Result<(), SettingsError> {
    if raw.group_protocol == GroupProtocol::Consumer
        && let Some(name) =
            raw.options.keys().map(|name| name.replace('_', ".")).find(|name| BROKERS_SET.contains(&name.as_str()))
    {
        let reason =
            "cannot be set with `group_protocol = \"consumer\"`: the brokers' `group.consumer.*` settings decide";
        return Err(source.field(&format!("kafka.options.{name}"), reason));
    }
    Ok(())
}

/// Refuses names that are empty, have control characters, or name two topics.
fn check_names(source: &Source, raw: &raw::Kafka) -> Result<(), SettingsError> {
    let retry_fields: Vec<String> =
        (0..raw.retries.len()).map(|index| format!("kafka.retries[{index}].topic")).collect();
    let mut topics = vec![
        ("kafka.requests", &raw.requests),
        ("kafka.verdicts", &raw.verdicts),
        ("kafka.dead_letters", &raw.dead_letters),
        ("kafka.shadows", &raw.shadows),
        ("kafka.reviews", &raw.reviews),
    ];
    if raw.control != OFF {
        topics.push(("kafka.control", &raw.control));
    }
    if raw.evidence != OFF {
        topics.push(("kafka.evidence", &raw.evidence));
    }
    topics.extend(retry_fields.iter().map(String::as_str).zip(raw.retries.iter().map(|retry| &retry.topic)));
    let others = [("kafka.bootstrap_servers", &raw.bootstrap_servers), ("kafka.group_id", &raw.group_id)];
    for (field, name) in others.iter().chain(&topics) {
        if name.trim().is_empty() {
            return Err(source.field(field, "is empty"));
        }
        source.no_control_characters(field, name)?;
    }
    if let Some(instance_id) = &raw.instance_id {
        source.no_control_characters("kafka.instance_id", instance_id)?;
    }
    for (index, (field, name)) in topics.iter().enumerate() {
        // Reading one's own output would go round for ever.
        if let Some((other, _)) = topics.iter().take(index).find(|(_, other)| other == name) {
            return Err(source.field(field, format!("must differ from `{other}`")));
        }
    }
    Ok(())
}

/// `running` is what the program runs by, where it does.
pub(super) fn plan(source: &Source, raw: raw::Kafka, running: Option<&KafkaPlan>) -> Result<KafkaPlan, SettingsError> {
    check_names(source, &raw)?;
    for (index, retry) in raw.retries.iter().enumerate() {
        if !(1..=MILLISECONDS_A_DAY).contains(&retry.delay_ms) {
            let reason = format!("is {}, it must lie between 1 and {MILLISECONDS_A_DAY}", retry.delay_ms);
            return Err(source.field(&format!("kafka.retries[{index}].delay_ms"), reason));
        }
    }
    if raw.queue_bytes_max < raw.record_bytes_max {
        let reason = format!(
            "is {}, and must not be less than `kafka.record_bytes_max`, {}",
            raw.queue_bytes_max, raw.record_bytes_max
        );
        return Err(source.field("kafka.queue_bytes_max", reason));
    }
    if raw.instance_id.as_deref().is_some_and(|id| id.trim().is_empty()) {
        return Err(source.field("kafka.instance_id", "is empty: name this instance, or write \"off\""));
    }
    if raw.delivery == Delivery::ExactlyOnce {
        let longest = raw.publish_timeout_ms + 2 * raw.commit_interval_ms;
        if raw.transaction_timeout_ms < longest {
            let reason = format!(
                "is {}, it must be at least `kafka.publish_timeout_ms` and two of `kafka.commit_interval_ms`, {longest}: brokers \
                 would abort transactions that are still tried",
                raw.transaction_timeout_ms
            );
            return Err(source.field("kafka.transaction_timeout_ms", reason));
        }
    }
    check_protocol(source, &raw)?;
    let options = options(source, &raw, running)?;
    let embedded = raw.bootstrap_servers == EMBEDDED;
    Ok(KafkaPlan {
        bootstrap_servers: (!embedded).then_some(raw.bootstrap_servers),
        group_id: raw.group_id,
        instance_id: raw.instance_id.or_else(machine).filter(|id| id != OFF),
        group_protocol: raw.group_protocol,
        requests: raw.requests,
        verdicts: raw.verdicts,
        dead_letters: raw.dead_letters,
        shadows: raw.shadows,
        control: (raw.control != OFF).then_some(raw.control),
        reviews: raw.reviews,
        evidence: (raw.evidence != OFF).then_some(raw.evidence),
        retries: raw
            .retries
            .into_iter()
            .map(|retry| RetryPlan { topic: retry.topic, delay: Duration::from_millis(retry.delay_ms) })
            .collect(),
        tombstones: raw.tombstones,
        delivery: raw.delivery,
        embedded_partitions: raw.embedded_partitions,
        record_bytes_max: raw.record_bytes_max,
        prefetch_bytes: raw.prefetch_bytes,
        queue_bytes_max: raw.queue_bytes_max,
        commit_interval: Duration::from_millis(raw.commit_interval_ms),
        transaction_records_max: raw.transaction_records_max,
        transaction_timeout: Duration::from_millis(raw.transaction_timeout_ms),
        publish_timeout: Duration::from_millis(raw.publish_timeout_ms),
        rebalance_drain: Duration::from_millis(raw.rebalance_drain_ms),
        oauth_token_file: raw.oauth_token_file.map(PathBuf::from),
        options,
        secret_files: raw.secret_files,
    })
}

/// Whether a broker's certificate must be of its host.
const IDENTIFICATION: &str = "ssl.endpoint.identification.algorithm";

const MILLISECONDS_A_DAY: u64 = 86_400_000;

/// Options as they are, and those whose values lie in files.
fn options(
    source: &Source,
    raw: &raw::Kafka,
    running: Option<&KafkaPlan>,
) -> Result<BTreeMap<String, Secret>, SettingsError> {
    // Names in the environment have no dots, those of librdkafka no underscores.
    let named = |name: &String| name.replace('_', ".");
    let mut options: BTreeMap<String, Secret> =
        raw.options.iter().map(|(name, value)| (named(name), Secret::new(value.clone()))).collect();
    for (name, file) in &raw.secret_files {
        let field = format!("kafka.secret_files.{name}");
        if options.contains_key(&named(name)) {
            return Err(source.field(&field, "is in `kafka.options` too"));
        }
        // Read once, at the start: what clients were made with stays in use until the process ends.
        let known = running.filter(|running| running.secret_files.get(name) == Some(file));
        if let Some(secret) = known.and_then(|running| running.options.get(&named(name))) {
            options.insert(named(name), secret.clone());
            continue;
        }
        let text = std::fs::read_to_string(file).map_err(|error| source.field(&field, format!("{file}: {error}")))?;
        options.insert(named(name), Secret::new(text.trim_end_matches(['\n', '\r']).to_owned()));
    }
    if let Some(value) = options.get(IDENTIFICATION).filter(|value| value.reveal().trim().eq_ignore_ascii_case("none"))
    {
        let reason = format!("cannot be `{}`: a certificate of another host would be taken", value.reveal().trim());
        return Err(source.field(&format!("kafka.options.{IDENTIFICATION}"), reason));
    }
    match PROTECTED_OPTIONS.iter().find(|(name, _)| options.contains_key(*name)) {
        Some((name, reason)) => Err(source.field(&format!("kafka.options.{name}"), format!("cannot be set: {reason}"))),
        None => Ok(options),
    }
}

/// The machine's name.
fn machine() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}
