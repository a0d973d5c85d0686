//! What producers publish: one image, one text or several, and the attributes that routing reads.

use std::collections::BTreeMap;

use base64::{
    alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Record, binary};

/// A moderation request. Fields that are not named here are ignored, so that producers may carry
/// their own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Request {
    /// Names the request in verdicts, dead letters and logs. Not empty; at most 256 bytes.
    #[schemars(length(min = 1, max = 256))]
    pub request_id: String,
    /// The hypothesis, or several hypotheses about the one image.
    pub text: Texts,
    /// A premise in words that stands beside the image, where there is one.
    #[serde(default)]
    pub caption: Option<String>,
    /// The image, given in exactly one way.
    pub image: ImageSource,
    /// What routing rules and experiments may look at. A null value counts as missing.
    #[serde(default)]
    pub attributes: Attributes,
    /// Asks for one version by name; refused unless settings allow it.
    #[serde(default)]
    pub model_version: Option<String>,
}

/// Attributes by name.
pub type Attributes = BTreeMap<String, Option<AttributeValue>>;

/// One attribute of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum AttributeValue {
    /// `true` or `false`.
    Flag(bool),
    /// Any JSON number, read as a 64-bit float.
    Number(f64),
    /// A string.
    Text(String),
}

/// One hypothesis, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Texts {
    /// A single hypothesis.
    One(String),
    /// Several hypotheses about one image; the verdict answers each.
    Many(#[schemars(length(min = 1))] Vec<String>),
}

impl Texts {
    /// The hypotheses in order.
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

/// How images stand in JSON: standard base64, whose padding may be left away.
pub const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Where the image is: exactly one of the fields is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct ImageSource {
    /// The encoded image (JPEG, PNG or WebP) in standard base64, padding optional.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// An address to fetch it from. This version refuses it: no setting allows it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// A path below the root that settings allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// Why a record is not a request.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The record has no value, or an empty one.
    #[error("the record has no value: publish a JSON object, or an image with headers")]
    EmptyPayload,
    /// The value is not JSON.
    #[error("the value is not JSON: {0}")]
    MalformedJson(String),
    /// A field that must be there is not.
    #[error("{0}")]
    MissingField(String),
    /// A field has the wrong type or an impossible value.
    #[error("`{field}`: {reason}")]
    InvalidField {
        /// The field's path, such as `attributes.region`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// `image` names no source.
    #[error("`image` names no source: give one of `base64`, `url` or `path`")]
    ImageSourceMissing,
    /// `image` names several sources.
    #[error("`image` names several sources: give exactly one of `base64`, `url` or `path`")]
    ImageSourceConflict,
}

impl RequestError {
    /// The stable code of this error: the metric label and the dead-letter header.
    pub fn code(&self) -> &'static str {
        match self {
            Self::EmptyPayload => "empty_payload",
            Self::MalformedJson(_) => "malformed_json",
            Self::MissingField(_) => "missing_field",
            Self::InvalidField { .. } => "invalid_field",
            Self::ImageSourceMissing => "image_source_missing",
            Self::ImageSourceConflict => "image_source_conflict",
        }
    }
}

const REQUEST_ID_BYTES_MAX: usize = 256;

impl Request {
    /// Reads a request from a record: JSON, or an image with headers where its content type says so.
    ///
    /// # Errors
    /// The first thing wrong with it, named by its place.
    pub fn from_record(record: &Record) -> Result<Self, RequestError> {
        match binary::is_binary(record) {
            true => binary::read(record)?.identified(),
            false => Self::from_json(record.payload.as_deref().unwrap_or_default()),
        }
    }

    /// Reads a request from a record's value.
    ///
    /// # Errors
    /// The first thing wrong with it, named by its place.
    pub fn from_json(payload: &[u8]) -> Result<Self, RequestError> {
        if payload.is_empty() {
            return Err(RequestError::EmptyPayload);
        }
        // An array would be read field by field, which no producer means.
        if payload.trim_ascii_start().starts_with(b"[") {
            let (field, reason) = ("the value".to_owned(), "expected a JSON object, found an array".to_owned());
            return Err(RequestError::InvalidField { field, reason });
        }
        let mut reader = serde_json::Deserializer::from_slice(payload);
        let request: Self = serde_path_to_error::deserialize(&mut reader).map_err(request_error)?;
        reader.end().map_err(|error| RequestError::MalformedJson(error.to_string()))?;
        request.checked()
    }

    fn identified(self) -> Result<Self, RequestError> {
        let reason = match self.request_id.len() {
            0 => "is empty",
            1..=REQUEST_ID_BYTES_MAX => return Ok(self),
            _ => "is longer than 256 bytes",
        };
        Err(RequestError::InvalidField { field: "request_id".to_owned(), reason: reason.to_owned() })
    }

