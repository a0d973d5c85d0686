//! What variants are compared by.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A metric of a variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Mean probability of the label that was given.
    Confidence,
    /// Share of verdicts with the label `no`.
    NoShare,
    /// Share of verdicts that go to people.
    ReviewShare,
    /// Mean time from a record's arrival to its verdict, in milliseconds, without kept answers.
    Latency,
    /// Share of verdicts that people contradict, weighted by the probability with which they were
    /// shown.
    Misjudged,
    /// The same among verdicts with the label `no`.
    MisjudgedNo,
}

impl Metric {
    /// Those that need no labels by people, in the order of a report.
    pub const ALL: [Self; 4] = [Self::Confidence, Self::NoShare, Self::ReviewShare, Self::Latency];

    /// Those that need labels by people.
    pub const REVIEWED: [Self; 2] = [Self::Misjudged, Self::MisjudgedNo];

    /// 1 where more is better, -1 where less is.
    pub(super) fn direction(self) -> f64 {
        match self {
            Self::Confidence => 1.0,
            Self::NoShare | Self::ReviewShare | Self::Latency | Self::Misjudged | Self::MisjudgedNo => -1.0,
        }
    }

    /// Differences that are possible.
    pub(super) fn range(self) -> [f64; 2] {
        match self {
            Self::Latency => [f64::NEG_INFINITY, f64::INFINITY],
            _ => [-1.0, 1.0],
        }
    }

    /// The smallest difference that matters, and the margin of harm. For latency it is a share of
    /// the control's.
    pub(super) fn min_effect(self, share: f64, control: f64) -> f64 {
        match self {
            Self::Latency => 0.1 * control.abs(),
            _ => share,
        }
    }
}
