//! The routing table, and the one function that routes.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    condition::{Condition, Truth},
    experiment::{Experiment, ExperimentSpec, LAYER, Outcome, Variant},
    features::Features,
    hash,
    shadow::{Shadows, all, is_all},
};
use crate::message::Assignment;

/// Everything that routing depends on, as settings write it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TableSpec {
    /// Names of the versions that exist.
    pub versions: Vec<String>,
    /// The version that answers when nothing else decides.
    pub default: String,
    /// Whether requests may name a version.
    pub allow_forced: bool,
    /// Rules, in order of trial.
    pub rules: Vec<RuleSpec>,
    /// Experiments, in order of trial.
    pub experiments: Vec<ExperimentSpec>,
}

/// A rule as settings write it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleSpec {
    /// For verdicts and people; the condition itself where there is none.
    #[serde(default)]
    pub name: Option<String>,
    /// When it applies; see [`super::condition`].
    pub condition: String,
    /// The version that then answers.
    pub version: String,
    /// Versions that judge the same requests beside it, for comparison.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shadow: Vec<String>,
    /// The share of these requests that they judge, 0 to 1, by hash of the request's id.
    #[serde(default = "all", skip_serializing_if = "is_all")]
    pub shadow_fraction: f64,
}

/// A table that cannot work.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct TableError {
    /// Where in the settings, such as `routing_rules[0].condition`.
    pub place: String,
    /// What is wrong there.
    pub reason: String,
}

/// A checked table.
#[derive(Clone, Debug)]
pub struct Table {
    versions: BTreeSet<String>,
    default: String,
    allow_forced: bool,
    rules: Vec<Rule>,
    experiments: Vec<Experiment>,
    digest: String,
}

#[derive(Clone, Debug)]
struct Rule {
    name: String,
    condition: Condition,
    version: String,
    shadows: Shadows,
}

/// Why a version was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The request named it.
    Forced,
    /// A rule matched.
    Rule,
    /// An experiment took the unit.
    Experiment,
    /// Nothing else decided.
    Default,
}

impl Reason {
    /// The reason as verdicts spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Forced => "forced",
            Self::Rule => "rule",
            Self::Experiment => "experiment",
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
    /// The rule that matched.
    pub rule: Option<String>,
    /// The experiment and the variant.
    pub variant: Option<(String, String)>,
    /// How the unit was assigned.
    pub assignment: Option<Assignment>,
    /// Versions that judge it beside, for comparison.
    pub shadows: Vec<String>,
}

/// A request that cannot be routed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// It names a version that does not exist.
    #[error("`model_version` names `{0}`, which is not among the versions in settings")]
    UnknownVersion(String),
    /// It names a version, and settings do not allow that.
    #[error("`model_version` is given, and `model_versions.allow_forced` is off")]
    ForcedVersionRefused,
}

impl RouteError {
    /// The stable code of this error: the metric label and the dead-letter header.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownVersion(_) => "unknown_version",
            Self::ForcedVersionRefused => "forced_version_refused",
        }
    }
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

impl Table {
    /// Checks a table as a whole.
    ///
    /// # Errors
    /// The first entry that cannot work, with its place in the settings.
    pub fn new(spec: &TableSpec) -> Result<Self, TableError> {
        let refuse = |place: String, reason: String| TableError { place, reason };
        let versions: BTreeSet<String> = spec.versions.iter().cloned().collect();
        let exists = |name: &str| match versions.contains(name) {
            true => Ok(()),
            false => Err(format!("there is no version `{name}`: `model_versions.versions` has {}", listed(&versions))),
        };
        exists(&spec.default).map_err(|reason| refuse("model_versions.default".to_owned(), reason))?;
        let mut rules = Vec::new();
        for (index, rule) in spec.rules.iter().enumerate() {
            let place = |field: &str| format!("routing_rules[{index}].{field}");
            let condition =
                Condition::parse(&rule.condition).map_err(|error| refuse(place("condition"), error.to_string()))?;
            exists(&rule.version).map_err(|reason| refuse(place("version"), reason))?;
            let name = rule.name.clone().unwrap_or_else(|| rule.condition.clone());
            let shadows = Shadows::new(&rule.shadow, rule.shadow_fraction, format!("rule:{name}"), exists)
                .map_err(|reason| refuse(format!("routing_rules[{index}]"), reason))?;
            rules.push(Rule { name, condition, version: rule.version.clone(), shadows });
        }
        let mut experiments: Vec<Experiment> = Vec::new();
        for (index, spec) in spec.experiments.iter().enumerate() {
            let place = format!("experiments[{index}]");
            let experiment = Experiment::new(spec, exists).map_err(|reason| refuse(place.clone(), reason))?;
            if experiments.iter().any(|other| other.name == experiment.name) {
                return Err(refuse(format!("{place}.name"), format!("`{}` appears twice", experiment.name)));
            }
            experiments.push(experiment);
        }
        let digest = digest(spec);
        Ok(Self {
            default: spec.default.clone(),
            allow_forced: spec.allow_forced,
            versions,
            rules,
            experiments,
            digest,
        })
    }

