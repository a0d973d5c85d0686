//! One Kafka record, detached from the client library.

use std::{borrow::Cow, fmt};

/// A record header: its name and, unless null, its value.
pub type Header = (String, Option<Vec<u8>>);

/// One partition of one of the topics that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    /// Which topic, by its place in the list of those that are read: 0 is the requests topic, the others are for retries.
    pub topic: u16,
    /// Which partition of it.
    pub partition: i32,
}

impl Source {
    /// A partition of the requests topic.
    pub fn requests(partition: i32) -> Self {
        Self { topic: 0, partition }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.topic {
            0 => write!(formatter, "partition {}", self.partition),
            retry => write!(formatter, "partition {} of retry topic {retry}", self.partition),
        }
    }
}

/// A record as it was read from a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Topic it was read from.
    pub topic: String,
    /// Partition it was read from.
    pub partition: i32,
    /// Its offset in that partition.
    pub offset: i64,
    /// Milliseconds since the Unix epoch, as the broker or the producer stamped it.
    pub timestamp_ms: Option<i64>,
    /// The record key, which is also the key of the verdict.
    pub key: Option<Vec<u8>>,
    /// The record value; null values are tombstones.
    pub payload: Option<Vec<u8>>,
    /// Headers in the order of the record.
    pub headers: Vec<Header>,
}

impl Record {
    /// Bytes this record holds in memory: key, value and headers.
    pub fn size(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len)).sum();
        self.key.as_ref().map_or(0, Vec::len) + self.payload.as_ref().map_or(0, Vec::len) + headers
    }

    /// The key as text; one that is not UTF-8 as `0x` and its bytes in hexadecimal, so that every key that is not empty has a
    /// text, and different keys have different ones.
    pub fn key_text(&self) -> Option<Cow<'_, str>> {
        let key = self.key.as_deref().filter(|key| !key.is_empty())?;
        Some(match std::str::from_utf8(key) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => Cow::Owned(format!("0x{}", hex::encode(key))),
        })
    }
}

/// A record to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Topic to publish to.
    pub topic: String,
    /// The record key.
    pub key: Option<Vec<u8>>,
    /// The record value.
    pub payload: Option<Vec<u8>>,
    /// Headers in the order they are written.
    pub headers: Vec<Header>,
}
