//! One record, as the integers that evidence needs.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::message::{Decision, Label, Record, Role, Verdict, header};

/// Probabilities are counted in steps of 2⁻³².
pub(super) const PROBABILITY_STEPS: f64 = 4_294_967_296.0;

/// Longer latencies are no measurements. The bound keeps sums of squares within 128 bits.
const LATENCY_MS_MAX: f64 = 1e9;

/// An experiment in one definition. Only verdicts with the same key may be compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ExperimentKey {
    /// Its name.
    pub experiment: String,
    /// Counts deliberate re-randomisations.
    pub epoch: u32,
    /// Digest of the definition. Verdicts of earlier releases have the digest of all settings.
    pub definition: String,
    /// The field whose values are divided among the variants.
    pub unit: String,
}

impl ExperimentKey {
    /// Whether each request is a unit.
    pub(super) fn is_by_request(&self) -> bool {
        self.unit == "request_id"
    }
}

/// A variant of an experiment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ArmKey {
    /// The experiment in one definition.
    pub experiment: ExperimentKey,
    /// The variant's name.
    pub variant: String,
}

/// A live verdict of an experiment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Observation {
    /// The variant.
    pub arm: ArmKey,
    /// The version that answered.
    pub version: String,
    /// The variant's share of the experiment's units, in millionths.
    pub share: u64,
    /// Verdicts of one cluster are not independent. A cluster is a unit, or a picture where each
    /// request is a unit.
    pub cluster: u128,
    /// The label.
    pub label: Label,
    /// What was decided.
    pub decision: Decision,
    /// In steps of 2⁻³².
    pub confidence: u64,
    /// In microseconds.
    pub latency_us: u64,
    /// The answer came from the cache, so its latency is not measured.
    pub is_cached: bool,
    /// The probability with which people are shown the verdict, in millionths; 0 where the verdict
    /// does not say.
    pub review_probability: u32,
    /// Names and values of the segments that settings declared.
    pub segments: Vec<(String, String)>,
}

/// A live and a shadow verdict of one request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// Live and shadow version.
    pub versions: (String, String),
    /// Live and shadow label.
    pub labels: (Label, Label),
    /// A digest of the picture.
    pub picture: u128,
    /// The key of the live verdict.
    pub live: u128,
}

/// A record as evidence. The earlier of two is the lesser one; of two at the same moment, their
/// content decides. The order therefore never depends on the order of reading.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Evidence {
    /// Milliseconds since 1970.
    pub time_ms: i64,
    /// What it contributes.
    pub kind: Kind,
    /// Shadow verdicts that should come with it.
    pub shadows: Option<ExpectedShadows>,
}

/// Shadow verdicts that should come with a live one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExpectedShadows {
    /// The live version, and each shadow version.
    pub versions: Vec<(String, String)>,
    /// The answer came from the cache, so none of them comes.
    pub is_cached: bool,
}

/// What a record contributes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A live verdict whose variant was assigned at random.
    Live(Observation),
    /// A shadow verdict with its live one.
    Pair(Pair),
    /// A request of a variant that became a dead letter; with the unit's digest, where it has one.
    DeadLetter(ArmKey, Option<u128>),
    /// Settings forced the variant.
    Forced,
    /// No experiment took the request.
    Outside,
    /// The unit is not the request, and the verdict has no digest of it: an earlier release wrote
    /// it.
    UnitUnknown,
}

