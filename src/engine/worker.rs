//! One worker thread per version, each with a bounded queue.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{InferenceError, Model, ModelError, ModelOptions, Prepared, Preparer, VersionFolder};
use crate::{
    message::{Device, Scores},
    vision::Limits,
};

/// A version to be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionSpec {
    /// Its name.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// How it is run.
    pub options: ModelOptions,
    /// Requests in one forward pass, at most.
    pub batch_size: usize,
    /// Requests that may wait; sending more blocks.
    pub queue_size: usize,
}

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

/// What is known of a loaded version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// SHA-256 of its weights.
    pub digest: String,
    /// Where it runs.
    pub device: Device,
    /// Its parameters.
    pub parameters: usize,
    /// How long loading took.
    pub loading: Duration,
}

/// A loaded version, as the threads that feed it see it.
#[derive(Debug)]
pub struct Version {
    identity: Arc<Identity>,
    preparer: Preparer,
    queue: Sender<(Job, Instant)>,
}

/// What a worker runs: a loaded model, or something that stands in for one.
pub trait Judge {
    /// Judges a batch: for each request the scores of each of its texts, in order.
    fn judge(&mut self, batch: &[&Prepared]) -> Vec<Result<Vec<Scores>, InferenceError>>;

    /// SHA-256 of what it judges by.
    fn digest(&self) -> &str;

    /// Its parameters.
    fn parameters(&self) -> usize;
}

/// A version that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// It does not load.
    #[error("version `{name}`: {source}")]
    Version {
        /// Its name.
        name: String,
        /// Why.
        source: Box<ModelError>,
    },
    /// Its thread ended before it said anything.
    #[error("version `{name}`: its thread ended while loading")]
    Thread {
        /// Its name.
        name: String,
    },
}

impl EngineError {
    /// Whether the settings name something that is not there, so that trying again does not help.
    pub fn is_settings(&self) -> bool {
        matches!(self, Self::Version { source, .. } if matches!(**source, ModelError::Folder(_) | ModelError::Load { .. }))
    }
}

/// All loaded versions.
pub struct Engine {
    versions: BTreeMap<String, Version>,
    threads: Vec<JoinHandle<()>>,
}

struct Loaded {
    digest: String,
    parameters: usize,
    loading: Duration,
}

impl Engine {
    /// Loads every version on its own thread, all at once, and waits for them.
    ///
    /// # Errors
    /// The first version that does not load.
    pub fn start(specs: &[VersionSpec], limits: Limits) -> Result<Self, EngineError> {
        Self::start_with(specs, limits, |spec, folder| Model::load(&spec.folder, folder, spec.options))
    }

    /// As [`Engine::start`], with what `load` makes of each version; it is called on the version's
    /// own thread.
    ///
    /// # Errors
    /// The first version that does not load.
    pub fn start_with<J: Judge>(
        specs: &[VersionSpec],
        limits: Limits,
        load: impl Fn(&VersionSpec, &VersionFolder) -> Result<J, ModelError> + Clone + Send + 'static,
    ) -> Result<Self, EngineError> {
        let failed =
            |name: &str, error: ModelError| EngineError::Version { name: name.to_owned(), source: Box::new(error) };
        let mut starting = Vec::new();
        for spec in specs {
            let folder = VersionFolder::read(&spec.folder).map_err(|error| failed(&spec.name, error.into()))?;
            let preparer = Preparer::new(&folder, limits);
            let (queue, jobs) = bounded(spec.queue_size);
            let (report, loaded) = bounded(1);
            let (thread_spec, load) = (spec.clone(), load.clone());
            let thread = std::thread::Builder::new()
                .name(format!("model-{}", spec.name))
                .spawn(move || work(&thread_spec, || load(&thread_spec, &folder), &jobs, &report))
                .map_err(|_| EngineError::Thread { name: spec.name.clone() })?;
            starting.push((spec, preparer, queue, loaded, thread));
        }
        let mut engine = Self { versions: BTreeMap::new(), threads: Vec::new() };
        for (spec, preparer, queue, loaded, thread) in starting {
            let loaded = loaded.recv().map_err(|_| EngineError::Thread { name: spec.name.clone() })?;
            let loaded: Loaded = loaded.map_err(|error| failed(&spec.name, error))?;
            let identity = Identity {
                name: spec.name.clone(),
                digest: loaded.digest,
                device: spec.options.device,
                parameters: loaded.parameters,
                loading: loaded.loading,
            };
            let version = Version { identity: Arc::new(identity), preparer, queue };
            engine.versions.insert(spec.name.clone(), version);
            engine.threads.push(thread);
        }
        Ok(engine)
    }

    /// A version by name.
    pub fn version(&self, name: &str) -> Option<&Version> {
        self.versions.get(name)
    }

