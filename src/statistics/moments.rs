//! Mean and variance of one arm.

/// What a comparison of means needs of an arm.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    /// Observations.
    pub n: f64,
    /// Their mean.
    pub mean: f64,
    /// Their variance.
    pub variance: f64,
}

impl Moments {
    /// Of a number of observations, their sum and the sum of their squares; the variance is that of
    /// a sample (n - 1).
    pub fn of_sums(n: u64, sum: f64, squares: f64) -> Self {
        let n = n as f64;
        let mean = if n > 0.0 { sum / n } else { 0.0 };
        let variance = if n > 1.0 { ((squares - sum * mean) / (n - 1.0)).max(0.0) } else { 0.0 };
        Self { n, mean, variance }
    }

    /// Of observations.
    pub fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n.max(1.0);
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Self { n, mean, variance: squares / (n - 1.0).max(1.0) }
    }

    /// Of a share: `count` of `n`. The variance is p (1 - p), without n - 1.
    pub fn of_share(count: u64, n: u64) -> Self {
        let mean = if n > 0 { count as f64 / n as f64 } else { 0.0 };
        Self { n: n as f64, mean, variance: mean * (1.0 - mean) }
    }

    /// The variance of the mean; infinite without observations.
    pub fn variance_of_mean(&self) -> f64 {
        if self.n > 0.0 { self.variance / self.n } else { f64::INFINITY }
    }
}
