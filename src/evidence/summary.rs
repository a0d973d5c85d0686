//! What reports show: every figure comes from here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    arm::{Arm, MetricSums},
    breakdown::{self, HourOfVariant, SegmentComparison},
    ledger::{Excluded, ExperimentSums, Sums},
    metric::Metric,
    observation::ExperimentKey,
    reviews::{ReviewCounts, ReviewSums},
};
use crate::{
    message::Label,
    statistics::{
        Difference, UnitSums,
        agreement::{Kappa, Weighting},
        bayes, mixture, multiplicity, paired, plan, quantile, sample_ratio,
        special::normal_quantile,
    },
};

/// When a difference counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Criteria {
    /// The share of experiments without any difference in which one is seen, at most, however often
    /// one looks. It is divided over all metrics and treatments (Bonferroni).
    pub alpha: f64,
    /// The smallest difference of a share, or of a mean confidence, that matters.
    pub min_effect: f64,
}

impl Default for Criteria {
    fn default() -> Self {
        Self { alpha: 0.05, min_effect: 0.01 }
    }
}

/// The conclusion about a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// A variant has too few observations.
    NoData,
    /// The interval holds both harm and none.
    Undecided,
    /// The treatment is not worse by more than the smallest difference that matters.
    Safe,
    /// The treatment is worse.
    Harm,
    /// The treatment is better.
    Better,
}

/// A metric of two variants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// The metric.
    pub metric: Metric,
    /// Its value for the control.
    pub control: Option<f64>,
    /// Its value for the treatment.
    pub treatment: Option<f64>,
    /// Treatment less control.
    pub difference: Option<f64>,
    /// The interval of the difference that holds however often one looks, for all metrics and
    /// treatments together: a normal mixture in information time (Waudby-Smith et al.,
    /// arXiv:2103.06476).
    pub interval: Option<[f64; 2]>,
    /// The interval for a single look at a number of observations that was fixed in advance, with
    /// the same division of α.
    pub fixed_n_interval: Option<[f64; 2]>,
    /// The p-value that holds however often one looks, adjusted by Holm over all metrics and
    /// treatments of the experiment.
    pub p_value: Option<f64>,
    /// The logarithm of the evidence against a difference of zero, before any adjustment.
    #[serde(default)]
    pub ln_e_value: Option<f64>,
    /// A second opinion: how probable it is that the treatment is better, with a flat prior.
    pub probability_better: Option<f64>,
    /// The share of the planned information that has come.
    pub information: Option<f64>,
    /// The conclusion.
    pub status: Status,
}

/// A variant's traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// Its name.
    pub name: String,
    /// The version that answers for it.
    pub version: String,
    /// Its share of the experiment's units.
    pub share: f64,
    /// Verdicts that count.
    pub verdicts: u64,
    /// Independent observations: units, or pictures where each request is a unit.
    pub observations: u64,
    /// Answers that were kept from an earlier request.
    pub cached: u64,
    /// Requests that became dead letters.
    #[serde(default)]
    pub dead_letters: u64,
    /// Verdicts that people reviewed: rows are labels of the variant, columns those of people (no, maybe, yes).
    #[serde(default)]
    pub reviewed: [[u64; 3]; 3],
    /// Latency in milliseconds at 50, 95 and 99 %, each with the interval that holds however often
    /// one looks; an end that nothing bounds is none.
    pub latency_ms: Vec<Percentile>,
}

/// A percentile of latency.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Percentile {
    /// 0.5, 0.95 or 0.99.
    pub quantile: f64,
    /// In milliseconds, to 0.5 %.
    pub value: Option<f64>,
    /// Its ends.
    pub interval: [Option<f64>; 2],
}

/// Whether units are divided as settings say.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleRatio {
    /// The p-value that holds however often one looks (Lindon & Malek 2022).
    pub p_value: f64,
    /// Below 0.001 something loses or adds units of a variant, and no comparison can be trusted.
    pub is_healthy: bool,
}

/// A treatment against the control.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The treatment's variant.
    pub treatment: String,
    /// Its metrics.
    pub metrics: Vec<Compared>,
}

