//! How often people contradict a variant.
//!
//! People see a sample: all that goes to review, and a slice of the rest. So each verdict weighs by
//! one over the probability with which it was shown (Horvitz & Thompson 1952; Hájek 1971). The
//! plain rate would compare what is sent to people, and not the models.
//!
//! The variance is over units or pictures, because reviewed verdicts of one of them are not
//! independent.

use serde::{Deserialize, Serialize};

use super::{
    change::Change, cluster_sums::ClusterSums, metric::Metric, observation::Observation, reviews::HumanAnswers,
};
use crate::message::Label;

/// Weights are counted in millionths.
const WEIGHT_UNIT: f64 = 1e6;

/// A reviewed verdict.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reviewed {
    /// The label of the variant: 0 no, 1 maybe, 2 yes.
    label: usize,
    /// The label of the person whose answer counts.
    human: usize,
    /// One over the probability of being shown, in millionths; none where that is not known.
    weight: Option<u64>,
}

impl Reviewed {
    /// None where no answer has a label.
    pub(super) fn of(observation: &Observation, answers: &HumanAnswers) -> Option<Self> {
        let (human, probability) = answers.decisive()?;
        let shown = probability.unwrap_or(observation.review_probability);
        let weight = (shown > 0).then(|| (WEIGHT_UNIT * WEIGHT_UNIT / f64::from(shown)).round() as u64);
        Some(Self { label: observation.label as usize, human: usize::from(human), weight })
    }

    fn is_wrong(&self) -> bool {
        self.label != self.human
    }
}

/// Reviewed verdicts of one unit or picture: by label of the variant the sum of weights, and of the
/// weights of verdicts that people contradict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReviewedCluster {
    by_label: [[u64; 2]; 3],
}

impl ReviewedCluster {
    #[must_use]
    pub(super) fn changed(mut self, reviewed: &Reviewed, change: Change) -> Self {
        let weight = reviewed.weight.unwrap_or_default();
        let [all, wrong] = &mut self.by_label[reviewed.label];
        *all = change.apply(*all, weight);
        *wrong = change.apply(*wrong, if reviewed.is_wrong() { weight } else { 0 });
        self
    }

    /// The sum of weights that a metric is about, and of those that people contradict.
    fn of_metric(&self, metric: Metric) -> (u64, u64) {
        let labels = labels_of(metric).iter().map(|label| self.by_label[*label]);
        labels.fold((0, 0), |(all, wrong), [more, more_wrong]| (all + more, wrong + more_wrong))
    }
}

/// The labels of the variant that a metric is about.
fn labels_of(metric: Metric) -> &'static [usize] {
    const NO: [usize; 1] = [Label::No as usize];
    const ALL: [usize; 3] = [Label::No as usize, Label::Maybe as usize, Label::Yes as usize];
    if metric == Metric::MisjudgedNo { &NO } else { &ALL }
}

/// Weighted sums over reviewed verdicts with one label, without regard to units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WeightedSums {
    /// Verdicts, and those that people contradict.
    n: u64,
    wrong: u64,
    /// Σ w, Σ w², and the same over verdicts that people contradict. In millionths, and millionths
    /// of millionths.
    w: u128,
    ww: u128,
    wrong_w: u128,
    wrong_ww: u128,
}

impl WeightedSums {
    fn change(&mut self, weight: u64, is_wrong: bool, change: Change) {
        let (w, wrong) = (u128::from(weight), u128::from(is_wrong));
        self.n = change.apply(self.n, 1);
        self.wrong = change.apply(self.wrong, u64::from(is_wrong));
        for (total, part) in [
            (&mut self.w, w),
            (&mut self.ww, w * w),
            (&mut self.wrong_w, w * wrong),
            (&mut self.wrong_ww, w * w * wrong),
        ] {
            *total = change.apply_wide(*total, part);
        }
    }

    #[must_use]
    fn plus(self, other: &Self) -> Self {
        Self {
            n: self.n + other.n,
            wrong: self.wrong + other.wrong,
            w: self.w + other.w,
            ww: self.ww + other.ww,
            wrong_w: self.wrong_w + other.wrong_w,
            wrong_ww: self.wrong_ww + other.wrong_ww,
        }
    }

    /// The rate, and its variance if all verdicts were independent: a ratio of weighted sums, by
    /// linearization.
    fn rate(&self) -> Option<(f64, f64)> {
        let w = self.w as f64;
        if w <= 0.0 {
            return None;
        }
        let rate = self.wrong_w as f64 / w;
        let (wrong_ww, ww) = (self.wrong_ww as f64, self.ww as f64);
        let squares = wrong_ww * (1.0 - rate).powi(2) + (ww - wrong_ww) * rate * rate;
        Some((rate, squares / (w * w)))
    }
}

