//! Requests whose value is the image itself: no base64, which costs a third more bytes. Everything else is in headers.

use super::{
    Header, Record,
    headers::header,
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
pub(super) fn read(record: &Record) -> Result<Request, RequestError> {
    let kind = content_type(record).unwrap_or_default();
    let invalid = |field: &str, reason: String| RequestError::InvalidField { field: format!("header {field}"), reason };
    if !IMAGE_TYPES.contains(&kind.as_str()) {
        return Err(invalid(CONTENT_TYPE, format!("expected one of {}", IMAGE_TYPES.join(", "))));
    }
    if record.payload.as_ref().is_none_or(Vec::is_empty) {
        return Err(RequestError::EmptyPayload);
    }
    let mut texts = Vec::new();
    for (_, value) in record.headers.iter().filter(|(name, _)| name == TEXT) {
        let text = std::str::from_utf8(value.as_deref().unwrap_or_default());
        texts.push(text.map_err(|_| invalid(TEXT, "is not UTF-8".to_owned()))?.to_owned());
    }
    let text = match texts.len() {
        0 => return Err(RequestError::MissingField(format!("missing header `{TEXT}`"))),
        1 => Texts::One(texts.remove(0)),
        _ => Texts::Many(texts),
    };
    let attributes = match present(&record.headers, ATTRIBUTES) {
        None => Attributes::new(),
        Some(json) => {
            let json = json.ok_or_else(|| invalid(ATTRIBUTES, "is not UTF-8".to_owned()))?;
            let expected = "expected a JSON object of strings, numbers, true, false and null";
            serde_json::from_str(json).map_err(|_| invalid(ATTRIBUTES, expected.to_owned()))?
        }
    };
    let own_id = || format!("{}-{}-{}", record.topic, record.partition, record.offset);
    Ok(Request {
        request_id: header(&record.headers, REQUEST_ID).map_or_else(own_id, str::to_owned),
        text,
        caption: header(&record.headers, CAPTION).map(str::to_owned),
        image: ImageSource::default(),
        attributes,
        model_version: header(&record.headers, MODEL_VERSION).map(str::to_owned),
    })
}

/// A header that is there, and its text where it is text.
fn present<'h>(headers: &'h [Header], name: &str) -> Option<Option<&'h str>> {
    headers.iter().any(|(known, _)| known == name).then(|| header(headers, name))
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
        let request = Request::from_record(&record(&headers)).unwrap();
        assert_eq!((request.request_id.as_str(), request.text.as_slice().len()), ("r1", 2));
        assert_eq!((request.caption.as_deref(), request.attributes.len()), (Some("pets"), 3));
        assert_eq!(request.model_version.as_deref(), Some("v"));
        let least = Request::from_record(&record(&[("content-type", "image/png"), (TEXT, "a dog")])).unwrap();
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
            (&[image, (TEXT, "a"), (ATTRIBUTES, r#"{"a": [1]}"#)], "invalid_field", "JSON object"),
            (&[image, (TEXT, "a"), (REQUEST_ID, &long)], "invalid_field", "256"),
        ];
        for (headers, code, words) in cases {
            let error = Request::from_record(&record(headers)).unwrap_err();
            assert_eq!(error.code(), code, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
        let empty = Record { payload: None, ..record(&[image, (TEXT, "a")]) };
        assert_eq!(Request::from_record(&empty).unwrap_err().code(), "empty_payload");
    }
}
