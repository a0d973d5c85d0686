//! Compares two variants: differences with intervals, the sample ratio, and pairs of versions.

use super::{
    arm::{Arm, MetricSums},
    figures::{Compared, Comparison, Criteria, Paired, SampleRatio, Status},
    metric::Metric,
    reviewed::misjudged,
    sums::{Arms, PairSums, Sums, shares_of},
};
use crate::{
    message::Label,
    statistics::{
        Difference, UnitSums,
        agreement::{Kappa, Weighting},
        bayes, mixture, multiplicity, paired, plan, sample_ratio,
        special::normal_quantile,
    },
};

/// Holm's adjustment over all metrics and treatments.
pub(super) fn adjust(comparisons: &mut [Comparison]) {
    let known = |comparisons: &mut [Comparison]| {
        let metrics = comparisons.iter_mut().flat_map(|comparison| comparison.metrics.iter_mut());
        metrics.filter_map(|compared| compared.p_value).collect::<Vec<f64>>()
    };
    let mut adjusted = multiplicity::holm(&known(comparisons)).into_iter();
    let metrics = comparisons.iter_mut().flat_map(|comparison| comparison.metrics.iter_mut());
    for compared in metrics.filter(|compared| compared.p_value.is_some()) {
        compared.p_value = adjusted.next();
    }
}

/// A smaller p-value of the sample ratio is an alarm.
pub(super) const ALARM: f64 = 0.001;

/// Tests how units are divided. If the shares of the variants do not add up to one, a variant has
/// no verdict at all; it counts as an arm with the remaining share.
pub(super) fn sample_ratio_of(arms: &Arms<'_>, is_by_request: bool) -> SampleRatio {
    let mut counts: Vec<u64> = arms.values().map(|arm| arm.units(is_by_request)).collect();
    let mut shares = shares_of(arms);
    let missing = 1e6 - shares.iter().sum::<f64>();
    // Shares are rounded to millionths.
    if missing > shares.len() as f64 {
        counts.push(0);
        shares.push(missing);
    }

    let all: f64 = shares.iter().sum();
    let theta: Vec<f64> = shares.iter().map(|share| share / all.max(1.0)).collect();
    let is_known = theta.iter().all(|share| *share > 0.0);
    let ln_e = if is_known && theta.len() > 1 {
        sample_ratio::ln_e_value(&counts, &theta, sample_ratio::SAMPLE_RATIO_CONCENTRATION)
    } else {
        0.0
    };

    let p_value = (-ln_e).exp().min(1.0);
    SampleRatio { p_value, is_healthy: p_value >= ALARM }
}

/// The variance of fewer clusters is too uncertain.
const CLUSTERS_MIN: f64 = 10.0;

pub(super) fn compare(metric: Metric, control: &MetricSums, treatment: &MetricSums, criteria: Criteria) -> Compared {
    let estimate = |sums: UnitSums| {
        (sums.n > 0.0).then(|| Estimate { value: sums.ratio(), variance: sums.variance(), observations: sums.units })
    };
    compare_estimates(metric, estimate(control.of(metric)), estimate(treatment.of(metric)), criteria)
}

/// Compares what people say about two variants, over verdicts that are older than `until_ms`.
pub(super) fn compare_reviews(
    metric: Metric,
    control: &Arm,
    treatment: &Arm,
    until_ms: i64,
    criteria: Criteria,
) -> Compared {
    let estimate = |arm: &Arm| {
        misjudged(&arm.reviews, arm.reviewed_hours(), metric, until_ms).map(|rate| Estimate {
            value: rate.rate,
            variance: rate.variance,
            // A rough rate is shown, and not compared.
            observations: if rate.is_rough() { 0.0 } else { rate.clusters as f64 },
        })
    };
    compare_estimates(metric, estimate(control), estimate(treatment), criteria)
}

/// The value of a metric for a variant.
#[derive(Clone, Copy)]
struct Estimate {
    value: f64,
    /// The square of its standard error.
    variance: f64,
    /// Independent observations behind it.
    observations: f64,
}

