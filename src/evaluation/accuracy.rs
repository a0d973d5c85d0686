//! Shares, and how far they may be chance.

use std::collections::BTreeMap;

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
    /// Counts answers, each with the picture that it is about. What is said of one picture is not independent: a picture that is
    /// misread costs several answers. So the interval is Wilson's for as many independent answers as these are worth, the
    /// number of answers by the design effect of the pictures (Franco, Little, Louis and Slud, 2019), and never more. A design
    /// effect of few pictures is itself uncertain, for which Korn and Graubard's (1998) factor allows.
    pub fn of(answers: impl Iterator<Item = (usize, bool)>) -> Self {
        let mut pictures: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
        let (mut right, mut all) = (0, 0);
        for (picture, is_right) in answers {
            let (rights, answers) = pictures.entry(picture).or_default();
            *rights += f64::from(u8::from(is_right));
            *answers += 1.0;
            right += u64::from(is_right);
            all += 1;
        }
        if all == 0 {
            return Self { right, all, accuracy: 0.0, interval: Interval { low: 0.0, high: 1.0 } };
        }
        let (n, clusters) = (all as f64, pictures.len() as f64);
        let accuracy = right as f64 / n;
        let simple = accuracy * (1.0 - accuracy) / n;
        // Of one answer per picture each counts in full. Where all are right, or all wrong, nothing tells how alike the answers
        // about a picture are.
        let worth = if clusters == n || simple == 0.0 || pictures.len() < 2 {
            clusters
        } else {
            let squares = pictures.values().map(|(rights, answers)| (rights - accuracy * answers).powi(2)).sum::<f64>();
            let variance = clusters / (clusters - 1.0) * squares / (n * n);
            let uncertain = (student(n - 1.0) / student(clusters - 1.0)).powi(2);
            n / (variance / simple).max(1.0) * uncertain
        };
        Self { right, all, accuracy, interval: Interval::wilson(accuracy, worth) }
    }
}

/// Student's distribution's 97.5 % point: exact for one and two degrees of freedom, and beyond Abramowitz and Stegun's (1964)
/// expansion 26.7.5, to 0.03 for three of them and closer for more.
fn student(degrees: f64) -> f64 {
    match degrees {
        ..1.5 => 12.706_205,
        ..2.5 => 4.302_653,
        _ => {
            let z = |power: i32| Z.powi(power);
            Z + (z(3) + Z) / (4.0 * degrees)
                + (5.0 * z(5) + 16.0 * z(3) + 3.0 * Z) / (96.0 * degrees.powi(2))
                + (3.0 * z(7) + 19.0 * z(5) + 17.0 * z(3) - 15.0 * Z) / (384.0 * degrees.powi(3))
        }
    }
}

impl Interval {
    /// Wilson's score interval (Wilson, 1927) for a share of `n` answers, which keeps its level near 0 and 1 where the usual one
    /// does not.
    fn wilson(share: f64, n: f64) -> Self {
        let scale = 1.0 + Z * Z / n;
        let middle = (share + Z * Z / (2.0 * n)) / scale;
        let reach = Z / scale * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
        Self { low: (middle - reach).max(0.0), high: (middle + reach).min(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(right: usize, all: usize, per_picture: usize) -> Share {
        Share::of((0..all).map(|index| (index / per_picture, index < right)))
    }

    #[test]
    fn the_interval_of_one_answer_per_picture_is_wilsons() {
        // Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
        for (right, all, low, high) in
            [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
        {
            let share = of(right, all, 1);
            let Interval { low: from, high: to } = share.interval;
            assert!((from - low).abs() < 5e-5 && (to - high).abs() < 5e-5, "{right}/{all} {share:?}");
        }
    }

    #[test]
    fn few_pictures_say_little_however_much_is_said_of_them() {
        for (degrees, expected) in
            [(1.0, 12.706), (2.0, 4.303), (3.0, 3.182), (4.0, 2.776), (10.0, 2.228), (100.0, 1.984)]
        {
            assert!((student(degrees) - expected).abs() < 0.03, "{degrees}: {}", student(degrees));
        }
        let two = Share::of((0..12).map(|at| (at / 6, at % 2 == 0)));
        assert!(two.interval.high - two.interval.low > 0.8, "{two:?}");
    }

    #[test]
    fn answers_that_go_with_their_picture_count_as_one() {
        let alike = of(60, 600, 6);
        let pictures = of(10, 100, 1);
        assert_eq!(alike.accuracy, pictures.accuracy);
        let width = |share: &Share| share.interval.high - share.interval.low;
        assert!((width(&alike) - width(&pictures)).abs() < 0.01, "{alike:?} {pictures:?}");
        // The same answers, spread over the pictures.
        let apart = Share::of((0..600).map(|index| (index % 100, index < 60)));
        assert!(width(&apart) < 0.55 * width(&alike), "{apart:?}");
        assert_eq!(of(600, 600, 6).interval, of(100, 100, 1).interval);
    }
}
