//! The folder in which a version grows.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{TrainError, disk};
use crate::{
    ofa::Published,
    store::Texts,
    weights::{Precision, Writer},
};

/// How training went, look by look at the validation split.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// What is trained, so that nothing else is gone on with.
    pub fingerprint: Fingerprint,
    /// Steps done.
    pub step: usize,
    /// Seconds they took, over all sessions.
    pub seconds: f64,
    /// Looks, in order.
    pub looks: Vec<Measured>,
}

/// What a training is the training of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// SHA-256 of the recipe, its defaults written out.
    pub recipe: String,
    /// SHA-256 of the examples.
    pub data: String,
    /// Digest of the version that it began with; none where that was nothing.
    pub from: Option<String>,
}

impl Fingerprint {
    /// In what the other is not the same.
    pub(super) fn differs(&self, other: &Self) -> Option<&'static str> {
        match self {
            _ if self.recipe != other.recipe => Some("the recipe differs"),
            _ if self.data != other.data => Some("the data differs"),
            _ if self.from != other.from => Some("the version that it began with differs"),
            _ => None,
        }
    }
}

impl History {
    /// The best look: of equally good ones the first.
    pub fn best(&self) -> Option<&Measured> {
        self.looks.iter().fold(None, |best: Option<&Measured>, look| match best {
            Some(best) if look.accuracy <= best.accuracy => Some(best),
            _ => Some(look),
        })
    }
}

/// What a look at the validation split showed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// After so many steps.
    pub step: usize,
    /// Mean loss of the steps since the last look; of captions alone there is none.
    pub training_loss: Option<f64>,
    /// Mean loss on the validation split, without smoothing.
    pub loss: f64,
    /// Mean loss of a token of the validation split's captions, where they are learned.
    pub caption_loss: Option<f64>,
    /// Share of the validation split that was answered rightly.
    pub accuracy: f64,
}

/// Beside the versions, where none of them is: training goes on there after an interruption.
#[derive(Clone, Debug)]
pub struct Workshop {
    folder: PathBuf,
}

const LOCK: &str = "lock";
const HISTORY: &str = "history.json";
/// Of the step that follows: weights and optimizer belong together, and the history says to which step.
const LAST: &str = "last-";
const OPTIMIZER: &str = "optimizer-";
const BEST: &str = "best";
/// As checkpoints are published.
const MODEL: &str = "model.safetensors";

impl Workshop {
    /// The workshop of a version of a folder of versions.
    pub fn new(models: &Path, name: &str) -> Self {
        Self { folder: models.join(format!(".training-{name}")) }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Keeps others out for as long as what it gives back lives: two trainings in one workshop would take each other's steps.
    ///
    /// # Errors
    /// When another training is in it, and when the folder cannot be made.
    pub(super) fn enter(&self) -> Result<File, TrainError> {
        fs::create_dir_all(&self.folder).map_err(disk(&self.folder))?;
        let path = self.folder.join(LOCK);
        let lock = File::create(&path).map_err(disk(&path))?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => Err(TrainError::Busy(self.folder.clone())),
            Err(TryLockError::Error(error)) => Err(disk(&path)(error)),
        }
    }

