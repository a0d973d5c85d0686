//! A record that got no verdict: its bytes untouched, the reason in its headers.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{
    Header, Outgoing, Record, SCHEMA_VERSION,
    headers::{CONNECT, header},
    retry::{Origin, retry_attempt, without_retries},
};

/// Where on its way a record failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Reading the request.
    Parse,
    /// Getting or decoding the image.
    Image,
    /// Choosing the version.
    Routing,
    /// Running the model.
    Inference,
    /// Publishing the verdict.
    Publish,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Parse => "PARSE",
            Self::Image => "IMAGE",
            Self::Routing => "ROUTING",
            Self::Inference => "INFERENCE",
            Self::Publish => "PUBLISH",
        })
    }
}

/// Why a record was refused. Together with the record itself it becomes the dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Where it failed.
    pub stage: Stage,
    /// The stable code: header `ofa-error-code` and metric label.
    pub code: &'static str,
    /// What was wrong, and what to do about it.
    pub message: String,
}

/// The headers that a dead letter has behind those of the original record: Kafka Connect's family,
/// which tools know, and this program's own. All values are text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DeadLetterHeaders {
    /// Topic of the original record.
    #[serde(rename = "__connect.errors.topic")]
    topic: String,
    /// Partition of the original record.
    #[serde(rename = "__connect.errors.partition")]
    partition: String,
    /// Offset of the original record.
    #[serde(rename = "__connect.errors.offset")]
    offset: String,
    /// This program's name.
    #[serde(rename = "__connect.errors.connector.name")]
    program: String,
    /// Where on its way the record failed: PARSE, IMAGE, ROUTING, INFERENCE or PUBLISH.
    #[serde(rename = "__connect.errors.stage")]
    stage: String,
    /// The error code, under the name that Connect's tools look for.
    #[serde(rename = "__connect.errors.exception.class.name")]
    class: String,
    /// What was wrong, and what to do about it.
    #[serde(rename = "__connect.errors.exception.message")]
    message: String,
    /// The stable error code.
    #[serde(rename = "ofa-error-code")]
    code: String,
    /// How often the record was tried.
    #[serde(rename = "ofa-attempts")]
    attempts: String,
    /// Version of the record contract.
    #[serde(rename = "ofa-schema-version")]
    schema_version: String,
}

impl DeadLetterHeaders {
    fn into_headers(self) -> Vec<Header> {
        // Text fields of a plain struct: this cannot fail, and keeps their order.
        let Ok(Value::Object(fields)) = serde_json::to_value(self) else { return Vec::new() };
        fields.into_iter().map(|(name, value)| (name, value.as_str().map(|text| text.as_bytes().to_vec()))).collect()
    }
}

/// What was added to a record when it became a dead letter.
const ADDED: [&str; 4] = ["ofa-error-code", "ofa-attempts", "ofa-schema-version", OMITTED];

/// Says how many bytes a dead letter's value had, where it was too large for its topic.
pub const OMITTED: &str = "ofa-payload-omitted";

/// What the headers of a dead letter tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The stable code.
    pub code: String,
    /// What was wrong.
    pub message: String,
    /// Where on its way it failed.
    pub stage: String,
    /// Where the request was published.
    pub topic: String,
    /// Its partition there.
    pub partition: String,
    /// Its offset there.
    pub offset: String,
    /// How often it was tried.
    pub attempts: String,
    /// Whether its value was too large, and is not here.
    pub omitted: bool,
}

impl Refusal {
    /// Reads the headers of a dead letter; none where it is not one of this program's.
    pub fn of(letter: &Record) -> Option<Self> {
        let text = |name: &str| header(&letter.headers, name).unwrap_or_default().to_owned();
        let connect = |name: &str| text(&format!("{CONNECT}{name}"));
        header(&letter.headers, "ofa-error-code").map(|code| Self {
            code: code.to_owned(),
            message: connect("exception.message"),
            stage: connect("stage"),
            topic: connect("topic"),
            partition: connect("partition"),
            offset: connect("offset"),
            attempts: text("ofa-attempts"),
            omitted: header(&letter.headers, OMITTED).is_some(),
        })
    }
}

/// Whether a header of a dead letter was added to its request.
pub fn is_added(name: &str) -> bool {
    name.starts_with(CONNECT) || ADDED.contains(&name)
}

/// The request that a dead letter holds, for another try: its own key, value and headers.
pub fn replayed(letter: &Record, topic: &str) -> Outgoing {
    let headers = without_retries(&letter.headers).into_iter().filter(|(name, _)| !is_added(name)).collect();
    Outgoing { topic: topic.to_owned(), key: letter.key.clone(), payload: letter.payload.clone(), headers }
}

impl DeadLetter {
    /// The record for the dead-letter topic: original key, value and headers, then
    /// [`DeadLetterHeaders`].
    pub fn into_record(self, record: Record, topic: &str) -> Outgoing {
        let (origin, attempts) = (Origin::of(&record), retry_attempt(&record) + 1);
        let added = DeadLetterHeaders {
            topic: origin.topic,
            partition: origin.partition.to_string(),
            offset: origin.offset.to_string(),
            program: env!("CARGO_PKG_NAME").to_owned(),
            stage: self.stage.to_string(),
            class: self.code.to_owned(),
            message: self.message,
            code: self.code.to_owned(),
            attempts: attempts.to_string(),
            schema_version: SCHEMA_VERSION.to_owned(),
        };
        let mut headers = without_retries(&record.headers);
        headers.extend(added.into_headers());
        Outgoing { topic: topic.to_owned(), key: record.key, payload: record.payload, headers }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_keeps_the_original_bytes_and_adds_every_error_header() {
        let record = Record {
            topic: "in".into(),
            partition: 3,
            offset: 41,
            key: Some(vec![0xff, 0]),
            payload: Some(b"{oops".to_vec()),
            headers: vec![("traceparent".into(), Some(b"00-x".to_vec())), ("empty".into(), None)],
            ..Record::default()
        };
        let letter = DeadLetter { stage: Stage::Parse, code: "malformed_json", message: "no".into() };
        let out = letter.into_record(record, "dead");
        assert_eq!(out.key.as_deref(), Some(&[0xff, 0][..]));
        assert_eq!(out.payload.as_deref(), Some(&b"{oops"[..]));
        let shown: Vec<String> = out
            .headers
            .iter()
            .map(|(name, value)| {
                let value = value.as_ref().map_or("null".into(), |v| String::from_utf8_lossy(v).into_owned());
                format!("{name}: {value}")
            })
            .collect();
        insta::assert_snapshot!(shown.join("\n"), @r"
        traceparent: 00-x
        empty: null
        __connect.errors.topic: in
        __connect.errors.partition: 3
        __connect.errors.offset: 41
        __connect.errors.connector.name: ofa-stream
        __connect.errors.stage: PARSE
        __connect.errors.exception.class.name: malformed_json
        __connect.errors.exception.message: no
        ofa-error-code: malformed_json
        ofa-attempts: 1
        ofa-schema-version: 1
        ");
    }
}
