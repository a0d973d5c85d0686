//! Intervals of quantiles, by ranks of the ordered observations.
//!
//! A rank that does not exist is none: of 50 observations, nothing bounds the 99th percentile from
//! above.

use super::{
    Histogram,
    histogram::edges,
    special::{binomial_quantile, first_true, ln_beta},
};

/// Ranks of the observations that bound a quantile, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranks {
    /// The lower end; none without a finite bound.
    pub lower: Option<u64>,
    /// The upper end; none without a finite bound.
    pub upper: Option<u64>,
}

impl Ranks {
    fn of(lower: u64, upper: u64, n: u64) -> Self {
        Self { lower: (lower > 0).then_some(lower), upper: (upper <= n).then_some(upper) }
    }

    /// The interval that these ranks give, widened to the edges of their bins.
    pub fn within(&self, histogram: &Histogram) -> [Option<f64>; 2] {
        let bin = |rank: Option<u64>| rank.and_then(|rank| histogram.bin_at_rank(rank));
        [bin(self.lower).map(|bin| edges(bin)[0]), bin(self.upper).map(|bin| edges(bin)[1])]
    }
}

/// For a fixed number of observations: ranks of the binomial distribution.
pub fn fixed(n: u64, q: f64, alpha: f64) -> Ranks {
    let lower = binomial_quantile(0.5 * alpha, n, q);
    let upper = binomial_quantile(1.0 - 0.5 * alpha, n, q) + 1;
    Ranks::of(lower, upper, n)
}

/// The concentration of the prior of [`at_any_time`], tuned for the time `t_best` (Howard et al.
/// 2021, as in their package confseq).
pub fn concentration(t_best: f64, alpha: f64) -> f64 {
    let two = -2.0 * alpha.ln();
    t_best / (two + libm::log1p(two)) - 1.0
}

/// At any time: the counts of observations below the quantile that a Beta mixture does not rule out
/// (Howard & Ramdas, Bernoulli 2022; a confidence sequence of a Bernoulli share).
pub fn at_any_time(n: u64, q: f64, alpha: f64, t_best: f64) -> Ranks {
    let k = concentration(t_best, alpha);
    let (a, b) = (k * q, k * (1.0 - q));
    let is_possible = |count: u64| {
        let (below, above) = (count as f64, (n - count) as f64);
        let ln_e = ln_beta(a + below, b + above) - ln_beta(a, b) - below * q.ln() - above * (1.0 - q).ln();
        ln_e < -alpha.ln()
    };
    // The evidence is least at the expected count, and grows on both sides.
    let expected = ((q * n as f64).round() as u64).min(n);
    if !is_possible(expected) {
        return Ranks { lower: None, upper: None };
    }
    let lower = search(0, expected, is_possible);
    let upper = n - search(0, n - expected, |from_end| is_possible(n - from_end));
    Ranks::of(lower, upper + 1, n)
}

/// The smallest number of an interval for which a condition holds that holds for its end.
fn search(low: u64, high: u64, holds: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (low, high);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) { high = middle } else { low = middle + 1 }
    }
    low
}

/// A band around the whole distribution function that holds at any time from `t_min` on (Howard &
/// Ramdas 2022, theorem 2): A √((ln(1 + ln(t/m)) + C) / t).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Band {
    a: f64,
    c: f64,
    t_min: f64,
}

impl Band {
    /// The band of a level, with A = 0.85.
    pub fn new(alpha: f64, t_min: f64) -> Self {
        const A: f64 = 0.85;
        let c = first_true(0.5, 200.0, |c| least_error(A, c) <= alpha);
        Self { a: A, c, t_min }
    }

    /// The constant C.
    pub fn constant(&self) -> f64 {
        self.c
    }

    /// Half the width of the band after `t` observations.
    pub fn half_width(&self, t: f64) -> f64 {
        let time = libm::log1p((t.max(self.t_min) / self.t_min).ln());
        self.a * ((time + self.c) / t).sqrt()
    }

    /// The ranks that bound a quantile after `t` observations.
    pub fn ranks(&self, t: u64, q: f64) -> Ranks {
        let (n, half) = (t as f64, self.half_width(t as f64));
        let lower = (n * (q - half)).ceil().max(0.0) as u64;
        Ranks::of(lower, (n * (q + half)).floor() as u64 + 1, t)
    }
}

/// The probability that the band is left, at most: the least over η of
/// 4 e^(-γ²C) (1 + 1 / ((γ² - 1) ln η)), γ = √(2/η) (A - √(2 (η - 1) / C)).
fn least_error(a: f64, c: f64) -> f64 {
    let error = |eta: f64| {
        let gamma = (2.0 / eta).sqrt() * (a - (2.0 * (eta - 1.0) / c).sqrt());
        if gamma <= 1.0 {
            return f64::INFINITY;
        }
        let squared = gamma * gamma;
        4.0 * (-squared * c).exp() * (1.0 + 1.0 / ((squared - 1.0) * eta.ln()))
    };
    // One minimum; beyond the last η with γ > 1 the error is infinite.
    let (mut low, mut high) = (1.0, 2.0 * a * a);
    for _ in 0..200 {
        let third = (high - low) / 3.0;
        let (left, right) = (low + third, high - third);
        if error(left) <= error(right) { high = right } else { low = left }
    }
    error(0.5 * (low + high))
}
