//! Distribution functions and their inverses.
//!
//! The incomplete beta function is our own: statrs stops after 140 terms without an error, which is
//! too early for counts of a million.

use std::f64::consts::SQRT_2;

/// ln Γ(x).
pub fn ln_gamma(x: f64) -> f64 {
    libm::lgamma(x)
}

/// ln B(a, b).
pub fn ln_beta(a: f64, b: f64) -> f64 {
    ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b)
}

/// Φ(z) of the standard normal distribution.
pub fn normal_cdf(z: f64) -> f64 {
    0.5 * libm::erfc(-z / SQRT_2)
}

/// The z with Φ(z) = p.
pub fn normal_quantile(p: f64) -> f64 {
    // By the smaller tail, which has more digits.
    if p > 0.5 {
        return -normal_quantile(1.0 - p);
    }
    first_true(-40.0, 0.0, |z| normal_cdf(z) >= p)
}

/// P(X > x) of the χ² distribution with `df` degrees of freedom.
pub fn chi_squared_survival(x: f64, df: f64) -> f64 {
    gamma_survival(0.5 * df, 0.5 * x)
}

/// The x with P(X ≤ x) = p of the χ² distribution with `df` degrees of freedom.
pub fn chi_squared_quantile(p: f64, df: f64) -> f64 {
    first_true(0.0, 1e6, |x| chi_squared_survival(x, df) <= 1.0 - p)
}

const TERMS_MAX: usize = 1_000_000;
const PRECISION: f64 = 3e-16;
/// Stands for zero in a denominator (Lentz's method).
const TINY: f64 = 1e-300;

/// Q(a, x), the regularized upper incomplete gamma function (DLMF 8.7.1 and 8.9.2).
pub fn gamma_survival(a: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 1.0;
    }
    let leading = (a * x.ln() - x - ln_gamma(a)).exp();
    if x < a + 1.0 {
        let (mut term, mut sum, mut n) = (1.0 / a, 1.0 / a, a);
        for _ in 0..TERMS_MAX {
            n += 1.0;
            term *= x / n;
            sum += term;
            if term < sum * PRECISION {
                break;
            }
        }
        return 1.0 - leading * sum;
    }
    let mut b = x + 1.0 - a;
    let mut c = 1.0 / TINY;
    let mut d = 1.0 / b;
    let mut fraction = d;
    for i in 1..TERMS_MAX {
        let i = i as f64;
        let numerator = -i * (i - a);
        b += 2.0;
        d = 1.0 / not_zero(numerator * d + b);
        c = not_zero(b + numerator / c);
        let step = d * c;
        fraction *= step;
        if (step - 1.0).abs() < PRECISION {
            break;
        }
    }
    leading * fraction
}

fn not_zero(x: f64) -> f64 {
    if x.abs() < TINY { TINY } else { x }
}

/// I_x(a, b): P(X ≤ x) of the beta distribution (DLMF 8.17.22).
pub fn beta_cdf(x: f64, a: f64, b: f64) -> f64 {
    beta_tails(x, a, b).0
}

/// P(X > x) of the beta distribution, exact where it is small.
pub fn beta_survival(x: f64, a: f64, b: f64) -> f64 {
    beta_tails(x, a, b).1
}

fn beta_tails(x: f64, a: f64, b: f64) -> (f64, f64) {
    if x <= 0.0 {
        return (0.0, 1.0);
    }
    if x >= 1.0 {
        return (1.0, 0.0);
    }
    let leading = (a * x.ln() + b * libm::log1p(-x) - ln_beta(a, b)).exp();
    if x < (a + 1.0) / (a + b + 2.0) {
        let lower = leading * beta_fraction(x, a, b) / a;
        (lower, 1.0 - lower)
    } else {
        let upper = leading * beta_fraction(1.0 - x, b, a) / b;
        (1.0 - upper, upper)
    }
}

