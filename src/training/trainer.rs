//! The loop.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use sha2::{Digest, Sha256};

use super::{
    Captions, History, Measured, Recipe, TrainError, Workshop,
    batches::{Among, Batches, has_caption},
    disk,
    learner::{Learner, Validated},
    schedule::learning_rate,
    start,
    workshop::Fingerprint,
};
use crate::{
    dataset::{self, Example, Reader},
    engine::{Preparer, open_device},
    evaluation::temperature,
    message::{Device, VersionName},
    store::{Definition, ImportOptions, Manifest, Texts, Thoroughness, Training, VersionFolder, Watch, import},
    vision::{Limits, Normalization},
    weights::Precision,
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
        /// Its loss: of the answers, or of captions where it learned nothing else.
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

const LIMITS: Limits = Limits { bytes_max: 1 << 28, pixels_max: 1 << 26, decode_bytes_max: u64::MAX };

/// Trains a version, or goes on where it was interrupted, and puts the best checkpoint into its place.
///
/// # Errors
/// What is wrong, with the file or key; after an interruption nothing that was validated is lost.
pub fn train(
    job: &Job,
    watch: &mut (dyn FnMut(Event<'_>) + Send),
    cancelled: &AtomicBool,
) -> Result<Trained, TrainError> {
    // From outside of rayon's pool every one of thousands of small operations would wait for a thread of it to wake up.
    rayon::scope(|_| within_the_pool(job, watch, cancelled))
}

fn within_the_pool(
    job: &Job,
    watch: &mut (dyn FnMut(Event<'_>) + Send),
    cancelled: &AtomicBool,
) -> Result<Trained, TrainError> {
    let learned = dataset::read(&job.data.join("train.jsonl"))?;
    let validated = dataset::read(&job.data.join("validation.jsonl"))?;
    if job.recipe.captions.first_steps > 0 && !learned.iter().any(has_caption) {
        let reason = "`captions.first_steps` needs examples with a `description`, or with the label yes: there are none to learn from";
        return Err(TrainError::Recipe { path: job.recipe_path.clone(), reason: reason.to_owned() });
    }
    let workshop = Workshop::new(&job.models, job.name.as_str());
    let fingerprint = fingerprint(job)?;
    let _entered = workshop.enter()?;
    // Only now: a mistake in the recipe or the data must not cost what hours have made.
    if job.restart {
        workshop.clear()?;
    }
    let (mut history, texts) = match workshop.history()? {
        Some(history) => match history.fingerprint.differs(&fingerprint) {
            Some(what) => return Err(TrainError::Other { path: workshop.folder().to_owned(), what }),
            None => (history, workshop.texts()?),
        },
        None => (History { fingerprint, ..History::default() }, begin(job, &workshop, &learned)?),
    };
    let definition = Definition::parse(&texts)?;
    let device = open_device(job.device)?;
    let mut learner = Learner::open(&job.recipe, &workshop, &definition, &device, history.step)?;
    let positions = learner.network.source_tokens_max();
    let batches = |examples: &[Example]| {
        let normalization = if definition.task.imagenet_default_mean_and_std {
            Normalization::imagenet()
        } else {
            Normalization::half()
        };
        let (reader, preparer) = (Reader::new(&job.data), Preparer::new(&definition, LIMITS));
        Batches::new(examples, reader, preparer, normalization, (LIMITS, positions))
    };
    let (learned, validated) = (batches(&learned)?, batches(&validated)?);
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
        let Captions { first_steps, first_pictures, .. } = job.recipe.captions;
        let judges = step >= first_steps;
        let (passed, size, among) = if judges {
            (first_steps * first_pictures + (step - first_steps) * pictures, pictures, Among::All)
        } else {
            (step * first_pictures, first_pictures, Among::Captioned)
        };
        let batch = learned.after(passed, size, seed, among)?;
        let loss = learner.step(batch, learning_rate(step, steps, warm_up, highest), judges)?;
        if !loss.is_finite() {
            return Err(TrainError::Diverged { step: step + 1 });
        }
        if judges {
            losses.push(loss);
        }
        watch(Event::Step { step: step + 1, loss });
        if (step + 1) % validate_every == 0 || step + 1 == steps {
            let Validated { loss, caption_loss, accuracy, .. } = learner.validate(&validated)?;
            if !loss.is_finite() {
                return Err(TrainError::Diverged { step: step + 1 });
            }
            let training_loss = (!losses.is_empty()).then(|| losses.iter().sum::<f64>() / losses.len() as f64);
            losses.clear();
            let look = Measured { step: step + 1, training_loss, loss, caption_loss, accuracy };
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
    let temperature = temperature(&best.validate(&validated)?.answers);
    let options = ImportOptions {
        models: job.models.clone(),
        name: job.name.clone(),
        dtype: job.dtype,
        tokenizer: None,
        replace: job.replace,
        pulled: None,
        temperature,
        trained: history.best().map(|best| Training {
            recipe_sha256: history.fingerprint.recipe.clone(),
            from: history.fingerprint.from.clone(),
            data_sha256: history.fingerprint.data.clone(),
            step: best.step as u64,
        }),
        languages: Vec::new(),
    };
    let manifest = import(&workshop.best(), &options, Watch { progress: &|_, _| {}, cancelled })?;
    Ok(Trained { history, manifest })
}

fn fingerprint(job: &Job) -> Result<Fingerprint, TrainError> {
    let recipe = job.recipe.to_toml().map_err(|reason| TrainError::Recipe { path: job.recipe_path.clone(), reason })?;
    let from = match &job.from {
        Some(from) => Some(VersionFolder::open(from, Thoroughness::Sizes).map_err(refused(from))?.manifest.digest()),
        None => None,
    };
    let mut data = Sha256::new();
    for split in ["train.jsonl", "validation.jsonl"] {
        let path = job.data.join(split);
        data.update(fs::read(&path).map_err(disk(&path))?);
    }
    Ok(Fingerprint { recipe: hex::encode(Sha256::digest(recipe)), data: hex::encode(data.finalize()), from })
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
    if !job.recipe.network.is_empty() {
        let reason = format!("[network] comes from {}: leave it out", from.display());
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
    let texts = start::further(Texts::read(from)?, &job.recipe);
    // What the recipe says of the task may not fit the network.
    Definition::parse(&texts)?;
    workshop.begin(&texts, &published)?;
    Ok(texts)
}
