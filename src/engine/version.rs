//! One version: what settings say of it, and what the threads that feed it see.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    AnswerKey, Busy, Job, Judged, Knobs, Lane, Loaded, ModelOptions, Preparer, State, answers::AnswerCache,
    queue::Queue, status::Status,
};
use crate::{
    message::{Device, Load},
    store::Thoroughness,
    weights::Arithmetic,
};

/// A version to be served.
#[derive(Clone, Debug, PartialEq)]
pub struct VersionSpec {
    /// Its name.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// How thoroughly its files are compared with its manifest.
    pub thoroughness: Thoroughness,
    /// When it is loaded.
    pub load: Load,
    /// How it is run.
    pub options: ModelOptions,
    /// How its requests come together.
    pub knobs: Knobs,
    /// Bound of the answers kept, in bytes; zero keeps none.
    pub answer_cache_bytes: usize,
    /// How often in a row it is loaded again after it broke, before it is given up.
    pub restarts_max: u32,
    /// How long the first of these restarts waits; each next one waits twice as long.
    pub restart_delay: Duration,
}

impl VersionSpec {
    /// A version with the defaults of settings: loaded at the start, on one device.
    pub fn new(name: &str, folder: impl Into<PathBuf>, device: Device) -> Self {
        Self {
            name: name.to_owned(),
            folder: folder.into(),
            thoroughness: Thoroughness::Hashes,
            load: Load::Start,
            options: ModelOptions::on(device),
            knobs: Knobs {
                batch_size: 4,
                max_delay: Duration::ZERO,
                tokens_max: 16_384,
                padding_max: 0.25,
                queue_size: 64,
                shadow_queue_size: 64,
            },
            answer_cache_bytes: 0,
            restarts_max: 5,
            restart_delay: Duration::from_secs(1),
        }
    }
}

impl VersionSpec {
    /// Whether a version that runs as `self` says can go on for `other`: only its batching may differ, which changes
    /// while it runs.
    pub(super) fn serves_for(&self, other: &Self) -> bool {
        let options = ModelOptions { batch_size: self.options.batch_size, ..other.options };
        let (thoroughness, load, knobs) = (self.thoroughness, self.load, self.knobs);
        *self == Self { thoroughness, load, options, knobs, ..other.clone() }
    }
}

/// What is known of a version before it is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// SHA-256 over its files, weights included.
    pub digest: String,
    /// Where it runs.
    pub device: Device,
    /// What it runs in.
    pub precision: Arithmetic,
    /// Its parameters.
    pub parameters: u64,
}

/// A version, as the threads that feed it see it.
pub struct Version {
    pub(super) identity: Arc<Identity>,
    pub(super) status: Arc<Status>,
    pub(super) preparer: Preparer,
    pub(super) queue: Arc<Queue>,
    pub(super) answers: Arc<AnswerCache>,
}

impl Version {
    /// What is known of it.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// What is known of it while it is loaded.
    pub fn loaded(&self) -> Option<Loaded> {
        self.status.loaded()
    }

    /// What its thread is busy with, and since when.
    pub fn busy(&self) -> Option<(Busy, Instant)> {
        self.status.busy()
    }

    /// What it is doing.
    pub fn state(&self) -> State {
        self.status.state()
    }

    /// Prepares requests for this version.
    pub fn preparer(&self) -> &Preparer {
        &self.preparer
    }

    /// Requests that wait in a lane.
    pub fn queue_depth(&self, lane: Lane) -> usize {
        self.queue.len(lane)
    }

    /// Whether answers are kept.
    pub fn keeps_answers(&self) -> bool {
        self.answers.is_on()
    }

    /// The answer to an earlier request with this key, where it is kept.
    pub fn kept_answer(&self, key: &AnswerKey) -> Option<Judged> {
        let scores = self.answers.get(key)?;
        Some(Judged { scores, queued: Duration::ZERO, inference: Duration::ZERO, batch: 0, cached: true })
    }

    /// Hands a request to the worker; blocks while the live lane is full. A worker that has ended answers
    /// at once, with an error.
    pub fn submit(&self, job: Job) {
        self.queue.push(job);
    }

    /// Hands a request over to be judged for comparison, when nobody else waits. False, and the request is let go,
    /// where too many of these wait already.
    pub fn offer_shadow(&self, job: Job) -> bool {
        self.queue.offer_shadow(job)
    }
}
