//! Vocabulary and merges, from the layout of Hugging Face or from fairseq's.

use std::{collections::HashMap, path::Path};

use crate::store::{DefinitionError, Texts, definition::read_text};

/// fairseq's dictionary, and the files of GPT-2's encoder that it refers to.
const DICTIONARY: &str = "dict.txt";
const ENCODER: &str = "encoder.json";
const ENCODER_MERGES: &str = "vocab.bpe";

/// Tokens that every dictionary begins with, and the one that OFA's tasks put behind it.
const FIRST: [&str; 4] = ["<s>", "<pad>", "</s>", "<unk>"];
const LAST: &str = "<mask>";

/// Contents of `vocab.json` and `merges.txt` for a folder that has these, or fairseq's `dict.txt`,
/// `encoder.json` and `vocab.bpe`.
pub(super) fn read(folder: &Path) -> Result<(String, String), DefinitionError> {
    if folder.join(Texts::VOCABULARY).exists() || !folder.join(DICTIONARY).exists() {
        return Ok((read_text(folder, Texts::VOCABULARY)?, read_text(folder, Texts::MERGES)?));
    }
    let dictionary = read_text(folder, DICTIONARY)?;
    let encoder: HashMap<String, u32> =
        serde_json::from_str(&read_text(folder, ENCODER)?).map_err(|error| DefinitionError::file(ENCODER, error))?;
    Ok((vocabulary(&dictionary, &encoder)?, read_text(folder, ENCODER_MERGES)?))
}

/// A line of the dictionary is a symbol and its count. Symbols are GPT-2's ids in decimal, which the
/// encoder turns into tokens, but for fillers such as `madeupword0000`, which stand for themselves.
fn vocabulary(dictionary: &str, encoder: &HashMap<String, u32>) -> Result<String, DefinitionError> {
    let tokens: HashMap<u32, &str> = encoder.iter().map(|(token, id)| (*id, token.as_str())).collect();
    let mut vocabulary = serde_json::Map::new();
    let mut add = |token: &str| {
        let id = vocabulary.len();
        vocabulary.insert(token.to_owned(), id.into()).is_none()
    };
    for token in FIRST {
        add(token);
    }
    for (index, line) in dictionary.lines().enumerate() {
        let refuse = |reason: String| DefinitionError::file(DICTIONARY, format!("line {}: {reason}", index + 1));
        let symbol = line.split(' ').next().unwrap_or_default();
        let token = match symbol.parse::<u32>() {
            Ok(id) => tokens.get(&id).copied().ok_or_else(|| refuse(format!("{ENCODER} has no token {id}")))?,
            Err(_) if symbol.is_empty() => return Err(refuse("it has no symbol".to_owned())),
            Err(_) => symbol,
        };
        if !add(token) {
            return Err(refuse(format!("`{token}` is there already")));
        }
    }
    add(LAST);
    serde_json::to_string(&vocabulary).map_err(|error| DefinitionError::file(Texts::VOCABULARY, error))
}
