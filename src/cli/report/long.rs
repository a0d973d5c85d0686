//! A report in long form: one row for each number, ready for a pivot table or SQL.

use serde::Serialize;

use crate::cli::{CliError, failed};
use crate::evidence::{Compared, Experiment, HourOfVariant, SegmentComparison, Summary, Variant};

/// The columns of text, in the order of [`LongRow::texts`].
pub(super) const TEXTS: [&str; 10] = [
    "experiment",
    "definition",
    "part",
    "variant",
    "version",
    "segment",
    "segment_value",
    "hour",
    "metric",
    "statistic",
];

/// One number of a report. A text that does not apply is empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct LongRow {
    pub(super) experiment: String,
    pub(super) definition: String,
    /// `variant`, `comparison`, `adjusted`, `segment` or `hour`.
    pub(super) part: &'static str,
    /// The variant; in a comparison the treatment.
    pub(super) variant: String,
    pub(super) version: String,
    pub(super) segment: String,
    pub(super) segment_value: String,
    pub(super) hour: String,
    pub(super) metric: String,
    /// What the number is: `control`, `treatment`, `difference`, `lower`, `upper`, `p_value`, ….
    pub(super) statistic: &'static str,
    pub(super) epoch: u32,
    pub(super) value: f64,
}

impl LongRow {
    /// In the order of [`TEXTS`].
    pub(super) fn texts(&self) -> [&str; 10] {
        [
            &self.experiment,
            &self.definition,
            self.part,
            &self.variant,
            &self.version,
            &self.segment,
            &self.segment_value,
            &self.hour,
            &self.metric,
            self.statistic,
        ]
    }
}

/// Every number of a report, one JSON object per line.
pub(super) fn lines(summary: &Summary) -> Result<String, CliError> {
    let mut lines = String::new();
    for row in rows(summary) {
        lines.push_str(&serde_json::to_string(&row).map_err(failed)?);
        lines.push('\n');
    }
    Ok(lines)
}

/// Every number of a report.
pub(super) fn rows(summary: &Summary) -> Vec<LongRow> {
    let mut rows = Vec::new();
    for experiment in &summary.experiments {
        let of_experiment = LongRow {
            experiment: experiment.experiment.clone(),
            definition: experiment.definition.clone(),
            epoch: experiment.epoch,
            ..LongRow::default()
        };
        experiment.variants.iter().for_each(|variant| add_variant(&mut rows, &of_experiment, variant));
        add_comparisons(&mut rows, &of_experiment, experiment);
        experiment.segments.iter().for_each(|segment| add_segment(&mut rows, &of_experiment, segment));
        experiment.hours.iter().for_each(|hour| add_hour(&mut rows, &of_experiment, hour));
    }
    rows
}

/// Adds the numbers that are known.
fn add<const N: usize>(rows: &mut Vec<LongRow>, of: &LongRow, numbers: [(&'static str, Option<f64>); N]) {
    let known = numbers.into_iter().filter_map(|(statistic, value)| Some((statistic, value?)));
    rows.extend(known.map(|(statistic, value)| LongRow { statistic, value, ..of.clone() }));
}

/// A name as JSON spells it.
fn spelled(name: impl serde::Serialize) -> String {
    serde_json::to_value(name).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

fn add_variant(rows: &mut Vec<LongRow>, of: &LongRow, variant: &Variant) {
    let of = LongRow {
        part: "variant",
        variant: variant.name.clone(),
        version: variant.version.clone(),
        metric: "traffic".to_owned(),
        ..of.clone()
    };
    add(
        rows,
        &of,
        [
            ("share", Some(variant.share)),
            ("verdicts", Some(variant.verdicts as f64)),
            ("observations", Some(variant.observations as f64)),
            ("cached", Some(variant.cached as f64)),
            ("dead_letters", Some(variant.dead_letters as f64)),
            ("review_expected", Some(variant.review_expected)),
        ],
    );
    let names = ["p50", "p95", "p99"];
    for (statistic, percentile) in names.into_iter().zip(&variant.latency_ms) {
        let of = LongRow { metric: "latency_ms".to_owned(), ..of.clone() };
        add(rows, &of, [(statistic, percentile.value)]);
    }
}

fn add_compared(rows: &mut Vec<LongRow>, of: &LongRow, compared: &Compared) {
    let of = LongRow { metric: spelled(compared.metric), ..of.clone() };
    let [lower, upper] = compared.interval.map_or([None; 2], |ends| ends.map(Some));
    add(
        rows,
        &of,
        [
            ("control", compared.control),
            ("treatment", compared.treatment),
            ("difference", compared.difference),
            ("lower", lower),
            ("upper", upper),
            ("p_value", compared.p_value),
            ("ln_e_value", compared.ln_e_value),
            ("probability_better", compared.probability_better),
            ("information", compared.information),
            ("days_left", compared.days_left),
        ],
    );
}

fn add_comparisons(rows: &mut Vec<LongRow>, of: &LongRow, experiment: &Experiment) {
    for comparison in &experiment.comparisons {
        let of = LongRow { part: "comparison", variant: comparison.treatment.clone(), ..of.clone() };
        comparison.metrics.iter().for_each(|compared| add_compared(rows, &of, compared));
        for adjusted in &comparison.adjusted {
            let of = LongRow {
                part: "adjusted",
                segment: adjusted.segment.clone(),
                metric: spelled(adjusted.metric),
                ..of.clone()
            };
            let [lower, upper] = adjusted.interval.map(Some);
            let ratio = ("variance_ratio", Some(adjusted.variance_ratio));
            add(rows, &of, [("difference", Some(adjusted.difference)), ("lower", lower), ("upper", upper), ratio]);
        }
    }
}

fn add_segment(rows: &mut Vec<LongRow>, of: &LongRow, segment: &SegmentComparison) {
    let of = LongRow {
        part: "segment",
        variant: segment.treatment.clone(),
        segment: segment.segment.clone(),
        segment_value: segment.value.clone(),
        ..of.clone()
    };
    segment.metrics.iter().for_each(|compared| add_compared(rows, &of, compared));
}

fn add_hour(rows: &mut Vec<LongRow>, of: &LongRow, hour: &HourOfVariant) {
    let of = LongRow {
        part: "hour",
        variant: hour.variant.clone(),
        hour: hour.hour.clone(),
        metric: "traffic".to_owned(),
        ..of.clone()
    };
    add(
        rows,
        &of,
        [
            ("verdicts", Some(hour.verdicts as f64)),
            ("dead_letters", Some(hour.dead_letters as f64)),
            ("no_share", hour.no_share),
            ("review_share", hour.review_share),
            ("confidence", hour.confidence),
            ("latency_ms", hour.latency_ms),
        ],
    );
}
