//! The loop.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use burn::{
    grad_clipping::GradientClippingConfig,
    optim::{AdamWConfig, ModuleOptimizer},
    tensor::{Device as BurnDevice, Int, Tensor, TensorData, activation::log_softmax},
};
use sha2::{Digest, Sha256};

use super::{
    History, Measured, Recipe, TrainError, Workshop,
    batches::{Batch, Batches},
    disk,
    schedule::learning_rate,
    start,
    workshop::write,
};
use crate::{
    dataset::{self, Example, Reader},
    engine::{Preparer, open_device},
    evaluation::temperature,
    message::{Device, Label, VersionName},
    ofa::{Ofa, OfaOptions},
    store::{Definition, ImportOptions, Manifest, Texts, Thoroughness, VersionFolder, Watch, import},
    vision::{Limits, Normalization},
    weights::{Precision, Weights},
};

/// What is to be trained.
#[derive(Clone, Debug)]
pub struct Job {
    /// The recipe's file, for errors.
    pub recipe_path: PathBuf,
    /// How.
    pub recipe: Recipe,
    /// The folder of the data set.
    pub data: PathBuf,
    /// The folder of versions that it goes into.
    pub models: PathBuf,
    /// The version's name.
    pub name: VersionName,
    /// The version that it begins with; none is nothing.
    pub from: Option<PathBuf>,
    /// Where it is trained.
    pub device: Device,
    /// How its weights are stored.
    pub dtype: Precision,
    /// Whether a version of that name is replaced.
    pub replace: bool,
    /// Whether what was begun there before is forgotten.
    pub restart: bool,
}

