//! Exactly once, through everything that goes wrong, on real Apache Kafka: what a read-committed consumer finds in the end is
//! one outcome for each request, in order per key.
//!
//! Each of these tests has a short version, and a long one that `scripts/soak` runs; they print what they met.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use ofa_stream::{
    kafka::{Connection, RecordLimits, TransactionOptions, TransactionalPublisher},
    message::Outgoing,
};
use rdkafka::Message as _;

use crate::{
    broker::Outcome,
    kafka::{Kafka, Topics},
    offered::{Chance, assert_in_order, committed_reader_of, kill_at_random, long, outcomes_under_load, quick},
    support::{Running, metric, page},
};

/// Each request exactly once, in order per key within each topic.
fn assert_exactly_once(outcomes: &[Outcome], offered: usize) {
    let mut found: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for Outcome { number, topic, partition, offset, .. } in outcomes {
        found.entry(*number).or_default().push(format!("{topic}/{partition}@{offset}"));
    }
    let twice: Vec<_> = found.iter().filter(|(_, places)| places.len() > 1).collect();
    assert!(twice.is_empty(), "answered more than once, and where: {twice:?}");
    assert_eq!(found.len(), offered, "requests answered");
    assert_in_order(outcomes);
}

/// Holds what came out to the promise, and gives back how many requests were offered.
fn under_load(
    kafka: &Kafka,
    topics: &Topics,
    per_second: usize,
    last: &str,
    disturb: impl FnOnce(&AtomicUsize),
) -> usize {
    let (outcomes, offered) = outcomes_under_load(kafka, topics, per_second, last, disturb);
    assert_exactly_once(&outcomes, offered);
    assert_only_repeated_texts_are_cached(&outcomes);
    offered
}

/// A request that no other is like is never cached, also where it is judged again after an abort or a rebalance.
fn assert_only_repeated_texts_are_cached(outcomes: &[Outcome]) {
    let verdicts = outcomes.iter().filter_map(|outcome| serde_json::from_slice(&outcome.payload).ok());
    let is_unlike_others = |verdict: &serde_json::Value| {
        let text = verdict["text_preview"].as_str().unwrap_or_default();
        text.strip_prefix("ball ").and_then(|number| number.parse::<u64>().ok()).is_some_and(|number| number > 4)
    };
    let (mut seen, mut tried_again) = (0, 0);
    for verdict in verdicts.filter(is_unlike_others) {
        assert_eq!(verdict["cached"], false, "{verdict}");
        seen += 1;
        tried_again += usize::from(verdict["attempts"].as_u64().unwrap() > 1);
    }
    assert!(seen > 0, "no request was unlike all others");
    println!("{seen} requests that no other was like, {tried_again} of them tried again, none cached");
}

#[test]
fn kills_at_random_moments_lose_and_repeat_nothing() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let settings = quick(&topics.settings(kafka.address(), "one"));
    let kills = long(6, 50);
    let mut chance = Chance(7);
    let begun = Instant::now();
    let offered = under_load(kafka, &topics, 300, &settings, |_| {
        kill_at_random(&settings, kills, &mut chance, "ofa_transaction_commits_total");
    });
    println!(
        "SIGKILL {kills} times in {:.0?} under load: {offered} requests, each answered once, in order per key",
        begun.elapsed()
    );
}

