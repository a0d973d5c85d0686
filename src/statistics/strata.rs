//! Two arms over several strata, such as hours or segments: pooling what should not be pooled can
//! turn a difference round (Simpson).

use super::special::chi_squared_survival;

/// Events and their complement, of the treatment (first) and the control.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Table {
    /// Events of the treatment, and its observations without.
    pub treatment: [f64; 2],
    /// Events of the control, and its observations without.
    pub control: [f64; 2],
}

impl Table {
    fn sizes(&self) -> (f64, f64, f64) {
        let (n1, n2) = (self.treatment.iter().sum::<f64>(), self.control.iter().sum::<f64>());
        (n1, n2, n1 + n2)
    }

    /// Rate of the treatment less that of the control; none where an arm is empty.
    pub fn difference(&self) -> Option<f64> {
        let (n1, n2, _) = self.sizes();
        (n1 > 0.0 && n2 > 0.0).then(|| self.treatment[0] / n1 - self.control[0] / n2)
    }
}

/// The common difference of rates over strata.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Common {
    /// Mantel & Haenszel's estimate: strata weighted by n₁ n₂ / N.
    pub difference: f64,
    /// Its standard error by Sato (1989), valid for few large and many small strata.
    pub standard_error: f64,
    /// The difference of the sums over all strata, which a ramp bends.
    pub pooled: f64,
    /// Cochran, Mantel & Haenszel's statistic, without continuity correction, and its p-value.
    pub cmh: [f64; 2],
    /// Mantel & Haenszel's odds ratio and risk ratio.
    pub ratios: [f64; 2],
}

impl Common {
    /// Of strata in which both arms have observations; none without any.
    pub fn of(strata: &[Table]) -> Option<Self> {
        let tables: Vec<&Table> = strata.iter().filter(|table| table.difference().is_some()).collect();
        if tables.is_empty() {
            return None;
        }
        let sum = |term: &dyn Fn(&Table) -> f64| tables.iter().map(|table| term(table)).sum::<f64>();
        let weight = |table: &Table| {
            let (n1, n2, n) = table.sizes();
            n1 * n2 / n
        };
        let weights = sum(&weight);
        let difference = sum(&|table| weight(table) * table.difference().unwrap_or_default()) / weights;
        let standard_error = sato(&tables, difference, weights);
        let total = |of: &dyn Fn(&Table) -> f64| sum(of);
        let pooled = total(&|table| table.treatment[0]) / total(&|table| table.sizes().0)
            - total(&|table| table.control[0]) / total(&|table| table.sizes().1);
        Some(Self { difference, standard_error, pooled, cmh: cmh(&tables, 0.0), ratios: ratios(&tables) })
    }

    /// Whether pooling turns the sign round that the strata have together.
    pub fn is_simpson(&self) -> bool {
        self.pooled * self.difference < 0.0
    }
}

/// Sato's standard error of the common difference.
fn sato(tables: &[&Table], difference: f64, weights: f64) -> f64 {
    let (mut p, mut q) = (0.0, 0.0);
    for table in tables {
        let (n1, n2, n) = table.sizes();
        let ([a, b], [c, d]) = (table.treatment, table.control);
        p += (n1 * n1 * c - n2 * n2 * a + n1 * n2 * (n2 - n1) / 2.0) / (n * n);
        q += (a * d + b * c) / (2.0 * n);
    }
    ((difference * p + q) / (weights * weights)).max(0.0).sqrt()
}

/// The statistic with a correction of the distance, and its p-value.
fn cmh(tables: &[&Table], correction: f64) -> [f64; 2] {
    let (mut distance, mut variance) = (0.0, 0.0);
    for table in tables {
        let (n1, n2, n) = table.sizes();
        let events = table.treatment[0] + table.control[0];
        distance += table.treatment[0] - events * n1 / n;
        if n > 1.0 {
            variance += events * (n - events) * n1 * n2 / (n * n * (n - 1.0));
        }
    }
    let distance = distance.abs() - correction;
    let statistic = if variance > 0.0 { distance * distance / variance } else { 0.0 };
    [statistic, chi_squared_survival(statistic, 1.0)]
}

/// [`Common::cmh`] with the continuity correction of one half.
pub fn cmh_corrected(strata: &[Table]) -> [f64; 2] {
    cmh(&strata.iter().collect::<Vec<_>>(), 0.5)
}

fn ratios(tables: &[&Table]) -> [f64; 2] {
    let (mut odds, mut risk) = ([0.0; 2], [0.0; 2]);
    for table in tables {
        let (n1, n2, n) = table.sizes();
        let ([a, b], [c, d]) = (table.treatment, table.control);
        odds = [odds[0] + a * d / n, odds[1] + b * c / n];
        risk = [risk[0] + a * n2 / n, risk[1] + c * n1 / n];
    }
    [odds[0] / odds[1], risk[0] / risk[1]]
}
