//! The loaded network of one version. Belongs to the thread that loads it.

use std::{
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use burn::tensor::Device as BurnDevice;

use super::{DeviceError, Judge, Prepared, device};
use crate::{
    message::{Device, Label, Scores},
    ofa::{AnswerTrie, Batch, LoadError, Ofa, OfaOptions, Row},
    store::{FolderError, VersionFolder},
    weights::Precision,
};

/// How a version is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelOptions {
    /// Where it runs.
    pub device: Device,
    /// What it runs in.
    pub precision: Precision,
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
    /// A library gave up while it was loaded.
    #[error("loading it panicked: {0}")]
    Panicked(String),
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
    adapter: String,
    first_request: Duration,
    /// A request that always works while the device does.
    empty: Prepared,
    /// Fields are dropped in order: the network is gone by then.
    _cleanup: Cleanup,
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

    fn adapter(&self) -> String {
        self.adapter.clone()
    }

    fn memory_bytes(&self) -> u64 {
        self.network.memory_bytes()
    }

    fn first_request(&self) -> Duration {
        self.first_request
    }
}

/// A device keeps the memory of what was dropped for the next one who asks; a version that goes gives it
/// back to the others on the machine.
struct Cleanup(BurnDevice);

impl Drop for Cleanup {
    fn drop(&mut self) {
        self.0.memory_cleanup();
    }
}

impl Model {
    /// Loads a version on the calling thread, and runs one empty request to see that it works. The
    /// digest of the weights is compared beside, where the folder was opened so.
    ///
    /// # Errors
    /// Naming the file or the device that is to blame.
    pub fn load(folder: &VersionFolder, options: ModelOptions) -> Result<Self, ModelError> {
        let device = device::open(options.device)?;
        device::supports(options.device, &device, options.precision)?;
        let file = folder.open_weights()?;
        let (verified, network) = std::thread::scope(|scope| {
            let verifying = scope.spawn(|| folder.verify_weights(&file));
            let network = Self::network_of(folder, &file, &device, options);
            (verifying.join(), network)
        });
        // First, because an altered file explains whatever is wrong with its tensors.
        verified.map_err(|panic| ModelError::Panicked(panic_message(panic.as_ref())))??;
        let definition = &folder.definition;
        let side = definition.task.patch_image_size as usize;
        let empty =
            Prepared { pixels: vec![0.0; 3 * side * side], sources: vec![definition.prompter.source_ids("", None)] };
        let mut model = Self {
            network: network?,
            labels: definition.labels.clone(),
            adapter: device::adapter(options.device, &device),
            first_request: Duration::ZERO,
            empty: empty.clone(),
            _cleanup: Cleanup(device),
        };
        let begun = Instant::now();
        for scores in model.attempt(&[&empty]).map_err(ModelError::WarmUp)? {
            scores.map_err(ModelError::WarmUp)?;
        }
        model.first_request = begun.elapsed();
        Ok(model)
    }

    fn network_of(
        folder: &VersionFolder,
        file: &Arc<File>,
        device: &BurnDevice,
        options: ModelOptions,
    ) -> Result<Ofa, ModelError> {
        let definition = &folder.definition;
        let side = definition.task.patch_image_size as usize;
        let run = OfaOptions {
            precision: options.precision,
            kernels: options.device == Device::Flex,
            token_multiple: device::token_multiple(options.device),
            bias_cache_bytes: options.bias_cache_bytes,
        };
        Ofa::load(folder.weights(file)?, &definition.network, side, definition.trie.clone(), (device, run))
            .map_err(|source| ModelError::Load { folder: folder.path.clone(), source })
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
