//! Ramps of experiments, as settings write them. `evidence_store` takes the steps.

use super::{
    guard::GuardMetric,
    refused::{Refused, refused},
    scheme::Division,
    spec::{ExperimentSpec, millionths},
};

/// Steps of one ramp, at most.
const STEPS_MAX: usize = 50;

/// The longest time of a step: 30 days.
const STEP_MS_MAX: u64 = 30 * 86_400_000;

impl ExperimentSpec {
    /// The step of the ramp that follows its share of units; none at the end, and without a ramp.
    pub fn next_step(&self) -> Option<f64> {
        let now = millionths(self.traffic_ratio);
        self.ramp.iter().copied().find(|step| millionths(*step) > now)
    }
}

/// Checks the ramp of an experiment.
pub(super) fn check(spec: &ExperimentSpec) -> Result<(), Refused> {
    if spec.ramp_step_ms > STEP_MS_MAX {
        return Err(refused(".ramp_step_ms", format!("is {}, at most {STEP_MS_MAX}", spec.ramp_step_ms)));
    }
    if spec.ramp.is_empty() {
        return Ok(());
    }
    if spec.variants.len() < 2 {
        return Err(refused(".ramp", "needs two variants: without a treatment nothing can be found safe".to_owned()));
    }
    if spec.ramp.len() > STEPS_MAX {
        return Err(refused(".ramp", format!("has {} steps, at most {STEPS_MAX}", spec.ramp.len())));
    }
    if let Some(step) = spec.ramp.iter().find(|step| !(**step > 0.0 && **step <= 1.0)) {
        return Err(refused(".ramp", format!("has the step {step}, it must be above 0 and at most 1")));
    }
    if !spec.ramp.is_sorted_by(|earlier, later| millionths(*earlier) < millionths(*later)) {
        return Err(refused(".ramp", "must ascend: each step takes more units than the one before".to_owned()));
    }

    // Some schemes take all units, or have ranges instead of a share.
    for step in &spec.ramp {
        Division::new(&ExperimentSpec { traffic_ratio: *step, ..spec.clone() }).map_err(|(field, reason)| {
            refused(".ramp", format!("with a step of {step}, `{}` {reason}", &field[1..]))
        })?;
    }

    // A test of the sample ratio finds harm, and never safety.
    let can_be_safe = |metric: GuardMetric| metric != GuardMetric::SampleRatio;
    if !spec.guards.iter().any(|guard| can_be_safe(guard.metric)) {
        let reason = "needs a guard that can find a treatment safe: add [[experiments.guards]] with a `metric` such as \
                      `no_rate`, and a `margin`";
        return Err(refused(".ramp", reason.to_owned()));
    }
    if let Some(place) = spec.guards.iter().position(|guard| can_be_safe(guard.metric) && guard.margin <= 0.0) {
        let reason = "must be above 0 in an experiment with a ramp: nothing is ever proven to be no worse at all";
        return Err(refused(&format!(".guards[{place}].margin"), reason.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(ramp: serde_json::Value, guards: serde_json::Value) -> ExperimentSpec {
        serde_json::from_value(json!({
            "name": "e", "traffic_ratio": 0.05, "ramp": ramp, "guards": guards,
            "variants": [
                {"name": "control", "model_version": "a", "weight": 1.0},
                {"name": "treatment", "model_version": "b", "weight": 1.0},
            ],
        }))
        .unwrap()
    }

    #[test]
    fn the_next_step_is_the_first_that_takes_more_units() {
        let guards = json!([{"metric": "no_rate", "margin": 0.01}]);
        let mut spec = spec(json!([0.01, 0.05, 0.2, 0.5]), guards);
        check(&spec).unwrap();
        assert_eq!(spec.next_step(), Some(0.2));
        spec.traffic_ratio = 0.3;
        assert_eq!(spec.next_step(), Some(0.5), "a person chose a share between two steps");
        spec.traffic_ratio = 0.5;
        assert_eq!(spec.next_step(), None);
    }

    #[test]
    fn a_ramp_that_cannot_work_is_refused() {
        let safe = json!([{"metric": "no_rate", "margin": 0.01}]);
        for (ramp, guards, place, word) in [
            (json!([0.2, 0.1]), safe.clone(), ".ramp", "ascend"),
            (json!([0.0, 0.1]), safe.clone(), ".ramp", "above 0"),
            (json!([0.1, 1.5]), safe, ".ramp", "at most 1"),
            (json!([0.1]), json!([]), ".ramp", "guard"),
            (json!([0.1]), json!([{"metric": "sample_ratio"}]), ".ramp", "guard"),
            (json!([0.1]), json!([{"metric": "no_rate"}]), ".guards[0].margin", "above 0"),
        ] {
            let refused = check(&spec(ramp, guards)).unwrap_err();
            assert_eq!(refused.0, place);
            assert!(refused.1.contains(word), "{}", refused.1);
        }
    }
}
