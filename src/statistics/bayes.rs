//! A second opinion: how probable it is that the treatment is better, with flat priors.

use super::{
    Difference,
    special::{ln_beta, normal_cdf},
};

/// P(share of b > share of a) with Beta(1, 1) priors. `a` and `b` are successes and trials. Closed
/// form by Evan Miller; its sum has as many terms as `b` has successes.
pub fn probability_larger(a: [u64; 2], b: [u64; 2]) -> f64 {
    let posterior = |[x, n]: [u64; 2]| (x as f64 + 1.0, (n - x) as f64 + 1.0);
    let (a1, b1) = posterior(a);
    let (_, b2) = posterior(b);
    let base = ln_beta(a1, b1);
    let term = |i: u64| {
        let i = i as f64;
        (ln_beta(a1 + i, b1 + b2) - (b2 + i).ln() - ln_beta(1.0 + i, b2) - base).exp()
    };
    (0..=b[0]).map(term).sum::<f64>().min(1.0)
}

/// P(difference > 0) by a normal posterior with a flat prior.
pub fn probability_positive(difference: Difference) -> f64 {
    normal_cdf(difference.estimate / difference.standard_error())
}

/// The expected loss of choosing the treatment where more is better: E max(0, -difference) by a
/// normal posterior with a flat prior.
pub fn expected_loss(difference: Difference) -> f64 {
    let (estimate, error) = (difference.estimate, difference.standard_error());
    let z = estimate / error;
    let density = (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt();
    error * density - estimate * normal_cdf(-z)
}
