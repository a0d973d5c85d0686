//! What the store promises: the same sums as a ledger in memory, whenever it is closed and opened
//! again.

use std::collections::BTreeMap;

use fastrand::Rng;

use super::*;
use crate::{
    evidence::{VerdictSet, tests::verdict},
    message::Record,
};

fn topics(id: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("verdicts".to_owned(), id.to_owned()), ("dead".to_owned(), id.to_owned())])
}

fn open(directory: &std::path::Path, id: &str) -> Store {
    Store::open(Some(directory), 4 << 20, &topics(id), 0).unwrap()
}

/// Random records of two partitions: with repeats, shadows, several definitions, segments and dead
/// letters.
fn records(chance: &mut Rng, count: usize) -> Vec<(TopicKind, Record)> {
    let mut offsets = [0_i64; 4];
    let mut record = |place: usize, topic: &str, payload: Option<Vec<u8>>, headers| {
        offsets[place] += 1;
        Record {
            topic: topic.to_owned(),
            partition: place as i32 % 2,
            offset: offsets[place] - 1,
            timestamp_ms: Some(1_796_130_000_000 + offsets[place]),
            payload,
            headers,
            ..Record::default()
        }
    };
    (0..count)
        .map(|_| {
            let number = chance.u32(0..count as u32);
            let variant = if chance.bool() { "control" } else { "treatment" };
            let label = *chance.choice(["no", "maybe", "yes"].as_slice()).unwrap();
            if chance.f64() < 0.15 {
                let review = serde_json::json!({
                    "request_id": number.to_string(), "label": label, "reviewer": chance.u32(0..3).to_string(),
                    "reviewed_at": format!("2026-12-01T{:02}:00:00.000Z", chance.u32(0..24)),
                });
                let payload = Some(review.to_string().into_bytes());
                return (TopicKind::Reviews, record(3, "reviews", payload, Vec::new()));
            }
            if chance.f64() < 0.1 {
                let unit = if chance.bool() { "request_id" } else { "user_id" };
                let headers = [
                    ("ofa-error-request-id", number.to_string()),
                    ("ofa-error-experiment", "e".to_owned()),
                    ("ofa-error-variant", variant.to_owned()),
                    ("ofa-error-epoch", "1".to_owned()),
                    ("ofa-error-definition", "d".to_owned()),
                    ("ofa-error-unit", unit.to_owned()),
                    ("ofa-error-unit-hash", (number % 20).to_string()),
                ];
                let headers = headers.map(|(name, value)| (name.to_owned(), Some(value.into_bytes()))).to_vec();
                return (TopicKind::DeadLetters, record(2, "dead", None, headers));
            }

            let value = verdict(&number.to_string(), variant, label, |verdict| {
                verdict["timestamp"] = serde_json::json!(format!("2026-11-30T{:02}:00:00.000Z", chance.u32(0..24)));
                verdict["image_hash"] = serde_json::json!((number % 40).to_string());
                verdict["review_probability"] = serde_json::json!(if label == "no" { 1.0 } else { 0.05 });
                verdict["cached"] = serde_json::json!(chance.f64() < 0.2);
                if chance.f64() < 0.2 {
                    verdict["shadows"] = serde_json::json!(["ofa_large"]);
                }
                let region = ["cn", "eu"][number as usize % 2];
                verdict["segments"] = serde_json::json!({"region": region});
                if chance.f64() < 0.3 {
                    verdict["ab"]["unit"] = serde_json::json!("user_id");
                    verdict["ab"]["unit_hash"] = serde_json::json!((number % 20).to_string());
                }
                if chance.f64() < 0.1 {
                    verdict["ab"]["definition"] = serde_json::json!("d2");
                }
                if chance.f64() < 0.1 {
                    verdict["ab_role"] = serde_json::json!("shadow");
                    verdict["live"] = serde_json::json!({
                        "model_version": "ofa_base", "result": "yes", "confidence": 0.9, "decision": "approve",
                        "scores": {"yes": 0.9, "maybe": 0.1, "no": 0.0}, "agrees": label == "yes",
                    });
                }
            });
            (TopicKind::Verdicts, record(usize::from(chance.bool()), "verdicts", Some(value), Vec::new()))
        })
        .collect()
}

