//! How far evidence is behind while verdicts come, and what it costs. `scripts/soak` runs the long
//! version; `-- --nocapture` prints the figures.

#![allow(clippy::disallowed_macros, reason = "a measurement prints")]

use std::time::{Duration, Instant};

use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer as _},
};

use crate::{
    evidence::{caught_up, verdict, with_evidence},
    instance::Instance,
    kafka::Kafka,
    offered::long,
    support::{metric, page},
};

const PER_SECOND: usize = 1_000;

/// Processor time of a process in seconds, from the system.
fn processor_seconds(process: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The name may contain blanks, and ends with a parenthesis.
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

/// The upper end of the bucket that holds a quantile.
fn quantile(page: &str, name: &str, q: f64) -> f64 {
    let bucket = |line: &str| -> Option<(f64, f64)> {
        let (end, count) = line.strip_prefix(name)?.split_once("le=\"")?.1.split_once("\"} ")?;
        Some((end.replace("+Inf", "inf").parse().ok()?, count.trim().parse().ok()?))
    };
    let buckets: Vec<(f64, f64)> = page.lines().filter_map(bucket).collect();
    let all = buckets.last().unwrap().1;
    buckets.iter().find(|(_, count)| *count >= q * all).unwrap().0
}

#[test]
fn evidence_counts_a_thousand_verdicts_a_second_as_they_come() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let settings = with_evidence(&topics.operated(kafka.address(), "one")).replace("commit_ms = 50", "commit_ms = 500");
    let instance = Instance::start(&settings);
    // Records that it reads while it catches up have no delay.
    caught_up(&instance.api, 0);
    let process = instance.running.process();
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", kafka.address()).set("linger.ms", "5").create().unwrap();

    let idle = Duration::from_secs(3);
    let before = processor_seconds(process);
    std::thread::sleep(idle);
    let idle_share = (processor_seconds(process) - before) / idle.as_secs_f64();

    let seconds = long(5, 60);
    let (begun, before) = (Instant::now(), processor_seconds(process));
    for number in 0..seconds * PER_SECOND {
        let value = verdict(number * 7);
        producer
            .send(BaseRecord::<(), _>::to(&topics.name("verdicts")).payload(&value))
            .map_err(|(error, _)| error)
            .unwrap();
        producer.poll(Duration::ZERO);
        let due = begun + Duration::from_micros(1_000_000 * number as u64 / PER_SECOND as u64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    producer.flush(Duration::from_secs(30)).unwrap();
    let (lasted, used) = (begun.elapsed().as_secs_f64(), processor_seconds(process) - before);

    let sent = (seconds * PER_SECOND) as f64;
    let counted = || metric(&page(&instance.metrics, "/metrics"), "ofa_evidence_delay_seconds_count", "");
    let waiting = Instant::now();
    while counted() < sent {
        let evidence = || instance.api.get::<serde_json::Value>("/v1/evidence").unwrap()["progress"].clone();
        assert!(waiting.elapsed() < Duration::from_secs(60), "{} of {sent}: {}", counted(), evidence());
        std::thread::sleep(Duration::from_millis(50));
    }
    let page = page(&instance.metrics, "/metrics");
    let delay = |q| quantile(&page, "ofa_evidence_delay_seconds_bucket", q);
    // A bound that only a defect exceeds; the figures are printed.
    assert!(delay(0.99) < 16.0, "{} s", delay(0.99));
    println!(
        "{sent} verdicts in {lasted:.1} s: counted within {} s (p50), {} s (p99); {:.1} % of one core, {:.1} % of it idle",
        delay(0.5),
        delay(0.99),
        100.0 * used / lasted,
        100.0 * idle_share,
    );
}