/// The continued fraction of the incomplete beta function.
fn beta_fraction(x: f64, a: f64, b: f64) -> f64 {
    let mut c = 1.0;
    let mut d = 1.0 / not_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = d;
    for m in 1..TERMS_MAX {
        let m = m as f64;
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / not_zero(1.0 + even * d);
        c = not_zero(1.0 + even / c);
        fraction *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / not_zero(1.0 + odd * d);
        c = not_zero(1.0 + odd / c);
        let step = d * c;
        fraction *= step;
        if (step - 1.0).abs() < PRECISION {
            break;
        }
    }
    fraction
}

/// The x with I_x(a, b) = p.
pub fn beta_quantile(p: f64, a: f64, b: f64) -> f64 {
    if p > 0.5 {
        return first_true(0.0, 1.0, |x| beta_survival(x, a, b) <= 1.0 - p);
    }
    first_true(0.0, 1.0, |x| beta_cdf(x, a, b) >= p)
}

/// P(|T| > |t|) of Student's distribution with `df` degrees of freedom.
pub fn student_two_sided(t: f64, df: f64) -> f64 {
    beta_cdf(df / (df + t * t), 0.5 * df, 0.5)
}

/// The t with P(|T| ≤ t) = level of Student's distribution.
pub fn student_quantile_two_sided(level: f64, df: f64) -> f64 {
    first_true(0.0, 1e9, |t| student_two_sided(t, df) <= 1.0 - level)
}

/// P(X ≤ k) of the binomial distribution.
pub fn binomial_cdf(k: u64, n: u64, p: f64) -> f64 {
    if k >= n {
        return 1.0;
    }
    beta_survival(p, (k + 1) as f64, (n - k) as f64)
}

/// P(X = k) of the binomial distribution.
pub fn binomial_probability(k: u64, n: u64, p: f64) -> f64 {
    let (k, n) = (k as f64, n as f64);
    let ways = ln_gamma(n + 1.0) - ln_gamma(k + 1.0) - ln_gamma(n - k + 1.0);
    let weight = |count: f64, p: f64| if count == 0.0 { 0.0 } else { count * p.ln() };
    (ways + weight(k, p) + weight(n - k, 1.0 - p)).exp()
}

/// The smallest k with P(X ≤ k) ≥ q of the binomial distribution.
pub fn binomial_quantile(q: f64, n: u64, p: f64) -> u64 {
    let (mut low, mut high) = (0, n);
    while low < high {
        let middle = low + (high - low) / 2;
        if binomial_cdf(middle, n, p) >= q { high = middle } else { low = middle + 1 }
    }
    low
}

/// W₋₁(x) for -1/e ≤ x < 0: the w ≤ -1 with w eʷ = x.
pub fn lambert_minus_one(x: f64) -> f64 {
    // w eʷ falls from 0 to -1/e while w grows to -1.
    first_true(-800.0, -1.0, |w| w * w.exp() <= x)
}

/// The smallest x of an interval for which a condition holds that goes on to hold behind it. `high`
/// where it holds nowhere.
pub(super) fn first_true(low: f64, high: f64, holds: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (low, high);
    loop {
        let middle = low + 0.5 * (high - low);
        if middle <= low || middle >= high {
            return high;
        }
        if holds(middle) { high = middle } else { low = middle }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_functions_have_their_published_values() {
        let close = |got: f64, right: f64| assert!((got / right - 1.0).abs() < 1e-12, "{got} {right}");
        close(normal_quantile(0.975), 1.959_963_984_540_054);
        close(normal_quantile(1e-10), -6.361_340_902_404_056);
        close(chi_squared_survival(3.841_458_820_694_124, 1.0), 0.05);
        close(student_quantile_two_sided(0.95, 10.0), 2.228_138_851_986_274);
        close(beta_cdf(0.3, 2.0, 5.0), 0.579_825);
        close(gamma_survival(3.0, 2.5), 0.543_813_115_883_329_5);
        close(lambert_minus_one(-0.1), -3.577_152_063_957_297);
    }

    #[test]
    fn the_incomplete_beta_function_holds_for_a_million() {
        // By symmetry, half of it lies below one half.
        assert!((beta_cdf(0.5, 1e6, 1e6) - 0.5).abs() < 1e-9);
        assert_eq!(binomial_quantile(0.5, 2_000_000, 0.5), 1_000_000);
    }
}
