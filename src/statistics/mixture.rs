//! Intervals that hold at any time: normal mixtures.
//!
//! One function is the asymptotic confidence sequence of Waudby-Smith et al. (arXiv:2103.06476),
//! the mixture sequential probability ratio test (Johari, Pekelis & Walsh 2022) and the sequential
//! engine of GrowthBook; they differ in the tuning number g. Here g is information time: the
//! planned variance over the variance reached, times a constant of α. It stays right while traffic
//! ramps up.

use super::special::{chi_squared_quantile, lambert_minus_one};

/// The g that is best at the planned end, exact: -W₋₁(-α²/e) - 1 (Howard et al. 2021, prop. 3).
pub fn planned_g(alpha: f64) -> f64 {
    -lambert_minus_one(-alpha * alpha / std::f64::consts::E) - 1.0
}

/// The usual approximation of [`planned_g`]: -2 ln α + ln(1 - 2 ln α).
pub fn planned_g_approximate(alpha: f64) -> f64 {
    let two = -2.0 * alpha.ln();
    two + libm::log1p(two)
}

/// Half the width of the two-sided interval around an estimate with variance `v` (its standard
/// error squared), for a tuning number `g`.
pub fn half_width(v: f64, g: f64, alpha: f64) -> f64 {
    (v * (g + 1.0) / g * ((g + 1.0) / (alpha * alpha)).ln()).sqrt()
}

/// The distance of the one-sided bound from the estimate.
pub fn half_width_one_sided(v: f64, g: f64, alpha: f64) -> f64 {
    let ln = libm::log1p((g + 1.0).sqrt() / (2.0 * alpha));
    (v * 2.0 * (g + 1.0) / g * ln).sqrt()
}

/// ln of the evidence against a difference of zero. It exceeds ln(1/α) with a probability of at
/// most α, at any time, where the difference is zero.
pub fn ln_e_value(estimate: f64, v: f64, g: f64) -> f64 {
    estimate * estimate * g / (2.0 * v * (g + 1.0)) - 0.5 * libm::log1p(g)
}

/// ln of the evidence that a difference is above zero: the mixture takes positive differences only
/// (Robbins 1970). At the distance of [`half_width_one_sided`] it is ln(1/α), but for a small
/// rounding of that formula.
pub fn ln_e_value_one_sided(estimate: f64, v: f64, g: f64) -> f64 {
    let z = estimate * (g / (v * (g + 1.0))).sqrt();
    std::f64::consts::LN_2 + ln_e_value(estimate, v, g) + ln_normal_cdf(z)
}

/// ln Φ(z). Far below zero Φ underflows, so its asymptote takes over.
fn ln_normal_cdf(z: f64) -> f64 {
    let x = -z / std::f64::consts::SQRT_2;
    if x < 20.0 {
        return (0.5 * libm::erfc(x)).ln();
    }
    -x * x - (2.0 * x * std::f64::consts::PI.sqrt()).ln()
}

/// Half the width of an interval that begins to hold at `m` observations and needs no tuning
/// (Robbins & Siegmund 1970; Bibaut, Kallus & Lindon 2022). `v` is the variance of the estimate at
/// `t` ≥ `m` observations. Ψ is the distribution function of χ² with three degrees of freedom.
pub fn half_width_delayed(v: f64, t: f64, m: f64, alpha: f64) -> f64 {
    (v * (chi_squared_quantile(1.0 - alpha, 3.0) + (t / m).ln())).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sided_evidence_is_a_number_at_any_distance() {
        let g = planned_g(0.01);
        for estimate in [-0.5, -0.05, 0.0, 0.05, 0.5] {
            assert!(ln_e_value_one_sided(estimate, 1e-6, g).is_finite(), "{estimate}");
        }
        assert!(ln_e_value_one_sided(-0.5, 1e-6, g) < ln_e_value_one_sided(-0.05, 1e-6, g));
        assert!(ln_e_value_one_sided(-0.05, 1e-6, g) < ln_e_value_one_sided(0.0, 1e-6, g));
        assert!((ln_normal_cdf(-28.3) - ln_normal_cdf(-28.2)).abs() < 3.0, "no step where the asymptote begins");
        let at_bound = ln_e_value_one_sided(half_width_one_sided(1e-4, g, 0.01), 1e-4, g);
        assert!((at_bound - 100_f64.ln()).abs() < 0.05, "{at_bound}");
    }
}