/// By label of the variant, for one hour.
pub(super) type ReviewedHour = [WeightedSums; 3];

/// Adds or removes a reviewed verdict of an hour.
pub(super) fn change_hour(hour: &mut ReviewedHour, reviewed: &Reviewed, change: Change) {
    if let Some(weight) = reviewed.weight {
        hour[reviewed.label].change(weight, reviewed.is_wrong(), change);
    }
}

/// Reviewed verdicts of a variant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReviewSums {
    /// Rows are labels of the variant, columns those of people: no, maybe, yes.
    pub(super) labels: [[u64; 3]; 3],
    /// Reviewed verdicts whose probability of being shown is not known; they have no weight.
    pub(super) without_probability: u64,
    /// Sums over units or pictures, in the order of [`Metric::REVIEWED`].
    weighted: [ClusterSums; 2],
}

/// A rate with the variance of its estimate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct WeightedRate {
    pub(super) rate: f64,
    pub(super) variance: f64,
    /// Verdicts behind it, and those that people contradict.
    pub(super) reviewed: u64,
    pub(super) wrong: u64,
    /// Units or pictures with a reviewed verdict.
    pub(super) clusters: u64,
    /// How many verdicts of equal weight would tell as much (Kish 1965).
    effective: f64,
}

/// With fewer effective verdicts that are right, or wrong, the normal approximation is too rough.
const EFFECTIVE_EVENTS_MIN: f64 = 20.0;
/// The variance of fewer units is too uncertain.
const CLUSTERS_MIN: u64 = 10;

impl WeightedRate {
    /// Whether the normal approximation is too rough. A few heavy labels can decide a rate,
    /// although many light ones were given.
    pub(super) fn is_rough(&self) -> bool {
        let events = self.rate.min(1.0 - self.rate) * self.effective;
        events < EFFECTIVE_EVENTS_MIN || self.clusters < CLUSTERS_MIN
    }
}

impl ReviewSums {
    /// Adds or removes a verdict; `before` and `after` are the sums of its unit or picture.
    pub(super) fn change(
        &mut self,
        reviewed: &Reviewed,
        before: &ReviewedCluster,
        after: &ReviewedCluster,
        change: Change,
    ) {
        let count = &mut self.labels[reviewed.label][reviewed.human];
        *count = change.apply(*count, 1);
        if reviewed.weight.is_none() {
            self.without_probability = change.apply(self.without_probability, 1);
        }
        for (sums, metric) in self.weighted.iter_mut().zip(Metric::REVIEWED) {
            sums.change(before.of_metric(metric), Change::Remove);
            sums.change(after.of_metric(metric), Change::Add);
        }
    }
}

