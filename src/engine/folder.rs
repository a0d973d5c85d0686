//! A version's folder, in the layout that ModelScope and Hugging Face publish.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    message::Label,
    ofa::{AnswerError, AnswerTrie, Checkpoint, CheckpointError, ConfigError, NetworkConfig, TaskConfig},
    text::{Prompter, Templates, TextError, Tokenizer},
};

/// A version folder that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// There is no such folder.
    #[error("{} is not a folder: put the version's files there, or correct `model_versions`", .0.display())]
    Missing(PathBuf),
    /// A file is missing or not readable.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// A configuration is not supported.
    #[error("{}: {source}", folder.display())]
    Config {
        /// The folder.
        folder: PathBuf,
        /// What is wrong.
        source: ConfigError,
    },
    /// Vocabulary, merges or prompt are broken.
    #[error("{}: {source}", folder.display())]
    Text {
        /// The folder.
        folder: PathBuf,
        /// What is wrong.
        source: TextError,
    },
    /// The answer file does not name yes, no and maybe.
    #[error("{}: {reason}", path.display())]
    Answers {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There are no weights.
    #[error(transparent)]
    Weights(#[from] CheckpointError),
}

/// Rows that the reference appends to the vocabulary at run time: image codes and coordinates.
const ADDED_TOKENS: usize = 8192 + 1000;

/// Everything of a version but its tensors.
#[derive(Clone, Debug)]
pub struct VersionFolder {
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
    /// The file that holds the weights.
    pub weights: PathBuf,
}

impl VersionFolder {
    /// Reads and checks a folder, without its tensors.
    ///
    /// # Errors
    /// Naming the file and what is wrong with it.
    pub fn read(folder: &Path) -> Result<Self, FolderError> {
        if !folder.is_dir() {
            return Err(FolderError::Missing(folder.to_owned()));
        }
        let config = |source| FolderError::Config { folder: folder.to_owned(), source };
        let text = |source| FolderError::Text { folder: folder.to_owned(), source };
        let network = NetworkConfig::from_json(&file(folder, "config.json")?).map_err(config)?;
        let task = TaskConfig::from_json(&file(folder, "configuration.json")?).map_err(config)?;
        let tokenizer = Tokenizer::new(&file(folder, "vocab.json")?, &file(folder, "merges.txt")?).map_err(text)?;
        let entries = tokenizer.vocabulary_len();
        if entries != network.vocab_size && entries + ADDED_TOKENS != network.vocab_size {
            let reason = format!(
                "it has {entries} entries; the {} rows of vocab_size need {} of them, or as many with the added tokens",
                network.vocab_size,
                network.vocab_size.saturating_sub(ADDED_TOKENS)
            );
            return Err(FolderError::File { path: folder.join("vocab.json"), reason });
        }
        let templates = match &task.prompt {
            Some(prompt) => Templates::overridden(prompt).map_err(text)?,
            None => Templates::default(),
        };
        let answers = Answers::read(folder, &task.answer2label, &tokenizer)?;
        let prompter = Prompter::new(tokenizer, templates, task.max_src_length);
        let weights = Checkpoint::find(folder)?;
        Ok(Self { network, task, prompter, labels: answers.labels, trie: answers.trie, weights })
    }
}

struct Answers {
    labels: Vec<Label>,
    trie: AnswerTrie,
}

impl Answers {
    /// The keys of the answer file, in file order; the numbers beside them are not used, as in the
    /// reference.
    fn read(folder: &Path, name: &str, tokenizer: &Tokenizer) -> Result<Self, FolderError> {
        let path = folder.join(name);
        let refuse = |reason: String| FolderError::Answers { path: path.clone(), reason };
        let answers: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&file(folder, name)?).map_err(|error| refuse(error.to_string()))?;
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
        Ok(Self { labels, trie })
    }
}

fn file(folder: &Path, name: &str) -> Result<String, FolderError> {
    let path = folder.join(name);
    fs::read_to_string(&path).map_err(|error| FolderError::File { path, reason: error.to_string() })
}
