//! Reads requests from records, of either form.

use super::{
    Record, binary,
    parse::{self, RequestBounds},
    request::{ImageSource, Request, RequestError},
};

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
    use crate::message::AttributeValue;

    const BOUNDS: RequestBounds = RequestBounds {
        texts_max: 3,
        text_characters_max: 40,
        attributes_max: 4,
        attribute_bytes_max: 16,
        nesting_max: 6,
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
    fn a_value_that_is_nested_too_deep_is_refused_also_in_fields_that_are_not_read() {
        let request = |depth: usize| {
            let nested = "[".repeat(depth) + &"]".repeat(depth);
            let more = r#""text": "a", "image": {"base64": "AAAA"}"#;
            Request::from_json(format!(r#"{{"request_id": "r", "other": {nested}, {more}}}"#).as_bytes(), &BOUNDS)
        };
        request(BOUNDS.nesting_max - 1).unwrap();
        let error = request(BOUNDS.nesting_max).unwrap_err();
        assert_eq!(error.code(), "invalid_field");
        assert!(error.to_string().contains("requests.nesting_max"), "{error}");
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