/// Two instances that come and go beside one that stays. Stopped ones give their partitions back at once where they have no
/// name of their own; the others keep them, until the group misses them.
fn rebalances(change: impl Fn(String) -> String, named: bool) {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let settings = |instance: usize| {
        let name = if named { format!("member-{instance}") } else { "off".to_owned() };
        change(quick(&topics.settings(kafka.address(), &name)))
    };
    let changes = long(8, 50);
    let mut chance = Chance(11);
    let begun = Instant::now();
    let mut seen = 0.0;
    let offered = under_load(kafka, &topics, 300, &settings(0), |_| {
        let stays = Running::start(&settings(2));
        let pages = stays.log_line("Serving /metrics")["address"].as_str().unwrap().to_owned();
        stays.log_line("Partitions assigned");
        let mut running: [Option<Running>; 2] = [None, None];
        for _ in 0..changes {
            let member = chance.below(2) as usize;
            running[member] = match running[member].take() {
                None => {
                    let started = Running::start(&settings(member));
                    started.log_line("Partitions assigned");
                    Some(started)
                }
                Some(ending) if chance.below(3) == 0 => {
                    ending.kill();
                    None
                }
                Some(ending) => {
                    assert_eq!(ending.stop(), Some(0));
                    None
                }
            };
            std::thread::sleep(Duration::from_millis(300 + chance.below(1_500)));
        }
        running.into_iter().flatten().for_each(|ending| assert_eq!(ending.stop(), Some(0)));
        std::thread::sleep(Duration::from_millis(2_500));
        seen = metric(&page(&pages, "/metrics"), "ofa_rebalances_total", "");
        let settled = Instant::now();
        while metric(&page(&pages, "/metrics"), "ofa_group_member", "") < 1.0 {
            assert!(settled.elapsed() < Duration::from_secs(30), "it does not know that it has its place in the group");
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(stays.stop(), Some(0));
    });
    // One that keeps its name comes back to what it had, and nothing moves.
    let expected = if named { changes / 4 } else { changes / 2 };
    assert!(seen >= expected as f64, "the instance that stayed saw {seen} assignments and revocations only");
    println!(
        "three instances, {changes} times one came or went in {:.0?} under load, {seen} assignments and revocations at the one \
         that stayed: {offered} requests, each answered once, in order per key",
        begun.elapsed()
    );
}

#[test]
fn instances_that_come_and_go_lose_and_repeat_nothing() {
    rebalances(|settings| settings, false);
}

#[test]
fn named_instances_that_come_and_go_lose_and_repeat_nothing() {
    rebalances(|settings| settings, true);
}

#[test]
fn the_new_group_protocol_loses_and_repeats_nothing() {
    let consumer = |settings: String| {
        settings.replace(
            "[kafka.options]\n\"session.timeout.ms\" = \"6000\"",
            "group_protocol = \"consumer\"\n[kafka.options]",
        )
    };
    rebalances(consumer, false);
}

/// Stopped for longer than its session lasts, in the middle of whatever it does: the group gives its partitions away without its knowing.
fn standstills(named: bool) {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let settings = |name: &str| quick(&topics.settings(kafka.address(), if named { name } else { "off" }));
    let times = long(1, 8);
    let offered = under_load(kafka, &topics, 200, &settings("three"), |_| {
        let both = [Running::start(&settings("one")), Running::start(&settings("two"))];
        both.iter().for_each(|running| {
            running.log_line("Partitions assigned");
        });
        for time in 0..times {
            std::thread::sleep(Duration::from_secs(2));
            both[time % 2].signal("STOP");
            std::thread::sleep(Duration::from_secs(9));
            both[time % 2].signal("CONT");
        }
        std::thread::sleep(Duration::from_secs(3));
        both.into_iter().for_each(|running| assert_eq!(running.stop(), Some(0)));
    });
    println!(
        "{} instances that stood still for 9 s, {times} times: {offered} requests, each answered once, in order per key",
        if named { "named" } else { "nameless" }
    );
}

#[test]
fn instances_that_stand_still_for_longer_than_their_session_lose_and_repeat_nothing() {
    standstills(false);
    standstills(true);
}

fn without_outcomes(told: &str) -> String {
    let lines = told.lines().filter(|line| !line.contains("Verdict.") && !line.contains("Dead letter."));
    lines.collect::<Vec<_>>().join("\n")
}

/// What happens to brokers while two instances work.
fn broker_trouble(brokers: &str, what: &str, disturb: impl FnOnce(&Kafka)) {
    let Some(kafka) = Kafka::start(&["--brokers", brokers]) else { return };
    let topics = kafka.topics();
    let settings = |name: &str| quick(&topics.settings(kafka.address(), name));
    let both = [Running::start(&settings("one")), Running::start(&settings("two"))];
    both.iter().for_each(|running| {
        running.log_line("Taking requests");
    });
    let offered = under_load(&kafka, &topics, 200, "", |offered| {
        std::thread::sleep(Duration::from_secs(2));
        disturb(&kafka);
        let so_far = offered.load(Ordering::Relaxed);
        while offered.load(Ordering::Relaxed) < so_far + 400 {
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_secs(2));
    });
    println!("{what}: {offered} requests, each answered once, in order per key; nobody had to do anything");
    for running in both {
        let (code, told) = running.stop_and_hear();
        assert_eq!(code, Some(0), "{}", without_outcomes(&told));
    }
}

#[test]
fn a_broker_that_is_killed_and_started_again_loses_and_repeats_nothing() {
    broker_trouble("1", "the only broker killed and started again", |kafka| {
        for _ in 0..long(1, 10) {
            kafka.tell("kill 1");
            std::thread::sleep(Duration::from_secs(1));
            kafka.tell("start 1");
            std::thread::sleep(Duration::from_secs(2));
        }
    });
}

#[test]
fn one_broker_of_three_that_is_killed_loses_and_repeats_nothing() {
    broker_trouble("3", "each of three brokers killed for a time, one after the other", |kafka| {
        for broker in 1..=long(1, 3) {
            kafka.tell(&format!("kill {broker}"));
            std::thread::sleep(Duration::from_secs(5));
            kafka.tell(&format!("start {broker}"));
            std::thread::sleep(Duration::from_secs(3));
        }
    });
}

#[test]
fn brokers_that_stand_still_lose_and_repeat_nothing() {
    let seconds = long(8, 30) as u64;
    broker_trouble("1", &format!("all brokers paused for {seconds} s"), |kafka| {
        kafka.tell("pause all");
        std::thread::sleep(Duration::from_secs(seconds));
        kafka.tell("resume all");
    });
}

#[test]
fn of_two_instances_of_one_name_the_older_stops_and_says_why() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let settings = quick(&topics.settings(kafka.address(), "twin"));
    let offered = under_load(kafka, &topics, 200, &settings, |_| {
        let older = Running::start(&settings);
        older.log_line("Partitions assigned");
        std::thread::sleep(Duration::from_secs(1));
        let newer = Running::start(&settings);
        let (code, told) = older.wait();
        assert_eq!(code, Some(1));
        assert!(told.contains("another instance runs as") && told.contains("kafka.instance_id"), "{told}");
        newer.log_line("Partitions assigned");
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(newer.stop(), Some(0), "the newer one goes on");
    });
    println!("an instance fenced by its twin: {offered} requests, each answered once, in order per key");
}

