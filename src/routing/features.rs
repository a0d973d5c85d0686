//! What routing may look at.

use std::{borrow::Cow, fmt};

use jiff::{Timestamp, tz::TimeZone};

use crate::message::{AttributeValue, Attributes};

/// The features of one request.
#[derive(Clone, Copy, Debug)]
pub struct Features<'r> {
    /// The request's id.
    pub request_id: &'r str,
    /// The record key, where it is text.
    pub key: Option<&'r str>,
    /// The texts, at least one.
    pub texts: &'r [String],
    /// The caption, where there is one.
    pub caption: Option<&'r str>,
    /// Characters of the text; of the longest, where there are several.
    pub text_length: usize,
    /// The share of the text's letters that are not Latin, 0 to 1; the highest, where there are several texts.
    pub non_latin_share: f64,
    /// Columns of the upright image.
    pub image_width: u32,
    /// Rows of the upright image.
    pub image_height: u32,
    /// Encoded bytes of the image.
    pub image_bytes: usize,
    /// `jpeg`, `png` or `webp`.
    pub image_format: &'r str,
    /// The record's own time in milliseconds since 1970, where it has one. Never this machine's clock, so that a record
    /// that is read again goes the same way.
    pub time_ms: Option<i64>,
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
    /// Several texts, of which any may do.
    Texts(&'r [String]),
    Flag(bool),
    Time(Timestamp),
}

/// Longest text that an explanation repeats, in characters.
const SHOWN_MAX: usize = 40;

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |f: &mut fmt::Formatter<'_>, text: &str| {
            let shown: String = text.chars().take(SHOWN_MAX).collect();
            write!(f, "'{shown}{}'", if shown.len() < text.len() { "…" } else { "" })
        };
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Time(time) => write!(f, "{time}"),
            Self::Text(text) => quoted(f, text),
            Self::Texts(texts) => texts.iter().enumerate().try_for_each(|(index, text)| {
                f.write_str(if index == 0 { "" } else { ", " })?;
                quoted(f, text)
            }),
        }
    }
}

/// What values a feature has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Number,
    Text,
    Time,
}

/// A feature that this program knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    RequestId,
    Key,
    Text,
    Caption,
    TextLength,
    NonLatinShare,
    ImageWidth,
    ImageHeight,
    ImageResolution,
    ImageBytes,
    ImageFormat,
    Time,
}

impl Known {
    /// Names, and what values they have. The hour and the day of the week have a time zone, so they are apart.
    pub(super) const ALL: [(&'static str, Self, Kind); 12] = [
        ("request_id", Self::RequestId, Kind::Text),
        ("key", Self::Key, Kind::Text),
        ("text", Self::Text, Kind::Text),
        ("caption", Self::Caption, Kind::Text),
        ("text_length", Self::TextLength, Kind::Number),
        ("non_latin_share", Self::NonLatinShare, Kind::Number),
        ("image_width", Self::ImageWidth, Kind::Number),
        ("image_height", Self::ImageHeight, Kind::Number),
        ("image_resolution", Self::ImageResolution, Kind::Number),
        ("image_bytes", Self::ImageBytes, Kind::Number),
        ("image_format", Self::ImageFormat, Kind::Text),
        ("time", Self::Time, Kind::Time),
    ];
}

/// A feature that a condition names.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Field {
    Known(Known),
    Attribute(String),
    /// The hour of the record's time, 0 to 23, in a time zone.
    Hour(TimeZone),
    /// The day of the week of the record's time in a time zone, `mon` to `sun`.
    Weekday(TimeZone),
}

/// Formats of images, as requests and conditions spell them.
pub(super) const FORMATS: [&str; 3] = ["jpeg", "png", "webp"];

/// Days as conditions spell them, from Monday on.
pub(super) const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl Field {
    /// What is missing where it has no value: the name of the attribute, or of the feature it is made from.
    pub(super) fn source(&self) -> &str {
        match self {
            Self::Attribute(name) => name,
            Self::Hour(_) | Self::Weekday(_) => "time",
            Self::Known(known) => {
                Known::ALL.iter().find(|(_, candidate, _)| candidate == known).map_or("", |(name, ..)| name)
            }
        }
    }

    /// None for an attribute, which may be anything.
    pub(super) fn kind(&self) -> Option<Kind> {
        match self {
            Self::Attribute(_) => None,
            Self::Hour(_) => Some(Kind::Number),
            Self::Weekday(_) => Some(Kind::Text),
            Self::Known(known) => {
                Known::ALL.iter().find(|(_, candidate, _)| candidate == known).map(|(.., kind)| *kind)
            }
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let in_zone = |f: &mut fmt::Formatter<'_>, name: &str, zone: &TimeZone| {
            write!(f, "{name}('{}')", zone.iana_name().unwrap_or("UTC"))
        };
        match self {
            Self::Attribute(name) => attribute(f, name),
            Self::Hour(zone) => in_zone(f, "hour", zone),
            Self::Weekday(zone) => in_zone(f, "weekday", zone),
            Self::Known(_) => f.write_str(self.source()),
        }
    }
}

