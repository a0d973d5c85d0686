//! All versions: those that the current configuration names, those that are kept warm, those that are on their way.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use super::{
    Budget, Cost, Judge, Knobs, Model, ModelError, Preparer, State,
    answers::AnswerCache,
    options::{EngineError, EngineOptions},
    queue::Queue,
    status::Status,
    version::{Identity, Version, VersionSpec},
    worker::{Report, Worker},
};
use crate::{
    message::{Device, Load},
    store::{Manifest, VersionFolder},
};

/// The versions of one configuration. Whoever holds it can ask them, whatever is configured since.
#[derive(Default)]
pub struct Fleet {
    /// With how their requests come together once the fleet is current.
    versions: BTreeMap<String, (Arc<Version>, Knobs)>,
}

impl Fleet {
    /// A version by name.
    pub fn version(&self, name: &str) -> Option<&Arc<Version>> {
        self.versions.get(name).map(|(version, _)| version)
    }

    /// All versions, by name.
    pub fn versions(&self) -> impl Iterator<Item = &Arc<Version>> {
        self.versions.values().map(|(version, _)| version)
    }

    fn holds(&self, version: &Arc<Version>) -> bool {
        self.versions().any(|held| Arc::ptr_eq(held, version))
    }
}

/// Which running versions may go on in another configuration, beside having the same settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Those with the files that their folders have now.
    SameFiles,
    /// Those that run, whatever became of their folders, and even if they broke: who pauses an experiment, or goes back,
    /// means the versions that serve, and must not be held up by what is on a disk.
    Running,
}

/// All versions that run.
pub struct Engine {
    begin: Arc<Begin>,
    options: Mutex<EngineOptions>,
    state: Mutex<Versions>,
    /// flex and ndarray share the cores, so they share a budget: that of `None`.
    budgets: Mutex<HashMap<Option<Device>, Arc<Budget>>>,
}

/// How often a load that another began is looked at.
const LOADING_PAUSE: Duration = Duration::from_millis(5);

/// Where a version that is loaded at once says that it is, or why not.
type Reported = Receiver<Result<(), ModelError>>;

/// Runs a worker on its thread until it ends.
type Begin = dyn Fn(Worker, &VersionFolder, &Report) + Send + Sync;

#[derive(Default)]
struct Versions {
    current: Arc<Fleet>,
    running: Vec<Running>,
    /// Threads of versions that were let go.
    ending: Vec<JoinHandle<()>>,
    /// Versions that were let go, until somebody is told.
    gone: Vec<Arc<Identity>>,
}

/// A version with its thread.
struct Running {
    spec: VersionSpec,
    version: Arc<Version>,
    thread: JoinHandle<()>,
    /// Whether a configuration that was current ever named it.
    adopted: bool,
    /// Since when no configuration names it.
    unnamed_since: Option<Instant>,
}

/// The GPU of a device; none for the CPU.
fn gpu(device: Device) -> Option<Device> {
    matches!(device, Device::Wgpu(_)).then_some(device)
}

/// How often a preparation checks whether it was cancelled.
const CANCEL_PAUSE: Duration = Duration::from_millis(50);

