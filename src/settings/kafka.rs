//! Topics and cluster, checked.

use std::{collections::BTreeMap, time::Duration};

use super::{
    control::OFF,
    load::{SettingsError, Source},
    raw::{self, Delivery},
};

/// Topics and cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaPlan {
    /// `host:port`, or none for the embedded broker.
    pub bootstrap_servers: Option<String>,
    /// The consumer group.
    pub group_id: String,
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
    /// Partitions of each topic on the embedded broker.
    pub embedded_partitions: i32,
    /// Largest record to be published.
    pub record_bytes_max: usize,
    /// Bytes that the client may fetch ahead.
    pub prefetch_bytes: usize,
    /// Time between commits.
    pub commit_interval: Duration,
    /// How long publishing one record may take.
    pub publish_timeout: Duration,
    /// Options of librdkafka.
    pub options: BTreeMap<String, String>,
}

const EMBEDDED: &str = "embedded";

/// Options that the promises rest on.
const PROTECTED_OPTIONS: [(&str, &str); 9] = [
    ("bootstrap.servers", "set `kafka.bootstrap_servers`"),
    ("group.id", "set `kafka.group_id`"),
    ("enable.auto.commit", "offsets are committed behind their verdicts only"),
    ("enable.auto.offset.store", "offsets are committed behind their verdicts only"),
    ("enable.idempotence", "without it, retries repeat and reorder verdicts"),
    ("acks", "a verdict counts when all in-sync replicas have it"),
    ("request.required.acks", "a verdict counts when all in-sync replicas have it"),
    ("isolation.level", "aborted requests must not be judged"),
    ("transactional.id", "this version has no transactions"),
];

pub(super) fn plan(source: &Source, raw: raw::Kafka) -> Result<KafkaPlan, SettingsError> {
    let Delivery::AtLeastOnce = raw.delivery;
    let names = [
        ("kafka.bootstrap_servers", &raw.bootstrap_servers),
        ("kafka.group_id", &raw.group_id),
        ("kafka.requests", &raw.requests),
        ("kafka.verdicts", &raw.verdicts),
        ("kafka.dead_letters", &raw.dead_letters),
        ("kafka.shadows", &raw.shadows),
        ("kafka.control", &raw.control),
    ];
    for (field, name) in names {
        if name.trim().is_empty() {
            return Err(source.field(field, "is empty"));
        }
    }
    for (field, name) in &names[3..] {
        // Reading one's own output would go round for ever.
        if **name == raw.requests {
            return Err(source.field(field, "must differ from `kafka.requests`"));
        }
    }
    for (field, name, others) in [
        ("kafka.dead_letters", &raw.dead_letters, &[&raw.verdicts][..]),
        ("kafka.shadows", &raw.shadows, &[&raw.verdicts, &raw.dead_letters]),
        ("kafka.control", &raw.control, &[&raw.verdicts, &raw.dead_letters, &raw.shadows]),
    ] {
        if others.contains(&name) {
            return Err(source.field(field, "must differ from the other topics"));
        }
    }
    // Names in the environment have no dots, those of librdkafka no underscores.
    let options: BTreeMap<String, String> =
        raw.options.into_iter().map(|(name, value)| (name.replace('_', "."), value)).collect();
    if let Some((name, reason)) = PROTECTED_OPTIONS.iter().find(|(name, _)| options.contains_key(*name)) {
        return Err(source.field(&format!("kafka.options.{name}"), format!("cannot be set: {reason}")));
    }
    Ok(KafkaPlan {
        bootstrap_servers: (raw.bootstrap_servers != EMBEDDED).then_some(raw.bootstrap_servers),
        group_id: raw.group_id,
        requests: raw.requests,
        verdicts: raw.verdicts,
        dead_letters: raw.dead_letters,
        shadows: raw.shadows,
        control: (raw.control != OFF).then_some(raw.control),
        embedded_partitions: raw.embedded_partitions,
        record_bytes_max: raw.record_bytes_max,
        prefetch_bytes: raw.prefetch_bytes,
        commit_interval: Duration::from_millis(raw.commit_interval_ms),
        publish_timeout: Duration::from_millis(raw.publish_timeout_ms),
        options,
    })
}
