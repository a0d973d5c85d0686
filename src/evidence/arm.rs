//! Sums of integers over the verdicts of a variant: the order of adding does not matter.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    change::Change,
    cluster_sums::ClusterSums,
    first::FirstOutcome,
    metric::Metric,
    observation::{Observation, PROBABILITY_STEPS},
    reviewed::{self, ReviewSums, Reviewed, ReviewedHour},
};
use crate::{
    message::{Decision, Label},
    statistics::{Histogram, UnitSums},
};

/// The verdicts of one unit or picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// All.
    pub verdicts: u64,
    /// Those with the label `no`.
    pub no: u64,
    /// Those that go to people.
    pub review: u64,
    /// Sum, in steps of 2⁻³².
    pub confidence: u64,
    /// Those whose latency is measured.
    pub measured: u64,
    /// Sum over them, in microseconds.
    pub latency_us: u64,
    /// Requests that became dead letters.
    pub dead_letters: u64,
}

impl Cluster {
    /// The sums of one verdict.
    pub(super) fn of(observation: &Observation) -> Self {
        let is_measured = !observation.is_cached;
        Self {
            verdicts: 1,
            no: u64::from(observation.label == Label::No),
            review: u64::from(observation.decision == Decision::Review),
            confidence: observation.confidence,
            measured: u64::from(is_measured),
            latency_us: if is_measured { observation.latency_us } else { 0 },
            dead_letters: 0,
        }
    }

    /// The sums of one dead letter.
    pub(super) const DEAD_LETTER: Self =
        Self { verdicts: 0, no: 0, review: 0, confidence: 0, measured: 0, latency_us: 0, dead_letters: 1 };

    /// Adds or removes other sums.
    #[must_use]
    pub(super) fn changed(self, other: &Self, change: Change) -> Self {
        let apply = |a: u64, b: u64| change.apply(a, b);
        Self {
            verdicts: apply(self.verdicts, other.verdicts),
            no: apply(self.no, other.no),
            review: apply(self.review, other.review),
            confidence: apply(self.confidence, other.confidence),
            measured: apply(self.measured, other.measured),
            latency_us: apply(self.latency_us, other.latency_us),
            dead_letters: apply(self.dead_letters, other.dead_letters),
        }
    }

    /// How many verdicts a metric is about, and the sum of what it measures.
    fn of_metric(&self, metric: Metric) -> (u64, u64) {
        match metric {
            Metric::Confidence => (self.verdicts, self.confidence),
            Metric::NoShare => (self.verdicts, self.no),
            Metric::ReviewShare => (self.verdicts, self.review),
            Metric::Latency => (self.measured, self.latency_us),
            Metric::Misjudged | Metric::MisjudgedNo => (0, 0),
        }
    }
}

/// Sums over the clusters of some verdicts, for every metric.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricSums {
    /// In the order of [`Metric::ALL`].
    sums: [ClusterSums; 4],
    /// Clusters with a verdict.
    pub(super) clusters: u64,
    /// Verdicts.
    pub(super) verdicts: u64,
    /// Clusters with a verdict or a dead letter.
    pub(super) present: u64,
    /// Clusters with a `no`, with a review, and with a dead letter.
    pub(super) with_no: u64,
    pub(super) with_review: u64,
    pub(super) with_dead_letter: u64,
}

impl MetricSums {
    /// Replaces the sums of one cluster by newer ones.
    pub(super) fn replace(&mut self, before: &Cluster, after: &Cluster) {
        for (cluster, change) in [(before, Change::Remove), (after, Change::Add)] {
            for (sums, metric) in self.sums.iter_mut().zip(Metric::ALL) {
                sums.change(cluster.of_metric(metric), change);
            }
            self.verdicts = change.apply(self.verdicts, cluster.verdicts);
            for (count, of) in [
                (&mut self.clusters, cluster.verdicts),
                (&mut self.present, cluster.verdicts + cluster.dead_letters),
                (&mut self.with_no, cluster.no),
                (&mut self.with_review, cluster.review),
                (&mut self.with_dead_letter, cluster.dead_letters),
            ] {
                *count = change.apply(*count, u64::from(of > 0));
            }
        }
    }

    /// The sums that a metric is computed from.
    pub(super) fn of(&self, metric: Metric) -> UnitSums {
        let place = Metric::ALL.iter().position(|other| *other == metric).unwrap_or_default();
        self.sums[place].scaled(match metric {
            Metric::Confidence => PROBABILITY_STEPS,
            Metric::Latency => 1e3,
            _ => 1.0,
        })
    }
}