impl Engine {
    /// Starts with these versions: checks the folder of each, and loads those that are not loaded at their first use,
    /// each on its own thread, all at once.
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
        load: impl Fn(&VersionSpec, &VersionFolder) -> Result<J, ModelError> + Send + Sync + 'static,
    ) -> Result<Self, EngineError> {
        let begin = move |worker: Worker, folder: &VersionFolder, report: &Report| {
            worker.work(|spec| load(spec, folder), report);
        };
        let engine = Self {
            begin: Arc::new(begin),
            options: Mutex::new(options.into()),
            state: Mutex::default(),
            budgets: Mutex::default(),
        };
        let fleet = engine.prepare(specs, Reuse::SameFiles)?;
        engine.adopt(&Arc::new(fleet));
        Ok(engine)
    }

    /// The versions of another configuration: those that run already as they should, and the others loaded beside them.
    /// What is current stays so until [`Engine::adopt`].
    ///
    /// # Errors
    /// The first version that is not right.
    pub fn prepare(&self, specs: &[VersionSpec], reuse: Reuse) -> Result<Fleet, EngineError> {
        self.prepare_unless(specs, reuse, &AtomicBool::new(false))
    }

    /// As [`Self::prepare`], until `cancelled` is set: then versions that are still loading are released, which their threads notice
    /// when the load ends.
    ///
    /// # Errors
    /// As [`Self::prepare`], or [`EngineError::Cancelled`].
    pub fn prepare_unless(
        &self,
        specs: &[VersionSpec],
        reuse: Reuse,
        cancelled: &AtomicBool,
    ) -> Result<Fleet, EngineError> {
        let prepared = self.load_all(specs, reuse, cancelled);
        if prepared.is_err() {
            self.release();
        }
        prepared
    }

    fn load_all(&self, specs: &[VersionSpec], reuse: Reuse, cancelled: &AtomicBool) -> Result<Fleet, EngineError> {
        let check = || match cancelled.load(Ordering::Acquire) {
            true => Err(EngineError::Cancelled),
            false => Ok(()),
        };
        let mut fleet = Fleet::default();
        let mut loading = Vec::new();
        for spec in specs {
            check()?;
            let version = match self.running_as(spec, reuse) {
                Some(version) => version,
                None => {
                    let (version, reported) = self.begin(spec)?;
                    loading.extend((spec.load != Load::FirstUse).then_some((spec, reported)));
                    version
                }
            };
            fleet.versions.insert(spec.name.clone(), (version, spec.knobs));
        }
        for (spec, reported) in loading {
            let loaded = loop {
                check()?;
                match reported.recv_timeout(CANCEL_PAUSE) {
                    Ok(loaded) => break loaded,
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => {
                        return Err(EngineError::Thread { name: spec.name.clone() });
                    }
                }
            };
            loaded.map_err(|error| EngineError::version(spec, error))?;
        }
        // Those that others began to load. What serves already is taken as it is.
        let current = self.current();
        for spec in specs.iter().filter(|spec| spec.load != Load::FirstUse) {
            let Some(version) = fleet.version(&spec.name).filter(|version| !current.holds(version)) else { continue };
            while matches!(version.state(), State::Loading | State::Unhealthy(_)) {
                check()?;
                std::thread::sleep(LOADING_PAUSE);
            }
            if let State::Stopped(reason) = version.state() {
                return Err(EngineError::NotLoaded { name: spec.name.clone(), reason });
            }
        }
        Ok(fleet)
    }

    /// Lets go of versions that were loaded for a configuration that never became current, and that nobody holds.
    pub fn release(&self) {
        self.let_go(|running| !running.adopted && Arc::strong_count(&running.version) == 1);
    }

    /// The version that runs already as this one should.
    fn running_as(&self, spec: &VersionSpec, reuse: Reuse) -> Option<Arc<Version>> {
        let digest = match reuse {
            Reuse::SameFiles => Some(Manifest::read(&spec.folder).ok()?.digest()),
            Reuse::Running => None,
        };
        let state = self.state();
        let found = |running: &&Running| {
            let serves = match running.version.state() {
                State::NotLoaded => spec.load == Load::FirstUse,
                State::Loading | State::Ready | State::Unhealthy(_) => true,
                State::Stopped(_) => reuse == Reuse::Running && state.current.holds(&running.version),
            };
            let same_files = digest.as_ref().is_none_or(|digest| running.version.identity.digest == *digest);
            serves && running.spec.serves_for(spec) && same_files
        };
        // Where files do not matter, those of the current configuration come first, then the last that were loaded.
        let current = state.running.iter().rev().find(|it| state.current.holds(&it.version) && found(it));
        let running = current.or_else(|| state.running.iter().rev().find(found));
        running.map(|running| running.version.clone())
    }

    fn begin(&self, spec: &VersionSpec) -> Result<(Arc<Version>, Reported), EngineError> {
        let folder = VersionFolder::open(&spec.folder, spec.thoroughness)
            .map_err(|error| EngineError::version(spec, error.into()))?;
        let identity = Identity {
            name: spec.name.clone(),
            digest: folder.manifest.digest(),
            device: spec.options.device,
            precision: spec.options.precision,
            parameters: folder.manifest.parameters,
        };
        let (report, reported) = bounded(1);
        let version = Arc::new(Version {
            identity: Arc::new(identity),
            status: Arc::new(Status::new()),
            preparer: Preparer::of_folder(&folder, self.options().images),
            queue: Arc::new(Queue::new(spec.knobs)),
            answers: Arc::new(AnswerCache::new(spec.answer_cache_bytes)),
        });
        if spec.load != Load::FirstUse {
            // Before its thread says so: another configuration would load it once more.
            version.status.set(State::Loading);
        }
        let worker = Worker {
            spec: spec.clone(),
            queue: version.queue.clone(),
            status: version.status.clone(),
            answers: version.answers.clone(),
            budget: self.budget(spec.options.device),
        };
        let begin = self.begin.clone();
        let thread = std::thread::Builder::new()
            .name(format!("model-{}", spec.name))
            .spawn(move || begin(worker, &folder, &report))
            .map_err(|_| EngineError::Thread { name: spec.name.clone() })?;
        let (spec, unnamed_since) = (spec.clone(), Some(Instant::now()));
        let running = Running { spec, version: version.clone(), thread, adopted: false, unnamed_since };
        self.state().running.push(running);
        Ok((version, reported))
    }

    /// Makes a fleet the current one. The others are kept warm for whoever still holds them, and for the next one that
    /// names them.
    pub fn adopt(&self, fleet: &Arc<Fleet>) {
        for (version, knobs) in fleet.versions.values() {
            version.queue.set_knobs(*knobs);
        }
        let mut state = self.state();
        for running in &mut state.running {
            running.adopted |= fleet.holds(&running.version);
            running.unnamed_since = if fleet.holds(&running.version) {
                None
            } else {
                running.unnamed_since.or_else(|| Some(Instant::now()))
            };
        }
        state.current = fleet.clone();
    }

    /// Lets go of versions that no configuration has named for so long, and that nobody holds any more: requests that
    /// were routed before still come in. Gives back what was let go since the last time.
    pub fn unload(&self, keep_warm: Duration) -> Vec<Arc<Identity>> {
        self.let_go(|running| {
            running.unnamed_since.is_some_and(|since| since.elapsed() >= keep_warm)
                && Arc::strong_count(&running.version) == 1
        });
        std::mem::take(&mut self.state().gone)
    }

    fn let_go(&self, goes: impl Fn(&Running) -> bool) {
        let mut state = self.state();
        let (going, staying): (Vec<_>, Vec<_>) = std::mem::take(&mut state.running).into_iter().partition(goes);
        state.running = staying;
        let ended = state.ending.extract_if(.., |thread| thread.is_finished());
        ended.for_each(|thread| drop(thread.join()));
        for running in going {
            running.version.queue.close();
            state.gone.push(running.version.identity.clone());
            // One that is being loaded cannot be hurried, and has nothing to finish: nobody waits for it.
            if running.version.state() != State::Loading {
                state.ending.push(running.thread);
            }
        }
    }

    /// The versions of the current configuration.
    pub fn current(&self) -> Arc<Fleet> {
        self.state().current.clone()
    }

    /// A version of the current configuration by name.
    pub fn version(&self, name: &str) -> Option<Arc<Version>> {
        self.state().current.version(name).cloned()
    }

    /// The versions that run, one of each name: the current one, or the last that was.
    pub fn versions(&self) -> Vec<Arc<Version>> {
        let state = self.state();
        let mut versions: BTreeMap<&str, &Arc<Version>> = BTreeMap::new();
        let others = state.running.iter().map(|running| &running.version);
        for version in others.chain(state.current.versions()) {
            versions.insert(&version.identity.name, version);
        }
        versions.into_values().cloned().collect()
    }

    /// Every version that runs, with whether the current configuration names it; of one name there may be several.
    pub fn running(&self) -> Vec<(Arc<Version>, bool)> {
        let state = self.state();
        state.running.iter().map(|running| (running.version.clone(), running.unnamed_since.is_none())).collect()
    }

    /// Changes what passes may cost at the same time.
    pub fn set_limits(&self, cpu: Cost, gpu: Cost) {
        let mut options = self.options();
        (options.cpu, options.gpu) = (cpu, gpu);
        for (device, budget) in self.budgets().iter() {
            budget.set_limits(if device.is_some() { gpu } else { cpu });
        }
    }

    /// Versions of the current configuration that broke, with the reason; requests for them wait, or are told so.
    pub fn unhealthy(&self) -> Vec<(String, String)> {
        let of = |version: &Arc<Version>| match version.state() {
            State::Unhealthy(reason) | State::Stopped(reason) => Some((version.identity.name.clone(), reason)),
            State::NotLoaded | State::Loading | State::Ready => None,
        };
        self.current().versions().filter_map(of).collect()
    }

    /// What the passes take that run now: on the CPU, and on each GPU.
    pub fn used(&self) -> Vec<(String, Cost)> {
        let name = |device: &Option<Device>| device.map_or("cpu".to_owned(), |device| device.to_string());
        self.budgets().iter().map(|(device, budget)| (name(device), budget.used())).collect()
    }

    /// Has requests wait for company no longer, because a stop began.
    pub fn hurry(&self) {
        self.state().running.iter().for_each(|running| running.version.queue.hurry());
    }

    /// Says that nothing comes any more, and waits for nobody: whoever is held up by a full lane goes on.
    pub fn close(&self) {
        self.state().running.iter().for_each(|running| running.version.queue.close());
    }

    /// Lets the workers finish what waits, and ends them. Whoever asks afterwards is told that nobody answers.
    pub fn stop(&self) {
        self.let_go(|_| true);
        let threads = std::mem::take(&mut self.state().ending);
        for thread in threads {
            // A worker catches the network's panics; one of its own has nothing left to save.
            thread.join().ok();
        }
    }

    fn budget(&self, device: Device) -> Arc<Budget> {
        let options = *self.options();
        let gpu = gpu(device);
        let limits = if gpu.is_some() { options.gpu } else { options.cpu };
        self.budgets().entry(gpu).or_insert_with(|| Arc::new(Budget::new(limits))).clone()
    }

    fn budgets(&self) -> MutexGuard<'_, HashMap<Option<Device>, Arc<Budget>>> {
        self.budgets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn options(&self) -> MutexGuard<'_, EngineOptions> {
        self.options.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, Versions> {
        // Changed under the lock in steps that cannot panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An engine that is let go has its workers end, and waits for none: one may be loading, and a start that failed for
/// another version should say so at once.
impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests;
