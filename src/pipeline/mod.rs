//! Joins the stages: records in, verdicts and dead letters out, offsets committed behind them.
//!
//! * [`Ledger`]: which records are where, per partition; pure.
//! * `intake`: a few threads that take records in and hand jobs to the engine; `admission`: parse, look at the image,
//!   route.
//! * `comparison`: live and shadow verdicts of one request.
//! * `outcome`: an answer or a failure into the record that goes out.
//! * `poll`: reads, pauses, commits, drains; on the thread that owns the consumer.
//! * `release`: publishes in offset order, on one thread.
//! * `failure`: every failure of a record, its stage and its code.
//! * [`Serving`]: the configuration that requests are served by; [`Switcher`] changes it while they are.
//! * [`Pipeline`]: the threads, the back-pressure, the drain; [`Monitor`]: what it says about itself.
//! * `specs`: the plan, as the engine and the clients take it.

mod admission;
mod comparison;
mod failure;
mod intake;
mod ledger;
mod monitor;
mod outcome;
mod poll;
mod release;
mod run;
mod serving;
mod specs;

pub use failure::Failure;
pub use ledger::{Ledger, Ticket};
pub use monitor::Monitor;
pub use run::{Pipeline, PipelineError};
pub use serving::{Serving, SwitchError, Switcher};
pub use specs::{connection, engine_options, engine_specs, every_spec, image_limits};
