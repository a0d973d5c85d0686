//! Every metric by name. Names and labels are an interface: dashboards and alerts are built on them.

use std::{
    collections::HashMap,
    sync::{LazyLock, PoisonError, RwLock},
};

use metrics::{Counter, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use super::{control, delivery, evidence, passes};

const RECORDS_CONSUMED: &str = "ofa_records_consumed_total";
const RECORDS_EVICTED: &str = "ofa_embedded_records_evicted_total";
const VERDICTS: &str = "ofa_verdicts_total";
const DEAD_LETTERS: &str = "ofa_dead_letters_total";
const FEATURES_MISSING: &str = "ofa_routing_features_missing_total";
const STALE_OUTCOMES: &str = "ofa_stale_outcomes_total";
const LATENCY: &str = "ofa_latency_seconds";
const STAGE: &str = "ofa_stage_seconds";
const CONFIDENCE: &str = "ofa_confidence";
const AGE: &str = "ofa_age_seconds";
const IN_FLIGHT_RECORDS: &str = "ofa_in_flight_records";
const IN_FLIGHT_BYTES: &str = "ofa_in_flight_bytes";
const PARTITIONS: &str = "ofa_assigned_partitions";
const PAUSED: &str = "ofa_consumption_paused";
const LAG: &str = "ofa_consumer_lag_records";
const LAG_SECONDS: &str = "ofa_consumer_lag_seconds";
const READY: &str = "ofa_release_buffer_records";
const MEMBER: &str = "ofa_group_member";
const BREAKER_OPEN: &str = "ofa_breaker_open";
const DELAYED: &str = "ofa_delayed_partitions";
const REBALANCES: &str = "ofa_rebalances_total";
const BUILD_INFO: &str = "ofa_build_info";
const STALLED: &str = "ofa_stalled_seconds";
const DECODING_BYTES: &str = "ofa_decoding_bytes";
const PREPARED_BYTES: &str = "ofa_prepared_bytes";
const READING_FILES: &str = "ofa_files_being_read";
const FETCHING: &str = "ofa_images_being_fetched";
const TRIED_IN_PLACE: &str = "ofa_tried_in_place_total";
const TRUNCATED: &str = "ofa_texts_truncated_total";
const DECISIONS: &str = "ofa_decisions_overridden_total";
const LOG_LINES_DROPPED: &str = "ofa_log_lines_dropped_total";

/// From 1 ms to 64 s, each twice the one before.
const SECONDS: [f64; 17] = [
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384, 32.768,
    65.536,
];
const SHARES: [f64; 8] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0];
/// A label has at least a third of the probability.
const CONFIDENCES: [f64; 9] = [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];
const SIZES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Makes this process record metrics; the handle renders them.
///
/// # Errors
/// When a recorder is installed already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full(passes::BATCH_SIZE.to_owned()), &SIZES)?
        .set_buckets_for_metric(Matcher::Full(delivery::COMMIT_RECORDS.to_owned()), &SIZES)?
        .set_buckets_for_metric(Matcher::Full(CONFIDENCE.to_owned()), &CONFIDENCES)?
        .set_buckets_for_metric(Matcher::Full(passes::PADDING.to_owned()), &SHARES)?;
    let handle = builder.install_recorder()?;
    passes::describe();
    control::describe();
    evidence::describe();
    delivery::describe();
    describe_counter!(RECORDS_CONSUMED, "Records read from the requests topic");
    describe_counter!(RECORDS_EVICTED, "Records that the embedded broker dropped before they were read");
    describe_counter!(VERDICTS, "Verdicts published; in transactions, committed");
    describe_counter!(DEAD_LETTERS, "Dead letters published; in transactions, committed; by error code");
    describe_counter!(
        FEATURES_MISSING,
        "Rules and experiments that could not be judged for want of a feature, by both"
    );
    describe_counter!(STALE_OUTCOMES, "Outcomes dropped because their partition had gone to another member");
    describe_histogram!(LATENCY, "From a record's arrival in the program to its verdict");
    describe_histogram!(STAGE, "Time of a request in each stage");
    describe_histogram!(CONFIDENCE, "Probability of the label of a verdict");
    describe_histogram!(AGE, "From the time of a request's record to its verdict, waiting in Kafka included");
    describe_gauge!(IN_FLIGHT_RECORDS, "Records between reading and acknowledged outcome");
    describe_gauge!(IN_FLIGHT_BYTES, "Bytes of the records in flight");
    describe_gauge!(PARTITIONS, "Partitions this member owns");
    describe_gauge!(PAUSED, "1 while no records are taken, for want of room or because the breaker is open");
    describe_gauge!(LAG, "Records behind the end of a partition");
    describe_gauge!(LAG_SECONDS, "Age of the last record read of a partition that has more");
    describe_gauge!(READY, "Records that are answered and wait for an earlier one of their partition");
    describe_gauge!(MEMBER, "1 while this instance has its place in its consumer group");
    describe_gauge!(BREAKER_OPEN, "1 while reading stops because too much fails");
    describe_gauge!(DELAYED, "Partitions of retry topics that wait for a record to be due");
    describe_counter!(REBALANCES, "Assignments and revocations of partitions");
    describe_gauge!(BUILD_INFO, "1, with the program's version");
    describe_gauge!(STALLED, "How long the record, stage, pass or load has lasted that lasts longest");
    describe_gauge!(DECODING_BYTES, "Bytes that decoders may hold now, of images.decode_bytes_max");
    describe_gauge!(PREPARED_BYTES, "Bytes of prepared pictures that wait, of pipeline.prepared_bytes_max");
    describe_gauge!(READING_FILES, "Threads that read image files, those that hang among them");
    describe_gauge!(FETCHING, "Images that are fetched by URL now");
    describe_counter!(TRIED_IN_PLACE, "Tries of records that failed by trouble of this machine");
    describe_counter!(TRUNCATED, "Verdicts on texts of which a part was not read, by version");
    describe_counter!(DECISIONS, "Decisions that are not the thresholds', by reason");
    describe_counter!(LOG_LINES_DROPPED, "Log lines dropped because stderr was not read fast enough");
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    for counter in [RECORDS_CONSUMED, RECORDS_EVICTED, STALE_OUTCOMES, TRIED_IN_PLACE, LOG_LINES_DROPPED] {
        counter!(counter).absolute(0);
    }
    Ok(handle)
}

