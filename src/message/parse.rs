//! Reads the JSON of a request within bounds.
//!
//! serde's derived readers buffer a value before anybody can look at its size, and an empty text in a list of a million
//! takes 24 bytes for each 3 in the record. These readers count while they read, and stop at the first item too many.

mod attributes;
mod nesting;

use std::{cell::RefCell, fmt};

use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use self::attributes::AttributesSeed;
use super::{
    request::{Attributes, ImageSource, Request, RequestError, Texts},
    sniff,
};

/// Bounds of a request, held while it is parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestBounds {
    /// Texts in a list.
    pub texts_max: usize,
    /// Characters of each text and of the caption.
    pub text_characters_max: usize,
    /// Attributes.
    pub attributes_max: usize,
    /// Bytes of an attribute's name, and of its value where it is a string.
    pub attribute_bytes_max: usize,
    /// Arrays and objects inside one another, also in fields that are not read.
    pub nesting_max: usize,
    /// Headers of the record.
    pub headers_max: usize,
}

impl RequestBounds {
    /// No bounds, for files that their owner reads.
    pub const NONE: Self = Self {
        texts_max: usize::MAX,
        text_characters_max: usize::MAX,
        attributes_max: usize::MAX,
        attribute_bytes_max: usize::MAX,
        nesting_max: usize::MAX,
        headers_max: usize::MAX,
    };
}

/// Reads a request's JSON.
///
/// # Errors
/// The first thing wrong with it, named by its place.
pub(super) fn request(payload: &[u8], bounds: &RequestBounds) -> Result<Request, RequestError> {
    if payload.is_empty() {
        return Err(RequestError::EmptyPayload);
    }
    let json = sniff::json(payload).map_err(RequestError::MalformedJson)?;
    check_nesting("the value", json, bounds)?;
    let context = Context { bounds, refusal: RefCell::new(None) };
    let mut reader = serde_json::Deserializer::from_slice(json);
    let request = context.read(&mut reader, RequestSeed(&context))?;
    reader.end().map_err(|error| RequestError::MalformedJson(error.to_string()))?;
    Ok(request)
}

/// Reads attributes that stand in a header.
pub(super) fn attributes(json: &str, bounds: &RequestBounds) -> Result<Attributes, RequestError> {
    check_nesting("attributes", json.as_bytes(), bounds)?;
    let context = Context { bounds, refusal: RefCell::new(None) };
    let mut reader = serde_json::Deserializer::from_str(json);
    let attributes = context.read(&mut reader, AttributesSeed(&context))?;
    reader.end().map_err(|error| RequestError::MalformedJson(error.to_string()))?;
    Ok(attributes)
}

fn check_nesting(field: &str, json: &[u8], bounds: &RequestBounds) -> Result<(), RequestError> {
    let nesting_max = bounds.nesting_max;
    // Bytes that are no object are refused at their first one, and their brackets mean nothing.
    let is_object = json.trim_ascii_start().starts_with(b"{");
    if !is_object || !nesting::is_deeper_than(json, nesting_max) {
        return Ok(());
    }
    let reason = format!("is nested deeper than {nesting_max}, which `requests.nesting_max` allows");
    Err(RequestError::InvalidField { field: field.to_owned(), reason })
}

/// Checks a text against its bound, which its parser does for JSON.
pub(super) fn check_text(field: &'static str, text: &str, bounds: &RequestBounds) -> Result<(), RequestError> {
    let RequestBounds { text_characters_max, .. } = *bounds;
    // A character has at least one byte, so short texts need no count.
    if text.len() <= text_characters_max {
        return Ok(());
    }
    let length = text.chars().count();
    if length <= text_characters_max {
        return Ok(());
    }
    let reason = format!("has {length} characters, `requests.text_characters_max` allows {text_characters_max}");
    Err(RequestError::TextTooLong { field, reason })
}

pub(super) fn too_many_texts(bounds: &RequestBounds) -> RequestError {
    let reason = format!("is a list of more than {}, which `requests.texts_max` allows", bounds.texts_max);
    RequestError::TextTooLong { field: "text", reason }
}

