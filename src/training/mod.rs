//! Models that learn: from nothing, or from another version, on labelled examples.
//!
//! * [`Recipe`]: what is learned and how, in TOML.
//! * [`Workshop`]: the folder in which a version grows; training goes on there after an interruption.
//! * `start`: the configuration, vocabulary and weights that it begins with.
//! * `batches`: examples as the network reads them, in an order that the seed decides.
//! * `schedule`: the learning rate of each step.
//! * `learner`: the network that learns: its tasks, their losses, and its steps.
//! * [`train`]: the loop.
//! * [`curves()`]: how it went, as a picture.
//!
//! The network is the one that serves, with batch norm unfolded.

mod batches;
mod curves;
mod learner;
mod recipe;
mod schedule;
mod start;
mod trainer;
mod workshop;

pub use curves::curves;
pub use recipe::{Captions, Recipe};
pub use trainer::{Event, Job, Trained, train};
pub use workshop::{Fingerprint, History, Measured, Workshop};

use std::{io, path::PathBuf};

use crate::{
    dataset::DatasetError,
    engine::DeviceError,
    ofa::{ConfigError, LoadError, RunError},
    store::{DefinitionError, ImportError, StagingError},
    weights::WeightsError,
};

/// Why a model does not learn.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The recipe is not right.
    #[error("{}: {reason}", path.display())]
    Recipe {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The data is not right.
    #[error(transparent)]
    Data(#[from] DatasetError),
    /// An example of the data is not right.
    #[error("{example}: {reason}")]
    Example {
        /// Which example.
        example: String,
        /// What is wrong.
        reason: String,
    },
    /// A file cannot be written or read.
    #[error("{}: {source}", path.display())]
    Disk {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// What was begun there is the training of something else.
    #[error("{} holds the training of another recipe or other data ({what}): finish that one, or begin anew with --restart", path.display())]
    Other {
        /// The folder.
        path: PathBuf,
        /// What differs.
        what: &'static str,
    },
    /// Another training is in the folder.
    #[error("{} is in use by another training: wait for it, stop it, or name another version", .0.display())]
    Busy(PathBuf),
    /// The network's configuration is not right.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A text file of the version is not right.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// The weights to begin with are not right.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The weights do not make a network.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The network cannot be trained.
    #[error(transparent)]
    Training(#[from] crate::ofa::TrainingError),
    /// The device does not open.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The device failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The version cannot be put in its place.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The folder of versions cannot be changed.
    #[error(transparent)]
    Staging(#[from] StagingError),
    /// The loss is not a number any more.
    #[error("the loss of step {step} is not a number: lower `learning_rate`, or raise `warm_up`")]
    Diverged {
        /// The step.
        step: usize,
    },
    /// The user asked to stop.
    #[error("stopped after step {step}; the same command goes on from there")]
    Stopped {
        /// The last step.
        step: usize,
    },
}

fn disk(path: &std::path::Path) -> impl FnOnce(io::Error) -> TrainError {
    let path = path.to_owned();
    move |source| TrainError::Disk { path, source }
}

#[cfg(test)]
mod tests;
