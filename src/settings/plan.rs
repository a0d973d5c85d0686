//! What the program runs on, checked as a whole.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use super::{
    load::{SettingsError, Source},
    raw::{self, Delivery},
    versions::{self, DevicesPlan, VersionPlan},
};
use crate::{
    message::{Decision, Label},
    routing::{Table, TableSpec},
};

/// Validated settings.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Topics and cluster.
    pub kafka: KafkaPlan,
    /// Versions by name.
    pub versions: BTreeMap<String, VersionPlan>,
    /// What passes may take at the same time.
    pub devices: DevicesPlan,
    /// Rules, experiments and default.
    pub table: Table,
    /// What a request may hold.
    pub limits: LimitsPlan,
    /// From scores to decisions.
    pub thresholds: Thresholds,
    /// Threads, queues and waits.
    pub pipeline: PipelinePlan,
    /// Metrics and logs.
    pub telemetry: TelemetryPlan,
}

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

/// What a request may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsPlan {
    /// Texts per request.
    pub texts_max: usize,
    /// Characters of each text and of the caption.
    pub text_characters_max: usize,
    /// Encoded bytes of an image.
    pub image_bytes_max: usize,
    /// Width times height of an image.
    pub image_pixels_max: u64,
    /// Folder below which `image.path` may point; none refuses paths.
    pub path_root: Option<PathBuf>,
}

/// From scores to decisions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// `yes` with at least this confidence is approved.
    pub approve_confidence: f32,
    /// `no` with at least this confidence is rejected.
    pub reject_confidence: f32,
}

impl Thresholds {
    /// The decision for an answer.
    pub fn decide(&self, result: Label, confidence: f32) -> Decision {
        match result {
            Label::Yes if confidence >= self.approve_confidence => Decision::Approve,
            Label::No if confidence >= self.reject_confidence => Decision::Reject,
            _ => Decision::Review,
        }
    }
}

/// Threads, queues and waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PipelinePlan {
    /// Threads that parse, decode and route.
    pub decode_threads: usize,
    /// Records between reading and acknowledged verdict, at most.
    pub records_in_flight_max: usize,
    /// Their bytes, at most.
    pub bytes_in_flight_max: usize,
    /// How long a stop waits for them.
    pub drain_timeout: Duration,
}

/// Metrics and logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TelemetryPlan {
    /// Where metrics and health are served; none serves nothing.
    pub listen: Option<SocketAddr>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines there are, in the notation of `RUST_LOG`.
    pub log_level: String,
    /// Characters of a text that verdicts and logs may show.
    pub text_preview_characters: usize,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

impl TryFrom<String> for LogFormat {
    type Error = &'static str;

    fn try_from(written: String) -> Result<Self, Self::Error> {
        match written.as_str() {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err("expected \"human\" or \"json\""),
        }
    }
}

const EMBEDDED: &str = "embedded";

