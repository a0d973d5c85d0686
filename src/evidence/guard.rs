//! What a guard concludes. Pure: the same sums give the same conclusion on every instance.
//!
//! Two tests look for harm, each with half of α, because each is best where the other is weak:
//!
//! * an exact one ([`excess`]), for rare events: which arm the events come from, or with a margin
//!   both rates;
//! * the difference of the two rates ([`mixture`]), for frequent events.
//!
//! Both hold however often one looks.

use std::collections::BTreeMap;

use super::{
    arm::Arm,
    compare::{ALARM, sample_ratio_of},
    judgement::{GuardState, Judgement},
    metric::Metric,
    observation::ExperimentKey,
    reviewed::{WeightedRate, misjudged},
    sums::{Arms, PairSums, Sums, arms_of, control_of, shares_of},
};
use crate::{
    routing::{GuardMetric, GuardSpec},
    statistics::{excess, mixture, plan},
};

/// How the guards of an experiment judge.
#[derive(Clone, Copy, Debug)]
pub struct GuardCriteria<'g> {
    /// The guards.
    pub guards: &'g [GuardSpec],
    /// How many treatments the definition has. α is divided by it, whether they have verdicts
    /// already or not.
    pub treatments: usize,
    /// Verdicts of hours that end later do not count in rates of misjudgement, in milliseconds
    /// since 1970.
    pub review_until_ms: i64,
}

/// Judges every treatment of an experiment by each of its guards. Nothing for an experiment without
/// a record.
pub fn judge(key: &ExperimentKey, all: &Sums, criteria: GuardCriteria<'_>) -> Vec<Judgement> {
    let GuardCriteria { guards, treatments, review_until_ms: until_ms } = criteria;
    let Some(sums) = all.experiments.get(key) else { return Vec::new() };
    let arms = arms_of(sums);
    let shares: BTreeMap<&str, f64> = arms.keys().copied().zip(shares_of(&arms)).collect();
    let share_of = |name: &str| shares.get(name).copied().unwrap_or_default();
    let acting = guards.iter().filter(|guard| guard.can_pause()).count().max(1) as f64;
    let lasted_ms = sums.period_ms.map_or(0, |[first, last]| last.saturating_sub(first)).max(0) as u64;

    let mut judgements = Vec::new();
    for guard in guards {
        let Some((control_name, control)) = control_of(&arms, guard.control.as_deref()) else { continue };
        let treatments = treatments.max(1) as f64;
        let divided = if guard.can_pause() { guard.alpha / acting } else { guard.alpha };
        if guard.metric == GuardMetric::SampleRatio {
            let mut judgement = judge_sample_ratio(key, &arms, guard, control_name, divided);
            judgement.wait(0, guard.initial_delay_ms, lasted_ms);
            judgements.push(judgement);
            continue;
        }

        for (name, treatment) in arms.iter().filter(|(name, _)| **name != control_name) {
            let alpha = divided / treatments;
            let mut judgement = match guard.metric {
                GuardMetric::MisjudgedRate => judge_misjudged([control, treatment], until_ms, guard.margin, alpha),
                GuardMetric::Disagreement => {
                    judge_disagreement(&all.pairs, [&control.version, &treatment.version], guard.margin, alpha)
                }
                _ => {
                    let counts = [control, treatment].map(|arm| counts(guard, arm, key.is_by_request()));
                    // Cached answers have no latency, and one variant may have more of them. So the variants'
                    // shares do not say where slow answers should come from.
                    let shares = [share_of(control_name), share_of(name)];
                    let shares = (guard.metric != GuardMetric::LatencyOverMs).then_some(shares);
                    judge_rates(counts, shares, guard.margin, alpha)
                }
            };
            judgement.guard = guard.name().to_owned();
            judgement.metric = guard.metric;
            (judgement.control, judgement.treatment) = (control_name.to_owned(), (*name).to_owned());
            judgement.wait(guard.min_events, guard.initial_delay_ms, lasted_ms);
            judgements.push(judgement);
        }
    }
    judgements
}

