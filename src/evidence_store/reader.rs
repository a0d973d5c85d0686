//! The thread that reads the topics of outcomes into the store.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    conclusions::{Conclusions, GuardReport, RampReport},
    error::StoreError,
    guards::Guards,
    interrupted::Interrupted,
    options::ReaderOptions,
    progress::Progress,
    reading::Reading,
    snapshots::Snapshots,
    store::{FILE, Store, TopicKind},
};
use crate::{
    evidence::{Criteria, Summary, Sums},
    kafka::{Followed, Follower, KafkaError, TopicPartition},
    settings::EvidenceStorePlan,
    telemetry,
};

/// What the reader has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EvidenceReport {
    /// How current it is.
    pub progress: Progress,
    /// The conclusions of guards.
    pub guards: Vec<GuardReport>,
    /// How far ramps are.
    #[serde(default)]
    pub ramps: Vec<RampReport>,
    /// The figures.
    #[serde(flatten)]
    pub summary: Summary,
}

/// What the reader has, for other threads.
#[derive(Clone)]
pub struct Access(Arc<Shared>);

struct Shared {
    /// None until the topics were found.
    store: Mutex<Option<Store>>,
    progress: Mutex<Progress>,
    conclusions: Mutex<Conclusions>,
    stop: AtomicBool,
}

impl Access {
    /// How far the reader is.
    pub fn progress(&self) -> Progress {
        locked(&self.0.progress).clone()
    }

