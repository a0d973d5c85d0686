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
        let p_value = by_signs(pictures.into_values().collect());
        Self { first_only, second_only, all, difference, p_value }
    }
}

/// Pictures on which the two differ, up to which all ways are counted; beyond, their sum is as good as normal.
const COUNTED_MAX: usize = 2_000;

/// Of the second's surplus on each picture: the share of all ways to swap the two versions, picture by picture, in which the sum is
/// at least as far from nought. A permutation test, so exact for any number of pictures (Fisher, 1935); of one example per picture
/// it is McNemar's exact test.
fn by_signs(mut surplus: Vec<i64>) -> f64 {
    surplus.retain(|surplus| *surplus != 0);
    let sum = surplus.iter().sum::<i64>().unsigned_abs() as usize;
    if surplus.len() > COUNTED_MAX {
        let squares = surplus.iter().map(|surplus| surplus * surplus).sum::<i64>();
        return libm::erfc(sum as f64 / (2.0 * squares as f64).sqrt());
    }
    let sizes: Vec<usize> = surplus.iter().map(|surplus| surplus.unsigned_abs() as usize).collect();
    let furthest = sizes.iter().sum::<usize>();
    // The share of ways in which the sum is so many above the least possible one.
    let mut shares = vec![0.0; 2 * furthest + 1];
    shares[0] = 1.0;
    let mut reached = 0;
    for size in sizes {
        reached += 2 * size;
        for at in (0..=reached).rev() {
            let added = at.checked_sub(2 * size).map_or(0.0, |before| shares[before]);
            shares[at] = 0.5 * (shares[at] + added);
        }
    }
    let as_far = shares.iter().enumerate().filter(|(at, _)| at.abs_diff(furthest) >= sum).map(|(_, share)| share);
    as_far.sum::<f64>().min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pictures: impl Iterator<Item = i64>) -> f64 {
        by_signs(pictures.collect())
    }

    #[test]
    fn of_one_example_per_picture_the_p_value_is_the_binomials() {
        for (one, other, expected) in
            [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 0.0625), (1, 9, 0.021_484_375), (10, 30, 0.002_221_434)]
        {
            let surplus = || std::iter::repeat_n(-1, one).chain(std::iter::repeat_n(1, other));
            assert!((of(surplus()) - expected).abs() < 1e-6, "{one} {other}: {}", of(surplus()));
            assert!((of(surplus().map(|surplus| -surplus)) - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn only_examples_on_which_they_differ_count() {
        let answers = [(true, true), (true, false), (false, true), (false, true), (false, false)];
        let pairs = || answers.into_iter().enumerate().map(|(at, (first, second))| (at, first, second));
        let paired = Paired::of(pairs());
        assert_eq!((paired.first_only, paired.second_only, paired.all), (1, 2, 5));
        assert!((paired.difference - 0.2).abs() < 1e-12);
        let more = Paired::of(pairs().chain([(9, true, true), (9, true, true), (10, false, false)]));
        assert_eq!(more.p_value, paired.p_value, "what both have right, or wrong, says nothing");
    }

    #[test]
    fn examples_of_one_picture_are_worth_less_than_as_many_pictures() {
        // 30 pictures of which the second alone is right of both examples, and 10 where the first is.
        let second = |picture: usize| picture < 30;
        let paired = Paired::of((0..80).map(|at| (at / 2, !second(at / 2), second(at / 2))));
        assert_eq!((paired.first_only, paired.second_only), (20, 60));
        assert!((paired.p_value - 0.002_221_434).abs() < 1e-6, "as 40 pictures: {paired:?}");
        // All ways of 3, 2 and 1: 6 and -6 of eight.
        assert!((of([3, 2, 1].into_iter()) - 0.25).abs() < 1e-12);
    }

    #[test]
    fn beyond_what_is_counted_the_p_value_goes_on_smoothly() {
        let surplus = |pictures: usize| (0..pictures).map(move |at| if at < pictures / 2 + 30 { 2 } else { -2 });
        let (counted, estimated) = (of(surplus(COUNTED_MAX)), of(surplus(COUNTED_MAX + 1)));
        assert!((counted - estimated).abs() < 0.02 && (0.1..0.3).contains(&counted), "{counted} {estimated}");
    }
}
