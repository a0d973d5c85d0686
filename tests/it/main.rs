//! The promises that need more than one room, in one binary.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_macros,
    reason = "a test prints, and ends where it cannot go on"
)]

mod at_least_once;
mod broker;
mod cases;
mod commands;
mod conformance;
mod contract;
mod control;
mod delivery;
mod edges;
mod evidence;
mod evidence_load;
mod exactly_once;
mod fleet;
mod formats;
mod golden;
mod group_evidence;
mod hangs;
mod hub;
mod imports;
mod instance;
mod kafka;
#[cfg(feature = "train")]
mod learning;
mod load;
mod machine;
mod offered;
mod operate;
mod pull;
mod refusals;
mod refused;
mod reports;
mod rooms;
mod security;
mod shadows;
mod slow;
mod support;
mod tools;
mod topics;
mod verdicts;
mod versions;
mod vocabulary;
