//! Rates whose unit of chance is larger than an event: a user with many requests.
//!
//! Where users are divided among variants, a user is the observation. The rate is a ratio of two
//! sums over users, and its variance is that of the ratio (delta method; Deng, Knoblich & Lu 2018).

/// Sums over units of events (`n`) and of what is counted of them (`x`).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct UnitSums {
    /// Units.
    pub units: f64,
    /// Σ n.
    pub n: f64,
    /// Σ x.
    pub x: f64,
    /// Σ n².
    pub nn: f64,
    /// Σ x n.
    pub xn: f64,
    /// Σ x².
    pub xx: f64,
}

impl UnitSums {
    /// Of pairs (x, n), one for each unit.
    pub fn of(units: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let mut sums = Self::default();
        units.into_iter().for_each(|(x, n)| sums.add(x, n));
        sums
    }

    /// Adds a unit.
    pub fn add(&mut self, x: f64, n: f64) {
        self.units += 1.0;
        self.n += n;
        self.x += x;
        self.nn += n * n;
        self.xn += x * n;
        self.xx += x * x;
    }

    /// Σ x / Σ n.
    pub fn ratio(&self) -> f64 {
        self.x / self.n
    }

    /// Σ (x - R n)², which both variances come of.
    fn residuals(&self) -> f64 {
        let ratio = self.ratio();
        let sum = self.xx - 2.0 * ratio * self.xn + ratio * ratio * self.nn;
        // What rounding leaves where nothing varies is no variance.
        if sum < 1e-12 * self.xx { 0.0 } else { sum }
    }

    /// The variance of the ratio, with the units' sample variance (k - 1). Infinite for one unit.
    pub fn variance(&self) -> f64 {
        let k = self.units;
        if k < 2.0 {
            return f64::INFINITY;
        }
        self.residuals() / (self.n * self.n) * k / (k - 1.0)
    }

    /// As [`Self::variance`], without the correction for few units: the sandwich estimator.
    pub fn variance_uncorrected(&self) -> f64 {
        self.residuals() / (self.n * self.n)
    }

    /// How many independent events would tell as much about a share.
    pub fn effective_events(&self) -> f64 {
        let ratio = self.ratio();
        ratio * (1.0 - ratio) / self.variance()
    }
}
