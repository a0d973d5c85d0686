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
const PUBLISH_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a start waits for the changes that there are.
const CATCH_UP_MAX: Duration = Duration::from_secs(30);
const POLL_TIMEOUT: Duration = Duration::from_millis(100);
/// A reader that cannot go on tries again after this.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The control topic of a group.
pub struct FleetLog {
    writer: ControlWriter,
    reader: ControlReader,
    topic: String,
    /// The last state that could be read at the start.
    pub(super) last: Option<State>,
    /// Why a later record could not be.
    pub(super) unreadable: Option<String>,
    /// The offset of the last record; -1 where there is none.
    pub(super) offset: i64,
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
        let mut log = Self { writer, reader, topic: topic.clone(), last: None, unreadable: None, offset: -1 };
        let deadline = Instant::now() + CATCH_UP_MAX;
        loop {
            match log.reader.next(POLL_TIMEOUT)? {
                Some(ControlEvent::CaughtUp) => return Ok(Some(log)),
                Some(ControlEvent::Record(record)) => {
                    log.offset = record.offset;
                    match read(&record, topic) {
                        Ok(state) => (log.last, log.unreadable) = (Some(state), None),
                        Err(error) => log.unreadable = Some(error.to_string()),
                    }
                }
                None if Instant::now() < deadline => {}
                None => {
                    let reason = format!("`{topic}` could not be read to its end");
                    return Err(KafkaError::Unreachable {
                        bootstrap_servers: connection.bootstrap_servers.clone(),
                        reason,
                    });
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
            while !stop.load(Ordering::Acquire) {
                match reader.next(POLL_TIMEOUT) {
                    Ok(Some(ControlEvent::Record(record))) => {
                        let message = Message::Record(read(&record, &topic), record.offset);
                        // The controller reads until it stops.
                        inbox.send(message).ok();
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!(%error, "The control topic cannot be read, and is tried again.");
                        thread::sleep(RETRY_PAUSE);
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
