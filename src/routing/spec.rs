//! Everything that routing depends on, as settings write it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    guard::GuardSpec,
    scheme::{Method, Scheme},
};

/// What a table is made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableSpec {
    /// Names of the versions that exist.
    pub versions: Vec<String>,
    /// The version that answers when nothing else decides.
    pub default: String,
    /// Whether requests may name a version.
    pub allow_forced: bool,
    /// Rules, in order of trial.
    pub rules: Vec<RuleSpec>,
    /// Shares of units that take part in no experiment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holdouts: Vec<HoldoutSpec>,
    /// Experiments, in order of trial.
    pub experiments: Vec<ExperimentSpec>,
}

impl ExperimentSpec {
    /// Removes guards and the ramp: they watch answers, and decide none.
    pub fn remove_watchers(&mut self) {
        self.guards.clear();
        self.ramp.clear();
        (self.ramp_step_ms, self.ramp_step_verdicts, self.ramp_paused) = (ten_minutes(), hundred(), false);
    }
}

impl TableSpec {
    /// The rules, holdouts, experiments and versions that another table had and this one has not, by kind and name.
    pub fn gone_since(&self, before: &Self) -> Vec<(&'static str, String)> {
        let now = self.names();
        before
            .names()
            .into_iter()
            .filter(|name| !now.contains(name))
            .map(|(kind, name)| (kind, name.to_owned()))
            .collect()
    }

    /// Warnings about experiments that have a variant with another version than before, but the same epoch and salt:
    /// the verdicts of such a variant are of two versions, and a comparison by variant mixes them.
    pub fn redefined_since(&self, before: &Self) -> Vec<String> {
        let mut warnings = Vec::new();
        for experiment in &self.experiments {
            let earlier = before.experiments.iter().find(|earlier| earlier.name == experiment.name);
            let Some(earlier) = earlier.filter(|it| (it.epoch, &it.salt) == (experiment.epoch, &experiment.salt))
            else {
                continue;
            };

            for variant in &experiment.variants {
                let earlier = earlier.variants.iter().find(|earlier| earlier.name == variant.name);
                if let Some(earlier) = earlier.filter(|earlier| earlier.model_version != variant.model_version) {
                    warnings.push(format!(
                        "variant `{}` of experiment `{}` has version `{}` instead of `{}`, and the epoch is still {}: \
                         comparisons by variant mix two versions. Raise `epoch`",
                        variant.name, experiment.name, variant.model_version, earlier.model_version, experiment.epoch
                    ));
                }
            }
        }
        warnings
    }

    /// Everything that has a name, with its kind.
    fn names(&self) -> Vec<(&'static str, &str)> {
        let rules = self.rules.iter().map(|rule| ("rule", rule.name.as_deref().unwrap_or(&rule.condition)));
        let holdouts = self.holdouts.iter().map(|holdout| ("holdout", holdout.name.as_str()));
        let experiments = self.experiments.iter().map(|experiment| ("experiment", experiment.name.as_str()));
        let versions = self.versions.iter().map(|version| ("version", version.as_str()));
        rules.chain(holdouts).chain(experiments).chain(versions).collect()
    }
}

/// A rule.
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
    /// What is decided whatever it answers; by its answer where this is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<RuleDecision>,
    /// Versions that judge the same requests beside it, for comparison.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shadow: Vec<String>,
    /// The share of these requests that they judge, 0 to 1, by hash of the request's id.
    #[serde(default = "whole", skip_serializing_if = "is_whole")]
    pub shadow_fraction: f64,
}

/// What a rule decides whatever the version answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleDecision {
    /// A person looks at the request.
    Review,
}

/// A share of units that the default version answers, whatever experiments there are: what all of them together change
/// is measured against it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldoutSpec {
    /// Its name, unique among the holdouts.
    pub name: String,
    /// The share of units, 0 to 1, in steps of one millionth.
    pub ratio: f64,
    /// What is hashed: `request_id`, `key` or an attribute's name.
    #[serde(default = "request_id")]
    pub unit: String,
    /// Hashed before the unit; without it, the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salt: Option<String>,
}

