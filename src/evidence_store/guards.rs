//! Judges by the sums after each write, and pauses an experiment when a treatment does harm.
//!
//! A guard pauses an experiment once in a definition. When a person resumes it, the guard goes on
//! to judge and does not pause it again. All instances of a group judge alike; the first by name
//! acts, and the others act only if it does not.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc::{Receiver, TryRecvError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::progress::Progress;
use crate::{
    control::{Applied, AuditInfo, Command, CommandRequest, ControlError, Handle, Outcome},
    evidence::{GuardState, Judgement, Sums, judge},
    pipeline::Switcher,
    routing::{ExperimentSpec, GuardSpec},
    telemetry,
};

/// What a guard concludes about one treatment of an experiment, and what it does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuardReport {
    /// The experiment.
    pub experiment: String,
    /// Its epoch.
    pub epoch: u32,
    /// The digest of its definition.
    pub definition: String,
    /// Whether it takes no requests now.
    pub paused: bool,
    /// What the guard concludes.
    #[serde(flatten)]
    pub judgement: Judgement,
    /// What it does about harm: `pause`, `warn`, or `dry_run`.
    pub action: String,
    /// Whether this instance has paused the experiment in this definition, or found that another
    /// one has.
    pub acted: bool,
}

/// A guard in a definition of its experiment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct GuardKey {
    experiment: String,
    epoch: u32,
    definition: String,
    guard: String,
}

impl GuardKey {
    fn of(report: &GuardReport) -> Self {
        Self {
            experiment: report.experiment.clone(),
            epoch: report.epoch,
            definition: report.definition.clone(),
            guard: report.judgement.guard.clone(),
        }
    }

    /// The same on all instances, so that a pause that two of them ask for is made once.
    fn command_id(&self) -> String {
        let Self { experiment, epoch, definition, guard } = self;
        let digest = Sha256::digest(format!("{experiment}\0{epoch}\0{definition}\0{guard}"));
        format!("guard-{}", hex::encode(digest).chars().take(32).collect::<String>())
    }
}

/// The guards of the configuration in force.
pub struct Guards {
    switcher: Switcher,
    control: Handle,
    /// Evidence that is older makes a guard blind.
    behind_max: Duration,
    /// Command ids of guards that have acted, or found that another instance has.
    acted: BTreeSet<String>,
    /// When harm was seen first.
    harm_since: BTreeMap<GuardKey, Instant>,
    /// States that were logged, by guard and treatment.
    logged: BTreeMap<(GuardKey, String), GuardState>,
    /// When a pause that failed is tried again, and after how long the next time.
    retries: BTreeMap<GuardKey, (Instant, Duration)>,
    /// The pause that is on its way.
    acting: Option<(GuardKey, Receiver<Result<Applied, ControlError>>)>,
}

/// How long a guard waits after a pause that failed, at first and at most.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// How long an instance leaves it to each instance before it, by name, to act.
const TURN: Duration = Duration::from_secs(3);

impl Guards {
    /// Guards of the configuration that `switcher` serves, which act through `control`.
    pub fn new(switcher: Switcher, control: Handle, behind_max: Duration) -> Self {
        Self {
            switcher,
            control,
            behind_max,
            acted: BTreeSet::new(),
            harm_since: BTreeMap::new(),
            logged: BTreeMap::new(),
            retries: BTreeMap::new(),
            acting: None,
        }
    }

    /// The conclusions about every treatment of every experiment that has guards.
    pub(super) fn judge(&self, sums: &Sums, progress: &Progress) -> Vec<GuardReport> {
        let serving = self.switcher.serving();
        let is_blind = progress.failure.is_some()
            || !progress.has_caught_up
            || Duration::from_millis(progress.behind_ms) > self.behind_max;
        let experiments = serving.plan.table_spec.experiments.iter().filter(|spec| !spec.guards.is_empty());
        experiments.flat_map(|spec| self.judge_experiment(spec, sums, is_blind)).collect()
    }

    fn judge_experiment(&self, spec: &ExperimentSpec, sums: &Sums, is_blind: bool) -> Vec<GuardReport> {
        let definition = spec.definition();
        let found = sums
            .experiments
            .iter()
            .find(|(key, _)| key.experiment == spec.name && key.epoch == spec.epoch && key.definition == definition);
        let Some((key, of_experiment)) = found else { return Vec::new() };

        let treatments = spec.variants.len().saturating_sub(1);
        let judgements = judge(key, of_experiment, &spec.guards, treatments).into_iter();
        let report = |judgement: Judgement| {
            let guard = spec.guards.iter().find(|guard| guard.name() == judgement.guard);
            let mut report = GuardReport {
                experiment: spec.name.clone(),
                epoch: spec.epoch,
                definition: definition.clone(),
                paused: spec.paused || spec.promoted.is_some(),
                judgement: if is_blind { judgement.blinded() } else { judgement },
                action: guard.map_or("warn", action_of).to_owned(),
                acted: false,
            };
            report.acted = self.acted.contains(&GuardKey::of(&report).command_id());
            report
        };
        judgements.map(report).collect()
    }

    /// Remembers which guards acted before a restart.
    pub(super) fn restore(&mut self, acted: BTreeSet<String>) {
        self.acted.extend(acted);
    }

    /// Command ids of guards that have acted.
    pub(super) fn acted(&self) -> &BTreeSet<String> {
        &self.acted
    }

