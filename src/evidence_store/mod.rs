//! Evidence that is kept: the topics of outcomes are read, and sums are written with the offsets
//! that they count.
//!
//! ```text
//! verdicts, shadows, dead letters ─▶ Reader ─▶ Store ─▶ Summary (reports)
//!                                                └────▶ Guards ─▶ control (pause)
//! ```
//!
//! * [`Reader`]: the thread that reads; [`Access`]: how other threads see what it has.
//! * `snapshots`: all sums as records of a topic, for instances that come after retention has cut
//!   the others; `snapshot`: their encoding.
//! * [`Store`]: one file, and one write for records and offsets; `tables`, `names`: what is in the
//!   file.
//! * `guards`: judges by the sums, and pauses an experiment once; `ramps`: when an experiment takes
//!   more units.

mod conclusions;
mod error;
mod guards;
mod identity;
mod interrupted;
mod names;
mod options;
mod progress;
mod ramps;
mod reader;
mod reading;
mod snapshot;
mod snapshots;
mod store;
mod tables;
#[cfg(test)]
mod tests;

pub use conclusions::{GuardReport, RampReport};
pub use error::StoreError;
pub use guards::Guards;
pub use options::ReaderOptions;
pub use progress::Progress;
pub use reader::{Access, EvidenceReport, Reader};
pub use store::{FILE, Store, TopicKind};
