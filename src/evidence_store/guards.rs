//! Judges by the sums after each write, pauses an experiment when a treatment does harm, and takes
//! the next step of a ramp when all are safe.
//!
//! A guard pauses an experiment once in a definition. When a person resumes it, the guard goes on
//! to judge and does not pause it again. A step of a ramp names the share that it comes from: it is
//! refused where another instance has taken it, or a person has set another share. All instances of
//! a group judge alike; the first by name acts, and the others act only if it does not.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc::{Receiver, TryRecvError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    conclusions::{Conclusions, GuardReport, RampReport},
    progress::Progress,
    ramps::{self, Steps},
};
use crate::{
    control::{Applied, AuditInfo, Command, CommandRequest, ControlError, Handle, Outcome},
    evidence::{GuardCriteria, GuardState, Judgement, Sums, judge},
    pipeline::Switcher,
    routing::{ExperimentSpec, GuardSpec, millionths},
    telemetry,
};

/// What guards must know after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GuardMemory {
    /// Command ids of actions that were made, or that another instance has made.
    acted: BTreeSet<String>,
    /// The current steps of ramps.
    steps: Steps,
}

/// A guard, or a step of a ramp, in a definition of its experiment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ActionKey {
    experiment: String,
    epoch: u32,
    definition: String,
    cause: Cause,
}

/// What asks for a change of an experiment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    /// A guard, by its name.
    Guard(String),
    /// A step of a ramp, from one share of the units to another, in millionths.
    Step { from: u32, to: u32 },
}

impl ActionKey {
    fn of_guard(report: &GuardReport) -> Self {
        Self {
            experiment: report.experiment.clone(),
            epoch: report.epoch,
            definition: report.definition.clone(),
            cause: Cause::Guard(report.judgement.guard.clone()),
        }
    }

    fn of_step(report: &RampReport, step: f64) -> Self {
        Self {
            experiment: report.experiment.clone(),
            epoch: report.epoch,
            definition: report.definition.clone(),
            cause: Cause::Step { from: millionths(report.traffic_ratio), to: millionths(step) },
        }
    }

    /// The guard as metrics and logs name it.
    fn label(&self) -> &str {
        match &self.cause {
            Cause::Guard(name) => name,
            Cause::Step { .. } => "ramp",
        }
    }

    /// The same on all instances, so that a pause that two of them ask for is made once. A step needs
    /// none, because it names the share that it comes from.
    fn command_id(&self) -> Option<String> {
        let Self { experiment, epoch, definition, cause: Cause::Guard(guard) } = self else { return None };
        let digest = Sha256::digest(format!("{experiment}\0{epoch}\0{definition}\0{guard}"));
        Some(format!("guard-{}", hex::encode(digest).chars().take(32).collect::<String>()))
    }
}

/// The guards of the configuration in force.
pub struct Guards {
    switcher: Switcher,
    control: Handle,
    /// Evidence that is older makes a guard blind.
    behind_max: Duration,
    memory: GuardMemory,
    /// Since when actions are due.
    due_since: BTreeMap<ActionKey, Instant>,
    /// States that were logged, by guard and treatment.
    logged: BTreeMap<(ActionKey, String), GuardState>,
    /// When an action that failed is tried again, and after how long the next time.
    retries: BTreeMap<ActionKey, (Instant, Duration)>,
    /// The action that is on its way.
    acting: Option<(ActionKey, Receiver<Result<Applied, ControlError>>)>,
}

