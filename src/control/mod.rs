//! What operators change while the program runs: reload, rollback, pause, promote.
//!
//! * [`Command`]: what can be asked for; [`State`]: what came of all commands so far. Pure.
//! * `files`: the state file, the audit log, the token.
//! * `journal`: what the thread writes down of each change.
//! * `agreement`: which records of the control topic count. Pure.
//! * `fleet_log`: the control topic, by which every instance follows.
//! * [`Recalled`]: what a start finds of all this.
//! * `watch`: the settings file, looked at.
//! * [`Controller`], `worker`, `following`, `orders`: one thread that takes commands, records and changes of the file one after the
//!   other, has the configuration they give made ready beside the one that serves, and switches.
//! * `preparations`: the threads that make configurations ready.

mod agreement;
mod command;
mod controller;
mod error;
mod files;
mod fleet_log;
mod following;
mod journal;
mod orders;
mod preparations;
mod recall;
mod report;
mod state;
mod watch;
mod worker;

pub use command::{Command, Order, Who};
pub use controller::{Controller, Handle, Start};
pub use error::ControlError;
pub use files::{Files, TOKEN};
pub use fleet_log::FleetLog;
pub use recall::{Recalled, Sources, recall};
pub use report::{Applied, ExperimentReport, Report, VersionReport};
pub use state::{Change, Snapshot, State};