    /// The version that answers when nothing else decides.
    pub fn default_version(&self) -> &str {
        &self.default
    }

    /// Whether any request is judged for comparison.
    pub fn has_shadows(&self) -> bool {
        let of_rules = self.rules.iter().map(|rule| &rule.shadows);
        of_rules.chain(self.experiments.iter().map(|experiment| &experiment.shadows)).any(Shadows::are_there)
    }

    /// SHA-256 of what this table was made from, `sha256:` and 64 digits.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Decides: a version that the request names (where allowed), the first rule that matches, the
    /// first experiment that takes the unit, the default. Where `steps` is given, it receives every
    /// step in words; the decision is the same with and without it.
    ///
    /// # Errors
    /// When the request names a version that it may not have.
    pub fn decide(&self, features: &Features<'_>, mut steps: Option<&mut Vec<Step>>) -> Result<Route, RouteError> {
        let mut note = |decided: bool, words: &dyn Fn() -> (String, String)| {
            if let Some(steps) = steps.as_deref_mut() {
                let (tried, outcome) = words();
                steps.push(Step { tried, outcome, decided });
            }
        };
        if let Some(version) = features.forced_version {
            if !self.versions.contains(version) {
                return Err(RouteError::UnknownVersion(version.to_owned()));
            }
            if !self.allow_forced {
                return Err(RouteError::ForcedVersionRefused);
            }
            note(true, &|| ("request".to_owned(), format!("names version {version}")));
            return Ok(route(version, Reason::Forced));
        }
        for rule in &self.rules {
            let truth = rule.condition.evaluate(features);
            note(truth == Truth::True, &|| (format!("rule \"{}\"", rule.name), in_words(truth)));
            if truth == Truth::True {
                let shadows = rule.shadows.of(features.request_id, &rule.version);
                return Ok(Route { rule: Some(rule.name.clone()), shadows, ..route(&rule.version, Reason::Rule) });
            }
        }
        for experiment in &self.experiments {
            let outcome = experiment.outcome(features);
            let taken = matches!(outcome, Outcome::Assigned { .. });
            note(taken, &|| (format!("experiment {}", experiment.name), outcome.in_words(experiment)));
            if let Outcome::Assigned { variant, .. } = outcome {
                let unit = experiment.unit.of(features).unwrap_or_default();
                return Ok(assigned(experiment, variant, unit));
            }
        }
        note(true, &|| ("default".to_owned(), format!("version {}", self.default)));
        Ok(route(&self.default, Reason::Default))
    }
}

fn assigned(experiment: &Experiment, variant: &Variant, unit: &str) -> Route {
    let assignment = Assignment {
        unit: experiment.unit.to_string(),
        scheme: hash::SCHEME.to_owned(),
        epoch: experiment.epoch,
        propensity: variant.propensity,
        layer: LAYER.to_owned(),
    };
    Route {
        variant: Some((experiment.name.clone(), variant.name.clone())),
        assignment: Some(assignment),
        shadows: experiment.shadows.of(unit, &variant.version),
        ..route(&variant.version, Reason::Experiment)
    }
}

fn route(version: &str, reason: Reason) -> Route {
    Route { version: version.to_owned(), reason, rule: None, variant: None, assignment: None, shadows: Vec::new() }
}

fn in_words(truth: Truth<'_>) -> String {
    match truth {
        Truth::True => "matches".to_owned(),
        Truth::False => "does not match".to_owned(),
        Truth::Missing(name) => format!("cannot match: attribute `{name}` is missing or of another type"),
    }
}

fn listed(names: &BTreeSet<String>) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn digest(spec: &TableSpec) -> String {
    // Serializing plain data into memory cannot fail; the arm keeps the function total.
    let json = serde_json::to_vec(spec).unwrap_or_default();
    format!("sha256:{}", hex::encode(Sha256::digest(&json)))
}

#[cfg(test)]
mod tests;
