//! At least once on real Apache Kafka: nothing is lost, and what comes again comes as it came.

use std::{collections::BTreeSet, time::Instant};

use crate::{
    kafka::Kafka,
    offered::{Chance, assert_in_order, kill_at_random, long, outcomes_under_load, quick},
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