/// The rate at which people contradict a variant, over verdicts of hours that ended before
/// `until_ms`. None without a weight.
///
/// The variance of the hours is that of independent verdicts, times the factor by which units or
/// pictures widen the variance of all hours.
pub(super) fn misjudged<'h>(
    sums: &ReviewSums,
    hours: impl Iterator<Item = (i64, &'h ReviewedHour)> + Clone,
    metric: Metric,
    until_ms: i64,
) -> Option<WeightedRate> {
    let add = |of: WeightedSums, (_, hour): (i64, &ReviewedHour)| {
        labels_of(metric).iter().fold(of, |of, label| of.plus(&hour[*label]))
    };
    let all = hours.clone().fold(WeightedSums::default(), add);
    let is_over = |(hour, _): &(i64, &ReviewedHour)| hour.saturating_add(1).saturating_mul(3_600_000) <= until_ms;
    let mature = hours.filter(is_over).fold(WeightedSums::default(), add);

    let (rate, variance) = mature.rate()?;
    let (_, independent) = all.rate()?;
    let place = Metric::REVIEWED.iter().position(|other| *other == metric)?;
    // Both sums are in millionths, so that their ratio needs no scale.
    let clustered = sums.weighted[place].scaled(1.0).variance();
    let factor = if independent > 0.0 { (clustered / independent).max(1.0) } else { 1.0 };
    let clusters = sums.weighted[place].clusters();
    let effective = (mature.w as f64).powi(2) / mature.ww as f64;
    let (reviewed, wrong) = (mature.n, mature.wrong);
    Some(WeightedRate { rate, variance: variance * factor, reviewed, wrong, clusters, effective })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    type Hours = BTreeMap<i64, ReviewedHour>;

    fn misjudged(sums: &ReviewSums, hours: &Hours, metric: Metric, until_ms: i64) -> Option<WeightedRate> {
        super::misjudged(sums, hours.iter().map(|(hour, sums)| (*hour, sums)), metric, until_ms)
    }

    /// Reviewed verdicts: the unit, the label, what people say, and the weight.
    fn sums(reviewed: &[(u8, usize, usize, f64)]) -> (ReviewSums, Hours) {
        let (mut sums, mut hours) = (ReviewSums::default(), Hours::new());
        let mut clusters = BTreeMap::<u8, ReviewedCluster>::new();
        for (place, (unit, label, human, weight)) in reviewed.iter().enumerate() {
            let reviewed = Reviewed { label: *label, human: *human, weight: Some((weight * 1e6) as u64) };
            let before = clusters.get(unit).copied().unwrap_or_default();
            let after = before.changed(&reviewed, Change::Add);
            clusters.insert(*unit, after);
            sums.change(&reviewed, &before, &after, Change::Add);
            change_hour(hours.entry(place as i64 / 10).or_default(), &reviewed, Change::Add);
        }
        (sums, hours)
    }

    #[test]
    fn the_rate_is_weighted_and_units_widen_its_variance() {
        let alone: Vec<_> = (0..40).map(|unit| (unit, 0, usize::from(unit % 4 == 0), 2.0)).collect();
        let (of_alone, hours) = sums(&alone);
        let alone = misjudged(&of_alone, &hours, Metric::Misjudged, i64::MAX).unwrap();
        assert!((alone.rate - 0.25).abs() < 1e-12 && (alone.reviewed, alone.wrong) == (40, 10));
        // p (1 - p) / n, with the correction for few units.
        assert!((alone.variance - 0.25 * 0.75 / 40.0 * 40.0 / 39.0).abs() < 1e-9, "{alone:?}");

        let together: Vec<_> = (0..40).map(|place| (place / 4, 0, usize::from(place / 4 % 4 == 0), 2.0)).collect();
        let (of_together, hours) = sums(&together);
        let together = misjudged(&of_together, &hours, Metric::Misjudged, i64::MAX).unwrap();
        assert!(together.variance > 3.0 * alone.variance, "{together:?}");

        let weighted = sums(&[(0, 0, 1, 9.0), (1, 0, 0, 1.0), (2, 2, 2, 10.0)]);
        let rate = |metric| misjudged(&weighted.0, &weighted.1, metric, i64::MAX).unwrap().rate;
        assert!((rate(Metric::MisjudgedNo) - 0.9).abs() < 1e-12);
        assert!((rate(Metric::Misjudged) - 0.45).abs() < 1e-12);
    }

    #[test]
    fn a_rate_that_rests_on_few_heavy_labels_is_rough() {
        // 50 of 200 light labels are wrong, and of 20 heavy ones none is.
        let light = (0..200).map(|unit| (unit, 0, usize::from(unit % 4 == 0), 1.0));
        let (even, even_hours) = sums(&light.clone().collect::<Vec<_>>());
        assert!(!misjudged(&even, &even_hours, Metric::Misjudged, i64::MAX).unwrap().is_rough());
        let (mixed, mixed_hours) = sums(&light.chain((200..220).map(|unit| (unit, 0, 0, 100.0))).collect::<Vec<_>>());
        assert!(misjudged(&mixed, &mixed_hours, Metric::Misjudged, i64::MAX).unwrap().is_rough());
        let two: Vec<_> = (0..200).map(|place| (place % 2, 0, usize::from(place % 4 < 2), 1.0)).collect();
        let (two, two_hours) = sums(&two);
        assert!(misjudged(&two, &two_hours, Metric::Misjudged, i64::MAX).unwrap().is_rough(), "two units");
    }

    #[test]
    fn verdicts_that_are_too_young_do_not_count() {
        // In the first hour all are wrong, in later ones none is.
        let reviewed: Vec<_> = (0..40).map(|unit| (unit, 0, usize::from(unit < 10), 1.0)).collect();
        let (sums, hours) = sums(&reviewed);
        let until = |hours_over: i64| misjudged(&sums, &hours, Metric::MisjudgedNo, hours_over * 3_600_000);
        assert_eq!(until(0), None);
        assert_eq!(until(1).map(|it| (it.rate, it.reviewed)), Some((1.0, 10)));
        assert_eq!(until(4).map(|it| (it.rate, it.reviewed)), Some((0.25, 40)));
    }
}