/// What those outside may want to show.
#[derive(Clone, Debug)]
pub enum Event<'e> {
    /// It begins, or goes on.
    Begun {
        /// Examples to learn from and to validate on.
        examples: [usize; 2],
        /// Parameters.
        parameters: usize,
        /// Steps done before.
        step: usize,
    },
    /// A step was done.
    Step {
        /// Which, from 1.
        step: usize,
        /// Its loss.
        loss: f64,
    },
    /// It looked at the validation split.
    Looked(&'e Measured),
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Trained {
    /// How it went.
    pub history: History,
    /// What lies in the folder of versions now.
    pub manifest: Manifest,
}

const LIMITS: Limits = Limits { bytes_max: 1 << 28, pixels_max: 1 << 26 };
/// Pictures of one pass over the validation split.
const VALIDATED: usize = 32;
const CACHE_BYTES: usize = 64 << 20;

/// Trains a version, or goes on where it was interrupted, and puts the best checkpoint into its place.
///
/// # Errors
/// What is wrong, with the file or key; after an interruption nothing that was validated is lost.
pub fn train(job: &Job, watch: &mut dyn FnMut(Event<'_>), cancelled: &AtomicBool) -> Result<Trained, TrainError> {
    let learned = dataset::read(&job.data.join("train.jsonl"))?;
    let validated = dataset::read(&job.data.join("validation.jsonl"))?;
    let workshop = Workshop::new(&job.models, job.name.as_str());
    let fingerprint = fingerprint(job)?;
    // Only now: a mistake in the recipe or the data must not cost what hours have made.
    if job.restart {
        workshop.clear()?;
    }
    let (mut history, texts) = match workshop.history()? {
        Some(history) if history.fingerprint[0] != fingerprint[0] => {
            return Err(TrainError::Other { path: workshop.folder().to_owned(), what: "the recipe differs" });
        }
        Some(history) if history.fingerprint[1] != fingerprint[1] => {
            return Err(TrainError::Other { path: workshop.folder().to_owned(), what: "the data differs" });
        }
        Some(history) => (history, workshop.texts()?),
        None => (History { fingerprint, ..History::default() }, begin(job, &workshop, &learned)?),
    };
    let definition = Definition::parse(&texts)?;
    let device = open_device(job.device)?;
    let mut learner = Learner::open(job, &workshop, &definition, &device, history.step)?;
    let batches = |examples: &[Example]| {
        let normalization = match definition.task.imagenet_default_mean_and_std {
            true => Normalization::imagenet(),
            false => Normalization::half(),
        };
        Batches::new(examples, Reader::new(&job.data), Preparer::new(&definition, LIMITS), normalization, LIMITS)
    };
    let (learned, validated) = (batches(&learned), batches(&validated));
    watch(Event::Begun {
        examples: [learned.examples(), validated.examples()],
        parameters: learner.network.parameters(),
        step: history.step,
    });
    let Recipe { steps, pictures, seed, warm_up, learning_rate: highest, validate_every, .. } = job.recipe;
    let (mut begun, mut losses) = (Instant::now(), Vec::new());
    for step in history.step..steps {
        if cancelled.load(Ordering::Relaxed) {
            return Err(TrainError::Stopped { step: history.step });
        }
        let batch = learned.of_step(step, pictures, seed)?;
        let loss = learner.step(batch, learning_rate(step, steps, warm_up, highest))?;
        if !loss.is_finite() {
            return Err(TrainError::Diverged { step: step + 1 });
        }
        losses.push(loss);
        watch(Event::Step { step: step + 1, loss });
        if (step + 1) % validate_every == 0 || step + 1 == steps {
            let (loss, accuracy, _) = learner.validate(&validated)?;
            if !loss.is_finite() {
                return Err(TrainError::Diverged { step: step + 1 });
            }
            let training_loss = losses.iter().sum::<f64>() / losses.len() as f64;
            losses.clear();
            let look = Measured { step: step + 1, training_loss, loss, accuracy };
            let is_best = history.best().is_none_or(|best| accuracy > best.accuracy);
            history.looks.push(look);
            history.step = step + 1;
            history.seconds += begun.elapsed().as_secs_f64();
            begun = Instant::now();
            learner.keep(&workshop, step + 1, is_best)?;
            workshop.keep_history(&history)?;
            watch(Event::Looked(&look));
        }
    }
    let mut best = learner.reopen(&workshop.best().join("model.safetensors"))?;
    let (_, _, answers) = best.validate(&validated)?;
    let temperature = temperature(&answers);
    let options = ImportOptions {
        models: job.models.clone(),
        name: job.name.clone(),
        dtype: job.dtype,
        tokenizer: None,
        replace: job.replace,
        pulled: None,
        temperature,
    };
    let manifest = import(&workshop.best(), &options, Watch { progress: &|_, _| {}, cancelled })?;
    Ok(Trained { history, manifest })
}

/// Of the recipe with what it begins with, and of the examples.
fn fingerprint(job: &Job) -> Result<[String; 2], TrainError> {
    let mut recipe = Sha256::new();
    recipe.update(toml::to_string(&job.recipe).unwrap_or_default());
    if let Some(from) = &job.from {
        recipe.update(VersionFolder::open(from, Thoroughness::Sizes).map_err(refused(from))?.manifest.digest());
    }
    let mut data = Sha256::new();
    for split in ["train.jsonl", "validation.jsonl"] {
        let path = job.data.join(split);
        data.update(fs::read(&path).map_err(disk(&path))?);
    }
    Ok([hex::encode(recipe.finalize()), hex::encode(data.finalize())])
}

fn refused(path: &Path) -> impl FnOnce(crate::store::FolderError) -> TrainError {
    let path = path.to_owned();
    move |error| TrainError::Recipe { path, reason: error.to_string() }
}

/// Puts what training begins with into the workshop.
fn begin(job: &Job, workshop: &Workshop, learned: &[Example]) -> Result<Texts, TrainError> {
    let Some(from) = &job.from else {
        let texts = start::texts(&job.recipe, &job.recipe_path, learned)?;
        let definition = Definition::parse(&texts)?;
        workshop.begin(&texts, &start::weights(&definition.network, job.recipe.seed)?)?;
        return Ok(texts);
    };
    if !job.recipe.network.is_empty() || !job.recipe.task.is_empty() {
        let reason = format!("[network] and [task] come from {}: leave them out", from.display());
        return Err(TrainError::Recipe { path: job.recipe_path.clone(), reason });
    }
    let folder = VersionFolder::open(from, Thoroughness::Hashes).map_err(refused(from))?;
    let file = folder.open_weights().map_err(refused(from))?;
    let weights = folder.weights(&file).map_err(refused(from))?;
    let mut published = Vec::new();
    for (name, tensor) in weights.iter() {
        let values = tensor
            .floats()
            .map_err(|error| TrainError::Recipe { path: from.clone(), reason: format!("{name} {error}") })?;
        published.push((name.to_owned(), tensor.shape().to_vec(), values));
    }
    let texts = Texts::read(from)?;
    workshop.begin(&texts, &published)?;
    Ok(texts)
}

/// A network that learns, and the one that is asked how far it is.
struct Learner<'d> {
    network: Ofa,
    asked: Ofa,
    optimizer: ModuleOptimizer,
    definition: &'d Definition,
    device: BurnDevice,
    label_smoothing: f64,
    /// Weight of the loss of captions.
    captions: f64,
}

/// Log-probabilities of the answers, and which of them is right.
type Answers = Vec<(Vec<f32>, usize)>;

impl<'d> Learner<'d> {
    fn open(
        job: &Job,
        workshop: &Workshop,
        definition: &'d Definition,
        device: &BurnDevice,
        step: usize,
    ) -> Result<Self, TrainError> {
        let Recipe { weight_decay, gradient_norm_max, label_smoothing, captions, .. } = job.recipe;
        let network = load(&workshop.last(step), definition, device)?.into_training()?;
        let asked = load(&workshop.last(step), definition, device)?;
        let mut optimizer = AdamWConfig::new()
            .with_weight_decay(weight_decay)
            .with_epsilon(1e-8)
            .with_grad_clipping(Some(GradientClippingConfig::Norm(gradient_norm_max)))
            .init();
        if step > 0 {
            let path = workshop.optimizer(step);
            optimizer = optimizer.load(&path).map_err(|error| disk(&path)(std::io::Error::other(error.to_string())))?;
        }
        Ok(Self { network, asked, optimizer, definition, device: device.clone(), label_smoothing, captions })
    }

    /// The same, with other weights, to be asked.
    fn reopen(self, weights: &Path) -> Result<Self, TrainError> {
        let network = load(weights, self.definition, &self.device)?.into_training()?;
        Ok(Self { network, ..self })
    }

    fn answer_of(&self, label: Label) -> usize {
        self.definition.labels.iter().position(|other| *other == label).unwrap_or_default()
    }

    /// One step; gives back the loss of its answers.
    fn step(&mut self, batch: Batch, rate: f64) -> Result<f64, TrainError> {
        let Batch { pixels, rows, labels } = batch;
        let entailed = |(row, label): (usize, &Label)| (*label == Label::Yes).then_some(row);
        let captions: Vec<usize> = match self.captions > 0.0 {
            true => labels.iter().enumerate().filter_map(entailed).collect(),
            false => Vec::new(),
        };
        let logits = self.network.learned_logits(pixels, &rows, &captions)?;
        let [_, answers] = logits.answers.dims();
        // Of the smoothed share every answer gets the same (Szegedy et al., 2016).
        let others = self.label_smoothing / answers as f64;
        let mut targets = vec![others as f32; rows.len() * answers];
        for (row, label) in labels.iter().enumerate() {
            targets[row * answers + self.answer_of(*label)] += 1.0 - self.label_smoothing as f32;
        }
        let targets = Tensor::<2>::from_data(TensorData::new(targets, [rows.len(), answers]), &self.device);
        let mut loss = (log_softmax(logits.answers, 1) * targets).sum() / -(rows.len() as f64);
        let value = loss.clone().try_into_vec_as::<f32>().map_err(crate::ofa::RunError::from)?;
        if let Some(logits) = logits.captions {
            let next: Vec<i64> =
                captions.iter().flat_map(|row| rows[*row].source.iter().skip(1).map(|id| i64::from(*id))).collect();
            let shape = [next.len(), 1];
            let next = Tensor::<2, Int>::from_data(TensorData::new(next, shape), &self.device);
            loss = loss - log_softmax(logits, 1).gather(1, next).mean() * self.captions;
        }
        self.network.learn(&mut self.optimizer, rate, &loss);
        Ok(value.first().copied().map_or(f64::NAN, f64::from))
    }

    /// Mean loss and accuracy, and what they come from.
    fn validate(&mut self, batches: &Batches) -> Result<(f64, f64, Answers), TrainError> {
        self.asked.take_over(&self.network);
        let (mut answers, mut loss, mut right) = (Answers::new(), 0.0, 0);
        for batch in batches.in_order(VALIDATED) {
            let batch = batch?;
            let images = self.asked.image_tokens(self.asked.feature_map(batch.pixels, None)?);
            let scores = self.asked.answer(images, &batch.rows, None)?;
            for (scores, label) in scores.into_iter().zip(batch.labels) {
                let correct = self.answer_of(label);
                loss -= f64::from(scores[correct]);
                right += usize::from((0..scores.len()).all(|other| scores[other] <= scores[correct]));
                answers.push((scores, correct));
            }
        }
        let all = answers.len().max(1) as f64;
        Ok((loss / all, right as f64 / all, answers))
    }

    fn keep(&self, workshop: &Workshop, step: usize, is_best: bool) -> Result<(), TrainError> {
        let weights = self.network.published();
        if is_best {
            workshop.keep_best(&weights)?;
        }
        workshop.keep_last(step, &weights)?;
        write(&workshop.optimizer(step), |path| self.optimizer.save(path).map_err(std::io::Error::other))
    }
}

fn options() -> OfaOptions {
    OfaOptions {
        precision: Precision::F32,
        kernels: false,
        absorb: false,
        token_multiple: 1,
        bias_cache_bytes: CACHE_BYTES,
        trains: true,
    }
}

fn load(weights: &Path, definition: &Definition, device: &BurnDevice) -> Result<Ofa, TrainError> {
    let side = definition.task.patch_image_size as usize;
    let weights = Weights::open(&[weights])?;
    Ok(Ofa::load(weights, &definition.network, side, definition.trie.clone(), (device, options()))?)
}
