//! What the program runs on, checked as a whole.

use std::{borrow::Cow, collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{
    bounds,
    control::{self, AdminPlan, ControlPlan},
    evidence::{self, EvidencePlan},
    kafka::{self, KafkaPlan},
    load::{SettingsError, Source},
    raw::{self, Raw},
    requests::{self, LimitsPlan},
    versions::{self, DevicesPlan, VersionPlan},
};
use crate::{
    fetch::FetchOptions,
    message::{Decision, Label, RequestBounds},
    routing::{ExperimentSpec, Overrides, Table, TableSpec},
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
    /// How long a version is kept that no route names any more.
    pub keep_warm: Duration,
    /// Rules, experiments and default.
    pub table: Table,
    /// What the table was made from: settings, and what operators changed.
    pub table_spec: TableSpec,
    /// SHA-256 of what decides on a request beside the files of its version: routing, thresholds, which folder each version is and
    /// what it runs in, and what a request may hold. `sha256:` and 64 digits.
    pub config_digest: String,
    /// What a request may hold.
    pub limits: LimitsPlan,
    /// From scores to decisions.
    pub thresholds: Thresholds,
    /// Thresholds of versions that have their own.
    pub version_thresholds: Arc<BTreeMap<String, Thresholds>>,
    /// Threads, queues and waits.
    pub pipeline: PipelinePlan,
    /// How much may fail before reading stops.
    pub breaker: BreakerPlan,
    /// Metrics and logs.
    pub telemetry: TelemetryPlan,
    /// What operators change while the program runs.
    pub control: ControlPlan,
    /// The admin API.
    pub admin: AdminPlan,
    /// What verdicts say for evidence, and how evidence is kept.
    pub evidence: EvidencePlan,
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
    /// Bytes of prepared pictures that wait for versions.
    pub prepared_bytes_max: u64,
    /// How long a stop waits for them.
    pub drain_timeout: Duration,
    /// How long a record or a stage may stand still before the instance says that it is not ready.
    pub stalled_after: Duration,
    /// How long before it says that it is not alive, so that a supervisor starts it again.
    pub dead_after: Duration,
}

/// How much may fail before reading stops.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerPlan {
    /// Outcomes that are looked back at.
    pub window: usize,
    /// Share of dead letters among them that is still allowed.
    pub share_max: f64,
    /// Dead letters in a row that are too many.
    pub run_max: usize,
    /// How long reading stops; none until an operator changes something.
    pub pause: Option<Duration>,
}

/// Metrics and logs.
#[derive(Clone, Debug, PartialEq)]
pub struct TelemetryPlan {
    /// Where metrics and health are served; none serves nothing.
    pub listen: Option<SocketAddr>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines there are, in the notation of `RUST_LOG`.
    pub log_level: String,
    /// Log lines that may wait for a slow reader of stderr; more are dropped and counted.
    pub log_lines_max: usize,
    /// The share of verdicts that have a log line, 0 to 1.
    pub verdict_log_share: f64,
    /// Connections to each of the two HTTP servers.
    pub connections_max: usize,
    /// How long a connection may take for a request, or idle.
    pub connection_timeout: Duration,
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

impl Plan {
    /// Reads and checks a settings file and the environment.
    ///
    /// # Errors
    /// The first setting that cannot work, with its line.
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        let source = Source::read(path)?;
        Self::from_raw(&source, source.parse()?, &Overrides::default(), None)
    }

    /// Checks the text of a settings file, with the environment and what operators changed on top. `path` is what
    /// errors call it.
    ///
    /// # Errors
    /// The first setting that cannot work, with its line.
    pub fn from_text(path: &Path, text: String, overrides: &Overrides) -> Result<Self, SettingsError> {
        Self::from_text_while(path, text, overrides, None)
    }

    /// As [`Plan::from_text`], while the program runs by `running`, where it does: secrets that were read at the start are not read
    /// again, nor is looked for folders. A file that was rotated, or a share that is away, must not stand in the way of a
    /// rollback.
    ///
    /// # Errors
    /// The first setting that cannot work, with its line.
    pub fn from_text_while(
        path: &Path,
        text: String,
        overrides: &Overrides,
        running: Option<&Self>,
    ) -> Result<Self, SettingsError> {
        let source = Source::new(path, text);
        Self::from_raw(&source, source.parse()?, overrides, running)
    }

