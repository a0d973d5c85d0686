//! A version folder as the engine takes it: there, whole, and what was imported.

use std::path::{Path, PathBuf};

use super::{Definition, DefinitionError, Manifest, ManifestError, Texts, manifest::WEIGHTS};
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
        manifest.verify(path, |name| thoroughness == Thoroughness::Hashes && name != WEIGHTS)?;
        let definition = |source| FolderError::Definition { folder: path.to_owned(), source };
        let texts = Texts::read(path).map_err(definition)?;
        let definition = Definition::parse(&texts).map_err(definition)?;
        Ok(Self { path: path.to_owned(), definition, manifest, thoroughness })
    }

    /// Opens the weights. Their digest is compared beside, by [`VersionFolder::verify_weights`].
    ///
    /// # Errors
    /// When the file is not whole.
    pub fn weights(&self) -> Result<Weights, FolderError> {
        Ok(Weights::open(&[self.path.join(WEIGHTS)])?)
    }

    /// Compares the weights' digest with the manifest's, where the folder was opened so.
    ///
    /// # Errors
    /// When they differ.
    pub fn verify_weights(&self) -> Result<(), FolderError> {
        let thorough = self.thoroughness == Thoroughness::Hashes;
        Ok(self.manifest.verify(&self.path, |name| thorough && name == WEIGHTS)?)
    }
}
