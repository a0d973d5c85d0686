//! From a user's words to token ids: cleaning, prompt, byte-level BPE.
//!
//! * [`clean()`]: what the reference calls pre-captioning.
//! * [`Templates`]: the sentence around the words.
//! * [`Tokenizer`]: GPT-2's byte-level BPE over `vocab.json` and `merges.txt`.
//! * `Vocabulary`: these two files, learned; only with the feature `train`.
//!
//! [`Prompter`] runs all three, and says whether it read the whole text. [`says_nothing`] and [`foreign_share`] look at what a
//! version cannot judge.

mod bpe;
mod clean;
#[cfg(feature = "train")]
mod learn;
mod prompt;
mod script;

pub use bpe::Tokenizer;
pub use clean::clean;
#[cfg(feature = "train")]
pub use learn::Vocabulary;
pub use prompt::{Prompter, Source, Templates};
pub use script::{Script, foreign_share, says_nothing};

/// Why the text files of a model version cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// `vocab.json` is not an object of token to id.
    #[error("vocab.json: {0}")]
    Vocabulary(#[from] serde_json::Error),
    /// A token that must have a certain id has another, or none.
    #[error("vocab.json: token `{token}` must have id {expected}, it has {found:?}")]
    SpecialToken {
        /// The token.
        token: &'static str,
        /// The id the network was trained with.
        expected: u32,
        /// The id in the file.
        found: Option<u32>,
    },
    /// A line of `merges.txt` is not a pair.
    #[error("merges.txt line {line}: expected two symbols separated by one blank, found `{found}`")]
    Merge {
        /// Line number, counted from one.
        line: usize,
        /// What stands there.
        found: String,
    },
    /// What a merge makes is not in the vocabulary: the two files are not of one model.
    #[error("merges.txt line {line}: `{merged}` is not in vocab.json: the two files are not of one model")]
    MergeUnknown {
        /// Line number, counted from one.
        line: usize,
        /// What the merge makes.
        merged: String,
    },
    /// Tokens that no merge makes, so that no text would ever have them.
    #[error(
        "merges.txt: no merge makes `{token}` of vocab.json ({count} such tokens): the file is cut off, or of another model"
    )]
    Unmerged {
        /// How many.
        count: usize,
        /// The first of them.
        token: String,
    },
    /// A prompt template uses a field that cannot be filled.
    #[error("prompt template `{template}`: {reason}")]
    Template {
        /// The template.
        template: String,
        /// What is wrong with it.
        reason: String,
    },
}
