//! Joins the stages: records in, verdicts and dead letters out, offsets committed behind them.
//!
//! * [`Ledger`]: which records are where, per partition; pure.
//! * `intake`: parse, look at the image, route, prepare; on a few threads.
//! * `outcome`: an answer or a failure into the record that goes out.
//! * `poll`: reads, pauses, commits, drains; on the thread that owns the consumer.
//! * `release`: publishes in offset order, on one thread.
//! * `failure`: every failure of a record, its stage and its code.
//! * [`Pipeline`]: the threads, the back-pressure, the drain.

mod failure;
mod intake;
mod ledger;
mod outcome;
mod poll;
mod release;
mod run;

pub use failure::Failure;
pub use ledger::{Ledger, Ticket};
pub use run::{Monitor, Pipeline, PipelineError, connection, engine_specs, image_limits};
