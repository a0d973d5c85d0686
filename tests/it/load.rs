//! More requests than the versions can answer, and settings that change meanwhile.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    broker::{cluster, image, produce, read, reader},
    support::{Running, metric, page, resident, settings},
};

const IN_FLIGHT: f64 = 24.0;

fn requests(count: usize) -> Vec<(String, Vec<u8>)> {
    let image = image("thumbnail.png");
    let request = |number: usize| json!({"request_id": format!("r-{number}"), "text": format!("ball {number}"), "image": {"base64": image}});
    (0..count).map(|number| (format!("key-{}", number % 17), request(number).to_string().into_bytes())).collect()
}

#[test]
fn under_overload_memory_stays_bounded_nothing_is_lost_and_only_lag_grows() {
    const WARM: usize = 60;
    const OVERLOAD: usize = 1_200;
    let cluster = cluster();
    let address = cluster.bootstrap_servers();
    let few = format!(
        "{}[pipeline]\nrecords_in_flight_max = {IN_FLIGHT}\n",
        settings(&address).replace("answer_cache_bytes = 0", "answer_cache_bytes = 0\nqueue_size = 8")
    );
    let running = Running::start(&few);
    let pages = running.log_line("Serving /metrics")["address"].as_str().unwrap().to_owned();
    running.log_line("Partitions assigned");
    let all = requests(WARM + OVERLOAD);
    let consumer = reader(&address);
    let mut outcomes = Vec::new();
    // What the versions can do, and the memory of their passes.
    produce(&address, &all[..WARM]);
    read(&consumer, &mut outcomes, |outcomes| outcomes.len() == WARM);
    let begun = Instant::now();
    let settled = resident(&running.process().to_string());

    // All at once: more than three times what they can do for as long as it takes.
    let (to, late) = (address.clone(), all[WARM..].to_vec());
    let offering = std::thread::spawn(move || {
        let begun = Instant::now();
        produce(&to, &late);
        begun.elapsed()
    });
    let (mut most, mut in_flight, mut lag, mut paused) = (0, 0.0_f64, 0.0_f64, false);
    while outcomes.len() < WARM + OVERLOAD {
        let seen = outcomes.len();
        read(&consumer, &mut outcomes, |outcomes| outcomes.len() >= (seen + 40).min(WARM + OVERLOAD));
        let metrics = page(&pages, "/metrics");
        most = most.max(resident(&running.process().to_string()));
        in_flight = in_flight.max(metric(&metrics, "ofa_in_flight_records", ""));
        lag = lag.max(metric(&metrics, "ofa_consumer_lag_records", ""));
        paused |= metric(&metrics, "ofa_consumption_paused", "") > 0.0;
    }
    let (answering, offered) = (begun.elapsed(), offering.join().unwrap());
    println!(
        "{OVERLOAD} requests offered in {offered:?} and answered in {answering:?}: at most {in_flight} in flight, \
         lag up to {lag}, memory {} MB and then at most {} MB",
        settled >> 20,
        most >> 20
    );
    assert!(offered * 3 < answering, "offered in {offered:?}, answered in {answering:?}: that is no overload");
    assert!(in_flight <= IN_FLIGHT && paused, "{in_flight} in flight, paused: {paused}");
    assert!(lag > 10.0 * IN_FLIGHT, "the lag grew to {lag} only");
    assert!(most < settled + (64 << 20), "{} MB grew to {} MB", settled >> 20, most >> 20);
    let numbers: BTreeSet<u64> = outcomes.iter().map(|outcome| outcome.number).collect();
    assert_eq!((outcomes.len(), numbers.len()), (WARM + OVERLOAD, WARM + OVERLOAD), "every request exactly once");
    assert_eq!(running.stop(), Some(0));
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