    /// All figures of a report; none before the topics were found.
    pub fn report(&self, criteria: Criteria, control: Option<&str>) -> EvidenceReport {
        let store = locked(&self.0.store);
        let summary = Summary::of(store.as_ref().map_or(&Sums::default(), Store::sums), criteria, control);
        // While the store is locked, so that both are of the same write.
        let Conclusions { guards, ramps } = locked(&self.0.conclusions).clone();
        EvidenceReport { progress: self.progress(), guards, ramps, summary }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running reader. It ends when it is dropped.
pub struct Reader {
    access: Access,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Starts reading. `guards` judge after each write. Nothing waits for the reader: what it
    /// cannot read or keep is logged, and tried again.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(options: ReaderOptions, guards: Option<Guards>) -> std::io::Result<Self> {
        let shared = Shared {
            store: Mutex::default(),
            progress: Mutex::default(),
            conclusions: Mutex::default(),
            stop: AtomicBool::new(false),
        };
        let access = Access(Arc::new(shared));
        let (shared, current_at) = (access.0.clone(), Instant::now());
        let snapshots = options.snapshots(guards.is_some());
        let work = Work { options, shared, guards, is_damaged: false, current_at, snapshots };
        let thread = thread::Builder::new().name("evidence".to_owned()).spawn(move || work.run())?;
        Ok(Self { access, thread: Some(thread) })
    }

    /// What it has.
    pub fn access(&self) -> Access {
        self.access.clone()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.access.0.stop.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else { return };
        // Brokers may keep it waiting. The store is right at any moment, so the thread may be left
        // alone.
        let until = Instant::now() + STOP_WAIT;
        while !thread.is_finished() && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// How long a stop waits for the last write.
const STOP_WAIT: Duration = Duration::from_secs(3);

struct Work {
    options: ReaderOptions,
    shared: Arc<Shared>,
    guards: Option<Guards>,
    /// True if an entry of the store made no sense: the store is made again.
    is_damaged: bool,
    /// When evidence was current for the last time, as far as it was read.
    current_at: Instant,
    snapshots: Snapshots,
}

/// The first wait after a failure, and the longest.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// How often partitions are counted, and the store is measured.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

impl Work {
    fn run(mut self) {
        let mut wait = RETRY_MIN;
        while !self.is_stopped() {
            let begun = Instant::now();
            let Err(interrupted) = self.read() else { return };
            // The store in memory may be ahead of the file.
            *locked(&self.shared.store) = None;
            self.is_damaged = matches!(interrupted, Interrupted::Store(StoreError::Damaged(_)));
            locked(&self.shared.progress).caught_up = false;
            if !matches!(interrupted, Interrupted::TopicsChanged) {
                self.report(&interrupted);
            }

            if begun.elapsed() > RETRY_MAX {
                wait = RETRY_MIN;
            }
            let until = Instant::now() + wait;
            while Instant::now() < until && !self.is_stopped() {
                thread::sleep(Duration::from_millis(50));
            }
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    fn report(&mut self, interrupted: &Interrupted) {
        let code = match interrupted {
            Interrupted::Store(error) => error.code(),
            Interrupted::Kafka(_) | Interrupted::TopicsChanged => "kafka",
        };
        telemetry::evidence_failed(code);
        tracing::warn!(reason = %interrupted, code, "Evidence cannot be read or kept; trying again.");
        let behind = self.current_at.elapsed();
        telemetry::evidence_behind(behind.as_secs_f64());
        {
            let mut progress = locked(&self.shared.progress);
            progress.failure = Some(interrupted.to_string());
            progress.behind_ms = behind.as_millis() as u64;
        }
        // What was concluded before is not current any more.
        let mut conclusions = locked(&self.shared.conclusions);
        for report in &mut conclusions.guards {
            report.judgement = report.judgement.clone().blinded();
        }
        for ramp in &mut conclusions.ramps {
            ramp.waits_for = Some("current evidence".to_owned());
        }
        if let Some(guards) = &mut self.guards {
            guards.note(&conclusions.guards);
        }
    }

    /// Reads until it is stopped.
    fn read(&mut self) -> Result<(), Interrupted> {
        let connection = &self.options.connection;
        let kinds = self.existing_topics()?;
        let topics: Vec<&str> = kinds.keys().map(String::as_str).collect();
        let ids = connection.topic_ids(&topics)?;
        let ids = topics.iter().map(|topic| ((*topic).to_owned(), ids.get(*topic).cloned().unwrap_or_default()));
        let mut store = self.open(&ids.collect())?;
        self.is_damaged = false;
        self.snapshots.restore(&mut store, &topics)?;
        if let Some(guards) = &mut self.guards {
            guards.restore(store.guard_memory()?);
            // A store that was made again has lost it.
            store.set_guard_memory(guards.memory())?;
        }

        let follower = Follower::new(connection, &topics, store.offsets())?;
        let partitions = follower.partitions();
        *locked(&self.shared.store) = Some(store);
        let mut reading = Reading {
            follower,
            kinds,
            batch: Vec::new(),
            at_end: BTreeSet::new(),
            partitions,
            newest_ms: BTreeMap::new(),
            has_caught_up: false,
            due: Instant::now() + self.options.plan.commit_interval,
        };

        let mut look = Instant::now();
        while !self.is_stopped() {
            self.step(&mut reading)?;
            if self.snapshots.is_due() {
                self.write_snapshot(&reading);
            }
            if look.elapsed() >= LOOK_INTERVAL {
                look = Instant::now();
                self.look(&reading)?;
            }
        }
        self.write(&mut reading)
    }

    /// Topics that exist, with what they hold.
    fn existing_topics(&self) -> Result<BTreeMap<String, TopicKind>, KafkaError> {
        let mut existing = BTreeMap::new();
        for (topic, kind) in &self.options.topics {
            match self.options.connection.partitions(&[topic]) {
                Ok(_) => drop(existing.insert(topic.clone(), *kind)),
                // Without shadow versions there may be no topic for them.
                Err(KafkaError::TopicMissing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(existing)
    }

    /// Opens the store. One that cannot be read is deleted: it is made again from the topics.
    fn open(&self, topics: &BTreeMap<String, String>) -> Result<Store, StoreError> {
        let EvidenceStorePlan { directory, cache_bytes, .. } = &self.options.plan;
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let open = || Store::open(directory.as_deref(), *cache_bytes, topics, now_ms);
        let opened = open();
        match (opened, directory) {
            (Ok(_), Some(directory)) if self.is_damaged => {
                self.delete(directory, "an entry was damaged")?;
                open()
            }
            (Err(error @ StoreError::Damaged(_)), Some(directory)) => {
                self.delete(directory, &error.to_string())?;
                open()
            }
            (opened, _) => opened,
        }
    }

    fn delete(&self, directory: &Path, reason: &str) -> Result<(), StoreError> {
        let file: PathBuf = directory.join(FILE);
        tracing::error!(reason, file = %file.display(), "The evidence store is made again from the topics.");
        std::fs::remove_file(&file).map_err(|error| StoreError::Storage(error.to_string()))
    }

    fn step(&mut self, reading: &mut Reading) -> Result<(), Interrupted> {
        let timeout = reading.due.saturating_duration_since(Instant::now());
        match reading.follower.next(timeout)? {
            Some(Followed::Record(record)) => reading.take(*record),
            Some(Followed::End(partition)) => drop(reading.at_end.insert(partition)),
            None => {}
        }
        let is_full = reading.batch.len() >= self.options.plan.commit_records_max;
        if is_full || Instant::now() >= reading.due {
            self.write(reading)?;
            reading.due = Instant::now() + self.options.plan.commit_interval;
        }
        Ok(())
    }

    /// Writes what was read, and has the guards judge.
    fn write(&mut self, reading: &mut Reading) -> Result<(), Interrupted> {
        let batch = std::mem::take(&mut reading.batch);
        let mut store = locked(&self.shared.store);
        let Some(kept) = store.as_mut() else { return Ok(()) };
        if !batch.is_empty() {
            kept.add(&batch)?;
            for topic in reading.kinds.keys() {
                let count = batch.iter().filter(|(_, record)| record.topic == *topic).count();
                telemetry::evidence_records(topic, count as u64);
            }
            // While it catches up, the age of records says nothing about its speed.
            if reading.has_caught_up {
                let now_ms = jiff::Timestamp::now().as_millisecond();
                let ages = batch.iter().filter_map(|(_, record)| Some(now_ms - record.timestamp_ms?));
                ages.for_each(|age_ms| telemetry::evidence_delay(age_ms.max(0) as f64 / 1e3));
            }
        }

        let is_at_end = !reading.partitions.is_empty() && reading.at_end.len() == reading.partitions.len();
        reading.has_caught_up |= is_at_end;
        if is_at_end {
            self.current_at = Instant::now();
        }
        let progress = {
            let mut progress = locked(&self.shared.progress);
            progress.records += batch.len() as u64;
            progress.caught_up = is_at_end;
            progress.has_caught_up = reading.has_caught_up;
            progress.behind_ms = reading.behind_ms(jiff::Timestamp::now().as_millisecond());
            progress.failure = None;
            progress.clone()
        };
        telemetry::evidence_behind(progress.behind_ms as f64 / 1e3);

        if let Some(guards) = &mut self.guards {
            let before = guards.memory().clone();
            let conclusions = guards.judge(kept.sums(), &progress, jiff::Timestamp::now().as_millisecond());
            // Acting may take a while, and reports must not wait for it.
            drop(store);
            guards.act(&conclusions);
            *locked(&self.shared.conclusions) = conclusions;
            if *guards.memory() != before
                && let Some(store) = locked(&self.shared.store).as_ref()
            {
                store.set_guard_memory(guards.memory())?;
            }
        }
        Ok(())
    }

    /// Looks for new partitions and topics, and at the size of the store.
    fn look(&self, reading: &Reading) -> Result<(), Interrupted> {
        let existing = self.existing_topics()?;
        let topics: Vec<&str> = existing.keys().map(String::as_str).collect();
        let counts = self.options.connection.partitions(&topics)?;
        let partitions: BTreeSet<TopicPartition> =
            counts.iter().flat_map(|(topic, count)| (0..*count).map(|partition| (topic.clone(), partition))).collect();
        if partitions != reading.partitions {
            return Err(Interrupted::TopicsChanged);
        }

        if let Some(store) = locked(&self.shared.store).as_mut() {
            let keep_ms = i64::try_from(self.options.plan.keep.as_millis()).unwrap_or(i64::MAX);
            store.rotate(keep_ms, jiff::Timestamp::now().as_millisecond())?;
            let file = self.options.plan.directory.as_deref().map(|directory| directory.join(FILE));
            let bytes = file.and_then(|file| std::fs::metadata(file).ok()).map_or(0, |file| file.len());
            telemetry::evidence_size(store.requests()?, bytes);
        }
        Ok(())
    }

    /// The first instance by name writes snapshots, once it has read everything.
    fn write_snapshot(&mut self, reading: &Reading) {
        let is_writer = reading.has_caught_up && self.guards.as_ref().is_none_or(Guards::is_first);
        match locked(&self.shared.store).as_ref().filter(|_| is_writer) {
            Some(store) => self.snapshots.write(store),
            None => self.snapshots.postpone(),
        }
    }

    fn is_stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Acquire)
    }
}