/// An experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExperimentSpec {
    /// Its name, unique among the experiments.
    pub name: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// Whom it is about; everybody where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// From which time of records on, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// Up to which time of records, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// The share of units it takes, 0 to 1, in steps of one millionth.
    pub traffic_ratio: f64,
    /// What is hashed: `request_id`, `key` or an attribute's name.
    #[serde(default = "request_id")]
    pub unit: String,
    /// Hashed before the unit; without it, the name and the epoch.
    #[serde(default)]
    pub salt: Option<String>,
    /// Raise it to assign every unit anew.
    #[serde(default = "first")]
    pub epoch: u32,
    /// The assignment scheme.
    #[serde(default)]
    pub scheme: Scheme,
    /// How the scheme picks among variants.
    #[serde(default, skip_serializing_if = "is_default")]
    pub assignment: Method,
    /// At most one experiment of a layer takes a unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// Which part of the layer is its own, within 0 and 1; the whole where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice: Option<[f64; 2]>,
    /// The variants, at least one.
    pub variants: Vec<VariantSpec>,
    /// Who gets a variant whatever the hash says, for testers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forced: Vec<ForcedSpec>,
    /// What pauses it when a treatment does harm.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guards: Vec<GuardSpec>,
    /// Shares of units that follow `traffic_ratio`, ascending. Each follows when every guard finds
    /// every treatment safe and the step before has lasted for `ramp_step_ms`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ramp: Vec<f64>,
    /// How long each step of the ramp lasts, at least.
    #[serde(default = "ten_minutes", skip_serializing_if = "is_ten_minutes")]
    pub ramp_step_ms: u64,
    /// Verdicts of each variant in each step of the ramp, at least.
    #[serde(default = "hundred", skip_serializing_if = "is_hundred")]
    pub ramp_step_verdicts: u64,
    /// Whether the ramp takes no step.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ramp_paused: bool,
    /// Whether it takes nobody, until it is resumed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub paused: bool,
    /// The variant that won: its version answers all whom the experiment is about, and nobody is compared any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted: Option<String>,
    /// Versions that judge what it takes beside the live ones, for comparison.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shadow: Vec<String>,
    /// The share of what it takes that they judge, 0 to 1.
    #[serde(default = "whole", skip_serializing_if = "is_whole")]
    pub shadow_fraction: f64,
}

/// A variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariantSpec {
    /// Its name, unique in the experiment.
    pub name: String,
    /// The version that answers for it.
    pub model_version: String,
    /// Its share of the experiment's units, relative to the other weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// Its buckets in scheme `optimizely`, the second not included, instead of a weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[u32; 2]>,
}

/// Who gets a variant whatever the hash says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForcedSpec {
    /// `request_id`, `key` or an attribute's name.
    pub attribute: String,
    /// Its values.
    pub values: Vec<String>,
    /// The variant.
    pub variant: String,
}

/// What operators changed on top of settings, while the program runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Overrides {
    /// The version that answers when nothing else decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// Experiments by name, and what became of them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub experiments: BTreeMap<String, Position>,
    /// Shares of units that experiments take, by the experiment's name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub traffic: BTreeMap<String, Traffic>,
}

/// The share of units that an experiment takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// In millionths.
    pub millionths: u32,
    /// The experiment's definition. Another definition begins with the share that settings name,
    /// because the safety of a share was shown for this one.
    pub definition: String,
    /// Whether a person set it, and the ramp takes no step from there.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ramp_paused: bool,
}

impl Traffic {
    /// As a share, 0 to 1.
    pub fn share(&self) -> f64 {
        f64::from(self.millionths) / 1e6
    }
}

/// A share of units in millionths: the steps of `traffic_ratio`.
pub fn millionths(share: f64) -> u32 {
    (share * 1e6).round() as u32
}

/// What an operator made of an experiment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Position {
    /// It takes nobody.
    Paused,
    /// It runs, whatever settings say.
    Running,
    /// This variant won.
    Promoted(String),
}

