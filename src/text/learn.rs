//! A vocabulary of one's own, where there is no published one: byte-pair encoding after Sennrich, Haddow and Birch (2016), on
//! the bytes of GPT-2's files.

use std::collections::{BTreeMap, HashMap};

use super::{
    TextError, Tokenizer,
    bpe::{byte_characters, words},
};

/// The contents of `vocab.json` and `merges.txt`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// Token to id.
    pub vocabulary: String,
    /// A version, then one pair per line.
    pub merges: String,
}

impl Vocabulary {
    /// Learns at most `merges_max` merges from texts; each of `whole`, with a blank before it, becomes one token.
    ///
    /// # Errors
    /// When what was learned is no vocabulary.
    pub fn learn<'t>(
        texts: impl Iterator<Item = &'t str>,
        whole: &[&str],
        merges_max: usize,
    ) -> Result<Self, TextError> {
        let characters = byte_characters();
        let spelled = |word: &str| -> Vec<String> {
            word.bytes().map(|byte| characters[usize::from(byte)].to_string()).collect()
        };
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        texts
            .for_each(|text| words(text).into_iter().for_each(|word| *counts.entry(word.to_owned()).or_default() += 1));
        // Far more frequent than anything else, so that they merge first.
        let first = counts.values().sum::<u64>() + 1;
        whole.iter().for_each(|word| *counts.entry(format!(" {word}")).or_default() += first);
        let mut spellings: Vec<(Vec<String>, u64)> =
            counts.into_iter().map(|(word, count)| (spelled(&word), count)).collect();
        let mut merges = Vec::new();
        while merges.len() < merges_max {
            let mut pairs: HashMap<(&str, &str), u64> = HashMap::new();
            for (symbols, count) in &spellings {
                symbols.windows(2).for_each(|pair| *pairs.entry((&pair[0], &pair[1])).or_default() += count);
            }
            // Of equally frequent pairs the first in the alphabet, so that the same texts give the same merges.
            let best =
                pairs.into_iter().max_by(|(one, count), (other, more)| count.cmp(more).then_with(|| other.cmp(one)));
            let Some(((left, right), count)) = best else { break };
            if count < 2 {
                break;
            }
            let pair = (left.to_owned(), right.to_owned());
            spellings.iter_mut().for_each(|(symbols, _)| merge(symbols, &pair));
            merges.push(pair);
        }
        let special = ["<s>", "<pad>", "</s>", "<unk>"].map(str::to_owned);
        let merged = merges.iter().map(|(left, right)| format!("{left}{right}"));
        let mut vocabulary = serde_json::Map::new();
        for token in special.into_iter().chain(characters.map(String::from)).chain(merged) {
            let id = vocabulary.len();
            vocabulary.entry(token).or_insert_with(|| id.into());
        }
        let lines = merges.iter().map(|(left, right)| format!("{left} {right}\n"));
        let learned = Self {
            vocabulary: serde_json::to_string(&vocabulary)?,
            merges: std::iter::once("#version: 0.2\n".to_owned()).chain(lines).collect(),
        };
        Tokenizer::new(&learned.vocabulary, &learned.merges)?;
        Ok(learned)
    }
}

fn merge(symbols: &mut Vec<String>, (left, right): &(String, String)) {
    let mut at = 0;
    while at + 1 < symbols.len() {
        if symbols[at] == *left && symbols[at + 1] == *right {
            let second = symbols.remove(at + 1);
            symbols[at].push_str(&second);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_words_become_one_token_and_rare_ones_are_spelled() {
        let texts = ["a red circle", "a red square", "the red circle", "quixotic"].repeat(3);
        let learned = Vocabulary::learn(texts.into_iter(), &["maybe"], 40).unwrap();
        let tokenizer = Tokenizer::new(&learned.vocabulary, &learned.merges).unwrap();
        assert_eq!(tokenizer.encode(" red circle").len(), 2);
        assert_eq!(tokenizer.encode(" maybe").len(), 1);
        assert!(tokenizer.encode(" zebra").len() > 3);
        assert_eq!(tokenizer.vocabulary_len(), 4 + 256 + learned.merges.lines().count() - 1);
    }
}
