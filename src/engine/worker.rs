//! The thread that a version runs on: loads it, forms batches, answers.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender};

use super::{InferenceError, ModelError, Prepared, VersionSpec, panic_message};
use crate::message::{Load, Scores};

/// What a worker is asked to do.
pub struct Job {
    /// The request.
    pub prepared: Prepared,
    /// Asked when the batch is formed: a request that nobody waits for any more costs nothing.
    pub wanted: Box<dyn Fn() -> bool + Send>,
    /// Where the answer goes.
    pub reply: Reply,
}

type Answered = Box<dyn FnOnce(Result<Judged, InferenceError>) + Send>;

/// Where an answer goes, called on the worker's thread. One that is dropped without an answer, because
/// its worker ended, answers that: a request never waits for nothing.
pub struct Reply(Option<Answered>);

impl Reply {
    /// A reply that calls this.
    pub fn new(answered: impl FnOnce(Result<Judged, InferenceError>) + Send + 'static) -> Self {
        Self(Some(Box::new(answered)))
    }

    fn send(mut self, judged: Result<Judged, InferenceError>) {
        if let Some(answered) = self.0.take() {
            answered(judged);
        }
    }

    /// Lets a request go that nobody waits for.
    pub fn discard(mut self) {
        self.0 = None;
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(answered) = self.0.take() {
            answered(Err(InferenceError::Stopped("its worker ended".to_owned())));
        }
    }
}

/// An answer, and what it took.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// Scores of each text.
    pub scores: Vec<Scores>,
    /// Time in the queue.
    pub queued: Duration,
    /// Time of the forward pass that this request was part of.
    pub inference: Duration,
    /// Requests in that pass.
    pub batch: usize,
}

/// What a worker runs: a loaded model, or something that stands in for one.
pub trait Judge {
    /// Judges a batch: for each request the scores of each of its texts, in order.
    fn judge(&mut self, batch: &[&Prepared]) -> Vec<Result<Vec<Scores>, InferenceError>>;

    /// The device by its own name.
    fn adapter(&self) -> String {
        String::new()
    }

    /// Memory that it holds, in bytes.
    fn memory_bytes(&self) -> u64 {
        0
    }

    /// How long its first, empty request took.
    fn first_request(&self) -> Duration {
        Duration::ZERO
    }
}

/// What is known of a version once it is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The device by its own name.
    pub adapter: String,
    /// Memory of weights and position biases, in bytes.
    pub memory_bytes: u64,
    /// How long loading took, digests included.
    pub loading: Duration,
    /// How long the first, empty request took, which shows that it works.
    pub first_request: Duration,
}

/// Told once by a worker that loads at the start: that it could, or why not.
pub(super) type Report = Sender<Result<(), ModelError>>;

/// One version's thread.
pub(super) struct Worker {
    pub(super) spec: VersionSpec,
    pub(super) jobs: Receiver<(Job, Instant)>,
    pub(super) loaded: Arc<OnceLock<Loaded>>,
}

impl Worker {
    /// Loads, and answers until nobody can ask any more. One that is loaded at the first use keeps that
    /// first request until it is.
    pub(super) fn work<J: Judge>(self, load: impl FnOnce(&VersionSpec) -> Result<J, ModelError>, report: &Report) {
        let first = match self.spec.load {
            Load::Start => None,
            Load::FirstUse => match self.jobs.recv() {
                Ok(job) => Some(job),
                // Nobody ever asked.
                Err(_) => return,
            },
        };
        let started = Instant::now();
        // burn reports a device that is out of memory by panic.
        let loaded = catch_unwind(AssertUnwindSafe(|| load(&self.spec)))
            .unwrap_or_else(|panic| Err(ModelError::Panicked(panic_message(panic.as_ref()))));
        let mut model = match loaded {
            Ok(model) => model,
            Err(error) => return self.refuse_all(first, error, report),
        };
        let first_request = model.first_request();
        let loading = started.elapsed().saturating_sub(first_request);
        let loaded = Loaded { adapter: model.adapter(), memory_bytes: model.memory_bytes(), loading, first_request };
        tracing::info!(
            version = self.spec.name,
            device = %self.spec.options.device,
            adapter = loaded.adapter,
            memory_bytes = loaded.memory_bytes,
            seconds = loading.as_secs_f64(),
            first_request_seconds = first_request.as_secs_f64(),
            "Version loaded."
        );
        // Set once: this is the version's only thread.
        self.loaded.set(loaded).ok();
        // Nobody waits where another version failed first, or this one is loaded at its first use.
        report.send(Ok(())).ok();
        if let Some(first) = first {
            self.answer(&mut model, first);
        }
        while let Ok(next) = self.jobs.recv() {
            self.answer(&mut model, next);
        }
    }

    /// Answers a request and those that wait behind it, as one batch.
    fn answer(&self, model: &mut impl Judge, first: (Job, Instant)) {
        let waiting = std::iter::once(first).chain(self.jobs.try_iter().take(self.spec.batch_size.max(1) - 1));
        let (batch, unwanted): (Vec<(Job, Instant)>, Vec<_>) = waiting.partition(|(job, _)| (job.wanted)());
        unwanted.into_iter().for_each(|(job, _)| job.reply.discard());
        if batch.is_empty() {
            return;
        }
        let begun = Instant::now();
        let prepared: Vec<&Prepared> = batch.iter().map(|(job, _)| &job.prepared).collect();
        let answers = model.judge(&prepared);
        let inference = begun.elapsed();
        let size = batch.len();
        for ((job, queued_at), scores) in batch.into_iter().zip(answers) {
            let queued = begun.saturating_duration_since(queued_at);
            job.reply.send(scores.map(|scores| Judged { scores, queued, inference, batch: size }));
        }
    }

    /// A version that does not load answers nothing, and says why to all who ask, until nobody can.
    fn refuse_all(&self, first: Option<(Job, Instant)>, error: ModelError, report: &Report) {
        let stopped = InferenceError::Stopped(format!("it does not load: {error}"));
        if report.send(Err(error)).is_err() || self.spec.load == Load::FirstUse {
            tracing::error!(version = self.spec.name, %stopped, "Version failed.");
        }
        for (job, _) in first.into_iter().chain(self.jobs.iter()) {
            job.reply.send(Err(stopped.clone()));
        }
    }
}
