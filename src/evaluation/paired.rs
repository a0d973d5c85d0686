//! Whether two versions differ on the same examples.

use std::collections::BTreeMap;

use serde::Serialize;

/// What two versions made of the same examples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Paired {
    /// Examples that the first alone had right.
    pub first_only: u64,
    /// Examples that the second alone had right.
    pub second_only: u64,
    /// All examples.
    pub all: u64,
    /// Accuracy of the second less that of the first.
    pub difference: f64,
    /// How probable a difference at least as large is where both are equally good, two-sided.
    pub p_value: f64,
    /// By which test.
    pub test: PairedTest,
}

/// How two versions are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PairedTest {
    /// McNemar's (1947), exact: of one example per picture.
    Exact,
    /// McNemar's for examples in clusters (Yang, Sun and Hardin, 2010): what is said of one picture is not independent.
    Clustered,
}

impl PairedTest {
    /// Its name for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "McNemar's exact test",
            Self::Clustered => "McNemar's test for examples in clusters, one for each picture",
        }
    }
}

impl Paired {
    /// Of examples, each with its picture and whether the first and the second had it right.
    pub fn of(answers: impl Iterator<Item = (usize, bool, bool)>) -> Self {
        let (mut first_only, mut second_only, mut all) = (0, 0, 0);
        let mut pictures: BTreeMap<usize, i64> = BTreeMap::new();
        for (picture, first, second) in answers {
            all += 1;
            first_only += u64::from(first && !second);
            second_only += u64::from(second && !first);
            *pictures.entry(picture).or_default() += i64::from(second) - i64::from(first);
        }
        let difference = (second_only as f64 - first_only as f64) / (all as f64).max(1.0);
        let (p_value, test) = match pictures.len() == all as usize {
            true => (exact(first_only, second_only), PairedTest::Exact),
            false => (clustered(pictures.into_values()), PairedTest::Clustered),
        };
        Self { first_only, second_only, all, difference, p_value, test }
    }
}

/// Of the second's surplus in each cluster: the square of their sum by the sum of their squares is distributed as χ² with one degree
/// of freedom.
fn clustered(surplus: impl Iterator<Item = i64>) -> f64 {
    let (sum, squares) = surplus.fold((0, 0), |(sum, squares), surplus| (sum + surplus, squares + surplus * surplus));
    if squares == 0 { 1.0 } else { libm::erfc((sum.abs() as f64) / (2.0 * squares as f64).sqrt()) }
}

/// Twice the probability of at most the smaller count among as many throws of a fair coin.
fn exact(one: u64, other: u64) -> f64 {
    let (n, least) = (one + other, one.min(other));
    // The logarithm of n over k, times 2 to the power of -n, factor by factor.
    let mut log = -(n as f64) * std::f64::consts::LN_2;
    let mut sum = log.exp();
    for k in 1..=least {
        log += ((n - k + 1) as f64).ln() - (k as f64).ln();
        sum += log.exp();
    }
    (2.0 * sum).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_p_value_is_the_binomials() {
        for (one, other, expected) in
            [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 0.0625), (1, 9, 0.021_484_375), (10, 30, 0.002_221_434)]
        {
            assert!((exact(one, other) - expected).abs() < 1e-6, "{one} {other}: {}", exact(one, other));
            assert!((exact(other, one) - exact(one, other)).abs() < 1e-12);
        }
    }

    #[test]
    fn only_examples_on_which_they_differ_count() {
        let answers = [(true, true), (true, false), (false, true), (false, true), (false, false)];
        let paired = Paired::of(answers.into_iter().enumerate().map(|(at, (first, second))| (at, first, second)));
        assert_eq!(paired.test, PairedTest::Exact);
        assert_eq!((paired.first_only, paired.second_only, paired.all), (1, 2, 5));
        assert!((paired.difference - 0.2).abs() < 1e-12);
    }

    #[test]
    fn examples_of_one_picture_are_worth_less_than_as_many_pictures() {
        // 30 pictures of which the second alone is right of both examples, and 10 where the first is.
        let second = |picture: usize| picture < 30;
        let answers = (0..80).map(|at| (at / 2, !second(at / 2), second(at / 2)));
        let paired = Paired::of(answers);
        // (2·30 - 2·10)² / (4·40) = 10.
        assert!((paired.p_value - 0.001_565_4).abs() < 1e-6, "{paired:?}");
        assert_eq!((paired.first_only, paired.second_only, paired.test), (20, 60, PairedTest::Clustered));
        assert!(exact(20, 60) < 1e-4, "as if they were independent");
    }
}
