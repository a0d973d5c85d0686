//! What producers publish: one image, one text or several, and the attributes that routing reads.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Record, binary,
    parse::{self, RequestBounds},
};

/// A moderation request. Fields that are not named here are ignored, so that producers may carry
/// their own.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Request {
    /// Names the request in verdicts, dead letters and logs. Not empty; at most 256 bytes. A whole number of 64 bits counts as
    /// its digits.
    #[schemars(with = "RequestId")]
    pub request_id: String,
    /// The hypothesis, or several hypotheses about the one image.
    pub text: Texts,
    /// A premise in words that stands next to the image, where there is one. It is taken for true: it belongs to trusted
    /// sources only. An empty one counts as missing.
    #[serde(default)]
    pub caption: Option<String>,
    /// The image, given in exactly one way.
    pub image: ImageSource,
    /// What routing rules and experiments may look at. A null value counts as missing.
    #[serde(default)]
    #[schemars(with = "Option<Attributes>")]
    pub attributes: Attributes,
    /// Asks for one version by name; refused unless settings allow it.
    #[serde(default)]
    pub model_version: Option<String>,
}

/// How JSON spells a request's id.
#[derive(JsonSchema)]
#[schemars(untagged, inline)]
#[expect(dead_code, reason = "the schema is made of it, and nothing else")]
enum RequestId {
    Text(#[schemars(length(min = 1, max = 256))] String),
    Number(i64),
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

/// Where the image is: exactly one of the fields is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct ImageSource {
    /// The encoded image (JPEG, PNG or WebP) in base64, standard or URL-safe; padding and line breaks are optional, and the
    /// prefix of a data URL is skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// An address to fetch it from, where `[images.fetch]` allows it.
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
    /// A text is too long, or there are too many.
    #[error("`{field}` {reason}")]
    TextTooLong {
        /// `text` or `caption`.
        field: &'static str,
        /// What it has, and what settings allow.
        reason: String,
    },
    /// `image` names no source.
    #[error("`image` names no source: give `base64`, or `url` or `path` where settings allow them")]
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
            Self::TextTooLong { .. } => "text_too_long",
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
    pub fn from_record(record: &Record, bounds: &RequestBounds) -> Result<Self, RequestError> {
        if record.headers.len() > bounds.headers_max {
            let reason = format!("are {}, `requests.headers_max` allows {}", record.headers.len(), bounds.headers_max);
            return Err(RequestError::InvalidField { field: "headers".to_owned(), reason });
        }
        if binary::is_binary(record) {
            return binary::read(record, bounds)?.identified();
        }
        Self::from_json(record.payload.as_deref().unwrap_or_default(), bounds)
    }

    /// Reads a request from a record's value.
    ///
    /// # Errors
    /// The first thing wrong with it, named by its place.
    pub fn from_json(payload: &[u8], bounds: &RequestBounds) -> Result<Self, RequestError> {
        parse::request(payload, bounds)?.checked()
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

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: RequestBounds = RequestBounds {
        texts_max: 3,
        text_characters_max: 40,
        attributes_max: 4,
        attribute_bytes_max: 16,
        headers_max: 4,
    };

    fn read(json: &str) -> Result<Request, RequestError> {
        Request::from_json(json.as_bytes(), &BOUNDS)
    }

    #[test]
    fn nulls_and_whole_numbers_mean_what_serializers_mean_by_them() {
        let request = read(
            r#"{"request_id":18446744073709551615,"text":"a","attributes":null,"image":{"base64":"","url":null}}"#,
        );
        let request = request.unwrap();
        assert_eq!((request.request_id.as_str(), request.attributes.len()), ("18446744073709551615", 0));
    }

    #[test]
    fn a_record_with_too_many_headers_is_refused() {
        let headers = vec![("h".to_owned(), None); 5];
        let record = Record { payload: Some(b"{}".to_vec()), headers, ..Record::default() };
        assert!(Request::from_record(&record, &BOUNDS).unwrap_err().to_string().contains("requests.headers_max"));
    }

    #[test]
    fn parsing_holds_no_more_than_its_bounds_allow() {
        let texts = format!(r#"{{"request_id":"a","text":[{}""]}}"#, r#""","#.repeat(1_000_000));
        let attributes = format!(r#"{{"request_id":"a","attributes":{{{}"z":1}}}}"#, attributes(200_000));
        let nested = format!(r#"{{"request_id":"a","attributes":{{"a":{}}}}}"#, "[".repeat(1_000_000));
        let unknown = format!(r#"{{"x":{}{},"request_id":1}}"#, "[".repeat(100), "]".repeat(100));
        for json in [texts, attributes, nested, unknown] {
            let held = allocation_counter::measure(|| assert!(read(&json).is_err()));
            assert!(held.bytes_max < 20_000, "{} bytes for {} of JSON", held.bytes_max, json.len());
        }
    }

    fn attributes(count: usize) -> String {
        (0..count).map(|number| format!(r#""a{number}":1,"#)).collect()
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
            (r#"{"request_id":7.5,"text":"a","image":{"base64":""}}"#, "invalid_field", "request_id"),
            (r#"{"request_id":"a","request_id":"b"}"#, "invalid_field", "request_id"),
            (r#"{"request_id":"a","text":["","","",""]}"#, "text_too_long", "texts_max"),
            (r#"{"request_id":"a","text":"it is longer than forty characters, by a few"}"#, "text_too_long", "40"),
            (
                r#"{"request_id":"a","attributes":{"role":"user","r\u006fle":"admin"}}"#,
                "invalid_field",
                "attributes.role",
            ),
            (r#"{"request_id":"a","attributes":{"a":1,"b":2,"c":3,"d":4,"e":5}}"#, "invalid_field", "attributes_max"),
            (r#"{"request_id":"a","attributes":{"a":"seventeen letters"}}"#, "invalid_field", "attribute_bytes_max"),
            (r#"{"request_id":"a","attributes":{"seventeen letters":1}}"#, "invalid_field", "attribute_bytes_max"),
            (r#"{"request_id":"a","image":{"base64":"","base64":""}}"#, "invalid_field", "image.base64"),
            (r#"{"request_id":"a","image":["AAAA"]}"#, "invalid_field", "object with one of"),
            ("null", "invalid_field", "a JSON object"),
            (r#"{"request_id":"a","text":7,"image":{"base64":""}}"#, "invalid_field", "list of strings"),
            (r#"{"request_id":"a","text":[],"image":{"base64":""}}"#, "invalid_field", "at least one"),
            (r#"{"request_id":"a","text":"a","image":{"file":"x"}}"#, "invalid_field", "image"),
            (
                r#"{"request_id":"a","text":"a","image":"/9j/4AAQ, expected by nobody"}"#,
                "invalid_field",
                "invalid type: string, expected an object with one of",
            ),
            (r#"{"request_id":"a","text":"a","image":{}}"#, "image_source_missing", "base64"),
            (r#"{"request_id":"a","text":"a","image":{"url":"u","path":"p"}}"#, "image_source_conflict", "exactly one"),
            (
                r#"{"request_id":"a","text":"a","image":{"path":"p"},"attributes":{"k":[1]}}"#,
                "invalid_field",
                "attributes.k",
            ),
            (r#"{"request_id":"a","text":"a","image":{"path":"p"}} x"#, "malformed_json", "trailing"),
            (r#"["a","b",null,{"path":"p"}]"#, "invalid_field", "a JSON object"),
            ("7", "invalid_field", "the value"),
        ];
        for (json, code, words) in cases {
            let error = read(json).unwrap_err();
            assert_eq!(error.code(), code, "{json}: {error}");
            assert!(error.to_string().contains(words), "{json}: {error}");
        }
    }
}