#[test]
fn a_stop_under_load_answers_and_commits_all_that_was_read_within_its_bound() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let settings = quick(&topics.settings(kafka.address(), "stopping"));
    let mut longest = Duration::ZERO;
    let offered = under_load(kafka, &topics, 300, &settings, |_| {
        for _ in 0..long(3, 30) {
            let running = Running::start(&settings);
            running.log_line("Partitions assigned");
            std::thread::sleep(Duration::from_millis(700));
            let asked = Instant::now();
            let (code, told) = running.stop_and_hear();
            assert_eq!(code, Some(0));
            assert!(told.contains("Drained and committed"), "{told}");
            longest = longest.max(asked.elapsed());
        }
    });
    assert!(longest < Duration::from_secs(20), "a stop took {longest:?}");
    println!(
        "stop signals under load: at most {longest:.1?} each; {offered} requests, each answered once, in order per key"
    );
}

#[test]
fn a_stop_while_brokers_stand_still_ends_within_its_bound_and_loses_and_repeats_nothing() {
    let Some(kafka) = Kafka::start(&[]) else { return };
    let topics = kafka.topics();
    // With the control topic, whose clients must not hold a stop up either.
    let settings = quick(&topics.operated(kafka.address(), "cut"));
    // The end of a transaction, its abort and the leave are waited for so long each.
    let hasty =
        settings.replace("[kafka]\n", "[pipeline]\ndrain_timeout_ms = 500\n[kafka]\npublish_timeout_ms = 2000\n");
    let offered = under_load(&kafka, &topics, 200, &settings, |_| {
        let running = Running::start(&hasty);
        running.log_line("Partitions assigned");
        std::thread::sleep(Duration::from_secs(1));
        kafka.tell("pause all");
        let asked = Instant::now();
        let (code, told) = running.stop_and_hear();
        let took = asked.elapsed();
        kafka.tell("resume all");
        assert_eq!(code, Some(1), "{}", without_outcomes(&told));
        assert!(took < Duration::from_secs(10), "it took {took:?}");
        assert!(told.contains("the stop took longer than 2.5s"), "{}", without_outcomes(&told));
    });
    println!(
        "a stop while the only broker is paused: cut short; {offered} requests, each answered once, in order per key"
    );
}

/// Apache Kafka 4.3.1 does not mark the end of a transaction in a partition that has no leader just then; 4.0.0 does.
#[test]
fn what_was_aborted_while_its_partition_had_no_leader_does_not_count_after_the_next_commit() {
    let Some(kafka) = Kafka::start(&["--brokers", "3"]) else { return };
    kafka.create_on(3, "lonely");
    let connection = Connection::to(kafka.address());
    let options = TransactionOptions {
        transactional_id: "writer".to_owned(),
        limits: RecordLimits { record_bytes_max: 1 << 20, batch_bytes: None, queue_bytes_max: 1 << 26 },
        timeout: Duration::from_secs(120),
        wait_max: Duration::from_secs(60),
        group: Some(("readers".to_owned(), "lonely".to_owned())),
    };
    let mut publisher = TransactionalPublisher::open(&connection, options).unwrap();
    let publish = |publisher: &TransactionalPublisher<()>, payload: &str| {
        let (topic, payload) = ("lonely".to_owned(), Some(payload.as_bytes().to_vec()));
        assert!(publisher.publish((), &Outgoing { topic, key: None, payload, headers: Vec::new() }).unwrap());
    };
    publisher.begin().unwrap();
    publish(&publisher, "aborted");
    std::thread::sleep(Duration::from_secs(1));
    kafka.tell("kill 3");
    kafka.await_leaders("lonely", |leaders| leaders == [-1]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(3));
            kafka.tell("start 3");
        });
        publisher.abort_and_renew().unwrap();
    });
    publisher.begin().unwrap();
    publish(&publisher, "committed");
    publisher.commit_alone().unwrap();
    let reader = committed_reader_of(kafka.address(), &["lonely"], 1);
    let mut read = Vec::new();
    let heard = Instant::now();
    while heard.elapsed() < Duration::from_secs(5) {
        if let Some(Ok(message)) = reader.poll(Duration::from_millis(100)) {
            read.push(String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned());
        }
    }
    assert_eq!(read, ["committed"]);
}
