//! All versions that are served, one worker thread each with a bounded queue.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, OnceLock},
    thread::JoinHandle,
    time::Instant,
};

use crossbeam_channel::{Sender, bounded};

use super::{Job, Judge, Loaded, Model, ModelError, ModelOptions, Preparer, worker::Worker};
use crate::{
    message::{Device, Load},
    store::{Thoroughness, VersionFolder},
    vision::Limits,
    weights::Precision,
};

/// A version to be served.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Requests in one forward pass, at most.
    pub batch_size: usize,
    /// Requests that may wait; sending more blocks.
    pub queue_size: usize,
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
    pub precision: Precision,
    /// Its parameters.
    pub parameters: u64,
}

/// A version, as the threads that feed it see it.
#[derive(Debug)]
pub struct Version {
    identity: Arc<Identity>,
    loaded: Arc<OnceLock<Loaded>>,
    preparer: Preparer,
    queue: Sender<(Job, Instant)>,
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
        matches!(self, Self::Version { source, .. } if matches!(**source, ModelError::Folder(_) | ModelError::Load { .. } | ModelError::Device(_)))
    }
}

/// All versions.
pub struct Engine {
    versions: BTreeMap<String, Version>,
    threads: Vec<JoinHandle<()>>,
}

impl Engine {
    /// Checks the folder of every version, and loads those that are loaded at the start, each on its own
    /// thread, all at once.
    ///
    /// # Errors
    /// The first version that is not right.
    pub fn start(specs: &[VersionSpec], limits: Limits) -> Result<Self, EngineError> {
        Self::start_with(specs, limits, |spec, folder| Model::load(folder, spec.options))
    }

    /// As [`Engine::start`], with what `load` makes of each version; it is called on the version's
    /// own thread.
    ///
    /// # Errors
    /// The first version that is not right.
    pub fn start_with<J: Judge>(
        specs: &[VersionSpec],
        limits: Limits,
        load: impl Fn(&VersionSpec, &VersionFolder) -> Result<J, ModelError> + Clone + Send + 'static,
    ) -> Result<Self, EngineError> {
        let failed =
            |name: &str, error: ModelError| EngineError::Version { name: name.to_owned(), source: Box::new(error) };
        let mut engine = Self { versions: BTreeMap::new(), threads: Vec::new() };
        let mut loading = Vec::new();
        for spec in specs {
            let folder = VersionFolder::open(&spec.folder, spec.thoroughness)
                .map_err(|error| failed(&spec.name, error.into()))?;
            let identity = Identity {
                name: spec.name.clone(),
                digest: folder.manifest.digest(),
                device: spec.options.device,
                precision: spec.options.precision,
                parameters: folder.manifest.parameters,
            };
            let (queue, jobs) = bounded(spec.queue_size);
            let (report, reported) = bounded(1);
            let version = Version {
                identity: Arc::new(identity),
                loaded: Arc::default(),
                preparer: Preparer::new(&folder.definition, limits),
                queue,
            };
            let worker = Worker { spec: spec.clone(), jobs, loaded: version.loaded.clone() };
            let load = load.clone();
            let thread = std::thread::Builder::new()
                .name(format!("model-{}", spec.name))
                .spawn(move || worker.work(|spec| load(spec, &folder), &report))
                .map_err(|_| EngineError::Thread { name: spec.name.clone() })?;
            engine.versions.insert(spec.name.clone(), version);
            engine.threads.push(thread);
            if spec.load == Load::Start {
                loading.push((spec, reported));
            }
        }
        for (spec, reported) in loading {
            let loaded = reported.recv().map_err(|_| EngineError::Thread { name: spec.name.clone() })?;
            loaded.map_err(|error| failed(&spec.name, error))?;
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

    /// What is known of it once it is loaded; none before.
    pub fn loaded(&self) -> Option<&Loaded> {
        self.loaded.get()
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

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::mpsc::channel};

    use super::*;
    use crate::{
        engine::{InferenceError, Judged, Prepared, Reply},
        message::Scores,
    };

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
    }

    fn spec(batch_size: usize) -> VersionSpec {
        VersionSpec {
            name: "v".to_owned(),
            folder: Path::new(env!("CARGO_MANIFEST_DIR")).join("models/ofa_small"),
            thoroughness: Thoroughness::Hashes,
            load: Load::Start,
            options: ModelOptions { device: Device::Flex, precision: Precision::F32, bias_cache_bytes: 0 },
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
