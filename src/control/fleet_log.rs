//! The control topic: changes of this instance out, changes of all in, in one order.

use std::{
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crossbeam_channel::Sender;

use super::{ControlError, State, controller::Message};
use crate::{
    kafka::{Connection, ControlEvent, ControlReader, ControlRecord, ControlWriter, KafkaError},
    settings::KafkaPlan,
};

/// A person waits for a command; longer than this nobody does.
pub(super) const PUBLISH_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a start waits for the changes that there are.
const CATCH_UP_MAX: Duration = Duration::from_secs(30);
const POLL_TIMEOUT: Duration = Duration::from_millis(100);
/// Errors of the client come as often as it tries to connect; without a pause one that lasts could keep a core busy.
const ERROR_PAUSE: Duration = Duration::from_millis(20);
/// An error that lasts is told again after this.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// The control topic of a group.
pub struct FleetLog {
    writer: ControlWriter,
    reader: ControlReader,
    pub(super) topic: String,
    /// The last state that counts, of those that could be read at the start.
    pub(super) last: Option<State>,
    /// The number and the reason of a later one that could not be.
    pub(super) unreadable: Option<(Option<u64>, String)>,
    /// Whether the last record does not count, as far as can be told.
    pub(super) beside: bool,
}

impl FleetLog {
    /// Reads what is there already; none where the settings name no topic.
    ///
    /// # Errors
    /// When the topic is not there, or cannot be read to its end.
    pub fn open(connection: &Connection, kafka: &KafkaPlan) -> Result<Option<Self>, KafkaError> {
        let Some(topic) = &kafka.control else { return Ok(None) };
        let reader = ControlReader::new(connection, topic, &kafka.group_id)?;
        let writer = ControlWriter::new(connection, topic, &kafka.group_id, PUBLISH_WAIT_MAX)?;
        let mut log = Self { writer, reader, topic: topic.clone(), last: None, unreadable: None, beside: false };
        let deadline = Instant::now() + CATCH_UP_MAX;
        let mut reason = format!("`{topic}` could not be read to its end");
        while Instant::now() < deadline {
            match log.reader.next(POLL_TIMEOUT) {
                Ok(Some(ControlEvent::CaughtUp)) => return Ok(Some(log)),
                Ok(Some(ControlEvent::Record(record))) => log.take(&record),
                Ok(None) => {}
                // One broker of several that does not answer is such an error, and no reason not to start.
                Err(error) => {
                    reason = format!("`{topic}` could not be read to its end: {error}");
                    thread::sleep(ERROR_PAUSE);
                }
            }
        }
        Err(KafkaError::Unreachable { bootstrap_servers: connection.bootstrap_servers.clone(), reason })
    }

    fn take(&mut self, record: &ControlRecord) {
        let unreadable = self.unreadable.as_ref().and_then(|(revision, _)| *revision);
        let known = self.last.as_ref().map(|state| state.revision).max(unreadable);
        match read(record, &self.topic) {
            Ok(state) if known.is_none_or(|known| state.revision > known) => {
                (self.last, self.unreadable, self.beside) = (Some(state), None, false);
            }
            // Written beside another, which counts.
            Ok(state) => self.beside = self.last.as_ref().is_none_or(|last| last.change != state.change),
            Err(error) => {
                let revision = State::revision_of(&record.payload);
                if revision.is_none() || revision > known {
                    (self.unreadable, self.beside) = (Some((revision, error.to_string())), false);
                } else {
                    self.beside = true;
                }
            }
        }
    }

    /// Tells the controller every change from now on, until `stop`; gives what publishes, and the thread.
    pub(super) fn follow(
        self,
        inbox: Sender<Message>,
        stop: Arc<AtomicBool>,
    ) -> std::io::Result<(ControlWriter, JoinHandle<()>)> {
        let Self { writer, reader, topic, .. } = self;
        let follow = move || {
            let mut told: Option<Instant> = None;
            while !stop.load(Ordering::Acquire) {
                match reader.next(POLL_TIMEOUT) {
                    Ok(Some(ControlEvent::Record(record))) => {
                        let message = Message::Record(read(&record, &topic), State::revision_of(&record.payload));
                        // The controller reads until it stops.
                        inbox.send(message).ok();
                    }
                    Ok(_) => {}
                    Err(error) => {
                        if told.is_none_or(|told| told.elapsed() > TELL_AGAIN) {
                            tracing::warn!(%error, "The control topic cannot be read, or one of its brokers; it is tried again.");
                            told = Some(Instant::now());
                        }
                        thread::sleep(ERROR_PAUSE);
                    }
                }
            }
        };
        Ok((writer, thread::Builder::new().name("control-log".to_owned()).spawn(follow)?))
    }
}

fn read(record: &ControlRecord, topic: &str) -> Result<State, ControlError> {
    State::read(&record.payload, &format!("the record at offset {} of `{topic}`", record.offset))
}
