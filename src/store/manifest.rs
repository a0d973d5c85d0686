//! `manifest.toml`: what a version folder holds, so that it can be told whether it still does.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    StagingError,
    staging::{disk, write_synced},
};
use crate::{text::Script, weights::Precision};

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
const HEADING: &str = "# Written by `ofa-stream`; `ofa-stream models verify` compares it with the files.\n";

/// What a version folder holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// What the answers' log-probabilities are divided by, so that confidences are as often right as they say. Fitted on the
    /// validation split of what the version was trained on; 1 where nobody has fitted it.
    #[serde(default = "unfitted", skip_serializing_if = "is_unfitted")]
    pub temperature: f64,
    /// The languages that it was trained on, by their codes of ISO 639-1. A text in another script goes to review.
    #[serde(default = "english")]
    pub languages: Vec<String>,
    /// Where the checkpoint came from.
    pub source: Origin,
    /// What it was trained by; none where `ofa-stream train` did not make it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained: Option<Training>,
    /// Every file but this one.
    pub files: BTreeMap<String, FileRecord>,
}

/// OFA's checkpoints for visual entailment were trained on English.
pub(super) fn english() -> Vec<String> {
    vec!["en".to_owned()]
}

fn unfitted() -> f64 {
    1.0
}

fn is_unfitted(temperature: &f64) -> bool {
    *temperature == unfitted()
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

/// What a version was trained by: on the same machine, the same program, recipe and data give it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// SHA-256 of the recipe, its defaults written out.
    pub recipe_sha256: String,
    /// Digest of the version that it began with; none where that was nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// SHA-256 of the lines that it learned from and was validated on; of pictures that they name by path the names are in it, and
    /// not the files.
    pub data_sha256: String,
    /// The step whose weights these are.
    pub step: u64,
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
        // The format first: a newer one has keys that this program does not know.
        let table: toml::Table = toml::from_str(&text).map_err(|error| unreadable(error.to_string()))?;
        let format = table.get("format").and_then(toml::Value::as_integer);
        if format != Some(FORMAT.into()) {
            let has = format.map_or("no format".to_owned(), |format| format!("format {format}"));
            return Err(unreadable(format!("it has {has}, this program reads format {FORMAT}")));
        }
        let manifest: Self = toml::from_str(&text).map_err(|error| unreadable(error.to_string()))?;
        let plain = |name: &&String| !name.contains(['/', '\\']) && !name.starts_with('.');
        if let Some(name) = manifest.files.keys().find(|name| !plain(name)) {
            return Err(unreadable(format!("`{name}` names no file of its folder")));
        }
        if !(0.01..=100.0).contains(&manifest.temperature) {
            return Err(unreadable(format!(
                "`temperature` is {}, it must lie between 0.01 and 100",
                manifest.temperature
            )));
        }
        if let Some(code) = manifest.languages.iter().find(|code| Script::of_language(code).is_none()) {
            return Err(unreadable(format!(
                "`languages` names `{code}`, which is no language that this program knows"
            )));
        }
        if !manifest.files.contains_key(WEIGHTS) {
            return Err(unreadable(format!("it does not name {WEIGHTS}")));
        }
        Ok(manifest)
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), StagingError> {
        let path = folder.join(MANIFEST);
        let text = toml::to_string_pretty(self).map_err(|error| disk(&path)(io::Error::other(error)))?;
        write_synced(&path, format!("{HEADING}{text}").as_bytes())
    }

    /// SHA-256 over names and digests of all files, and the temperature: it changes when anything that answers depend on
    /// does, and an import of the same checkpoint gives it again.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for (name, file) in &self.files {
            hash.update(format!("{}  {name}\n", file.sha256));
        }
        if !is_unfitted(&self.temperature) {
            hash.update(format!("temperature {}\n", self.temperature));
        }
        format!("sha256:{}", hex::encode(hash.finalize()))
    }

    /// The scripts that its languages are written in.
    pub fn scripts(&self) -> Vec<Script> {
        self.languages.iter().filter_map(|code| Script::of_language(code)).collect()
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes).sum()
    }

    /// Compares what was read of a folder's files with what they should be.
    ///
    /// # Errors
    /// A line for each file that differs.
    pub(super) fn compare<'f>(
        &self,
        folder: &Path,
        found: impl Iterator<Item = (&'f str, io::Result<Found>)>,
    ) -> Result<(), ManifestError> {
        let problems: Vec<String> = found.filter_map(|(name, found)| self.problem(name, found)).collect();
        if problems.is_empty() { Ok(()) } else { Err(ManifestError::Altered { folder: folder.to_owned(), problems }) }
    }

    fn problem(&self, name: &str, found: io::Result<Found>) -> Option<String> {
        let Some(file) = self.files.get(name) else { return Some(format!("{name} was not imported")) };
        let differs = match found {
            Err(error) if error.kind() == io::ErrorKind::NotFound => "is missing".to_owned(),
            Err(error) => error.to_string(),
            Ok(found) if found.bytes != file.bytes => format!("has {} bytes, it had {}", found.bytes, file.bytes),
            Ok(Found { sha256: Some(found), .. }) if found != file.sha256 => {
                format!("was changed: its SHA-256 is {found}, it was {}", file.sha256)
            }
            Ok(_) => return None,
        };
        Some(format!("{name} {differs}"))
    }
}

/// What a file turned out to be.
pub(super) struct Found {
    pub(super) bytes: u64,
    /// None where only sizes are compared.
    pub(super) sha256: Option<String>,
}

/// SHA-256 of an open file, in hexadecimal, wherever others read it.
pub(super) fn sha256_of(file: &File) -> io::Result<String> {
    let (mut hash, mut buffer, mut at) = (Sha256::new(), vec![0; 1 << 20], 0);
    loop {
        match file.read_at(&mut buffer, at)? {
            0 => return Ok(hex::encode(hash.finalize())),
            read => {
                hash.update(&buffer[..read]);
                at += read as u64;
            }
        }
    }
}

/// SHA-256 of a file, in hexadecimal.
pub(super) fn sha256(path: &Path) -> io::Result<String> {
    sha256_of(&File::open(path)?)
}
