//! GPT-2's byte-level byte-pair encoding, as BART uses it.
//!
//! Written here rather than taken from a library, because a service must read a literal `<pad>`
//! typed by a user as five characters, and because the published merges and vocabulary are all it
//! needs.

use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

use regex::Regex;

use super::TextError;

/// Byte-level BPE over a published vocabulary.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    /// Every symbol that bytes or merges can make, with its id in the vocabulary.
    symbols: Vec<Symbol>,
    /// The symbol of each byte.
    bytes: [SymbolIndex; 256],
    /// Rank and result of each merge; a lower rank merges first.
    merges: HashMap<(SymbolIndex, SymbolIndex), (u32, SymbolIndex)>,
    vocabulary_len: usize,
}

type SymbolIndex = u32;

#[derive(Clone, Copy, Debug)]
struct Symbol {
    token_id: u32,
}

/// GPT-2's pattern without its `\s+(?!\S)`: this engine has no look-ahead, so [`words`]
/// gives the last blank of a run back by hand.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";

#[expect(clippy::expect_used, reason = "a constant pattern, compiled by every test of this file")]
static PATTERN: LazyLock<Regex> = LazyLock::new(|| Regex::new(WORDS).expect("the word pattern compiles"));

impl Tokenizer {
    /// `<s>`, the beginning of a sentence.
    pub const BEGIN: u32 = 0;
    /// `<pad>`.
    pub const PADDING: u32 = 1;
    /// `</s>`, the end of a sentence.
    pub const END: u32 = 2;
    /// `<unk>`, for what the vocabulary cannot spell.
    pub const UNKNOWN: u32 = 3;

    /// Reads the contents of `vocab.json` and `merges.txt`.
    ///
    /// # Errors
    /// When a file does not parse, or a special token has another id than the network was trained
    /// with.
    pub fn new(vocabulary: &str, merges: &str) -> Result<Self, TextError> {
        let vocabulary: HashMap<String, u32> = serde_json::from_str(vocabulary)?;
        for (token, expected) in
            [("<s>", Self::BEGIN), ("<pad>", Self::PADDING), ("</s>", Self::END), ("<unk>", Self::UNKNOWN)]
        {
            let found = vocabulary.get(token).copied();
            if found != Some(expected) {
                return Err(TextError::SpecialToken { token, expected, found });
            }
        }
        let mut unmade: HashSet<&str> =
            vocabulary.keys().map(String::as_str).filter(|token| is_made_by_merging(token)).collect();
        let mut table = SymbolTable { vocabulary: &vocabulary, indices: HashMap::new(), symbols: Vec::new() };
        let bytes = byte_characters().map(|character| table.intern(character.to_string()));
        let mut ranked = HashMap::new();
        // The reference reads between the first line and the last newline: the first is a version, and
        // what follows the last is nothing, even where it looks like a merge.
        let whole_lines = merges.rsplit_once('\n').map_or("", |(lines, _)| lines);
        for (index, line) in whole_lines.lines().enumerate().skip(1) {
            if line.trim().is_empty() {
                continue;
            }
            let pair = line
                .split_once(' ')
                .filter(|(left, right)| !left.is_empty() && !right.is_empty() && !right.contains(' '));
            let Some((left, right)) = pair else {
                return Err(TextError::Merge { line: index + 1, found: line.to_owned() });
            };
            let merged = format!("{left}{right}");
            if !vocabulary.contains_key(&merged) {
                return Err(TextError::MergeUnknown { line: index + 1, merged });
            }
            unmade.remove(merged.as_str());
            let merged = table.intern(merged);
            let pair = (table.intern(left.to_owned()), table.intern(right.to_owned()));
            let rank = ranked.len() as u32;
            ranked.entry(pair).or_insert((rank, merged));
        }
        if let Some(token) = unmade.iter().min() {
            return Err(TextError::Unmerged { count: unmade.len(), token: (*token).to_owned() });
        }
        Ok(Self { symbols: table.symbols, bytes, merges: ranked, vocabulary_len: vocabulary.len() })
    }

    /// Entries of the vocabulary file.
    pub fn vocabulary_len(&self) -> usize {
        self.vocabulary_len
    }

    /// Token ids `[tokens]` of a text, without beginning and end.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        for word in words(text) {
            let symbols: Vec<SymbolIndex> = word.bytes().map(|byte| self.bytes[usize::from(byte)]).collect();
            ids.extend(self.merge(symbols).into_iter().map(|symbol| self.symbols[symbol as usize].token_id));
        }
        ids
    }

    /// Merges the best-ranked pair everywhere in the word, until no pair merges. Quadratic in the
    /// word's length, which the limits on text length bound.
    fn merge(&self, mut word: Vec<SymbolIndex>) -> Vec<SymbolIndex> {
        loop {
            let best = word
                .windows(2)
                .filter_map(|pair| self.merges.get(&(pair[0], pair[1])).map(|&(rank, to)| (rank, to, pair[0], pair[1])))
                .min();
            let Some((_, merged, left, right)) = best else { return word };
            let mut next = Vec::with_capacity(word.len());
            let mut rest = word.as_slice();
            while let [first, tail @ ..] = rest {
                let pair = *first == left && tail.first() == Some(&right);
                next.push(if pair { merged } else { *first });
                rest = if pair { &tail[1..] } else { tail };
            }
            word = next;
        }
    }
}

