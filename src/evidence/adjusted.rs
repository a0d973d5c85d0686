//! Differences adjusted for a segment: less variance where a metric depends on it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    arm::{Arm, MetricSums},
    compare::interval_of,
    figures::{Adjusted, Criteria},
    metric::Metric,
};
use crate::statistics::{Difference, UnitSums, plan};

/// A value with fewer units in an arm has no variance that one could use.
const UNITS_MIN: f64 = 10.0;
/// Values with too few units are left out, if all of them together have no greater share.
const LEFT_OUT_MAX: f64 = 0.01;

/// Every metric of a treatment, adjusted for each segment that allows it.
pub(super) fn by_segment(control: &Arm, treatment: &Arm, criteria: Criteria) -> Vec<Adjusted> {
    let names: BTreeSet<&str> = control.segments.keys().map(|(name, _)| name.as_str()).collect();
    let mut all = Vec::new();
    for name in names {
        let of_control = values(control, name);
        let of_treatment = values(treatment, name);
        for metric in Metric::ALL {
            let strata = strata(metric, [&control.sums, &treatment.sums], [&of_control, &of_treatment]);
            all.extend(strata.and_then(|strata| adjust(name, metric, &strata, [control, treatment], criteria)));
        }
    }
    all
}

/// The sums of an arm by value of a segment.
fn values<'a>(arm: &'a Arm, name: &str) -> BTreeMap<&'a str, &'a MetricSums> {
    let of_name = arm.segments.iter().filter(|((segment, _), _)| segment == name);
    of_name.map(|((_, value), sums)| (value.as_str(), sums)).collect()
}

/// The sums of control and treatment within each value. None where they are not a division of all
/// units: a unit with verdicts of two values makes the values dependent, and verdicts before the
/// segment was declared have none.
fn strata(
    metric: Metric,
    whole: [&MetricSums; 2],
    values: [&BTreeMap<&str, &MetricSums>; 2],
) -> Option<Vec<[UnitSums; 2]>> {
    for (whole, values) in whole.into_iter().zip(values) {
        let whole = whole.of(metric);
        let (units, n) =
            values.values().map(|sums| sums.of(metric)).fold((0.0, 0.0), |(units, n), of| (units + of.units, n + of.n));
        if units != whole.units || n != whole.n {
            return None;
        }
    }

    let names: BTreeSet<&str> = values.iter().flat_map(|values| values.keys().copied()).collect();
    let of = |arm: usize, name: &str| values[arm].get(name).map_or_else(UnitSums::default, |sums| sums.of(metric));
    let all: Vec<[UnitSums; 2]> = names.into_iter().map(|name| [of(0, name), of(1, name)]).collect();
    let size = |strata: &[[UnitSums; 2]]| strata.iter().flatten().map(|sums| sums.n).sum::<f64>();
    let everything = size(&all);
    let usable: Vec<[UnitSums; 2]> =
        all.into_iter().filter(|arms| arms.iter().all(|sums| sums.units >= UNITS_MIN)).collect();
    (usable.len() > 1 && size(&usable) >= (1.0 - LEFT_OUT_MAX) * everything).then_some(usable)
}

fn adjust(
    segment: &str,
    metric: Metric,
    strata: &[[UnitSums; 2]],
    [control, treatment]: [&Arm; 2],
    criteria: Criteria,
) -> Option<Adjusted> {
    let all: f64 = strata.iter().flatten().map(|sums| sums.n).sum();
    let (mut estimate, mut variance) = (0.0, 0.0);
    for [a, b] in strata {
        let share = (a.n + b.n) / all;
        estimate += share * (b.ratio() - a.ratio());
        variance += share * share * (a.variance() + b.variance());
    }

    let (a, b) = (control.sums.of(metric), treatment.sums.of(metric));
    let unadjusted = a.variance() + b.variance();
    let min_effect = metric.min_effect(criteria.min_effect, a.ratio());
    if !(variance > 0.0 && unadjusted > 0.0 && min_effect > 0.0) {
        return None;
    }
    let planned = plan::planned_variance(min_effect, criteria.alpha);
    Some(Adjusted {
        segment: segment.to_owned(),
        metric,
        difference: estimate,
        interval: interval_of(metric, Difference { estimate, variance }, planned, criteria.alpha),
        variance_ratio: variance / unadjusted,
    })
}
