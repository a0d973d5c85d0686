//! The figures of a report, as data.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{metric::Metric, reviews::ReviewCounts, sums::Excluded};

/// When a difference counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Criteria {
    /// The share of experiments without any difference in which one is seen, at most, however often
    /// one looks. It is divided over all metrics and treatments (Bonferroni).
    pub alpha: f64,
    /// The smallest difference of a share, or of a mean confidence, that matters.
    pub min_effect: f64,
    /// Verdicts of hours that end later do not count in rates of misjudgement, because people have
    /// not answered all of them. In milliseconds since 1970; none for all verdicts.
    #[serde(default)]
    pub review_until_ms: Option<i64>,
}

impl Default for Criteria {
    fn default() -> Self {
        Self { alpha: 0.05, min_effect: 0.01, review_until_ms: None }
    }
}

/// The conclusion about a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// Days until all planned information has come, at the traffic of the last 24 hours; 0 where it
    /// has come. It does not depend on the difference that was seen.
    #[serde(default)]
    pub days_left: Option<f64>,
    /// The conclusion.
    pub status: Status,
}

/// A variant's traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// How many verdicts people are meant to review: the sum of `review_probability`.
    #[serde(default)]
    pub review_expected: f64,
    /// Verdicts that people reviewed: rows are labels of the variant, columns those of people (no,
    /// maybe, yes).
    #[serde(default)]
    pub reviewed: [[u64; 3]; 3],
    /// Latency in milliseconds at 50, 95 and 99 %, each with the interval that holds however often
    /// one looks; an end that nothing bounds is none.
    pub latency_ms: Vec<Percentile>,
}

/// A percentile of latency.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Percentile {
    /// 0.5, 0.95 or 0.99.
    pub quantile: f64,
    /// In milliseconds, to 0.5 %.
    pub value: Option<f64>,
    /// Its ends.
    pub interval: [Option<f64>; 2],
}

/// Whether units are divided as settings say.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SampleRatio {
    /// The p-value that holds however often one looks (Lindon & Malek 2022).
    pub p_value: f64,
    /// Below 0.001 something loses or adds units of a variant, and no comparison can be trusted.
    pub is_healthy: bool,
}

/// A treatment against the control.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Comparison {
    /// The treatment's variant.
    pub treatment: String,
    /// Its metrics.
    pub metrics: Vec<Compared>,
    /// The same differences within each value of a segment, put together again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adjusted: Vec<Adjusted>,
}

/// A difference adjusted for a segment: the mean of the differences within each value, weighted by
/// the share of verdicts with that value (post-stratification; Miratrix, Sekhon & Yu 2013). It is
/// the regression on the segment with all interactions (Lin 2013). Values are known before routing,
/// so the estimate stays without bias, and its variance is smaller where the metric depends on
/// them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Adjusted {
    /// The segment's name.
    pub segment: String,
    /// The metric.
    pub metric: Metric,
    /// Treatment less control.
    pub difference: f64,
    /// It holds at any time, at the level of the unadjusted one, by itself.
    pub interval: [f64; 2],
    /// The variance as a share of that without adjustment.
    pub variance_ratio: f64,
}

/// An experiment in one definition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// Verdicts of the last 24 hours, or as many as there would be in 24 hours at the mean rate of
    /// a shorter time. None for less than 10 minutes.
    #[serde(default)]
    pub verdicts_per_day: Option<f64>,
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Paired {
    /// The version of the live verdicts.
    pub live_version: String,
    /// The version of the shadow verdicts.
    pub shadow_version: String,
    /// Pictures that both judged; of several requests about one, the first.
    pub pairs: u64,
    /// Requests that should have a shadow verdict and have none. Their pairs could differ from the
    /// others.
    #[serde(default)]
    pub missing: u64,
    /// Those of them whose live answer was cached; the others had no time on the device, or failed.
    #[serde(default)]
    pub missing_cached: u64,
    /// Rows are the live labels no, maybe and yes, columns the shadow's.
    pub labels: [[u64; 3]; 3],
    /// The share of pairs with one label; none without a pair.
    pub agreement: Option<f64>,
    /// Agreement beyond chance (Cohen's κ).
    pub kappa: Option<f64>,
    /// Pairs where only the shadow says no.
    pub only_shadow_no: u64,
    /// Pairs where only the live version says no.
    pub only_live_no: u64,
    /// The p-value, however often one looks, of both saying no equally often (McNemar, mixed).
    pub p_value: f64,
}

/// Answers of people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    pub(super) fn of(counts: &ReviewCounts) -> Self {
        Self {
            answers: counts.answers,
            superseded: counts.records.saturating_sub(counts.answers),
            requests: counts.requests,
            unmatched: counts.requests.saturating_sub(counts.matched),
            unreadable: counts.unreadable,
            agreement: counts.agreement(),
        }
    }
}

/// Everything that a report shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// When a difference counted.
    pub criteria: Criteria,
    /// Experiments, by name, epoch and definition.
    pub experiments: Vec<Experiment>,
    /// Shadow versions compared with live ones.
    pub paired: Vec<Paired>,
    /// Answers of people, as far as they were read.
    #[serde(default)]
    pub reviews: ReviewFigures,
    /// Numbers of verdicts that do not count.
    pub excluded: Excluded,
}

/// A treatment against the control, within one value of a segment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SegmentComparison {
    /// The segment's name.
    pub segment: String,
    /// The value.
    pub value: String,
    /// The treatment's variant.
    pub treatment: String,
    /// Verdicts of control and treatment.
    pub verdicts: [u64; 2],
    /// The metrics. Each interval holds at any time, by itself.
    pub metrics: Vec<Compared>,
    /// Metrics whose difference stands out among all segments, at a false discovery rate of α
    /// (e-BH, Wang & Ramdas 2022).
    pub stands_out: Vec<Metric>,
    /// Metrics whose difference has the other sign than that of all verdicts together.
    pub reversed: Vec<Metric>,
}

/// The verdicts of a variant in one hour.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HourOfVariant {
    /// When it begins.
    pub hour: String,
    /// The variant.
    pub variant: String,
    /// Verdicts.
    pub verdicts: u64,
    /// Requests that became dead letters.
    pub dead_letters: u64,
    /// The share of `no`.
    pub no_share: Option<f64>,
    /// The share that goes to people.
    pub review_share: Option<f64>,
    /// Mean confidence.
    pub confidence: Option<f64>,
    /// Mean latency in milliseconds.
    pub latency_ms: Option<f64>,
}
