//! All versions of a folder.

use std::path::{Path, PathBuf};

use super::{Definition, FolderError, Footprint, Manifest, StagingError, Texts, Thoroughness, VersionFolder, staging};
use crate::message::VersionName;

/// A folder of versions that cannot be listed, or a version that is not there.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// The folder is not readable.
    #[error("{}: {reason}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// There is no such version.
    #[error("there is no version `{name}` in {}: {known}", folder.display())]
    Unknown {
        /// The version.
        name: VersionName,
        /// The folder.
        folder: PathBuf,
        /// The versions there are, in words.
        known: String,
    },
    /// It is not removed.
    #[error(transparent)]
    Staging(#[from] StagingError),
}

/// The versions of a folder.
#[derive(Clone, Debug)]
pub struct Inventory {
    folder: PathBuf,
    names: Vec<VersionName>,
}

/// A version, as far as it can be read.
#[derive(Debug)]
pub struct Entry {
    /// What was imported.
    pub manifest: Manifest,
    /// Its network, prompt and answers.
    pub definition: Definition,
    /// What a request costs.
    pub footprint: Footprint,
}

impl Inventory {
    /// Looks into a folder of versions; what begins with a dot is none.
    ///
    /// # Errors
    /// When the folder is not readable.
    pub fn open(folder: &Path) -> Result<Self, InventoryError> {
        let unreadable =
            |error: std::io::Error| InventoryError::Folder { folder: folder.to_owned(), reason: error.to_string() };
        let entries = std::fs::read_dir(folder).map_err(unreadable)?;
        let folders = entries.filter_map(Result::ok).filter(|entry| entry.path().is_dir());
        let mut names: Vec<VersionName> =
            folders.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        names.sort();
        Ok(Self { folder: folder.to_owned(), names })
    }

    /// Names of all versions.
    pub fn names(&self) -> &[VersionName] {
        &self.names
    }

    /// The folder of a version that is there.
    ///
    /// # Errors
    /// When it is not.
    pub fn path(&self, name: &VersionName) -> Result<PathBuf, InventoryError> {
        if self.names.contains(name) {
            return Ok(self.folder.join(name.as_str()));
        }
        let known: Vec<&str> = self.names.iter().map(VersionName::as_str).collect();
        let known = if known.is_empty() { "it is empty".to_owned() } else { format!("it has {}", known.join(", ")) };
        Err(InventoryError::Unknown { name: name.clone(), folder: self.folder.clone(), known })
    }

    /// Reads a version without its weights.
    ///
    /// # Errors
    /// Naming what is not right.
    pub fn entry(&self, name: &VersionName) -> Result<Entry, FolderError> {
        let folder = self.folder.join(name.as_str());
        let manifest = Manifest::read(&folder)?;
        let refuse = |source| FolderError::Definition { folder: folder.clone(), source };
        let definition = Definition::parse(&Texts::read(&folder).map_err(refuse)?).map_err(refuse)?;
        let side = definition.task.patch_image_size as usize;
        let footprint = Footprint::of(&definition.network, manifest.parameters, side);
        Ok(Entry { manifest, definition, footprint })
    }

    /// Compares every file of a version with its manifest.
    ///
    /// # Errors
    /// Naming each file that differs.
    pub fn verify(&self, name: &VersionName) -> Result<(), FolderError> {
        let version = VersionFolder::open(&self.folder.join(name.as_str()), Thoroughness::Hashes)?;
        version.verify_weights(version.open_weights()?.as_ref())
    }

    /// Removes a version.
    ///
    /// # Errors
    /// When it is not there, or the disk does not let it go.
    pub fn remove(&self, name: &VersionName) -> Result<(), InventoryError> {
        Ok(staging::remove(&self.path(name)?)?)
    }
}
