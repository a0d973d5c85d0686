//! A histogram with bins of 1 % growth: [1.01^i, 1.01^(i+1)).
//!
//! The edges never move, so that merging is addition: the same values give the same bins in any
//! order and on any machine.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Growth from one edge to the next.
const GROWTH: f64 = 1.01;

/// Counts of values by bin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    bins: BTreeMap<u16, u64>,
}

/// The bin of a value of at least 1; smaller ones share bin 0. The logarithm is computed in
/// software, so that all machines agree.
pub fn bin_of(value: u64) -> u16 {
    let exact = libm::log(value.max(1) as f64) / libm::log(GROWTH);
    // A value on an edge must not fall below it by rounding: only 1 is on one.
    exact.floor() as u16
}

/// The edges of a bin.
pub fn edges(bin: u16) -> [f64; 2] {
    let edge = |power: u16| libm::pow(GROWTH, f64::from(power));
    [edge(bin), edge(bin + 1)]
}

impl Histogram {
    /// Counts a value.
    pub fn add(&mut self, value: u64) {
        *self.bins.entry(bin_of(value)).or_default() += 1;
    }

    /// Takes a value back that was counted.
    pub fn remove(&mut self, value: u64) {
        if let Some(count) = self.bins.get_mut(&bin_of(value)) {
            *count = count.saturating_sub(1);
        }
        // A histogram of the same values is equal, also if others were counted in between.
        self.bins.retain(|_, count| *count > 0);
    }

    /// How many values are greater than a limit: those in the bins above that of the limit.
    pub fn count_above(&self, limit: u64) -> u64 {
        self.bins.range(bin_of(limit) + 1..).map(|(_, count)| count).sum()
    }

    /// Adds the counts of another.
    pub fn merge(&mut self, other: &Self) {
        for (bin, count) in &other.bins {
            *self.bins.entry(*bin).or_default() += count;
        }
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.bins.values().sum()
    }

    /// Bins that are not empty, with their counts, smallest first.
    pub fn bins(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        self.bins.iter().map(|(bin, count)| (*bin, *count))
    }

    /// The bin that holds the value of a rank, counted from 1. None where there are not so many.
    pub fn bin_at_rank(&self, rank: u64) -> Option<u16> {
        let mut before = 0;
        for (bin, count) in &self.bins {
            before += count;
            if rank <= before {
                return Some(*bin);
            }
        }
        None
    }

    /// The bin of a quantile: of the value with rank ⌈q n⌉, at least 1 ("inverted CDF").
    pub fn quantile_bin(&self, q: f64) -> Option<u16> {
        self.bin_at_rank(rank_of(q, self.count()))
    }

    /// A quantile, to 0.5 %: the geometric middle of its bin. None without values.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let [low, high] = edges(self.quantile_bin(q)?);
        Some((low * high).sqrt())
    }
}

/// The rank ⌈q n⌉ of a quantile, at least 1.
pub fn rank_of(q: f64, n: u64) -> u64 {
    // 0.29 · 100 is a little less than 29 in floating point, 0.07 · 100 a little more than 7.
    let exact = q * n as f64;
    let nearest = exact.round();
    let rank = if (exact - nearest).abs() < 1e-9 * exact.max(1.0) { nearest } else { exact.ceil() };
    (rank as u64).max(1)
}
