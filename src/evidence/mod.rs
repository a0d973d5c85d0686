//! From verdicts to a comparison of variants.
//!
//! ```text
//! verdicts, shadow verdicts ─▶ VerdictSet ─▶ sums of integers ─▶ Summary ─▶ reports
//! ```
//!
//! * [`VerdictSet`]: one verdict for each request; [`Excluded`]: how many do not count.
//! * [`Metric`]: what variants are compared by.
//! * [`Summary`]: every figure of a report; [`sentence()`]: the one that an owner reads first.
//!
//! `docs/evidence.md` says what each figure means.

mod metric;
mod observation;
mod sentence;
mod summary;
mod sums;
#[cfg(test)]
mod tests;
mod verdict_set;

pub use metric::Metric;
pub use sentence::{Language, sentence, status_word};
pub use summary::{
    Compared, Comparison, Criteria, Experiment, Paired, Percentile, SampleRatio, Status, Summary, Variant,
};
pub use verdict_set::{Excluded, VerdictSet};
