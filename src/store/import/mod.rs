//! From a published checkpoint to a version folder.
//!
//! * [`Source`]: which layout a folder or file has.
//! * `fairseq`: the names, settings and dictionary of OFA's own release.
//! * [`import()`]: checks everything, then writes one tensor after the other.

mod bpe;
mod fairseq;
mod source;

use std::path::{Path, PathBuf};

use jiff::Timestamp;

pub use source::Source;

use super::{
    Architecture, Definition, DefinitionError, FileRecord, FolderError, Manifest, Origin, StagingError, Thoroughness,
    Training, VersionFolder, Watch,
    manifest::{WEIGHTS, english, sha256},
    staging::{Staging, disk, write_synced},
};
use crate::{
    message::VersionName,
    ofa::{CheckpointError, Wanted, compare, wanted_tensors},
    weights::{Precision, TensorError, Weights, WeightsError, Writer},
};

/// A checkpoint that is not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The path is no checkpoint.
    #[error("{}: {reason}", path.display())]
    NoCheckpoint {
        /// The path.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// A text file is not right.
    #[error("{}: {source}", path.display())]
    Definition {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong.
        source: DefinitionError,
    },
    /// The settings inside a fairseq file are not supported.
    #[error("{}: its settings have {option} = {value}: {reason}", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// The option.
        option: String,
        /// Its value, or `nothing`.
        value: String,
        /// What is supported.
        reason: String,
    },
    /// A file of weights is not right.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The tensors do not fit.
    #[error("{}: {source}", path.display())]
    Tensors {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong.
        source: CheckpointError,
    },
    /// A tensor's values are not right.
    #[error("{}: {name} {source}", path.display())]
    Tensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What is wrong.
        source: TensorError,
    },
    /// A value is too large for half precision.
    #[error("{}: {name} holds a value beyond 65504, which half precision cannot: import it with --dtype f32", path.display())]
    TooLarge {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// The version's folder cannot be made.
    #[error(transparent)]
    Staging(#[from] StagingError),
    /// The version that came of it could not be served.
    #[error("the imported version would not start: {0}")]
    Unusable(#[from] FolderError),
}

/// Where a version goes, and how it is stored.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// The folder of versions.
    pub models: PathBuf,
    /// The version's name.
    pub name: VersionName,
    /// How the weights are stored.
    pub dtype: Precision,
    /// Folder of vocabulary and merges, where they do not lie beside the checkpoint.
    pub tokenizer: Option<PathBuf>,
    /// Whether a version of this name is replaced.
    pub replace: bool,
    /// Where the checkpoint was pulled from: model id and revision.
    pub pulled: Option<(String, String)>,
    /// What its answers' log-probabilities are to be divided by; 1 where nobody has fitted it.
    pub temperature: f64,
    /// What it was trained by, where this program has trained it.
    pub trained: Option<Training>,
    /// The languages that it was trained on; English where there are none.
    pub languages: Vec<String>,
}

/// Imports a checkpoint. The version's folder appears whole, or not at all.
///
/// # Errors
/// Naming the file, option or tensor that is not right.
pub fn import(path: &Path, options: &ImportOptions, watch: Watch<'_>) -> Result<Manifest, ImportError> {
    let source = Source::recognise(path)?;
    // Before the work rather than after it.
    let staging = Staging::new(&options.models, &options.name, options.replace)?;
    let (texts, weights) = source.open(options.tokenizer.as_deref())?;
    let definition =
        Definition::parse(&texts).map_err(|error| ImportError::Definition { path: path.to_owned(), source: error })?;
    let wanted = wanted_tensors(&definition.network)
        .map_err(|error| ImportError::Definition { path: path.to_owned(), source: error.into() })?;
    compare(&weights, &wanted).map_err(|error| ImportError::Tensors { path: path.to_owned(), source: error })?;
    let mut files = std::collections::BTreeMap::new();
    for (name, content) in texts.files() {
        let file = staging.folder().join(name);
        write_synced(&file, content.as_bytes())?;
        files.insert(name.to_owned(), FileRecord::of(content.as_bytes()));
    }
    let written = write(path, weights, &wanted, &staging.folder().join(WEIGHTS), options.dtype, watch)?;
    files.insert(WEIGHTS.to_owned(), written);
    let mut hashes = std::collections::BTreeMap::new();
    for file in source.weight_files() {
        watch.check()?;
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        hashes.insert(name, sha256(file).map_err(disk(file))?);
    }
    let (model_id, revision) = options.pulled.clone().unzip();
    let architecture = Architecture::new(&definition.network, &wanted);
    let manifest = Manifest {
        format: Manifest::FORMAT,
        architecture: architecture.name().to_owned(),
        parameters: architecture.parameters(),
        dtype: options.dtype,
        imported_by: format!("ofa-stream {}", env!("CARGO_PKG_VERSION")),
        imported_at: Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        temperature: options.temperature,
        languages: if options.languages.is_empty() { english() } else { options.languages.clone() },
        source: Origin { layout: source.layout().to_owned(), name: source.name(), model_id, revision, weights: hashes },
        trained: options.trained.clone(),
        files,
    };
    manifest.write(staging.folder())?;
    // Whatever would keep it from being served is found here, not at the next start.
    VersionFolder::open(staging.folder(), Thoroughness::Sizes)?;
    watch.check()?;
    staging.publish()?;
    Ok(manifest)
}

/// Writes the wanted tensors that are there, one in memory at a time.
fn write(
    path: &Path,
    mut weights: Weights,
    wanted: &[Wanted],
    file: &Path,
    dtype: Precision,
    watch: Watch<'_>,
) -> Result<FileRecord, ImportError> {
    let present: Vec<_> = wanted.iter().filter_map(|wanted| Some((wanted, weights.take(&wanted.name)?))).collect();
    let total = present.iter().map(|(_, tensor)| (tensor.len() * dtype.bytes()) as u64).sum();
    let shapes = present.iter().map(|(wanted, _)| (wanted.name.as_str(), wanted.shape.as_slice()));
    let mut writer = Writer::create(file, dtype, shapes).map_err(disk(file))?;
    let mut done = 0;
    for (Wanted { name, .. }, tensor) in &present {
        watch.check()?;
        let values = tensor.floats().map_err(|source| ImportError::Tensor {
            path: path.to_owned(),
            name: name.clone(),
            source,
        })?;
        if !writer.write(&values).map_err(disk(file))? {
            return Err(ImportError::TooLarge { path: path.to_owned(), name: name.clone() });
        }
        done += (values.len() * dtype.bytes()) as u64;
        (watch.progress)(done, total);
    }
    let (bytes, sha256) = writer.finish().map_err(disk(file))?;
    Ok(FileRecord { bytes, sha256 })
}
