//! What another policy would have earned, from logs with the exact probability of each choice.

/// A request of a log.
#[derive(Clone, Debug, PartialEq)]
pub struct Logged {
    /// The version that answered, by its place.
    pub action: usize,
    /// What its answer was worth.
    pub reward: f64,
    /// The probability with which it was chosen, above 0.
    pub probability: f64,
    /// The probabilities with which the other policy chooses, one for each version.
    pub target: Vec<f64>,
    /// The reward that a model predicts, one for each version.
    pub predicted: Vec<f64>,
}

/// The value of a policy, by several estimators. Standard errors are those of a mean (n - 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PolicyValue {
    /// Inverse probability weighting, and its standard error. Unbiased; its variance grows with the
    /// weights.
    pub ips: [f64; 2],
    /// The same with weights of at most the bound.
    pub ips_clipped: f64,
    /// Self-normalized: Σ w r / Σ w, and its standard error by the delta method.
    pub snips: [f64; 2],
    /// The model's prediction alone (direct method), and its standard error.
    pub direct: [f64; 2],
    /// Doubly robust (Dudík et al. 2014): right where the probabilities or the model are right.
    pub doubly_robust: [f64; 2],
    /// Doubly robust with self-normalized weights.
    pub doubly_robust_normalized: f64,
    /// Doubly robust where the weight is at most the bound, and the model elsewhere (Wang et al.
    /// 2017).
    pub switch: [f64; 2],
    /// Doubly robust with shrunk weights (Su et al. 2020).
    pub shrunk: f64,
    /// How many requests of the other policy would tell as much: (Σ w)² / Σ w².
    pub effective_size: f64,
    /// The largest and the mean weight. The mean is 1 where the logs cover the policy.
    pub weights: [f64; 2],
}

impl PolicyValue {
    /// Of a log; `bound` is the weight from which on a single request is trusted less. None for
    /// fewer than two requests.
    pub fn of(log: &[Logged], bound: f64) -> Option<Self> {
        if log.len() < 2 {
            return None;
        }
        let weights: Vec<f64> = log.iter().map(|row| row.target[row.action] / row.probability).collect();
        let each = |of: &dyn Fn(&Logged, f64) -> f64| -> Vec<f64> {
            log.iter().zip(&weights).map(|(row, weight)| of(row, *weight)).collect()
        };
        let model = |row: &Logged| -> f64 {
            row.target.iter().zip(&row.predicted).map(|(probability, predicted)| probability * predicted).sum()
        };
        let residual = |row: &Logged| row.reward - row.predicted[row.action];

        let (all, squares) = (weights.iter().sum::<f64>(), weights.iter().map(|weight| weight * weight).sum::<f64>());
        let normalized = each(&|row, weight| weight * row.reward).iter().sum::<f64>() / all;
        let deviations = each(&|row, weight| weight * (row.reward - normalized));
        let mean_weight = all / log.len() as f64;
        let direct = mean(&each(&|row, _| model(row)));
        let corrections = each(&|row, weight| weight * residual(row)).iter().sum::<f64>();
        let is_trusted = |weight: f64| f64::from(u8::from(weight <= bound));
        Some(Self {
            ips: mean(&each(&|row, weight| weight * row.reward)),
            ips_clipped: mean(&each(&|row, weight| weight.min(bound) * row.reward))[0],
            snips: [normalized, mean(&deviations)[1] / mean_weight],
            direct,
            doubly_robust: mean(&each(&|row, weight| model(row) + weight * residual(row))),
            doubly_robust_normalized: direct[0] + corrections / all,
            switch: mean(&each(&|row, weight| model(row) + is_trusted(weight) * weight * residual(row))),
            shrunk: mean(&each(&|row, weight| model(row) + bound * weight / (weight * weight + bound) * residual(row)))
                [0],
            effective_size: all * all / squares,
            weights: [weights.iter().copied().fold(0.0, f64::max), mean_weight],
        })
    }
}

/// A mean with its standard error.
fn mean(values: &[f64]) -> [f64; 2] {
    let moments = super::Moments::of(values);
    [moments.mean, moments.variance_of_mean().sqrt()]
}