/// How long a guard waits after an action that failed, at first and at most.
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
            memory: GuardMemory::default(),
            due_since: BTreeMap::new(),
            logged: BTreeMap::new(),
            retries: BTreeMap::new(),
            acting: None,
        }
    }

    /// The conclusions about every treatment of every experiment that has guards, and about ramps.
    pub(super) fn judge(&mut self, sums: &Sums, progress: &Progress, now_ms: i64) -> Conclusions {
        let serving = self.switcher.serving();
        let specs = &serving.plan.table_spec.experiments;
        let is_blind = self.is_blind(progress);
        // Verdicts of earlier steps that are still to be read are not those of this one.
        if is_blind {
            self.memory.steps.forget(specs);
        } else {
            self.memory.steps.note(specs, sums, now_ms);
        }
        let guards = self.judge_guards(sums, is_blind, now_ms);
        let ramps = specs.iter().filter_map(|spec| ramps::report(spec, &guards, &self.memory.steps, sums, now_ms));
        let ramps = ramps.collect();
        Conclusions { guards, ramps }
    }

    /// Whether evidence is missing or too old.
    fn is_blind(&self, progress: &Progress) -> bool {
        progress.failure.is_some()
            || !progress.has_caught_up
            || Duration::from_millis(progress.behind_ms) > self.behind_max
    }

    fn judge_guards(&self, sums: &Sums, is_blind: bool, now_ms: i64) -> Vec<GuardReport> {
        let serving = self.switcher.serving();
        let experiments = serving.plan.table_spec.experiments.iter().filter(|spec| !spec.guards.is_empty());
        experiments.flat_map(|spec| self.judge_experiment(spec, sums, is_blind, now_ms)).collect()
    }

    fn judge_experiment(&self, spec: &ExperimentSpec, sums: &Sums, is_blind: bool, now_ms: i64) -> Vec<GuardReport> {
        let definition = spec.definition();
        let found = sums
            .experiments
            .iter()
            .find(|(key, _)| key.experiment == spec.name && key.epoch == spec.epoch && key.definition == definition);
        let Some((key, _)) = found else { return Vec::new() };

        let maturity_ms = self.switcher.serving().plan.evidence.review_maturity_ms;
        let maturity_ms = i64::try_from(maturity_ms).unwrap_or(i64::MAX);
        let criteria = GuardCriteria {
            guards: &spec.guards,
            treatments: spec.variants.len().saturating_sub(1),
            review_until_ms: if maturity_ms == 0 { i64::MAX } else { now_ms.saturating_sub(maturity_ms) },
        };
        let judgements = judge(key, sums, criteria).into_iter();
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
            report.acted = self.has_acted(&ActionKey::of_guard(&report));
            report
        };
        judgements.map(report).collect()
    }

    fn has_acted(&self, key: &ActionKey) -> bool {
        key.command_id().is_some_and(|id| self.memory.acted.contains(&id))
    }

    /// Goes on from the memory before a restart.
    pub(super) fn restore(&mut self, memory: GuardMemory) {
        self.memory.acted.extend(memory.acted);
        self.memory.steps.add_older(memory.steps);
    }

    /// What guards must know after a restart.
    pub(super) fn memory(&self) -> &GuardMemory {
        &self.memory
    }

    /// Logs what changed.
    pub(super) fn note(&mut self, reports: &[GuardReport]) {
        for report in reports {
            self.log(report);
        }
        let key = |report: &GuardReport| (ActionKey::of_guard(report), report.judgement.treatment.clone());
        let current: BTreeSet<_> = reports.iter().map(key).collect();
        for ((key, treatment), _) in self.logged.extract_if(.., |key, _| !current.contains(key)) {
            // An experiment that is gone does no harm any more.
            telemetry::guard_state(&key.experiment, key.label(), &treatment, GuardState::NoData.number(), 0.0);
        }
    }

    /// Logs what changed, pauses experiments, and takes steps of ramps.
    pub(super) fn act(&mut self, conclusions: &Conclusions) {
        self.finish_action();
        self.note(&conclusions.guards);

        let due = due(conclusions);
        self.due_since.retain(|key, _| due.iter().any(|(other, ..)| other == key));
        self.retries.retain(|key, _| due.iter().any(|(other, ..)| other == key));
        for (key, command, why) in due {
            let since = *self.due_since.entry(key.clone()).or_insert_with(Instant::now);
            let waits = self.retries.get(&key).is_some_and(|(until, _)| Instant::now() < *until);
            let is_over = self.has_acted(&key) || self.acting.is_some();
            if !is_over && !waits && since.elapsed() >= self.turn() {
                self.ask(key, command, why);
            }
        }
    }

    /// Whether this instance is the first one by name that runs.
    pub(super) fn is_first(&self) -> bool {
        self.turn().is_zero()
    }

    /// How long this instance leaves it to others.
    fn turn(&self) -> Duration {
        let Ok(instances) = self.control.instances_blocking() else { return Duration::ZERO };
        let own = self.control.instance();
        let before = instances.iter().filter(|other| !other.silent && other.instance.as_str() < own).count();
        TURN * u32::try_from(before).unwrap_or(u32::MAX)
    }

    /// Asks the group for a change.
    fn ask(&mut self, key: ActionKey, command: Command, why: String) {
        let by = match &key.cause {
            Cause::Guard(name) => format!("guard:{name}"),
            Cause::Step { .. } => format!("ramp:{}", key.experiment),
        };
        let info = AuditInfo { by, why, ..AuditInfo::default() };
        let mut request = CommandRequest::new(command, info);
        if let Some(id) = key.command_id() {
            request.id = id;
        }
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
        let (experiment, guard) = (&key.experiment, key.label());
        match answer.try_recv() {
            Err(TryRecvError::Empty) => self.acting = Some((key, answer)),
            Err(TryRecvError::Disconnected) => {}

            Ok(Ok(applied)) => {
                // Otherwise another instance made the change, or a person has undone it since.
                let has_changed = applied.outcome == Outcome::Switched;
                telemetry::guard_acted(experiment, guard, if has_changed { done(&key) } else { "unchanged" });
                self.memory.acted.extend(key.command_id());
            }

            // Another instance took the step, or a person set a share.
            Ok(Err(ControlError::Superseded)) if matches!(key.cause, Cause::Step { .. }) => {
                telemetry::guard_acted(experiment, guard, "unchanged");
            }

            Ok(Err(error)) => {
                tracing::error!(experiment, guard, %error, "A guard or ramp cannot change an experiment; it tries again.");
                telemetry::guard_acted(experiment, guard, "failed");
                let wait = self.retries.get(&key).map_or(RETRY_MIN, |(_, wait)| (*wait * 2).min(RETRY_MAX));
                self.retries.insert(key, (Instant::now() + wait, wait));
            }
        }
    }

    /// A line for each change of a state.
    fn log(&mut self, report: &GuardReport) {
        let GuardReport { experiment, judgement, action, .. } = report;
        let Judgement { guard, treatment, state, ln_e_value, .. } = judgement;
        telemetry::guard_state(experiment, guard, treatment, state.number(), *ln_e_value);

        let key = (ActionKey::of_guard(report), treatment.clone());
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

/// Logs a change that this instance made, and gives its name for metrics.
fn done(key: &ActionKey) -> &'static str {
    let experiment = &key.experiment;
    match &key.cause {
        Cause::Guard(guard) => {
            tracing::warn!(experiment, guard, "A guard paused an experiment. A person decides how it goes on.");
            "paused"
        }
        Cause::Step { .. } => {
            tracing::info!(experiment, "A ramp took its next step: the experiment takes more units.");
            "stepped"
        }
    }
}