    /// As [`Plan::from_text_while`], for settings that another instance of the group serves by: what cannot change while the
    /// program runs comes from `own`, the text of this instance's own settings file.
    ///
    /// # Errors
    /// The first setting that cannot work.
    pub fn from_shared(
        path: &Path,
        text: String,
        own: String,
        overrides: &Overrides,
        running: Option<&Self>,
    ) -> Result<Self, SettingsError> {
        let (source, own) = (Source::new(path, text), Source::new(path, own).parse()?);
        let mut raw: Raw = source.parse()?;
        let Raw { kafka, pipeline, breaker, control, admin, telemetry, evidence, .. } = own;
        let text_preview_characters = raw.telemetry.text_preview_characters;
        raw.telemetry = raw::Telemetry { text_preview_characters, ..telemetry };
        (raw.kafka, raw.pipeline, raw.breaker) = (kafka, pipeline, breaker);
        (raw.control, raw.admin) = (control, admin);
        let raw::Evidence { segments, unit_values, .. } = raw.evidence;
        raw.evidence = raw::Evidence { segments, unit_values, ..evidence };
        Self::from_raw(&source, raw, overrides, running)
    }

    /// The version that answers when nothing else decides.
    pub fn default_version(&self) -> &str {
        self.table.default_version()
    }

    /// The sections in which other settings differ and that cannot change while the program runs.
    pub fn fixed_differences(&self, other: &Self) -> Vec<&'static str> {
        let shown = |plan: &Self| (plan.telemetry.listen, plan.telemetry.log_format, plan.telemetry.log_level.clone());
        let sections = [
            ("kafka", self.kafka == other.kafka),
            ("pipeline", self.pipeline == other.pipeline),
            ("breaker", self.breaker == other.breaker),
            ("telemetry", shown(self) == shown(other)),
            ("control", self.control == other.control),
            ("admin", self.admin == other.admin),
            ("evidence", self.evidence.store == other.evidence.store),
        ];
        sections.into_iter().filter(|(_, same)| !same).map(|(section, _)| section).collect()
    }

    fn from_raw(
        source: &Source,
        raw: Raw,
        overrides: &Overrides,
        running: Option<&Self>,
    ) -> Result<Self, SettingsError> {
        bounds::check(source, &raw)?;

        let versions = versions::plans(source, &raw)?;
        let devices = versions::devices(&raw.devices);
        let table_spec = TableSpec {
            versions: versions.keys().cloned().collect(),
            default: raw.model_versions.default.clone(),
            allow_forced: raw.model_versions.allow_forced,
            rules: raw.routing_rules.clone(),
            holdouts: raw.holdouts.clone(),
            experiments: raw.experiments.clone(),
        }
        .with(overrides);

        let table = Table::new(&table_spec).map_err(|error| source.table(error))?;
        let thresholds = Thresholds {
            approve_confidence: raw.decision.approve_confidence,
            reject_confidence: raw.decision.reject_confidence,
        };
        let version_thresholds = Arc::new(version_thresholds(source, &raw.decision, &versions)?);
        let limits = requests::limits(source, raw.requests, raw.images, running.is_some())?;

        Ok(Self {
            config_digest: digest(&table_spec, (thresholds, &version_thresholds), &versions, &limits),
            kafka: kafka::plan(source, raw.kafka, running.map(|running| &running.kafka))?,
            versions,
            devices,
            keep_warm: Duration::from_millis(raw.model_versions.keep_warm_ms),
            table,
            table_spec,
            limits,
            thresholds,
            version_thresholds,
            pipeline: PipelinePlan {
                decode_threads: raw.pipeline.decode_threads,
                records_in_flight_max: raw.pipeline.records_in_flight_max,
                bytes_in_flight_max: raw.pipeline.bytes_in_flight_max,
                prepared_bytes_max: raw.pipeline.prepared_bytes_max,
                drain_timeout: Duration::from_millis(raw.pipeline.drain_timeout_ms),
                stalled_after: Duration::from_millis(raw.pipeline.stalled_after_ms),
                dead_after: Duration::from_millis(raw.pipeline.dead_after_ms),
            },
            breaker: BreakerPlan {
                window: raw.breaker.window,
                share_max: raw.breaker.share_max,
                run_max: raw.breaker.run_max,
                pause: (raw.breaker.pause_ms > 0).then(|| Duration::from_millis(raw.breaker.pause_ms)),
            },
            telemetry: telemetry(source, raw.telemetry)?,
            control: control::plan(raw.control),
            admin: control::admin(source, raw.admin)?,
            evidence: evidence::plan(source, raw.evidence, &raw.review, running.map(|running| &running.evidence))?,
        })
    }
}

