//! Sums over units or pictures: what the variance of a ratio is computed from.

use serde::{Deserialize, Serialize};

use super::change::Change;
use crate::statistics::UnitSums;

/// Sums over clusters of a count (`n`) and of what is measured (`x`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClusterSums {
    clusters: u64,
    n: u128,
    x: u128,
    nn: u128,
    xn: u128,
    xx: u128,
}

impl ClusterSums {
    pub(super) fn change(&mut self, (n, x): (u64, u64), change: Change) {
        if n == 0 {
            return;
        }
        let (n, x) = (u128::from(n), u128::from(x));
        self.clusters = change.apply(self.clusters, 1);
        for (total, part) in
            [(&mut self.n, n), (&mut self.x, x), (&mut self.nn, n * n), (&mut self.xn, x * n), (&mut self.xx, x * x)]
        {
            *total = change.apply_wide(*total, part);
        }
    }

    /// Units or pictures.
    pub(super) fn clusters(&self) -> u64 {
        self.clusters
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
