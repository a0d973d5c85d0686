//! `manifest.toml`: what a version folder holds, so that it can be told whether it still does.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::weights::Precision;

/// A manifest that cannot be used, or a file that is not what it says.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The folder has none.
    #[error(
        "{} has no {MANIFEST}, so nobody knows what it should hold: bring it in with `ofa-stream models import FOLDER --as NAME`",
        .0.display()
    )]
    Missing(PathBuf),
    /// It is not readable.
    #[error("{}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Files are missing or were changed.
    #[error(
        "{} is not what was imported:\n{}\n  import it again, or put the files back",
        folder.display(),
        problems.iter().map(|problem| format!("  {problem}")).collect::<Vec<_>>().join("\n")
    )]
    Altered {
        /// The folder.
        folder: PathBuf,
        /// One line for each file.
        problems: Vec<String>,
    },
}

/// The manifest's file name.
pub(super) const MANIFEST: &str = "manifest.toml";
/// The weights' file name.
pub(super) const WEIGHTS: &str = "weights.safetensors";
const FORMAT: u32 = 1;
const HEADING: &str =
    "# Written by `ofa-stream models import`; `ofa-stream models verify` compares it with the files.\n";

/// What a version folder holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Of this file; a program refuses formats newer than its own.
    pub format: u32,
    /// `tiny`, `medium`, `base`, `large`, `huge`, or `custom`.
    pub architecture: String,
    /// Parameters of the network, the shared matrix counted once.
    pub parameters: u64,
    /// How the weights are stored.
    pub dtype: Precision,
    /// Program and version that wrote it.
    pub imported_by: String,
    /// When.
    pub imported_at: String,
    /// Where the checkpoint came from.
    pub source: Origin,
    /// Every file but this one.
    pub files: BTreeMap<String, FileRecord>,
}

/// Where a checkpoint came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The layout it had.
    pub layout: String,
    /// Name of the folder or file.
    pub name: String,
    /// Its id on the hub it was pulled from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_id: Option<String>,
    /// The revision pulled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// SHA-256 of the files that the weights came from.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, String>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
}

impl FileRecord {
    pub(super) fn of(content: &[u8]) -> Self {
        Self { bytes: content.len() as u64, sha256: hex::encode(Sha256::digest(content)) }
    }
}

impl Manifest {
    pub(super) const FORMAT: u32 = FORMAT;

    /// Reads the manifest of a version folder.
    ///
    /// # Errors
    /// When there is none, or it is not one of this program's.
    pub fn read(folder: &Path) -> Result<Self, ManifestError> {
        let path = folder.join(MANIFEST);
        let unreadable = |reason: String| ManifestError::Unreadable { path: path.clone(), reason };
        let text = fs::read_to_string(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ManifestError::Missing(folder.to_owned()),
            _ => unreadable(error.to_string()),
        })?;
        let manifest: Self = toml::from_str(&text).map_err(|error| unreadable(error.to_string()))?;
        if manifest.format != FORMAT {
            return Err(unreadable(format!("it has format {}, this program reads format {FORMAT}", manifest.format)));
        }
        let plain = |name: &&String| !name.contains(['/', '\\']) && !name.starts_with('.');
        if let Some(name) = manifest.files.keys().find(|name| !plain(name)) {
            return Err(unreadable(format!("`{name}` names no file of its folder")));
        }
        if !manifest.files.contains_key(WEIGHTS) {
            return Err(unreadable(format!("it does not name {WEIGHTS}")));
        }
        Ok(manifest)
    }

    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let text = toml::to_string_pretty(self).map_err(io::Error::other)?;
        fs::write(folder.join(MANIFEST), format!("{HEADING}{text}"))
    }

    /// SHA-256 over names and digests of all files: it changes when anything that answers depend on
    /// does, and an import of the same checkpoint gives it again.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for (name, file) in &self.files {
            hash.update(format!("{}  {name}\n", file.sha256));
        }
        format!("sha256:{}", hex::encode(hash.finalize()))
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes).sum()
    }

    /// Compares files of the folder with what they should be: these by size, and by digest where
    /// `hash` says so.
    ///
    /// # Errors
    /// A line for each file that differs.
    pub fn verify(&self, folder: &Path, hash: impl Fn(&str) -> bool) -> Result<(), ManifestError> {
        let problem = |(name, file): (&String, &FileRecord)| {
            let differs = match fs::metadata(folder.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Some("is missing".to_owned()),
                Err(error) => Some(error.to_string()),
                Ok(found) if found.len() != file.bytes => {
                    Some(format!("has {} bytes, it had {}", found.len(), file.bytes))
                }
                Ok(_) if hash(name) => match sha256(&folder.join(name)) {
                    Ok(found) if found == file.sha256 => None,
                    Ok(found) => Some(format!("was changed: its SHA-256 is {found}, it was {}", file.sha256)),
                    Err(error) => Some(error.to_string()),
                },
                Ok(_) => None,
            };
            differs.map(|differs| format!("{name} {differs}"))
        };
        let problems: Vec<String> = self.files.iter().filter_map(problem).collect();
        match problems.is_empty() {
            true => Ok(()),
            false => Err(ManifestError::Altered { folder: folder.to_owned(), problems }),
        }
    }
}

/// SHA-256 of a file, in hexadecimal.
pub(super) fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}
