//! Requests whose value is the image itself: no base64, which costs a third more bytes. Everything else is in headers.

use super::{
    Record,
    parse::{self, RequestBounds},
    request::{Attributes, ImageSource, Request, RequestError, Texts},
};

/// The headers of a request whose value is an image.
pub const CONTENT_TYPE: &str = "content-type";
/// The request's id; without it, the id is made of topic, partition and offset.
pub const REQUEST_ID: &str = "ofa-request-id";
/// A text; several of them are a list of texts.
pub const TEXT: &str = "ofa-text";
/// The premise in words.
pub const CAPTION: &str = "ofa-caption";
/// Attributes, as a JSON object.
pub const ATTRIBUTES: &str = "ofa-attributes";
/// The version that is asked for.
pub const MODEL_VERSION: &str = "ofa-model-version";

const IMAGE_TYPES: [&str; 3] = ["image/jpeg", "image/png", "image/webp"];

/// Whether a record's value is an image, by its content type. An unknown image type is said to be one too: it is no JSON,
/// and what is wrong with it is its type.
pub(super) fn is_binary(record: &Record) -> bool {
    content_type(record).is_some_and(|kind| kind.starts_with("image/"))
}

fn content_type(record: &Record) -> Option<String> {
    let found = record.headers.iter().rev().find(|(name, _)| name.eq_ignore_ascii_case(CONTENT_TYPE))?;
    let text = std::str::from_utf8(found.1.as_deref()?).ok()?;
    Some(text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// Reads a request from a record whose value is an image. Its `image` names no source: the value is it.
pub(super) fn read(record: &Record, bounds: &RequestBounds) -> Result<Request, RequestError> {
    let kind = content_type(record).unwrap_or_default();
    if !IMAGE_TYPES.contains(&kind.as_str()) {
        return Err(invalid(CONTENT_TYPE, format!("expected one of {}", IMAGE_TYPES.join(", "))));
    }
    if record.payload.as_ref().is_none_or(Vec::is_empty) {
        return Err(RequestError::EmptyPayload);
    }

    let own_id = || format!("{}-{}-{}", record.topic, record.partition, record.offset);
    let caption = single(record, CAPTION)?.map(str::to_owned);
    if let Some(caption) = &caption {
        parse::check_text("caption", caption, bounds)?;
    }
    Ok(Request {
        request_id: single(record, REQUEST_ID)?.map_or_else(own_id, str::to_owned),
        text: texts(record, bounds)?,
        caption,
        image: ImageSource::default(),
        attributes: attributes(record, bounds)?,
        model_version: single(record, MODEL_VERSION)?.map(str::to_owned),
    })
}

fn texts(record: &Record, bounds: &RequestBounds) -> Result<Texts, RequestError> {
    let mut texts = Vec::new();
    for (_, value) in record.headers.iter().filter(|(name, _)| name == TEXT) {
        if texts.len() >= bounds.texts_max {
            return Err(parse::too_many_texts(bounds));
        }
        let text = utf8(TEXT, value.as_deref())?;
        parse::check_text("text", text, bounds)?;
        texts.push(text.to_owned());
    }
    match texts.len() {
        0 => Err(RequestError::MissingField(format!("missing header `{TEXT}`"))),
        1 => Ok(Texts::One(texts.remove(0))),
        _ => Ok(Texts::Many(texts)),
    }
}

fn attributes(record: &Record, bounds: &RequestBounds) -> Result<Attributes, RequestError> {
    let Some(json) = single(record, ATTRIBUTES)? else { return Ok(Attributes::new()) };
    parse::attributes(json, bounds).map_err(|error| match error {
        RequestError::InvalidField { field, reason } if field != "the value" => {
            invalid(ATTRIBUTES, format!("`{field}` {reason}"))
        }
        RequestError::InvalidField { reason, .. } => invalid(ATTRIBUTES, reason),
        _ => invalid(ATTRIBUTES, "expected a JSON object of strings, numbers, true, false and null".to_owned()),
    })
}

/// A header that may be there once. One that is there and cannot be read is never taken for one that is absent: the request
/// would be another question.
fn single<'r>(record: &'r Record, name: &str) -> Result<Option<&'r str>, RequestError> {
    let mut values = record.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_deref());
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(invalid(name, "is there twice: write it once".to_owned()));
    }
    utf8(name, value).map(Some)
}

