//! Experiments: which units they take, and which variant each unit gets.

use serde::{Deserialize, Serialize};

use super::{
    features::{Features, Unit},
    hash,
    shadow::{Shadows, all, is_all},
};

/// An experiment as settings write it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExperimentSpec {
    /// Its name, unique among the experiments.
    pub name: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// The share of units it takes, 0 to 1, in steps of one millionth.
    pub traffic_ratio: f64,
    /// What is hashed: `request_id`, `key` or an attribute's name.
    #[serde(default = "default_unit")]
    pub unit: String,
    /// Hashed before the unit; without it, the name and the epoch.
    #[serde(default)]
    pub salt: Option<String>,
    /// Raise it to assign every unit anew.
    #[serde(default = "default_epoch")]
    pub epoch: u32,
    /// The assignment scheme; only `m3v1` exists.
    #[serde(default = "default_scheme")]
    pub scheme: String,
    /// The variants, at least one.
    pub variants: Vec<VariantSpec>,
    /// Versions that judge what it takes beside the live ones, for comparison.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shadow: Vec<String>,
    /// The share of what it takes that they judge, 0 to 1.
    #[serde(default = "all", skip_serializing_if = "is_all")]
    pub shadow_fraction: f64,
}

/// A variant as settings write it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariantSpec {
    /// Its name, unique in the experiment.
    pub name: String,
    /// The version that answers for it.
    pub model_version: String,
    /// Its share of the experiment's units, relative to the other weights.
    pub weight: f64,
}

fn default_unit() -> String {
    "request_id".to_owned()
}

fn default_epoch() -> u32 {
    1
}

fn default_scheme() -> String {
    hash::SCHEME.to_owned()
}

/// The one layer there is so far: the first experiment that takes a unit is the only one.
pub(super) const LAYER: &str = "default";
const WEIGHT_MAX: f64 = 1_000_000.0;

/// An experiment, checked, its ratios turned into integers once.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Experiment {
    pub(super) name: String,
    pub(super) unit: Unit,
    pub(super) epoch: u32,
    salt: String,
    ratio_parts: u32,
    variants: Vec<Variant>,
    pub(super) shadows: Shadows,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Variant {
    pub(super) name: String,
    pub(super) version: String,
    weight: u64,
    pub(super) propensity: f64,
}

/// What an experiment does with a request.
pub(super) enum Outcome<'t> {
    NoUnit,
    NotExposed { place: u64 },
    Assigned { variant: &'t Variant, place: u64 },
}

impl Outcome<'_> {
    /// The outcome for people, as `explain` prints it.
    pub(super) fn in_words(&self, experiment: &Experiment) -> String {
        let Experiment { unit, ratio_parts, .. } = experiment;
        match self {
            Self::NoUnit => format!("no unit: {unit} is missing or empty"),
            Self::NotExposed { place } => {
                format!("not exposed: {unit} falls at {place} of {}, exposed below {ratio_parts}", hash::PARTS)
            }
            Self::Assigned { variant, place } => {
                let share = variant.propensity * 100.0;
                format!(
                    "variant {} ({share:.1} % of its units): {unit} falls at {place} of {}",
                    variant.name,
                    hash::PARTS
                )
            }
        }
    }
}

impl Experiment {
    /// The reason why it cannot run is for the caller to put beside the experiment's name.
    pub(super) fn new(
        spec: &ExperimentSpec,
        version_exists: impl Fn(&str) -> Result<(), String>,
    ) -> Result<Self, String> {
        if spec.scheme != hash::SCHEME {
            return Err(format!("unknown scheme `{}`: this program has `{}`", spec.scheme, hash::SCHEME));
        }
        if !(0.0..=1.0).contains(&spec.traffic_ratio) {
            return Err(format!("traffic_ratio is {}, it must lie between 0 and 1", spec.traffic_ratio));
        }
        let mut weights = Vec::new();
        for (index, variant) in spec.variants.iter().enumerate() {
            let place = format!("variant `{}`", variant.name);
            if variant.name.is_empty() {
                return Err(format!("variant {} has no name", index + 1));
            }
            if spec.variants[..index].iter().any(|other| other.name == variant.name) {
                return Err(format!("{place} appears twice"));
            }
            if !(0.0..=WEIGHT_MAX).contains(&variant.weight) {
                return Err(format!("{place}: weight is {}, it must lie between 0 and {WEIGHT_MAX}", variant.weight));
            }
            version_exists(&variant.model_version).map_err(|reason| format!("{place}: {reason}"))?;
            weights.push((variant.weight * f64::from(hash::PARTS)).round() as u64);
        }
        let total: u64 = weights.iter().sum();
        if total == 0 {
            return Err("no variant has a weight above 0".to_owned());
        }
        let salt = spec.salt.clone().unwrap_or_else(|| format!("{}#{}", spec.name, spec.epoch));
        let shadows = Shadows::new(&spec.shadow, spec.shadow_fraction, salt.clone(), version_exists)?;
        let variants = spec.variants.iter().zip(weights).map(|(variant, weight)| Variant {
            name: variant.name.clone(),
            version: variant.model_version.clone(),
            weight,
            propensity: weight as f64 / total as f64,
        });
        Ok(Self {
            name: spec.name.clone(),
            unit: Unit::from_name(&spec.unit),
            epoch: spec.epoch,
            salt,
            ratio_parts: (spec.traffic_ratio * f64::from(hash::PARTS)).round() as u32,
            variants: variants.collect(),
            shadows,
        })
    }

    pub(super) fn outcome(&self, features: &Features<'_>) -> Outcome<'_> {
        let Some(unit) = self.unit.of(features) else { return Outcome::NoUnit };
        let place = hash::spread(hash::exposure_hash(&self.salt, unit), hash::PARTS.into());
        if place >= self.ratio_parts.into() {
            return Outcome::NotExposed { place };
        }
        let variant_hash = hash::variant_hash(&self.salt, unit);
        let picked = hash::pick(variant_hash, self.variants.iter().map(|variant| variant.weight));
        match picked.and_then(|index| self.variants.get(index)) {
            Some(variant) => Outcome::Assigned { variant, place: hash::spread(variant_hash, hash::PARTS.into()) },
            None => Outcome::NotExposed { place },
        }
    }
}
