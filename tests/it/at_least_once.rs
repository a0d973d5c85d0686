//! At least once on real Apache Kafka: nothing is lost, and what comes again comes as it came.

use std::{collections::BTreeSet, time::Instant};

use serde_json::json;

use crate::{
    broker::{PARTITIONS, image},
    kafka::{Kafka, Sent, receive, send},
    offered::{Chance, assert_in_order, kill_at_random, long, outcomes_under_load, quick},
    support::{Running, metric, page, until},
};

/// A consumer that has seen a request's outcome may see it again, with those behind it: never one for the first time before its
/// predecessor of the same key.
#[test]
fn kills_at_random_moments_lose_nothing_at_least_once() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let settings = quick(&topics.settings(kafka.address(), "one"));
    let settings = settings.replace("\n[kafka.options]", "\ndelivery = \"at_least_once\"\n[kafka.options]");
    assert!(settings.contains("at_least_once"), "{settings}");
    let kills = long(4, 30);
    let mut chance = Chance(5);
    let begun = Instant::now();
    let (outcomes, offered) = outcomes_under_load(kafka, &topics, 300, &settings, |_| {
        kill_at_random(&settings, kills, &mut chance, "ofa_verdicts_total");
    });
    let answered: BTreeSet<u64> = outcomes.iter().map(|outcome| outcome.number).collect();
    assert_eq!(answered.len(), offered, "requests answered");
    let mut seen = BTreeSet::new();
    assert_in_order(outcomes.iter().filter(|outcome| seen.insert(outcome.number)));
    println!(
        "at least once, SIGKILL {kills} times in {:.0?} under load: {offered} requests, each answered, {} answers came again",
        begun.elapsed(),
        outcomes.len() - offered
    );
}

/// The headers of a request go on to its verdict, so that a verdict can be larger than its topic takes.
#[test]
fn metrics_and_log_count_what_was_published_and_not_what_brokers_refused() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    for (topic, bytes_max) in [("wide", "16777216"), ("letters", "17000000")] {
        kafka.create(&topics.name(topic), PARTITIONS, &[("max.message.bytes", bytes_max)]);
    }
    let settings = topics
        .settings(kafka.address(), "one")
        .replace("\n[kafka.options]", "\ndelivery = \"at_least_once\"\n[kafka.options]")
        .replace(&topics.name("requests"), &topics.name("wide"))
        .replace(&topics.name("dead-letters"), &topics.name("letters"));
    let running = Running::start(&settings);
    let pages = running.log_line("Serving /metrics")["address"].as_str().unwrap().to_owned();
    let trace = noise(1 << 20);
    let request = |id: &str, headers| {
        let request = json!({"request_id": id, "text": "a ball", "image": {"base64": image("thumbnail.png")}});
        Sent { key: Some("k"), payload: Some(request.to_string().into_bytes()), headers }
    };
    let large = ["a", "b", "c"].map(|name| (name, trace.as_str())).to_vec();
    let records = [request("small", vec![]), request("large", large), request("last", vec![])];
    send(kafka.address(), &topics.name("wide"), &records);

    receive(kafka.address(), &topics.name("verdicts"), 2);
    let letters = receive(kafka.address(), &topics.name("letters"), 1);
    assert_eq!(letters[0].headers["ofa-error-code"], "verdict_too_large");
    let counted = |name: &str| metric(&page(&pages, "/metrics"), name, "");
    until("two verdicts and a dead letter in the metrics", || {
        (counted("ofa_verdicts_total") == 2.0 && counted("ofa_dead_letters_total") == 1.0).then_some(())
    });
    let (code, log) = running.stop_and_hear();
    assert_eq!(code, Some(0));
    let lines = |message: &str| log.lines().filter(|line| line.contains(message)).count();
    assert_eq!((lines("Verdict."), lines("Dead letter.")), (2, 1), "{log}");
}

/// Text that compression does not make small.
fn noise(bytes: usize) -> String {
    let mut chance = Chance(7);
    (0..bytes).map(|_| char::from(b'!' + chance.below(90) as u8)).collect()
}
