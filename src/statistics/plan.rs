//! How much traffic an experiment needs, and how much of it has come. Never from the observed
//! difference: that would stop when chance looks best.

use super::mixture::planned_g;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::mixture;

    #[test]
    fn at_the_planned_variance_the_interval_is_as_narrow_as_what_matters() {
        for (smallest, alpha) in [(0.01, 0.05), (0.002, 0.01), (5.0, 0.1)] {
            let planned = planned_variance(smallest, alpha);
            let half = mixture::half_width(planned, planned_g(alpha), alpha);
            assert!((half / smallest - 1.0).abs() < 1e-12, "{half} {smallest}");
        }
        assert_eq!(information(1.0, 4.0), 0.25);
        assert_eq!(information(1.0, 0.5), 1.0);
    }
}
