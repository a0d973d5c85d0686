//! How deep a JSON text is nested, without parsing it.

use memchr::memchr2;

/// Whether arrays and objects stand inside one another deeper than this. Counts brackets outside of strings.
pub(super) fn is_deeper_than(json: &[u8], nesting_max: usize) -> bool {
    let mut depth = 0_usize;
    let mut rest = json;

    while let [first, behind @ ..] = rest {
        rest = behind;
        match first {
            b'"' => rest = behind_string(behind),
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > nesting_max {
            return true;
        }
    }
    false
}

/// What comes after a string, from behind its opening quote.
fn behind_string(mut text: &[u8]) -> &[u8] {
    while let Some(at) = memchr2(b'"', b'\\', text) {
        if text[at] == b'"' {
            return &text[at + 1..];
        }
        // The escaped character may be a quote.
        text = text.get(at + 2..).unwrap_or_default();
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_are_counted_outside_of_strings() {
        let cases = [
            ("", 0),
            ("1", 0),
            ("{}", 1),
            (r#"{"a": [1, {"b": []}], "c": {}}"#, 4),
            (r#"{"text": "[[[[ \"{{{{ \\", "more": [1]}"#, 2),
            (r#"["without its end [[["#, 1),
            (r#"["ends with \"#, 1),
            ("[[[", 3),
        ];
        for (json, depth) in cases {
            assert!(!is_deeper_than(json.as_bytes(), depth), "{json}");
            assert!(depth == 0 || is_deeper_than(json.as_bytes(), depth - 1), "{json}");
        }
    }
}
