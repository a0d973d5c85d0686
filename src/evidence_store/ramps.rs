//! Ramps: when an experiment takes the next share of the units. Pure; `guards` carries it out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::conclusions::{GuardReport, RampReport};
use crate::{
    evidence::{GuardState, Sums},
    routing::{ExperimentSpec, GuardMetric, millionths},
};

/// The share of units that an experiment takes, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Step {
    definition: String,
    millionths: u32,
    /// Milliseconds since 1970, by the clock of this machine.
    since_ms: i64,
    /// Verdicts of each variant at its beginning.
    verdicts: BTreeMap<String, u64>,
}

/// The current step of each experiment with a ramp, by its name. An instance that sees a step for
/// the first time counts from then on, so that it never takes the next one too early.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Steps(BTreeMap<String, Step>);

impl Steps {
    /// Adds older steps of experiments that have none.
    pub(super) fn add_older(&mut self, older: Self) {
        for (experiment, step) in older.0 {
            self.0.entry(experiment).or_insert(step);
        }
    }

    /// Forgets steps that are not in force any more. A paused experiment is at no step: its time
    /// begins when it is resumed.
    pub(super) fn forget(&mut self, specs: &[ExperimentSpec]) {
        self.0.retain(|name, step| {
            let spec = specs.iter().find(|spec| spec.name == *name);
            spec.is_some_and(|spec| {
                !spec.ramp.is_empty()
                    && !is_stopped(spec)
                    && spec.definition() == step.definition
                    && millionths(spec.traffic_ratio) == step.millionths
            })
        });
    }

    /// Notes the steps in force.
    pub(super) fn note(&mut self, specs: &[ExperimentSpec], sums: &Sums, now_ms: i64) {
        self.forget(specs);
        let has_step = |spec: &&ExperimentSpec| !spec.ramp.is_empty() && !is_stopped(spec);
        for spec in specs.iter().filter(has_step) {
            let definition = spec.definition();
            let verdicts = verdicts_of(spec, &definition, sums);
            let current = Step { definition, millionths: millionths(spec.traffic_ratio), since_ms: now_ms, verdicts };
            let is_same = |known: &Step| {
                // A clock that was set back would make the step last longer than it is.
                let is_earlier = known.since_ms <= now_ms;
                // Sums that were made again may hold less than at the beginning of the step.
                let count = |variant: &str| current.verdicts.get(variant).copied().unwrap_or_default();
                is_earlier && known.verdicts.iter().all(|(variant, before)| *before <= count(variant))
            };
            if !self.0.get(&spec.name).is_some_and(is_same) {
                self.0.insert(spec.name.clone(), current);
            }
        }
    }

    /// For how long the step of an experiment lasts.
    fn age_ms(&self, experiment: &str, now_ms: i64) -> u64 {
        let since = self.0.get(experiment).map_or(now_ms, |step| step.since_ms);
        u64::try_from(now_ms.saturating_sub(since)).unwrap_or_default()
    }

    /// The variant with the fewest verdicts in the step of an experiment, and how many.
    fn fewest_verdicts(&self, spec: &ExperimentSpec, sums: &Sums) -> (String, u64) {
        let now = verdicts_of(spec, &spec.definition(), sums);
        let before = self.0.get(&spec.name).map(|step| &step.verdicts);
        let in_step = spec.variants.iter().map(|variant| {
            let count = |of: &BTreeMap<String, u64>| of.get(&variant.name).copied().unwrap_or_default();
            (variant.name.clone(), count(&now).saturating_sub(before.map_or(0, count)))
        });
        in_step.min_by_key(|(_, verdicts)| *verdicts).unwrap_or_default()
    }
}

/// Verdicts of each variant of an experiment in a definition.
fn verdicts_of(spec: &ExperimentSpec, definition: &str, sums: &Sums) -> BTreeMap<String, u64> {
    let found = sums
        .experiments
        .iter()
        .find(|(key, _)| key.experiment == spec.name && key.epoch == spec.epoch && key.definition == definition);
    let arms = found.into_iter().flat_map(|(_, of)| of.arms.iter());
    arms.map(|(variant, arm)| (variant.clone(), arm.verdicts())).collect()
}

fn is_stopped(spec: &ExperimentSpec) -> bool {
    spec.paused || spec.promoted.is_some()
}