impl<'r> Features<'r> {
    /// None where the request does not have it.
    pub(super) fn get(&self, field: &Field) -> Option<Value<'r>> {
        let known = match field {
            Field::Attribute(name) => return self.attribute(name),
            Field::Hour(zone) => return Some(Value::Number(zone.to_datetime(self.time()?).hour().into())),
            Field::Weekday(zone) => {
                let day = zone.to_datetime(self.time()?).weekday().to_monday_zero_offset();
                return WEEKDAYS.get(usize::try_from(day).ok()?).map(|name| Value::Text(name));
            }
            Field::Known(known) => known,
        };
        Some(match known {
            Known::RequestId => Value::Text(self.request_id),
            Known::Key => Value::Text(self.key?),
            Known::Text => Value::Texts(self.texts),
            Known::Caption => Value::Text(self.caption?),
            Known::ImageFormat => Value::Text(self.image_format),
            Known::TextLength => Value::Number(self.text_length as f64),
            Known::NonLatinShare => Value::Number(self.non_latin_share),
            Known::ImageWidth => Value::Number(self.image_width.into()),
            Known::ImageHeight => Value::Number(self.image_height.into()),
            Known::ImageResolution => Value::Number(self.image_width.max(self.image_height).into()),
            Known::ImageBytes => Value::Number(self.image_bytes as f64),
            Known::Time => Value::Time(self.time()?),
        })
    }

    /// The record's time, where it has one that a calendar can tell.
    pub(super) fn time(&self) -> Option<Timestamp> {
        Timestamp::from_millisecond(self.time_ms?).ok()
    }

    fn attribute(&self, name: &str) -> Option<Value<'r>> {
        Some(match self.attributes.get(name)?.as_ref()? {
            AttributeValue::Flag(flag) => Value::Flag(*flag),
            AttributeValue::Number(number) => Value::Number(*number),
            AttributeValue::Text(text) => Value::Text(text),
        })
    }
}

/// The known feature, if any, that somebody who wrote `name` may have meant.
pub(super) fn resembled(name: &str) -> Option<&'static str> {
    // A short name such as `tier` would be near to half of them.
    let distance_max = if name.len() <= 5 { 1 } else { 2 };
    let known = Known::ALL.iter().map(|(name, ..)| *name).chain(IN_ZONES);
    known.filter(|known| known.len() > 3).find(|known| strsim::damerau_levenshtein(known, name) <= distance_max)
}

/// Functions of the record's time; without an argument in UTC.
pub(super) const IN_ZONES: [&str; 2] = ["hour", "weekday"];

/// What an experiment hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unit {
    /// The request's id.
    RequestId,
    /// The record key.
    Key,
    /// An attribute: text, a whole number as its digits, or a flag as `true` or `false`.
    Attribute(String),
}

/// Whole numbers from this one on, 2^53, are not distinct in the 64-bit floats that JSON numbers are read as.
pub(super) const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

impl Unit {
    /// Reads `request_id`, `key` or an attribute's name, with or without `attributes.` before it.
    ///
    /// # Errors
    /// When it is no name, or looks like a slip in one that is known.
    pub fn from_name(name: &str) -> Result<Self, String> {
        match (name, name.strip_prefix("attributes.")) {
            ("request_id", _) => Ok(Self::RequestId),
            ("key", _) => Ok(Self::Key),
            ("", _) | (_, Some("")) => Err("is empty: write request_id, key or an attribute's name".to_owned()),
            (_, Some(attribute)) => Ok(Self::Attribute(attribute.to_owned())),
            _ if name.starts_with("attributes[") => {
                let inside = name.strip_prefix("attributes[").and_then(|rest| rest.strip_suffix(']'));
                let quoted = ['\'', '"'].into_iter().find_map(|it| inside?.strip_prefix(it)?.strip_suffix(it));
                match quoted.filter(|attribute| !attribute.is_empty()) {
                    Some(attribute) => Ok(Self::Attribute(attribute.to_owned())),
                    None => Err(format!("`{name}` is no name: write attributes['user-id']")),
                }
            }
            (_, None) => match resembled(name) {
                Some(known) if known == name => Err(format!(
                    "`{name}` is no unit: write request_id, key or an attribute's name; `attributes.{name}` for an attribute \
                     that is called so"
                )),
                Some(known) => Err(format!(
                    "`{name}` is close to `{known}`: write `attributes.{name}` for an attribute that is called so"
                )),
                None => Ok(Self::Attribute(name.to_owned())),
            },
        }
    }

    /// The unit's value; none when it is missing or empty, because hashing nothing would put every
    /// such request into one variant.
    pub fn of<'r>(&self, features: &Features<'r>) -> Option<Cow<'r, str>> {
        let value = match self {
            Self::RequestId => Cow::Borrowed(features.request_id),
            Self::Key => Cow::Borrowed(features.key?),
            Self::Attribute(name) => match features.attribute(name)? {
                Value::Text(text) => Cow::Borrowed(text),
                Value::Flag(flag) => Cow::Borrowed(if flag { "true" } else { "false" }),
                Value::Number(number) if number.fract() == 0.0 && number.abs() < WHOLE_MAX => {
                    Cow::Owned(format!("{}", number as i64))
                }
                _ => return None,
            },
        };
        Some(value).filter(|value| !value.is_empty())
    }

    /// Why there is no value, for people.
    pub(super) fn lack(&self, features: &Features<'_>) -> String {
        match self {
            Self::Attribute(name) => match features.attribute(name) {
                Some(Value::Number(number)) => {
                    format!("{self} is {number}, and only whole numbers below 2^53 are told apart: send it as text")
                }
                _ => format!("{self} is missing or empty"),
            },
            _ => format!("{self} is missing or empty"),
        }
    }

    /// Its name, without `attributes.` before it.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::RequestId => "request_id",
            Self::Key => "key",
            Self::Attribute(name) => name,
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RequestId => f.write_str("request_id"),
            Self::Key => f.write_str("key"),
            Self::Attribute(name) => attribute(f, name),
        }
    }
}

/// An attribute as conditions write it.
fn attribute(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    if name.chars().all(|character| character.is_ascii_alphanumeric() || character == '_') {
        write!(f, "attributes.{name}")
    } else {
        write!(f, "attributes['{name}']")
    }
}
