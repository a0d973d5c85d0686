//! The OFA visual-entailment network, in burn.
//!
//! * [`NetworkConfig`], [`TaskConfig`]: `config.json` and `configuration.json` as published.
//! * [`wanted_tensors`]: what a network is made from; `checkpoint` accounts for every one of them.
//! * `resnet` → `encoder` → `decoder`, with `attention` and `position` below them.
//! * [`AnswerTrie`]: which few logits decide between the answers.
//! * [`Interrupt`]: asks a running pass to give up.
//! * `training`: the same network, learning; only with the feature `train`.
//! * [`Ofa`]: all of it, from pixels and token ids to answer probabilities in one decoder pass.
//!
//! The specification is the published reference implementation (ModelScope's `ofa` model);
//! `tests/it/golden.rs` holds every number to its outputs.

mod answers;
mod attention;
mod checkpoint;
mod config;
mod decoder;
mod encoder;
mod interrupt;
mod layers;
mod model;
mod position;
mod resnet;
mod shape_cache;
#[cfg(feature = "train")]
mod training;

pub use crate::kernels::has_integer_products;
pub use answers::{AnswerError, AnswerTrie};
pub use checkpoint::{CheckpointError, SHARED_EMBEDDING, Wanted, compare};
pub use config::{ConfigError, NetworkConfig, TaskConfig};
pub use interrupt::{Interrupt, RunError};
pub use model::{Encoded, LoadError, Ofa, OfaOptions, Row, wanted_tensors};
#[cfg(feature = "train")]
pub use training::{LearnedAnswers, Published, TrainingError};