/// How far the ramp of an experiment is; none without a ramp. `guards` are the conclusions of all
/// guards.
pub(super) fn report(
    spec: &ExperimentSpec,
    guards: &[GuardReport],
    steps: &Steps,
    sums: &Sums,
    now_ms: i64,
) -> Option<RampReport> {
    if spec.ramp.is_empty() {
        return None;
    }
    let next = spec.next_step();
    let definition = spec.definition();
    let waits_for = next.and_then(|_| {
        let own: Vec<&GuardReport> =
            guards.iter().filter(|guard| guard.experiment == spec.name && guard.definition == definition).collect();
        waits_for(spec, &own).or_else(|| waits_for_step(spec, steps, sums, now_ms))
    });
    Some(RampReport {
        experiment: spec.name.clone(),
        epoch: spec.epoch,
        definition,
        traffic_ratio: spec.traffic_ratio,
        next,
        waits_for,
    })
}

/// A person, or a guard that does not call every treatment safe.
fn waits_for(spec: &ExperimentSpec, guards: &[&GuardReport]) -> Option<String> {
    if is_stopped(spec) {
        return Some("a person: the experiment is paused or has a winner".to_owned());
    }
    if spec.ramp_paused {
        return Some("a person: the ramp is paused, or a person set this share".to_owned());
    }
    let treatments = spec.variants.len().saturating_sub(1);
    for guard in &spec.guards {
        let own = || guards.iter().filter(|report| report.judgement.guard == guard.name());
        if guard.metric == GuardMetric::SampleRatio {
            // It finds harm, and never safety.
            if own().any(|report| matches!(report.judgement.state, GuardState::Harm | GuardState::Blind)) {
                return Some(format!("guard `{}`: the sample ratio is wrong, or its evidence is old", guard.name()));
            }
            continue;
        }
        if let Some(report) = own().find(|report| report.judgement.state != GuardState::Safe) {
            let (treatment, state) = (&report.judgement.treatment, report.judgement.state);
            return Some(format!("guard `{}`: {treatment} is {}, not safe", guard.name(), state.as_str()));
        }
        if own().count() < treatments {
            return Some(format!("guard `{}`: a variant has no verdicts", guard.name()));
        }
    }
    None
}

