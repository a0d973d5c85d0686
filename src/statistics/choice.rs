//! Which version a policy chooses, with which probability.

/// Ridge regression of rewards on features, of one version.
#[derive(Clone, Debug, PartialEq)]
pub struct Ridge {
    /// Xᵀ X + λ I, row by row.
    a: Vec<Vec<f64>>,
    /// Xᵀ r.
    b: Vec<f64>,
}

impl Ridge {
    /// Without any observation. All features are regularized, a constant one too.
    pub fn new(features: usize, lambda: f64) -> Self {
        let row = |place: usize| (0..features).map(|other| if other == place { lambda } else { 0.0 }).collect();
        Self { a: (0..features).map(row).collect(), b: vec![0.0; features] }
    }

    /// Adds an observation.
    pub fn add(&mut self, x: &[f64], reward: f64) {
        for (row, value) in self.a.iter_mut().zip(x) {
            row.iter_mut().zip(x).for_each(|(cell, other)| *cell += value * other);
        }
        self.b.iter_mut().zip(x).for_each(|(sum, value)| *sum += value * reward);
    }

    /// The reward that is predicted, and how uncertain that is: √(xᵀ A⁻¹ x), the width of LinUCB
    /// (Li et al. 2010).
    pub fn predict(&self, x: &[f64]) -> [f64; 2] {
        let solved = solve(&self.a, x);
        let product = |other: &[f64]| solved.iter().zip(other).map(|(one, other)| one * other).sum::<f64>();
        [product(&self.b), product(x).max(0.0).sqrt()]
    }

    /// The weight of each feature.
    pub fn weights(&self) -> Vec<f64> {
        solve(&self.a, &self.b)
    }
}

/// Solves A x = b for a positive definite A, by Cholesky's decomposition.
fn solve(a: &[Vec<f64>], b: &[f64]) -> Vec<f64> {
    let n = b.len();
    let mut l = vec![vec![0.0; n]; n];
    for i in 0..n {
        for j in 0..=i {
            let known: f64 = (0..j).map(|k| l[i][k] * l[j][k]).sum();
            l[i][j] = if i == j { (a[i][i] - known).sqrt() } else { (a[i][j] - known) / l[j][j] };
        }
    }
    let mut y = vec![0.0; n];
    for i in 0..n {
        let known: f64 = (0..i).map(|k| l[i][k] * y[k]).sum();
        y[i] = (b[i] - known) / l[i][i];
    }
    let mut x = vec![0.0; n];
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|k| l[k][i] * x[k]).sum();
        x[i] = (y[i] - known) / l[i][i];
    }
    x
}

/// Probabilities of versions by their scores: inverse to the distance from the best (SquareCB,
/// Foster & Rakhlin 2020), mixed with a floor. Each version gets at least `floor`, which is at most
/// 1 / K; they add up to one, and a better score never gets less. The first of equal bests is the
/// best.
pub fn inverse_gap(scores: &[f64], gamma: f64, floor: f64) -> Vec<f64> {
    let k = scores.len() as f64;
    let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let Some(place) = scores.iter().position(|score| *score == best) else { return Vec::new() };
    let mut probabilities: Vec<f64> = scores.iter().map(|score| 1.0 / (k + gamma * (best - score))).collect();
    let others: f64 = probabilities.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, p)| p).sum();
    probabilities[place] = 1.0 - others;
    probabilities.into_iter().map(|probability| floor + (1.0 - k * floor) * probability).collect()
}

/// The version that a unit draws: the first whose cumulative probability is above the unit's hash
/// over 2³². The last one takes what rounding leaves.
pub fn draw(hash: u32, probabilities: &[f64]) -> Option<usize> {
    let u = f64::from(hash) / 4_294_967_296.0;
    let mut sum = 0.0;
    let found = probabilities.iter().position(|probability| {
        sum += probability;
        u < sum
    });
    found.or_else(|| probabilities.len().checked_sub(1))
}
