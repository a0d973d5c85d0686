//! What a controller starts with, and how other threads reach it.

use std::{path::PathBuf, sync::Arc};

use crossbeam_channel::{Sender, TrySendError};
use tokio::sync::oneshot;

use super::{
    Applied, CommandRequest, ConfigInForce, ConfigStore, ControlError, ControlTopic, GroupState, InstanceStatus,
    Memory, RecordError, RecordFormat, Report, Storage, machine::Ticket,
};
use crate::{
    pipeline::{Serving, SwitchError},
    settings::{ControlPlan, Plan},
};

/// What a controller starts with.
pub struct Start {
    /// The settings file.
    pub path: PathBuf,
    /// Its text.
    pub file: String,
    /// What was restored.
    pub memory: Memory,
    /// Why the pipeline serves something else, if so.
    pub out_of_sync: Option<String>,
    /// True if the control topic lacks the accepted state.
    pub republish: bool,
    /// True if this instance must request the state from others.
    pub ask: bool,
    /// The folder of this instance.
    pub storage: Option<Storage>,
    /// The control topic.
    pub topic: Option<ControlTopic>,
    /// Where configurations that were served are kept.
    pub configs: Option<ConfigStore>,
    /// Its settings.
    pub plan: ControlPlan,
    /// The name of this instance.
    pub instance: String,
    /// Reads settings of other kinds again from their sources, such as the demo's.
    pub adapt: fn(Plan) -> Plan,
}

pub(super) type ReplySender<T> = oneshot::Sender<T>;

/// A message to the driver's thread.
pub(super) enum Message {
    Command(Box<CommandRequest>, ReplySender<Result<Applied, ControlError>>),
    Report(ReplySender<Report>),
    Config(ReplySender<ConfigInForce>),
    Instances(ReplySender<Vec<InstanceStatus>>),
    /// The status of an instance; without one, it stopped.
    Instance(String, Option<Box<InstanceStatus>>),
    /// SIGHUP.
    Reload,
    Record(Box<Result<(GroupState, RecordFormat), RecordError>>),
    PublishFailed {
        id: String,
        reason: String,
        certain: bool,
    },
    Prepared(Ticket, Box<Result<Arc<Serving>, SwitchError>>),
    Stop,
}

/// Messages that may wait, and commands that may wait.
pub(super) const QUEUE_MAX: usize = 64;
/// Sends commands to the controller, from any thread.
#[derive(Clone)]
pub struct Handle {
    pub(super) inbox: Sender<Message>,
    pub(super) storage: Option<Storage>,
    pub(super) configs: Option<ConfigStore>,
    pub(super) instance: Arc<str>,
}

impl Handle {
    /// The name of this instance.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// As [`Self::command`], for a thread outside of a runtime.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub fn command_blocking(&self, request: CommandRequest) -> Result<Applied, ControlError> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Command(Box::new(request), reply))?;
        answer.blocking_recv().unwrap_or(Err(ControlError::Stopping))
    }

    /// As [`Self::instances`], for a thread outside of a runtime.
    ///
    /// # Errors
    /// As [`Self::instances`].
    pub fn instances_blocking(&self) -> Result<Vec<InstanceStatus>, ControlError> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Instances(reply))?;
        answer.blocking_recv().map_err(|_| ControlError::Stopping)
    }

    /// Carries out a command.
    ///
    /// # Errors
    /// When it is refused: nothing has changed then. [`ControlError::OutcomeUnknown`] is the exception.
    pub async fn command(&self, request: CommandRequest) -> Result<Applied, ControlError> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Command(Box::new(request), reply))?;
        answer.await.unwrap_or(Err(ControlError::Stopping))
    }

    /// The state of this instance.
    ///
    /// # Errors
    /// When the program stops.
    pub async fn report(&self) -> Result<Report, ControlError> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Report(reply))?;
        answer.await.map_err(|_| ControlError::Stopping)
    }

    /// The settings in force.
    ///
    /// # Errors
    /// When the program stops.
    pub async fn config(&self) -> Result<ConfigInForce, ControlError> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Config(reply))?;
        answer.await.map_err(|_| ControlError::Stopping)
    }

    /// The instances of the group, this one among them.
    ///
    /// # Errors
    /// When the program stops.
    pub async fn instances(&self) -> Result<Vec<InstanceStatus>, ControlError> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Instances(reply))?;
        answer.await.map_err(|_| ControlError::Stopping)
    }

    /// Where configurations that were served are kept.
    pub fn configs(&self) -> Option<&ConfigStore> {
        self.configs.as_ref()
    }

    /// Reads the settings file and the folders of versions again.
    pub fn reload(&self) {
        // If too many messages wait, the file is polled soon anyway.
        self.send(Message::Reload).ok();
    }

    /// The folder of this instance.
    pub fn storage(&self) -> Option<&Storage> {
        self.storage.as_ref()
    }

    fn send(&self, message: Message) -> Result<(), ControlError> {
        self.inbox.try_send(message).map_err(|error| match error {
            TrySendError::Full(_) => ControlError::Busy,
            TrySendError::Disconnected(_) => ControlError::Stopping,
        })
    }
}
