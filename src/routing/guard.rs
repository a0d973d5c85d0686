//! Guards of experiments, as settings write them. `evidence` judges by them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::refused::{Refused, refused};

/// What a guard watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GuardMetric {
    /// Share of units whose answer is `no`.
    NoRate,
    /// Share of units whose request goes to a person.
    ReviewRate,
    /// Share of units whose request becomes a dead letter.
    DeadLetterRate,
    /// Share of units whose answer takes longer than `limit_ms`.
    LatencyOverMs,
    /// Share of reviewed answers that people contradict, weighted by the probability with which
    /// they were shown.
    MisjudgedRate,
    /// Share of pictures that the versions of control and treatment label differently, where one of
    /// them is a shadow of the other. `margin` is the highest share that is no harm.
    Disagreement,
    /// Whether the variants get their shares of the units.
    SampleRatio,
}

impl GuardMetric {
    /// The metric as settings spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoRate => "no_rate",
            Self::ReviewRate => "review_rate",
            Self::DeadLetterRate => "dead_letter_rate",
            Self::LatencyOverMs => "latency_over_ms",
            Self::MisjudgedRate => "misjudged_rate",
            Self::Disagreement => "disagreement",
            Self::SampleRatio => "sample_ratio",
        }
    }
}

/// What a guard does about harm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardAction {
    /// It pauses the experiment.
    #[default]
    Pause,
    /// It only says so.
    Warn,
}

/// A guard of an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardSpec {
    /// Its name, unique in the experiment; the metric where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it watches.
    pub metric: GuardMetric,
    /// For `latency_over_ms`: longer answers are slow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_ms: Option<u64>,
    /// Harm means that the treatment's rate is worse than the control's by more than this.
    #[serde(default)]
    pub margin: f64,
    /// The probability of calling a treatment harmful that is not, at most, however often one
    /// looks. It is divided over the guards of the experiment that can pause it, and over the
    /// treatments.
    #[serde(default = "one_percent")]
    pub alpha: f64,
    /// Events of control and treatment together before it calls anything harmful.
    #[serde(default = "ten")]
    pub min_events: u64,
    /// How long after the experiment's first verdict it begins to judge, by the times of verdicts.
    #[serde(default)]
    pub initial_delay_ms: u64,
    /// What it does about harm.
    #[serde(default)]
    pub action: GuardAction,
    /// Say what it would do, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// The variant that others are compared with; `control`, or the first by name, where there is
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<String>,
}

fn one_percent() -> f64 {
    0.01
}

fn ten() -> u64 {
    10
}

impl GuardSpec {
    /// Its name.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(self.metric.as_str())
    }

    /// Whether it may pause the experiment, or would if it were no dry run.
    pub fn can_pause(&self) -> bool {
        self.action == GuardAction::Pause
    }
}

/// Guards of one experiment, at most.
const GUARDS_MAX: usize = 20;

/// Checks the guards of an experiment with these variants, whose unit is the request or something
/// else.
pub(super) fn check(guards: &[GuardSpec], variants: &[&str], is_by_request: bool) -> Result<(), Refused> {
    if guards.len() > GUARDS_MAX {
        return Err(refused(".guards", format!("has {} entries, at most {GUARDS_MAX}", guards.len())));
    }
    for (index, guard) in guards.iter().enumerate() {
        check_one(guard, variants, is_by_request)
            .map_err(|(field, reason)| refused(&format!(".guards[{index}]{field}"), reason))?;
        if guards.iter().take(index).any(|other| other.name() == guard.name()) {
            let reason = format!("`{}` appears twice: give each guard a `name`", guard.name());
            return Err(refused(&format!(".guards[{index}].name"), reason));
        }
    }
    Ok(())
}

fn check_one(guard: &GuardSpec, variants: &[&str], is_by_request: bool) -> Result<(), Refused> {
    if !(guard.alpha > 0.0 && guard.alpha <= 0.2) {
        return Err(refused(".alpha", format!("is {}, it must be above 0 and at most 0.2", guard.alpha)));
    }
    if !(0.0..1.0).contains(&guard.margin) {
        return Err(refused(".margin", format!("is {}, it must be at least 0 and below 1", guard.margin)));
    }
    let is_latency = guard.metric == GuardMetric::LatencyOverMs;
    if is_latency != guard.limit_ms.is_some() {
        let reason = "belongs to the metric `latency_over_ms`, and that needs it";
        return Err(refused(".limit_ms", reason.to_owned()));
    }
    if is_latency && !is_by_request {
        let reason = "counts requests, which are not independent where the experiment's unit is another field";
        return Err(refused(".metric", format!("`latency_over_ms` {reason}")));
    }
    if guard.metric == GuardMetric::Disagreement && guard.margin == 0.0 {
        let reason = "`disagreement` needs the highest share of different labels that is no harm, such as 0.05";
        return Err(refused(".margin", reason.to_owned()));
    }
    if let Some(control) = guard.control.as_deref().filter(|control| !variants.contains(control)) {
        return Err(refused(".control", format!("there is no variant `{control}`: there are {}", variants.join(", "))));
    }
    if guard.name().is_empty() || guard.name().chars().any(char::is_control) {
        return Err(refused(".name", "is empty, or has control characters".to_owned()));
    }
    Ok(())
}
