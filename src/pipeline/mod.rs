//! Joins the stages: records in, verdicts and dead letters out, offsets committed behind them.
//!
//! * `cluster`: what the cluster can do, looked at before the group is joined.
//! * `intake`: a few threads that take records in and hand jobs to the engine; `admission`: parse, look at the image,
//!   route.
//! * `comparison`: live and shadow verdicts of one request.
//! * `outcome`: an answer or a failure into the record that goes out; `parcel`: with less in it where it is too large.
//! * `poll`: reads, pauses, commits, drains, on the thread that owns the consumer; `ownership`: partitions that come and go.
//! * `release`: publishes in offset order, on one thread, at least once; `transact`: exactly once.
//! * `in_hand`: records of retry topics that are not due yet.
//! * `attempts`: first answers of records that are judged again; `decision`: what texts and rules change of a decision.
//! * `budget`: bytes that decoders and prepared pictures share; `stages`: what each thread does, and since when.
//! * `failure`: every failure, its stage, its code, and what follows from it; `tell`: what metrics and logs hear.
//! * [`Serving`]: the configuration that requests are served by; [`Switcher`] changes it while they are.
//! * [`Pipeline`]: the threads; [`Monitor`]: what it says about itself; `gauges`: what the poll loop sees of it.
//! * `specs`: the plan, as the engine and the clients take it.

mod admission;
mod attempts;
mod budget;
mod cluster;
mod comparison;
mod decision;
mod failure;
mod gauges;
mod in_hand;
mod intake;
mod monitor;
mod outcome;
mod ownership;
mod parcel;
mod poll;
mod release;
mod run;
mod serving;
mod specs;
mod stages;
mod tell;
mod transact;
mod trial;

pub use admission::{Explained, explain};
pub use cluster::{check_cluster, cluster_problems};
pub use failure::{Consequence, FAILURE_CODES, Failure, Trouble};
pub use monitor::Monitor;
pub use run::{Pipeline, PipelineError};
pub use serving::{Serving, SwitchError, Switcher};
pub use specs::{connection, engine_options, engine_specs, every_spec, image_limits, instance_name};
pub use trial::{RouteExplanation, SimulationRequest, TrialError};
