//! Answers to commands, and the state of an instance, as the admin API shows them.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Change, InstanceStatus,
    machine::{Machine, Sync},
    planner::SettingsPlanner,
};
use crate::{
    engine::Version,
    pipeline::Switcher,
    routing::{ExperimentSpec, Overrides, TableSpec, VariantSpec},
};

/// What a command did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The change is in force.
    Switched,
    /// The change is accepted, and the same is served as before.
    #[default]
    Unchanged,
    /// A rollback cancelled a command that was not in force yet. Nothing else is undone.
    Cancelled,
    /// A command with this id was carried out before; nothing is done again.
    Repeated,
    /// A dry run: everything works, and nothing changed.
    Tried,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Applied {
    /// The id of the change. A retry with it is not carried out twice.
    #[serde(default)]
    pub id: String,
    /// The revision that is in force now.
    pub revision: u64,
    /// Identifies what is in force now, for `If-Match`.
    #[serde(default)]
    pub etag: String,
    /// What the command did.
    #[serde(default)]
    pub outcome: Outcome,
    /// What a rollback changed, or which command it cancelled, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undone: Option<String>,
    /// SHA-256 of the configuration that decides on requests now. Verdicts carry it.
    pub config_digest: String,
    /// The digest before.
    pub previous_digest: String,
    /// True if something is served differently: other settings, or newly loaded versions.
    pub changed: bool,
    /// From the command to the switch on this instance, in milliseconds.
    pub took_ms: f64,
    /// True if nothing was to be changed.
    pub dry_run: bool,
    /// What works, and may not be what you meant.
    pub warnings: Vec<String>,
    /// The instances of the group, and whether they serve the change. Empty without a control topic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<InstanceStatus>,
}

/// The settings in force on one instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigInForce {
    /// Identifies what is in force here, for `If-Match`.
    pub etag: String,
    /// SHA-256 of the configuration that serves.
    pub config_digest: String,
    /// Why it is not the one below, if so: this instance is behind.
    pub behind: Option<String>,
    /// `file` or `applied`.
    pub source: String,
    /// The settings that the group wants, without local sections.
    pub text: String,
    /// Changes of operators on top of them.
    #[schemars(with = "serde_json::Value")]
    pub overrides: Overrides,
}

/// What is in force on one instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// The instance.
    pub instance: String,
    /// The revision of the group that this instance knows.
    pub revision: u64,
    /// Identifies what is in force here, for `If-Match`: the last change and the settings file.
    #[serde(default)]
    pub etag: String,
    /// SHA-256 of the configuration that decides on requests. Verdicts carry it.
    pub config_digest: String,
    /// `file` where the settings file is in force, `applied` where other settings are.
    pub source: String,
    /// `in_sync`, `applying` while a change is being prepared, or `out_of_sync`.
    #[serde(default)]
    pub sync: String,
    /// Why this instance does not serve what the group has accepted, if so.
    pub behind: Option<String>,
    /// Why the settings file on disk is not in force, where it was refused.
    pub file_refused: Option<String>,
    /// True if the settings file is not followed and says something else than the settings in force.
    #[serde(default)]
    pub file_differs: bool,
    /// The last change, in words.
    pub last_change: Option<String>,
    /// What a rollback would change, in words.
    #[serde(default)]
    pub rollback_changes: Option<String>,
    /// How many changes can be rolled back.
    pub history: usize,
    /// The format in which records of the control topic are written.
    #[serde(default)]
    pub record_format: u64,
    /// Overrides that differ from settings.
    pub warnings: Vec<String>,
    /// The version that answers when nothing else decides.
    pub default: String,
    /// The experiments, in order of trial.
    pub experiments: Vec<ExperimentReport>,
    /// The versions that run. There may be several with one name, where one is being loaded or kept warm.
    pub versions: Vec<VersionReport>,
    /// The routing table: settings with overrides, as `explain --live` takes it.
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

/// The settings in force.
pub(super) fn config_in_force(machine: &Machine<SettingsPlanner>) -> ConfigInForce {
    let memory = machine.memory();
    let desired = memory.desired();
    ConfigInForce {
        etag: machine.etag(),
        config_digest: machine.serving().plan.config_digest.clone(),
        behind: sync_in_words(machine.sync()).1,
        source: if desired.config.is_some() { "applied" } else { "file" }.to_owned(),
        text: desired.config.unwrap_or_else(|| memory.file.followed.clone()),
        overrides: desired.overrides,
    }
}

/// The status that other instances see.
pub(super) fn status(machine: &Machine<SettingsPlanner>) -> InstanceStatus {
    let (sync, behind) = sync_in_words(machine.sync());
    InstanceStatus {
        instance: machine.instance().to_owned(),
        revision: machine.memory().revision(),
        config_digest: machine.serving().plan.config_digest.clone(),
        sync: sync.to_owned(),
        behind: behind.filter(|_| sync == "out_of_sync"),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        silent: false,
    }
}

fn sync_in_words(sync: &Sync) -> (&'static str, Option<String>) {
    match sync {
        Sync::InSync => ("in_sync", None),
        Sync::Applying => ("applying", Some("the last change of the group is being prepared".to_owned())),
        Sync::OutOfSync(reason) => ("out_of_sync", Some(reason.clone())),
    }
}

/// The report of an instance.
pub(super) fn of(machine: &Machine<SettingsPlanner>, switcher: &Switcher) -> Report {
    let memory = machine.memory();
    let plan = &machine.serving().plan;
    let (sync, behind) = sync_in_words(machine.sync());
    let follows_file = memory.follows_file();
    Report {
        instance: machine.instance().to_owned(),
        revision: memory.revision(),
        etag: machine.etag(),
        config_digest: plan.config_digest.clone(),
        source: if follows_file { "file" } else { "applied" }.to_owned(),
        sync: sync.to_owned(),
        behind,
        file_refused: machine.rejected_file().map(|file| file.reason.clone()),
        file_differs: memory.file_differs(),
        last_change: memory.accepted.change.as_ref().map(in_words),
        rollback_changes: machine.rollback_target().map(|target| target.undoes),
        history: memory.accepted.history.len() + memory.undo.len(),
        record_format: memory.record_format.into(),
        warnings: machine.masked(),
        default: plan.table_spec.default.clone(),
        experiments: plan.table_spec.experiments.iter().map(experiment).collect(),
        versions: switcher.running().iter().map(version).collect(),
        table: Some(plan.table_spec.clone()),
    }
}

fn in_words(change: &Change) -> String {
    let by = if change.by.is_empty() { "an unnamed caller" } else { &change.by };
    format!("{} by {by} at {}", change.action.in_words(), change.at)
}

fn version((version, named): &(Arc<Version>, bool)) -> VersionReport {
    let identity = version.identity();
    VersionReport {
        name: identity.name.clone(),
        state: version.state().as_str().to_owned(),
        device: identity.device.to_string(),
        precision: identity.precision.to_string(),
        digest: identity.digest.clone(),
        named: *named,
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
