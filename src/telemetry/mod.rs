//! What the program tells about itself: metrics, logs, health.
//!
//! * `metrics`, `passes`: every metric by name, of the pipeline and of model versions, each written in one place.
//! * [`logging`]: how log lines look.
//! * [`serve`]: `/metrics`, `/healthz`, `/readyz`.

pub mod logging;
mod metrics;
mod passes;
mod server;

pub use metrics::{
    FinishedVerdict, Gauges, dead_letter, gauges, install, record_consumed, records_evicted, stale_outcome, verdict,
};
pub use passes::{
    FinishedPass, ModelLabels, answer_lookup, device, model, model_restart, pass, queue_depth, shadow_dropped,
    shadow_verdict,
};
pub use server::{Probes, serve};
