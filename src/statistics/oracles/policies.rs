//! Policies, thresholds, drift, and labels of units.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{all_close, cases, close, count, counts, first, number, numbers};
use crate::statistics::{
    UnitSums, choice,
    drift::{self, Drift},
    off_policy::{Logged, PolicyValue},
    risk_control,
    selective::RiskCoverage,
};

#[test]
fn the_value_of_a_policy() {
    for case in cases("off_policy_estimators") {
        let input = &case["input"];
        let table = |name: &str| -> Vec<Vec<f64>> { input[name].as_array().unwrap().iter().map(numbers).collect() };
        let (target, predicted) = (table("target"), table("q_hat"));
        let (rewards, probabilities) = (numbers(&input["reward"]), numbers(&input["logged_probability"]));
        let rows = counts(&input["action"]).into_iter().enumerate().map(|(row, action)| Logged {
            action: action as usize,
            reward: rewards[row],
            probability: probabilities[row],
            target: target[row].clone(),
            predicted: predicted[row].clone(),
        });
        let value = PolicyValue::of(&rows.collect::<Vec<_>>(), number(&input["lambda"])).unwrap();
        let expected = &case["expected"];
        for (got, name) in [
            (value.ips[0], "ips"),
            (value.ips[1], "ips_se"),
            (value.ips_clipped, "ips_clipped"),
            (value.snips[0], "snips"),
            (value.snips[1], "snips_se_delta"),
            (value.direct[0], "dm"),
            (value.direct[1], "dm_se"),
            (value.doubly_robust[0], "dr"),
            (value.doubly_robust[1], "dr_se"),
            (value.doubly_robust_normalized, "sndr"),
            (value.switch[0], "switch_dr"),
            (value.switch[1], "switch_dr_se"),
            (value.shrunk, "dr_shrinkage"),
            (value.effective_size, "ess"),
            (value.weights[0], "max_weight"),
            (value.weights[1], "mean_weight"),
        ] {
            close(&format!("{}, {name}", case["name"]), got, &expected[name]);
        }
    }

    let logs = &first()["ope"];
    let by_context = |name: &str, row: &Value| numbers(&logs[name][row["ctx"].to_string()]);
    let rows = logs["logs"].as_array().unwrap().iter().map(|row| Logged {
        action: count(&row["a"]) as usize,
        reward: number(&row["r"]),
        probability: number(&row["p"]),
        target: by_context("target_policy", row),
        predicted: by_context("q_hat", row),
    });
    let value = PolicyValue::of(&rows.collect::<Vec<_>>(), 10.0).unwrap();
    let got = [value.ips[0], value.snips[0], value.direct[0], value.doubly_robust[0], value.effective_size];
    got.into_iter().zip(["ips", "snips", "dm", "dr", "ess"]).for_each(|(got, name)| close(name, got, &logs[name]));
    assert_eq!(PolicyValue::of(&[], 1.0), None);
}

#[test]
fn drift_of_histograms_and_samples() {
    for case in cases("population_drift") {
        let expected = &case["expected"];
        let drift = Drift::of(&counts(&case["input"]["reference"]), &counts(&case["input"]["current"])).unwrap();
        close("PSI", drift.psi, &expected["psi_half_added"]);
        close("Jensen & Shannon", drift.jensen_shannon, &expected["js_divergence_nats"]);
        close("Kolmogorov", drift.kolmogorov, &expected["ks_binned"]);
        close("total variation", drift.total_variation, &expected["total_variation"]);
        close("χ²", drift.chi_squared, &expected["chi2_homogeneity"]);
    }
    assert_eq!(Drift::of(&[0, 0], &[1, 2]), None);

    for case in cases("ks_two_sample") {
        let [statistic, p] =
            drift::kolmogorov_smirnov(&numbers(&case["input"]["a"]), &numbers(&case["input"]["b"])).unwrap();
        close("Kolmogorov & Smirnov", statistic, &case["expected"]["statistic"]);
        close("its exact p-value", p, &case["expected"]["p_exact"]);
    }
    assert_eq!(drift::kolmogorov_smirnov(&[], &[1.0]), None);
}

#[test]
fn thresholds_that_keep_a_risk() {
    for case in cases("min_n_risk_control") {
        let input = &case["input"];
        let n: Vec<u64> = counts(&input["errors"])
            .into_iter()
            .filter_map(|errors| risk_control::labels_needed(errors, number(&input["risk"]), number(&input["level"])))
            .collect();
        assert_eq!(n, counts(&case["expected"]["n"]), "{}", case["name"]);
    }

    assert_eq!(risk_control::labels_needed(0, 0.0, 0.95), None);

    for case in cases("hoeffding_bentkus") {
        let (input, expected) = (&case["input"], &case["expected"]);
        let (losses, n, risk) = (number(&input["sum_of_losses"]), count(&input["n"]), number(&input["risk"]));
        close("Hoeffding & Bentkus", risk_control::hoeffding_bentkus_p(losses, n, risk), &expected["p"]);
        let errors = count(&expected["ceil_n_risk"]);
        close("binomial", risk_control::binomial_p(errors, n, risk), &expected["binomial_p"]);
    }

    for case in cases("learn_then_test_thresholds") {
        let (input, expected) = (&case["input"], &case["expected"]);
        let (risk, delta) = (number(&input["risk"]), number(&input["delta"]));
        let steps: Vec<Vec<u64>> = input["accepted_and_errors"].as_array().unwrap().iter().map(counts).collect();
        let p = |of: &dyn Fn(u64, u64) -> f64| steps.iter().map(|step| of(step[0], step[1])).collect::<Vec<_>>();
        let general = p(&|n, errors| risk_control::hoeffding_bentkus_p(errors as f64, n, risk));
        let exact = p(&|n, errors| risk_control::binomial_p(errors, n, risk));
        for (p, name) in [(general, "fixed_sequence_p"), (exact, "fixed_sequence_binomial_p")] {
            all_close(name, &p, &expected[name]["p"]);
            let certified = risk_control::fixed_sequence(&p, delta);
            assert_eq!(certified as u64, count(&expected[name]["certified"]), "{}", case["name"]);
        }
    }

    for case in cases("conformal_risk_control") {
        let input = &case["input"];
        let losses: Vec<Vec<f64>> =
            input["loss_per_example_by_threshold"].as_array().unwrap().iter().map(numbers).collect();
        let chosen = risk_control::conformal_threshold(&losses, number(&input["risk"]), number(&input["loss_bound"]));
        assert_eq!(chosen.map(|place| place as u64), case["expected"]["chosen"].as_u64(), "{}", case["name"]);
    }
}

