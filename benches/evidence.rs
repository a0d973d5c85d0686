//! What a verdict costs as evidence: reading it, adding it in memory, and adding it to the store.
//!
//! `cargo bench --bench evidence`

#![allow(clippy::unwrap_used, clippy::disallowed_macros, reason = "a benchmark prints, and ends where it cannot go on")]

use std::collections::BTreeMap;

use divan::{Bencher, black_box, counter::ItemsCount};
use ofa_stream::{
    evidence::VerdictSet,
    evidence_store::{Store, TopicKind},
    message::{Record, Verdict},
};

const BATCH: usize = 500;

fn main() {
    print_size();
    divan::main();
}

/// A verdict of a request with a picture of its own; every tenth picture came before.
fn record(number: usize) -> Record {
    let variant = if number.is_multiple_of(2) { "control" } else { "treatment" };
    let picture = if number.is_multiple_of(10) { number / 2 } else { number };
    let label = ["no", "maybe", "yes"][number % 3];
    let digest = |number: usize| format!("sha256:{:064x}", number as u128 * 0x9e37_79b9_7f4a_7c15);
    let verdict = serde_json::json!({
        "request_id": digest(number), "timestamp": "2026-11-30T12:00:00.000Z",
        "source": {"topic": "moderation.requests", "partition": 3, "offset": number}, "instance": "ofa-stream-0",
        "result": label, "confidence": 0.912_345,
        "scores": {"yes": 0.05, "maybe": 0.037_655, "no": 0.912_345}, "decision": "reject",
        "is_manual_review": false, "model_version": format!("ofa_{variant}"), "model_digest": digest(1),
        "backend": "flex", "precision": "f32", "ab_experiment": "ofa_version_comparison", "ab_variant": variant,
        "ab_role": "live",
        "ab": {
            "definition": "67f1917fcc1e03a9", "unit": "request_id", "scheme": "m3v1", "assignment": "cumulative",
            "epoch": 1, "propensity": 0.5, "layer": "default",
        },
        "route": {
            "reason": "experiment", "rule": null, "config_digest": digest(2),
            "probabilities": {"ofa_control": 0.6, "ofa_treatment": 0.4},
        },
        "image_hash": digest(picture), "text_preview": "a red circle is left of a blue square", "text_length": 37,
        "text_tokens": 14, "image_width": 640, "image_height": 480, "requested_at": "2026-11-30T12:00:00.000Z",
        "age_ms": 41.0, "attempts": 1, "latency_ms": 40.0 + (number % 97) as f64 / 3.0,
        "timings_ms": {"fetch": 0.1, "decode": 3.2, "queue": 0.4, "inference": 36.1}, "cached": false,
    });
    Record {
        topic: "verdicts".to_owned(),
        offset: number as i64,
        timestamp_ms: Some(1_796_130_000_000),
        payload: Some(verdict.to_string().into_bytes()),
        ..Record::default()
    }
}

fn batch(from: usize) -> Vec<(TopicKind, Record)> {
    (from..from + BATCH).map(|number| (TopicKind::Verdicts, record(number))).collect()
}

fn open(directory: &std::path::Path) -> Store {
    let topics = BTreeMap::from([("verdicts".to_owned(), String::new())]);
    Store::open(Some(directory), 64 << 20, &topics, 0).unwrap()
}

fn print_size() {
    const REQUESTS: usize = 200_000;
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    for from in (0..REQUESTS).step_by(BATCH) {
        store.add(&batch(from)).unwrap();
    }
    let (requests, bytes) = (store.requests().unwrap(), store.page_bytes().unwrap());
    println!("{requests} requests take {bytes} bytes of the store, {:.0} each", bytes as f64 / requests as f64);
}

#[divan::bench]
fn parse(bencher: Bencher<'_, '_>) {
    let records = batch(0);
    bencher.counter(ItemsCount::new(BATCH)).bench(|| {
        for (_, record) in &records {
            black_box(serde_json::from_slice::<Verdict>(record.payload.as_deref().unwrap()).unwrap());
        }
    });
}

#[divan::bench]
fn add_in_memory(bencher: Bencher<'_, '_>) {
    let mut set = VerdictSet::default();
    let mut from = 0;
    bencher
        .counter(ItemsCount::new(BATCH))
        .with_inputs(|| {
            from += BATCH;
            batch(from)
        })
        .bench_local_values(|records| {
            for (_, record) in &records {
                set.add(record.payload.as_deref().unwrap());
            }
        });
}

/// With its write to the disk, which one batch has together.
#[divan::bench]
fn add_to_the_store(bencher: Bencher<'_, '_>) {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    let mut from = 0;
    bencher
        .counter(ItemsCount::new(BATCH))
        .with_inputs(|| {
            from += BATCH;
            batch(from)
        })
        .bench_local_values(|records| store.add(&records).unwrap());
}
