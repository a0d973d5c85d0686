//! From a model hub to a folder that can be imported.
//!
//! * [`Hub`]: where a hub lists and gives files.
//! * `download`: one file, resumed where it broke off.
//! * [`Pull`]: a model's files, as many as the import needs.

mod download;
mod hub;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

pub use hub::{Hub, ModelId};

use super::{
    StagingError, Watch,
    staging::{disk, locked},
};
use download::Downloader;
use hub::RemoteFile;

/// Reads a list of files as each hub writes it, and forgets it, for fuzzing.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_listings(text: &str) {
    for hub in [Hub::ModelScope, Hub::HuggingFace] {
        hub.read_listing(text).ok();
    }
}

/// A model that is not pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The hub answers with something else than the file.
    #[error("{url}: the hub answers {status}: {remedy}")]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What it means here.
        remedy: &'static str,
    },
    /// The connection does not come about, or breaks off again and again.
    #[error("{url}: {reason}, {attempts} times in a row; what is there is kept, the same command goes on from it")]
    Connection {
        /// What was asked for.
        url: String,
        /// What the last attempt ended with.
        reason: String,
        /// How many ended so.
        attempts: usize,
    },
    /// The hub's list of files is none.
    #[error("{url}: this is no list of files: {reason}")]
    Listing {
        /// What was asked for.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The list names a file that would lie elsewhere.
    #[error("{model} lists the file `{path}`, which points outside of its folder: nothing was downloaded")]
    Path {
        /// The model.
        model: String,
        /// The file.
        path: String,
    },
    /// The model has no weights that could be imported.
    #[error(
        "{model} at revision {revision} has no model.safetensors, no pytorch_model.bin, no shards of these and not exactly one .pt file; it has {files}"
    )]
    NoWeights {
        /// The model.
        model: String,
        /// The revision.
        revision: String,
        /// What it has.
        files: String,
    },
    /// A file is longer than the hub said.
    #[error("{url}: it goes on behind the {bytes} bytes that the hub announced: it was removed")]
    TooLong {
        /// What was asked for.
        url: String,
        /// Announced length.
        bytes: u64,
    },
    /// A file is not the one the hub describes.
    #[error("{url}: its SHA-256 is {found}, the hub says {expected}: it was removed; pull again")]
    Digest {
        /// What was asked for.
        url: String,
        /// What the hub says.
        expected: String,
        /// What was downloaded.
        found: String,
    },
    /// The user asked to stop.
    #[error("cancelled; what is there is kept, and the same command goes on from it")]
    Cancelled,
    /// Disk trouble.
    #[error(transparent)]
    Staging(StagingError),
}

impl From<StagingError> for PullError {
    fn from(error: StagingError) -> Self {
        match error {
            StagingError::Cancelled => Self::Cancelled,
            error => Self::Staging(error),
        }
    }
}

/// A model's files, ready to be imported. Nobody else pulls the same model while this is there.
#[derive(Debug)]
pub struct Pulled {
    folder: PathBuf,
    _lock: File,
}

impl Pulled {
    /// Where they are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Removes them.
    ///
    /// # Errors
    /// When the disk does not let them go.
    pub fn forget(self) -> Result<(), PullError> {
        Ok(fs::remove_dir_all(&self.folder).map_err(disk(&self.folder))?)
    }
}

/// A model to be pulled.
#[derive(Clone, Debug)]
pub struct Pull {
    /// Which hub's paths are used.
    pub hub: Hub,
    /// Where it is, such as `https://modelscope.cn`.
    pub endpoint: String,
    /// The model.
    pub model: ModelId,
    /// Branch, tag or commit.
    pub revision: String,
    /// A token for private models, sent as a bearer token.
    pub token: Option<String>,
    /// Attempts in a row without a byte of progress before it gives up.
    pub attempts: usize,
    /// Wait behind the first failed attempt; it doubles from there.
    pub retry_delay: Duration,
    /// How long the hub may be silent; the next attempt goes on where it stopped.
    pub idle_timeout: Duration,
}

