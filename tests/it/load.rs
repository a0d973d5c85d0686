//! More requests than the versions can answer, and settings that change meanwhile.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    broker::{PARTITIONS, cluster, image, outcome, produce, read, reader},
    kafka::Kafka,
    offered::{committed_reader, long, offer, offer_from, read_until},
    support::{Running, metric, page, resident, settings},
};

const IN_FLIGHT: f64 = 24.0;
/// `kafka.prefetch_bytes`, of each partition.
const PREFETCH_BYTES: u64 = 8 << 20;

#[test]
fn under_overload_memory_stays_bounded_nothing_is_repeated_and_only_lag_grows() {
    const WARM: usize = 100;
    const TIMES: usize = 5;
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let few = format!(
        "{}[pipeline]\nrecords_in_flight_max = {IN_FLIGHT}\n",
        topics
            .settings(kafka.address(), "overload")
            .replace("answer_cache_bytes = 0", "answer_cache_bytes = 0\nqueue_size = 8")
    );
    let running = Running::start(&few);
    let pages = running.log_line("Serving /metrics")["address"].as_str().unwrap().to_owned();
    running.log_line("Partitions assigned");
    let consumer = committed_reader(kafka.address(), &topics);
    let mut outcomes = Vec::new();
    let (stop, offered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let requests = topics.name("requests");
    // What the versions can do, and the memory of their passes.
    std::thread::scope(|scope| {
        scope.spawn(|| offer(kafka.address(), &requests, 100_000, &stop, &offered));
        while offered.load(Ordering::Relaxed) < WARM {
            std::thread::sleep(Duration::from_millis(1));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let warm = offered.load(Ordering::Relaxed);
    let begun = Instant::now();
    read_until(&consumer, &mut outcomes, warm, Duration::from_secs(60));
    let capacity = warm as f64 / begun.elapsed().as_secs_f64();
    let settled = resident(&running.process().to_string());

    let (length, rate) = (Duration::from_secs(long(8, 120) as u64), (TIMES as f64 * capacity) as usize);
    stop.store(false, Ordering::Relaxed);
    let (mut most, mut in_flight, mut lag) = (0, 0.0_f64, 0.0_f64);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let fresh = AtomicUsize::new(0);
            offer_from(warm, kafka.address(), &requests, rate, &stop, &fresh);
            offered.fetch_add(fresh.into_inner(), Ordering::Relaxed);
        });
        let begun = Instant::now();
        while begun.elapsed() < length {
            std::thread::sleep(Duration::from_millis(100));
            let metrics = page(&pages, "/metrics");
            most = most.max(resident(&running.process().to_string()));
            in_flight = in_flight.max(metric(&metrics, "ofa_in_flight_records", ""));
            lag = lag.max(metric(&metrics, "ofa_consumer_lag_records", ""));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let pauses = metric(&page(&pages, "/metrics"), "ofa_pauses_total", "reason=\"pressure\"");
    let offered = offered.into_inner();
    println!(
        "{TIMES} times what can be answered ({capacity:.0} a second) for {length:?}: {} requests offered, at most {in_flight} \
         in flight, lag up to {lag}, reading paused {pauses} times, memory {} MB and then at most {} MB",
        offered - warm,
        settled >> 20,
        most >> 20
    );
    assert!(in_flight <= IN_FLIGHT && pauses > 0.0, "{in_flight} in flight, {pauses} pauses");
    assert!(lag > (offered - warm) as f64 / 8.0, "the lag grew to {lag} only");
    // What the client may fetch ahead, once in its queues and once on its way into them, and what the allocator keeps.
    let bound = settled + 2 * PARTITIONS as u64 * PREFETCH_BYTES + (32 << 20);
    assert!(most < bound, "{} MB grew to {} MB, more than {} MB", settled >> 20, most >> 20, bound >> 20);
    assert_eq!(running.stop(), Some(0));
    let mut heard = Instant::now();
    while heard.elapsed() < Duration::from_secs(2) {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            outcomes.push(outcome(&message));
            heard = Instant::now();
        }
    }
    let numbers: BTreeSet<u64> = outcomes.iter().map(|outcome| outcome.number).collect();
    assert_eq!(outcomes.len(), numbers.len(), "no request is answered twice");
    let answered = (outcomes.len() - warm) as f64;
    assert!(answered > 0.3 * capacity * length.as_secs_f64(), "only {answered} were answered meanwhile");
}

fn requests(count: usize) -> Vec<(String, Vec<u8>)> {
    let image = image("thumbnail.png");
    let request = |number: usize| json!({"request_id": format!("r-{number}"), "text": format!("ball {number}"), "image": {"base64": image}});
    (0..count).map(|number| (format!("key-{}", number % 17), request(number).to_string().into_bytes())).collect()
}

#[test]
fn batching_changes_while_versions_run() {
    let cluster = cluster();
    let address = cluster.bootstrap_servers();
    let before = settings(&address);
    let running = Running::start(&before);
    let pages = running.log_line("Serving /metrics")["address"].as_str().unwrap().to_owned();
    running.log_line("Partitions assigned");
    let consumer = reader(&address);
    let mut outcomes = Vec::new();
    let passes = |reason: &str| metric(&page(&pages, "/metrics"), "ofa_passes_total", &format!("reason=\"{reason}\""));
    assert!(passes("delay") == 0.0);

    running.change_settings(&before.replace("answer_cache_bytes = 0", "answer_cache_bytes = 0\nmax_delay_ms = 300"));
    running.log_line("Configuration switched.");
    produce(&address, &requests(1));
    read(&consumer, &mut outcomes, |outcomes| outcomes.len() == 1);
    assert!(passes("delay") == 1.0, "the one request waited for others");
    let verdict: serde_json::Value = serde_json::from_slice(&outcomes[0].payload).unwrap();
    let queued = Duration::from_secs_f64(verdict["timings_ms"]["queue"].as_f64().unwrap() / 1e3);
    assert!(queued >= Duration::from_millis(300), "{queued:?}");

    running.change_settings("[kafka");
    running.log_line("A change is refused, and nothing changed.");
    assert_eq!(running.stop(), Some(0));
}
