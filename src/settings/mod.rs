//! From `pipeline.toml` and the environment to one validated [`Plan`].
//!
//! * `raw`: the file as it is written, with every default.
//! * `load`: file, then environment; errors with file, line and remedy.
//! * `plan`: what the program runs on, checked as a whole; `kafka`, `versions`, `control`: parts of it.

mod control;
mod kafka;
mod load;
mod plan;
mod raw;
mod versions;

pub use control::{AdminPlan, ControlPlan, Reach, Secret, shareable};
pub use kafka::{Delivery, GroupProtocol, KafkaPlan, RetryPlan, Tombstones};
pub use load::SettingsError;
pub use plan::{BreakerPlan, LimitsPlan, LogFormat, PipelinePlan, Plan, TelemetryPlan, Thresholds};
pub use versions::{BatchingPlan, DevicesPlan, VersionPlan};
