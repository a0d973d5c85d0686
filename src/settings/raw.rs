//! The settings as they are written. Every key and its default is explained in `pipeline.toml`,
//! which a test compares with these.

mod evidence;
mod operators;

use std::collections::BTreeMap;

use serde::Deserialize;

pub(super) use evidence::{Evidence, Review};
pub(super) use operators::{Admin, Control, Person};

use super::written::{Delivery, EmptyText, GroupProtocol, Tombstones, Truncated};
use crate::{
    message::{Device, Load},
    routing::{ExperimentSpec, HoldoutSpec, RuleSpec},
    weights::Arithmetic,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    #[serde(default)]
    pub(super) kafka: Kafka,
    pub(super) model_versions: ModelVersions,
    #[serde(default)]
    pub(super) devices: Devices,
    #[serde(default)]
    pub(super) routing_rules: Vec<RuleSpec>,
    #[serde(default)]
    pub(super) holdouts: Vec<HoldoutSpec>,
    #[serde(default)]
    pub(super) experiments: Vec<ExperimentSpec>,
    #[serde(default)]
    pub(super) requests: Requests,
    #[serde(default)]
    pub(super) images: Images,
    #[serde(default)]
    pub(super) decision: Decision,
    #[serde(default)]
    pub(super) pipeline: Pipeline,
    #[serde(default)]
    pub(super) telemetry: Telemetry,
    #[serde(default)]
    pub(super) breaker: Breaker,
    #[serde(default)]
    pub(super) control: Control,
    #[serde(default)]
    pub(super) admin: Admin,
    #[serde(default)]
    pub(super) evidence: Evidence,
    #[serde(default)]
    pub(super) review: Review,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Kafka {
    pub(super) bootstrap_servers: String,
    pub(super) group_id: String,
    pub(super) instance_id: Option<String>,
    pub(super) group_protocol: GroupProtocol,
    pub(super) requests: String,
    pub(super) verdicts: String,
    pub(super) dead_letters: String,
    pub(super) shadows: String,
    pub(super) control: String,
    pub(super) reviews: String,
    pub(super) evidence: String,
    pub(super) retries: Vec<Retry>,
    pub(super) tombstones: Tombstones,
    pub(super) delivery: Delivery,
    pub(super) embedded_partitions: i32,
    pub(super) record_bytes_max: usize,
    pub(super) prefetch_bytes: usize,
    pub(super) queue_bytes_max: usize,
    pub(super) commit_interval_ms: u64,
    pub(super) transaction_records_max: usize,
    pub(super) transaction_timeout_ms: u64,
    pub(super) publish_timeout_ms: u64,
    pub(super) rebalance_drain_ms: u64,
    pub(super) oauth_token_file: Option<String>,
    pub(super) secret_files: BTreeMap<String, String>,
    pub(super) options: BTreeMap<String, String>,
}

impl std::fmt::Debug for Kafka {
    /// Options may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kafka").field("bootstrap_servers", &self.bootstrap_servers).finish_non_exhaustive()
    }
}

