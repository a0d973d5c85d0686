//! What routing costs, beside reading the request that is routed.
//!
//! `cargo bench --bench routing`

#![allow(clippy::unwrap_used, reason = "a benchmark ends where it cannot go on")]

use divan::{Bencher, black_box};
use ofa_stream::{
    message::{Request, RequestBounds},
    routing::{Features, Table, TableSpec},
};

fn main() {
    divan::main();
}

/// Ten rules as people write them, of which none matches, and an experiment.
fn spec() -> TableSpec {
    let conditions = [
        "text_length < 20 and image_resolution < 1024",
        "user_role == 'admin'",
        "region in ['cn-north', 'cn-south'] and not device_type == 'tablet'",
        "hour('Asia/Shanghai') in 22..6",
        "attributes.app_version >= semver '3.0.0'",
        "source_ip in cidr ['192.168.0.0/16', '172.16.0.0/12']",
        "text contains ['casino', 'poker']",
        "text starts_with 'NEW!!'",
        "image_bytes > 5_000_000 or image_format == 'webp'",
        "text matches '(?i)\\bwin(ner)?s?\\b'",
    ];
    let rules: Vec<_> =
        conditions.iter().map(|condition| serde_json::json!({"condition": condition, "version": "a"})).collect();
    serde_json::from_value(serde_json::json!({
        "versions": ["a", "b"], "default": "a", "allow_forced": false, "rules": rules,
        "experiments": [{"name": "e", "traffic_ratio": 0.5, "variants": [
            {"name": "control", "model_version": "a", "weight": 1.0},
            {"name": "treatment", "model_version": "b", "weight": 1.0}]}]
    }))
    .unwrap()
}

const TEXT: &str = "A red mug with a handle, for the office and at home";

/// What the pattern is searched in: a text without its letters, one with them, and one that is not ASCII.
const TEXTS: [&str; 3] =
    [TEXT, "A mug for the window, for the office and at home", "马克杯 window, for the office and at home"];

fn request(text: &str, image: &str, attributes: &serde_json::Value) -> String {
    let image = serde_json::json!({"base64": image});
    serde_json::json!({"request_id": "req_20240515_abc123", "text": text, "image": image, "attributes": attributes})
        .to_string()
}

fn attributes() -> serde_json::Value {
    serde_json::json!({"user_role": "seller", "region": "cn-east", "device_type": "phone", "app_version": "2.7.1",
                       "source_ip": "10.20.30.40", "user_id": "u-000123"})
}

fn features(request: &Request) -> Features<'_> {
    Features {
        request_id: &request.request_id,
        key: None,
        texts: request.text.as_slice(),
        caption: None,
        text_length: 51,
        non_latin_share: 0.0,
        image_width: 640,
        image_height: 480,
        image_bytes: 40_000,
        image_format: "jpeg",
        // Noon in Shanghai.
        time_ms: Some(1_795_233_600_000),
        attributes: &request.attributes,
        forced_version: None,
    }
}

fn decide(bencher: Bencher<'_, '_>, spec: &TableSpec, text: &str, attributes: &serde_json::Value) {
    let table = Table::new(spec).unwrap();
    let request = Request::from_json(request(text, "", attributes).as_bytes(), &RequestBounds::NONE).unwrap();
    let features = features(&request);
    assert_ne!(table.decide(&features, &mut ()).unwrap().reason.as_str(), "rule");
    bencher.bench_local(|| table.decide(black_box(&features), &mut ()).unwrap());
}

#[divan::bench]
fn ten_rules_and_an_experiment(bencher: Bencher<'_, '_>) {
    decide(bencher, &spec(), TEXT, &attributes());
}

#[divan::bench(args = TEXTS)]
fn ten_rules(bencher: Bencher<'_, '_>, text: &str) {
    decide(bencher, &TableSpec { experiments: Vec::new(), ..spec() }, text, &attributes());
}

#[divan::bench]
fn ten_rules_about_attributes_that_are_missing(bencher: Bencher<'_, '_>) {
    decide(bencher, &TableSpec { experiments: Vec::new(), ..spec() }, TEXT, &serde_json::json!({}));
}

#[divan::bench]
fn an_experiment_alone(bencher: Bencher<'_, '_>) {
    decide(bencher, &TableSpec { rules: Vec::new(), ..spec() }, TEXT, &attributes());
}

#[divan::bench]
fn nothing(bencher: Bencher<'_, '_>) {
    decide(bencher, &TableSpec { rules: Vec::new(), experiments: Vec::new(), ..spec() }, TEXT, &attributes());
}

/// What comes before: the JSON of a request, its image as base64 of so many bytes.
#[divan::bench(args = [0, 40_000])]
fn reading_the_request(bencher: Bencher<'_, '_>, image_bytes: usize) {
    let json = request(TEXT, &"A".repeat(image_bytes), &attributes());
    bencher.bench_local(|| Request::from_json(black_box(json.as_bytes()), &RequestBounds::NONE).unwrap());
}
