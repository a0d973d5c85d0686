//! What a version is worth, in numbers.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{Calibration, Share};
use crate::{
    message::{Device, Label, Scores},
    weights::Arithmetic,
};

/// An example with what a version said of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// The label.
    pub expected: Label,
    /// The number of its picture, the same for all examples about it.
    pub picture: usize,
    /// What it is about, where the data says so.
    pub kind: Option<String>,
    /// What the version said.
    pub scores: Scores,
    /// How long it took, alone, from the encoded picture to the scores.
    pub latency: Duration,
}

impl Judged {
    /// Whether the version was right.
    pub fn is_right(&self) -> bool {
        self.scores.best() == self.expected
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The version's name, as [`Report`] has it.
    pub version: &'a str,
    /// Where it ran.
    pub device: Device,
    /// What it computed in.
    pub precision: Arithmetic,
    /// Its digest.
    pub digest: &'a str,
    /// Its parameters.
    pub parameters: u64,
}

/// A version measured on a data set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The version's name, with what it computed in where that was asked for: `ofa_large@int8`.
    pub version: String,
    /// Where it ran.
    pub device: Device,
    /// What it computed in.
    pub precision: Arithmetic,
    /// Its digest.
    pub digest: String,
    /// Parameters.
    pub parameters: u64,
    /// The split.
    pub split: String,
    /// All examples.
    pub overall: Share,
    /// By label.
    pub labels: BTreeMap<&'static str, Share>,
    /// By kind, where the data has kinds.
    pub kinds: BTreeMap<String, Share>,
    /// Who was taken for whom.
    pub confusion: Confusion,
    /// Whether its confidences are right.
    pub calibration: Calibration,
    /// Mean negative log-probability of the right label, in nats.
    pub loss: f64,
    /// Milliseconds.
    pub latency_ms: Latency,
}

/// Counts by expected label, then by given label, each in the order yes, maybe, no.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Confusion(pub [[u64; 3]; 3]);

/// Percentiles in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "they are what they are called")]
pub struct Latency {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
}

/// Labels in the order in which tables show them.
pub(super) const ORDER: [Label; 3] = [Label::Yes, Label::Maybe, Label::No];

impl Report {
    /// Measures what a version said of the examples of a split.
    pub fn new(subject: Subject<'_>, split: &str, judged: &[Judged]) -> Self {
        let Subject { version, device, precision, digest, parameters } = subject;
        let share = |is_among: &dyn Fn(&Judged) -> bool| {
            Share::of(judged.iter().filter(|judged| is_among(judged)).map(|judged| (judged.picture, judged.is_right())))
        };
        let mut kinds: Vec<&String> = judged.iter().filter_map(|judged| judged.kind.as_ref()).collect();
        kinds.sort();
        kinds.dedup();
        let mut confusion = Confusion::default();
        for judged in judged {
            confusion.0[place(judged.expected)][place(judged.scores.best())] += 1;
        }
        let loss = |judged: &Judged| -f64::from(judged.scores.of(judged.expected).max(f32::MIN_POSITIVE)).ln();
        Self {
            version: version.to_owned(),
            device,
            precision,
            digest: digest.to_owned(),
            parameters,
            split: split.to_owned(),
            overall: share(&|_| true),
            labels: ORDER.map(|label| (label.as_str(), share(&|judged| judged.expected == label))).into(),
            kinds: kinds
                .into_iter()
                .map(|kind| (kind.clone(), share(&|judged| judged.kind.as_ref() == Some(kind))))
                .collect(),
            confusion,
            calibration: Calibration::of(
                judged.iter().map(|judged| (f64::from(judged.scores.of(judged.scores.best())), judged.is_right())),
            ),
            loss: judged.iter().map(loss).sum::<f64>() / judged.len().max(1) as f64,
            latency_ms: Latency::of(judged.iter().map(|judged| judged.latency.as_secs_f64() * 1e3).collect()),
        }
    }
}

fn place(label: Label) -> usize {
    ORDER.iter().position(|other| *other == label).unwrap_or_default()
}

impl Latency {
    fn of(mut all: Vec<f64>) -> Self {
        all.sort_by(f64::total_cmp);
        let at = |share: f64| all.get(((all.len() as f64 - 1.0) * share).round() as usize).copied().unwrap_or_default();
        Self { p50: at(0.50), p95: at(0.95), p99: at(0.99) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_by_label_and_kind_and_who_was_taken_for_whom() {
        let judged = |expected, yes: f32, maybe: f32, kind: &str| Judged {
            expected,
            picture: 0,
            kind: Some(kind.to_owned()),
            scores: Scores { yes, maybe, no: 1.0 - yes - maybe },
            latency: Duration::from_millis(4),
        };
        let all = [
            judged(Label::Yes, 0.9, 0.05, "colour"),
            judged(Label::Yes, 0.1, 0.8, "colour"),
            judged(Label::No, 0.1, 0.1, "count"),
            judged(Label::Maybe, 0.5, 0.4, "count"),
        ];
        let (device, precision) = (Device::Flex, Arithmetic::F32);
        let subject = Subject { version: "v", device, precision, digest: "sha256:0", parameters: 7 };
        let report = Report::new(subject, "test", &all);
        assert_eq!((report.overall.right, report.overall.all), (2, 4));
        assert_eq!((report.labels["yes"].right, report.labels["maybe"].right, report.labels["no"].right), (1, 0, 1));
        assert_eq!((report.kinds["colour"].accuracy, report.kinds["count"].accuracy), (0.5, 0.5));
        assert_eq!(report.confusion, Confusion([[1, 1, 0], [1, 0, 0], [0, 0, 1]]));
        assert_eq!(report.latency_ms.p50, 4.0);
        let expected = -(0.9_f64.ln() + 0.1_f64.ln() + 0.8_f64.ln() + 0.4_f64.ln()) / 4.0;
        assert!((report.loss - expected).abs() < 1e-6);
    }
}
