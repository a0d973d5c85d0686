//! Thresholds that keep a promise about errors.

use super::special::binomial_cdf;

/// The smallest number of labelled items at which so many errors prove a risk: P(Bin(n, risk) ≤
/// errors) ≤ 1 - level (Clopper & Pearson 1934). None where no number is enough: a risk of 0, or a
/// level of 1.
pub fn labels_needed(errors: u64, risk: f64, level: f64) -> Option<u64> {
    if risk <= 0.0 || level >= 1.0 {
        return None;
    }
    let is_enough = |n: u64| binomial_cdf(errors, n, risk) <= 1.0 - level;
    let mut high = errors + 1;
    while !is_enough(high) {
        high *= 2;
    }
    let mut low = errors;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if is_enough(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    Some(high)
}

/// The p-value of "the risk is above `risk`" for errors that are counted: exact binomial.
pub fn binomial_p(errors: u64, n: u64, risk: f64) -> f64 {
    binomial_cdf(errors, n, risk)
}

/// The same for losses between 0 and 1: the smaller of Hoeffding's and Bentkus' bound (Bates et al.
/// 2021; Angelopoulos et al. 2021, proposition 1), at most 1.
pub fn hoeffding_bentkus_p(sum_of_losses: f64, n: u64, risk: f64) -> f64 {
    let empirical = sum_of_losses / n as f64;
    let hoeffding = if empirical >= risk { 1.0 } else { (-(n as f64) * relative_entropy(empirical, risk)).exp() };
    let bentkus = std::f64::consts::E * binomial_cdf(sum_of_losses.ceil() as u64, n, risk);
    hoeffding.min(bentkus).min(1.0)
}

/// x ln(x / y) + (1 - x) ln((1 - x) / (1 - y)).
fn relative_entropy(x: f64, y: f64) -> f64 {
    let part = |a: f64, b: f64| if a > 0.0 { a * (a / b).ln() } else { 0.0 };
    part(x, y) + part(1.0 - x, 1.0 - y)
}

/// How many thresholds pass, tried from the strictest one on until the first that does not: all of
/// them hold together with a probability of at least 1 - δ (fixed sequence testing; Angelopoulos et
/// al. 2021). The order must be chosen without a look at the errors.
pub fn fixed_sequence(p_values: &[f64], delta: f64) -> usize {
    p_values.iter().take_while(|p| **p <= delta).count()
}

/// The first threshold whose expected risk is bounded (conformal risk control, Angelopoulos et al.
/// 2022, equation 4): n/(n+1) R + B/(n+1) ≤ risk. `losses` has a row for each example and a column
/// for each threshold, and does not increase along a row; `bound` is the largest loss.
pub fn conformal_threshold(losses: &[Vec<f64>], risk: f64, bound: f64) -> Option<usize> {
    let n = losses.len() as f64;
    let thresholds = losses.first()?.len();
    let adjusted = |place: usize| {
        let sum: f64 = losses.iter().map(|row| row[place]).sum();
        (sum + bound) / (n + 1.0)
    };
    // A sum that rounding has put above the bound by its last digit still passes.
    (0..thresholds).find(|place| adjusted(*place) <= risk + 1e-12)
}
