//! A record that got no verdict: its bytes untouched, the reason in its headers.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{
    Header, Outgoing, Record, RecordPosition, SCHEMA_VERSION,
    headers::{CONNECT, header, text_header},
    retry::{Origin, retry_attempt, without_retries},
    verdict::Assignment,
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

/// How far a failed request came: failures belong to an arm of an experiment, too.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FailureContext {
    /// The request's id, once it was read.
    pub request_id: Option<String>,
    /// The experiment that took it.
    pub experiment: Option<String>,
    /// Its variant.
    pub variant: Option<String>,
    /// The version that it was routed to.
    pub version: Option<String>,
    /// How its unit was assigned to the variant.
    pub assignment: Option<Assignment>,
    /// The digest of the configuration that routed it.
    pub config_digest: Option<String>,
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
    /// The request's id, where it was read.
    #[serde(rename = "ofa-error-request-id", skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    /// The experiment that took the request, where it came so far.
    #[serde(rename = "ofa-error-experiment", skip_serializing_if = "Option::is_none")]
    experiment: Option<String>,
    /// Its variant.
    #[serde(rename = "ofa-error-variant", skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
    /// The version that the request was routed to.
    #[serde(rename = "ofa-error-version", skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// The digest of the configuration that routed it.
    #[serde(rename = "ofa-error-config-digest", skip_serializing_if = "Option::is_none")]
    config_digest: Option<String>,
    /// The digest of the experiment's definition, as in `ab.definition`. Absent for a tester's request.
    #[serde(rename = "ofa-error-definition", skip_serializing_if = "Option::is_none")]
    definition: Option<String>,
    /// The experiment's epoch.
    #[serde(rename = "ofa-error-epoch", skip_serializing_if = "Option::is_none")]
    epoch: Option<String>,
    /// Which field is the unit, as in `ab.unit`.
    #[serde(rename = "ofa-error-unit", skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    /// The digest of the unit, as in `ab.unit_hash`.
    #[serde(rename = "ofa-error-unit-hash", skip_serializing_if = "Option::is_none")]
    unit_hash: Option<String>,
}

impl DeadLetterHeaders {
    fn into_headers(self) -> Vec<Header> {
        // Text fields of a plain struct: this cannot fail, and keeps their order.
        let Ok(Value::Object(fields)) = serde_json::to_value(self) else { return Vec::new() };
        fields.into_iter().map(|(name, value)| (name, value.as_str().map(|text| text.as_bytes().to_vec()))).collect()
    }
}

/// What was added to a record when it became a dead letter. None is a header of a request: a replay removes them.
const ADDED: [&str; 13] = [
    "ofa-error-code",
    "ofa-attempts",
    "ofa-schema-version",
    "ofa-error-request-id",
    "ofa-error-experiment",
    "ofa-error-variant",
    "ofa-error-version",
    "ofa-error-config-digest",
    "ofa-error-definition",
    "ofa-error-epoch",
    "ofa-error-unit",
    "ofa-error-unit-hash",
    OMITTED,
];

/// The position of the dead letter that was replayed: `TOPIC/PARTITION:OFFSET`.
const REPLAYED_FROM: &str = "ofa-replayed-from";

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
    /// The request's id, where it was read.
    pub request_id: Option<String>,
    /// The arm of an experiment, `EXPERIMENT/VARIANT`, where it came so far.
    pub arm: Option<String>,
    /// Where the request was published.
    pub topic: String,
    /// Its partition there; none where the header is damaged.
    pub partition: Option<i32>,
    /// Its offset there.
    pub offset: Option<i64>,
    /// How often it was tried.
    pub attempts: Option<usize>,
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
            request_id: header(&letter.headers, "ofa-error-request-id").map(str::to_owned),
            arm: header(&letter.headers, "ofa-error-experiment")
                .map(|experiment| format!("{experiment}/{}", text("ofa-error-variant"))),
            topic: connect("topic"),
            partition: connect("partition").parse().ok(),
            offset: connect("offset").parse().ok(),
            attempts: text("ofa-attempts").parse().ok(),
            omitted: header(&letter.headers, OMITTED).is_some(),
        })
    }
}

/// The dead letter that was replayed as this record, if so.
pub fn replayed_from(record: &Record) -> Option<RecordPosition> {
    let (topic, place) = header(&record.headers, REPLAYED_FROM)?.rsplit_once('/')?;
    let (partition, offset) = place.split_once(':')?;
    Some(RecordPosition { topic: topic.to_owned(), partition: partition.parse().ok()?, offset: offset.parse().ok()? })
}

/// Whether a header of a dead letter was added to its request.
pub fn is_added(name: &str) -> bool {
    name.starts_with(CONNECT) || ADDED.contains(&name)
}

/// The request that a dead letter holds, for another try: its own key, value and headers.
pub fn replayed(letter: &Record, topic: &str) -> Outgoing {
    let kept = without_retries(&letter.headers).into_iter();
    let mut headers: Vec<Header> = kept.filter(|(name, _)| !is_added(name) && name != REPLAYED_FROM).collect();
    headers.push(text_header(REPLAYED_FROM, format!("{}/{}:{}", letter.topic, letter.partition, letter.offset)));
    Outgoing { topic: topic.to_owned(), key: letter.key.clone(), payload: letter.payload.clone(), headers }
}

impl DeadLetter {
    /// The record for the dead-letter topic: original key, value and headers, then
    /// [`DeadLetterHeaders`].
    pub fn into_record(self, record: Record, topic: &str, context: &FailureContext) -> Outgoing {
        let (origin, attempts) = (Origin::of(&record), retry_attempt(&record) + 1);
        // A tester's variant was not drawn, so the failure says nothing about it.
        let drawn = context.assignment.as_ref().filter(|assignment| !assignment.forced);
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
            request_id: context.request_id.clone(),
            experiment: context.experiment.clone(),
            variant: context.variant.clone(),
            version: context.version.clone(),
            config_digest: context.config_digest.clone(),
            definition: drawn.and_then(|drawn| drawn.definition.clone()),
            epoch: drawn.map(|drawn| drawn.epoch.to_string()),
            unit: drawn.map(|drawn| drawn.unit.clone()),
            unit_hash: drawn.and_then(|drawn| drawn.unit_hash.clone()),
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
        let out = letter.into_record(record, "dead", &FailureContext::default());
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
        ofa-schema-version: 2
        ");
    }
}