impl Evidence {
    /// Reads a verdict. None where its time or its numbers make no sense.
    pub(super) fn of(verdict: &Verdict) -> Option<Self> {
        let is_share = |share: f64| (0.0..=1.0).contains(&share);
        let propensity = verdict.ab.as_ref().map_or(1.0, |ab| ab.propensity);
        let is_sane = is_share(f64::from(verdict.confidence))
            && verdict.review_probability.is_none_or(is_share)
            && is_share(propensity)
            && (0.0..=LATENCY_MS_MAX).contains(&verdict.latency_ms);
        if !is_sane {
            return None;
        }

        let time_ms = verdict.timestamp.parse::<jiff::Timestamp>().ok()?.as_millisecond();
        let kind = match verdict.ab_role {
            Role::Live => Kind::of_live(verdict),
            Role::Shadow => Kind::of_shadow(verdict),
        };
        let versions = verdict.shadows.iter().map(|shadow| (verdict.model_version.clone(), shadow.clone()));
        let shadows = (!verdict.shadows.is_empty())
            .then(|| ExpectedShadows { versions: versions.collect(), is_cached: verdict.cached });
        Some(Self { time_ms, kind, shadows })
    }

    /// Reads the headers of a dead letter, and gives the id of its request. None where no
    /// experiment took the request.
    pub(super) fn of_dead_letter(record: &Record) -> Option<(String, Self)> {
        let text = |name: &str| header(&record.headers, name).map(str::to_owned);
        let arm = ArmKey {
            experiment: ExperimentKey {
                experiment: text("ofa-error-experiment")?,
                epoch: text("ofa-error-epoch")?.parse().ok()?,
                definition: text("ofa-error-definition")?,
                unit: text("ofa-error-unit")?,
            },
            variant: text("ofa-error-variant")?,
        };
        let unit = text("ofa-error-unit-hash").map(|unit| hash(&[&unit]));
        if unit.is_none() && !arm.experiment.is_by_request() {
            return None;
        }
        let evidence = Self { time_ms: record.timestamp_ms?, kind: Kind::DeadLetter(arm, unit), shadows: None };
        Some((text("ofa-error-request-id")?, evidence))
    }
}

impl Kind {
    fn of_shadow(verdict: &Verdict) -> Self {
        let Some(live) = &verdict.live else { return Self::Outside };
        Self::Pair(Pair {
            versions: (live.model_version.clone(), verdict.model_version.clone()),
            labels: (live.result, verdict.result),
            picture: hash(&[&verdict.image_hash]),
            live: live_key(&verdict.request_id),
        })
    }

    fn of_live(verdict: &Verdict) -> Self {
        let (Some(experiment), Some(variant)) = (&verdict.ab_experiment, &verdict.ab_variant) else {
            return Self::Outside;
        };
        let Some(ab) = &verdict.ab else { return Self::Outside };
        if ab.forced {
            return Self::Forced;
        }

        let definition = ab.definition.as_ref().unwrap_or(&verdict.route.config_digest);
        let key = ExperimentKey {
            experiment: experiment.clone(),
            epoch: ab.epoch,
            definition: definition.clone(),
            unit: ab.unit.clone(),
        };
        let cluster = match &ab.unit_hash {
            Some(unit) => unit,
            None if key.is_by_request() => &verdict.image_hash,
            None => return Self::UnitUnknown,
        };

        Self::Live(Observation {
            arm: ArmKey { experiment: key, variant: variant.clone() },
            version: verdict.model_version.clone(),
            share: (ab.propensity * 1e6).round() as u64,
            cluster: hash(&[cluster]),
            label: verdict.result,
            decision: verdict.decision,
            confidence: (f64::from(verdict.confidence) * PROBABILITY_STEPS).round() as u64,
            latency_us: (verdict.latency_ms * 1e3).round() as u64,
            is_cached: verdict.cached,
            review_probability: verdict.review_probability.filter(|it| *it > 0.0).map_or(0, millionths),
            segments: verdict.segments.clone().into_iter().collect(),
        })
    }
}

/// The key of the live verdict of a request.
pub(super) fn live_key(request_id: &str) -> u128 {
    hash(&["live", request_id])
}

/// The key of the verdict of a shadow version, by that of the live verdict.
pub(super) fn shadow_key(live: u128, version: &str) -> u128 {
    hash(&["shadow", &live.to_string(), version])
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

/// A probability in millionths, at least one.
pub(super) fn millionths(probability: f64) -> u32 {
    ((probability * 1e6).round() as u32).clamp(1, 1_000_000)
}