/// A record was read.
pub fn record_consumed() {
    counter!(RECORDS_CONSUMED).increment(1);
}

/// The embedded broker dropped records that nobody had read.
pub fn records_evicted(records: u64) {
    counter!(RECORDS_EVICTED).increment(records);
}

/// What metrics say about a verdict.
#[derive(Clone, Copy, Debug)]
pub struct FinishedVerdict<'a> {
    /// The version that answered.
    pub version: &'a str,
    /// The experiment that took the request.
    pub experiment: Option<&'a str>,
    /// Its variant.
    pub variant: Option<&'a str>,
    /// The label.
    pub result: &'static str,
    /// What to do.
    pub decision: &'static str,
    /// The probability of the label.
    pub confidence: f32,
    /// From the record's time to the verdict, where the record has a time.
    pub age_ms: Option<f64>,
    /// From arrival to verdict; none for an answer that was kept, which would flatter its version.
    pub latency_ms: Option<f64>,
    /// Stage and its time.
    pub stages_ms: [(&'static str, f64); 4],
    /// Whether a part of a text was not read.
    pub truncated: bool,
    /// Why the decision is not the thresholds', where it is not.
    pub decision_reason: Option<&'static str>,
}

/// A verdict was published.
pub fn verdict(finished: &FinishedVerdict<'_>) {
    let version = finished.version.to_owned();
    let experiment = finished.experiment.unwrap_or("none").to_owned();
    let variant = finished.variant.unwrap_or("none").to_owned();
    let (result, decision) = (finished.result, finished.decision);
    counter!(
        VERDICTS, "version" => version.clone(), "experiment" => experiment, "variant" => variant,
        "result" => result, "decision" => decision
    )
    .increment(1);
    histogram!(CONFIDENCE, "version" => version.clone()).record(f64::from(finished.confidence));
    if let Some(age_ms) = finished.age_ms {
        histogram!(AGE, "version" => version.clone()).record(age_ms / 1e3);
    }
    if finished.truncated {
        counter!(TRUNCATED, "version" => version.clone()).increment(1);
    }
    if let Some(reason) = finished.decision_reason {
        counter!(DECISIONS, "reason" => reason).increment(1);
    }
    let Some(latency_ms) = finished.latency_ms else { return };
    histogram!(LATENCY, "version" => version.clone()).record(latency_ms / 1e3);
    for (stage, milliseconds) in finished.stages_ms {
        histogram!(STAGE, "version" => version.clone(), "stage" => stage).record(milliseconds / 1e3);
    }
}

/// A dead letter was published, of this arm of an experiment where the request came so far.
pub fn dead_letter(code: &'static str, experiment: Option<&str>, variant: Option<&str>) {
    let experiment = experiment.unwrap_or("none").to_owned();
    let variant = variant.unwrap_or("none").to_owned();
    counter!(DEAD_LETTERS, "code" => code, "experiment" => experiment, "variant" => variant).increment(1);
}

/// A rule or an experiment asked for an attribute or feature that a request does not have.
pub fn feature_missing(rule: &str, field: &str) {
    // Many a request lacks what a rule asks for: once known, a counter is found without anything being copied.
    let known = MISSING.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(counter) = known.get(rule).and_then(|fields| fields.get(field)) {
        return counter.increment(1);
    }
    drop(known);
    let counter = counter!(FEATURES_MISSING, "rule" => rule.to_owned(), "feature" => field.to_owned());
    counter.increment(1);
    let mut known = MISSING.write().unwrap_or_else(PoisonError::into_inner);
    known.entry(rule.to_owned()).or_default().insert(field.to_owned(), counter);
}

/// By rule and field; both come from settings, so there are few.
static MISSING: LazyLock<RwLock<HashMap<String, HashMap<String, Counter>>>> = LazyLock::new(RwLock::default);

/// A record failed by trouble of this machine, and is tried again.
pub fn tried_in_place() {
    counter!(TRIED_IN_PLACE).increment(1);
}

/// So many log lines were dropped since the start.
pub fn log_lines_dropped(lines: u64) {
    counter!(LOG_LINES_DROPPED).absolute(lines);
}

/// An outcome came for a partition that is no longer owned.
pub fn stale_outcome() {
    counter!(STALE_OUTCOMES).increment(1);
}

/// What the poll loop sees once a second.
#[derive(Clone, Debug)]
pub struct Gauges<'a> {
    /// Records in flight.
    pub records: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Partitions owned.
    pub partitions: usize,
    /// Whether this instance has its place in its group.
    pub belongs: bool,
    /// Whether reading is paused.
    pub paused: bool,
    /// Whether that is because too much fails.
    pub breaker_open: bool,
    /// Records that are answered and wait for an earlier one.
    pub ready: usize,
    /// Partitions that wait for a record to be due.
    pub delayed: usize,
    /// Assignments and revocations since the start.
    pub rebalances: u64,
    /// How long what lasts longest has lasted.
    pub stalled_seconds: f64,
    /// Bytes that decoders may hold.
    pub decoding_bytes: u64,
    /// Bytes of prepared pictures.
    pub prepared_bytes: u64,
    /// Threads that read files.
    pub reading_files: usize,
    /// Images that are fetched.
    pub fetching: usize,
    /// How far each partition is behind.
    pub lag: Vec<Lag<'a>>,
}