fn utf8<'r>(name: &str, value: Option<&'r [u8]>) -> Result<&'r str, RequestError> {
    let value = value.ok_or_else(|| invalid(name, "has no value: leave the header out, or give it one".to_owned()))?;
    std::str::from_utf8(value).map_err(|_| invalid(name, "is not UTF-8".to_owned()))
}

fn invalid(header: &str, reason: String) -> RequestError {
    RequestError::InvalidField { field: format!("header {header}"), reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::headers::text_header;

    fn record(headers: &[(&str, &str)]) -> Record {
        Record {
            topic: "in".to_owned(),
            partition: 3,
            offset: 41,
            payload: Some(vec![0xff, 0xd8]),
            headers: headers.iter().map(|(name, value)| text_header(name, *value)).collect(),
            ..Record::default()
        }
    }

    #[test]
    fn an_image_with_headers_is_a_request() {
        let headers = [
            ("Content-Type", "image/JPEG; q=1"),
            (REQUEST_ID, "r1"),
            (TEXT, "a dog"),
            (TEXT, "a cat"),
            (CAPTION, "pets"),
            (ATTRIBUTES, r#"{"age": 3, "vip": true, "region": null}"#),
            (MODEL_VERSION, "v"),
        ];
        let request = Request::from_record(&record(&headers), &RequestBounds::NONE).unwrap();
        assert_eq!((request.request_id.as_str(), request.text.as_slice().len()), ("r1", 2));
        assert_eq!((request.caption.as_deref(), request.attributes.len()), (Some("pets"), 3));
        assert_eq!(request.model_version.as_deref(), Some("v"));
        let least =
            Request::from_record(&record(&[("content-type", "image/png"), (TEXT, "a dog")]), &RequestBounds::NONE)
                .unwrap();
        assert_eq!((least.request_id.as_str(), least.text.as_slice()), ("in-3-41", &["a dog".to_owned()][..]));
    }

    #[test]
    fn every_fault_names_its_header() {
        let image = ("content-type", "image/png");
        let long = "x".repeat(300);
        type Headers<'h> = &'h [(&'h str, &'h str)];
        let cases: [(Headers<'_>, &str, &str); 5] = [
            (&[image], "missing_field", TEXT),
            (&[("content-type", "image/tiff"), (TEXT, "a")], "invalid_field", "image/webp"),
            (&[image, (TEXT, "a"), (ATTRIBUTES, "[1]")], "invalid_field", ATTRIBUTES),
            (&[image, (TEXT, "a"), (ATTRIBUTES, r#"{"a": [1]}"#)], "invalid_field", "attributes.a"),
            (&[image, (TEXT, "a"), (REQUEST_ID, &long)], "invalid_field", "256"),
        ];
        for (headers, code, words) in cases {
            let error = Request::from_record(&record(headers), &RequestBounds::NONE).unwrap_err();
            assert_eq!(error.code(), code, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
        let broken = [REQUEST_ID, TEXT, CAPTION, ATTRIBUTES, MODEL_VERSION];
        for (name, value) in broken.iter().flat_map(|name| [(name, None), (name, Some(vec![0xff, b'1']))]) {
            let mut record = record(&[image]);
            record.headers.push(((*name).to_owned(), value));
            if *name != TEXT {
                record.headers.push(text_header(TEXT, "a"));
            }
            let error = Request::from_record(&record, &RequestBounds::NONE).unwrap_err();
            assert!(error.code() == "invalid_field" && error.to_string().contains(name), "{error}");
        }
        for name in [REQUEST_ID, CAPTION, ATTRIBUTES, MODEL_VERSION] {
            let twice = record(&[image, (TEXT, "a"), (name, "{}"), (name, "{}")]);
            let error = Request::from_record(&twice, &RequestBounds::NONE).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("twice"), "{error}");
        }
        let empty = Record { payload: None, ..record(&[image, (TEXT, "a")]) };
        assert_eq!(Request::from_record(&empty, &RequestBounds::NONE).unwrap_err().code(), "empty_payload");
    }
}