    /// Logs what changed.
    pub(super) fn note(&mut self, reports: &[GuardReport]) {
        for report in reports {
            self.log(report);
        }
        let key = |report: &GuardReport| (GuardKey::of(report), report.judgement.treatment.clone());
        let current: BTreeSet<_> = reports.iter().map(key).collect();
        for ((key, treatment), _) in self.logged.extract_if(.., |key, _| !current.contains(key)) {
            // An experiment that is gone does no harm any more.
            telemetry::guard_state(&key.experiment, &key.guard, &treatment, GuardState::NoData.number(), 0.0);
        }
    }

    /// Logs what changed, and pauses experiments. Returns true if a guard has acted.
    pub(super) fn act(&mut self, reports: &[GuardReport]) -> bool {
        let before = self.acted.len();
        self.finish_action();
        self.note(reports);

        let is_due = |report: &&GuardReport| report.judgement.state == GuardState::Harm && report.action == "pause";
        let harmful: BTreeSet<GuardKey> = reports.iter().filter(is_due).map(GuardKey::of).collect();
        self.harm_since.retain(|key, _| harmful.contains(key));
        self.retries.retain(|key, _| harmful.contains(key));
        for report in reports.iter().filter(is_due) {
            let key = GuardKey::of(report);
            if report.paused {
                // If another instance did it, the id of the command says so after a person resumes
                // the experiment. If a person did it, the guard stays armed.
                continue;
            }
            let since = *self.harm_since.entry(key.clone()).or_insert_with(Instant::now);
            let waits = self.retries.get(&key).is_some_and(|(until, _)| Instant::now() < *until);
            let is_over = self.acted.contains(&key.command_id()) || self.acting.is_some();
            if !is_over && !waits && since.elapsed() >= self.turn() {
                self.pause(key, report);
            }
        }
        self.acted.len() > before
    }

    /// How long this instance leaves it to others.
    fn turn(&self) -> Duration {
        let Ok(instances) = self.control.instances_blocking() else { return Duration::ZERO };
        let own = self.control.instance();
        let before = instances.iter().filter(|other| !other.silent && other.instance.as_str() < own).count();
        TURN * u32::try_from(before).unwrap_or(u32::MAX)
    }

    fn pause(&mut self, key: GuardKey, report: &GuardReport) {
        let by = format!("guard:{}", report.judgement.guard);
        let info = AuditInfo { by, why: report.judgement.in_words(), ..AuditInfo::default() };
        let command = Command::Pause { experiment: report.experiment.clone() };
        let request = CommandRequest { id: key.command_id(), ..CommandRequest::new(command, info) };
        let control = self.control.clone();
        let (sender, answer) = sync_channel(1);
        // Waiting for the group must not keep evidence waiting.
        let spawned = thread::Builder::new().name("guard".to_owned()).spawn(move || {
            // The receiver may be gone.
            sender.send(control.command_blocking(request)).ok();
        });
        match spawned {
            Ok(_) => self.acting = Some((key, answer)),
            Err(error) => tracing::error!(%error, "A guard cannot act."),
        }
    }

    fn finish_action(&mut self) {
        let Some((key, answer)) = self.acting.take() else { return };
        let GuardKey { experiment, guard, .. } = &key;
        match answer.try_recv() {
            Err(TryRecvError::Empty) => self.acting = Some((key, answer)),
            Ok(Ok(applied)) => {
                // Otherwise another instance paused it, or did so before a person resumed it.
                let has_paused = applied.outcome == Outcome::Switched;
                if has_paused {
                    tracing::warn!(experiment, guard, "A guard paused an experiment. A person decides how it goes on.");
                }
                telemetry::guard_acted(experiment, guard, if has_paused { "paused" } else { "unchanged" });
                self.acted.insert(key.command_id());
            }
            Ok(Err(error)) => {
                tracing::error!(experiment, guard, %error, "A guard cannot pause an experiment; it tries again.");
                telemetry::guard_acted(experiment, guard, "failed");
                let wait = self.retries.get(&key).map_or(RETRY_MIN, |(_, wait)| (*wait * 2).min(RETRY_MAX));
                self.retries.insert(key, (Instant::now() + wait, wait));
            }
            Err(TryRecvError::Disconnected) => {}
        }
    }

    /// A line for each change of a state.
    fn log(&mut self, report: &GuardReport) {
        let GuardReport { experiment, judgement, action, .. } = report;
        let Judgement { guard, treatment, state, ln_e_value, .. } = judgement;
        telemetry::guard_state(experiment, guard, treatment, state.number(), *ln_e_value);

        let key = (GuardKey::of(report), treatment.clone());
        if self.logged.insert(key, *state) == Some(*state) {
            return;
        }
        let evidence = judgement.in_words();
        match state {
            GuardState::Harm => {
                tracing::warn!(experiment, guard, treatment, action, evidence, "A guard sees harm.");
            }
            GuardState::Blind => {
                tracing::warn!(
                    experiment,
                    guard,
                    treatment,
                    "A guard has no current evidence, and calls nothing safe."
                );
            }
            GuardState::Safe | GuardState::Undecided | GuardState::NoData => {
                tracing::info!(experiment, guard, treatment, state = ?state, evidence, "A guard has another state.");
            }
        }
    }
}

fn action_of(guard: &GuardSpec) -> &'static str {
    match (guard.can_pause(), guard.dry_run) {
        (false, _) => "warn",
        (true, true) => "dry_run",
        (true, false) => "pause",
    }
}
