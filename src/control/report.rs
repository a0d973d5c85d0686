//! What the program says about its configuration.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    engine::Version,
    pipeline::Serving,
    routing::{ExperimentSpec, TableSpec, VariantSpec},
};

/// What a change came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Applied {
    /// The number of the change; for a dry run, of the one before it.
    pub revision: u64,
    /// SHA-256 of what decides on requests now: verdicts carry it.
    pub config_digest: String,
    /// What decided before.
    pub previous_digest: String,
    /// Whether anything is served otherwise than before: by other settings, or by versions that were loaded for it.
    pub changed: bool,
    /// From the command to the switch on this instance, in milliseconds.
    pub took_ms: f64,
    /// Whether it was only tried.
    pub dry_run: bool,
    /// What works, and may not be what was meant.
    pub warnings: Vec<String>,
}

/// What is in force on one instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// The instance.
    pub instance: String,
    /// Counts changes of the group.
    pub revision: u64,
    /// SHA-256 of what decides on requests: verdicts carry it.
    pub config_digest: String,
    /// `file` where the settings file is in force, `applied` where other settings are.
    pub source: String,
    /// Why this instance does not serve by what the group has, if so.
    pub behind: Option<String>,
    /// Why the settings file on disk is not in force, where it was refused.
    pub file_refused: Option<String>,
    /// The last change, in words.
    pub last_change: Option<String>,
    /// How many changes can be rolled back.
    pub history: usize,
    /// Operators' changes that settings say otherwise.
    pub warnings: Vec<String>,
    /// The version that answers when nothing else decides.
    pub default: String,
    /// The experiments, in order of trial.
    pub experiments: Vec<ExperimentReport>,
    /// The versions that run; of one name there may be several, where one is being loaded or kept warm.
    pub versions: Vec<VersionReport>,
    /// What routes: settings with operators' changes, as `explain --live` takes it.
    #[schemars(with = "serde_json::Value")]
    pub table: Option<TableSpec>,
}

/// An experiment in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExperimentReport {
    /// Its name.
    pub name: String,
    /// `running`, `paused`, or `promoted` and the variant.
    pub position: String,
    /// The share of units it takes.
    pub traffic_ratio: f64,
    /// Its variants with their versions.
    pub variants: Vec<String>,
}

/// A version that runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VersionReport {
    /// Its name.
    pub name: String,
    /// `not_loaded`, `loading`, `ready`, `unhealthy` or `stopped`.
    pub state: String,
    /// Where it runs.
    pub device: String,
    /// What it computes in: `f32`, `f16` or `int8`.
    #[serde(default)]
    pub precision: String,
    /// SHA-256 over its files.
    pub digest: String,
    /// Whether the configuration in force names it; it is kept warm for a while otherwise.
    pub named: bool,
}

/// A report, with what serves and what runs.
pub(super) fn of(serving: &Serving, versions: &[(Arc<Version>, bool)], report: Report) -> Report {
    let plan = &serving.plan;
    let version = |(version, named): &(Arc<Version>, bool)| {
        let identity = version.identity();
        VersionReport {
            name: identity.name.clone(),
            state: version.state().as_str().to_owned(),
            device: identity.device.to_string(),
            precision: identity.precision.to_string(),
            digest: identity.digest.clone(),
            named: *named,
        }
    };
    Report {
        config_digest: plan.config_digest.clone(),
        default: plan.table_spec.default.clone(),
        experiments: plan.table_spec.experiments.iter().map(experiment).collect(),
        versions: versions.iter().map(version).collect(),
        table: Some(plan.table_spec.clone()),
        ..report
    }
}

fn experiment(spec: &ExperimentSpec) -> ExperimentReport {
    let position = match (&spec.promoted, spec.paused) {
        (_, true) => "paused".to_owned(),
        (Some(variant), false) => format!("promoted {variant}"),
        (None, false) => "running".to_owned(),
    };
    let variant = |VariantSpec { name, model_version, .. }: &VariantSpec| format!("{name}: {model_version}");
    ExperimentReport {
        name: spec.name.clone(),
        position,
        traffic_ratio: spec.traffic_ratio,
        variants: spec.variants.iter().map(variant).collect(),
    }
}
