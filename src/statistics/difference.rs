//! Differences of two arms, with the variance of the estimate.

use super::{
    Moments,
    special::{student_quantile_two_sided, student_two_sided},
};

/// An estimate of a difference, treatment less control.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// The estimate.
    pub estimate: f64,
    /// The square of its standard error.
    pub variance: f64,
}

impl Difference {
    /// The difference of two means of independent arms.
    pub fn of(control: Moments, treatment: Moments) -> Self {
        let variance = control.variance_of_mean() + treatment.variance_of_mean();
        Self { estimate: treatment.mean - control.mean, variance }
    }

    /// The difference relative to the control's mean, by the delta method: v = v_B/μ_A² +
    /// v_A μ_B²/μ_A⁴ (Deng, Knoblich & Lu 2018). None where the control's mean is zero.
    pub fn relative(control: Moments, treatment: Moments) -> Option<Self> {
        let (a, b) = (control.mean, treatment.mean);
        if a == 0.0 {
            return None;
        }
        let variance = treatment.variance_of_mean() / (a * a) + control.variance_of_mean() * (b * b) / (a * a * a * a);
        Some(Self { estimate: (b - a) / a, variance })
    }

    /// Standard error.
    pub fn standard_error(&self) -> f64 {
        self.variance.sqrt()
    }
}

/// Welch's test for a fixed number of observations (Welch 1947).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Welch {
    /// Treatment less control.
    pub difference: f64,
    /// The test statistic.
    pub t: f64,
    /// Degrees of freedom by Satterthwaite.
    pub df: f64,
    /// Two-sided.
    pub p_value: f64,
    standard_error: f64,
}

impl Welch {
    /// The test of two arms; none where an arm has fewer than two observations or both do not vary.
    pub fn of(control: Moments, treatment: Moments) -> Option<Self> {
        let (a, b) = (control.variance_of_mean(), treatment.variance_of_mean());
        let variance = a + b;
        if control.n < 2.0 || treatment.n < 2.0 || variance <= 0.0 {
            return None;
        }
        let df = variance * variance / (a * a / (control.n - 1.0) + b * b / (treatment.n - 1.0));
        let difference = treatment.mean - control.mean;
        let standard_error = variance.sqrt();
        let t = difference / standard_error;
        Some(Self { difference, t, df, p_value: student_two_sided(t, df), standard_error })
    }

    /// The interval of a level such as 0.95.
    pub fn interval(&self, level: f64) -> [f64; 2] {
        let half = student_quantile_two_sided(level, self.df) * self.standard_error;
        [self.difference - half, self.difference + half]
    }
}