    /// Forgets what was begun.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn clear(&self) -> Result<(), TrainError> {
        for entry in fs::read_dir(&self.folder).map_err(disk(&self.folder))? {
            let path = entry.map_err(disk(&self.folder))?.path();
            let removed = match path.is_dir() {
                true => fs::remove_dir_all(&path),
                // Whoever has entered stays in.
                false if path.ends_with(LOCK) => Ok(()),
                false => fs::remove_file(&path),
            };
            removed.map_err(disk(&path))?;
        }
        Ok(())
    }

    /// How far training is; none where it was not begun.
    ///
    /// # Errors
    /// When what is there is not readable.
    pub fn history(&self) -> Result<Option<History>, TrainError> {
        match self.folder.join(HISTORY).exists() {
            true => self.json(HISTORY).map(Some),
            false => Ok(None),
        }
    }

    /// The folder of the best checkpoint, as published ones are.
    pub fn best(&self) -> PathBuf {
        self.folder.join(BEST)
    }

    /// The weights that were reached after a step.
    pub(super) fn last(&self, step: usize) -> PathBuf {
        self.folder.join(format!("{LAST}{step}.safetensors"))
    }

    /// The optimizer's state then.
    pub(super) fn optimizer(&self, step: usize) -> PathBuf {
        self.folder.join(format!("{OPTIMIZER}{step}.bpk"))
    }

    /// The text files that training began with.
    pub(super) fn texts(&self) -> Result<Texts, TrainError> {
        Ok(Texts::read(&self.best())?)
    }

    /// Puts the text files where the best checkpoint will be.
    pub(super) fn begin(&self, texts: &Texts, weights: &[Published]) -> Result<(), TrainError> {
        let best = self.best();
        fs::create_dir_all(&best).map_err(disk(&best))?;
        for (name, content) in texts.files() {
            write(&best.join(name), |path| fs::write(path, content))?;
        }
        self.keep_last(0, weights)
    }

    pub(super) fn keep_last(&self, step: usize, weights: &[Published]) -> Result<(), TrainError> {
        write(&self.last(step), |path| write_weights(path, weights))
    }

    pub(super) fn keep_best(&self, weights: &[Published]) -> Result<(), TrainError> {
        write(&self.best().join(MODEL), |path| write_weights(path, weights))
    }

    /// Last of all that a look writes: what it counts is there. Then what belongs to earlier steps goes.
    pub(super) fn keep_history(&self, history: &History) -> Result<(), TrainError> {
        write(&self.folder.join(HISTORY), |path| fs::write(path, serde_json::to_vec_pretty(history)?))?;
        let kept = [self.last(history.step), self.optimizer(history.step)];
        for entry in fs::read_dir(&self.folder).map_err(disk(&self.folder))? {
            let path = entry.map_err(disk(&self.folder))?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if (name.starts_with(LAST) || name.starts_with(OPTIMIZER)) && !kept.contains(&path) {
                fs::remove_file(&path).map_err(disk(&path))?;
            }
        }
        Ok(())
    }

    fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, TrainError> {
        let path = self.folder.join(name);
        let text = fs::read_to_string(&path).map_err(disk(&path))?;
        serde_json::from_str(&text).map_err(|error| disk(&path)(error.into()))
    }
}

/// Writes beside and renames, so that an interruption leaves the old file or the new one.
pub(super) fn write(path: &Path, fill: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<(), TrainError> {
    let growing = path.with_extension("growing");
    if growing.exists() {
        fs::remove_file(&growing).map_err(disk(&growing))?;
    }
    let synced = || fs::File::open(&growing).and_then(|file| file.sync_all());
    fill(&growing).and_then(|()| synced()).and_then(|()| fs::rename(&growing, path)).map_err(disk(path))
}

fn write_weights(path: &Path, weights: &[Published]) -> std::io::Result<()> {
    let tensors = weights.iter().map(|(name, shape, _)| (name.as_str(), shape.as_slice()));
    let mut writer = Writer::create(path, Precision::F32, tensors)?;
    for (_, _, values) in weights {
        writer.write(values)?;
    }
    writer.finish().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workshop_is_for_one_training_at_a_time() {
        let models = tempfile::tempdir().unwrap();
        let workshop = Workshop::new(models.path(), "ofa_new");
        let entered = workshop.enter().unwrap();
        assert!(matches!(workshop.enter(), Err(TrainError::Busy(folder)) if folder == workshop.folder()));
        workshop.clear().unwrap();
        assert!(workshop.enter().is_err(), "forgetting what was begun lets nobody in");
        drop(entered);
        workshop.enter().unwrap();
    }
}
