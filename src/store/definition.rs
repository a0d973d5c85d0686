//! What a version is beside its weights: the text files, read into what the program works with.

use std::{fs::File, io::Read, path::Path};

use super::manifest::{MANIFEST, WEIGHTS};
use crate::{
    message::{Label, file_kind},
    ofa::{AnswerError, AnswerTrie, ConfigError, NetworkConfig, TaskConfig},
    text::{Prompter, Templates, TextError, Tokenizer},
};

/// A text file of a version that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// It is missing, not readable, or does not fit the others.
    #[error("{name}: {reason}")]
    File {
        /// The file.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A configuration is not supported.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Vocabulary, merges or prompt are broken.
    #[error(transparent)]
    Text(#[from] TextError),
}

impl DefinitionError {
    pub(super) fn file(name: &str, reason: impl std::fmt::Display) -> Self {
        Self::File { name: name.to_owned(), reason: reason.to_string() }
    }
}

/// Rows that the reference appends to the vocabulary at run time: image codes and coordinates.
const ADDED_TOKENS: usize = 8192 + 1000;
/// The largest published one, the vocabulary, has 1.4 MB with all its tokens.
const TEXT_BYTES_MAX: u64 = 32 << 20;

/// The contents of a version's text files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Texts {
    /// `config.json`: the network's shape.
    pub network: String,
    /// `configuration.json`: the task.
    pub task: String,
    /// `vocab.json`.
    pub vocabulary: String,
    /// `merges.txt`.
    pub merges: String,
    /// Name and content of the answer file.
    pub answers: (String, String),
}

impl Texts {
    /// Names of the files that every version has; the answer file's name is in the task.
    pub const NETWORK: &str = "config.json";
    /// The task's file.
    pub const TASK: &str = "configuration.json";
    /// The vocabulary's file.
    pub const VOCABULARY: &str = "vocab.json";
    /// The merges' file.
    pub const MERGES: &str = "merges.txt";

    /// Reads a folder in published layout.
    ///
    /// # Errors
    /// Naming the file that is missing, unreadable or too large.
    pub fn read(folder: &Path) -> Result<Self, DefinitionError> {
        let task = read_text(folder, Self::TASK)?;
        let answers = TaskConfig::from_json(&task)?.answer2label;
        Ok(Self {
            network: read_text(folder, Self::NETWORK)?,
            vocabulary: read_text(folder, Self::VOCABULARY)?,
            merges: read_text(folder, Self::MERGES)?,
            answers: (answers.clone(), read_text(folder, &answers)?),
            task,
        })
    }

    /// Names and contents of all files.
    pub fn files(&self) -> [(&str, &str); 5] {
        [
            (Self::NETWORK, &self.network),
            (Self::TASK, &self.task),
            (Self::VOCABULARY, &self.vocabulary),
            (Self::MERGES, &self.merges),
            (&self.answers.0, &self.answers.1),
        ]
    }
}

/// Reads a text file of a folder, within a bound.
pub(super) fn read_text(folder: &Path, name: &str) -> Result<String, DefinitionError> {
    let path = folder.join(name);
    // A pipe or device has no end, and says that it has no bytes.
    if path.exists() && !path.is_file() {
        return Err(DefinitionError::file(name, "it is no file"));
    }
    let mut text = String::new();
    let file = File::open(&path).map_err(|error| DefinitionError::file(name, error))?;
    let read = file.take(TEXT_BYTES_MAX + 1).read_to_string(&mut text);
    if read.map_err(|error| DefinitionError::file(name, error))? as u64 > TEXT_BYTES_MAX {
        return Err(DefinitionError::file(name, format!("it has more than {TEXT_BYTES_MAX} bytes")));
    }
    match file_kind(text.as_bytes()) {
        Some(kind) => Err(DefinitionError::file(name, format!("it is {kind}"))),
        None => Ok(text),
    }
}

/// Everything of a version but its weights.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Shape of the network.
    pub network: NetworkConfig,
    /// Settings of the task.
    pub task: TaskConfig,
    /// Words to ids.
    pub prompter: Prompter,
    /// The label of each answer, in the order of the answer file.
    pub labels: Vec<Label>,
    /// The answers' tokens.
    pub trie: AnswerTrie,
}

impl Definition {
    const RESERVED: [&str; 2] = [MANIFEST, WEIGHTS];

    /// Reads and checks the files.
    ///
    /// # Errors
    /// Naming the file and what is wrong with it.
    pub fn parse(texts: &Texts) -> Result<Self, DefinitionError> {
        let network = NetworkConfig::from_json(&texts.network)?;
        let task = TaskConfig::from_json(&texts.task)?;
        let tokenizer = Tokenizer::new(&texts.vocabulary, &texts.merges)?;
        let entries = tokenizer.vocabulary_len();
        if entries != network.vocab_size && entries + ADDED_TOKENS != network.vocab_size {
            let reason = format!(
                "it has {entries} entries; the {} rows of vocab_size need {} of them, or as many with the added tokens",
                network.vocab_size,
                network.vocab_size.saturating_sub(ADDED_TOKENS)
            );
            return Err(DefinitionError::file(Texts::VOCABULARY, reason));
        }
        if [Self::RESERVED.as_slice(), &[Texts::NETWORK, Texts::TASK, Texts::VOCABULARY, Texts::MERGES]]
            .concat()
            .contains(&texts.answers.0.as_str())
        {
            let reason = format!("`model.answer2label` cannot be {}, which is another file", texts.answers.0);
            return Err(DefinitionError::file(Texts::TASK, reason));
        }
        network.grid(task.patch_image_size as usize)?;
        let templates = match &task.prompt {
            Some(prompt) => Templates::overridden(prompt)?,
            None => Templates::default(),
        };
        let (labels, trie) = answers(&texts.answers, &tokenizer)?;
        let prompter = Prompter::new(tokenizer, templates, task.max_src_length);
        Ok(Self { network, task, prompter, labels, trie })
    }
}

/// The keys of the answer file, in file order; the numbers beside them are not used, as in the
/// reference.
fn answers(
    (name, json): &(String, String),
    tokenizer: &Tokenizer,
) -> Result<(Vec<Label>, AnswerTrie), DefinitionError> {
    let refuse = |reason: String| DefinitionError::file(name, reason);
    let answers: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(json).map_err(|error| refuse(error.to_string()))?;
    let mut labels = Vec::new();
    for answer in answers.keys() {
        labels.push(match answer.as_str() {
            "yes" => Label::Yes,
            "no" => Label::No,
            "maybe" => Label::Maybe,
            other => return Err(refuse(format!("answer `{other}` is none of yes, no and maybe"))),
        });
    }
    if labels.len() != 3 {
        return Err(refuse("it must name yes, no and maybe".to_owned()));
    }
    let tokens: Vec<Vec<u32>> = answers.keys().map(|answer| tokenizer.encode(&format!(" {answer}"))).collect();
    let trie = AnswerTrie::new(&tokens, Tokenizer::END).map_err(|error: AnswerError| refuse(error.to_string()))?;
    Ok((labels, trie))
}
