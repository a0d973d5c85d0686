//! Which layout a checkpoint has, and how its parts are read into the published one.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use super::{ImportError, bpe, fairseq};
use crate::{
    message::file_kind,
    ofa::SHARED_EMBEDDING,
    store::{DefinitionError, Texts, definition::read_text, manifest::WEIGHTS},
    weights::Weights,
};

/// A checkpoint whose layout is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A folder as ModelScope or Hugging Face publish it, and the files that hold its weights.
    Folder(PathBuf, Vec<PathBuf>),
    /// A file of OFA's own release.
    Fairseq(PathBuf),
}

/// Single files of weights, the better ones first, and indexes of several.
const SINGLE: [&str; 3] = [WEIGHTS, "model.safetensors", "pytorch_model.bin"];
const INDEXES: [&str; 2] = ["model.safetensors.index.json", "pytorch_model.bin.index.json"];
const SHARDS_MAX: usize = 1000;

/// Names of the matrix that both embeddings and the output projection share. Files hold any subset of
/// them; where they hold several, the reference ends up with the last one it loads, which stands first
/// here.
const SHARED_NAMES: [&str; 3] = ["decoder.output_projection.weight", "decoder.embed_tokens.weight", SHARED_EMBEDDING];

/// Buffers that follow from the configuration, and counters of training: present in some files, absent
/// from others, never read.
const DERIVED: [&str; 6] = [
    ".num_batches_tracked",
    ".token_rp_bucket",
    ".image_rp_bucket",
    ".image_position_idx",
    "encoder.version",
    "decoder.version",
];

/// The task as OFA's own scripts run it, for a folder that does not say.
pub(super) const DEFAULT_TASK: &str = r#"{
  "framework": "pytorch",
  "task": "visual-entailment",
  "model": {
    "type": "ofa",
    "language": "en",
    "gen_type": "traverse",
    "prompt_type": "prev_output",
    "patch_image_size": 480,
    "max_src_length": 80,
    "imagenet_default_mean_and_std": false,
    "answer2label": "answer2label.json"
  }
}
"#;
/// The answers in the order of OFA's own scripts.
pub(super) const DEFAULT_ANSWERS: &str = "{\n  \"no\": 0,\n  \"yes\": 1,\n  \"maybe\": 2\n}\n";
pub(super) const ANSWER_FILE: &str = "answer2label.json";

impl Source {
    /// Looks at a folder or file.
    ///
    /// # Errors
    /// When it is no checkpoint, saying what is missing.
    pub fn recognise(path: &Path) -> Result<Self, ImportError> {
        let refuse = |reason: String| Err(ImportError::NoCheckpoint { path: path.to_owned(), reason });
        if path.is_file() {
            return match path.extension().and_then(|extension| extension.to_str()) {
                Some("pt" | "pth") => Ok(Self::Fairseq(path.to_owned())),
                _ => refuse("name the folder that the file is in, or a fairseq checkpoint that ends in .pt".to_owned()),
            };
        }
        if !path.is_dir() {
            return refuse("there is no such file or folder".to_owned());
        }
        let single = SINGLE.into_iter().find(|name| path.join(name).is_file());
        let index = INDEXES.into_iter().find(|name| path.join(name).is_file());
        match (single, index) {
            // One of them may be stale, and nothing says which.
            (Some(single), Some(index)) => {
                return refuse(format!("it has both {single} and {index}: move the one away that is not meant"));
            }
            (Some(single), None) => return Ok(Self::Folder(path.to_owned(), vec![path.join(single)])),
            (None, Some(index)) => return Ok(Self::Folder(path.to_owned(), shards(path, index)?)),
            (None, None) => {}
        }
        let entries = std::fs::read_dir(path);
        let entries = entries.into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
        let mut fairseq: Vec<PathBuf> =
            entries.filter(|file| file.extension().is_some_and(|extension| extension == "pt")).collect();
        match (fairseq.pop(), fairseq.is_empty()) {
            (Some(only), true) => Ok(Self::Fairseq(only)),
            (Some(_), false) => refuse("it has several .pt files: name one of them".to_owned()),
            _ => refuse(format!("it has neither {}, nor a .pt file", [&SINGLE[1..], &INDEXES].concat().join(", "))),
        }
    }

