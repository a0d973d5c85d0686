//! The parts of a machine's state: what it is doing, and with what it begins.

use std::time::Instant;

use super::events::{PendingCommand, Planner, Ticket};
use crate::control::{GroupState, Memory, RecordFormat, Snapshot};

/// Bounds and properties of an instance.
#[derive(Clone, Debug)]
pub struct MachineOptions {
    /// The name of this instance.
    pub instance: String,
    /// Configurations that a rollback can go back, at most.
    pub history_max: usize,
    /// Commands that may wait, at most.
    pub queue_max: usize,
    /// True if there is a control topic.
    pub has_topic: bool,
    /// Seed of the random delays.
    pub seed: u64,
}

/// Whether this instance serves what the group wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sync {
    /// It does.
    InSync,
    /// The configuration is being prepared.
    Applying,
    /// It cannot. The reason.
    OutOfSync(String),
}

/// A text of the settings file that does not work.
#[derive(Clone, Debug)]
pub struct RejectedFile {
    /// The text.
    pub text: String,
    /// Why.
    pub reason: String,
    /// True if it may work with other overrides.
    pub may_fit: bool,
}

/// A command whose next state has been computed.
pub(super) struct Draft {
    pub(super) command: PendingCommand,
    pub(super) next: GroupState,
    pub(super) format: RecordFormat,
    /// The text of the settings file that it is prepared with.
    pub(super) file: String,
    /// What a rollback undoes, in words.
    pub(super) undoes: Option<String>,
    pub(super) warnings: Vec<String>,
}

/// What is being prepared.
pub(super) enum Goal {
    Command(Box<Draft>),
    DryRun(Box<PendingCommand>),
    /// What this instance should serve; with another text of the settings file, if given.
    Reconcile {
        file: Option<String>,
        recheck: bool,
    },
}

/// A published change that must be read back.
pub(super) struct Published<P: Planner> {
    pub(super) draft: Draft,
    pub(super) prepared: P::Prepared,
    pub(super) until: Instant,
}

/// A published change whose outcome its caller does not know. It may still be read.
pub(super) struct Uncertain<P: Planner> {
    pub(super) id: String,
    pub(super) revision: u64,
    pub(super) desired: Snapshot,
    pub(super) file: String,
    pub(super) prepared: P::Prepared,
}

pub(super) enum Phase<P: Planner> {
    /// The topic is empty. Other instances may know a state; commands wait for their answer.
    Announcing {
        until: Instant,
    },
    Idle,
    Preparing {
        ticket: Ticket,
        goal: Goal,
    },
    AwaitingEcho(Box<Published<P>>),
    Stopped,
}

/// How a machine begins.
pub struct Beginning<P: Planner> {
    /// What the last run remembered, joined with the control topic.
    pub memory: Memory,
    /// The text of the settings file.
    pub file: String,
    /// What is being served.
    pub serving: P::Prepared,
    /// Why that is not what the group wants, if so.
    pub out_of_sync: Option<String>,
    /// True if the control topic lacks the accepted state.
    pub republish: bool,
    /// True if the topic is empty and other instances may know a state.
    pub ask: bool,
}