fn compare_estimates(
    metric: Metric,
    control: Option<Estimate>,
    treatment: Option<Estimate>,
    criteria: Criteria,
) -> Compared {
    let both = control.zip(treatment);
    let nothing = Compared {
        metric,
        control: control.map(|estimate| estimate.value),
        treatment: treatment.map(|estimate| estimate.value),
        difference: both.map(|(a, b)| b.value - a.value),
        interval: None,
        fixed_n_interval: None,
        p_value: None,
        ln_e_value: None,
        probability_better: None,
        information: None,
        days_left: None,
        status: Status::NoData,
    };

    let Some((a, b)) = both else { return nothing };
    let (estimate, variance) = (b.value - a.value, a.variance + b.variance);
    if a.observations.min(b.observations) < CLUSTERS_MIN || variance.is_nan() || variance <= 0.0 {
        return nothing;
    }

    let difference = Difference { estimate, variance };
    let min_effect = metric.min_effect(criteria.min_effect, a.value);
    if min_effect <= 0.0 {
        return nothing;
    }

    let planned = plan::planned_variance(min_effect, criteria.alpha);
    let g = mixture::planned_g(criteria.alpha) * planned / variance;
    let interval = interval_of(metric, difference, planned, criteria.alpha);

    let ln_e_value = mixture::ln_e_value(estimate, variance, g);
    let once = normal_quantile(1.0 - 0.5 * criteria.alpha) * difference.standard_error();
    let directed = Difference { estimate: estimate * metric.direction(), variance };
    Compared {
        interval: Some(interval),
        fixed_n_interval: Some(around(metric, estimate, once)),
        p_value: Some((-ln_e_value).exp().min(1.0)),
        ln_e_value: Some(ln_e_value),
        probability_better: Some(bayes::probability_positive(directed)),
        information: Some(plan::information(planned, variance)),
        status: status(metric, interval, min_effect),
        ..nothing
    }
}

/// The interval of a difference that holds at any time, narrowest at the planned variance.
pub(super) fn interval_of(metric: Metric, difference: Difference, planned: f64, alpha: f64) -> [f64; 2] {
    let Difference { estimate, variance } = difference;
    let g = mixture::planned_g(alpha) * planned / variance;
    around(metric, estimate, mixture::half_width(variance, g, alpha))
}

fn around(metric: Metric, estimate: f64, half: f64) -> [f64; 2] {
    let [lowest, highest] = metric.range();
    [(estimate - half).max(lowest), (estimate + half).min(highest)]
}

fn status(metric: Metric, [low, high]: [f64; 2], min_effect: f64) -> Status {
    let [worst, best] = if metric.direction() > 0.0 { [low, high] } else { [-high, -low] };
    if worst > 0.0 {
        Status::Better
    } else if best < 0.0 {
        Status::Harm
    } else if worst > -min_effect {
        Status::Safe
    } else {
        Status::Undecided
    }
}

pub(super) fn pairs(sums: &Sums) -> Vec<Paired> {
    sums.pairs.iter().map(|((live, shadow), pair)| paired_of(live, shadow, *pair)).collect()
}

fn paired_of(live: &str, shadow: &str, sums: PairSums) -> Paired {
    let PairSums { labels, judged, expected, cached } = sums;
    let pairs: u64 = labels.iter().flatten().sum();
    let table: Vec<Vec<f64>> = labels.iter().map(|row| row.iter().map(|count| *count as f64).collect()).collect();

    let no = Label::No as usize;
    let shadow_alone = (0..3).filter(|row| *row != no).map(|row| labels[row][no]).sum();
    let live_alone = (0..3).filter(|column| *column != no).map(|column| labels[no][column]).sum();
    let ln_e = paired::ln_e_value(shadow_alone, live_alone, 0.5);

    Paired {
        live_version: live.to_owned(),
        shadow_version: shadow.to_owned(),
        pairs,
        labels,
        missing: expected.saturating_sub(judged),
        missing_cached: cached,
        agreement: (pairs > 0).then(|| (0..3).map(|label| labels[label][label]).sum::<u64>() as f64 / pairs as f64),
        kappa: Kappa::of(&table, Weighting::None).map(|kappa| kappa.kappa),
        only_shadow_no: shadow_alone,
        only_live_no: live_alone,
        p_value: (-ln_e).exp().min(1.0),
    }
}
