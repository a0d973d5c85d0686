//! One Kafka record, detached from the client library.

/// A record header: its name and, unless null, its value.
pub type Header = (String, Option<Vec<u8>>);

/// A record as it was read from the requests topic.
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

    /// The key as text, where it is valid UTF-8 and not empty.
    pub fn key_text(&self) -> Option<&str> {
        self.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()).filter(|key| !key.is_empty())
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