/// How far a partition is behind.
#[derive(Clone, Copy, Debug)]
pub struct Lag<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// `requests`, or `retry` for topics in which records wait on purpose.
    pub kind: &'static str,
    /// Its number.
    pub partition: i32,
    /// Records behind the end.
    pub records: i64,
    /// Age of the last record that was read, where there are more.
    pub seconds: f64,
}

/// Sets the gauges.
pub fn gauges(seen: &Gauges<'_>) {
    gauge!(IN_FLIGHT_RECORDS).set(seen.records as f64);
    gauge!(IN_FLIGHT_BYTES).set(seen.bytes as f64);
    gauge!(PARTITIONS).set(seen.partitions as f64);
    gauge!(PAUSED).set(f64::from(u8::from(seen.paused)));
    gauge!(MEMBER).set(f64::from(u8::from(seen.belongs)));
    gauge!(BREAKER_OPEN).set(f64::from(u8::from(seen.breaker_open)));
    gauge!(READY).set(seen.ready as f64);
    gauge!(DELAYED).set(seen.delayed as f64);
    gauge!(STALLED).set(seen.stalled_seconds);
    gauge!(DECODING_BYTES).set(seen.decoding_bytes as f64);
    gauge!(PREPARED_BYTES).set(seen.prepared_bytes as f64);
    gauge!(READING_FILES).set(seen.reading_files as f64);
    gauge!(FETCHING).set(seen.fetching as f64);
    counter!(REBALANCES).absolute(seen.rebalances);
    for Lag { topic, kind, partition, records, seconds } in &seen.lag {
        let labels =
            [("topic", (*topic).to_owned()), ("kind", (*kind).to_owned()), ("partition", partition.to_string())];
        gauge!(LAG, &labels).set(*records as f64);
        gauge!(LAG_SECONDS, &labels).set(*seconds);
    }
}
