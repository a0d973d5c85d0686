//! Images in base64, in every spelling that producers write and that has one meaning.

use std::borrow::Cow;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

const CONFIG: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, CONFIG);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, CONFIG);

/// Writes standard base64.
pub fn encode_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Reads base64: standard or URL-safe, with or without padding and line breaks, also behind the prefix of a data URL
/// (`data:image/jpeg;base64,`).
///
/// # Errors
/// What is wrong with the text, and where.
pub fn decode_base64(text: &str) -> Result<Vec<u8>, String> {
    let text = text.trim_ascii();
    let text = match text.get(..5) {
        Some(scheme) if scheme.eq_ignore_ascii_case("data:") => data_url(text)?,
        _ => text,
    };
    let text: Cow<'_, str> = if text.bytes().any(|byte| byte.is_ascii_whitespace()) {
        text.split_ascii_whitespace().collect::<String>().into()
    } else {
        text.into()
    };
    // Each alphabet refuses the other's two characters, so a text that mixes them is refused.
    let engine = if text.contains(['-', '_']) { URL_SAFE } else { STANDARD };
    engine.decode(text.as_bytes()).map_err(|error| words(&error))
}

/// What follows the comma of a data URL.
fn data_url(url: &str) -> Result<&str, String> {
    let (head, data) = url.split_once(',').ok_or("it is a data URL without a comma")?;
    if head.to_ascii_lowercase().ends_with(";base64") {
        Ok(data)
    } else {
        Err("it is a data URL that is not base64: write `data:image/jpeg;base64,…`".to_owned())
    }
}

fn words(error: &base64::DecodeError) -> String {
    match error {
        base64::DecodeError::InvalidByte(at, byte) => {
            format!("character `{}` at {at} does not belong there", char::from(*byte).escape_default())
        }
        base64::DecodeError::InvalidLength(length) => format!("it is cut off, at {length} characters"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_with_one_meaning_is_read() {
        let bytes = [0xfb_u8, 0xff, 0xfe, 0x00, 0x10];
        let spellings = [
            "+//+ABA=",
            "+//+ABA",
            "-__-ABA=",
            "-__-ABA",
            "+//+\nABA=\n",
            "+//+\r\n ABA=",
            "data:image/png;base64,+//+ABA=",
            "DATA:image/png;charset=x;Base64,-__-ABA",
        ];
        for text in spellings {
            assert_eq!(decode_base64(text).as_deref(), Ok(&bytes[..]), "{text}");
        }
        assert_eq!(decode_base64(&encode_base64(&bytes)).as_deref(), Ok(&bytes[..]));
    }

    #[test]
    fn what_is_no_base64_is_refused_with_its_place() {
        let cases = [
            ("+/_+ABA", "character `+` at 0"),
            ("ab%d", "character `%` at 2"),
            ("AAAAA", "cut off"),
            ("data:image/png,raw", "not base64"),
            ("data:image/png;base64", "comma"),
        ];
        for (text, words) in cases {
            let reason = decode_base64(text).unwrap_err();
            assert!(reason.contains(words), "{text}: {reason}");
        }
    }
}
