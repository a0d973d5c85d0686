//! Settings as the control machine needs them.

use std::{path::PathBuf, sync::Arc};

use super::{ControlError, Snapshot, machine::Planner, restore::plan_of};
use crate::{
    engine::Version,
    pipeline::{Serving, SwitchError},
    routing::{Overrides, TableSpec},
    settings::{Plan, environment_overrides},
};

/// Plans the settings of this instance.
pub(super) struct SettingsPlanner {
    /// The settings file.
    pub(super) path: PathBuf,
    /// Its text at the start: local sections cannot change while the program runs.
    pub(super) own_file: String,
    /// The plan at the start. Secrets and folders are not read again.
    pub(super) running: Plan,
    /// Reads settings of other kinds again from their sources, such as the demo's.
    pub(super) adapt: fn(Plan) -> Plan,
}

impl Planner for SettingsPlanner {
    type Plan = Plan;
    type Prepared = Arc<Serving>;

    fn plan(&self, snapshot: &Snapshot, file: &str) -> Result<Plan, ControlError> {
        let Snapshot { config, overrides, .. } = snapshot;
        let running = Some(&self.running);
        let plan = plan_of(config.as_ref(), overrides, &self.path, file, &self.own_file, running)?;
        Ok((self.adapt)(plan))
    }

    fn table(&self, plan: &Plan) -> TableSpec {
        plan.table_spec.clone()
    }

    fn check_applied(&self, text: &str) -> Result<Vec<String>, ControlError> {
        // As it was written, so that errors have its lines.
        let path = "the applied settings".as_ref();
        let written = Plan::from_text_while(path, text.to_owned(), &Overrides::default(), Some(&self.running))?;
        let fixed = self.running.fixed_differences(&(self.adapt)(written));
        if !fixed.is_empty() {
            return Err(SwitchError::Fixed(fixed).into());
        }
        let variables = environment_overrides();
        let warning = || {
            format!(
                "the environment of this instance goes before these settings, and other instances may have another \
                 one: {}",
                variables.join(", ")
            )
        };
        Ok(if variables.is_empty() { Vec::new() } else { vec![warning()] })
    }

    fn digest(&self, prepared: &Arc<Serving>) -> String {
        prepared.plan.config_digest.clone()
    }

    fn is_same(&self, one: &Arc<Serving>, other: &Arc<Serving>) -> bool {
        let same_version = |version: &Arc<Version>| {
            let found = other.fleet.version(&version.identity().name);
            found.is_some_and(|found| Arc::ptr_eq(found, version))
        };
        one.plan.config_digest == other.plan.config_digest
            && one.plan.versions == other.plan.versions
            && one.plan.devices == other.plan.devices
            && one.plan.limits == other.plan.limits
            && one.plan.keep_warm == other.plan.keep_warm
            && one.plan.table_spec == other.plan.table_spec
            && one.plan.evidence == other.plan.evidence
            && one.plan.telemetry == other.plan.telemetry
            && one.fleet.versions().all(same_version)
    }

    fn missing(&self, before: &Arc<Serving>, after: &Arc<Serving>) -> Vec<(&'static str, String)> {
        after.plan.table_spec.gone_since(&before.plan.table_spec)
    }

    fn redefined(&self, before: &Arc<Serving>, after: &Arc<Serving>) -> Vec<String> {
        after.plan.table_spec.redefined_since(&before.plan.table_spec)
    }
}
