//! How far raters, or versions, agree beyond chance.

use super::special::normal_quantile;

/// How much a disagreement of two ordered labels weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weighting {
    /// Every disagreement weighs the same.
    None,
    /// By the distance of the labels.
    Linear,
    /// By its square.
    Quadratic,
}

impl Weighting {
    fn cost(self, i: usize, j: usize) -> f64 {
        let distance = i.abs_diff(j) as f64;
        match self {
            Self::None => f64::from(u8::from(i != j)),
            Self::Linear => distance,
            Self::Quadratic => distance * distance,
        }
    }
}

/// Cohen's κ of two raters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kappa {
    /// 1 is full agreement, 0 that of chance.
    pub kappa: f64,
    /// Its standard error (Fleiss, Cohen & Everitt 1969).
    pub standard_error: f64,
    /// The standard error where there is no agreement but chance, for a test.
    pub standard_error_of_chance: f64,
    /// The share of agreement, weighted.
    pub observed: f64,
    /// The share of agreement that chance gives, weighted.
    pub chance: f64,
}

impl Kappa {
    /// Of a square table of counts, or of sums of weights: rows are the first rater's labels, columns
    /// the second's, in order. None where chance alone agrees fully: both always gave one label.
    pub fn of(table: &[Vec<f64>], weighting: Weighting) -> Option<Self> {
        let k = table.len();
        let total: f64 = table.iter().flatten().sum();
        let cost_max = weighting.cost(0, k.saturating_sub(1)).max(1.0);
        let weight = |i: usize, j: usize| 1.0 - weighting.cost(i, j) / cost_max;
        let share = |i: usize, j: usize| table[i][j] / total;
        let rows: Vec<f64> = (0..k).map(|i| (0..k).map(|j| share(i, j)).sum()).collect();
        let columns: Vec<f64> = (0..k).map(|j| (0..k).map(|i| share(i, j)).sum()).collect();
        let cells = || (0..k).flat_map(|i| (0..k).map(move |j| (i, j)));
        let observed: f64 = cells().map(|(i, j)| weight(i, j) * share(i, j)).sum();
        let chance: f64 = cells().map(|(i, j)| weight(i, j) * rows[i] * columns[j]).sum();
        let room = 1.0 - chance;
        if room.is_nan() || room <= 1e-12 {
            return None;
        }
        let kappa = (observed - chance) / room;
        let row_mean = |i: usize| (0..k).map(|j| columns[j] * weight(i, j)).sum::<f64>();
        let column_mean = |j: usize| (0..k).map(|i| rows[i] * weight(i, j)).sum::<f64>();
        let means = |i: usize, j: usize| row_mean(i) + column_mean(j);
        let spread: f64 =
            cells().map(|(i, j)| share(i, j) * (weight(i, j) - means(i, j) * (1.0 - kappa)).powi(2)).sum();
        let centre = kappa - chance * (1.0 - kappa);
        let variance = (spread - centre * centre) / (total * room * room);
        let of_chance: f64 = cells().map(|(i, j)| rows[i] * columns[j] * (weight(i, j) - means(i, j)).powi(2)).sum();
        let variance_of_chance = (of_chance - chance * chance) / (total * room * room);
        Some(Self {
            kappa,
            standard_error: variance.max(0.0).sqrt(),
            standard_error_of_chance: variance_of_chance.max(0.0).sqrt(),
            observed,
            chance,
        })
    }

    /// The interval of a level such as 0.95, not cut at -1 or 1.
    pub fn interval(&self, level: f64) -> [f64; 2] {
        let half = normal_quantile(0.5 + 0.5 * level) * self.standard_error;
        [self.kappa - half, self.kappa + half]
    }
}

/// Fleiss' κ (1971) of items that all have the same number of ratings: κ, and that of Randolph
/// (2005), whose chance is one in the number of labels. None where chance alone agrees fully.
pub fn fleiss(counts: &[Vec<u64>]) -> Option<[f64; 2]> {
    let items = counts.len() as f64;
    let raters = counts.first()?.iter().sum::<u64>() as f64;
    let labels = counts.first()?.len();
    let of_item = |row: &Vec<u64>| {
        let squares: u64 = row.iter().map(|count| count * count).sum();
        (squares as f64 - raters) / (raters * (raters - 1.0))
    };
    let mean = counts.iter().map(of_item).sum::<f64>() / items;
    let share = |label: usize| counts.iter().map(|row| row[label]).sum::<u64>() as f64 / (items * raters);
    let chance: f64 = (0..labels).map(|label| share(label).powi(2)).sum();
    let beyond = |chance: f64| (mean - chance) / (1.0 - chance);
    (chance < 1.0).then(|| [beyond(chance), beyond(1.0 / labels as f64)])
}

/// How far two labels are apart for Krippendorff's α.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Labels without an order.
    Nominal,
    /// Labels with an order, whose distance is that of ranks.
    Ordinal,
    /// Numbers.
    Interval,
}

/// Krippendorff's α (2011), for any number of raters and missing ratings. `units` holds the ratings
/// of each unit as indices of labels, `values` the number of each label, for [`Scale::Interval`].
/// Units with fewer than two ratings count nowhere. None where only one label was given.
pub fn krippendorff(units: &[Vec<usize>], values: &[f64], scale: Scale) -> Option<f64> {
    let k = values.len();
    let mut pairs = vec![vec![0.0; k]; k];
    for unit in units.iter().filter(|unit| unit.len() > 1) {
        let weight = 1.0 / (unit.len() - 1) as f64;
        for (at, first) in unit.iter().enumerate() {
            for (other, second) in unit.iter().enumerate() {
                if at != other {
                    pairs[*first][*second] += weight;
                }
            }
        }
    }
    let marginal: Vec<f64> = pairs.iter().map(|row| row.iter().sum()).collect();
    let total: f64 = marginal.iter().sum();
    let distance = |i: usize, j: usize| match scale {
        Scale::Nominal => f64::from(u8::from(i != j)),
        Scale::Interval => (values[i] - values[j]).powi(2),
        Scale::Ordinal => {
            let (low, high) = (i.min(j), i.max(j));
            let between: f64 = marginal[low..=high].iter().sum();
            (between - 0.5 * (marginal[low] + marginal[high])).powi(2)
        }
    };
    let cells = || (0..k).flat_map(|i| (0..k).map(move |j| (i, j)));
    let observed: f64 = cells().map(|(i, j)| pairs[i][j] * distance(i, j)).sum();
    let expected: f64 = cells().map(|(i, j)| marginal[i] * marginal[j] * distance(i, j)).sum();
    (expected > 0.0).then(|| 1.0 - (total - 1.0) * observed / expected)
}
