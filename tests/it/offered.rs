//! Requests that come all the while, and what has become of them: for tests in which something goes wrong meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::json;

use crate::{
    broker::{Outcome, PARTITIONS, image, outcome},
    kafka::{Kafka, Topics},
    support::{Running, metric, page},
};

const KEYS: usize = 17;

/// How much of a promise is tried: `scripts/soak` sets the switch for the long versions.
pub(crate) fn long(short: usize, long: usize) -> usize {
    if std::env::var_os("OFA_STREAM_TEST_LONG").is_some() { long } else { short }
}

/// Chance that can be repeated.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        // Linear congruence (Knuth, The Art of Computer Programming, 3.3.4): good enough to choose moments.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Settings whose instances keep answers: what these tests load is delivery, not the network.
pub(crate) fn quick(settings: &str) -> String {
    settings.replace("answer_cache_bytes = 0", "answer_cache_bytes = 1_000_000")
}

/// Most answers are kept ones, and come at once; those of every twentieth request do not, so that others overtake it.
fn text(number: usize) -> String {
    format!("ball {}", if number % 20 == 7 { number } else { number % 5 })
}

/// One request in ten is no request.
fn request(number: usize, image: &str) -> Vec<u8> {
    match number % 10 {
        3 => format!("{{\"request_id\":\"r-{number}\",").into_bytes(),
        _ => json!({"request_id": format!("r-{number}"), "text": text(number), "image": {"base64": image}})
            .to_string()
            .into_bytes(),
    }
}

/// Starts the program and kills it at a moment by chance, once it has done something, so many times. What it has done, this metric counts.
pub(crate) fn kill_at_random(settings: &str, times: usize, chance: &mut Chance, done: &str) {
    for _ in 0..times {
        let running = Running::start(settings);
        let pages = running.log_line("Serving /metrics")["address"].as_str().unwrap().to_owned();
        running.log_line("Partitions assigned");
        // One that has done nothing yet proves nothing.
        while metric(&page(&pages, "/metrics"), done, "") == 0.0 {
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(chance.below(1_000)));
        running.kill();
    }
}

/// Publishes requests until it is told to stop: so many a second, each once.
pub(crate) fn offer(address: &str, topic: &str, per_second: usize, stop: &AtomicBool, offered: &AtomicUsize) {
    offer_from(0, address, topic, per_second, stop, offered);
}

/// As [`offer`], with numbers from `first` on.
pub(crate) fn offer_from(
    first: usize,
    address: &str,
    topic: &str,
    per_second: usize,
    stop: &AtomicBool,
    offered: &AtomicUsize,
) {
    let image = image("thumbnail.png");
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address).set("enable.idempotence", "true").set("linger.ms", "5");
    // Brokers may be away for longer than the client's default.
    config.set("delivery.timeout.ms", "600000").set("partitioner", "murmur2_random");
    let producer: BaseProducer = config.create().unwrap();
    let begun = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let sent = offered.load(Ordering::Relaxed);
        let number = first + sent;
        if sent as f64 > begun.elapsed().as_secs_f64() * per_second as f64 {
            producer.poll(Duration::from_millis(2));
            continue;
        }
        let (key, payload, label) = (format!("key-{}", number % KEYS), request(number, &image), number.to_string());
        let headers = rdkafka::message::OwnedHeaders::new()
            .insert(rdkafka::message::Header { key: "number", value: Some(&label) });
        producer
            .send(BaseRecord::to(topic).key(&key).payload(&payload).headers(headers))
            .map_err(|(error, _)| error)
            .unwrap();
        offered.fetch_add(1, Ordering::Relaxed);
    }
    producer.flush(Duration::from_secs(600)).unwrap();
}

/// Reads verdicts and dead letters as a consumer that skips what was aborted.
pub(crate) fn committed_reader(address: &str, topics: &Topics) -> BaseConsumer {
    let names = ["verdicts", "dead-letters"].map(|topic| topics.name(topic));
    committed_reader_of(address, &names.each_ref().map(String::as_str), PARTITIONS)
}

/// Reads topics as a consumer that skips what was aborted.
pub(crate) fn committed_reader_of(address: &str, topics: &[&str], partitions: i32) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address).set("group.id", "outside").set("auto.offset.reset", "earliest");
    config.set("isolation.level", "read_committed").set("fetch.wait.max.ms", "100");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut all = TopicPartitionList::new();
    for topic in topics {
        for partition in 0..partitions {
            all.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        }
    }
    consumer.assign(&all).unwrap();
    consumer
}

/// Reads until so many requests are answered; fails when nothing comes for so long.
pub(crate) fn read_until(consumer: &BaseConsumer, outcomes: &mut Vec<Outcome>, wanted: usize, patience: Duration) {
    let mut heard = Instant::now();
    let mut numbers: BTreeSet<u64> = outcomes.iter().map(|outcome| outcome.number).collect();
    while numbers.len() < wanted {
        assert!(
            heard.elapsed() < patience,
            "{} of {wanted} requests answered, and nothing for {patience:?}",
            numbers.len()
        );
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else { continue };
        heard = Instant::now();
        let found = outcome(&message);
        numbers.insert(found.number);
        outcomes.push(found);
    }
}

/// Offers load while `disturb` does its worst, and lets one instance finish. Gives back what came out, in the order of each topic's
/// partitions, and how many requests were offered.
pub(crate) fn outcomes_under_load(
    kafka: &Kafka,
    topics: &Topics,
    per_second: usize,
    last: &str,
    disturb: impl FnOnce(&AtomicUsize),
) -> (Vec<Outcome>, usize) {
    let (stop, offered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let consumer = committed_reader(kafka.address(), topics);
    let mut outcomes = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| offer(kafka.address(), &topics.name("requests"), per_second, &stop, &offered));
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| disturb(&offered)));
        stop.store(true, Ordering::Relaxed);
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let offered = offered.into_inner();
    let survivor = (!last.is_empty()).then(|| Running::start(last));
    read_until(&consumer, &mut outcomes, offered, Duration::from_secs(420));
    // What should not be there would come now.
    let late = Instant::now();
    while late.elapsed() < Duration::from_secs(1) {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            outcomes.push(outcome(&message));
        }
    }
    if let Some(survivor) = survivor {
        assert_eq!(survivor.stop(), Some(0));
    }
    (outcomes, offered)
}

/// Outcomes of one key are in the order of its requests, within each topic.
pub(crate) fn assert_in_order<'o>(outcomes: impl IntoIterator<Item = &'o Outcome>) {
    let mut last: BTreeMap<(&str, &Option<Vec<u8>>), u64> = BTreeMap::new();
    for outcome in outcomes {
        let before = last.insert((&outcome.topic, &outcome.key), outcome.number);
        assert!(before.is_none_or(|before| before < outcome.number), "{before:?}, then {}", outcome.number);
    }
}
