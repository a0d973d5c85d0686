//! At least once on real Apache Kafka: nothing is lost, and what comes again comes as it came.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::{
    kafka::Kafka,
    offered::{Chance, long, outcomes_under_load, quick},
    support::{Running, metric, page},
};

/// A consumer that has seen a request's outcome may see it again, with those behind it: never one for the first time before its
/// predecessor of the same key.
#[test]
fn kills_at_random_moments_lose_nothing_at_least_once() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let settings = quick(&topics.settings(kafka.address(), "one"));
    let settings = settings.replace("\n[kafka.options]", "\ndelivery = \"at_least_once\"\n[kafka.options]");
    let kills = long(4, 30);
    let mut chance = Chance(5);
    let begun = Instant::now();
    let (outcomes, offered) = outcomes_under_load(kafka, &topics, 300, &settings, |_| {
        for _ in 0..kills {
            let running = Running::start(&settings);
            let pages = running.log_line("Serving /metrics")["address"].as_str().unwrap().to_owned();
            running.log_line("Partitions assigned");
            // One that has done nothing yet proves nothing.
            while metric(&page(&pages, "/metrics"), "ofa_verdicts_total", "") == 0.0 {
                std::thread::sleep(Duration::from_millis(10));
            }
            std::thread::sleep(Duration::from_millis(chance.below(1_000)));
            assert_eq!(metric(&page(&pages, "/metrics"), "ofa_transaction_commits_total", ""), 0.0);
            running.kill();
        }
    });
    let answered: BTreeSet<u64> = outcomes.iter().map(|outcome| outcome.number).collect();
    assert_eq!(answered.len(), offered, "requests answered");
    let mut seen = BTreeSet::new();
    let mut last: BTreeMap<(&str, &Option<Vec<u8>>), u64> = BTreeMap::new();
    for outcome in outcomes.iter().filter(|outcome| seen.insert(outcome.number)) {
        let before = last.insert((&outcome.topic, &outcome.key), outcome.number);
        assert!(before.is_none_or(|before| before < outcome.number), "{before:?}, then {}", outcome.number);
    }
    println!(
        "at least once, SIGKILL {kills} times in {:.0?} under load: {offered} requests, each answered, {} answers came again",
        begun.elapsed(),
        outcomes.len() - offered
    );
}
