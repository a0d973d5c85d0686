//! The loaded network of one version. Belongs to the thread that loads it, and to a pool of threads of its own on a CPU.

use std::{
    collections::HashMap,
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use burn::tensor::{Device as BurnDevice, Tensor};

use super::{
    Answer, DeviceError, ImageId, InferenceError, Judge, PassError, Prepared, Shape, Size, device, images::ImageCache,
    pool::Pool,
};
use crate::{
    message::{Device, Label, Scores},
    ofa::{AnswerTrie, Interrupt, LoadError, Ofa, OfaOptions, Row, RunError},
    store::{FolderError, VersionFolder},
    vision::Normalization,
    weights::Arithmetic,
};

/// How a version is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelOptions {
    /// Where it runs.
    pub device: Device,
    /// What it runs in.
    pub precision: Arithmetic,
    /// Threads of a pass on a CPU; zero means one for each core.
    pub threads: usize,
    /// Bound of the position biases kept per shape, in bytes.
    pub bias_cache_bytes: usize,
    /// Bound of the image features kept, in bytes; zero keeps none.
    pub image_cache_bytes: usize,
    /// Lengths of texts, in tokens, that are prepared before the version counts as loaded.
    pub warm_up_tokens: usize,
    /// Requests in a pass, for the shapes that are prepared.
    pub batch_size: usize,
}

impl ModelOptions {
    /// The defaults on a device: single precision, no kept images, nothing prepared.
    pub fn on(device: Device) -> Self {
        Self {
            device,
            precision: Arithmetic::F32,
            threads: 0,
            bias_cache_bytes: 256 << 20,
            image_cache_bytes: 0,
            warm_up_tokens: 0,
            batch_size: 1,
        }
    }

    /// Threads that a pass takes of the CPU.
    pub fn cpu_threads(&self) -> usize {
        match (self.device, self.threads) {
            (Device::Wgpu(_), _) => 0,
            (Device::Flex | Device::NdArray, 0) => device::cores(),
            (Device::Flex | Device::NdArray, threads) => threads,
        }
    }
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
    /// The system gives it no threads.
    #[error("its threads do not start: {0}")]
    Threads(String),
    /// A library gave up while it was loaded.
    #[error("loading it panicked: {0}")]
    Panicked(String),
    /// It loads and does not run.
    #[error("the first, empty request fails: {0}")]
    WarmUp(String),
}

/// A loaded version.
pub struct Model {
    network: Ofa,
    labels: Vec<Label>,
    temperature: f32,
    normalization: Normalization,
    adapter: String,
    first_request: Duration,
    images: ImageCache,
    images_reused: (usize, usize),
    powers_of_two: bool,
    /// A request that always works while the device does.
    empty: Prepared,
    /// On a CPU: how versions share it is up to their budget, not to chance.
    pool: Pool,
    /// Fields are dropped in order: the network is gone by then.
    _cleanup: Cleanup,
}

/// A device keeps the memory of what was dropped for the next one who asks; a version that goes gives it
/// back to the others on the machine.
struct Cleanup(BurnDevice);

impl Drop for Cleanup {
    fn drop(&mut self) {
        self.0.memory_cleanup();
    }
}

impl Judge for Model {
    fn attempt(&mut self, batch: &[&Prepared], interrupt: Option<&Interrupt>) -> Result<Vec<Answer>, PassError> {
        let tokens_max = self.network.source_tokens_max();
        let too_long = |request: &Prepared| {
            let tokens = request.sources.iter().map(Vec::len).max().unwrap_or_default();
            (tokens > tokens_max).then_some(InferenceError::TooManyTokens { tokens, tokens_max })
        };
        let refused: Vec<Option<InferenceError>> = batch.iter().map(|request| too_long(request)).collect();
        let good: Vec<&Prepared> =
            batch.iter().zip(&refused).filter(|(_, refused)| refused.is_none()).map(|(request, _)| *request).collect();
        // burn reports shape and device faults by panic.
        let run = catch_unwind(AssertUnwindSafe(|| self.run(&good, interrupt)));
        let mut rows = match run {
            Ok(Ok(rows)) => rows.into_iter(),
            Ok(Err(RunError::Interrupted)) => return Err(PassError::Interrupted),
            Ok(Err(error)) => return Err(PassError::Failed(error.to_string())),
            Err(panic) => return Err(PassError::Failed(panic_message(panic.as_ref()))),
        };
        let answer = |(request, refused): (&&Prepared, Option<InferenceError>)| match refused {
            Some(error) => Err(error),
            None => {
                // All of its rows, whatever they are: one left behind would answer the next request.
                let mine: Vec<Vec<f32>> = rows.by_ref().take(request.sources.len()).collect();
                mine.iter().map(|row| self.scores(row)).collect()
            }
        };
        Ok(batch.iter().zip(refused).map(answer).collect())
    }