/// The thresholds of versions that have their own; what they leave out is the general one.
fn version_thresholds(
    source: &Source,
    decision: &raw::Decision,
    versions: &BTreeMap<String, VersionPlan>,
) -> Result<BTreeMap<String, Thresholds>, SettingsError> {
    let mut thresholds = BTreeMap::new();
    for (name, own) in &decision.versions {
        let place = format!("decision.versions.{name}");
        if !versions.contains_key(name) {
            let known: Vec<&str> = versions.keys().map(String::as_str).collect();
            let reason = format!("there is no version `{name}`: `model_versions.versions` has {}", known.join(", "));
            return Err(source.field(&place, reason));
        }
        let fields = [("approve_confidence", own.approve_confidence), ("reject_confidence", own.reject_confidence)];
        for (field, value) in fields {
            if let Some(value) = value.filter(|value| !(0.0..=1.0).contains(value)) {
                return Err(
                    source.field(&format!("{place}.{field}"), format!("is {value}, it must lie between 0 and 1"))
                );
            }
        }
        let own = Thresholds {
            approve_confidence: own.approve_confidence.unwrap_or(decision.approve_confidence),
            reject_confidence: own.reject_confidence.unwrap_or(decision.reject_confidence),
        };
        thresholds.insert(name.clone(), own);
    }
    Ok(thresholds)
}

/// Where a version runs, in how many threads and how it is batched does not decide on a request, and may differ between instances.
fn digest(
    table: &TableSpec,
    (thresholds, version_thresholds): (Thresholds, &BTreeMap<String, Thresholds>),
    versions: &BTreeMap<String, VersionPlan>,
    limits: &LimitsPlan,
) -> String {
    let Thresholds { approve_confidence, reject_confidence } = thresholds;
    let RequestBounds { texts_max, text_characters_max, attributes_max, attribute_bytes_max, nesting_max, headers_max } =
        limits.request;
    let FetchOptions { hosts, schemes, ports, networks, redirects_max, .. } = &limits.fetch;
    let judges: BTreeMap<&str, (Option<Cow<'_, str>>, &str)> = versions
        .iter()
        .map(|(name, version)| {
            let folder = version.folder.file_name().map(|folder| folder.to_string_lossy());
            (name.as_str(), (folder, version.precision.as_str()))
        })
        .collect();
    let requests = (texts_max, text_characters_max, attributes_max, attribute_bytes_max, nesting_max, headers_max);
    let texts = (format!("{:?} {:?}", limits.truncated, limits.empty_text), limits.foreign_share_max);
    let images = (limits.image_bytes_max, limits.image_pixels_max, limits.decode_bytes_max, limits.path_root.is_some());
    let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
    let limits = (requests, texts, images, (hosts, schemes, ports, networks, redirects_max));
    // Guards and ramps watch answers, and decide none.
    let mut table = table.clone();
    table.experiments.iter_mut().for_each(ExperimentSpec::remove_watchers);
    // Serializing plain data into memory cannot fail; the arm keeps the function total.
    let json = serde_json::to_vec(&(table, approve_confidence, reject_confidence, judges, limits)).unwrap_or_default();
    let mut digest = Sha256::new_with_prefix(&json);
    // Settings without them keep the digest that they had before such thresholds existed.
    for (version, thresholds) in version_thresholds {
        let Thresholds { approve_confidence, reject_confidence } = thresholds;
        digest.update(format!("{version}\0{approve_confidence}\0{reject_confidence}\0"));
    }
    format!("sha256:{}", hex::encode(digest.finalize()))
}

fn telemetry(source: &Source, raw: raw::Telemetry) -> Result<TelemetryPlan, SettingsError> {
    Ok(TelemetryPlan {
        listen: control::address(source, "telemetry.listen", &raw.listen)?,
        log_format: raw.log_format,
        log_level: raw.log_level,
        log_lines_max: raw.log_lines_max,
        verdict_log_share: raw.verdict_log_share,
        connections_max: raw.connections_max,
        connection_timeout: Duration::from_millis(raw.connection_timeout_ms),
        text_preview_characters: raw.text_preview_characters,
    })
}

#[cfg(test)]
mod tests;
