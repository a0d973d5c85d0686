//! A version folder as the engine takes it: there, whole, and what was imported.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Definition, DefinitionError, FileRecord, Manifest, ManifestError, Texts,
    manifest::{Found, WEIGHTS, sha256_of},
};
use crate::weights::{Weights, WeightsError};

/// A version folder that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// There is no such folder.
    #[error(
        "{} is not a folder: `ofa-stream models import` or `models pull` makes it, or correct `model_versions`",
        .0.display()
    )]
    Missing(PathBuf),
    /// It is not what was imported.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A text file is not right.
    #[error("{}: {source}", folder.display())]
    Definition {
        /// The folder.
        folder: PathBuf,
        /// What is wrong.
        source: DefinitionError,
    },
    /// The weights cannot be opened.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// How thoroughly a version's files are compared with its manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thoroughness {
    /// Each file's SHA-256.
    Hashes,
    /// Each file's size: seconds faster for a large version, and blind to changed bytes.
    Sizes,
}

/// A version that is all there.
#[derive(Clone, Debug)]
pub struct VersionFolder {
    /// Where it is.
    pub path: PathBuf,
    /// Everything but its weights.
    pub definition: Definition,
    /// What was imported.
    pub manifest: Manifest,
    thoroughness: Thoroughness,
}

impl VersionFolder {
    /// Reads and checks a folder, but for the content of its weights.
    ///
    /// # Errors
    /// Naming the file and what is wrong with it.
    pub fn open(path: &Path, thoroughness: Thoroughness) -> Result<Self, FolderError> {
        if !path.is_dir() {
            return Err(FolderError::Missing(path.to_owned()));
        }
        let manifest = Manifest::read(path)?;
        // All sizes first: a file that is gone is named so, whichever it is.
        let size = |name: &String| fs::metadata(path.join(name)).map(|file| Found { bytes: file.len(), sha256: None });
        manifest.compare(path, manifest.files.keys().map(|name| (name.as_str(), size(name))))?;
        let refuse = |source| FolderError::Definition { folder: path.to_owned(), source };
        let texts = Texts::read(path).map_err(refuse)?;
        // What was read is hashed, not what lies there a moment later.
        let found = |content: &str| {
            let record = FileRecord::of(content.as_bytes());
            let sha256 = (thoroughness == Thoroughness::Hashes).then_some(record.sha256);
            Ok(Found { bytes: record.bytes, sha256 })
        };
        manifest.compare(path, texts.files().into_iter().map(|(name, content)| (name, found(content))))?;
        let definition = Definition::parse(&texts).map_err(refuse)?;
        Ok(Self { path: path.to_owned(), definition, manifest, thoroughness })
    }

    /// Opens the file of weights, for [`VersionFolder::weights`] and [`VersionFolder::verify_weights`].
    ///
    /// # Errors
    /// When the system does not give it.
    pub fn open_weights(&self) -> Result<Arc<File>, FolderError> {
        let path = self.path.join(WEIGHTS);
        let opened = File::open(&path).map_err(|error| WeightsError::Unreadable { path, reason: error.to_string() });
        Ok(Arc::new(opened?))
    }

    /// The weights in an open file.
    ///
    /// # Errors
    /// When the file is not whole.
    pub fn weights(&self, file: &Arc<File>) -> Result<Weights, FolderError> {
        Ok(Weights::of_safetensors(&self.path.join(WEIGHTS), file)?)
    }

    /// Compares the digest of an open file of weights with the manifest's, where the folder was opened so.
    ///
    /// # Errors
    /// When they differ.
    pub fn verify_weights(&self, file: &File) -> Result<(), FolderError> {
        if self.thoroughness == Thoroughness::Sizes {
            return Ok(());
        }
        let found = file.metadata().and_then(|data| Ok(Found { bytes: data.len(), sha256: Some(sha256_of(file)?) }));
        Ok(self.manifest.compare(&self.path, std::iter::once((WEIGHTS, found)))?)
    }
}
