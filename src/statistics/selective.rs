//! How much is decided automatically, and how often that is wrong (Geifman & El-Yaniv 2017).

/// What one threshold on the confidence gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Operating {
    /// Answers with this confidence or more are accepted.
    pub threshold: f64,
    /// Accepted answers.
    pub accepted: u64,
    /// Wrong ones among them.
    pub errors: u64,
}

impl Operating {
    /// The share of accepted answers that are wrong.
    pub fn risk(&self) -> f64 {
        self.errors as f64 / self.accepted as f64
    }
}

/// Risk against coverage.
#[derive(Clone, Debug, PartialEq)]
pub struct RiskCoverage {
    answers: u64,
    /// From the strictest threshold on. Equal confidences share a point: no threshold divides them.
    pub points: Vec<Operating>,
}

impl RiskCoverage {
    /// Of answers, each with its confidence and whether it is right.
    pub fn of(answers: impl IntoIterator<Item = (f64, bool)>) -> Self {
        let mut sorted: Vec<(f64, bool)> = answers.into_iter().collect();
        sorted.sort_by(|one, other| other.0.total_cmp(&one.0));
        let mut points: Vec<Operating> = Vec::new();
        let (mut accepted, mut errors) = (0, 0);
        for (confidence, is_right) in sorted {
            accepted += 1;
            errors += u64::from(!is_right);
            let point = Operating { threshold: confidence, accepted, errors };
            match points.last_mut().filter(|last| last.threshold == confidence) {
                Some(last) => *last = point,
                None => points.push(point),
            }
        }
        Self { answers: accepted, points }
    }

    /// The area under the curve: the mean risk over all numbers of accepted answers. Answers of
    /// equal confidence share their errors evenly, so that their order does not matter.
    pub fn area(&self) -> f64 {
        let (mut area, mut before) = (0.0, Operating { threshold: 1.0, accepted: 0, errors: 0 });
        for point in &self.points {
            let (more, more_errors) = (point.accepted - before.accepted, point.errors - before.errors);
            for place in 1..=more {
                let errors = before.errors as f64 + more_errors as f64 * place as f64 / more as f64;
                area += errors / (before.accepted + place) as f64;
            }
            before = *point;
        }
        area / self.answers.max(1) as f64
    }

    /// The loosest threshold whose observed risk is at most `risk`; none where every one exceeds
    /// it.
    pub fn at_risk(&self, risk: f64) -> Option<Operating> {
        // A product that rounding has put below a whole number by its last digit still passes.
        let passes = |point: &&Operating| point.errors as f64 <= risk * point.accepted as f64 + 1e-12;
        self.points.iter().rev().find(passes).copied()
    }

    /// The share of all answers that a threshold accepts.
    pub fn coverage(&self, point: &Operating) -> f64 {
        point.accepted as f64 / self.answers.max(1) as f64
    }
}
