//! Changes of operators while the program runs: apply, rollback, pause, promote.
//!
//! From a command to a switch:
//!
//! 1. [`Handle`] passes a [`CommandRequest`] to the driver's thread.
//! 2. [`machine`] decides. It is pure: events in, effects out. Its page shows the phases.
//! 3. The driver carries out the effects: `preparations` load models, `control_topic` publishes and
//!    reads records, `storage` and `audit` write files.
//!
//! What the machine decides on:
//!
//! * [`Command`], [`Action`]: what an operator can ask for, and its name in records.
//! * [`GroupState`]: what all instances agree upon; `wire`: its records, formats 1 and 2.
//! * [`Memory`]: the accepted state and the settings file of this instance; `state_file`: its file.
//! * [`restore`](restore()): the memory and the settings at a start; `join` joins the state file with the
//!   control topic.
//! * `planner`: settings, as the machine needs them. `file_watch`: polls the settings file.
//! * [`ConfigStore`]: configurations that were served, by digest. `presence`: what instances tell each
//!   other.

mod audit;
mod command;
mod configs;
mod control_topic;
mod driver;
mod error;
mod file_watch;
mod group_state;
mod handle;
mod join;
pub mod machine;
mod memory;
mod planner;
mod preparations;
mod presence;
mod report;
mod restore;
mod state_file;
mod storage;
pub mod wire;

pub use command::{Action, AuditInfo, Command, CommandRequest, ID_CHARACTERS_MAX};
pub use configs::{ConfigListing, ConfigStore, ServedConfig};
pub use control_topic::ControlTopic;
pub use driver::Controller;
pub use error::ControlError;
pub use group_state::{Change, GroupState, Snapshot};
pub use handle::{Handle, Start};
pub use join::TopicContents;
pub use memory::{FileMode, Memory, RollbackTarget};
pub use presence::InstanceStatus;
pub use report::{Applied, ConfigInForce, ExperimentReport, Outcome, Report, VersionReport};
pub use restore::{Restored, Sources, restore};
pub use storage::{Storage, TOKEN};
pub use wire::{RecordError, RecordFormat};
