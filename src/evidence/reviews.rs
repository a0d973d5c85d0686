//! Answers of people to verdicts, and how far people agree with each other.

use serde::{Deserialize, Serialize};

use super::{
    change::Change,
    observation::{hash, millionths},
};
use crate::message::Review;

/// Reviewers of one request that are remembered.
const REVIEWERS_MAX: usize = 16;
/// A multiple of all numbers below [`REVIEWERS_MAX`]: pairs of labels are counted in this unit.
const PAIR_UNIT: u128 = 360_360;

/// The answer of one reviewer. Of two, the greater one stands: the later one, or at the same time
/// the one with the greater content, so that the order of reading does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HumanAnswer {
    /// Milliseconds since 1970.
    time_ms: i64,
    /// A digest of the reviewer's name.
    reviewer: u128,
    /// The label: 0 no, 1 maybe, 2 yes.
    label: Option<u8>,
    /// The probability with which the verdict was shown, in millionths, where the review has one. 0
    /// where the verdict is not part of the sample, so that the answer has no weight.
    probability: Option<u32>,
}

impl HumanAnswer {
    /// None where its time makes no sense.
    pub(super) fn of(review: &Review) -> Option<Self> {
        Some(Self {
            time_ms: review.reviewed_at.parse::<jiff::Timestamp>().ok()?.as_millisecond(),
            reviewer: hash(&[&review.reviewer]),
            label: review.label.map(|label| label as u8),
            probability: if review.sampled { review.probability.map(millionths) } else { Some(0) },
        })
    }
}

/// The last answer of each reviewer of a request, the latest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HumanAnswers(Vec<HumanAnswer>);

impl HumanAnswers {
    /// Adds an answer. The last [`REVIEWERS_MAX`] reviewers are remembered.
    pub(super) fn add(&mut self, answer: HumanAnswer) {
        match self.0.iter_mut().find(|known| known.reviewer == answer.reviewer) {
            Some(known) => *known = (*known).max(answer),
            None => self.0.push(answer),
        }
        self.0.sort_unstable_by(|a, b| b.cmp(a));
        self.0.truncate(REVIEWERS_MAX);
    }

    pub(super) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The answer that counts: the last one with a label.
    pub(super) fn decisive(&self) -> Option<(u8, Option<u32>)> {
        self.0.iter().find_map(|answer| Some((answer.label?, answer.probability)))
    }

    /// Pairs of labels of two reviewers each, as Krippendorff's coincidences (2011).
    fn pairs(&self) -> [[u128; 3]; 3] {
        let labels: Vec<usize> = self.0.iter().filter_map(|answer| answer.label).map(usize::from).collect();
        let mut pairs = [[0; 3]; 3];
        if labels.len() < 2 {
            return pairs;
        }
        let unit = PAIR_UNIT / (labels.len() as u128 - 1);
        for (place, label) in labels.iter().enumerate() {
            for (_, other) in labels.iter().enumerate().filter(|(other, _)| *other != place) {
                pairs[*label][*other] += unit;
            }
        }
        pairs
    }
}

/// All reviews.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReviewCounts {
    /// Last answers of a reviewer.
    pub answers: u64,
    /// All answers that were read: changed ones, and some that were read twice, among them.
    pub records: u64,
    /// Records that are no reviews.
    pub unreadable: u64,
    /// Requests with an answer.
    pub requests: u64,
    /// Requests with an answer and a verdict of an experiment.
    pub matched: u64,
    /// Pairs of labels of two reviewers, in 360,360ths.
    pairs: [[u128; 3]; 3],
}

impl ReviewCounts {
    pub(super) fn change_pairs(&mut self, answers: &HumanAnswers, change: Change) {
        for (row, more) in self.pairs.iter_mut().zip(answers.pairs()) {
            for (total, part) in row.iter_mut().zip(more) {
                *total = change.apply_wide(*total, part);
            }
        }
    }

    /// How far reviewers agree beyond chance: Krippendorff's α for nominal labels (2011). None
    /// where no request has two reviewers, or all labels are equal.
    pub fn agreement(&self) -> Option<f64> {
        let pairs = self.pairs.map(|row| row.map(|pairs| pairs as f64 / PAIR_UNIT as f64));
        let of_label: Vec<f64> = pairs.iter().map(|row| row.iter().sum()).collect();
        let n: f64 = of_label.iter().sum();
        let off_diagonal = |of: &dyn Fn(usize, usize) -> f64| -> f64 {
            (0..3).flat_map(|a| (0..3).map(move |b| (a, b))).filter(|(a, b)| a != b).map(|(a, b)| of(a, b)).sum()
        };
        let observed = off_diagonal(&|a, b| pairs[a][b]);
        let expected = off_diagonal(&|a, b| of_label[a] * of_label[b]);
        (expected > 0.0).then(|| 1.0 - (n - 1.0) * observed / expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::agreement;

    fn answer(reviewer: &str, time_ms: i64, label: u8) -> HumanAnswer {
        HumanAnswer { time_ms, reviewer: hash(&[reviewer]), label: Some(label), probability: None }
    }

    #[test]
    fn the_last_answer_of_a_reviewer_stands_in_any_order() {
        let all = [answer("ann", 1, 0), answer("ben", 2, 1), answer("ann", 3, 2), answer("ann", 3, 2)];
        let of = |order: [usize; 4]| {
            let mut answers = HumanAnswers::default();
            order.iter().for_each(|place| answers.add(all[*place]));
            answers
        };
        let right = of([0, 1, 2, 3]);
        assert_eq!((right.decisive(), right.len()), (Some((2, None)), 2));
        assert_eq!(of([3, 2, 1, 0]), right);

        let mut crowd = HumanAnswers::default();
        (0..40).for_each(|number| crowd.add(answer(&number.to_string(), i64::from(number), 0)));
        let again = crowd.clone();
        (0..40).for_each(|number| crowd.add(answer(&number.to_string(), i64::from(number), 0)));
        assert_eq!((crowd.len(), crowd), (16, again), "the last reviewers are remembered");
    }

    #[test]
    fn agreement_is_krippendorffs_alpha() {
        let requests: [&[u8]; 5] = [&[0, 0], &[2, 2, 2], &[0, 2], &[1, 1, 0], &[2]];
        let mut counts = ReviewCounts::default();
        for labels in requests {
            let mut answers = HumanAnswers::default();
            for (number, label) in labels.iter().enumerate() {
                answers.add(answer(&number.to_string(), 0, *label));
            }
            counts.change_pairs(&answers, Change::Add);
        }
        let units: Vec<Vec<usize>> =
            requests.iter().map(|labels| labels.iter().map(|label| usize::from(*label)).collect()).collect();
        let right = agreement::krippendorff(&units, &[0.0, 1.0, 2.0], agreement::Scale::Nominal).unwrap();
        assert!((counts.agreement().unwrap() - right).abs() < 1e-12);
        assert_eq!(ReviewCounts::default().agreement(), None);
    }
}