/// Verdicts of one hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hour {
    /// Sums over verdicts, as over those of a cluster.
    pub(super) sums: Cluster,
    /// Those of them that people have reviewed.
    pub(super) reviews: ReviewedHour,
}

/// First verdicts of pictures, where each request is a unit: a picture that is sent often counts
/// once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FirstVerdicts {
    pub(super) pictures: u64,
    pub(super) no: u64,
    pub(super) review: u64,
    pub(super) latency_us: Histogram,
}

impl FirstVerdicts {
    pub(super) fn change(&mut self, first: &FirstOutcome, change: Change) {
        self.pictures = change.apply(self.pictures, 1);
        self.no = change.apply(self.no, u64::from(first.is_no));
        self.review = change.apply(self.review, u64::from(first.is_review));
        match (first.latency_us, change) {
            (Some(latency), Change::Add) => self.latency_us.add(latency),
            (Some(latency), Change::Remove) => self.latency_us.remove(latency),
            (None, _) => {}
        }
    }
}

/// All verdicts of a variant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arm {
    /// The version that answers.
    pub(super) version: String,
    /// In millionths.
    pub(super) share: u64,
    pub(super) cached: u64,
    /// How many verdicts people are meant to review: the sum of the probabilities, in millionths.
    pub(super) review_expected: u64,
    /// Requests that became dead letters.
    pub(super) dead_letters: u64,
    pub(super) latency_us: Histogram,
    pub(super) sums: MetricSums,
    pub(super) firsts: FirstVerdicts,
    /// Verdicts that people have reviewed.
    pub(super) reviews: ReviewSums,
    /// By name and value of the segment.
    pub(super) segments: BTreeMap<(String, String), MetricSums>,
    /// By hours since 1970. A store keeps them apart, because there may be thousands.
    #[serde(skip)]
    pub hours: BTreeMap<i64, Hour>,
}

impl Arm {
    /// The reviewed verdicts of each hour since 1970.
    pub(super) fn reviewed_hours(&self) -> impl Iterator<Item = (i64, &ReviewedHour)> + Clone {
        self.hours.iter().map(|(hour, of)| (*hour, &of.reviews))
    }

    /// Notes the version and the share. A definition has one of each for each variant. Where
    /// records contradict that, the greatest one that was ever read stands, so that the result does
    /// not depend on the order of reading.
    pub(super) fn note(&mut self, observation: &Observation) {
        if observation.version > self.version {
            self.version.clone_from(&observation.version);
        }
        self.share = self.share.max(observation.share);
    }

    /// Verdicts that count.
    pub fn verdicts(&self) -> u64 {
        self.sums.verdicts
    }

    /// Whether no record counts for it.
    pub(super) fn is_empty(&self) -> bool {
        self.sums.verdicts == 0 && self.dead_letters == 0
    }

    /// Adds or removes what is not a sum over clusters.
    pub(super) fn change(&mut self, time_ms: i64, observation: &Observation, change: Change) {
        self.cached = change.apply(self.cached, u64::from(observation.is_cached));
        self.review_expected = change.apply(self.review_expected, u64::from(observation.review_probability));
        match (observation.is_cached, change) {
            (true, _) => {}
            (false, Change::Add) => self.latency_us.add(observation.latency_us),
            (false, Change::Remove) => self.latency_us.remove(observation.latency_us),
        }
        self.change_hour(time_ms, &Cluster::of(observation), change);
    }

    pub(super) fn change_hour(&mut self, time_ms: i64, sums: &Cluster, change: Change) {
        self.with_hour(time_ms, |hour| hour.sums = hour.sums.changed(sums, change));
    }

    pub(super) fn change_reviewed_hour(&mut self, time_ms: i64, reviewed: &Reviewed, change: Change) {
        self.with_hour(time_ms, |hour| reviewed::change_hour(&mut hour.reviews, reviewed, change));
    }

    /// Changes an hour, and forgets one that holds nothing any more.
    fn with_hour(&mut self, time_ms: i64, change: impl FnOnce(&mut Hour)) {
        let hour = self.hours.entry(hour_of(time_ms)).or_default();
        change(hour);
        if *hour == Hour::default() {
            self.hours.remove(&hour_of(time_ms));
        }
    }

    /// How many units the variant got: requests, or users.
    pub(super) fn units(&self, is_by_request: bool) -> u64 {
        if is_by_request { self.sums.verdicts } else { self.sums.clusters }
    }
}

/// Hours since 1970.
pub(super) fn hour_of(time_ms: i64) -> i64 {
    time_ms.div_euclid(3_600_000)
}
