//! Whether counts are divided among arms as they should be, at any time.
//!
//! Of requests this is the sample-ratio test. Of events, such as errors, it tests that all arms have
//! them equally often: where they do, the arm of each event is a draw from the arms' shares, however
//! the rate drifts (Lindon & Malek, NeurIPS 2022, arXiv:2011.03567).

use super::special::{chi_squared_survival, first_true, ln_gamma};

/// ln of the evidence that `counts` do not follow the shares `theta`, with a Dirichlet prior of
/// concentration `k` around them: B(kθ + S) / B(kθ) / Π θᵢ^Sᵢ.
pub fn ln_e_value(counts: &[u64], theta: &[f64], k: f64) -> f64 {
    let prior: Vec<f64> = theta.iter().map(|share| k * share).collect();
    ln_e_value_of_prior(counts, theta, &prior)
}

/// As [`ln_e_value`], with any Dirichlet prior.
pub fn ln_e_value_of_prior(counts: &[u64], theta: &[f64], prior: &[f64]) -> f64 {
    let total: u64 = counts.iter().sum();
    let k: f64 = prior.iter().sum();
    let mut ln = ln_gamma(k) - ln_gamma(k + total as f64);
    for ((count, share), alpha) in counts.iter().zip(theta).zip(prior).filter(|((count, _), _)| **count > 0) {
        let count = *count as f64;
        ln += ln_gamma(alpha + count) - ln_gamma(*alpha) - count * share.ln();
    }
    ln
}

/// The concentrations whose evidence is averaged for rare events. A large one reacts slowly, a
/// small one misses small differences.
pub const CONCENTRATIONS: [f64; 3] = [10.0, 100.0, 1000.0];

/// The concentration of the sample-ratio test: a small imbalance of much traffic.
pub const SAMPLE_RATIO_CONCENTRATION: f64 = 10_000.0;

/// ln of the mean of the evidence over [`CONCENTRATIONS`]; a mean of e-values is an e-value.
pub fn ln_mean_e_value(counts: &[u64], theta: &[f64]) -> f64 {
    let each = CONCENTRATIONS.map(|k| ln_e_value(counts, theta, k));
    let highest = each.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mean = each.iter().map(|ln| (ln - highest).exp()).sum::<f64>() / each.len() as f64;
    highest + mean.ln()
}

/// Pearson's test for a fixed number of requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChiSquared {
    /// The test statistic.
    pub statistic: f64,
    /// Arms with a weight, less one.
    pub df: f64,
    /// How probable a statistic at least as large is.
    pub p_value: f64,
}

/// Tests counts against weights. Arms without a weight leave the test: anything counted there is a
/// leak, which no probability explains.
pub fn chi_squared(counts: &[u64], weights: &[f64]) -> ChiSquared {
    let arms = || counts.iter().zip(weights).filter(|(_, weight)| **weight > 0.0);
    let total: u64 = arms().map(|(count, _)| count).sum();
    let all: f64 = arms().map(|(_, weight)| weight).sum();
    let of_arm = |(count, weight): (&u64, &f64)| {
        let expected = total as f64 * weight / all;
        (*count as f64 - expected).powi(2) / expected
    };
    let statistic = if total == 0 { 0.0 } else { arms().map(of_arm).sum() };
    let df = arms().count().saturating_sub(1) as f64;
    ChiSquared { statistic, df, p_value: chi_squared_survival(statistic, df) }
}

/// The ratio of the treatment's event rate to the control's that the evidence does not rule out at
/// `alpha`, at any time. `events` and `shares` are of control and treatment. The upper end is
/// infinite while nothing bounds it.
pub fn rate_ratio_interval(events: [u64; 2], shares: [f64; 2], alpha: f64) -> [f64; 2] {
    let [control, treatment] = shares;
    let evidence = |ln_ratio: f64| {
        let ratio = ln_ratio.exp();
        let all = control + ratio * treatment;
        ln_mean_e_value(&events, &[control / all, ratio * treatment / all])
    };
    let is_ruled_out = |ln_ratio: f64| evidence(ln_ratio) >= -alpha.ln();
    const LN_MAX: f64 = 30.0;
    // Where the evidence is least: the observed ratio, or an end where an arm has no events.
    let [a, b] = events.map(|events| events as f64);
    let least = ((b / treatment).ln() - (a / control).ln()).clamp(-LN_MAX, LN_MAX);
    let least = if least.is_nan() { 0.0 } else { least };
    let lower = first_true(-LN_MAX, least, |ln_ratio| !is_ruled_out(ln_ratio));
    let upper = first_true(least, LN_MAX, is_ruled_out);
    let lower = if is_ruled_out(-LN_MAX) { lower.exp() } else { 0.0 };
    let upper = if is_ruled_out(LN_MAX) { upper.exp() } else { f64::INFINITY };
    [lower, upper]
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    #[test]
    fn the_interval_of_a_ratio_ends_where_the_evidence_does() {
        for events in [[100, 100], [10, 60], [400, 3]] {
            let [low, high] = rate_ratio_interval(events, [0.5, 0.5], 0.05);
            let observed = events[1] as f64 / events[0] as f64;
            assert!(low < observed && observed < high, "{events:?}: {low} {high}");
            for end in [low, high] {
                let all = 1.0 + end;
                let ln_e = ln_mean_e_value(&events, &[1.0 / all, end / all]);
                assert!((ln_e - 20_f64.ln()).abs() < 1e-6, "{events:?}: {ln_e}");
            }
        }
        assert_eq!(rate_ratio_interval([0, 0], [0.9, 0.1], 0.05), [0.0, f64::INFINITY]);
        let [low, high] = rate_ratio_interval([0, 30], [0.5, 0.5], 0.05);
        assert!(low > 1.0 && high == f64::INFINITY, "{low} {high}");
        let [low, high] = rate_ratio_interval([30, 0], [0.5, 0.5], 0.05);
        assert!(low == 0.0 && high < 1.0, "{low} {high}");
    }

    #[test]
    fn the_interval_of_a_ratio_holds_the_true_one_whenever_one_looks() {
        let mut chance = Rng::with_seed(14);
        let misses = (0..300)
            .filter(|_| {
                let mut events = [0_u64; 2];
                // The treatment has a tenth of the traffic and three times the rate.
                (0..40).any(|_| {
                    (0..10).for_each(|_| events[usize::from(chance.f64() < 0.25)] += 1);
                    let [low, high] = rate_ratio_interval(events, [0.9, 0.1], 0.05);
                    low > 3.0 || high < 3.0
                })
            })
            .count();
        assert!(misses <= 26, "{misses} of 300 intervals missed it at some time");
    }
}