    /// The layout's name, for the manifest.
    pub fn layout(&self) -> &'static str {
        match self {
            Self::Folder(..) => "folder",
            Self::Fairseq(_) => "fairseq",
        }
    }

    /// Name of the folder or file.
    pub fn name(&self) -> String {
        let (Self::Folder(path, _) | Self::Fairseq(path)) = self;
        path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
    }

    /// The files that hold the weights.
    pub(super) fn weight_files(&self) -> Vec<&Path> {
        match self {
            Self::Folder(_, files) => files.iter().map(PathBuf::as_path).collect(),
            Self::Fairseq(file) => vec![file],
        }
    }

    /// Reads the texts and opens the weights, both in published layout.
    pub(super) fn open(&self, tokenizer: Option<&Path>) -> Result<(Texts, Weights), ImportError> {
        self.weight_files().into_iter().try_for_each(recognise_kind)?;
        match self {
            Self::Folder(folder, files) => {
                let weights = published(Weights::open(files)?);
                let texts = folder_texts(folder, tokenizer)
                    .map_err(|source| ImportError::Definition { path: folder.clone(), source })?;
                Ok((texts, weights))
            }
            Self::Fairseq(file) => {
                let weights = published(Weights::open(&[file])?.renamed(|name| Some(fairseq::published_name(name))));
                Ok((fairseq::texts(file, &weights, tokenizer)?, weights))
            }
        }
    }
}

/// Refuses a file of weights that is something else, by its name for people: the readers would call it cut off.
fn recognise_kind(file: &Path) -> Result<(), ImportError> {
    const BEGINNING: u64 = 512;
    let mut beginning = Vec::new();
    let read = File::open(file).and_then(|file| file.take(BEGINNING).read_to_end(&mut beginning));
    // A file that cannot be read is named by its reader.
    let kind = read.ok().and_then(|_| file_kind(&beginning));
    match kind {
        Some(kind) => Err(ImportError::NoCheckpoint { path: file.to_owned(), reason: format!("it is {kind}") }),
        None => Ok(()),
    }
}

/// The files of an index, each once.
fn shards(folder: &Path, index: &str) -> Result<Vec<PathBuf>, ImportError> {
    let refuse = |source| ImportError::Definition { path: folder.to_owned(), source };
    let text = read_text(folder, index).map_err(refuse)?;
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| refuse(DefinitionError::file(index, error)))?;
    let map = json["weight_map"].as_object().into_iter().flat_map(|map| map.values());
    let names: BTreeSet<&str> = map.filter_map(|name| name.as_str()).collect();
    if names.is_empty() || names.len() > SHARDS_MAX {
        return Err(refuse(DefinitionError::file(index, "its `weight_map` names no files, or too many")));
    }
    if let Some(outside) = names.iter().find(|name| name.contains(['/', '\\']) || name.starts_with('.')) {
        return Err(refuse(DefinitionError::file(index, format!("`{outside}` is no file of this folder"))));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// Texts of a folder. One without a task is Hugging Face's layout, which has no place for it.
fn folder_texts(folder: &Path, tokenizer: Option<&Path>) -> Result<Texts, DefinitionError> {
    let (vocabulary, merges) = bpe::read(tokenizer.unwrap_or(folder))?;
    if folder.join(Texts::TASK).exists() {
        let task = read_text(folder, Texts::TASK)?;
        let answer_file = crate::ofa::TaskConfig::from_json(&task)?.answer2label;
        let answers = read_text(folder, &answer_file)?;
        return Ok(Texts {
            network: read_text(folder, Texts::NETWORK)?,
            task,
            vocabulary,
            merges,
            answers: (answer_file, answers),
        });
    }
    Ok(Texts {
        network: read_text(folder, Texts::NETWORK)?,
        task: DEFAULT_TASK.to_owned(),
        vocabulary,
        merges,
        answers: (ANSWER_FILE.to_owned(), DEFAULT_ANSWERS.to_owned()),
    })
}

/// Names as they are published, derived buffers left out, and the shared matrix once. The reference's
/// loader tolerates a `model.` before all names, and `gamma` and `beta` for the two halves of a norm.
fn published(weights: Weights) -> Weights {
    let prefix = if weights.iter().all(|(name, _)| name.starts_with("model.")) { "model." } else { "" };
    let plain = |name: &str| {
        let parts = name.strip_prefix(prefix).unwrap_or(name).split('.').map(|part| match part {
            "gamma" => "weight",
            "beta" => "bias",
            part => part,
        });
        parts.collect::<Vec<_>>().join(".")
    };
    let weights =
        weights.renamed(|name| Some(plain(name)).filter(|name| !DERIVED.iter().any(|suffix| name.ends_with(suffix))));
    let shared = SHARED_NAMES.into_iter().find(|name| weights.get(name).is_some());
    weights.renamed(|name| {
        if SHARED_NAMES.contains(&name) {
            (Some(name) == shared).then(|| SHARED_EMBEDDING.to_owned())
        } else {
            Some(name.to_owned())
        }
    })
}
