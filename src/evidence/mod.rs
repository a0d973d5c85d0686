//! From verdicts to a comparison of variants.
//!
//! ```text
//! verdicts, shadows, dead letters ─▶ Ledger ─▶ Sums ─▶ Summary ─▶ reports
//!                                      │
//!                                    Index
//! ```
//!
//! * [`Ledger`]: adds each request once. Its [`Sums`] are integers ([`Arm`]), so they do not depend on
//!   the order of reading.
//! * [`Index`]: what the ledger remembers of single requests, units and pictures; in memory, or in
//!   a store.
//! * `compare`: two variants; `breakdown`: by segment and by hour; `adjusted`: with less variance;
//!   `pace`: when the planned evidence has come.
//! * `reviews`: what people say about verdicts; `reviewed`: how often they contradict a variant,
//!   weighted by how probable it was that a verdict was shown.
//! * [`judge`]: what guards conclude.
//! * [`Metric`]: what variants are compared by.
//! * [`Summary`]: every figure of a report (`figures`); [`sentence()`]: the one that an owner reads
//!   first.
//!
//! `docs/evidence.md` says what each figure means.

mod adjusted;
mod arm;
mod breakdown;
mod change;
mod cluster_sums;
mod compare;
mod figures;
mod first;
mod guard;
mod index;
mod judgement;
mod ledger;
mod metric;
mod observation;
mod pace;
mod reviewed;
mod reviews;
mod sentence;
mod summary;
mod sums;
#[cfg(test)]
pub(crate) mod tests;

pub use arm::{Arm, Cluster, Hour, MetricSums};
pub use figures::{
    Adjusted, Compared, Comparison, Criteria, Experiment, HourOfVariant, Paired, Percentile, ReviewFigures,
    SampleRatio, SegmentComparison, Status, Summary, Variant,
};
pub use first::{First, FirstOutcome, FirstPair, FirstVerdict};
pub use guard::{GuardCriteria, judge};
pub use index::{Index, MemoryIndex, Slice};
pub use judgement::{GuardState, Judgement};
pub use ledger::{Ledger, VerdictSet};
pub use metric::Metric;
pub use observation::{ArmKey, Evidence, ExpectedShadows, ExperimentKey, Kind, Observation, Pair};
pub use reviewed::{ReviewSums, ReviewedCluster};
pub use reviews::{HumanAnswer, HumanAnswers, ReviewCounts};
pub use sentence::{Language, sentence, status_word};
pub use sums::{Excluded, ExperimentSums, PairSums, Sums, Touched};
