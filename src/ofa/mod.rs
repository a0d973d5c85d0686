//! The OFA visual-entailment network, in burn.
//!
//! * [`NetworkConfig`], [`TaskConfig`]: `config.json` and `configuration.json` as published.
//! * [`Checkpoint`]: the tensors of a version folder, every one accounted for.
//! * `resnet` → `encoder` → `decoder`, with `attention` and `position` below them.
//! * [`AnswerTrie`]: which few logits decide between the answers.
//! * [`Ofa`]: all of it, from pixels and token ids to answer probabilities in one decoder pass.
//!
//! The specification is the published reference implementation (ModelScope's `ofa` model);
//! `tests/golden.rs` holds every number to its outputs.

mod answers;
mod attention;
mod checkpoint;
mod config;
mod decoder;
mod encoder;
mod layers;
mod model;
mod position;
mod resnet;

pub use answers::{AnswerError, AnswerTrie};
pub use checkpoint::{Checkpoint, CheckpointError};
pub use config::{ConfigError, NetworkConfig, TaskConfig};
pub use model::{Batch, Encoded, LoadError, Ofa, OfaOptions, Row};