/// Events and units of a variant. Of a unit with many requests one event counts, and of a picture
/// with many requests its first verdict: repeats are no new evidence.
fn counts(guard: &GuardSpec, arm: &Arm, is_by_request: bool) -> [u64; 2] {
    let (sums, firsts) = (&arm.sums, &arm.firsts);
    match (guard.metric, is_by_request) {
        (GuardMetric::NoRate, true) => [firsts.no, firsts.pictures],
        (GuardMetric::NoRate, false) => [sums.with_no, sums.clusters],
        (GuardMetric::ReviewRate, true) => [firsts.review, firsts.pictures],
        (GuardMetric::ReviewRate, false) => [sums.with_review, sums.clusters],
        (GuardMetric::DeadLetterRate, true) => [arm.dead_letters, sums.verdicts + arm.dead_letters],
        (GuardMetric::DeadLetterRate, false) => [sums.with_dead_letter, sums.present],
        (GuardMetric::LatencyOverMs, _) => {
            let limit_us = guard.limit_ms.unwrap_or_default().saturating_mul(1_000);
            [firsts.latency_us.count_above(limit_us), firsts.latency_us.count()]
        }
        (GuardMetric::SampleRatio | GuardMetric::MisjudgedRate | GuardMetric::Disagreement, _) => [0, 0],
    }
}

/// Fewer events, or fewer units without one, make the normal approximation of a rate too rough.
const NORMAL_EVENTS_MIN: u64 = 20;

/// Judges two rates. `counts` are events and units of control and treatment; `shares` are their
/// shares of the units, in any unit; none where units do not come by these shares.
fn judge_rates(counts: [[u64; 2]; 2], shares: Option<[f64; 2]>, margin: f64, alpha: f64) -> Judgement {
    let [[events_a, units_a], [events_b, units_b]] = counts;
    let mut judgement = Judgement {
        events: [events_a, events_b],
        units: [units_a, units_b],
        rates: counts.map(|[events, units]| events as f64 / units.max(1) as f64),
        ln_e_value_needed: (2.0 / alpha).ln(),
        ..Judgement::without_data(margin, alpha)
    };
    let is_unknown = shares.is_some_and(|shares| shares.iter().any(|share| *share <= 0.0));
    if units_a == 0 || units_b == 0 || is_unknown {
        return judgement;
    }

    // A half of α is for harm by an exact test, the other half for harm by the normal
    // approximation. Safety has an α of its own, divided likewise.
    judgement.ln_e_value = match shares.filter(|_| margin == 0.0) {
        Some([a, b]) => excess::ln_e_value([events_a, events_b], b / (a + b)),
        None => excess::ln_e_value_beyond(counts, margin),
    };

    let quarter = alpha / 4.0;
    let [low_a, high_a] = excess::rate_interval(events_a, units_a, quarter);
    let [low_b, high_b] = excess::rate_interval(events_b, units_b, quarter);
    let exact = [low_b - high_a, high_b - low_a];
    let normal = normal_bounds(counts, margin, alpha / 2.0);
    judgement.difference = normal.map_or(exact, |[low, high]| [low, high.min(exact[1])]);

    // The lower exact bound is shown only: a third test for harm would exceed α.
    let is_beyond_margin = normal.is_some_and(|[low, _]| low > margin);
    judgement.state = if judgement.ln_e_value >= judgement.ln_e_value_needed || is_beyond_margin {
        GuardState::Harm
    } else if judgement.difference[1] < margin {
        GuardState::Safe
    } else {
        GuardState::Undecided
    };
    judgement
}

/// Judges the rates at which people contradict two variants. One test looks for harm: the
/// difference of weighted rates.
fn judge_misjudged(arms: [&Arm; 2], until_ms: i64, margin: f64, alpha: f64) -> Judgement {
    let rates = arms.map(|arm| misjudged(&arm.reviews, arm.reviewed_hours(), Metric::Misjudged, until_ms));
    let count = |of: fn(&WeightedRate) -> u64| rates.map(|rate| rate.as_ref().map_or(0, of));
    let mut judgement = Judgement {
        events: count(|rate| rate.wrong),
        units: count(|rate| rate.reviewed),
        rates: rates.map(|rate| rate.map_or(0.0, |rate| rate.rate)),
        ..Judgement::without_data(margin, alpha)
    };
    let [Some(control), Some(treatment)] = rates else { return judgement };

    judgement.state = GuardState::Undecided;
    let variance = control.variance + treatment.variance;
    if control.is_rough() || treatment.is_rough() || !variance.is_finite() || variance <= 0.0 {
        return judgement;
    }
    let estimate = treatment.rate - control.rate;
    let (half, g) = one_sided(variance, margin, alpha);
    judgement.difference = [estimate - half, estimate + half];
    judgement.ln_e_value = mixture::ln_e_value_one_sided(estimate - margin, variance, g);
    judgement.conclude();
    judgement
}

