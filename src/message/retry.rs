//! A record that may succeed later, on its way through the retry topics. Its bytes stay untouched; headers say when it is
//! due, how often it was tried, and where it came from.

use super::{
    Header, Outgoing, Record,
    headers::{header, text_header},
};

const ATTEMPT: &str = "ofa-retry-attempt";
const DUE: &str = "ofa-retry-due-ms";
const CODE: &str = "ofa-retry-code";
const TOPIC: &str = "ofa-origin-topic";
const PARTITION: &str = "ofa-origin-partition";
const OFFSET: &str = "ofa-origin-offset";
const TIMESTAMP: &str = "ofa-origin-timestamp-ms";

const OWN: [&str; 7] = [ATTEMPT, DUE, CODE, TOPIC, PARTITION, OFFSET, TIMESTAMP];

/// Where a request was published first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// The offset there.
    pub offset: i64,
    /// When it was published, in milliseconds since the Unix epoch. Rules and experiments go by it, so that a request that
    /// is tried again gets the same version.
    pub timestamp_ms: Option<i64>,
}

impl Origin {
    /// Where a record was published first: here, unless its headers say otherwise.
    pub fn of(record: &Record) -> Self {
        let told = || {
            Some(Self {
                topic: header(&record.headers, TOPIC)?.to_owned(),
                partition: number(&record.headers, PARTITION)? as i32,
                offset: number(&record.headers, OFFSET)?,
                timestamp_ms: number(&record.headers, TIMESTAMP),
            })
        };
        told().unwrap_or_else(|| Self {
            topic: record.topic.clone(),
            partition: record.partition,
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
        })
    }
}

/// How often a record was tried already.
pub fn retry_attempt(record: &Record) -> usize {
    number(&record.headers, ATTEMPT).unwrap_or_default().max(0) as usize
}

/// When a record of a retry topic is due, in milliseconds since the Unix epoch.
pub fn retry_due_ms(record: &Record) -> Option<i64> {
    number(&record.headers, DUE)
}

/// The record for a retry topic.
pub fn retry_record(record: &Record, topic: &str, code: &str, due_ms: i64) -> Outgoing {
    let (origin, attempt) = (Origin::of(record), retry_attempt(record) + 1);
    let mut headers = without_retries(&record.headers);
    headers.push(text_header(ATTEMPT, attempt.to_string()));
    headers.push(text_header(DUE, due_ms.to_string()));
    headers.push(text_header(CODE, code));
    headers.push(text_header(TOPIC, origin.topic));
    headers.push(text_header(PARTITION, origin.partition.to_string()));
    headers.push(text_header(OFFSET, origin.offset.to_string()));
    headers.extend(origin.timestamp_ms.map(|time| text_header(TIMESTAMP, time.to_string())));
    Outgoing { topic: topic.to_owned(), key: record.key.clone(), payload: record.payload.clone(), headers }
}

/// Removes what only a record of a retry topic may say.
pub fn forget_retries(record: &mut Record) {
    record.headers.retain(|(name, _)| !OWN.contains(&name.as_str()));
}

/// Headers without those that retries have added.
pub(super) fn without_retries(headers: &[Header]) -> Vec<Header> {
    headers.iter().filter(|(name, _)| !OWN.contains(&name.as_str())).cloned().collect()
}

fn number(headers: &[Header], name: &str) -> Option<i64> {
    header(headers, name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_keeps_its_origin_and_its_bytes_through_all_retries() {
        let record = Record {
            topic: "requests".to_owned(),
            partition: 3,
            offset: 41,
            timestamp_ms: Some(1_000),
            key: Some(vec![1]),
            payload: Some(vec![2]),
            headers: vec![text_header("tenant", "t")],
        };
        let origin = Origin::of(&record);
        assert_eq!((retry_attempt(&record), retry_due_ms(&record)), (0, None));
        let mut tried = record.clone();
        for attempt in 1..=3 {
            let out = retry_record(&tried, &format!("retry-{attempt}"), "image_file_unreadable", 5_000);
            tried = Record {
                topic: out.topic,
                partition: 0,
                offset: 7,
                timestamp_ms: Some(2_000),
                key: out.key,
                payload: out.payload,
                headers: out.headers,
            };
            assert_eq!(
                (retry_attempt(&tried), retry_due_ms(&tried), Origin::of(&tried)),
                (attempt, Some(5_000), origin.clone())
            );
        }
        assert_eq!(
            (&tried.key, &tried.payload, without_retries(&tried.headers)),
            (&record.key, &record.payload, record.headers)
        );
    }
}
