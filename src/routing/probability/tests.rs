use std::collections::BTreeMap;

use fastrand::Rng;
use serde_json::{Value, json};

use super::*;
use crate::{
    message::{AttributeValue, Attributes},
    routing::{TableSpec, decide::tests::features},
};

const UNITS: usize = 200_000;
const CONFIGURATIONS: u64 = 12;

/// A random configuration: rules, layers, holdouts, testers, paused and promoted experiments.
fn any_spec(random: &mut Rng) -> TableSpec {
    let ratio = |random: &mut Rng| [0.0, 0.1, 0.25, 0.5, 0.9, 1.0][random.usize(..6)];
    let version = |random: &mut Rng| ["a", "b", "c", "d"][random.usize(..4)];
    let mut layers = [0.0_f64; 2];
    let experiments: Vec<Value> = (0..random.usize(1..7))
        .map(|number| {
            let scheme = ["m3v1", "m3v1", "unleash", "flagd"][random.usize(..4)];
            let traffic = if scheme == "flagd" { 1.0 } else { ratio(random) };
            let mut spec = json!({"name": format!("e{number}"), "scheme": scheme, "traffic_ratio": traffic,
                "paused": random.u8(..6) == 0,
                "variants": [
                    {"name": "control", "model_version": version(random), "weight": random.u8(1..5)},
                    {"name": "treatment", "model_version": version(random), "weight": random.u8(1..5)}]});
            let layer = random.usize(..3);
            if layer < 2 && layers[layer] < 0.9 {
                let width = [0.1_f64, 0.3, 0.5][random.usize(..3)].min(1.0 - layers[layer]);
                let to = ((layers[layer] + width) * 1e4).round() / 1e4;
                spec["layer"] = json!(format!("layer-{layer}"));
                spec["slice"] = json!([layers[layer], to]);
                layers[layer] = to;
            }
            match random.u8(..8) {
                0 => spec["promoted"] = json!("treatment"),
                1 => spec["condition"] = json!("region == 'cn'"),
                2 => spec["condition"] = json!("region == 'eu'"),
                3 => spec["forced"] = json!([{"attribute": "tester", "values": ["t"], "variant": "control"}]),
                _ => {}
            }
            spec
        })
        .collect();
    let holdouts: Vec<Value> = (0..random.usize(..3))
        .map(|number| {
            let ratio = [0.05, 0.2][random.usize(..2)];
            json!({"name": format!("h{number}"), "ratio": ratio})
        })
        .collect();
    let rules = if random.u8(..4) == 0 { json!([{"condition": "region == 'eu'", "version": "d"}]) } else { json!([]) };
    let spec = json!({"versions": ["a", "b", "c", "d"], "default": "a", "allow_forced": false, "rules": rules,
        "holdouts": holdouts, "experiments": experiments});
    serde_json::from_value(spec).unwrap()
}

#[test]
fn probabilities_are_the_shares_of_simulated_units() {
    let mut compared = 0;
    for seed in 0..CONFIGURATIONS {
        let mut random = Rng::with_seed(seed);
        let table = Table::new(&any_spec(&mut random)).unwrap_or_else(|error| panic!("{error}"));
        let region = ["cn", "us"][random.usize(..2)];
        let attributes: Attributes =
            [("region".to_owned(), Some(AttributeValue::Text(region.to_owned())))].into_iter().collect();
        let probabilities = table.probabilities(&features("r", &attributes)).unwrap();
        let total: f64 = probabilities.values().sum();
        assert!((total - 1.0).abs() < 1e-9, "{probabilities:?}");

        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for unit in 0..UNITS {
            let route = table.decide(&features(&format!("unit-{unit}"), &attributes), &mut ()).unwrap();
            assert_eq!(route.probabilities.as_ref(), Some(&probabilities));
            *counts.entry(route.version).or_default() += 1;
        }
        for (version, count) in &counts {
            assert!(probabilities.contains_key(version), "{version} has no probability, and {count} units");
        }
        for (version, share) in &probabilities {
            let count = counts.get(version).copied().unwrap_or_default() as f64;
            let deviation = (UNITS as f64 * share * (1.0 - share)).sqrt();
            // Six standard deviations: in one of a hundred million comparisons it is chance.
            let difference = (count - UNITS as f64 * share).abs();
            assert!(difference <= 6.0 * deviation + 1e-6, "configuration {seed}, {version}: {share} and {count}");
            compared += 1;
        }
    }
    assert!(compared > 20, "{compared}");
}

fn table(spec: Value) -> Table {
    let whole = json!({"versions": ["a", "b"], "default": "a", "allow_forced": true,
        "rules": [{"condition": "text_length > 100", "version": "b"}], "holdouts": [],
        "experiments": spec});
    Table::new(&serde_json::from_value(whole).unwrap()).unwrap_or_else(|error| panic!("{error}"))
}

fn experiment(name: &str, salt: Option<&str>) -> Value {
    json!({"name": name, "traffic_ratio": 0.5, "salt": salt,
        "variants": [{"name": "v", "model_version": "b", "weight": 1}]})
}

#[test]
fn what_a_request_says_is_certain() {
    let table = table(json!([experiment("e", None)]));
    let none = Attributes::new();
    let probabilities = |features: Features<'_>| table.decide(&features, &mut ()).unwrap().probabilities.unwrap();
    let certain = BTreeMap::from([("b".to_owned(), 1.0)]);
    assert_eq!(probabilities(Features { forced_version: Some("b"), ..features("r", &none) }), certain);
    assert_eq!(probabilities(Features { text_length: 101, ..features("r", &none) }), certain);
    let half = BTreeMap::from([("a".to_owned(), 0.5), ("b".to_owned(), 0.5)]);
    assert_eq!(probabilities(features("r", &none)), half);
}

#[test]
fn experiments_that_hash_the_same_have_no_known_probability() {
    let none = Attributes::new();
    let known = |spec: Value| table(spec).probabilities(&features("r", &none)).is_some();
    assert!(known(json!([experiment("e", Some("x")), experiment("f", Some("y"))])));
    assert!(!known(json!([experiment("e", Some("x")), experiment("f", Some("x"))])));
    // One bucket decides on exposure and arm: the second experiment gets one arm only.
    let bucket = |name: &str, ranges: Value| {
        json!({"name": name, "salt": "x", "scheme": "optimizely", "traffic_ratio": 1.0,
        "variants": ranges})
    };
    let half = json!([{"name": "v", "model_version": "b", "range": [0, 5000]}]);
    let whole = json!([{"name": "v", "model_version": "a", "range": [0, 5000]},
        {"name": "w", "model_version": "b", "range": [5000, 10000]}]);
    assert!(known(json!([bucket("e", half.clone())])));
    assert!(!known(json!([bucket("e", half), bucket("f", whole)])));
    let mut sliced = [experiment("e", Some("x")), experiment("f", Some("x"))];
    for (number, spec) in sliced.iter_mut().enumerate() {
        (spec["layer"], spec["slice"]) = (json!("l"), [json!([0.0, 0.5]), json!([0.5, 1.0])][number].clone());
    }
    assert!(known(json!(sliced)), "slices of one layer exclude each other");
}
