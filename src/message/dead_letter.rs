//! A record that got no verdict: its bytes untouched, the reason in its headers.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{Header, Outgoing, Record, SCHEMA_VERSION};

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

impl DeadLetter {
    /// The record for the dead-letter topic: original key, value and headers, then
    /// [`DeadLetterHeaders`].
    pub fn into_record(self, record: Record, topic: &str) -> Outgoing {
        let added = DeadLetterHeaders {
            topic: record.topic,
            partition: record.partition.to_string(),
            offset: record.offset.to_string(),
            program: env!("CARGO_PKG_NAME").to_owned(),
            stage: self.stage.to_string(),
            class: self.code.to_owned(),
            message: self.message,
            code: self.code.to_owned(),
            schema_version: SCHEMA_VERSION.to_owned(),
        };
        let mut headers = record.headers;
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
        ofa-schema-version: 1
        ");
    }
}
