//! The verdicts that were read. Each request counts once. The order of reading does not matter.

use std::collections::{BTreeMap, HashMap, hash_map};

use serde::Serialize;

use super::{
    observation::{Evidence, ExperimentKey, Kind, Pair, hash},
    sums::Arm,
};
use crate::message::{Role, Verdict};

/// Numbers of verdicts that do not count, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Excluded {
    /// Verdicts of a request that has an earlier one: a replay, or delivery at least once.
    pub duplicates: u64,
    /// No experiment took the request.
    pub outside: u64,
    /// Settings forced the variant.
    pub forced: u64,
    /// The unit is not the request, and the verdict has no digest of it: an earlier release wrote it.
    pub unit_unknown: u64,
    /// Records that are no verdicts, or whose numbers make no sense.
    pub unreadable: u64,
}

/// A set of verdicts with one for each request. It takes about 800 bytes for each.
#[derive(Clone, Debug, Default)]
pub struct VerdictSet {
    counted: HashMap<u128, Evidence>,
    duplicates: u64,
    unreadable: u64,
}

/// Variants of an experiment, by name.
pub(super) type Arms = BTreeMap<String, Arm>;

impl VerdictSet {
    /// Adds a record of the verdict or shadow topic.
    pub fn add(&mut self, value: &[u8]) {
        match serde_json::from_slice::<Verdict>(value) {
            Ok(verdict) => self.add_verdict(&verdict),
            Err(_) => self.unreadable += 1,
        }
    }

    fn add_verdict(&mut self, verdict: &Verdict) {
        let Some(evidence) = Evidence::of(verdict) else {
            self.unreadable += 1;
            return;
        };
        let key = match verdict.ab_role {
            Role::Live => hash(&["live", &verdict.request_id]),
            Role::Shadow => hash(&["shadow", &verdict.request_id, &verdict.model_version]),
        };
        self.count(key, evidence);
    }

    /// Keeps the earliest verdict of a request.
    fn count(&mut self, key: u128, evidence: Evidence) {
        match self.counted.entry(key) {
            hash_map::Entry::Vacant(entry) => {
                entry.insert(evidence);
            }
            hash_map::Entry::Occupied(mut entry) => {
                self.duplicates += 1;
                if evidence < *entry.get() {
                    entry.insert(evidence);
                }
            }
        }
    }

    /// Adds the verdicts of another set.
    pub fn merge(&mut self, other: Self) {
        self.duplicates += other.duplicates;
        self.unreadable += other.unreadable;
        other.counted.into_iter().for_each(|(key, evidence)| self.count(key, evidence));
    }

    /// Numbers of verdicts that do not count.
    pub fn excluded(&self) -> Excluded {
        let of = |kind: &Kind| self.counted.values().filter(|evidence| evidence.kind == *kind).count() as u64;
        Excluded {
            duplicates: self.duplicates,
            outside: of(&Kind::Outside),
            forced: of(&Kind::Forced),
            unit_unknown: of(&Kind::UnitUnknown),
            unreadable: self.unreadable,
        }
    }

    /// Experiments, with the times of their first and last verdict and their variants.
    pub(super) fn experiments(&self) -> BTreeMap<ExperimentKey, ([i64; 2], Arms)> {
        let mut experiments: BTreeMap<ExperimentKey, ([i64; 2], Arms)> = BTreeMap::new();

        for Evidence { time_ms, kind } in self.counted.values() {
            let Kind::Live(observation) = kind else { continue };
            let empty = || ([*time_ms, *time_ms], Arms::new());
            let ([first, last], arms) = experiments.entry(observation.key.clone()).or_insert_with(empty);
            *first = (*first).min(*time_ms);
            *last = (*last).max(*time_ms);
            arms.entry(observation.variant.clone()).or_default().add(observation);
        }
        experiments
    }

    /// Pairs of a live and a shadow verdict: the first one of each picture and pair of versions.
    pub(super) fn pairs(&self) -> Vec<&Pair> {
        let mut firsts: BTreeMap<(&str, &str, u128), (i64, &Pair)> = BTreeMap::new();

        for Evidence { time_ms, kind } in self.counted.values() {
            let Kind::Pair(pair) = kind else { continue };
            let candidate = (*time_ms, pair);
            let versions = (pair.live_version.as_str(), pair.shadow_version.as_str(), pair.picture);
            let first = firsts.entry(versions).or_insert(candidate);
            *first = candidate.min(*first);
        }
        firsts.into_values().map(|(_, pair)| pair).collect()
    }
}
