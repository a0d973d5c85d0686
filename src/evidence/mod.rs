//! From verdicts to a comparison of variants.
//!
//! ```text
//! verdicts, shadow verdicts ─▶ Book: each request once ─▶ sums of integers ─▶ Summary ─▶ reports
//! ```
//!
//! * [`Book`]: what was read, and what does not count. The order of reading changes nothing.
//! * [`Metric`]: what variants are compared by.
//! * [`Summary`]: every figure of a report; [`sentence()`]: the one that an owner reads first.
//!
//! `docs/evidence.md` says what each figure means.

mod book;
mod metric;
mod observation;
mod sentence;
mod summary;
mod sums;
#[cfg(test)]
mod tests;

pub use book::{Book, LeftOut};
pub use metric::Metric;
pub use sentence::{Language, sentence, status_word};
pub use summary::{
    Compared, Comparison, Experiment, Judging, Paired, Percentile, SampleRatio, Status, Summary, Variant,
};
