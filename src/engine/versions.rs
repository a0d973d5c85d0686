//! All versions that are served, one worker thread each with a bounded queue.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use crossbeam_channel::bounded;

use super::{
    AnswerKey, Budget, Cost, Job, Judge, Judged, Knobs, Lane, Loaded, Model, ModelError, ModelOptions, Preparer, State,
    answers::AnswerCache, device, queue::Queue, status::Status, worker::Worker,
};
use crate::{
    message::{Device, Load},
    store::{Thoroughness, VersionFolder},
    vision::Limits,
    weights::Precision,
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

/// What all versions share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// What images may cost.
    pub images: Limits,
    /// Passes at the same time on the CPU.
    pub cpu: Cost,
    /// Passes at the same time on each GPU.
    pub gpu: Cost,
}

impl From<Limits> for EngineOptions {
    /// These limits, and as many passes at a time as the cores allow.
    fn from(images: Limits) -> Self {
        let all = Cost { threads: device::cores(), tokens: usize::MAX, bytes: u64::MAX };
        Self { images, cpu: all, gpu: all }
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
    pub precision: Precision,
    /// Its parameters.
    pub parameters: u64,
}

/// A version, as the threads that feed it see it.
pub struct Version {
    identity: Arc<Identity>,
    status: Arc<Status>,
    preparer: Preparer,
    queue: Arc<Queue>,
    answers: Arc<AnswerCache>,
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
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// flex and ndarray share the cores, so they share a budget: that of `None`.
    budgets: HashMap<Option<Device>, Arc<Budget>>,
}

/// The GPU of a device; none for the CPU.
fn gpu(device: Device) -> Option<Device> {
    matches!(device, Device::Wgpu(_)).then_some(device)
}

impl Engine {
    /// Checks the folder of every version, and loads those that are loaded at the start, each on its own
    /// thread, all at once.
    ///
    /// # Errors
    /// The first version that is not right.
    pub fn start(specs: &[VersionSpec], options: impl Into<EngineOptions>) -> Result<Self, EngineError> {
        Self::start_with(specs, options, |spec, folder| Model::load(folder, spec.options))
    }

    /// As [`Engine::start`], with what `load` makes of each version; it is called on the version's
    /// own thread.
    ///
    /// # Errors
    /// The first version that is not right.
    pub fn start_with<J: Judge>(
        specs: &[VersionSpec],
        options: impl Into<EngineOptions>,
        load: impl Fn(&VersionSpec, &VersionFolder) -> Result<J, ModelError> + Clone + Send + 'static,
    ) -> Result<Self, EngineError> {
        let failed =
            |name: &str, error: ModelError| EngineError::Version { name: name.to_owned(), source: Box::new(error) };
        let options = options.into();
        let mut engine = Self { versions: BTreeMap::new(), threads: Mutex::default(), budgets: HashMap::new() };
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
            let (report, reported) = bounded(1);
            let gpu = gpu(spec.options.device);
            let limits = if gpu.is_some() { options.gpu } else { options.cpu };
            let budget = engine.budgets.entry(gpu).or_insert_with(|| Arc::new(Budget::new(limits))).clone();
            let version = Version {
                identity: Arc::new(identity),
                status: Arc::new(Status::new()),
                preparer: Preparer::new(&folder.definition, options.images),
                queue: Arc::new(Queue::new(spec.knobs)),
                answers: Arc::new(AnswerCache::new(spec.answer_cache_bytes)),
            };
            let worker = Worker {
                spec: spec.clone(),
                queue: version.queue.clone(),
                status: version.status.clone(),
                answers: version.answers.clone(),
                budget,
            };
            let load = load.clone();
            let thread = std::thread::Builder::new()
                .name(format!("model-{}", spec.name))
                .spawn(move || worker.work(|spec| load(spec, &folder), &report))
                .map_err(|_| EngineError::Thread { name: spec.name.clone() })?;
            engine.versions.insert(spec.name.clone(), version);
            engine.threads().push(thread);
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

    /// Changes how a version's requests come together, without loading it anew. False for one that is not served.
    pub fn set_knobs(&self, name: &str, knobs: Knobs) -> bool {
        self.versions.get(name).map(|version| version.queue.set_knobs(knobs)).is_some()
    }

    /// Changes what passes may cost at the same time.
    pub fn set_limits(&self, cpu: Cost, gpu: Cost) {
        for (device, budget) in &self.budgets {
            budget.set_limits(if device.is_some() { gpu } else { cpu });
        }
    }

    /// Versions that broke, with the reason; requests for them wait, or are told so.
    pub fn unhealthy(&self) -> Vec<(&str, String)> {
        let of = |version: &Version| match version.state() {
            State::Unhealthy(reason) | State::Stopped(reason) => Some(reason),
            State::NotLoaded | State::Loading | State::Ready => None,
        };
        self.versions.iter().filter_map(|(name, version)| Some((name.as_str(), of(version)?))).collect()
    }

    /// What the passes take that run now: on the CPU, and on each GPU.
    pub fn used(&self) -> impl Iterator<Item = (String, Cost)> {
        let name = |device: &Option<Device>| device.map_or("cpu".to_owned(), |device| device.to_string());
        self.budgets.iter().map(move |(device, budget)| (name(device), budget.used()))
    }

    /// Has requests wait for company no longer, because a stop began.
    pub fn hurry(&self) {
        self.versions.values().for_each(|version| version.queue.hurry());
    }

    /// Says that nothing comes any more, and waits for nobody: whoever is held up by a full lane goes on.
    pub fn close(&self) {
        self.versions.values().for_each(|version| version.queue.close());
    }

    /// Lets the workers finish what waits, and ends them. Whoever asks afterwards is told that nobody answers.
    pub fn stop(&self) {
        self.close();
        let threads = std::mem::take(&mut *self.threads());
        for thread in threads {
            // A worker catches the network's panics; one of its own has nothing left to save.
            thread.join().ok();
        }
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An engine that is let go has its workers end, and waits for none: one may be loading, and a start that failed for
/// another version should say so at once.
impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
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

#[cfg(test)]
mod tests;
