//! What the program tells about itself: metrics, logs, health.
//!
//! * `metrics`: every metric by name, each written in one place.
//! * [`logging`]: how log lines look.
//! * [`serve`]: `/metrics`, `/healthz`, `/readyz`.

pub mod logging;
mod metrics;
mod server;

pub use metrics::{
    FinishedVerdict, Gauges, ModelLabels, batch, dead_letter, gauges, install, model, record_consumed, records_evicted,
    stale_outcome, verdict,
};
pub use server::{Probes, serve};
