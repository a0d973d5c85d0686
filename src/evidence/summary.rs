//! Computes every figure of a report from the sums.

use super::{
    adjusted,
    arm::Arm,
    breakdown,
    compare::{adjust, compare, compare_reviews, pairs, sample_ratio_of},
    figures::{Comparison, Criteria, Experiment, Percentile, ReviewFigures, Summary, Variant},
    metric::Metric,
    observation::ExperimentKey,
    pace,
    reviewed::ReviewSums,
    sums::{ExperimentSums, Sums, arms_of, control_of},
};
use crate::statistics::quantile;

impl Summary {
    /// Computes all figures. `control` names the control's variant: experiments without it are left
    /// out. Where none is named it is `control`, or the first by name.
    pub fn of(sums: &Sums, criteria: Criteria, control: Option<&str>) -> Self {
        let summarize = |(key, of)| summarize(key, of, criteria, control);
        let mut experiments: Vec<Experiment> = sums.experiments.iter().filter_map(summarize).collect();
        experiments.sort_by(|a, b| (&a.experiment, a.epoch, &a.period[0]).cmp(&(&b.experiment, b.epoch, &b.period[0])));
        Self {
            criteria,
            experiments,
            paired: pairs(sums),
            reviews: ReviewFigures::of(&sums.reviews),
            excluded: sums.excluded,
        }
    }
}

fn summarize(
    key: &ExperimentKey,
    sums: &ExperimentSums,
    criteria: Criteria,
    control: Option<&str>,
) -> Option<Experiment> {
    let arms = arms_of(sums);
    let (name, control) = control_of(&arms, control)?;

    let treatments = || arms.iter().filter(|(other, _)| **other != name);
    let has_reviews = arms.values().any(|arm| arm.reviews != ReviewSums::default());
    let reviewed: &[Metric] = if has_reviews { &Metric::REVIEWED } else { &[] };
    // Labels may come later: the division must not depend on whether they have.
    let tests = (Metric::ALL.len() + Metric::REVIEWED.len()) * treatments().count();
    let divided = Criteria { alpha: criteria.alpha / tests.max(1) as f64, ..criteria };
    let until_ms = criteria.review_until_ms.unwrap_or(i64::MAX);

    let compare_arm = |arm: &Arm| {
        let metrics = Metric::ALL.iter().map(|metric| compare(*metric, &control.sums, &arm.sums, divided));
        let of_people = reviewed.iter().map(|metric| compare_reviews(*metric, control, arm, until_ms, divided));
        metrics.chain(of_people).collect()
    };
    let mut comparisons: Vec<Comparison> = treatments()
        .map(|(treatment, arm)| Comparison {
            treatment: (*treatment).to_owned(),
            metrics: compare_arm(arm),
            adjusted: adjusted::by_segment(control, arm, divided),
        })
        .collect();
    adjust(&mut comparisons);
    let verdicts_per_day = pace::verdicts_per_day(&arms, sums.period_ms);
    pace::note_days_left(&mut comparisons, &arms, verdicts_per_day);

    Some(Experiment {
        experiment: key.experiment.clone(),
        epoch: key.epoch,
        definition: key.definition.clone(),
        unit: key.unit.clone(),
        period: sums.period_ms.unwrap_or_default().map(|ms| {
            jiff::Timestamp::from_millisecond(ms).map_or_else(|_| String::new(), |time| format!("{time:.3}"))
        }),
        verdicts_per_day,
        control: name.to_owned(),
        variants: arms.iter().map(|(name, arm)| variant(name, arm, criteria)).collect(),
        sample_ratio: sample_ratio_of(&arms, key.is_by_request()),
        segments: breakdown::segments(&arms, name, criteria),
        hours: breakdown::hours(&arms),
        comparisons,
    })
}

fn variant(name: &str, arm: &Arm, criteria: Criteria) -> Variant {
    let percentile = |q: f64| {
        let n = arm.latency_us.count();
        // The interval is narrowest near this number of observations.
        const BEST_AT: f64 = 1_000.0;
        let ranks = quantile::at_any_time(n, q, criteria.alpha, BEST_AT);
        let milliseconds = |microseconds: f64| microseconds / 1e3;
        Percentile {
            quantile: q,
            value: arm.latency_us.quantile(q).map(milliseconds),
            interval: ranks.within(&arm.latency_us).map(|end| end.map(milliseconds)),
        }
    };
    Variant {
        name: name.to_owned(),
        version: arm.version.clone(),
        share: arm.share as f64 / 1e6,
        verdicts: arm.sums.verdicts,
        observations: arm.sums.clusters,
        cached: arm.cached,
        dead_letters: arm.dead_letters,
        review_expected: arm.review_expected as f64 / 1e6,
        reviewed: arm.reviews.labels,
        latency_ms: [0.5, 0.95, 0.99].map(percentile).to_vec(),
    }
}
