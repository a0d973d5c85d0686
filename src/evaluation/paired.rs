//! Whether two versions differ on the same examples.

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
    /// How probable a difference at least as large is where both are equally good: McNemar's test (1947), exact, two-sided.
    pub p_value: f64,
}

impl Paired {
    /// Of examples, each with whether the first and the second had it right.
    pub fn of(answers: impl Iterator<Item = (bool, bool)>) -> Self {
        let (mut first_only, mut second_only, mut all) = (0, 0, 0);
        for (first, second) in answers {
            all += 1;
            first_only += u64::from(first && !second);
            second_only += u64::from(second && !first);
        }
        let difference = (second_only as f64 - first_only as f64) / (all as f64).max(1.0);
        Self { first_only, second_only, all, difference, p_value: exact(first_only, second_only) }
    }
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
        let paired = Paired::of(answers.into_iter());
        assert_eq!((paired.first_only, paired.second_only, paired.all), (1, 2, 5));
        assert!((paired.difference - 0.2).abs() < 1e-12);
    }
}