    fn works(&mut self) -> bool {
        // Without what was kept: its ResNet must work too.
        let kept = std::mem::replace(&mut self.images, ImageCache::new(0));
        let empty = self.empty.clone();
        let works = self.attempt(&[&empty], None).is_ok_and(|answers| answers.iter().all(Result::is_ok));
        self.images = kept;
        works
    }

    fn shape(&self) -> Shape {
        Shape {
            patches: self.network.patches(),
            token_multiple: self.network.options().token_multiple,
            powers_of_two: self.powers_of_two,
        }
    }

    fn pass_bytes(&self, requests: &[Size]) -> u64 {
        let rows = requests.iter().map(|size| size.rows).sum();
        let tokens = requests.iter().map(|size| size.tokens).max().unwrap_or_default();
        self.network.pass_bytes(requests.len(), rows, tokens)
    }

    fn adapter(&self) -> String {
        self.adapter.clone()
    }

    fn memory_bytes(&self) -> u64 {
        self.network.memory_bytes() + self.images.bytes()
    }

    fn first_request(&self) -> Duration {
        self.first_request
    }

    fn images_reused(&self) -> (usize, usize) {
        self.images_reused
    }
}

impl Model {
    /// Loads a version on the calling thread, prepares the shapes that it will meet, and runs one empty request to see
    /// that it works. The digest of the weights is compared beside, where the folder was opened so.
    ///
    /// # Errors
    /// Naming the file or the device that is to blame.
    pub fn load(folder: &VersionFolder, options: ModelOptions) -> Result<Self, ModelError> {
        let device = device::open(options.device)?;
        device::supports(options.device, &device, options.precision)?;
        let threads = options.cpu_threads();
        let pool = Pool::new(threads).map_err(|error| ModelError::Threads(error.to_string()))?;
        let file = folder.open_weights()?;
        let (verified, network) = std::thread::scope(|scope| {
            let verifying = scope.spawn(|| folder.verify_weights(&file));
            let network = pool.run(|| Self::network_of(folder, &file, &device, options));
            (verifying.join(), network)
        });
        // First, because an altered file explains whatever is wrong with its tensors.
        verified.map_err(|panic| ModelError::Panicked(panic_message(panic.as_ref())))??;
        let definition = &folder.definition;
        let side = definition.task.patch_image_size as usize;
        let mut model = Self {
            network: network?,
            labels: definition.labels.clone(),
            temperature: folder.manifest.temperature as f32,
            normalization: match definition.task.imagenet_default_mean_and_std {
                true => Normalization::imagenet(),
                false => Normalization::half(),
            },
            adapter: device::adapter(options.device, &device, threads),
            first_request: Duration::ZERO,
            images: ImageCache::new(options.image_cache_bytes),
            images_reused: (0, 0),
            powers_of_two: matches!(options.device, Device::Wgpu(_)),
            empty: Prepared {
                image: ImageId::of(&[]),
                pixels: vec![127; 3 * side * side].into(),
                sources: vec![definition.prompter.source_ids("", None)],
            },
            pool,
            _cleanup: Cleanup(device),
        };
        model.warm_up(options)?;
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
            absorb: matches!(options.device, Device::Flex | Device::NdArray),
            token_multiple: device::token_multiple(options.device),
            bias_cache_bytes: options.bias_cache_bytes,
            trains: false,
        };
        Ofa::load(folder.weights(file)?, &definition.network, side, definition.trie.clone(), (device, run))
            .map_err(|source| ModelError::Load { folder: folder.path.clone(), source })
    }

    /// Runs the empty request, and meets every shape that the settings announce: on a CPU that is the position biases
    /// of every length, on a GPU a whole pass for every length and number of rows, because each has kernels to be tuned.
    fn warm_up(&mut self, options: ModelOptions) -> Result<(), ModelError> {
        let begun = Instant::now();
        let empty = self.empty.clone();
        self.warm_pass(&[&empty])?;
        self.first_request = begun.elapsed();
        let (longest, network, pool) =
            (options.warm_up_tokens.min(self.network.source_tokens_max()), &mut self.network, &self.pool);
        pool.run(|| network.prepare_lengths(longest));
        if self.powers_of_two {
            let filler = empty.sources[0].last().copied().unwrap_or_default();
            let mut images = 0_u64..;
            let multiple = self.network.options().token_multiple;
            let buckets = (0..=longest).step_by(multiple).skip(1);
            // The shortest text of a length too: its decoder, which reads one token less, is a length shorter.
            for tokens in buckets.flat_map(|tokens| [tokens + 1 - multiple, tokens]) {
                let mut source = empty.sources[0].clone();
                source.resize(tokens, filler);
                for rows in (0..).map(|power| 1_usize << power).take_while(|rows| *rows < 2 * options.batch_size) {
                    // Images of their own each: equal ones would be one.
                    let fresh = images.by_ref().take(rows).map(|image| Prepared {
                        image: ImageId::of(&image.to_le_bytes()),
                        sources: vec![source.clone()],
                        ..empty.clone()
                    });
                    let batch: Vec<Prepared> = fresh.collect();
                    self.warm_pass(&batch.iter().collect::<Vec<_>>())?;
                }
            }
            self.images = ImageCache::new(options.image_cache_bytes);
        }
        Ok(())
    }

    fn warm_pass(&mut self, batch: &[&Prepared]) -> Result<(), ModelError> {
        let failed = |reason: String| ModelError::WarmUp(reason);
        let answers = self.attempt(batch, None).map_err(|error| match error {
            PassError::Failed(reason) => failed(reason),
            PassError::Interrupted => failed("it was interrupted".to_owned()),
        })?;
        answers.into_iter().try_for_each(|answer| answer.map(drop)).map_err(|error| failed(error.to_string()))
    }

    /// The network itself, for tests and benchmarks of its parts.
    pub fn network(&mut self) -> &mut Ofa {
        &mut self.network
    }

    /// Planar floats `[images, 3, side, side]` of prepared pixels.
    pub fn floats<'p>(&self, images: impl IntoIterator<Item = &'p [u8]>) -> Vec<f32> {
        let mut planes = Vec::new();
        images.into_iter().for_each(|pixels| self.normalization.apply_to(pixels, &mut planes));
        planes
    }

    /// One request, each stage waited for and timed by itself: ResNet, encoder, decoder.
    ///
    /// # Errors
    /// When the device fails.
    pub fn stages(&mut self, request: &Prepared) -> Result<[(&'static str, Duration); 3], RunError> {
        let pixels = self.floats([&*request.pixels]);
        let rows: Vec<Row> = request.sources.iter().map(|source| Row { image: 0, source: source.clone() }).collect();
        let Self { network, pool, _cleanup: Cleanup(device), .. } = self;
        pool.run(|| {
            let mut begun = Instant::now();
            let mut lap = |stage: &'static str| {
                // A device that failed says so when the answer is read.
                device.sync().ok();
                let before = std::mem::replace(&mut begun, Instant::now());
                (stage, begun.duration_since(before))
            };
            let features = network.feature_map(pixels, None)?;
            let resnet = lap("resnet");
            let encoded = network.encode(network.image_tokens(features), &rows, None)?;
            let encoder = lap("encoder");
            network.decode(&encoded, &rows, None)?;
            Ok([resnet, encoder, lap("decoder")])
        })
    }

    /// Log-probabilities of the answers for each text of each request.
    fn run(&mut self, batch: &[&Prepared], interrupt: Option<&Interrupt>) -> Result<Vec<Vec<f32>>, RunError> {
        // Each image once, however many requests are about it.
        let mut images: Vec<&Prepared> = Vec::new();
        let mut places = HashMap::new();
        let mut rows = Vec::new();
        for request in batch {
            let image = *places.entry(request.image).or_insert_with(|| {
                images.push(request);
                images.len() - 1
            });
            rows.extend(request.sources.iter().map(|source| Row { image, source: source.clone() }));
        }
        let asked = rows.len();
        if let Some(last) = rows.last().filter(|_| self.powers_of_two).cloned() {
            rows.resize(asked.next_power_of_two(), last);
        }
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let known: Vec<Option<Tensor<3>>> = images.iter().map(|request| self.images.get(&request.image)).collect();
        let new: Vec<&Prepared> =
            images.iter().zip(&known).filter(|(_, known)| known.is_none()).map(|(request, _)| *request).collect();
        self.images_reused = (batch.len() - new.len(), batch.len());
        let mut pixels = self.floats(new.iter().map(|request| &*request.pixels));
        if self.powers_of_two && !new.is_empty() {
            pixels.resize(pixels.len() / new.len() * new.len().next_power_of_two(), 0.0);
        }
        let Self { network, images: kept, pool, .. } = self;
        let ids: Vec<ImageId> = new.iter().map(|request| request.image).collect();
        let mut answers = pool.run(move || {
            let fresh = match ids.is_empty() {
                true => None,
                false => Some(network.image_tokens(network.feature_map(pixels, interrupt)?)),
            };
            let tokens = ImageCache::complete(known, fresh.clone(), ids.len());
            let answers = network.answer(tokens, &rows, interrupt)?;
            // Only now: a device's faults show when its answers are read.
            if answers.iter().flatten().all(|score| score.is_finite()) {
                kept.keep(fresh, &ids);
            }
            Ok::<_, RunError>(answers)
        })?;
        answers.truncate(asked);
        Ok(answers)
    }

    fn scores(&self, log_probabilities: &[f32]) -> Result<Scores, InferenceError> {
        let probabilities = AnswerTrie::probabilities(log_probabilities, self.temperature);
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
