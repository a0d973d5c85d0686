//! What the program tells about itself: metrics, logs, health.
//!
//! * `metrics`, `delivery`, `passes`, `control`, `evidence`: every metric by name, of the pipeline, of what it promises, of model versions
//!   and of the configuration, each written in one place.
//! * [`logging`]: how log lines look.
//! * [`serve`]: `/metrics`, `/healthz`, `/readyz`.

mod control;
mod delivery;
mod evidence;
pub mod logging;
mod metrics;
mod passes;
mod server;

pub use control::{config, config_refused, config_switched, config_unwritten};
pub use delivery::{
    breaker_opened, group_lag, key_missing, offset_reset, partitions_lost, paused, rebalance_drain_timed_out, retried,
    tombstone, topic_recreated, transaction_aborted, transaction_committed,
};
pub use evidence::{
    evidence_behind, evidence_delay, evidence_failed, evidence_records, evidence_size, evidence_snapshot, guard_acted,
    guard_state,
};
pub use metrics::{
    FinishedVerdict, Gauges, Lag, dead_letter, feature_missing, gauges, install, log_lines_dropped, record_consumed,
    records_evicted, stale_outcome, tried_in_place, verdict,
};
pub use passes::{
    FinishedPass, ModelLabels, answer_lookup, device, model, model_restart, model_unloaded, pass, queue_depth,
    shadow_dropped, shadow_verdict,
};
pub use server::{Probes, serve};
