//! The one function that routes, for live requests and for `explain` alike.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Serialize;

use super::{
    condition::Truth,
    definition::unit_hash,
    experiment::{Experiment, NO_LAYER, Outcome, Variant},
    features::{Features, Unit},
    probability::certain,
    spec::RuleDecision,
    table::Table,
};
use crate::message::Assignment;

/// Why a version was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The request named it.
    Forced,
    /// A rule matched.
    Rule,
    /// A holdout kept the unit out of experiments.
    Holdout,
    /// An experiment took the unit.
    Experiment,
    /// An experiment's winner answers.
    Promoted,
    /// Nothing else decided.
    Default,
}

impl Reason {
    /// The reason as verdicts spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Forced => "forced",
            Self::Rule => "rule",
            Self::Holdout => "holdout",
            Self::Experiment => "experiment",
            Self::Promoted => "promoted",
            Self::Default => "default",
        }
    }
}

/// Which version answers, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The version.
    pub version: String,
    /// Why.
    pub reason: Reason,
    /// The name of the rule, the holdout or the promoted experiment that decided.
    pub rule: Option<String>,
    /// The experiment and the variant.
    pub variant: Option<(String, String)>,
    /// How the unit was assigned.
    pub assignment: Option<Assignment>,
    /// Versions that judge it beside, for comparison.
    pub shadows: Vec<String>,
    /// Whether the rule sends it to review whatever the version answers.
    pub is_for_review: bool,
    /// The probability of each version for this request, over the hash of its units. None where it is not known exactly.
    pub probabilities: Option<BTreeMap<String, f64>>,
}

/// A request that cannot be routed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// It names a version that does not exist. The name is the producer's, and is not repeated.
    #[error("`model_version` names a version that is not among those in settings")]
    UnknownVersion,
    /// It names a version, and settings do not allow that.
    #[error("`model_version` is given, and `model_versions.allow_forced` is off")]
    ForcedVersionRefused,
}

impl RouteError {
    /// The stable code of this error: the metric label and the dead-letter header.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownVersion => "unknown_version",
            Self::ForcedVersionRefused => "forced_version_refused",
        }
    }
}

/// Looks on while a request is routed. What it does has no influence on the decision.
pub trait Watch {
    /// Something was tried; `step` words it.
    fn tried(&mut self, step: impl FnOnce() -> Step);

    /// A rule, a holdout or an experiment of this name could not be judged, because the request lacks this attribute or feature,
    /// or has it in another type.
    fn missing(&mut self, name: &str, field: &str);
}

/// Nobody looks on.
impl Watch for () {
    fn tried(&mut self, _: impl FnOnce() -> Step) {}

    fn missing(&mut self, _: &str, _: &str) {}
}

/// One thing that was tried on the way to a decision, for `explain`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// What was tried: `rule "short text"`, `experiment ofa_version_comparison`.
    pub tried: String,
    /// What came of it.
    pub outcome: String,
    /// Whether it decided.
    pub decided: bool,
}

impl Watch for Vec<Step> {
    fn tried(&mut self, step: impl FnOnce() -> Step) {
        self.push(step());
    }

    fn missing(&mut self, _: &str, _: &str) {}
}

impl Table {
    /// Decides: a version that the request names (where allowed), the first rule that matches, a variant that a tester
    /// forces, a holdout, the first experiment that takes the unit, the default.
    ///
    /// # Errors
    /// When the request names a version that it may not have.
    pub fn decide(&self, features: &Features<'_>, watch: &mut impl Watch) -> Result<Route, RouteError> {
        if let Some(version) = features.forced_version {
            if !self.versions.contains(version) {
                return Err(RouteError::UnknownVersion);
            }
            if !self.allow_forced {
                return Err(RouteError::ForcedVersionRefused);
            }
            watch.tried(|| step("request".to_owned(), format!("names version {version}"), true));
            return Ok(Route::to(version, Reason::Forced));
        }

        let certain = self.by_rule(features, watch).or_else(|| self.by_tester(features, watch));
        if let Some(route) = certain {
            return Ok(route);
        }

        let by_chance = self.by_holdout(features, watch).or_else(|| self.by_experiment(features, watch));
        let route = by_chance.unwrap_or_else(|| {
            watch.tried(|| step("default".to_owned(), format!("version {}", self.default), true));
            Route::to(&self.default, Reason::Default)
        });
        Ok(Route { probabilities: self.probabilities(features), ..route })
    }

