//! Recognizes what a value is that should have been JSON, so that the reason of a refusal names it.

/// The mark that Windows tools write before UTF-8. RFC 8259, section 8.1, lets a reader skip it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Bytes that Schema Registry's serializers put before a value: a zero and a schema's id.
const REGISTRY_BYTES: usize = 5;

/// The JSON of a value, without a byte order mark and without the five bytes of Schema Registry.
///
/// # Errors
/// What the value is instead, and what to do about it.
pub(super) fn json(value: &[u8]) -> Result<&[u8], String> {
    let value = value.strip_prefix(BYTE_ORDER_MARK).unwrap_or(value);
    if value.first() == Some(&0) && value.len() > REGISTRY_BYTES {
        let rest = &value[REGISTRY_BYTES..];
        let rest = rest.strip_prefix(BYTE_ORDER_MARK).unwrap_or(rest);
        if rest.trim_ascii_start().starts_with(b"{") {
            return Ok(rest);
        }
        if value.get(1) != Some(&b'{') {
            let reason = "it begins with the five bytes of Schema Registry, and what follows is not JSON: Avro and \
                          Protobuf are not read; use the JSON serializer, or none";
            return Err(reason.to_owned());
        }
    }
    match kind(value) {
        None => Ok(value),
        Some(kind) => Err(format!("it is {kind}")),
    }
}

/// What a file or value is that is neither JSON nor text as expected, and what to do about it.
pub(crate) fn kind(bytes: &[u8]) -> Option<&'static str> {
    let start = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes).trim_ascii_start();
    let starts_with =
        |tag: &str| start.get(..tag.len()).is_some_and(|found| found.eq_ignore_ascii_case(tag.as_bytes()));
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Some("UTF-16: write UTF-8");
    }
    // JSON begins with an ASCII character, whose other half is zero in UTF-16.
    if matches!(bytes, [0, 1..=127, 0, 1..=127, ..] | [1..=127, 0, 1..=127, 0, ..]) {
        return Some("UTF-16: write UTF-8");
    }
    if start.starts_with(b"version https://git-lfs") {
        return Some("a Git LFS pointer: fetch the file itself with `git lfs pull`");
    }
    if starts_with("<!doctype") || starts_with("<html") || starts_with("<?xml") {
        return Some("a page of HTML or XML, which servers answer instead of a file that they do not have");
    }
    let is_picture = bytes.starts_with(b"\xff\xd8\xff")
        || bytes.starts_with(b"\x89PNG\r\n\x1a\n")
        || (bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP"));
    if is_picture {
        return Some("a picture: add the header `content-type` (image/jpeg, image/png or image/webp) and `ofa-text`");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_and_the_bytes_of_schema_registry_are_skipped() {
        for value in [&b"{}"[..], b"\xef\xbb\xbf{}", b"\0\0\0\0\x07{}", b"\0\0\0\x01\x00\xef\xbb\xbf{}"] {
            assert_eq!(json(value).unwrap(), b"{}");
        }
    }

    #[test]
    fn other_formats_are_named() {
        let utf_16: Vec<u8> = r#"{"request_id":1}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = r#"{"request_id":1}"#.encode_utf16().flat_map(u16::to_be_bytes).collect();
        let marked = [&b"\xff\xfe"[..], &utf_16].concat();
        let cases: [(&[u8], &str); 8] = [
            (&utf_16, "UTF-16"),
            (&big, "UTF-16"),
            (&marked, "UTF-16"),
            (b"\0\0\0\0\x07\x02avro", "Schema Registry"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
            (b"\n<!DOCTYPE html><html>", "HTML"),
            (b"<HTML><body>404", "HTML"),
            (b"\xff\xd8\xff\xe0 picture", "content-type"),
        ];
        for (value, words) in cases {
            let reason = json(value).unwrap_err();
            assert!(reason.contains(words), "{reason}");
        }
    }
}
