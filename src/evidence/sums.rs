//! All sums of outcomes: integers, by experiment, variant and pair of versions.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    arm::Arm,
    observation::{ArmKey, ExperimentKey},
    reviews::ReviewCounts,
};

/// Numbers of records that do not count, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Excluded {
    /// Records of a request that has an earlier one: a replay, or delivery at least once.
    pub duplicates: u64,
    /// No experiment took the request.
    pub outside: u64,
    /// Settings forced the variant.
    pub forced: u64,
    /// The unit is not the request, and the verdict has no digest of it: an earlier release wrote
    /// it.
    pub unit_unknown: u64,
    /// Records that are no verdicts, or whose numbers make no sense.
    pub unreadable: u64,
}

/// The variants of an experiment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExperimentSums {
    /// Times of the first and the last record, in milliseconds since 1970.
    pub period_ms: Option<[i64; 2]>,
    /// By variant.
    pub arms: BTreeMap<String, Arm>,
}

/// Variants that have a verdict or a dead letter, by name.
pub(super) type Arms<'s> = BTreeMap<&'s str, &'s Arm>;

pub(super) fn arms_of(sums: &ExperimentSums) -> Arms<'_> {
    let counted = sums.arms.iter().filter(|(_, arm)| !arm.is_empty());
    counted.map(|(variant, arm)| (variant.as_str(), arm)).collect()
}

/// The share of each variant of the units, in the order of the variants. Only verdicts tell it:
/// variants without a verdict divide what the others leave.
pub(super) fn shares_of(arms: &Arms<'_>) -> Vec<f64> {
    let known: u64 = arms.values().map(|arm| arm.share).sum();
    let unknown = arms.values().filter(|arm| arm.share == 0).count();
    let left = 1_000_000_u64.saturating_sub(known) as f64 / unknown.max(1) as f64;
    arms.values().map(|arm| if arm.share == 0 { left } else { arm.share as f64 }).collect()
}

/// The control and its name: the variant that is named, or `control`, or the first by name.
pub(super) fn control_of<'s>(arms: &Arms<'s>, named: Option<&str>) -> Option<(&'s str, &'s Arm)> {
    let found = match named {
        Some(named) => arms.get_key_value(named),
        None => arms.get_key_value("control").or_else(|| arms.first_key_value()),
    };
    found.map(|(name, arm)| (*name, *arm))
}

/// Two versions on the same requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairSums {
    /// First pairs of pictures: rows are live labels, columns the shadow's.
    pub(super) labels: [[u64; 3]; 3],
    /// Requests that should have a shadow verdict, as their live verdicts say.
    pub(super) expected: u64,
    /// Those of them that have one.
    pub(super) judged: u64,
    /// Those of them that have none because the live answer was cached.
    pub(super) cached: u64,
}

/// All sums.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Experiments, each in one definition.
    pub experiments: BTreeMap<ExperimentKey, ExperimentSums>,
    /// By live and shadow version.
    pub pairs: BTreeMap<(String, String), PairSums>,
    /// Answers of people.
    pub reviews: ReviewCounts,
    /// Records that do not count.
    pub excluded: Excluded,
}

/// Which sums changed. A store writes these again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Experiments.
    pub experiments: BTreeSet<ExperimentKey>,
    /// Hours of variants, since 1970.
    pub hours: BTreeSet<(ArmKey, i64)>,
    /// Live and shadow versions.
    pub pairs: BTreeSet<(String, String)>,
}

impl Touched {
    /// All sums.
    pub fn all(sums: &Sums) -> Self {
        let mut hours = BTreeSet::new();
        for (experiment, of) in &sums.experiments {
            for (variant, arm) in &of.arms {
                let arm_key = ArmKey { experiment: experiment.clone(), variant: variant.clone() };
                hours.extend(arm.hours.keys().map(|hour| (arm_key.clone(), *hour)));
            }
        }
        Self {
            experiments: sums.experiments.keys().cloned().collect(),
            hours,
            pairs: sums.pairs.keys().cloned().collect(),
        }
    }
}

impl ExperimentSums {
    pub(super) fn note_time(&mut self, time_ms: i64) {
        let [first, last] = self.period_ms.unwrap_or([time_ms; 2]);
        self.period_ms = Some([first.min(time_ms), last.max(time_ms)]);
    }
}