impl Pull {
    /// Downloads what an import needs into a folder below `models`. What an earlier attempt left there is
    /// used where a digest tells that it belongs together.
    ///
    /// # Errors
    /// Naming the address, and what the hub did.
    pub fn download(&self, models: &Path, watch: Watch<'_>) -> Result<Pulled, PullError> {
        let downloader = Downloader::new(self, watch);
        let files = self.chosen(self.hub.list(self, &downloader)?)?;
        let folder = models.join(format!(".pulling-{}", self.folder_name()));
        fs::create_dir_all(&folder).map_err(disk(&folder))?;
        // Two that append to one file would mix it.
        let lock = locked(&folder.join(LOCK), &folder)?;
        forget_others(&folder, &files)?;
        let total = files.iter().map(|file| file.bytes).sum();
        let mut done = 0;
        for file in &files {
            downloader.file(&self.hub.address(self, &file.name), file, &folder, (done, total))?;
            done += file.bytes;
        }
        watch.check()?;
        Ok(Pulled { folder, _lock: lock })
    }

    fn folder_name(&self) -> String {
        format!("{}--{}", self.model, self.revision).replace('/', "--")
    }

    /// Small text files, and the best of the weights.
    fn chosen(&self, files: Vec<RemoteFile>) -> Result<Vec<RemoteFile>, PullError> {
        let outside =
            |name: &str| name.starts_with('/') || name.contains('\\') || name.split('/').any(|part| part == "..");
        if let Some(file) = files.iter().find(|file| outside(&file.name)) {
            return Err(PullError::Path { model: self.model.to_string(), path: file.name.clone() });
        }
        let plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        let here: Vec<RemoteFile> =
            files.into_iter().filter(|file| plain(&file.name) && !file.name.starts_with('.')).collect();
        let kinds: [fn(&str) -> bool; 5] = [
            |name| name == "model.safetensors",
            |name| name == "model.safetensors.index.json" || is_shard(name, "model-", ".safetensors"),
            |name| name == "pytorch_model.bin",
            |name| name == "pytorch_model.bin.index.json" || is_shard(name, "pytorch_model-", ".bin"),
            |name| name.ends_with(".pt"),
        ];
        let count = |kind: fn(&str) -> bool| here.iter().filter(|file| kind(&file.name)).count();
        // Of several .pt files nobody could say which one is meant.
        let found = kinds.into_iter().find(|kind| count(*kind) > 0);
        let Some(kind) = found.filter(|kind| !kind("x.pt") || count(*kind) == 1) else {
            let names: Vec<&str> = here.iter().map(|file| file.name.as_str()).take(NAMES_SHOWN).collect();
            return Err(PullError::NoWeights {
                model: self.model.to_string(),
                revision: self.revision.clone(),
                files: if names.is_empty() { "nothing".to_owned() } else { names.join(", ") },
            });
        };
        let text = |file: &RemoteFile| {
            [".json", ".txt", ".bpe"].iter().any(|end| file.name.ends_with(end)) && file.bytes <= TEXT_BYTES_MAX
        };
        Ok(here.into_iter().filter(|file| kind(&file.name) || text(file)).collect())
    }
}

fn is_shard(name: &str, stem: &str, ending: &str) -> bool {
    name.starts_with(stem) && name.ends_with(ending)
}

/// Removes what an earlier attempt left and no digest can tell to be of the same revision: a branch may
/// have moved on since.
fn forget_others(folder: &Path, files: &[RemoteFile]) -> Result<(), StagingError> {
    for entry in fs::read_dir(folder).map_err(disk(folder))? {
        let path = entry.map_err(disk(folder))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let whole = name.strip_suffix(PART).unwrap_or(&name);
        let known = files.iter().any(|file| file.name == whole && file.sha256.is_some());
        if !known && name != LOCK {
            fs::remove_file(&path).map_err(disk(&path))?;
        }
    }
    Ok(())
}

/// Ends the name of a file that is not whole yet.
const PART: &str = ".part";
const LOCK: &str = ".lock";
const NAMES_SHOWN: usize = 20;
const TEXT_BYTES_MAX: u64 = 32 << 20;