/// The words of a text, each with the blank before it; nothing of the text is left out.
pub(super) fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut at = 0;
    while let Some(found) = PATTERN.find_at(text, at) {
        let word = found.as_str();
        let last = word.chars().next_back().map_or(0, char::len_utf8);
        let blank_run_before_a_word =
            word.len() > last && found.end() < text.len() && word.chars().all(char::is_whitespace);
        let end = if blank_run_before_a_word { found.end() - last } else { found.end() };
        words.push(&text[found.start()..end]);
        at = end;
    }
    words
}

/// Whether a token of the vocabulary comes of a merge: it has several symbols, and is neither special nor one of fairseq's fillers.
fn is_made_by_merging(token: &str) -> bool {
    let is_special = token.starts_with('<') && token.ends_with('>');
    token.chars().nth(1).is_some() && !is_special && !token.starts_with("madeupword")
}

struct SymbolTable<'v> {
    vocabulary: &'v HashMap<String, u32>,
    indices: HashMap<String, SymbolIndex>,
    symbols: Vec<Symbol>,
}

impl SymbolTable<'_> {
    fn intern(&mut self, text: String) -> SymbolIndex {
        if let Some(&index) = self.indices.get(&text) {
            return index;
        }
        let index = self.symbols.len() as SymbolIndex;
        let token_id = self.vocabulary.get(&text).copied().unwrap_or(Tokenizer::UNKNOWN);
        self.symbols.push(Symbol { token_id });
        self.indices.insert(text, index);
        index
    }
}

/// The printable character that stands for each byte in GPT-2's files: bytes that print stand for
/// themselves, the others follow from U+0100 on.
pub(super) fn byte_characters() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| {
        let byte = byte as u8;
        if matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) {
            return char::from(byte);
        }
        let character = char::from_u32(next).unwrap_or(char::REPLACEMENT_CHARACTER);
        next += 1;
        character
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden() -> Tokenizer {
        Tokenizer::new(
            include_str!("../../testdata/golden/dev/vocab.json"),
            include_str!("../../testdata/golden/dev/merges.txt"),
        )
        .unwrap()
    }

    fn has_special_literal(text: &str) -> bool {
        Regex::new(r"<(s|/s|pad|unk|mask|code_\d+|bin_\d+)>").unwrap().is_match(text)
    }

    #[test]
    fn tokens_agree_with_the_reference_but_for_literal_special_tokens() {
        let cases: serde_json::Value =
            serde_json::from_str(include_str!("../../testdata/golden/dev/tokenizer_cases.json")).unwrap();
        let tokenizer = golden();
        let mut compared = 0;
        for case in cases.as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let ids: Vec<u32> = case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            if has_special_literal(text) {
                continue;
            }
            assert_eq!(tokenizer.encode(text), ids, "{text:?}");
            compared += 1;
        }
        assert!(compared > 20, "only {compared} cases");
    }

    #[test]
    fn a_special_token_typed_by_a_user_is_text() {
        let tokenizer = golden();
        for literal in ["<pad>", "<s>", "</s>", "<mask>", "<code_5>", "<bin_7>"] {
            let ids = tokenizer.encode(literal);
            assert!(ids.len() > 1, "{literal} became {ids:?}");
            assert!(ids.iter().all(|&id| id > Tokenizer::UNKNOWN), "{literal} became {ids:?}");
        }
    }

    #[test]
    fn bad_files_are_refused_with_their_place() {
        let vocabulary = r#"{"<s>":0,"<pad>":1,"</s>":2,"<unk>":3}"#;
        let cases = [
            ("[]", "", "vocab.json"),
            (r#"{"<s>":0,"<pad>":7,"</s>":2,"<unk>":3}"#, "", "`<pad>` must have id 1"),
            (r#"{"<s>":0,"<pad>":1,"</s>":2,"<unk>":3,"ab":4}"#, "#version: 0.2\na b\nabc\n", "line 3"),
            (vocabulary, "#version: 0.2\na b\n", "line 2: `ab` is not in vocab.json"),
            (r#"{"<s>":0,"<pad>":1,"</s>":2,"<unk>":3,"ab":4,"cd":5}"#, "#version: 0.2\na b\n", "no merge makes `cd`"),
            (r#"{"<s>":0,"<pad>":1,"</s>":2,"<unk>":3,"ab":4}"#, "", "no merge makes `ab`"),
        ];
        for (vocabulary, merges, words) in cases {
            let error = Tokenizer::new(vocabulary, merges).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
