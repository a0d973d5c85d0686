//! Whether confidences are as often right as they say.

use serde::Serialize;

/// Confidences against how often they are right.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Calibration {
    /// Expected calibration error (Naeini et al., 2015): the mean distance between confidence and accuracy, bin by bin.
    pub expected_error: f64,
    /// Mean confidence.
    pub confidence: f64,
    /// Bins of equal width; empty ones are left out.
    pub bins: Vec<Bin>,
}

/// Answers of about the same confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bin {
    /// Their mean confidence.
    pub confidence: f64,
    /// How often they were right.
    pub accuracy: f64,
    /// How many there are.
    pub answers: u64,
}

const BINS: usize = 15;

impl Calibration {
    /// Of answers, each with its confidence and whether it was right.
    pub fn of(answers: impl Iterator<Item = (f64, bool)>) -> Self {
        let mut sums = [(0.0, 0_u64, 0_u64); BINS];
        for (confidence, is_right) in answers {
            let bin = &mut sums[((confidence * BINS as f64) as usize).min(BINS - 1)];
            *bin = (bin.0 + confidence, bin.1 + u64::from(is_right), bin.2 + 1);
        }
        let all: u64 = sums.iter().map(|(_, _, answers)| answers).sum();
        let bins: Vec<Bin> = sums
            .into_iter()
            .filter(|(_, _, answers)| *answers > 0)
            .map(|(confidence, right, answers)| Bin {
                confidence: confidence / answers as f64,
                accuracy: right as f64 / answers as f64,
                answers,
            })
            .collect();
        let share = |bin: &Bin| bin.answers as f64 / all.max(1) as f64;
        Self {
            expected_error: bins.iter().map(|bin| share(bin) * (bin.confidence - bin.accuracy).abs()).sum(),
            confidence: bins.iter().map(|bin| share(bin) * bin.confidence).sum(),
            bins,
        }
    }
}

/// Of a handful of answers, or of such as are all right, nothing sensible can be fitted.
const TEMPERATURES: (f64, f64) = (0.2, 5.0);
const ANSWERS_MIN: usize = 100;
const HALVINGS: usize = 60;

/// The temperature that makes the right answers most likely (Guo et al., 2017), given the log-probabilities of all answers and
/// the index of the right one; 1 where there are fewer than a hundred. The likelihood has one maximum in the inverse temperature, because it is concave there.
pub fn temperature(answers: &[(Vec<f32>, usize)]) -> f64 {
    if answers.len() < ANSWERS_MIN {
        return 1.0;
    }
    // The derivative of the log-likelihood by the inverse temperature b: of each answer, its score less the mean score.
    let slope = |b: f64| -> f64 {
        let of_one = |(scores, right): &(Vec<f32>, usize)| {
            let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weights: Vec<f64> = scores.iter().map(|score| (b * f64::from(score - highest)).exp()).collect();
            let mean = weights.iter().zip(scores).map(|(weight, score)| weight * f64::from(*score)).sum::<f64>();
            f64::from(scores[*right]) - mean / weights.iter().sum::<f64>()
        };
        answers.iter().map(of_one).sum()
    };
    let (mut low, mut high) = (1.0 / TEMPERATURES.1, 1.0 / TEMPERATURES.0);
    for _ in 0..HALVINGS {
        let middle = 0.5 * (low + high);
        if slope(middle) > 0.0 { low = middle } else { high = middle }
    }
    // Four digits are more than the data knows, and read well in a manifest.
    (2.0 / (low + high) * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    /// The numbers of other packages; the file names them.
    #[test]
    fn the_expected_error_is_that_of_other_packages() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/vectors/statistics/stats_oracles_2.json");
        let all: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let entry = all["entries"].as_array().unwrap().iter().find(|entry| entry["name"] == "calibration_error");
        for case in entry.unwrap()["cases"].as_array().unwrap() {
            let confidences = case["input"]["confidence"].as_array().unwrap().iter();
            let right = case["input"]["right"].as_array().unwrap();
            let answers = confidences.zip(right).map(|(confidence, right)| (confidence.as_f64().unwrap(), *right == 1));
            let error = Calibration::of(answers).expected_error;
            let expected = case["expected"]["ece_15"].as_f64().unwrap();
            assert!((error - expected).abs() < 1e-9, "{}: {error}, not {expected}", case["name"]);
        }
    }

    #[test]
    fn the_expected_error_is_the_mean_distance_over_bins() {
        // Ten answers of 0.95, nine right; ten of 0.55, all right.
        let answers = (0..10).map(|at| (0.95, at > 0)).chain((0..10).map(|_| (0.55, true)));
        let calibration = Calibration::of(answers);
        assert!((calibration.expected_error - (0.5 * 0.05 + 0.5 * 0.45)).abs() < 1e-9, "{calibration:?}");
        assert_eq!(calibration.bins.len(), 2);
    }

    #[test]
    fn the_temperature_of_answers_that_claim_too_much_is_found_again() {
        // Labels drawn from a softmax, whose logits are then stretched: the stretch is what must be divided out.
        let mut chance = Rng::with_seed(9);
        for stretch in [0.5, 1.0, 2.5] {
            let answers: Vec<(Vec<f32>, usize)> = (0..20_000)
                .map(|_| {
                    let logits: Vec<f32> = (0..3).map(|_| chance.f32() * 4.0).collect();
                    let weights: Vec<f32> = logits.iter().map(|logit| logit.exp()).collect();
                    let mut draw = chance.f32() * weights.iter().sum::<f32>();
                    let right = weights.iter().position(|weight| {
                        draw -= weight;
                        draw < 0.0
                    });
                    (logits.iter().map(|logit| logit * stretch).collect(), right.unwrap_or(2))
                })
                .collect();
            let found = temperature(&answers);
            assert!((found / f64::from(stretch) - 1.0).abs() < 0.05, "{stretch}: {found}");
        }
        assert_eq!(temperature(&[]), 1.0);
        // All right: only the bound keeps them from claiming all.
        let right = vec![(vec![0.0, -3.0, -3.0], 0); 200];
        assert!((temperature(&right) - TEMPERATURES.0).abs() < 1e-3);
    }
}
