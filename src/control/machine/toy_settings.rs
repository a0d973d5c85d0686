//! Settings of a few lines, and a planner for them, for tests of the machine.

use std::sync::Arc;

use super::{ControlError, Planner, Snapshot};
use crate::routing::TableSpec;

/// Settings that the planner below reads: `versions = [..]`, `default = ".."`, and `[kafka]`.
pub(super) fn settings(default: &str, comment: &str) -> String {
    format!("# {comment}\ndefault = \"{default}\"\nversions = [\"a\", \"b\", \"large\"]\n")
}

/// A checked toy configuration.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ToyPlan {
    pub(super) digest: String,
    pub(super) table: TableSpec,
    /// What the folders of versions held when it was loaded.
    pub(super) weights: u64,
}

pub(super) struct ToyPlanner;

impl ToyPlanner {
    fn table_of(text: &str) -> Result<TableSpec, String> {
        let table: toml::Table = text.parse().map_err(|_| "it is not TOML".to_owned())?;
        let default = table.get("default").and_then(toml::Value::as_str).ok_or("there is no default")?;
        let versions = table.get("versions").and_then(toml::Value::as_array).ok_or("there are no versions")?;
        let versions: Vec<&str> = versions.iter().filter_map(toml::Value::as_str).collect();
        let experiment = |number: usize| {
            serde_json::json!({"name": format!("e{number}"), "traffic_ratio": 0.5, "variants": [
                {"name": "control", "model_version": "a", "weight": 1},
                {"name": "treatment", "model_version": "b", "weight": 1}]})
        };
        let experiments: Vec<_> = (0..8).map(experiment).collect();
        let spec = serde_json::json!({"versions": versions, "default": default, "allow_forced": false,
            "rules": [], "experiments": experiments});
        serde_json::from_value(spec).map_err(|error| error.to_string())
    }
}

impl Planner for ToyPlanner {
    type Plan = ToyPlan;
    type Prepared = Arc<ToyPlan>;

    fn plan(&self, snapshot: &Snapshot, file: &str) -> Result<ToyPlan, ControlError> {
        let text = snapshot.config.as_deref().unwrap_or(file);
        let unreadable = |reason: String| ControlError::Unreadable { place: "settings".to_owned(), reason };
        let table = Self::table_of(text).map_err(unreadable)?.with(&snapshot.overrides);
        if !table.versions.contains(&table.default) {
            return Err(unreadable(format!("there is no version `{}`", table.default)));
        }
        // Comments do not count, as in the digest of real settings.
        let paused = table.experiments.iter().filter(|spec| spec.paused).map(|spec| spec.name.as_str());
        let digest = format!("{} paused {:?}", table.default, paused.collect::<Vec<_>>());
        Ok(ToyPlan { digest, table, weights: 0 })
    }

    fn table(&self, plan: &ToyPlan) -> TableSpec {
        plan.table.clone()
    }

    fn check_applied(&self, text: &str) -> Result<Vec<String>, ControlError> {
        self.plan(&Snapshot::default(), text).map(|_| Vec::new())
    }

    fn digest(&self, prepared: &Arc<ToyPlan>) -> String {
        prepared.digest.clone()
    }

    fn is_same(&self, one: &Arc<ToyPlan>, other: &Arc<ToyPlan>) -> bool {
        one == other
    }

    fn missing(&self, _: &Arc<ToyPlan>, _: &Arc<ToyPlan>) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn redefined(&self, before: &Arc<ToyPlan>, after: &Arc<ToyPlan>) -> Vec<String> {
        after.table.redefined_since(&before.table)
    }
}
