//! One verdict, reduced to the integers that evidence needs.

use sha2::{Digest as _, Sha256};

use crate::message::{Decision, Label, Role, Verdict};

/// Probabilities are counted in steps of 2⁻³².
pub(super) const PROBABILITY_STEPS: f64 = 4_294_967_296.0;

/// Longer latencies are no measurements. The bound keeps sums of squares within 128 bits.
const LATENCY_MS_MAX: f64 = 1e9;

/// An experiment in one definition: what may be compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Question {
    pub(super) experiment: String,
    /// Counts deliberate re-randomisations.
    pub(super) epoch: u32,
    /// Digest of the definition; of verdicts of earlier releases, that of the whole configuration.
    pub(super) definition: String,
    /// What is divided among the variants.
    pub(super) unit: String,
}

/// A live verdict of an experiment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Observation {
    pub(super) question: Question,
    pub(super) variant: String,
    pub(super) version: String,
    /// The variant's share among the experiment's units, in millionths.
    pub(super) share: u64,
    /// Verdicts of one cluster are no independent observations: those of one unit, or of one picture
    /// where each request is a unit of its own.
    pub(super) cluster: u128,
    /// Milliseconds since 1970.
    pub(super) time_ms: i64,
    pub(super) label: Label,
    pub(super) decision: Decision,
    pub(super) confidence: u64,
    pub(super) latency_us: u64,
    /// The answer was kept from an earlier request: its latency is no observation.
    pub(super) is_cached: bool,
}

/// A pair of verdicts about one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) live_version: String,
    pub(super) shadow_version: String,
    pub(super) live: Label,
    pub(super) shadow: Label,
    pub(super) picture: u128,
    pub(super) time_ms: i64,
}

impl Pair {
    /// Of several, the least counts.
    pub(super) fn rank(&self) -> (i64, Label, Label) {
        (self.time_ms, self.live, self.shadow)
    }
}

/// What evidence makes of a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// A verdict that was assigned by chance.
    Live(Observation),
    /// A shadow verdict with its live one.
    Pair(Pair),
    /// Its variant was forced by settings: no chance was involved.
    Forced(i64),
    /// No experiment took the request.
    Outside(i64),
    /// The unit is not the request, and the verdict does not name it: it is of an earlier release.
    UnitUnknown(i64),
}

impl Evidence {
    /// Of a verdict whose time and numbers make sense; none otherwise.
    pub(super) fn of(verdict: &Verdict) -> Option<Self> {
        let is_share = |share: f64| (0.0..=1.0).contains(&share);
        let propensity = verdict.ab.as_ref().map_or(1.0, |ab| ab.propensity);
        let is_sane = is_share(f64::from(verdict.confidence))
            && is_share(propensity)
            && (0.0..=LATENCY_MS_MAX).contains(&verdict.latency_ms);
        if !is_sane {
            return None;
        }
        let time_ms = verdict.timestamp.parse::<jiff::Timestamp>().ok()?.as_millisecond();
        if verdict.ab_role == Role::Shadow {
            let Some(live) = &verdict.live else { return Some(Self::Outside(time_ms)) };
            return Some(Self::Pair(Pair {
                live_version: live.model_version.clone(),
                shadow_version: verdict.model_version.clone(),
                live: live.result,
                shadow: verdict.result,
                picture: hash(&[&verdict.image_hash]),
                time_ms,
            }));
        }
        let (Some(experiment), Some(variant), Some(ab)) = (&verdict.ab_experiment, &verdict.ab_variant, &verdict.ab)
        else {
            return Some(Self::Outside(time_ms));
        };
        if ab.forced {
            return Some(Self::Forced(time_ms));
        }
        if ab.unit != "request_id" && ab.unit_hash.is_none() {
            return Some(Self::UnitUnknown(time_ms));
        }
        let definition = ab.definition.as_ref().unwrap_or(&verdict.route.config_digest);
        Some(Self::Live(Observation {
            question: Question {
                experiment: experiment.clone(),
                epoch: ab.epoch,
                definition: definition.clone(),
                unit: ab.unit.clone(),
            },
            variant: variant.clone(),
            version: verdict.model_version.clone(),
            share: (ab.propensity * 1e6).round() as u64,
            cluster: hash(&[ab.unit_hash.as_deref().unwrap_or(&verdict.image_hash)]),
            time_ms,
            label: verdict.result,
            decision: verdict.decision,
            confidence: (f64::from(verdict.confidence) * PROBABILITY_STEPS).round() as u64,
            latency_us: (verdict.latency_ms * 1e3).round() as u64,
            is_cached: verdict.cached,
        }))
    }

    /// Which of two verdicts about one request counts: the earlier one. Of one moment, an order that
    /// depends on nothing but the verdicts.
    pub(super) fn rank(&self) -> (i64, String) {
        let time_ms = match self {
            Self::Live(observation) => observation.time_ms,
            Self::Pair(pair) => pair.time_ms,
            Self::Forced(time_ms) | Self::Outside(time_ms) | Self::UnitUnknown(time_ms) => *time_ms,
        };
        (time_ms, format!("{self:?}"))
    }
}

/// 128 bits of a digest: two different texts do not share them.
pub(super) fn hash(parts: &[&str]) -> u128 {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    let digest: [u8; 32] = digest.finalize().into();
    digest.iter().take(16).fold(0, |bits, byte| (bits << 8) | u128::from(*byte))
}