fn in_memory(records: &[(TopicKind, Record)]) -> VerdictSet {
    let mut set = VerdictSet::default();
    for (kind, record) in records {
        match kind {
            TopicKind::Verdicts => set.add(record.payload.as_deref().unwrap()),
            TopicKind::DeadLetters => set.add_letter(record),
            TopicKind::Reviews => set.add_answer(record.payload.as_deref().unwrap()),
        }
    }
    set
}

#[test]
fn a_store_that_is_closed_at_any_time_has_the_sums_of_one_reading() {
    let mut chance = Rng::with_seed(31);
    for round in 0..8 {
        let directory = tempfile::tempdir().unwrap();
        let all = records(&mut chance, 400);
        let mut store = open(directory.path(), "a");
        for part in all.chunks(1 + 17 * round) {
            store.add(part).unwrap();
            if chance.f64() < 0.3 {
                drop(store);
                store = open(directory.path(), "a");
            }
        }
        assert!(store.sums() == in_memory(&all).sums(), "round {round}");

        let mut shuffled = all.clone();
        chance.shuffle(&mut shuffled);
        assert!(in_memory(&shuffled).sums() == store.sums(), "the order of reading changes nothing, round {round}");
        let next = all.iter().filter(|(_, record)| record.topic == "dead").count() as i64;
        assert_eq!(store.offsets().get(&("dead".to_owned(), 0)), Some(&next));
    }
}

#[test]
fn a_write_that_was_cut_off_counts_nothing() {
    let mut chance = Rng::with_seed(32);
    let directory = tempfile::tempdir().unwrap();
    let all = records(&mut chance, 200);
    let mut store = open(directory.path(), "a");
    store.add(&all[..100]).unwrap();
    drop(store);
    // What a kill leaves behind: the file as it was after the last write.
    let before = std::fs::read(directory.path().join(FILE)).unwrap();
    let mut store = open(directory.path(), "a");
    store.add(&all[100..]).unwrap();
    drop(store);
    std::fs::write(directory.path().join(FILE), before).unwrap();

    let mut store = open(directory.path(), "a");
    assert!(store.sums() == in_memory(&all[..100]).sums());
    store.add(&all[100..]).unwrap();
    assert!(store.sums() == in_memory(&all).sums());
}

#[test]
fn topics_that_were_created_again_empty_the_store() {
    let mut chance = Rng::with_seed(33);
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path(), "a");
    store.add(&records(&mut chance, 50)).unwrap();
    drop(store);
    assert!(!open(directory.path(), "a").offsets().is_empty());
    // An id that is not known for a while, or another topic, says nothing about those that were
    // read.
    assert!(!open(directory.path(), "").offsets().is_empty());
    let more = topics("a").into_iter().chain([("reviews".to_owned(), "r".to_owned())]).collect();
    assert!(!Store::open(Some(directory.path()), 4 << 20, &more, 0).unwrap().offsets().is_empty());
    let store = open(directory.path(), "b");
    assert!(store.offsets().is_empty() && store.sums().experiments.is_empty());
}

#[test]
fn a_store_that_another_process_uses_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let _first = open(directory.path(), "a");
    let second = Store::open(Some(directory.path()), 4 << 20, &topics("a"), 0);
    assert!(matches!(second, Err(StoreError::InUse)), "{second:?}");
}

#[test]
fn requests_are_remembered_for_one_to_two_generations() {
    let mut chance = Rng::with_seed(34);
    let directory = tempfile::tempdir().unwrap();
    let all = records(&mut chance, 100);
    let mut store = open(directory.path(), "a");
    store.add(&all).unwrap();
    let duplicates = store.sums().excluded.duplicates;
    let repeated = |store: &mut Store| {
        store.add(&all).unwrap();
        store.sums().excluded.duplicates
    };
    assert!(!store.rotate(1_000, 999).unwrap());
    assert!(store.rotate(1_000, 1_000).unwrap());
    let outcomes = all.iter().filter(|(kind, _)| *kind != TopicKind::Reviews).count() as u64;
    assert_eq!(repeated(&mut store), duplicates + outcomes, "the generation before is still searched");
    assert!(store.rotate(1_000, 2_000).unwrap() && store.rotate(1_000, 3_000).unwrap());
    drop(store);
    let mut store = open(directory.path(), "a");
    assert!(repeated(&mut store) < duplicates + 2 * outcomes, "after two generations they count again");
}