/// What all readers of one request share.
struct Context<'b> {
    bounds: &'b RequestBounds,
    /// Why a reader stopped. serde's errors are texts, which cannot carry a code.
    refusal: RefCell<Option<RequestError>>,
}

impl Context<'_> {
    fn read<'de, S, R>(&self, reader: &mut serde_json::Deserializer<R>, seed: S) -> Result<S::Value, RequestError>
    where
        S: DeserializeSeed<'de>,
        R: serde_json::de::Read<'de>,
    {
        let mut track = serde_path_to_error::Track::new();
        let read = seed.deserialize(serde_path_to_error::Deserializer::new(reader, &mut track));
        read.map_err(|error| {
            let refusal = self.refusal.take();
            refusal.unwrap_or_else(|| json_error(&track.path().to_string(), &error))
        })
    }

    /// Stops reading.
    fn refuse<E: de::Error>(&self, refusal: RequestError) -> E {
        let error = E::custom(&refusal);
        self.refusal.replace(Some(refusal));
        error
    }

    fn invalid<E: de::Error>(&self, field: impl Into<String>, reason: impl Into<String>) -> E {
        self.refuse(RequestError::InvalidField { field: field.into(), reason: reason.into() })
    }

    fn missing<E: de::Error>(&self, field: &str) -> E {
        self.refuse(RequestError::MissingField(format!("missing field `{field}`")))
    }

    fn once<T, E: de::Error>(&self, field: &'static str, seen: &Option<T>) -> Result<(), E> {
        match seen {
            None => Ok(()),
            Some(_) => Err(self.invalid(field, "is there twice: write it once")),
        }
    }
}

fn json_error(path: &str, error: &serde_json::Error) -> RequestError {
    if !error.is_data() {
        return RequestError::MalformedJson(error.to_string());
    }
    let field = if path == "." { "the value".to_owned() } else { path.to_owned() };
    RequestError::InvalidField { field, reason: without_value(&error.to_string()) }
}

/// serde quotes the value that it did not expect, which may be a whole image: only its kind is kept.
fn without_value(reason: &str) -> String {
    let (found, expected) = reason.rsplit_once(", expected ").unwrap_or((reason, "something else"));
    let kind = found.split(['"', '`']).next().unwrap_or_default().trim_end();
    format!("{kind}, expected {expected}")
}

struct RequestSeed<'c>(&'c Context<'c>);

impl<'de> DeserializeSeed<'de> for RequestSeed<'_> {
    type Value = Request;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Request, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for RequestSeed<'_> {
    type Value = Request;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object with `request_id`, `text` and `image`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Request, A::Error> {
        let context = self.0;
        let (mut request_id, mut text, mut caption) = (None, None, None);
        let (mut image, mut attributes, mut model_version) = (None, None, None);

        while let Some(name) = fields.next_key_seed(NameSeed)? {
            match name {
                Name::RequestId => {
                    context.once("request_id", &request_id)?;
                    request_id = Some(fields.next_value_seed(IdSeed)?);
                }
                Name::Text => {
                    context.once("text", &text)?;
                    text = Some(fields.next_value_seed(TextsSeed(context))?);
                }
                Name::Caption => {
                    context.once("caption", &caption)?;
                    caption = Some(fields.next_value_seed(CaptionSeed(context))?);
                }
                Name::Image => {
                    context.once("image", &image)?;
                    image = Some(fields.next_value_seed(ImageSeed(context))?);
                }
                Name::Attributes => {
                    context.once("attributes", &attributes)?;
                    attributes = Some(fields.next_value_seed(AttributesSeed(context))?);
                }
                Name::ModelVersion => {
                    context.once("model_version", &model_version)?;
                    model_version = Some(fields.next_value::<Option<String>>()?);
                }
                Name::Other => {
                    fields.next_value::<IgnoredAny>()?;
                }
            }
        }

        Ok(Request {
            request_id: request_id.ok_or_else(|| context.missing("request_id"))?,
            text: text.ok_or_else(|| context.missing("text"))?,
            caption: caption.flatten(),
            image: image.ok_or_else(|| context.missing("image"))?,
            attributes: attributes.unwrap_or_default(),
            model_version: model_version.flatten(),
        })
    }
}

