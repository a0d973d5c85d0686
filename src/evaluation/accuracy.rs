//! Shares, and how far they may be chance.

use serde::Serialize;

/// A share of right answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Share {
    /// Right answers.
    pub right: u64,
    /// All answers.
    pub all: u64,
    /// Their quotient; 0 where there are none.
    pub accuracy: f64,
    /// Where the true share lies, in 95 of 100 such samples.
    pub interval: Interval,
}

/// An interval of shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Interval {
    /// From here.
    pub low: f64,
    /// To here.
    pub high: f64,
}

/// The standard normal distribution's 97.5 % point.
const Z: f64 = 1.959_963_984_540_054;

impl Share {
    /// So many right ones of so many.
    pub fn new(right: u64, all: u64) -> Self {
        let accuracy = if all == 0 { 0.0 } else { right as f64 / all as f64 };
        Self { right, all, accuracy, interval: Interval::wilson(right, all) }
    }

    /// Counts answers.
    pub fn of(answers: impl Iterator<Item = bool>) -> Self {
        let (mut right, mut all) = (0, 0);
        for is_right in answers {
            right += u64::from(is_right);
            all += 1;
        }
        Self::new(right, all)
    }
}

impl Interval {
    /// Wilson's score interval (Wilson, 1927), which keeps its level near 0 and 1 where the usual one does not.
    pub fn wilson(right: u64, all: u64) -> Self {
        if all == 0 {
            return Self { low: 0.0, high: 1.0 };
        }
        let (n, share) = (all as f64, right as f64 / all as f64);
        let scale = 1.0 + Z * Z / n;
        let middle = (share + Z * Z / (2.0 * n)) / scale;
        let reach = Z / scale * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
        Self { low: (middle - reach).max(0.0), high: (middle + reach).min(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_wilsons() {
        // Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
        for (right, all, low, high) in
            [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
        {
            let interval = Interval::wilson(right, all);
            assert!(
                (interval.low - low).abs() < 5e-5 && (interval.high - high).abs() < 5e-5,
                "{right}/{all} {interval:?}"
            );
        }
    }
}