impl Plan {
    /// Reads and checks a settings file and the environment.
    ///
    /// # Errors
    /// The first setting that cannot work, with its line.
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        Self::from_source(&Source::read(path)?)
    }

    /// The version that answers when nothing else decides.
    pub fn default_version(&self) -> &str {
        self.table.default_version()
    }

    /// The sections in which other settings differ in more than what may change while versions run: `batching` of each
    /// version and `devices`.
    pub fn fixed_differences(&self, other: &Self) -> Vec<String> {
        let sections = [
            ("kafka", self.kafka == other.kafka),
            ("routing", self.table.digest() == other.table.digest()),
            ("requests and images", self.limits == other.limits),
            ("decision", self.thresholds == other.thresholds),
            ("pipeline", self.pipeline == other.pipeline),
            ("telemetry", self.telemetry == other.telemetry),
        ];
        let mut different: Vec<String> =
            sections.into_iter().filter(|(_, same)| !same).map(|(section, _)| section.to_owned()).collect();
        let same = |version: &VersionPlan, other: &VersionPlan| {
            VersionPlan { batching: version.batching, ..other.clone() } == *version
        };
        for name in self.versions.keys().chain(other.versions.keys().filter(|name| !self.versions.contains_key(*name)))
        {
            if !matches!((self.versions.get(name), other.versions.get(name)), (Some(one), Some(two)) if same(one, two))
            {
                different.push(format!("model_versions.versions.{name}"));
            }
        }
        different
    }

    fn from_source(source: &Source) -> Result<Self, SettingsError> {
        let raw = source.parse()?;
        let bounds: Vec<(&str, u64, u64, u64)> = vec![
            ("kafka.embedded_partitions", raw.kafka.embedded_partitions.max(0) as u64, 1, 64),
            ("kafka.record_bytes_max", raw.kafka.record_bytes_max as u64, 1_000, 1_000_000_000),
            ("kafka.prefetch_bytes", raw.kafka.prefetch_bytes as u64, 1_000_000, 1_000_000_000),
            ("kafka.commit_interval_ms", raw.kafka.commit_interval_ms, 1, 60_000),
            ("kafka.publish_timeout_ms", raw.kafka.publish_timeout_ms, 100, 900_000),
            ("requests.texts_max", raw.requests.texts_max as u64, 1, 256),
            ("requests.text_characters_max", raw.requests.text_characters_max as u64, 1, 1_000_000),
            ("images.bytes_max", raw.images.bytes_max as u64, 100, 1 << 30),
            ("images.pixels_max", raw.images.pixels_max, 1, 1 << 32),
            ("pipeline.decode_threads", raw.pipeline.decode_threads as u64, 1, 256),
            ("pipeline.records_in_flight_max", raw.pipeline.records_in_flight_max as u64, 1, 1_000_000),
            ("pipeline.bytes_in_flight_max", raw.pipeline.bytes_in_flight_max as u64, 1 << 16, 1 << 40),
            ("pipeline.drain_timeout_ms", raw.pipeline.drain_timeout_ms, 0, 600_000),
            ("devices.cpu.threads", raw.devices.cpu.threads as u64, 0, 1_024),
            ("devices.cpu.pass_tokens_max", raw.devices.cpu.pass_tokens_max as u64, 1, 1 << 40),
            ("devices.cpu.pass_bytes_max", raw.devices.cpu.pass_bytes_max, 1, 1 << 50),
            ("devices.gpu.pass_tokens_max", raw.devices.gpu.pass_tokens_max as u64, 1, 1 << 40),
            ("devices.gpu.pass_bytes_max", raw.devices.gpu.pass_bytes_max, 1, 1 << 50),
            ("telemetry.text_preview_characters", raw.telemetry.text_preview_characters as u64, 0, 10_000),
        ];
        for (field, value, low, high) in bounds {
            if !(low..=high).contains(&value) {
                return Err(source.field(field, format!("is {value}, it must lie between {low} and {high}")));
            }
        }
        for (field, value) in [
            ("decision.approve_confidence", raw.decision.approve_confidence),
            ("decision.reject_confidence", raw.decision.reject_confidence),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return Err(source.field(field, format!("is {value}, it must lie between 0 and 1")));
            }
        }
        let versions = versions::plans(source, &raw)?;
        let devices = versions::devices(&raw.devices);
        let spec = TableSpec {
            versions: versions.keys().cloned().collect(),
            default: raw.model_versions.default.clone(),
            allow_forced: raw.model_versions.allow_forced,
            rules: raw.routing_rules.clone(),
            experiments: raw.experiments.clone(),
        };
        let table = Table::new(&spec).map_err(|error| source.table(error))?;
        Ok(Self {
            kafka: kafka(source, raw.kafka)?,
            versions,
            devices,
            table,
            limits: limits(source, raw.requests, raw.images)?,
            thresholds: Thresholds {
                approve_confidence: raw.decision.approve_confidence,
                reject_confidence: raw.decision.reject_confidence,
            },
            pipeline: PipelinePlan {
                decode_threads: raw.pipeline.decode_threads,
                records_in_flight_max: raw.pipeline.records_in_flight_max,
                bytes_in_flight_max: raw.pipeline.bytes_in_flight_max,
                drain_timeout: Duration::from_millis(raw.pipeline.drain_timeout_ms),
            },
            telemetry: telemetry(source, raw.telemetry)?,
        })
    }
}

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

fn kafka(source: &Source, raw: raw::Kafka) -> Result<KafkaPlan, SettingsError> {
    let Delivery::AtLeastOnce = raw.delivery;
    let names = [
        ("kafka.bootstrap_servers", &raw.bootstrap_servers),
        ("kafka.group_id", &raw.group_id),
        ("kafka.requests", &raw.requests),
        ("kafka.verdicts", &raw.verdicts),
        ("kafka.dead_letters", &raw.dead_letters),
        ("kafka.shadows", &raw.shadows),
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
        embedded_partitions: raw.embedded_partitions,
        record_bytes_max: raw.record_bytes_max,
        prefetch_bytes: raw.prefetch_bytes,
        commit_interval: Duration::from_millis(raw.commit_interval_ms),
        publish_timeout: Duration::from_millis(raw.publish_timeout_ms),
        options,
    })
}

fn limits(source: &Source, requests: raw::Requests, images: raw::Images) -> Result<LimitsPlan, SettingsError> {
    let path_root = match images.path_root {
        None => None,
        Some(root) => {
            let canonical = Path::new(&root).canonicalize();
            Some(canonical.map_err(|error| source.field("images.path_root", format!("{root}: {error}")))?)
        }
    };
    Ok(LimitsPlan {
        texts_max: requests.texts_max,
        text_characters_max: requests.text_characters_max,
        image_bytes_max: images.bytes_max,
        image_pixels_max: images.pixels_max,
        path_root,
    })
}

fn telemetry(source: &Source, raw: raw::Telemetry) -> Result<TelemetryPlan, SettingsError> {
    let listen = match raw.listen.as_str() {
        "off" => None,
        address => Some(address.parse().map_err(|_| {
            source.field("telemetry.listen", format!("`{address}` is no address: write `127.0.0.1:9464`, or `off`"))
        })?),
    };
    Ok(TelemetryPlan {
        listen,
        log_format: raw.log_format,
        log_level: raw.log_level,
        text_preview_characters: raw.text_preview_characters,
    })
}

#[cfg(test)]
mod tests;
