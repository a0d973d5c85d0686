//! From `pipeline.toml` and the environment to one validated [`Plan`].
//!
//! * `raw`: the file as it is written, with every default.
//! * `load`: file, then environment; errors with file, line and remedy.
//! * `bounds`: which values are allowed.
//! * `plan`: what the program runs on, checked as a whole; `kafka`, `requests`, `versions`, `control`,
//!   `evidence`: parts of it.
//! * `written`: settings that are one of a few words.

mod bounds;
mod control;
mod evidence;
mod kafka;
mod load;
mod plan;
mod raw;
mod requests;
mod versions;
mod written;

pub use control::{AdminPlan, ControlPlan, PersonPlan, Reach, Secret, TokenSource, environment_overrides, shareable};
pub use evidence::{EvidencePlan, EvidenceStorePlan};
pub use kafka::{KafkaPlan, RetryPlan};
pub use load::SettingsError;
pub use plan::{BreakerPlan, LogFormat, PipelinePlan, Plan, TelemetryPlan, Thresholds};
pub use requests::LimitsPlan;
pub use versions::{BatchingPlan, DevicesPlan, VersionPlan};
pub use written::{Delivery, EmptyText, GroupProtocol, Role, Tombstones, Truncated};
