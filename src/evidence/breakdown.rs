//! The comparison by segment and by hour.

use std::collections::BTreeSet;

use super::{
    compare::compare,
    figures::{Criteria, HourOfVariant, SegmentComparison},
    metric::Metric,
    observation::PROBABILITY_STEPS,
    sums::Arms,
};
use crate::statistics::multiplicity;

pub(super) fn segments(arms: &Arms<'_>, control: &str, criteria: Criteria) -> Vec<SegmentComparison> {
    let Some(of_control) = arms.get(control) else { return Vec::new() };
    let mut compared: Vec<SegmentComparison> = Vec::new();
    for (treatment, arm) in arms.iter().filter(|(name, _)| **name != control) {
        let whole = Metric::ALL.map(|metric| compare(metric, &of_control.sums, &arm.sums, criteria).difference);
        let keys: BTreeSet<&(String, String)> = of_control.segments.keys().chain(arm.segments.keys()).collect();
        for key in keys {
            let of = |arm: &super::Arm| arm.segments.get(key).cloned().unwrap_or_default();
            let (a, b) = (of(of_control), of(arm));
            let metrics = Metric::ALL.map(|metric| compare(metric, &a, &b, criteria));
            let is_reversed = |place: &usize| {
                let signs = metrics[*place].difference.zip(whole[*place]);
                signs.is_some_and(|(part, whole)| part * whole < 0.0)
            };
            let reversed = (0..metrics.len()).filter(is_reversed).map(|place| metrics[place].metric).collect();
            compared.push(SegmentComparison {
                segment: key.0.clone(),
                value: key.1.clone(),
                treatment: (*treatment).to_owned(),
                verdicts: [a.verdicts, b.verdicts],
                metrics: metrics.to_vec(),
                stands_out: Vec::new(),
                reversed,
            });
        }
    }
    note_what_stands_out(&mut compared, criteria.alpha);
    compared
}

/// Marks the differences that e-BH finds among all segments and metrics.
fn note_what_stands_out(compared: &mut [SegmentComparison], alpha: f64) {
    let all = |compared: &[SegmentComparison]| -> Vec<(usize, Metric, f64)> {
        let places = compared.iter().enumerate();
        let metrics = places.flat_map(|(place, of)| of.metrics.iter().map(move |metric| (place, metric)));
        metrics.filter_map(|(place, of)| Some((place, of.metric, of.ln_e_value?))).collect()
    };
    let candidates = all(compared);
    let e_values: Vec<f64> = candidates.iter().map(|(_, _, ln_e_value)| ln_e_value.exp()).collect();
    let found = multiplicity::e_benjamini_hochberg(&e_values, alpha);
    for ((place, metric, _), is_found) in candidates.into_iter().zip(found) {
        if is_found {
            compared[place].stands_out.push(metric);
        }
    }
}

pub(super) fn hours(arms: &Arms<'_>) -> Vec<HourOfVariant> {
    let mut hours: Vec<HourOfVariant> = Vec::new();
    for (variant, arm) in arms {
        for (hour, of_hour) in &arm.hours {
            let sums = of_hour.sums;
            let mean = |sum: u64, of: u64, steps: f64| (of > 0).then(|| sum as f64 / of as f64 / steps);
            let time = jiff::Timestamp::from_second(hour.saturating_mul(3_600));
            hours.push(HourOfVariant {
                hour: time.map_or_else(|_| String::new(), |time| time.to_string()),
                variant: (*variant).to_owned(),
                verdicts: sums.verdicts,
                dead_letters: sums.dead_letters,
                no_share: mean(sums.no, sums.verdicts, 1.0),
                review_share: mean(sums.review, sums.verdicts, 1.0),
                confidence: mean(sums.confidence, sums.verdicts, PROBABILITY_STEPS),
                latency_ms: mean(sums.latency_us, sums.measured, 1e3),
            });
        }
    }
    hours.sort_by(|a, b| (&a.hour, &a.variant).cmp(&(&b.hour, &b.variant)));
    hours
}