    /// The route of the first rule that matches.
    fn by_rule(&self, features: &Features<'_>, watch: &mut impl Watch) -> Option<Route> {
        for rule in &self.rules {
            let truth = rule.condition.evaluate(features);
            if let Truth::Missing(field) = truth {
                watch.missing(&rule.name, field);
            }

            watch.tried(|| {
                let outcome = match truth {
                    Truth::True => "matches".to_owned(),
                    Truth::False => format!("does not match: {}", rule.condition.why_not(features)),
                    Truth::Missing(_) => format!("cannot match: {}", rule.condition.why_not(features)),
                };
                step(format!("rule \"{}\"", rule.name), outcome, truth == Truth::True)
            });

            if truth == Truth::True {
                let shadows = rule.shadows.of(features.request_id, &rule.version);
                let is_for_review = rule.decision == Some(RuleDecision::Review);
                let route = Route::to(&rule.version, Reason::Rule);
                return Some(Route { rule: Some(rule.name.clone()), shadows, is_for_review, ..route });
            }
        }
        None
    }

    /// The route of a tester whose variant settings name.
    fn by_tester(&self, features: &Features<'_>, watch: &mut impl Watch) -> Option<Route> {
        for experiment in &self.experiments {
            if let Some(outcome) = experiment.forced(features) {
                watch.tried(|| experiment_step(experiment, features, &outcome));
                if let Outcome::Forced { variant, .. } = outcome {
                    return Some(assigned(experiment, variant, features, true));
                }
            }
        }
        None
    }

    /// The route of a unit that a holdout keeps out of experiments.
    fn by_holdout(&self, features: &Features<'_>, watch: &mut impl Watch) -> Option<Route> {
        for holdout in &self.holdouts {
            let kept = holdout.keeps(features);
            if !kept && holdout.unit.of(features).is_none() {
                watch.missing(&holdout.name, holdout.unit.name());
            }

            watch.tried(|| step(format!("holdout {}", holdout.name), holdout.in_words(features), kept));
            if kept {
                return Some(Route { rule: Some(holdout.name.clone()), ..Route::to(&self.default, Reason::Holdout) });
            }
        }
        None
    }

    /// The route of the first experiment that takes the unit.
    fn by_experiment(&self, features: &Features<'_>, watch: &mut impl Watch) -> Option<Route> {
        for experiment in &self.experiments {
            let outcome = experiment.outcome(features);
            match outcome {
                Outcome::NotMeant(Truth::Missing(field)) => watch.missing(&experiment.name, field),
                Outcome::NoUnit => watch.missing(&experiment.name, experiment.unit.name()),
                Outcome::NoTime => watch.missing(&experiment.name, "time"),
                _ => {}
            }

            watch.tried(|| experiment_step(experiment, features, &outcome));
            match outcome {
                Outcome::Assigned { variant, .. } => return Some(assigned(experiment, variant, features, false)),
                Outcome::Promoted(variant) => {
                    return Some(Route {
                        rule: Some(experiment.name.clone()),
                        ..Route::to(&variant.version, Reason::Promoted)
                    });
                }
                _ => {}
            }
        }
        None
    }
}

impl Route {
    fn to(version: &str, reason: Reason) -> Self {
        Self {
            version: version.to_owned(),
            reason,
            rule: None,
            variant: None,
            assignment: None,
            shadows: Vec::new(),
            is_for_review: false,
            probabilities: certain(version),
        }
    }
}

fn step(tried: String, outcome: String, decided: bool) -> Step {
    Step { tried, outcome, decided }
}

fn experiment_step(experiment: &Experiment, features: &Features<'_>, outcome: &Outcome<'_>) -> Step {
    let decided = matches!(outcome, Outcome::Assigned { .. } | Outcome::Promoted(_) | Outcome::Forced { .. });
    step(format!("experiment {}", experiment.name), experiment.in_words(features, outcome), decided)
}

fn assigned(experiment: &Experiment, variant: &Variant, features: &Features<'_>, forced: bool) -> Route {
    let unit = experiment.unit.of(features);
    let is_request = matches!(experiment.unit, Unit::RequestId);
    let assignment = Assignment {
        definition: Some(experiment.definition.clone()),
        unit_hash: unit.as_ref().filter(|_| !is_request).map(|unit| unit_hash(&experiment.definition, unit)),
        unit_value: unit.as_deref().map(str::to_owned),
        unit: experiment.unit.to_string(),
        scheme: experiment.assigns.scheme.as_str().to_owned(),
        assignment: experiment.assigns.method.as_str().to_owned(),
        epoch: experiment.assigns.epoch,
        propensity: if forced { 1.0 } else { variant.propensity },
        layer: experiment.layer.as_ref().map_or(NO_LAYER, |layer| &layer.name).to_owned(),
        forced,
    };
    // A tester may lack the unit; comparing shadows is by the request then.
    let unit = unit.unwrap_or(Cow::Borrowed(features.request_id));
    Route {
        variant: Some((experiment.name.clone(), variant.name.clone())),
        assignment: Some(assignment),
        shadows: experiment.shadows.of(&unit, &variant.version),
        ..Route::to(&variant.version, Reason::Experiment)
    }
}

#[cfg(test)]
mod promises;
#[cfg(test)]
pub(super) mod tests;