    fn checked(self) -> Result<Self, RequestError> {
        let checked = self.identified()?;
        if checked.text.as_slice().is_empty() {
            let reason = "is an empty list: give at least one text".to_owned();
            return Err(RequestError::InvalidField { field: "text".to_owned(), reason });
        }
        let ImageSource { base64, url, path } = &checked.image;
        match [base64, url, path].into_iter().flatten().count() {
            0 => Err(RequestError::ImageSourceMissing),
            1 => Ok(checked),
            _ => Err(RequestError::ImageSourceConflict),
        }
    }
}

fn request_error(error: serde_path_to_error::Error<serde_json::Error>) -> RequestError {
    let path = error.path().to_string();
    let error = error.into_inner();
    if !error.is_data() {
        return RequestError::MalformedJson(error.to_string());
    }
    let reason = error.to_string();
    // serde words a missing field the same way for every type; the path then names the parent.
    if reason.starts_with("missing field") {
        let place = if path == "." { String::new() } else { format!(" of `{path}`") };
        return RequestError::MissingField(format!("{reason}{place}"));
    }
    let reason = match reason.as_str() {
        r if r.starts_with("invalid type: ") || r.starts_with("invalid value: ") => without_value(r),
        r if r.contains("untagged enum Texts") => "expected a string or a list of strings".to_owned(),
        r if r.contains("untagged enum AttributeValue") => {
            "expected a string, a number, true, false or null".to_owned()
        }
        _ => reason,
    };
    RequestError::InvalidField { field: if path == "." { "the value".to_owned() } else { path }, reason }
}

/// serde quotes the value that it did not expect, which may be a whole image: only its kind is kept.
fn without_value(reason: &str) -> String {
    let (found, expected) = reason.rsplit_once(", expected ").unwrap_or((reason, "something else"));
    let kind = found.split(['"', '`']).next().unwrap_or_default().trim_end();
    format!("{kind}, expected {expected}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Request, RequestError> {
        Request::from_json(json.as_bytes())
    }

    #[test]
    fn the_documented_request_is_read() {
        let request = read(
            r#"{"request_id":"r1","text":"two birds","caption":null,"image":{"base64":"AA=="},"trace":{"x":1},
                "attributes":{"user_role":"admin","age":3,"vip":true,"region":null},"model_version":null}"#,
        )
        .unwrap();
        assert_eq!(request.text.as_slice(), ["two birds"]);
        assert_eq!(request.attributes["age"], Some(AttributeValue::Number(3.0)));
        assert_eq!(request.attributes["region"], None);
    }

    #[test]
    fn every_fault_has_its_code_and_names_its_place() {
        let cases = [
            ("", "empty_payload", "no value"),
            ("{\"request_id\":", "malformed_json", "line 1"),
            ("\u{1}", "malformed_json", "line 1"),
            (r#"{"text":"a","image":{"base64":""}}"#, "missing_field", "request_id"),
            (r#"{"request_id":"a","image":{"base64":""}}"#, "missing_field", "text"),
            (r#"{"request_id":"a","text":"a"}"#, "missing_field", "image"),
            (r#"{"request_id":"","text":"a","image":{"base64":""}}"#, "invalid_field", "request_id"),
            (r#"{"request_id":7,"text":"a","image":{"base64":""}}"#, "invalid_field", "request_id"),
            (r#"{"request_id":"a","text":7,"image":{"base64":""}}"#, "invalid_field", "list of strings"),
            (r#"{"request_id":"a","text":[],"image":{"base64":""}}"#, "invalid_field", "at least one"),
            (r#"{"request_id":"a","text":"a","image":{"file":"x"}}"#, "invalid_field", "image"),
            (
                r#"{"request_id":"a","text":"a","image":"/9j/4AAQ, expected by nobody"}"#,
                "invalid_field",
                "invalid type: string, expected struct",
            ),
            (r#"{"request_id":"a","text":"a","image":{}}"#, "image_source_missing", "base64"),
            (r#"{"request_id":"a","text":"a","image":{"url":"u","path":"p"}}"#, "image_source_conflict", "exactly one"),
            (
                r#"{"request_id":"a","text":"a","image":{"path":"p"},"attributes":{"k":[1]}}"#,
                "invalid_field",
                "attributes.k",
            ),
            (r#"{"request_id":"a","text":"a","image":{"path":"p"}} x"#, "malformed_json", "trailing"),
            (r#"["a","b",null,{"path":"p"}]"#, "invalid_field", "array"),
            ("7", "invalid_field", "the value"),
        ];
        for (json, code, words) in cases {
            let error = read(json).unwrap_err();
            assert_eq!(error.code(), code, "{json}: {error}");
            assert!(error.to_string().contains(words), "{json}: {error}");
        }
    }
}