/// An experiment in one definition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Experiment {
    /// Its name.
    pub experiment: String,
    /// Counts re-randomisations.
    pub epoch: u32,
    /// The digest of its definition.
    pub definition: String,
    /// What was divided among the variants.
    pub unit: String,
    /// Times of the first and the last verdict.
    pub period: [String; 2],
    /// The control's variant.
    pub control: String,
    /// All variants.
    pub variants: Vec<Variant>,
    /// Whether they get their shares.
    pub sample_ratio: SampleRatio,
    /// Every treatment against the control.
    pub comparisons: Vec<Comparison>,
    /// The same within each value of each segment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub segments: Vec<SegmentComparison>,
    /// Verdicts by hour and variant, without intervals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hours: Vec<HourOfVariant>,
}

/// Two versions on the same requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// The version of the live verdicts.
    pub live_version: String,
    /// The version of the shadow verdicts.
    pub shadow_version: String,
    /// Pictures that both judged; of several requests about one, the first.
    pub pairs: u64,
    /// Rows are the live labels no, maybe and yes, columns the shadow's.
    pub labels: [[u64; 3]; 3],
    /// The share of pairs with one label.
    pub agreement: f64,
    /// Agreement beyond chance (Cohen's κ).
    pub kappa: Option<f64>,
    /// Pairs where only the shadow says no.
    pub only_shadow_no: u64,
    /// Pairs where only the live version says no.
    pub only_live_no: u64,
    /// The p-value, however often one looks, of both saying no equally often (McNemar, mixed).
    pub p_value: f64,
}

/// What people said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReviewFigures {
    /// Last answers of a reviewer.
    pub answers: u64,
    /// Further answers of a reviewer to the same request: changed, or read twice.
    pub superseded: u64,
    /// Requests with an answer.
    pub requests: u64,
    /// Requests with an answer, and no verdict of an experiment.
    pub unmatched: u64,
    /// Records that are no reviews.
    pub unreadable: u64,
    /// How far reviewers agree beyond chance (Krippendorff's α, nominal).
    pub agreement: Option<f64>,
}

impl ReviewFigures {
    fn of(counts: &ReviewCounts) -> Self {
        Self {
            answers: counts.answers,
            superseded: counts.superseded,
            requests: counts.requests,
            unmatched: counts.requests.saturating_sub(counts.matched),
            unreadable: counts.unreadable,
            agreement: counts.agreement(),
        }
    }
}

/// Everything that a report shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// When a difference counted.
    pub criteria: Criteria,
    /// Experiments, by name, epoch and definition.
    pub experiments: Vec<Experiment>,
    /// Shadow versions compared with live ones.
    pub paired: Vec<Paired>,
    /// What people said, as far as it was read.
    #[serde(default)]
    pub reviews: ReviewFigures,
    /// Numbers of verdicts that do not count.
    pub excluded: Excluded,
}

impl Summary {
    /// Computes all figures. `control` names the control's variant: experiments without it are left out.
    /// Where none is named it is `control`, or the first by name.
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

/// Variants that have a verdict or a dead letter, by name.
pub(super) type Arms<'s> = BTreeMap<&'s str, &'s Arm>;

pub(super) fn arms_of(sums: &ExperimentSums) -> Arms<'_> {
    let counted = sums.arms.iter().filter(|(_, arm)| !arm.is_empty());
    counted.map(|(variant, arm)| (variant.as_str(), arm)).collect()
}