/// The actions that are due, with the reason for each: pauses first.
fn due(conclusions: &Conclusions) -> Vec<(ActionKey, Command, String)> {
    // If another instance paused it, the id of the command says so after a person resumes the
    // experiment. If a person paused it, the guard stays armed.
    let is_harm = |report: &&GuardReport| {
        report.judgement.state == GuardState::Harm && report.action == "pause" && !report.paused
    };
    let pause = |report: &GuardReport| {
        let command = Command::Pause { experiment: report.experiment.clone() };
        (ActionKey::of_guard(report), command, report.judgement.in_words())
    };
    let step = |report: &RampReport| {
        let next = report.next.filter(|_| report.waits_for.is_none())?;
        let command = Command::SetTraffic {
            experiment: report.experiment.clone(),
            millionths: millionths(next),
            definition: report.definition.clone(),
            from: Some(millionths(report.traffic_ratio)),
            ramp_paused: false,
        };
        let own = conclusions.guards.iter().filter(|guard| guard.experiment == report.experiment);
        let evidence: Vec<String> = own.map(|guard| guard.judgement.in_words()).collect();
        let why = format!("{} to {next} of the units, all safe. {}", report.traffic_ratio, evidence.join(". "));
        Some((ActionKey::of_step(report, next), command, why))
    };
    let pauses = conclusions.guards.iter().filter(is_harm).map(pause);
    pauses.chain(conclusions.ramps.iter().filter_map(step)).collect()
}

fn action_of(guard: &GuardSpec) -> &'static str {
    match (guard.can_pause(), guard.dry_run) {
        (false, _) => "warn",
        (true, true) => "dry_run",
        (true, false) => "pause",
    }
}
