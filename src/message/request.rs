//! What producers publish: one image, one text or several, and the attributes that routing reads.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
