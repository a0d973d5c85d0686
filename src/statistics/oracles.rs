//! The statistics against numbers that other packages give, and that papers print.
//!
//! `testdata/vectors/statistics/`: each entry names its source, its conventions and its tolerance.

use serde_json::Value;

mod agreement;
mod intervals;
mod policies;
mod shares;

fn file(name: &str) -> Value {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/vectors/statistics/");
    serde_json::from_str(&std::fs::read_to_string(format!("{folder}{name}")).unwrap()).unwrap()
}

fn first() -> Value {
    file("stats_oracles.json")
}

/// The cases of an entry of the second file.
fn cases(name: &str) -> Vec<Value> {
    let all = file("stats_oracles_2.json");
    let entry = all["entries"].as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap();
    let cases = entry["cases"].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn number(value: &Value) -> f64 {
    match value {
        Value::String(text) if text == "inf" => f64::INFINITY,
        value => value.as_f64().unwrap_or_else(|| panic!("no number: {value}")),
    }
}

fn count(value: &Value) -> u64 {
    number(value) as u64
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(number).collect()
}

fn counts(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(count).collect()
}

/// Compares with a relative tolerance; an absolute one of 1e-12 besides.
fn close_to(what: &str, got: f64, right: f64, tolerance: f64) {
    let is_close = (got - right).abs() <= tolerance * right.abs() + 1e-12 || got == right;
    assert!(is_close, "{what}: {got}, not {right}");
}

fn close(what: &str, got: f64, right: &Value) {
    close_to(what, got, number(right), 1e-9);
}

fn all_close(what: &str, got: &[f64], right: &Value) {
    let right = numbers(right);
    assert_eq!(got.len(), right.len(), "{what}");
    got.iter().zip(right).for_each(|(got, right)| close_to(what, *got, right, 1e-9));
}