impl Overrides {
    /// Those that fit to settings, and in words those that do not.
    #[must_use]
    pub fn fitting(&self, spec: &TableSpec) -> (Self, Vec<String>) {
        let (mut fitting, mut others) = (self.clone(), Vec::new());
        if let Some(default) = fitting.default.take_if(|default| !spec.versions.contains(default)) {
            others.push(format!("the default `{default}`: there is no such version"));
        }
        fitting.experiments.retain(|name, position| {
            let experiment = spec.experiments.iter().find(|experiment| experiment.name == *name);
            let fits = match (experiment, &position) {
                (Some(experiment), Position::Promoted(variant)) => {
                    experiment.variants.iter().any(|it| it.name == *variant)
                }
                // One that is not there any more is left alone: it may come back.
                _ => true,
            };
            if !fits {
                others.push(format!("the promoted variant of `{name}`: there is no such variant"));
            }
            fits
        });
        (fitting, others)
    }
}

impl TableSpec {
    /// What operators changed that settings say otherwise, in words; and what is about experiments that are not there.
    pub fn masked_by(&self, overrides: &Overrides) -> Vec<String> {
        let default = overrides.default.iter().filter(|default| **default != self.default);
        let mut masked: Vec<String> = default
            .map(|default| format!("the default is `{default}` by an operator, settings say `{}`", self.default))
            .collect();
        for (name, position) in &overrides.experiments {
            let now = match position {
                Position::Paused => "paused".to_owned(),
                Position::Running => "running".to_owned(),
                Position::Promoted(variant) => format!("promoted to `{variant}`"),
            };
            match self.experiments.iter().find(|experiment| experiment.name == *name) {
                None => masked.push(format!("experiment `{name}` is {now} by an operator, and is not in the settings")),
                Some(experiment) => {
                    let settings = match (experiment.paused, &experiment.promoted) {
                        (true, _) => Position::Paused,
                        (false, Some(variant)) => Position::Promoted(variant.clone()),
                        (false, None) => Position::Running,
                    };
                    if settings != *position {
                        masked.push(format!("experiment `{name}` is {now} by an operator, settings say otherwise"));
                    }
                }
            }
        }
        let traffic = overrides.traffic.iter();
        masked.extend(traffic.filter_map(|(name, traffic)| self.traffic_masked_by(name, traffic)));
        masked
    }

    fn traffic_masked_by(&self, name: &str, traffic: &Traffic) -> Option<String> {
        let share = traffic.share();
        let Some(experiment) = self.experiments.iter().find(|experiment| experiment.name == *name) else {
            return Some(format!(
                "experiment `{name}` takes {share} of the units by a change, and is not in the settings"
            ));
        };
        let ratio = experiment.traffic_ratio;
        if experiment.definition() != traffic.definition {
            let reason = "was for an earlier definition";
            return Some(format!(
                "experiment `{name}` takes {ratio} of the units as settings say: a share of {share} {reason}"
            ));
        }
        (millionths(ratio) != traffic.millionths)
            .then(|| format!("experiment `{name}` takes {share} of the units by a change, settings say {ratio}"))
    }

    /// These settings with what operators changed. Experiments that are not there any more stay so.
    #[must_use]
    pub fn with(mut self, overrides: &Overrides) -> Self {
        if let Some(default) = &overrides.default {
            default.clone_into(&mut self.default);
        }
        for experiment in &mut self.experiments {
            let traffic = overrides.traffic.get(&experiment.name);
            if let Some(traffic) = traffic.filter(|traffic| traffic.definition == experiment.definition()) {
                experiment.traffic_ratio = traffic.share();
                experiment.ramp_paused |= traffic.ramp_paused;
            }
            let Some(position) = overrides.experiments.get(&experiment.name) else { continue };
            experiment.paused = *position == Position::Paused;
            experiment.promoted = match position {
                Position::Promoted(variant) => Some(variant.clone()),
                Position::Paused | Position::Running => None,
            };
        }
        self
    }
}

fn request_id() -> String {
    "request_id".to_owned()
}

fn first() -> u32 {
    1
}

fn ten_minutes() -> u64 {
    600_000
}

fn hundred() -> u64 {
    100
}

fn is_hundred(count: &u64) -> bool {
    *count == hundred()
}

fn is_ten_minutes(milliseconds: &u64) -> bool {
    *milliseconds == ten_minutes()
}

fn whole() -> f64 {
    1.0
}

/// Defaults are left out of what the digest is made from, so that a new setting does not change it.
fn is_whole(fraction: &f64) -> bool {
    *fraction >= whole()
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
