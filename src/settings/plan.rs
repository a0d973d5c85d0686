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
    raw::{self, Delivery, Raw},
};
use crate::{
    message::{Decision, Device, Label, Load, VersionName},
    routing::{Table, TableSpec},
    weights::Precision,
};

/// Validated settings.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Topics and cluster.
    pub kafka: KafkaPlan,
    /// Versions by name.
    pub versions: BTreeMap<String, VersionPlan>,
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

/// One version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionPlan {
    /// Its folder.
    pub folder: PathBuf,
    /// Where it was published, for people.
    pub model_id: Option<String>,
    /// Where it runs.
    pub device: Device,
    /// What it runs in.
    pub precision: Precision,
    /// When it is loaded.
    pub load: Load,
    /// Requests in one forward pass, at most.
    pub batch_size: usize,
    /// Requests that may wait.
    pub queue_size: usize,
    /// Bound of the position biases kept per shape, in bytes.
    pub position_cache_bytes: usize,
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

/// Texts in one forward pass; each costs memory on the device.
const ROWS_MAX: usize = 1_024;

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
        let versions = versions(source, &raw)?;
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
    if raw.verdicts == raw.dead_letters {
        return Err(source.field("kafka.dead_letters", "must differ from `kafka.verdicts`"));
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
        embedded_partitions: raw.embedded_partitions,
        record_bytes_max: raw.record_bytes_max,
        prefetch_bytes: raw.prefetch_bytes,
        commit_interval: Duration::from_millis(raw.commit_interval_ms),
        publish_timeout: Duration::from_millis(raw.publish_timeout_ms),
        options,
    })
}

fn versions(source: &Source, raw: &Raw) -> Result<BTreeMap<String, VersionPlan>, SettingsError> {
    let directory = Path::new(&raw.model_versions.directory);
    let mut plans = BTreeMap::new();
    for (name, version) in &raw.model_versions.versions {
        let place = |field: &str| format!("model_versions.versions.{name}{field}");
        if let Err(error) = name.parse::<VersionName>() {
            return Err(source.field(&place(""), error.to_string()));
        }
        for (field, value, high) in
            [(".batch_size", version.batch_size, 1024), (".queue_size", version.queue_size, 1_000_000)]
        {
            if !(1..=high).contains(&value) {
                return Err(source.field(&place(field), format!("is {value}, it must lie between 1 and {high}")));
            }
        }
        let rows = version.batch_size * raw.requests.texts_max;
        if rows > ROWS_MAX {
            let reason = format!(
                "times `requests.texts_max` allows {rows} texts in one forward pass, at most {ROWS_MAX} may be"
            );
            return Err(source.field(&place(".batch_size"), reason));
        }
        let plan = VersionPlan {
            folder: directory.join(name),
            model_id: version.model_id.clone(),
            device: version.device,
            precision: version.precision,
            load: version.load,
            batch_size: version.batch_size,
            queue_size: version.queue_size,
            position_cache_bytes: version.position_cache_bytes,
        };
        plans.insert(name.clone(), plan);
    }
    Ok(plans)
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