/// The control and its name: the variant that is named, or `control`, or the first by name.
pub(super) fn control_of<'s>(arms: &Arms<'s>, named: Option<&str>) -> Option<(&'s str, &'s Arm)> {
    let found = match named {
        Some(named) => arms.get_key_value(named),
        None => arms.get_key_value("control").or_else(|| arms.first_key_value()),
    };
    found.map(|(name, arm)| (*name, *arm))
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
    let tests = (Metric::ALL.len() + reviewed.len()) * treatments().count();
    let divided = Criteria { alpha: criteria.alpha / tests.max(1) as f64, ..criteria };

    let mut comparisons: Vec<Comparison> = treatments()
        .map(|(treatment, arm)| Comparison {
            treatment: (*treatment).to_owned(),
            metrics: Metric::ALL
                .map(|metric| compare(metric, &control.sums, &arm.sums, divided))
                .into_iter()
                .chain(reviewed.iter().map(|metric| compare_reviews(*metric, &control.reviews, &arm.reviews, divided)))
                .collect(),
        })
        .collect();
    adjust(&mut comparisons);

    Some(Experiment {
        experiment: key.experiment.clone(),
        epoch: key.epoch,
        definition: key.definition.clone(),
        unit: key.unit.clone(),
        period: sums.period_ms.unwrap_or_default().map(|ms| {
            jiff::Timestamp::from_millisecond(ms).map_or_else(|_| String::new(), |time| format!("{time:.3}"))
        }),
        control: name.to_owned(),
        variants: arms.iter().map(|(name, arm)| variant(name, arm, criteria)).collect(),
        sample_ratio: sample_ratio_of(&arms, key.is_by_request()),
        segments: breakdown::segments(&arms, name, criteria),
        hours: breakdown::hours(&arms),
        comparisons,
    })
}

/// Holm's adjustment over all metrics and treatments.
fn adjust(comparisons: &mut [Comparison]) {
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
        reviewed: arm.reviews.labels,
        latency_ms: [0.5, 0.95, 0.99].map(percentile).to_vec(),
    }
}

/// A smaller p-value of the sample ratio is an alarm.
pub(super) const ALARM: f64 = 0.001;

/// Tests how units are divided. If the shares of the variants do not add up to one, a variant has no
/// verdict at all; it counts as an arm with the remaining share.
pub(super) fn sample_ratio_of(arms: &Arms<'_>, is_by_request: bool) -> SampleRatio {
    let mut counts: Vec<u64> = arms.values().map(|arm| arm.units(is_by_request)).collect();
    let mut shares: Vec<u64> = arms.values().map(|arm| arm.share).collect();
    let missing = 1_000_000_u64.saturating_sub(shares.iter().sum());
    // Shares are rounded to millionths.
    if missing > shares.len() as u64 {
        counts.push(0);
        shares.push(missing);
    }

    let all: u64 = shares.iter().sum();
    let theta: Vec<f64> = shares.iter().map(|share| *share as f64 / all.max(1) as f64).collect();
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

/// Compares what people say about two variants.
fn compare_reviews(metric: Metric, control: &ReviewSums, treatment: &ReviewSums, criteria: Criteria) -> Compared {
    let no = [Label::No as usize];
    let all = [Label::No, Label::Maybe, Label::Yes].map(|label| label as usize);
    let labels: &[usize] = if metric == Metric::MisjudgedNo { &no } else { &all };
    let estimate = |sums: &ReviewSums| {
        sums.misjudged(labels).map(|rate| Estimate {
            value: rate.rate,
            variance: rate.variance,
            observations: rate.reviewed as f64,
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
    let half = mixture::half_width(variance, g, criteria.alpha);
    let [lowest, highest] = metric.range();
    let around = |half: f64| [(estimate - half).max(lowest), (estimate + half).min(highest)];
    let interval = around(half);

    let ln_e_value = mixture::ln_e_value(estimate, variance, g);
    let once = normal_quantile(1.0 - 0.5 * criteria.alpha) * difference.standard_error();
    let directed = Difference { estimate: estimate * metric.direction(), variance };
    Compared {
        interval: Some(interval),
        fixed_n_interval: Some(around(once)),
        p_value: Some((-ln_e_value).exp().min(1.0)),
        ln_e_value: Some(ln_e_value),
        probability_better: Some(bayes::probability_positive(directed)),
        information: Some(plan::information(planned, variance)),
        status: status(metric, interval, min_effect),
        ..nothing
    }
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

fn pairs(sums: &Sums) -> Vec<Paired> {
    sums.pairs.iter().map(|((live, shadow), labels)| paired_of(live, shadow, *labels)).collect()
}

fn paired_of(live: &str, shadow: &str, labels: [[u64; 3]; 3]) -> Paired {
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
        agreement: (0..3).map(|label| labels[label][label]).sum::<u64>() as f64 / pairs as f64,
        kappa: Kappa::of(&table, Weighting::None).map(|kappa| kappa.kappa),
        only_shadow_no: shadow_alone,
        only_live_no: live_alone,
        p_value: (-ln_e).exp().min(1.0),
    }
}