    /// All versions, by name.
    pub fn versions(&self) -> impl Iterator<Item = &Version> {
        self.versions.values()
    }

    /// Lets the workers finish what waits, and ends them.
    pub fn stop(self) {
        drop(self.versions);
        for thread in self.threads {
            // A worker catches the network's panics; one of its own has nothing left to save.
            thread.join().ok();
        }
    }
}

impl Version {
    /// What is known of it.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// Prepares requests for this version.
    pub fn preparer(&self) -> &Preparer {
        &self.preparer
    }

    /// Requests that wait.
    pub fn queue_depth(&self) -> usize {
        self.queue.len()
    }

    /// Hands a request to the worker; blocks while the queue is full. A worker that has ended answers
    /// at once, with an error.
    pub fn submit(&self, job: Job) {
        // The job that comes back is dropped, and its reply with it.
        self.queue.send((job, Instant::now())).ok();
    }
}

fn work<J: Judge>(
    spec: &VersionSpec,
    load: impl FnOnce() -> Result<J, ModelError>,
    jobs: &Receiver<(Job, Instant)>,
    report: &Sender<Result<Loaded, ModelError>>,
) {
    let started = Instant::now();
    let mut model = match load() {
        Ok(model) => model,
        Err(error) => {
            // Nobody waits any more only when another version failed first.
            report.send(Err(error)).ok();
            return;
        }
    };
    let loaded =
        Loaded { digest: model.digest().to_owned(), parameters: model.parameters(), loading: started.elapsed() };
    if report.send(Ok(loaded)).is_err() {
        return;
    }
    while let Ok(first) = jobs.recv() {
        let waiting = std::iter::once(first).chain(jobs.try_iter().take(spec.batch_size.max(1) - 1));
        let (batch, unwanted): (Vec<(Job, Instant)>, Vec<_>) = waiting.partition(|(job, _)| (job.wanted)());
        unwanted.into_iter().for_each(|(job, _)| job.reply.discard());
        if batch.is_empty() {
            continue;
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
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::mpsc::channel};

    use super::*;

    /// Answers each request with the number of requests in its batch; an empty request fails.
    struct Counting;

    impl Judge for Counting {
        fn judge(&mut self, batch: &[&Prepared]) -> Vec<Result<Vec<Scores>, InferenceError>> {
            let scores = Scores { yes: batch.len() as f32, maybe: 0.0, no: 0.0 };
            let answer = |request: &&Prepared| match request.pixels.is_empty() {
                true => Err(InferenceError::NotFinite),
                false => Ok(vec![scores]),
            };
            batch.iter().map(answer).collect()
        }

        fn digest(&self) -> &str {
            "sha256:none"
        }

        fn parameters(&self) -> usize {
            0
        }
    }

    fn spec(batch_size: usize) -> VersionSpec {
        VersionSpec {
            name: "v".to_owned(),
            folder: Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden/dev"),
            options: ModelOptions { device: Device::Flex, bias_cache_bytes: 0 },
            batch_size,
            queue_size: 64,
        }
    }

    const LIMITS: Limits = Limits { bytes_max: 1 << 20, pixels_max: 1 << 20 };

    #[test]
    fn every_job_is_answered_and_no_batch_exceeds_its_size() {
        let engine = Engine::start_with(&[spec(4)], LIMITS, |_, _| Ok(Counting)).unwrap();
        let (sender, answers) = channel();
        for number in 0..50 {
            let sender = sender.clone();
            let pixels = if number == 7 { Vec::new() } else { vec![0.0] };
            let reply = Reply::new(move |judged| sender.send((number, judged)).unwrap());
            let prepared = Prepared { pixels, sources: vec![vec![0]] };
            engine.version("v").unwrap().submit(Job { prepared, wanted: Box::new(move || number != 9), reply });
        }
        engine.stop();
        drop(sender);
        let answers: BTreeMap<i32, Result<Judged, InferenceError>> = answers.iter().collect();
        assert_eq!(answers.len(), 49, "all but the one that nobody wanted");
        assert_eq!(answers[&7], Err(InferenceError::NotFinite));
        for judged in answers.into_values().flatten() {
            assert!(judged.batch <= 4 && judged.scores[0].yes == judged.batch as f32);
        }
    }

    #[test]
    fn a_request_whose_worker_is_gone_is_answered_all_the_same() {
        let (sender, answers) = channel();
        drop(Reply::new(move |judged| sender.send(judged).unwrap()));
        assert!(matches!(answers.recv().unwrap(), Err(InferenceError::Stopped(_))));
    }

    #[test]
    fn a_version_that_does_not_load_is_named() {
        let missing = VersionSpec { folder: "no/such/folder".into(), ..spec(1) };
        let error = Engine::start(&[missing], LIMITS).err().unwrap().to_string();
        assert!(error.starts_with("version `v`: no/such/folder is not a folder"), "{error}");
    }
}