fn answers(input: &Value) -> Vec<(f64, bool)> {
    numbers(&input["confidence"]).into_iter().zip(counts(&input["right"])).map(|(c, right)| (c, right == 1)).collect()
}

#[test]
fn what_may_be_decided_at_a_risk() {
    for case in cases("risk_coverage") {
        let expected = &case["expected"];
        let curve = RiskCoverage::of(answers(&case["input"]));
        let area = expected.get("aurc_ties_shared").unwrap_or(&expected["aurc"]);
        close("area", curve.area(), area);
        let points = expected["points"].as_array().unwrap();
        for (point, right) in curve.points.iter().zip(points) {
            let got = [point.threshold, point.accepted as f64, point.errors as f64, point.risk()];
            let names = ["threshold", "accepted", "errors", "risk"];
            got.into_iter().zip(names).for_each(|(got, name)| close(name, got, &right[name]));
        }
        for (risk, name) in
            [(0.01, "coverage_at_risk_0.01"), (0.05, "coverage_at_risk_0.05"), (0.1, "coverage_at_risk_0.1")]
        {
            let Some(right) = expected.get(name).filter(|right| !right["threshold"].is_null()) else { continue };
            let point = curve.at_risk(risk).unwrap();
            close("threshold", point.threshold, &right["threshold"]);
            close("coverage", curve.coverage(&point), &right["coverage"]);
        }
    }
}

#[test]
fn what_a_policy_chooses() {
    for case in cases("ridge_linucb") {
        let (input, expected) = (&case["input"], &case["expected"]);
        let context: Vec<Vec<f64>> = input["context"].as_array().unwrap().iter().map(numbers).collect();
        let features = context[0].len();
        let mut arms = vec![choice::Ridge::new(features, number(&input["lambda"])); count(&input["arms"]) as usize];
        let rows = input["x"].as_array().unwrap().iter().map(numbers);
        for ((x, arm), reward) in rows.zip(counts(&input["arm"])).zip(numbers(&input["reward"])) {
            arms[arm as usize].add(&x, reward);
        }
        for (arm, right) in arms.iter().zip(expected["arms"].as_array().unwrap()) {
            all_close("weights", &arm.weights(), &right["theta"]);
            let predicted: Vec<[f64; 2]> = context.iter().map(|x| arm.predict(x)).collect();
            let column = |place: usize| predicted.iter().map(|pair| pair[place]).collect::<Vec<_>>();
            all_close("estimate", &column(0), &right["estimate"]);
            all_close("width", &column(1), &right["width"]);
        }
    }

    for case in cases("inverse_gap_weighting") {
        let (input, expected) = (&case["input"], &case["expected"]);
        let (scores, gamma) = (numbers(&input["scores"]), number(&input["gamma"]));
        all_close("SquareCB", &choice::inverse_gap(&scores, gamma, 0.0), &expected["squarecb"]);
        let floored = choice::inverse_gap(&scores, gamma, number(&input["floor"]));
        all_close("with a floor", &floored, &expected["floor_mixed"]);
    }

    for case in cases("policy_draw_murmur3") {
        let probabilities = numbers(&case["input"]["probabilities"]);
        for right in case["expected"]["draws"].as_array().unwrap() {
            let drawn = choice::draw(count(&right["hash"]) as u32, &probabilities);
            assert_eq!(drawn.map(|place| place as u64), right["version"].as_u64(), "{right}");
        }
    }
    assert_eq!(choice::draw(u32::MAX, &[0.3, 0.3]), Some(1), "rounding leaves a rest");
}

#[test]
fn labels_of_units_widen_the_error() {
    for case in cases("horvitz_thompson_hajek").iter().filter(|case| case["input"].get("unit").is_some()) {
        let input = &case["input"];
        let mut units: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
        let labels = numbers(&input["label"]).into_iter().zip(numbers(&input["shown_with_probability"]));
        for ((label, probability), unit) in labels.zip(counts(&input["unit"])) {
            let of_unit = units.entry(unit).or_default();
            *of_unit = (of_unit.0 + label / probability, of_unit.1 + 1.0 / probability);
        }
        let sums = UnitSums::of(units.into_values());
        let expected = &case["expected"];
        close("rate", sums.ratio(), &expected["hajek_mean"]);
        close("its error", sums.variance_uncorrected().sqrt(), &expected["hajek_se_clustered"]);
        close("corrected", sums.variance().sqrt(), &expected["hajek_se_clustered_g_over_g_minus_1"]);
    }
}
