//! Which letters a text is written in, and whether it says anything.

use std::sync::LazyLock;

use regex::Regex;

#[expect(clippy::expect_used, reason = "constant patterns, compiled by every test of this file")]
static SAYS_SOMETHING: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"[\p{L}\p{N}\p{So}\p{Sc}]").expect("the pattern compiles"));

/// Whether a text has no letter, digit or symbol: it is empty, or blanks, or punctuation. There is nothing to judge then.
pub fn says_nothing(text: &str) -> bool {
    !SAYS_SOMETHING.is_match(text)
}

/// A script, as far as languages are written in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// English and most languages of Europe.
    Latin,
    /// Russian and others.
    Cyrillic,
    /// Greek.
    Greek,
    /// Arabic, Persian and others.
    Arabic,
    /// Hebrew.
    Hebrew,
    /// Hindi and others.
    Devanagari,
    /// Chinese.
    Han,
    /// Japanese: Han and the two syllabaries.
    Japanese,
    /// Korean: Hangul and Han.
    Korean,
    /// Thai.
    Thai,
}

impl Script {
    /// The script of a language, by its code of ISO 639-1; none where this program does not know it.
    pub fn of_language(code: &str) -> Option<Self> {
        Some(match code {
            "en" | "de" | "fr" | "es" | "it" | "pt" | "nl" | "sv" | "da" | "no" | "fi" | "pl" | "cs" | "sk" | "hu"
            | "ro" | "hr" | "sl" | "et" | "lv" | "lt" | "tr" | "vi" | "id" | "ms" | "sw" | "ca" => Self::Latin,
            "ru" | "uk" | "bg" | "be" | "mk" | "kk" => Self::Cyrillic,
            "el" => Self::Greek,
            "ar" | "fa" | "ur" => Self::Arabic,
            "he" => Self::Hebrew,
            "hi" | "mr" | "ne" => Self::Devanagari,
            "zh" => Self::Han,
            "ja" => Self::Japanese,
            "ko" => Self::Korean,
            "th" => Self::Thai,
            _ => return None,
        })
    }

    /// Whether a letter is one of this script's. Letters of no script, such as the ordinals ª and º, are of each.
    fn has(self, letter: char) -> bool {
        let pattern = &PATTERNS[self as usize];
        let mut buffer = [0; 4];
        pattern.is_match(letter.encode_utf8(&mut buffer))
    }
}

#[expect(clippy::expect_used, reason = "constant patterns, compiled by every test of this file")]
static PATTERNS: LazyLock<[Regex; 10]> = LazyLock::new(|| {
    [
        r"\p{Latin}",
        r"\p{Cyrillic}",
        r"\p{Greek}",
        r"\p{Arabic}",
        r"\p{Hebrew}",
        r"\p{Devanagari}",
        r"\p{Han}",
        r"\p{Han}|\p{Hiragana}|\p{Katakana}",
        r"\p{Hangul}|\p{Han}",
        r"\p{Thai}",
    ]
    .map(|script| Regex::new(&format!(r"^(?:{script}|\p{{Common}}|\p{{Inherited}})$")).expect("the pattern compiles"))
});

/// The share of a text's letters, 0 to 1, that are of none of these scripts; 0 where it has no letters.
pub fn foreign_share(text: &str, scripts: &[Script]) -> f64 {
    let is_latin = scripts.contains(&Script::Latin);
    if is_latin && text.is_ascii() {
        return 0.0;
    }
    let (mut letters, mut foreign) = (0_u32, 0_u32);
    for letter in text.chars().filter(|character| character.is_alphabetic()) {
        letters += 1;
        let is_known = if letter.is_ascii() { is_latin } else { scripts.iter().any(|script| script.has(letter)) };
        foreign += u32::from(!is_known);
    }
    if letters == 0 { 0.0 } else { f64::from(foreign) / f64::from(letters) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_and_punctuation_say_nothing() {
        for text in ["", "   ", "!!!", "\n", "-", "#:;", ".", "？！", "……", "\u{200b}\u{feff}", "()", "_", "\u{1}"]
        {
            assert!(says_nothing(text), "{text:?}");
        }
        for text in ["a", "7", "红", "❤", "€", "- a"] {
            assert!(!says_nothing(text), "{text:?}");
        }
    }

    #[test]
    fn letters_of_other_scripts_are_counted() {
        let latin = |text: &str| foreign_share(text, &[Script::Latin]);
        let cases = [
            ("a red circle", 0.0),
            ("café, naïve, Straße, Ωhm", 1.0 / 18.0),
            ("红色的圆", 1.0),
            ("红色 red", 2.0 / 5.0),
            ("7 + 8 = 15 ❤", 0.0),
            ("красный", 1.0),
            ("", 0.0),
        ];
        for (text, share) in cases {
            assert!((latin(text) - share).abs() < 1e-9, "{text}: {}", latin(text));
        }
        assert_eq!(foreign_share("红色的圆", &[Script::Han]), 0.0);
        assert_eq!(foreign_share("red", &[Script::Han]), 1.0);
        assert_eq!(foreign_share("赤いマグ", &[Script::Japanese]), 0.0);
        assert_eq!(foreign_share("红色 red", &[Script::Han, Script::Latin]), 0.0);
    }
}
