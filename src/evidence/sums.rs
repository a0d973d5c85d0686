//! Sums of integers: the order of adding does not matter.

use std::collections::BTreeMap;

use super::{
    metric::Metric,
    observation::{Observation, PROBABILITY_STEPS},
};
use crate::{
    message::{Decision, Label},
    statistics::{Histogram, UnitSums},
};

/// Sums over clusters of a count (`n`) and of what is measured (`x`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ClusterSums {
    clusters: u64,
    n: u128,
    x: u128,
    nn: u128,
    xn: u128,
    xx: u128,
}

impl ClusterSums {
    fn add(&mut self, n: u64, x: u64) {
        if n == 0 {
            return;
        }
        let (n, x) = (u128::from(n), u128::from(x));
        self.clusters += 1;
        self.n += n;
        self.x += x;
        self.nn += n * n;
        self.xn += x * n;
        self.xx += x * x;
    }

    /// In units of which `steps` make one.
    pub(super) fn scaled(&self, steps: f64) -> UnitSums {
        UnitSums {
            units: self.clusters as f64,
            n: self.n as f64,
            x: self.x as f64 / steps,
            nn: self.nn as f64,
            xn: self.xn as f64 / steps,
            xx: self.xx as f64 / (steps * steps),
        }
    }
}

/// The sums of one cluster.
#[derive(Clone, Copy, Debug, Default)]
struct Cluster {
    verdicts: u64,
    no: u64,
    review: u64,
    confidence: u64,
    measured: u64,
    latency_us: u64,
}

/// All verdicts of a variant.
#[derive(Clone, Debug, Default)]
pub(super) struct Arm {
    pub(super) version: String,
    /// In millionths.
    pub(super) share: u64,
    is_by_request: bool,
    pub(super) verdicts: u64,
    pub(super) cached: u64,
    pub(super) latency_us: Histogram,
    clusters: BTreeMap<u128, Cluster>,
}

impl Arm {
    pub(super) fn add(&mut self, observation: &Observation) {
        // A definition has one version and one share for each variant. Where records contradict that,
        // the result must still not depend on the order of reading.
        if observation.version > self.version {
            self.version.clone_from(&observation.version);
        }
        self.share = self.share.max(observation.share);
        self.is_by_request = observation.key.is_by_request();
        self.verdicts += 1;

        let cluster = self.clusters.entry(observation.cluster).or_default();
        cluster.verdicts += 1;
        cluster.no += u64::from(observation.label == Label::No);
        cluster.review += u64::from(observation.decision == Decision::Review);
        cluster.confidence += observation.confidence;

        if observation.is_cached {
            self.cached += 1;
        } else {
            cluster.measured += 1;
            cluster.latency_us += observation.latency_us;
            self.latency_us.add(observation.latency_us);
        }
    }

    /// How many independent observations there are.
    pub(super) fn clusters(&self) -> u64 {
        self.clusters.len() as u64
    }

    /// How many units the variant got: requests, or users.
    pub(super) fn units(&self) -> u64 {
        if self.is_by_request { self.verdicts } else { self.clusters() }
    }

    /// The sums over clusters that a metric is computed from.
    pub(super) fn sums(&self, metric: Metric) -> UnitSums {
        let mut sums = ClusterSums::default();
        for cluster in self.clusters.values() {
            let (n, x) = match metric {
                Metric::Confidence => (cluster.verdicts, cluster.confidence),
                Metric::NoShare => (cluster.verdicts, cluster.no),
                Metric::ReviewShare => (cluster.verdicts, cluster.review),
                Metric::Latency => (cluster.measured, cluster.latency_us),
            };
            sums.add(n, x);
        }

        sums.scaled(match metric {
            Metric::Confidence => PROBABILITY_STEPS,
            Metric::NoShare | Metric::ReviewShare => 1.0,
            Metric::Latency => 1e3,
        })
    }
}
