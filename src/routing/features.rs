//! What routing may look at.

use std::fmt;

use crate::message::{AttributeValue, Attributes};

/// The features of one request.
#[derive(Clone, Copy, Debug)]
pub struct Features<'r> {
    /// The request's id.
    pub request_id: &'r str,
    /// The record key, where it is text.
    pub key: Option<&'r str>,
    /// Characters of the text; of the longest, where there are several.
    pub text_length: usize,
    /// Columns of the upright image.
    pub image_width: u32,
    /// Rows of the upright image.
    pub image_height: u32,
    /// Encoded bytes of the image.
    pub image_bytes: usize,
    /// `jpeg`, `png` or `webp`.
    pub image_format: &'r str,
    /// The request's attributes.
    pub attributes: &'r Attributes,
    /// The version the request asks for.
    pub forced_version: Option<&'r str>,
}

/// A value of a feature.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'r> {
    Number(f64),
    Text(&'r str),
    Flag(bool),
}

/// A feature that every request has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    RequestId,
    TextLength,
    ImageWidth,
    ImageHeight,
    ImageResolution,
    ImageBytes,
    ImageFormat,
}

impl Known {
    pub(super) const ALL: [(&'static str, Self); 7] = [
        ("request_id", Self::RequestId),
        ("text_length", Self::TextLength),
        ("image_width", Self::ImageWidth),
        ("image_height", Self::ImageHeight),
        ("image_resolution", Self::ImageResolution),
        ("image_bytes", Self::ImageBytes),
        ("image_format", Self::ImageFormat),
    ];

    pub(super) fn is_number(self) -> bool {
        !matches!(self, Self::RequestId | Self::ImageFormat)
    }
}

/// A feature that a condition names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Known(Known),
    Attribute(String),
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(known) => {
                f.write_str(Known::ALL.iter().find(|(_, candidate)| candidate == known).map_or("", |(name, _)| name))
            }
            Self::Attribute(name) => write!(f, "attributes.{name}"),
        }
    }
}

impl<'r> Features<'r> {
    pub(super) fn get(&self, field: &Field) -> Option<Value<'r>> {
        let known = match field {
            Field::Attribute(name) => return self.attribute(name),
            Field::Known(known) => known,
        };
        Some(match known {
            Known::RequestId => Value::Text(self.request_id),
            Known::ImageFormat => Value::Text(self.image_format),
            Known::TextLength => Value::Number(self.text_length as f64),
            Known::ImageWidth => Value::Number(self.image_width.into()),
            Known::ImageHeight => Value::Number(self.image_height.into()),
            Known::ImageResolution => Value::Number(self.image_width.max(self.image_height).into()),
            Known::ImageBytes => Value::Number(self.image_bytes as f64),
        })
    }

    fn attribute(&self, name: &str) -> Option<Value<'r>> {
        Some(match self.attributes.get(name)?.as_ref()? {
            AttributeValue::Flag(flag) => Value::Flag(*flag),
            AttributeValue::Number(number) => Value::Number(*number),
            AttributeValue::Text(text) => Value::Text(text),
        })
    }
}

/// What an experiment hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unit {
    /// The request's id.
    RequestId,
    /// The record key.
    Key,
    /// An attribute that is text.
    Attribute(String),
}

impl Unit {
    /// Reads `request_id`, `key` or an attribute's name, with or without `attributes.` before it.
    pub fn from_name(name: &str) -> Self {
        match name {
            "request_id" => Self::RequestId,
            "key" => Self::Key,
            _ => Self::Attribute(name.strip_prefix("attributes.").unwrap_or(name).to_owned()),
        }
    }

    /// The unit's value; none when it is missing or empty, because hashing nothing would put every
    /// such request into one variant.
    pub fn of<'r>(&self, features: &Features<'r>) -> Option<&'r str> {
        let value = match self {
            Self::RequestId => Some(features.request_id),
            Self::Key => features.key,
            Self::Attribute(name) => match features.attribute(name) {
                Some(Value::Text(text)) => Some(text),
                _ => None,
            },
        };
        value.filter(|value| !value.is_empty())
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RequestId => f.write_str("request_id"),
            Self::Key => f.write_str("key"),
            Self::Attribute(name) => write!(f, "attributes.{name}"),
        }
    }
}
