//! The probability of each version for one request, over the hash of its units.
//!
//! Estimates of what another policy would have done weight a verdict by one over this probability, so it
//! must be exact. Three facts make that possible. The slices of a layer do not overlap, so at most one of
//! its experiments takes a unit. Different layers, salts and holdouts hash independently. And what a
//! request says (forced version, rules, conditions, times) is fixed.
//!
//! An experiment takes the unit with probability `slice · exposure`. It is reached if no holdout keeps
//! the unit, no earlier experiment of another layer took it, and no earlier experiment without a layer
//! did; an earlier experiment of the same layer cannot have taken a unit of this slice.

use std::collections::{BTreeMap, btree_map::Entry};

use super::{experiment::Experiment, features::Features, scheme::Scheme, table::Table};

impl Table {
    /// The probability of each version, which sum to 1. None where two experiments, or two holdouts, hash
    /// the same unit with the same salt: then they are not independent.
    pub(super) fn probabilities(&self, features: &Features<'_>) -> Option<BTreeMap<String, f64>> {
        let mut inputs = HashInputs::default();
        let mut not_held = 1.0;
        for holdout in &self.holdouts {
            let Some(share) = holdout.share(features) else { continue };
            if share > 0.0 && !inputs.is_independent(holdout.hash_input(), None) {
                return None;
            }
            not_held *= 1.0 - share;
        }

        let mut shares: BTreeMap<&str, f64> = BTreeMap::new();
        *shares.entry(&self.default).or_default() += 1.0 - not_held;
        // Shares of units that experiments of each layer took, and that none without a layer took.
        let mut taken: BTreeMap<&str, f64> = BTreeMap::new();
        let mut free = not_held;
        for experiment in &self.experiments {
            let Some((slice, exposure)) = experiment.shares(features) else { continue };
            let layer = experiment.layer.as_ref().map(|layer| layer.name.as_str());
            // In scheme `optimizely` one bucket decides on exposure and arm, so it matters also where all are exposed.
            let one_bucket = experiment.assigns.scheme == Scheme::Optimizely && experiment.winner().is_none();
            let is_hashed = exposure > 0.0 && (exposure < 1.0 || one_bucket);
            if is_hashed && !inputs.is_independent(experiment.hash_input(), layer) {
                return None;
            }
            let others = taken.iter().filter(|(name, _)| Some(**name) != layer);
            let reached: f64 = free * others.map(|(_, share)| 1.0 - share).product::<f64>();
            let takes = slice * exposure;
            match experiment.winner() {
                Some(winner) => *shares.entry(&winner.version).or_default() += reached * takes,
                None => {
                    for variant in &experiment.variants {
                        *shares.entry(&variant.version).or_default() += reached * takes * variant.propensity;
                    }
                }
            }
            match layer {
                Some(layer) => *taken.entry(layer).or_default() += takes,
                None => free *= 1.0 - takes,
            }
        }
        // Its layers are hashed as its experiments are: a salt that is a layer's name hashes the same.
        let layered = self.experiments.iter().filter(|it| it.assigns.scheme == Scheme::Optimizely);
        let is_shared = |it: &Experiment| {
            let layer = it.layer.as_ref().map(|layer| layer.name.as_str());
            layer.is_some_and(|layer| inputs.has(("optimizely", layer, it.unit.to_string())))
        };
        if layered.clone().any(is_shared) {
            return None;
        }
        let untaken: f64 = free * taken.values().map(|share| 1.0 - share).product::<f64>();
        *shares.entry(&self.default).or_default() += untaken;

        let positive = shares.into_iter().filter(|(_, share)| *share > ROUNDING);
        Some(positive.map(|(version, share)| (version.to_owned(), rounded(share))).collect())
    }
}

/// What is hashed: scheme, salt and unit, with the layer of the experiment that hashes it.
#[derive(Default)]
struct HashInputs<'t>(BTreeMap<(&'t str, &'t str, String), Option<&'t str>>);

impl<'t> HashInputs<'t> {
    /// False if something else hashes the same. Two experiments of one layer never take the same unit, so
    /// for them it does not matter.
    fn is_independent(&mut self, input: (&'t str, &'t str, String), layer: Option<&'t str>) -> bool {
        match self.0.entry(input) {
            Entry::Vacant(entry) => {
                entry.insert(layer);
                true
            }
            Entry::Occupied(entry) => layer.is_some() && *entry.get() == layer,
        }
    }
}

impl HashInputs<'_> {
    fn has(&self, input: (&str, &str, String)) -> bool {
        self.0.keys().any(|(scheme, salt, unit)| (*scheme, *salt, unit) == (input.0, input.1, &input.2))
    }
}

/// Differences below this are of floating point, not of shares: those are in steps of a millionth.
const ROUNDING: f64 = 1e-12;

fn rounded(share: f64) -> f64 {
    (share * 1e12).round() / 1e12
}

/// A request whose version no chance decided.
pub(super) fn certain(version: &str) -> Option<BTreeMap<String, f64>> {
    Some(BTreeMap::from([(version.to_owned(), 1.0)]))
}

#[cfg(test)]
mod tests;
