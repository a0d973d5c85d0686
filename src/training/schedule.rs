//! The learning rate of each step.

use std::f64::consts::PI;

/// Rises evenly to `highest` within `warm_up` steps, then falls to nought at `steps` along half a cosine (Loshchilov and
/// Hutter, 2017). Steps count from 0.
pub(super) fn learning_rate(step: usize, steps: usize, warm_up: usize, highest: f64) -> f64 {
    if step < warm_up {
        return highest * (step + 1) as f64 / warm_up as f64;
    }
    let along = (step - warm_up) as f64 / steps.saturating_sub(warm_up).max(1) as f64;
    highest * 0.5 * (1.0 + (PI * along.min(1.0)).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_to_its_highest_and_falls_to_nought() {
        let rates: Vec<f64> = (0..1000).map(|step| learning_rate(step, 1000, 100, 2.0)).collect();
        assert!((rates[99] - 2.0).abs() < 1e-9 && rates[0] > 0.0 && rates[999] < 1e-4);
        assert!(rates[..100].is_sorted() && rates[100..].is_sorted_by(|one, other| one >= other));
        assert!((learning_rate(550, 1000, 100, 2.0) - 1.0).abs() < 1e-9, "half way down after half the steps");
    }
}
