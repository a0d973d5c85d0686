//! What identifies an experiment for its evidence.

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::spec::{ExperimentSpec, VariantSpec};

/// Characters of a digest that tell two apart.
const CHARACTERS: usize = 16;

/// The digest of what decides which unit meets which version: unit, salt, epoch, scheme and variants.
/// Verdicts of one definition may be compared with each other, and with no others. A share of
/// traffic, a condition or a shadow that changes leaves it as it is: units keep their variants.
pub(super) fn definition(spec: &ExperimentSpec) -> String {
    let variant = |variant: &VariantSpec| json!([variant.name, variant.model_version, variant.weight, variant.range]);
    let variants: Vec<_> = spec.variants.iter().map(variant).collect();
    let parts = json!([spec.name, spec.unit, spec.salt, spec.epoch, spec.scheme, spec.assignment, variants]);
    digest(&parts.to_string())
}

impl ExperimentSpec {
    /// The digest of what decides which unit meets which version, as verdicts carry it in `ab.definition`.
    pub fn definition(&self) -> String {
        definition(self)
    }
}

/// A unit as verdicts name it where it is not the request's id: a digest, which differs from experiment
/// to experiment. It hides ids from a glance only: a person who can guess an id can check it.
pub(super) fn unit_hash(definition: &str, unit: &str) -> String {
    digest(&format!("{definition}:{unit}"))
}

/// A unit's hash with a secret salt: who does not know the salt cannot check a guess.
pub fn salted_unit_hash(salt: &str, unit_hash: &str) -> String {
    digest(&format!("{}:{salt}:{unit_hash}", salt.len()))
}

fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text)).chars().take(CHARACTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(change: impl FnOnce(&mut serde_json::Value)) -> ExperimentSpec {
        let mut spec = json!({
            "name": "e", "traffic_ratio": 0.5,
            "variants": [
                {"name": "control", "model_version": "a", "weight": 1.0},
                {"name": "treatment", "model_version": "b", "weight": 1.0},
            ],
        });
        change(&mut spec);
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn only_what_moves_units_or_versions_makes_another_definition() {
        let first = definition(&spec(|_| ()));
        assert_eq!(first.len(), CHARACTERS);
        let same: [fn(&mut serde_json::Value); 3] = [
            |spec| spec["traffic_ratio"] = json!(1.0),
            |spec| spec["shadow"] = json!(["c"]),
            |spec| spec["paused"] = json!(true),
        ];
        same.into_iter().for_each(|change| assert_eq!(definition(&spec(change)), first));
        let other: [fn(&mut serde_json::Value); 4] = [
            |spec| spec["epoch"] = json!(2),
            |spec| spec["unit"] = json!("key"),
            |spec| spec["variants"][1]["model_version"] = json!("c"),
            |spec| spec["variants"][1]["weight"] = json!(2.0),
        ];
        other.into_iter().for_each(|change| assert_ne!(definition(&spec(change)), first));
    }
}