/// A field of a request.
enum Name {
    RequestId,
    Text,
    Caption,
    Image,
    Attributes,
    ModelVersion,
    Other,
}

struct NameSeed;

impl<'de> DeserializeSeed<'de> for NameSeed {
    type Value = Name;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Name, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for NameSeed {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Name, E> {
        Ok(match name {
            "request_id" => Name::RequestId,
            "text" => Name::Text,
            "caption" => Name::Caption,
            "image" => Name::Image,
            "attributes" => Name::Attributes,
            "model_version" => Name::ModelVersion,
            _ => Name::Other,
        })
    }
}

/// An id: a string, or a whole number, whose digits are taken.
struct IdSeed;

impl<'de> DeserializeSeed<'de> for IdSeed {
    type Value = String;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for IdSeed {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a whole number of 64 bits")
    }

    fn visit_str<E>(self, id: &str) -> Result<String, E> {
        Ok(id.to_owned())
    }

    fn visit_u64<E>(self, id: u64) -> Result<String, E> {
        Ok(id.to_string())
    }

    fn visit_i64<E>(self, id: i64) -> Result<String, E> {
        Ok(id.to_string())
    }
}

/// One text of a request.
struct TextSeed<'c>(&'c Context<'c>);

impl<'de> DeserializeSeed<'de> for TextSeed<'_> {
    type Value = String;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for TextSeed<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        check_text("text", text, self.0.bounds).map_err(|refusal| self.0.refuse(refusal))?;
        Ok(text.to_owned())
    }
}

struct TextsSeed<'c>(&'c Context<'c>);

impl<'de> DeserializeSeed<'de> for TextsSeed<'_> {
    type Value = Texts;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Texts, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TextsSeed<'_> {
    type Value = Texts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of strings")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Texts, E> {
        TextSeed(self.0).visit_str(text).map(Texts::One)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Texts, A::Error> {
        let mut texts = Vec::new();
        while let Some(text) = items.next_element_seed(TextSeed(self.0))? {
            if texts.len() >= self.0.bounds.texts_max {
                return Err(self.0.refuse(too_many_texts(self.0.bounds)));
            }
            texts.push(text);
        }
        Ok(Texts::Many(texts))
    }
}

struct CaptionSeed<'c>(&'c Context<'c>);

impl<'de> DeserializeSeed<'de> for CaptionSeed<'_> {
    type Value = Option<String>;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Option<String>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for CaptionSeed<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or null")
    }

    fn visit_unit<E>(self) -> Result<Option<String>, E> {
        Ok(None)
    }

    fn visit_str<E: de::Error>(self, caption: &str) -> Result<Option<String>, E> {
        check_text("caption", caption, self.0.bounds).map_err(|refusal| self.0.refuse(refusal))?;
        Ok(Some(caption.to_owned()))
    }
}

struct ImageSeed<'c>(&'c Context<'c>);

impl<'de> DeserializeSeed<'de> for ImageSeed<'_> {
    type Value = ImageSource;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<ImageSource, D::Error> {
        // Not as a struct: serde would read an array field by field, which no producer means.
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ImageSeed<'_> {
    type Value = ImageSource;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with one of `base64`, `url` and `path`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<ImageSource, A::Error> {
        let context = self.0;
        let (mut base64, mut url, mut path) = (None, None, None);

        while let Some(name) = fields.next_key::<String>()? {
            let (field, place) = match name.as_str() {
                "base64" => ("image.base64", &mut base64),
                "url" => ("image.url", &mut url),
                "path" => ("image.path", &mut path),
                _ => return Err(context.invalid("image", "has an unknown field: it takes `base64`, `url` or `path`")),
            };
            context.once(field, place)?;
            *place = Some(fields.next_value::<Option<String>>()?);
        }

        Ok(ImageSource { base64: base64.flatten(), url: url.flatten(), path: path.flatten() })
    }
}