/// Judges how often the versions of two variants give one picture different labels, where one is a
/// shadow of the other. The margin is the highest share that is no harm. The bounds of the share
/// are exact.
fn judge_disagreement(
    pairs: &BTreeMap<(String, String), PairSums>,
    [control, treatment]: [&str; 2],
    margin: f64,
    alpha: f64,
) -> Judgement {
    let of = |live: &str, shadow: &str| {
        pairs.get(&(live.to_owned(), shadow.to_owned())).map(|pair| pair.labels).unwrap_or_default()
    };
    // A picture that both versions judged live would count twice, so one direction counts: the one
    // with more pairs.
    let size = |table: &[[u64; 3]; 3]| -> u64 { table.iter().flatten().sum() };
    let (one, other) = (of(control, treatment), of(treatment, control));
    let table = if size(&one) >= size(&other) { one } else { other };
    let all = size(&table);
    let same: u64 = (0..3).map(|label| table[label][label]).sum();
    let different = all - same;
    let mut judgement = Judgement {
        events: [0, different],
        units: [0, all],
        rates: [0.0, different as f64 / all.max(1) as f64],
        ..Judgement::without_data(margin, alpha)
    };
    if all == 0 {
        return judgement;
    }

    judgement.difference = excess::rate_interval(different, all, alpha);
    let is_above = different as f64 > margin * all as f64;
    judgement.ln_e_value = if is_above { excess::ln_e_value_of_rate([different, all], margin) } else { 0.0 };
    judgement.conclude();
    judgement
}

/// The distance of a one-sided bound from the estimate, and the tuning number. The bound is closest
/// where it decides about the margin, or about a difference of half a point.
fn one_sided(variance: f64, margin: f64, alpha: f64) -> (f64, f64) {
    let planned = plan::planned_variance(margin.max(0.005), alpha);
    let g = mixture::planned_g(alpha) * planned / variance;
    (mixture::half_width_one_sided(variance, g, alpha), g)
}

/// One-sided bounds of the difference of two rates at any time, each at α; none where the normal
/// approximation is rough.
fn normal_bounds(counts: [[u64; 2]; 2], margin: f64, alpha: f64) -> Option<[f64; 2]> {
    let is_rough = |[events, units]: [u64; 2]| events.min(units.saturating_sub(events)) < NORMAL_EVENTS_MIN;
    if counts.into_iter().any(is_rough) {
        return None;
    }
    let rate = |[events, units]: [u64; 2]| events as f64 / units as f64;
    let variance = |count: [u64; 2]| rate(count) * (1.0 - rate(count)) / count[1] as f64;

    let estimate = rate(counts[1]) - rate(counts[0]);
    let variance = variance(counts[0]) + variance(counts[1]);
    let (half, _) = one_sided(variance, margin, alpha);
    Some([estimate - half, estimate + half])
}

fn judge_sample_ratio(key: &ExperimentKey, arms: &Arms<'_>, guard: &GuardSpec, control: &str, alpha: f64) -> Judgement {
    let ratio = sample_ratio_of(arms, key.is_by_request());
    let units = |is_control: bool| -> u64 {
        let chosen = arms.iter().filter(|(name, _)| (**name == control) == is_control);
        chosen.map(|(_, arm)| arm.units(key.is_by_request())).sum()
    };
    let ln_e_value = -ratio.p_value.max(f64::MIN_POSITIVE).ln();
    let needed = -(alpha.min(ALARM)).ln();
    Judgement {
        guard: guard.name().to_owned(),
        metric: guard.metric,
        treatment: arms.keys().find(|name| **name != control).copied().unwrap_or_default().to_owned(),
        control: control.to_owned(),
        state: if ln_e_value >= needed { GuardState::Harm } else { GuardState::Undecided },
        events: [0, 0],
        units: [units(true), units(false)],
        rates: [0.0; 2],
        difference: [-1.0, 1.0],
        ln_e_value,
        ln_e_value_needed: needed,
        margin: 0.0,
        alpha,
        waits_for: None,
    }
}

#[cfg(test)]
mod tests;
