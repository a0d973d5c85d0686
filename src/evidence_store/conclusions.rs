//! What guards and ramps conclude, as reports show it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::evidence::Judgement;

/// What a guard concludes about one treatment of an experiment, and what it does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GuardReport {
    /// The experiment.
    pub experiment: String,
    /// Its epoch.
    pub epoch: u32,
    /// The digest of its definition.
    pub definition: String,
    /// Whether it takes no requests now.
    pub paused: bool,
    /// What the guard concludes.
    #[serde(flatten)]
    pub judgement: Judgement,
    /// What it does about harm: `pause`, `warn`, or `dry_run`.
    pub action: String,
    /// Whether this instance has paused the experiment in this definition, or found that another
    /// one has.
    pub acted: bool,
}

/// How far the ramp of an experiment is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RampReport {
    /// The experiment.
    pub experiment: String,
    /// Its epoch.
    pub epoch: u32,
    /// The digest of its definition.
    pub definition: String,
    /// The share of units that it takes now.
    pub traffic_ratio: f64,
    /// The next share; none at the end of the ramp.
    pub next: Option<f64>,
    /// What the next step waits for; none where it is due.
    pub waits_for: Option<String>,
}

/// What guards and ramps conclude.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Conclusions {
    pub(super) guards: Vec<GuardReport>,
    pub(super) ramps: Vec<RampReport>,
}
