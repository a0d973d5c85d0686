//! The control topic: changes of this instance out, changes of all instances in, in one order.

use std::{
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crossbeam_channel::Sender;

use super::{GroupState, RecordError, RecordFormat, TopicContents, handle::Message, wire};
use crate::{
    kafka::{Connection, ControlEvent, ControlReader, ControlRecord, ControlWriter, KafkaError},
    settings::KafkaPlan,
};

/// A person waits for a command, but not longer than this.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a start reads the topic to its end.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_TIMEOUT: Duration = Duration::from_millis(100);
/// Pause after an error. The client reports one at each attempt to connect; without a pause that could keep a core busy.
const ERROR_PAUSE: Duration = Duration::from_millis(20);
/// A lasting error is logged again after this.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The control topic of a group, read to its end.
pub struct ControlTopic {
    writer: ControlWriter,
    reader: ControlReader,
    /// What it holds.
    pub contents: TopicContents,
}

impl ControlTopic {
    /// Reads the topic to its end; none where the settings name no topic.
    ///
    /// # Errors
    /// When the topic does not exist, or cannot be read to its end.
    pub fn open(connection: &Connection, kafka: &KafkaPlan) -> Result<Option<Self>, KafkaError> {
        let Some(topic) = &kafka.control else { return Ok(None) };
        let reader = ControlReader::new(connection, topic, &kafka.group_id)?;
        let writer = ControlWriter::new(connection, topic, &kafka.group_id, PUBLISH_TIMEOUT)?;
        let contents = TopicContents { topic: topic.clone(), ..TopicContents::default() };
        let mut opened = Self { writer, reader, contents };
        let deadline = Instant::now() + CATCH_UP_TIMEOUT;
        let mut reason = format!("`{topic}` could not be read to its end");
        while Instant::now() < deadline {
            match opened.reader.next(POLL_TIMEOUT) {
                Ok(Some(ControlEvent::CaughtUp)) => return Ok(Some(opened)),
                Ok(Some(ControlEvent::Record(record))) => opened.contents.take(read(&record, topic)),
                // What instances said before this start may be long ago.
                Ok(Some(ControlEvent::Instance(..)) | None) => {}
                // One broker of several that does not answer is such an error, and no reason to stop.
                Err(error) => {
                    reason = format!("`{topic}` could not be read to its end: {error}");
                    thread::sleep(ERROR_PAUSE);
                }
            }
        }
        Err(KafkaError::Unreachable { bootstrap_servers: connection.bootstrap_servers.clone(), reason })
    }

    /// Passes every later record to the driver until `stop`; returns the writer and the thread.
    pub(super) fn follow(
        self,
        inbox: Sender<Message>,
        stop: Arc<AtomicBool>,
    ) -> std::io::Result<(ControlWriter, JoinHandle<()>)> {
        let Self { writer, reader, contents: TopicContents { topic, .. } } = self;
        let follow = move || {
            let mut logged: Option<Instant> = None;
            while !stop.load(Ordering::Acquire) {
                match reader.next(POLL_TIMEOUT) {
                    // The driver reads until it stops.
                    Ok(Some(ControlEvent::Record(record))) => {
                        inbox.send(Message::Record(Box::new(read(&record, &topic)))).ok();
                    }
                    Ok(Some(ControlEvent::Instance(instance, status))) => {
                        // A status that cannot be read is of a newer release; its instance runs.
                        let parsed = status.map(|json| serde_json::from_slice(&json).map(Box::new)).transpose();
                        if let Ok(status) = parsed {
                            inbox.send(Message::Instance(instance, status)).ok();
                        }
                    }
                    Ok(Some(ControlEvent::CaughtUp) | None) => {}
                    Err(error) => {
                        if logged.is_none_or(|logged| logged.elapsed() > LOG_INTERVAL) {
                            tracing::warn!(%error, "The control topic, or one of its brokers, cannot be read; retrying.");
                            logged = Some(Instant::now());
                        }
                        thread::sleep(ERROR_PAUSE);
                    }
                }
            }
        };
        Ok((writer, thread::Builder::new().name("control-topic".to_owned()).spawn(follow)?))
    }
}

fn read(record: &ControlRecord, topic: &str) -> Result<(GroupState, RecordFormat), RecordError> {
    wire::read(&record.payload).map_err(|error| RecordError {
        reason: format!("the record at offset {} of `{topic}`: {}", record.offset, error.reason),
        ..error
    })
}