impl Default for Kafka {
    fn default() -> Self {
        Self {
            bootstrap_servers: "embedded".to_owned(),
            group_id: "ofa-stream".to_owned(),
            instance_id: None,
            group_protocol: GroupProtocol::Classic,
            requests: "moderation.requests".to_owned(),
            verdicts: "moderation.verdicts".to_owned(),
            dead_letters: "moderation.dead-letters".to_owned(),
            shadows: "moderation.shadows".to_owned(),
            control: "moderation.control".to_owned(),
            reviews: "moderation.reviews".to_owned(),
            evidence: "moderation.evidence".to_owned(),
            retries: Vec::new(),
            tombstones: Tombstones::Forward,
            delivery: Delivery::ExactlyOnce,
            embedded_partitions: 4,
            record_bytes_max: 16 << 20,
            prefetch_bytes: 8 << 20,
            queue_bytes_max: 64 << 20,
            commit_interval_ms: 100,
            transaction_records_max: 1_000,
            transaction_timeout_ms: 60_000,
            publish_timeout_ms: 45_000,
            rebalance_drain_ms: 10_000,
            oauth_token_file: None,
            secret_files: BTreeMap::new(),
            options: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Retry {
    pub(super) topic: String,
    pub(super) delay_ms: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelVersions {
    #[serde(default = "models")]
    pub(super) directory: String,
    pub(super) default: String,
    #[serde(default)]
    pub(super) allow_forced: bool,
    #[serde(default = "keep_warm_ms")]
    pub(super) keep_warm_ms: u64,
    pub(super) versions: BTreeMap<String, Version>,
}

fn keep_warm_ms() -> u64 {
    600_000
}

fn models() -> String {
    "models".to_owned()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Version {
    pub(super) folder: Option<String>,
    pub(super) model_id: Option<String>,
    pub(super) device: Device,
    pub(super) precision: Arithmetic,
    pub(super) load: Load,
    pub(super) threads: usize,
    pub(super) batch_size: usize,
    pub(super) max_delay_ms: u64,
    pub(super) pass_tokens_max: usize,
    pub(super) padding_max: f64,
    pub(super) queue_size: usize,
    pub(super) shadow_queue_size: usize,
    pub(super) position_cache_bytes: usize,
    pub(super) image_cache_bytes: usize,
    pub(super) answer_cache_bytes: usize,
    pub(super) warm_up_tokens: usize,
    pub(super) restarts_max: u32,
    pub(super) restart_delay_ms: u64,
}

impl Default for Version {
    fn default() -> Self {
        Self {
            folder: None,
            model_id: None,
            device: Device::Flex,
            precision: Arithmetic::F32,
            load: Load::Start,
            threads: 0,
            batch_size: 4,
            max_delay_ms: 0,
            pass_tokens_max: 16_384,
            padding_max: 0.25,
            queue_size: 64,
            shadow_queue_size: 64,
            position_cache_bytes: 256 << 20,
            image_cache_bytes: 0,
            answer_cache_bytes: 4 << 20,
            warm_up_tokens: 64,
            restarts_max: 5,
            restart_delay_ms: 1_000,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Devices {
    pub(super) cpu: Cpu,
    pub(super) gpu: Gpu,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Cpu {
    pub(super) threads: usize,
    pub(super) pass_tokens_max: usize,
    pub(super) pass_bytes_max: u64,
}

impl Default for Cpu {
    fn default() -> Self {
        Self { threads: 0, pass_tokens_max: 65_536, pass_bytes_max: 2 << 30 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Gpu {
    pub(super) pass_tokens_max: usize,
    pub(super) pass_bytes_max: u64,
}

impl Default for Gpu {
    fn default() -> Self {
        Self { pass_tokens_max: 131_072, pass_bytes_max: 16 << 30 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Requests {
    pub(super) texts_max: usize,
    pub(super) text_characters_max: usize,
    pub(super) attributes_max: usize,
    pub(super) attribute_bytes_max: usize,
    pub(super) nesting_max: usize,
    pub(super) headers_max: usize,
    pub(super) truncated: Truncated,
    pub(super) empty_text: EmptyText,
    pub(super) foreign_share_max: f64,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            texts_max: 8,
            text_characters_max: 2_000,
            attributes_max: 64,
            attribute_bytes_max: 1_024,
            nesting_max: 32,
            headers_max: 64,
            truncated: Truncated::Review,
            empty_text: EmptyText::Refuse,
            foreign_share_max: 0.2,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Images {
    pub(super) bytes_max: usize,
    pub(super) pixels_max: u64,
    pub(super) decode_bytes_max: u64,
    pub(super) path_root: Option<String>,
    pub(super) read_timeout_ms: u64,
    pub(super) read_threads_max: usize,
    pub(super) fetch: Fetch,
}

impl Default for Images {
    fn default() -> Self {
        Self {
            bytes_max: 10 << 20,
            pixels_max: 40_000_000,
            decode_bytes_max: 512 << 20,
            path_root: None,
            read_timeout_ms: 10_000,
            read_threads_max: 16,
            fetch: Fetch::default(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Fetch {
    pub(super) hosts: Vec<String>,
    pub(super) schemes: Vec<String>,
    pub(super) ports: Vec<u16>,
    pub(super) networks: Vec<String>,
    pub(super) redirects_max: u32,
    pub(super) timeout_ms: u64,
    pub(super) concurrent_max: usize,
}

impl Default for Fetch {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            schemes: vec!["https".to_owned()],
            ports: Vec::new(),
            networks: Vec::new(),
            redirects_max: 0,
            timeout_ms: 5_000,
            concurrent_max: 16,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Decision {
    pub(super) approve_confidence: f32,
    pub(super) reject_confidence: f32,
    pub(super) versions: BTreeMap<String, VersionDecision>,
}

impl Default for Decision {
    fn default() -> Self {
        Self { approve_confidence: 0.8, reject_confidence: 0.8, versions: BTreeMap::new() }
    }
}

/// Thresholds of one version, where they differ from the others'.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct VersionDecision {
    pub(super) approve_confidence: Option<f32>,
    pub(super) reject_confidence: Option<f32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Pipeline {
    pub(super) decode_threads: usize,
    pub(super) records_in_flight_max: usize,
    pub(super) bytes_in_flight_max: usize,
    pub(super) prepared_bytes_max: u64,
    pub(super) drain_timeout_ms: u64,
    pub(super) stalled_after_ms: u64,
    pub(super) dead_after_ms: u64,
}

impl Default for Pipeline {
    fn default() -> Self {
        Self {
            decode_threads: 2,
            records_in_flight_max: 1_024,
            bytes_in_flight_max: 64 << 20,
            prepared_bytes_max: 256 << 20,
            drain_timeout_ms: 20_000,
            stalled_after_ms: 60_000,
            dead_after_ms: 600_000,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Telemetry {
    pub(super) listen: String,
    pub(super) log_format: super::LogFormat,
    pub(super) log_level: String,
    pub(super) log_lines_max: usize,
    pub(super) verdict_log_share: f64,
    pub(super) connections_max: usize,
    pub(super) connection_timeout_ms: u64,
    pub(super) text_preview_characters: usize,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9464".to_owned(),
            log_format: super::LogFormat::Human,
            log_level: "info".to_owned(),
            log_lines_max: 10_000,
            verdict_log_share: 1.0,
            connections_max: 64,
            connection_timeout_ms: 10_000,
            text_preview_characters: 80,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Breaker {
    pub(super) window: usize,
    pub(super) share_max: f64,
    pub(super) run_max: usize,
    pub(super) pause_ms: u64,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { window: 200, share_max: 0.5, run_max: 100, pause_ms: 60_000 }
    }
}
