//! The loaded network of one version. Belongs to the thread that loads it.

use std::{
    fs::File,
    io::{self, Read},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use sha2::{Digest, Sha256};

use super::{DeviceError, FolderError, Judge, Prepared, VersionFolder, device};
use crate::{
    message::{Device, Label, Scores},
    ofa::{AnswerTrie, Batch, Checkpoint, CheckpointError, LoadError, Ofa, OfaOptions, Row},
};

/// How a version is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelOptions {
    /// Where it runs.
    pub device: Device,
    /// Bound of the position biases kept per shape, in bytes.
    pub bias_cache_bytes: usize,
}

/// A version that does not load.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Its files are not right.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Its device is not there.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Its tensors do not make a network.
    #[error("{}: {source}", folder.display())]
    Load {
        /// The folder.
        folder: std::path::PathBuf,
        /// What is wrong.
        source: LoadError,
    },
    /// Its weights cannot be read.
    #[error("{}: {reason}", path.display())]
    Weights {
        /// The file.
        path: std::path::PathBuf,
        /// What the system says.
        reason: String,
    },
    /// It loads and does not run.
    #[error("the first, empty request fails: {0}")]
    WarmUp(InferenceError),
}

/// A request that the network did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InferenceError {
    /// The answer is not a number.
    #[error("the network's answer is not a finite number")]
    NotFinite,
    /// A text is longer than the model has positions.
    #[error("a text has {tokens} tokens with its prompt, this version has positions for {tokens_max}")]
    TooManyTokens {
        /// What it has.
        tokens: usize,
        /// What the version can hold.
        tokens_max: usize,
    },
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(String),
    /// The version answers nothing any more.
    #[error("the version has stopped working: {0}")]
    Stopped(String),
}

impl InferenceError {
    /// The stable code of this error: the metric label and the dead-letter header.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFinite => "inference_not_finite",
            Self::TooManyTokens { .. } => "text_too_long",
            Self::Device(_) => "inference_failed",
            Self::Stopped(_) => "version_stopped",
        }
    }
}

/// A loaded version.
pub struct Model {
    network: Ofa,
    labels: Vec<Label>,
    digest: String,
    /// A request that always works while the device does.
    empty: Prepared,
}

impl Judge for Model {
    /// Where the batch fails as a whole each request is tried alone, so that one bad request does not
    /// cost its neighbours. Where one fails alone and the empty request does too, it is not the
    /// request: the version is broken.
    fn judge(&mut self, batch: &[&Prepared]) -> Vec<Result<Vec<Scores>, InferenceError>> {
        match self.attempt(batch) {
            Ok(answers) => answers,
            Err(_) if batch.len() > 1 => batch.iter().flat_map(|request| self.judge(&[request])).collect(),
            Err(error @ InferenceError::TooManyTokens { .. }) => vec![Err(error)],
            Err(error) => {
                let empty = self.empty.clone();
                let request_is_to_blame = self.attempt(&[&empty]).is_ok();
                vec![Err(if request_is_to_blame { error } else { InferenceError::Stopped(error.to_string()) })]
            }
        }
    }

    fn digest(&self) -> &str {
        &self.digest
    }

    fn parameters(&self) -> usize {
        self.network.parameters()
    }
}

impl Model {
    /// Loads a version on the calling thread, and runs one empty request to see that it works.
    ///
    /// # Errors
    /// Naming the file or the device that is to blame.
    pub fn load(path: &Path, folder: &VersionFolder, options: ModelOptions) -> Result<Self, ModelError> {
        let device = device::open(options.device)?;
        let load = |source: LoadError| ModelError::Load { folder: path.to_owned(), source };
        let checkpoint =
            Checkpoint::open(&folder.weights, &device).map_err(|error: CheckpointError| load(error.into()))?;
        let side = folder.task.patch_image_size as usize;
        let run = OfaOptions {
            token_multiple: device::token_multiple(options.device),
            bias_cache_bytes: options.bias_cache_bytes,
        };
        let network = Ofa::load(checkpoint, &folder.network, side, folder.trie.clone(), run).map_err(load)?;
        let digest = sha256(&folder.weights)
            .map_err(|error| ModelError::Weights { path: folder.weights.clone(), reason: error.to_string() })?;
        let empty =
            Prepared { pixels: vec![0.0; 3 * side * side], sources: vec![folder.prompter.source_ids("", None)] };
        let mut model = Self { network, labels: folder.labels.clone(), digest, empty: empty.clone() };
        for scores in model.attempt(&[&empty]).map_err(ModelError::WarmUp)? {
            scores.map_err(ModelError::WarmUp)?;
        }
        Ok(model)
    }

    /// The network itself, for tests and benchmarks of its parts.
    pub fn network(&mut self) -> &mut Ofa {
        &mut self.network
    }

    fn attempt(&mut self, batch: &[&Prepared]) -> Result<Vec<Result<Vec<Scores>, InferenceError>>, InferenceError> {
        let tokens_max = self.network.source_tokens_max();
        let tokens = batch.iter().flat_map(|request| request.sources.iter().map(Vec::len)).max().unwrap_or_default();
        if tokens > tokens_max {
            return Err(InferenceError::TooManyTokens { tokens, tokens_max });
        }
        let rows = batch.iter().enumerate().flat_map(|(image, request)| {
            request.sources.iter().map(move |source| Row { image, source: source.clone() })
        });
        let input =
            Batch { images: batch.iter().map(|request| request.pixels.clone()).collect(), rows: rows.collect() };
        // burn reports shape and device faults by panic.
        let answered = catch_unwind(AssertUnwindSafe(|| self.network.answer(&input)));
        let mut answers = match answered {
            Ok(Ok(answers)) => answers.into_iter(),
            Ok(Err(error)) => return Err(InferenceError::Device(error.to_string())),
            Err(panic) => return Err(InferenceError::Device(panic_message(panic.as_ref()))),
        };
        let of_request =
            |request: &&Prepared| answers.by_ref().take(request.sources.len()).map(|row| self.scores(&row)).collect();
        Ok(batch.iter().map(of_request).collect())
    }

    fn scores(&self, log_probabilities: &[f32]) -> Result<Scores, InferenceError> {
        let probabilities = AnswerTrie::probabilities(log_probabilities);
        if probabilities.iter().any(|probability| !probability.is_finite()) {
            return Err(InferenceError::NotFinite);
        }
        let mut scores = Scores::default();
        for (label, probability) in self.labels.iter().zip(probabilities) {
            match label {
                Label::Yes => scores.yes = probability,
                Label::No => scores.no = probability,
                Label::Maybe => scores.maybe = probability,
            }
        }
        Ok(scores)
    }
}

/// What a caught panic says.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "it panicked without a message".to_owned())
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(format!("sha256:{}", hex::encode(hash.finalize()))),
            read => hash.update(&buffer[..read]),
        }
    }
}
