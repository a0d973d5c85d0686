//! Shares and their differences, for a fixed number of observations.

use super::special::{beta_quantile, first_true, normal_quantile};

fn z_of(level: f64) -> f64 {
    normal_quantile(0.5 + 0.5 * level)
}

/// Wilson's interval of a share (Wilson 1927), without continuity correction.
pub fn wilson(count: u64, n: u64, level: f64) -> [f64; 2] {
    if n == 0 {
        return [0.0, 1.0];
    }
    let (z, n) = (z_of(level), n as f64);
    let p = count as f64 / n;
    let middle = p + z * z / (2.0 * n);
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z * z / n;
    [((middle - half) / scale).max(0.0), ((middle + half) / scale).min(1.0)]
}

/// Newcombe's interval of `x1`/`n1` - `x2`/`n2` (1998, method 10): two Wilson intervals combined.
pub fn newcombe(x1: u64, n1: u64, x2: u64, n2: u64, level: f64) -> [f64; 2] {
    let (p1, p2) = (x1 as f64 / n1 as f64, x2 as f64 / n2 as f64);
    let [l1, u1] = wilson(x1, n1, level);
    let [l2, u2] = wilson(x2, n2, level);
    let lower = p1 - p2 - ((p1 - l1).powi(2) + (u2 - p2).powi(2)).sqrt();
    let upper = p1 - p2 + ((u1 - p1).powi(2) + (p2 - l2).powi(2)).sqrt();
    [lower.max(-1.0), upper.min(1.0)]
}

/// Wald's interval of a difference: simple, and too narrow for few or rare events.
pub fn wald(x1: u64, n1: u64, x2: u64, n2: u64, level: f64) -> [f64; 2] {
    shifted_wald([x1 as f64, n1 as f64, x2 as f64, n2 as f64], level)
}

/// Agresti & Caffo's interval of a difference (2000): Wald's with one success and one failure more
/// in each arm.
pub fn agresti_caffo(x1: u64, n1: u64, x2: u64, n2: u64, level: f64) -> [f64; 2] {
    let shifted = |x: u64, n: u64| (x as f64 + 1.0, n as f64 + 2.0);
    let ((x1, n1), (x2, n2)) = (shifted(x1, n1), shifted(x2, n2));
    shifted_wald([x1, n1, x2, n2], level)
}

fn shifted_wald([x1, n1, x2, n2]: [f64; 4], level: f64) -> [f64; 2] {
    let (p1, p2) = (x1 / n1, x2 / n2);
    let half = z_of(level) * (p1 * (1.0 - p1) / n1 + p2 * (1.0 - p2) / n2).sqrt();
    [p1 - p2 - half, p1 - p2 + half]
}

/// Miettinen & Nurminen's score interval of a difference (1985), with the factor N/(N - 1).
///
/// statsmodels 0.15 gives others where the difference is not zero: its cubic has a count where the
/// paper has a size. Newcombe (1998) prints this one: 0.0528 to 0.3382 for 56/70 - 48/80.
pub fn miettinen_nurminen(x1: u64, n1: u64, x2: u64, n2: u64, level: f64) -> [f64; 2] {
    let (x1, n1, x2, n2) = (x1 as f64, n1 as f64, x2 as f64, n2 as f64);
    let observed = x1 / n1 - x2 / n2;
    let bound = z_of(level);
    let score = |difference: f64| {
        let (p1, p2) = constrained(x1, n1, x2, n2, difference);
        let n = n1 + n2;
        let variance = (p1 * (1.0 - p1) / n1 + p2 * (1.0 - p2) / n2) * n / (n - 1.0);
        (observed - difference) / variance.max(1e-300).sqrt()
    };
    // The score falls while the supposed difference grows.
    let lower = first_true(-1.0, observed, |difference| score(difference) <= bound);
    let upper = first_true(observed, 1.0, |difference| score(difference) <= -bound);
    [lower, upper]
}

/// The most likely shares whose difference is given: the root of a cubic (Miettinen & Nurminen
/// 1985, appendix I).
fn constrained(x1: f64, n1: f64, x2: f64, n2: f64, difference: f64) -> (f64, f64) {
    let n = n1 + n2;
    let l2 = (n1 + 2.0 * n2) * difference - n - x1 - x2;
    let l1 = (n2 * difference - n - 2.0 * x2) * difference + x1 + x2;
    let l0 = x2 * difference * (1.0 - difference);
    let q = (l2 / (3.0 * n)).powi(3) - l1 * l2 / (6.0 * n * n) + l0 / (2.0 * n);
    let root = ((l2 / (3.0 * n)).powi(2) - l1 / (3.0 * n)).max(0.0).sqrt();
    let p = if q < 0.0 { -root } else { root };
    let angle = if p == 0.0 { 0.0 } else { (q / p.powi(3)).clamp(-1.0, 1.0).acos() };
    let third = (std::f64::consts::PI + angle) / 3.0;
    let p2 = (2.0 * p * third.cos() - l2 / (3.0 * n)).clamp(0.0, 1.0);
    ((p2 + difference).clamp(0.0, 1.0), p2)
}

/// Katz's interval of the ratio of two shares; none where a count is zero.
pub fn ratio_katz(x1: u64, n1: u64, x2: u64, n2: u64, level: f64) -> Option<[f64; 2]> {
    if x1 == 0 || x2 == 0 {
        return None;
    }
    let (x1, n1, x2, n2) = (x1 as f64, n1 as f64, x2 as f64, n2 as f64);
    let ln = (x1 / n1 / (x2 / n2)).ln();
    let half = z_of(level) * (1.0 / x1 - 1.0 / n1 + 1.0 / x2 - 1.0 / n2).sqrt();
    Some([(ln - half).exp(), (ln + half).exp()])
}

/// The exact bounds of a share (Clopper & Pearson 1934): each is one-sided at `level`.
pub fn clopper_pearson_bounds(count: u64, n: u64, level: f64) -> [f64; 2] {
    let (k, n) = (count as f64, n as f64);
    let lower = if count == 0 { 0.0 } else { beta_quantile(1.0 - level, k, n - k + 1.0) };
    let upper = if k >= n { 1.0 } else { beta_quantile(level, k + 1.0, n - k) };
    [lower, upper]
}

/// The exact two-sided interval of a share.
pub fn clopper_pearson(count: u64, n: u64, level: f64) -> [f64; 2] {
    clopper_pearson_bounds(count, n, 0.5 + 0.5 * level)
}
