//! What the machine takes and gives: events, effects, and what it must know about settings.

use std::time::Instant;

use crate::{
    control::{Applied, Change, CommandRequest, ControlError, GroupState, RecordError, RecordFormat, Snapshot},
    routing::TableSpec,
};

/// What the machine must know about settings. The functions have no side effects.
pub trait Planner {
    /// Checked settings that are not loaded yet.
    type Plan;
    /// A configuration with its versions, ready to serve.
    type Prepared: Clone;

    /// Checks the settings of a configuration. `file` is the text of the settings file.
    ///
    /// # Errors
    /// The first setting that cannot work.
    fn plan(&self, snapshot: &Snapshot, file: &str) -> Result<Self::Plan, ControlError>;

    /// The names that a plan has.
    fn table(&self, plan: &Self::Plan) -> TableSpec;

    /// Checks a text before it is applied, with the lines as they were written. Returns warnings.
    ///
    /// # Errors
    /// When it cannot work, or differs in what cannot change while the program runs.
    fn check_applied(&self, text: &str) -> Result<Vec<String>, ControlError>;

    /// The digest of a configuration.
    fn digest(&self, prepared: &Self::Prepared) -> String;

    /// True if both serve the same: settings and loaded versions.
    fn is_same(&self, one: &Self::Prepared, other: &Self::Prepared) -> bool;

    /// The names that the second configuration lacks, with their kinds.
    fn missing(&self, before: &Self::Prepared, after: &Self::Prepared) -> Vec<(&'static str, String)>;

    /// Warnings about experiments whose variants have other versions, but not another epoch.
    fn redefined(&self, before: &Self::Prepared, after: &Self::Prepared) -> Vec<String>;
}

/// Finds the caller of a command.
pub type ReplyId = u64;
/// Identifies one preparation.
pub type Ticket = u64;

/// A command and its caller.
#[derive(Clone, Debug)]
pub struct PendingCommand {
    /// The command.
    pub request: CommandRequest,
    /// The caller.
    pub reply: ReplyId,
    /// When it was received.
    pub received: Instant,
}

/// What happens to an instance.
pub enum Event<P: Planner> {
    /// An operator's command.
    Command(Box<PendingCommand>),
    /// The caller of a command is gone.
    ClientGone(ReplyId),
    /// SIGHUP: compare the running versions with their folders.
    Reload,
    /// The settings file has this text now.
    FileChanged(String),
    /// The settings file cannot be read.
    FileUnreadable(String),
    /// A record of the control topic.
    Record(Box<Result<(GroupState, RecordFormat), RecordError>>),
    /// A record was not published.
    PublishFailed {
        /// The change in the record.
        id: String,
        /// Why.
        reason: String,
        /// True if the brokers cannot have taken it.
        certain: bool,
    },
    /// A preparation ended.
    Prepared(Ticket, Result<P::Prepared, ControlError>),
    /// Time has passed.
    Tick,
    /// The program stops.
    Stop,
}

/// What the driver must do, in this order.
pub enum Effect<P: Planner> {
    /// Load a configuration.
    Prepare {
        /// Comes back with the result.
        ticket: Ticket,
        /// The settings.
        plan: Box<P::Plan>,
        /// Compare running versions with the files in their folders.
        recheck: bool,
    },
    /// Stop loading; its result is not needed.
    CancelPrepare(Ticket),
    /// Unload what was loaded for nothing.
    ReleaseUnused,
    /// Write a record to the control topic.
    Publish(Box<GroupState>, RecordFormat),
    /// Route requests by this configuration from now on.
    Serve(P::Prepared),
    /// Write the memory of the machine to the state file.
    Save,
    /// Add a line to the audit log.
    Audit(Box<AuditEntry>),
    /// Answer the caller of a command.
    Reply(ReplyId, Box<Result<Applied, ControlError>>),
    /// Log a warning. The first text is a stable event id.
    Warn(&'static str, String),
}

/// A line of the audit log.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditEntry {
    /// The revision of the group.
    pub revision: u64,
    /// The change.
    pub change: Change,
    /// What became of it.
    pub result: AuditResult,
    /// The digests before and after.
    pub digests: [String; 2],
    /// Why, or what to look at.
    pub notes: Vec<String>,
    /// Names that the new configuration lacks, with their kinds.
    pub missing: Vec<(&'static str, String)>,
}

/// What became of a change on this instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditResult {
    /// It is in force.
    Switched,
    /// It is accepted, and this instance serves the same as before.
    Unchanged,
    /// A later change was accepted before this one was in force here.
    Overtaken,
    /// It is accepted, and this instance cannot serve it. The code of the error.
    OutOfSync(&'static str),
    /// It was refused. The code of the error.
    Refused(&'static str),
    /// The brokers may or may not have taken it.
    Unknown,
    /// Its caller left before it was begun.
    Abandoned,
}
