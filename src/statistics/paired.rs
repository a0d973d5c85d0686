//! Two versions on the same requests: only those on which they disagree say which is better.
//!
//! `b` counts pairs where the treatment alone is wrong, `c` those where the control alone is.

use super::special::{beta_survival, binomial_cdf, binomial_probability, chi_squared_survival, ln_beta};

/// McNemar's exact p-value, two-sided: the binomial test of `b` against `c`.
pub fn exact_p_value(b: u64, c: u64) -> f64 {
    (2.0 * binomial_cdf(b.min(c), b + c, 0.5)).min(1.0)
}

/// The mid-p value: less cautious than the exact one, because what was seen counts half. 1 where no
/// pair disagrees.
pub fn mid_p_value(b: u64, c: u64) -> f64 {
    if b + c == 0 {
        return 1.0;
    }
    let least = b.min(c);
    let seen = binomial_probability(least, b + c, 0.5);
    if b == c {
        // The middle is one outcome, not one on either side.
        return 1.0 - 0.5 * seen;
    }
    2.0 * binomial_cdf(least, b + c, 0.5) - seen
}

/// The χ² statistic and its p-value, for many disagreements, with or without continuity correction.
pub fn chi_squared(b: u64, c: u64, is_corrected: bool) -> (f64, f64) {
    if b + c == 0 {
        return (0.0, 1.0);
    }
    let distance = (b as f64 - c as f64).abs();
    let distance = if is_corrected { (distance - 1.0).max(0.0) } else { distance };
    let statistic = distance * distance / (b + c) as f64;
    (statistic, chi_squared_survival(statistic, 1.0))
}

/// ln of the evidence, at any time, that the two are not equally often wrong: a Beta(a, a) mixture
/// against one half (Robbins 1970). a = 1/2 is a good default.
pub fn ln_e_value(b: u64, c: u64, a: f64) -> f64 {
    let (b, c) = (b as f64, c as f64);
    ln_beta(a + b, a + c) - ln_beta(a, a) + (b + c) * std::f64::consts::LN_2
}

/// ln of the evidence, at any time, that the treatment is wrong more often: the prior is cut to
/// (1/2, 1).
pub fn ln_e_value_one_sided(b: u64, c: u64, a: f64) -> f64 {
    let above = beta_survival(0.5, a + b as f64, a + c as f64);
    ln_e_value(b, c, a) + (2.0 * above).ln()
}