/// New verdicts of every variant, or the time of the step. Evidence of earlier steps may call a
/// treatment safe that has answered nothing in this one.
fn waits_for_step(spec: &ExperimentSpec, steps: &Steps, sums: &Sums, now_ms: i64) -> Option<String> {
    let (variant, verdicts) = steps.fewest_verdicts(spec, sums);
    if verdicts < spec.ramp_step_verdicts {
        return Some(format!("verdicts: {variant} has {verdicts} of {} in this step", spec.ramp_step_verdicts));
    }
    let age_ms = steps.age_ms(&spec.name, now_ms);
    (age_ms < spec.ramp_step_ms)
        .then(|| format!("time: {} of {} s of this step", age_ms / 1_000, spec.ramp_step_ms / 1_000))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::evidence::{VerdictSet, tests::verdict};

    fn spec(traffic_ratio: f64) -> ExperimentSpec {
        serde_json::from_value(json!({
            "name": "e", "traffic_ratio": traffic_ratio, "ramp": [0.01, 0.05, 0.2], "ramp_step_ms": 60_000, "ramp_step_verdicts": 10,
            "guards": [{"metric": "no_rate", "margin": 0.01}, {"metric": "sample_ratio"}],
            "variants": [
                {"name": "control", "model_version": "a", "weight": 1.0},
                {"name": "treatment", "model_version": "b", "weight": 1.0},
            ],
        }))
        .unwrap()
    }

    fn guard(spec: &ExperimentSpec, guard: &str, state: GuardState) -> GuardReport {
        serde_json::from_value(json!({
            "experiment": "e", "epoch": 1, "definition": spec.definition(), "paused": false, "action": "pause",
            "acted": false, "guard": guard, "metric": "no_rate", "treatment": "treatment", "control": "control",
            "state": state, "events": [0, 0], "units": [10, 10], "difference": [0.0, 0.0], "ln_e_value": 0.0,
            "ln_e_value_needed": 4.0, "margin": 0.01, "alpha": 0.01, "waits_for": null,
        }))
        .unwrap()
    }

    /// Sums of so many verdicts of each variant.
    fn sums(spec: &ExperimentSpec, verdicts: usize) -> Sums {
        let mut set = VerdictSet::default();
        for number in 0..2 * verdicts {
            let variant = ["control", "treatment"][number % 2];
            set.add(&verdict(&number.to_string(), variant, "yes", |verdict| {
                verdict["ab"]["definition"] = json!(spec.definition());
            }));
        }
        set.sums().clone()
    }

    fn note(steps: &mut Steps, spec: &ExperimentSpec, now_ms: i64) {
        steps.note(std::slice::from_ref(spec), &Sums::default(), now_ms);
    }

    /// What the ramp waits for at a time, with a state of the guard.
    fn wait(spec: &ExperimentSpec, state: GuardState, steps: &Steps, now_ms: i64) -> Option<String> {
        let guards = [guard(spec, "no_rate", state), guard(spec, "sample_ratio", GuardState::Undecided)];
        report(spec, &guards, steps, &sums(spec, 10), now_ms).unwrap().waits_for
    }

    #[test]
    fn a_step_waits_for_its_time_and_for_every_guard() {
        let spec = spec(0.05);
        let mut steps = Steps::default();
        note(&mut steps, &spec, 1_000);
        let waits = |state, now_ms| wait(&spec, state, &steps, now_ms).unwrap_or_default();
        assert!(waits(GuardState::Safe, 60_999).starts_with("time: 59 of 60 s"));
        assert_eq!(waits(GuardState::Safe, 61_000), "");
        for state in [GuardState::Undecided, GuardState::Harm, GuardState::Blind, GuardState::NoData] {
            assert!(waits(state, 61_000).contains("not safe"), "{state:?}");
        }
        let of = |guards: &[GuardReport]| report(&spec, guards, &steps, &sums(&spec, 10), 61_000).unwrap();
        assert!(of(&[]).waits_for.unwrap().contains("no verdicts"));
        let broken = [guard(&spec, "no_rate", GuardState::Safe), guard(&spec, "sample_ratio", GuardState::Harm)];
        assert!(of(&broken).waits_for.unwrap().contains("sample ratio"));
        assert_eq!(of(&broken).next, Some(0.2));
    }

    #[test]
    fn time_begins_again_at_each_step_and_after_a_pause() {
        let (mut first, second) = (spec(0.01), spec(0.05));
        let mut steps = Steps::default();
        note(&mut steps, &first, 0);
        note(&mut steps, &first, 60_000);
        assert_eq!(wait(&first, GuardState::Safe, &steps, 60_000), None);
        note(&mut steps, &second, 60_000);
        assert!(wait(&second, GuardState::Safe, &steps, 90_000).unwrap().starts_with("time: 30"));

        note(&mut steps, &first, 100_000);
        first.paused = true;
        note(&mut steps, &first, 110_000);
        assert!(wait(&first, GuardState::Safe, &steps, 900_000).unwrap().contains("paused"));
        first.paused = false;
        note(&mut steps, &first, 900_000);
        assert!(wait(&first, GuardState::Safe, &steps, 900_000).unwrap().starts_with("time: 0"));

        let last = spec(0.2);
        note(&mut steps, &last, 900_000);
        let report = report(&last, &[], &steps, &Sums::default(), 999_000).unwrap();
        assert_eq!((report.next, report.waits_for), (None, None));
    }

    #[test]
    fn a_step_needs_verdicts_of_every_variant_and_a_person_can_hold_it() {
        let mut spec = spec(0.05);
        let mut steps = Steps::default();
        let before = sums(&spec, 50);
        steps.note(std::slice::from_ref(&spec), &before, 0);
        let guards = [guard(&spec, "no_rate", GuardState::Safe)];
        let waits = |spec: &ExperimentSpec, sums: &Sums| report(spec, &guards, &steps, sums, 60_000).unwrap().waits_for;
        assert!(waits(&spec, &before).unwrap().starts_with("verdicts: "), "those of earlier steps do not count");
        assert!(waits(&spec, &sums(&spec, 59)).unwrap().contains("9 of 10"));
        assert_eq!(waits(&spec, &sums(&spec, 60)), None);
        spec.ramp_paused = true;
        assert!(waits(&spec, &sums(&spec, 60)).unwrap().contains("a person"));

        let mut again = steps.clone();
        again.note(std::slice::from_ref(&spec), &sums(&spec, 1), 50_000);
        let report = report(&spec, &guards, &again, &sums(&spec, 11), 110_000).unwrap();
        assert!(report.waits_for.unwrap().contains("a person"), "the ramp is still held");
        assert_ne!(again, steps, "sums that were made again begin a new count");

        let mut later = Steps::default();
        later.add_older(steps.clone());
        assert_eq!(later, steps, "a store that is new forgets no step");
    }
}
