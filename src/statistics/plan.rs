//! How much traffic an experiment needs, and how much of it has come. Never from the observed
//! difference: that would stop when chance looks best.

use super::{mixture::planned_g, special::first_true};

/// The variance of the difference at which an interval that holds at any time becomes narrower than
/// the smallest difference that matters.
pub fn planned_variance(smallest_difference: f64, alpha: f64) -> f64 {
    let g = planned_g(alpha);
    let per_variance = (g + 1.0) / g * ((g + 1.0) / (alpha * alpha)).ln();
    smallest_difference * smallest_difference / per_variance
}

/// The share of the planned information that has come: planned variance over variance reached, at
/// most 1.
pub fn information(planned: f64, reached: f64) -> f64 {
    (planned / reached).min(1.0)
}

/// Observations of both arms together until the difference of two shares near `rate` has the
/// planned variance, where the treatment gets `share` of them.
pub fn observations(rate: f64, share: f64, planned: f64) -> f64 {
    rate * (1.0 - rate) * (1.0 / share + 1.0 / (1.0 - share)) / planned
}

/// The difference that a fixed test with 80 % power at 5 % would find with so many observations in
/// each arm: what the usual calculators give, for comparison.
pub fn detectable(rate: f64, observations_per_arm: f64) -> f64 {
    let needed = |difference: f64| {
        let other = (rate + difference).min(1.0);
        let spread = rate * (1.0 - rate) + other * (1.0 - other);
        spread * (1.959_963_984_540_054_f64 + 0.841_621_233_572_914_3).powi(2) / (difference * difference)
    };
    first_true(1e-9, 1.0, |difference| needed(difference) <= observations_per_arm)
}
