//! Every metric by name. Names and labels are an interface: dashboards and alerts are built on them.

use std::{collections::BTreeMap, time::Duration};

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

const RECORDS_CONSUMED: &str = "ofa_records_consumed_total";
const RECORDS_EVICTED: &str = "ofa_embedded_records_evicted_total";
const VERDICTS: &str = "ofa_verdicts_total";
const DEAD_LETTERS: &str = "ofa_dead_letters_total";
const STALE_OUTCOMES: &str = "ofa_stale_outcomes_total";
const LATENCY: &str = "ofa_latency_seconds";
const STAGE: &str = "ofa_stage_seconds";
const BATCH_SIZE: &str = "ofa_batch_size";
const IN_FLIGHT_RECORDS: &str = "ofa_in_flight_records";
const IN_FLIGHT_BYTES: &str = "ofa_in_flight_bytes";
const PARTITIONS: &str = "ofa_assigned_partitions";
const PAUSED: &str = "ofa_consumption_paused";
const QUEUE_DEPTH: &str = "ofa_queue_depth";
const LAG: &str = "ofa_consumer_lag_records";
const MODEL_INFO: &str = "ofa_model_info";
const MODEL_STATE: &str = "ofa_model_state";
const MODEL_LOAD: &str = "ofa_model_load_seconds";
const MODEL_MEMORY: &str = "ofa_model_memory_bytes";
const BUILD_INFO: &str = "ofa_build_info";

/// From 1 ms to 64 s, each twice the one before.
const SECONDS: [f64; 17] = [
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384, 32.768,
    65.536,
];
const SIZES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Makes this process record metrics; the handle renders them.
///
/// # Errors
/// When a recorder is installed already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full(BATCH_SIZE.to_owned()), &SIZES)?;
    let handle = builder.install_recorder()?;
    describe_counter!(RECORDS_CONSUMED, "Records read from the requests topic");
    describe_counter!(RECORDS_EVICTED, "Records that the embedded broker dropped before they were read");
    describe_counter!(VERDICTS, "Verdicts handed to Kafka");
    describe_counter!(DEAD_LETTERS, "Dead letters handed to Kafka, by error code");
    describe_counter!(STALE_OUTCOMES, "Outcomes dropped because their partition had gone to another member");
    describe_histogram!(LATENCY, "From a record's arrival in the program to its verdict");
    describe_histogram!(STAGE, "Time of a request in each stage");
    describe_histogram!(BATCH_SIZE, "Requests in the forward pass, as each request saw it");
    describe_gauge!(IN_FLIGHT_RECORDS, "Records between reading and acknowledged outcome");
    describe_gauge!(IN_FLIGHT_BYTES, "Bytes of the records in flight");
    describe_gauge!(PARTITIONS, "Partitions this member owns");
    describe_gauge!(PAUSED, "1 while consumption is paused by back-pressure");
    describe_gauge!(QUEUE_DEPTH, "Requests waiting for a version");
    describe_gauge!(LAG, "Records behind the end of a partition");
    describe_gauge!(MODEL_INFO, "1 for every version served, with its device and digest");
    describe_gauge!(MODEL_STATE, "1 for the state a version is in");
    describe_gauge!(MODEL_LOAD, "How long loading a version took");
    describe_gauge!(MODEL_MEMORY, "Memory of a loaded version's weights and position biases");
    describe_gauge!(BUILD_INFO, "1, with the program's version");
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    for counter in [RECORDS_CONSUMED, RECORDS_EVICTED, STALE_OUTCOMES] {
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
    /// The variant, for a request in an experiment.
    pub variant: Option<&'a str>,
    /// The label.
    pub result: &'static str,
    /// From arrival to verdict.
    pub latency_ms: f64,
    /// Stage and its time.
    pub stages_ms: [(&'static str, f64); 4],
}

/// A verdict was published.
pub fn verdict(finished: &FinishedVerdict<'_>) {
    let version = finished.version.to_owned();
    let variant = finished.variant.unwrap_or("none").to_owned();
    counter!(VERDICTS, "version" => version.clone(), "variant" => variant, "result" => finished.result).increment(1);
    histogram!(LATENCY, "version" => version.clone()).record(finished.latency_ms / 1e3);
    for (stage, milliseconds) in finished.stages_ms {
        histogram!(STAGE, "version" => version.clone(), "stage" => stage).record(milliseconds / 1e3);
    }
}

/// A dead letter was published.
pub fn dead_letter(code: &'static str) {
    counter!(DEAD_LETTERS, "code" => code).increment(1);
}

/// An outcome came for a partition that is no longer owned.
pub fn stale_outcome() {
    counter!(STALE_OUTCOMES).increment(1);
}

/// A request was part of a forward pass of this many.
pub fn batch(version: &str, size: usize) {
    histogram!(BATCH_SIZE, "version" => version.to_owned()).record(size as f64);
}

/// What tells versions apart.
#[derive(Clone, Copy, Debug)]
pub struct ModelLabels<'a> {
    /// Its name.
    pub version: &'a str,
    /// Where it runs.
    pub device: &'a str,
    /// SHA-256 over its files.
    pub digest: &'a str,
}

/// Whether a version is loaded, and then how long that took and how many bytes it holds.
pub fn model(model: &ModelLabels<'_>, loaded: Option<(Duration, u64)>) {
    let version = || model.version.to_owned();
    let labels = [("version", version()), ("device", model.device.to_owned()), ("digest", model.digest.to_owned())];
    gauge!(MODEL_INFO, &labels).set(1.0);
    for (state, is) in [("ready", loaded.is_some()), ("not_loaded", loaded.is_none())] {
        gauge!(MODEL_STATE, "version" => version(), "state" => state).set(if is { 1.0 } else { 0.0 });
    }
    if let Some((took, bytes)) = loaded {
        gauge!(MODEL_LOAD, "version" => version()).set(took.as_secs_f64());
        gauge!(MODEL_MEMORY, "version" => version()).set(bytes as f64);
    }
}

/// What the poll loop sees once a second.
#[derive(Clone, Copy, Debug)]
pub struct Gauges<'a> {
    /// Records in flight.
    pub records: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Partitions owned.
    pub partitions: usize,
    /// Whether reading is paused.
    pub paused: bool,
    /// Requests waiting, by version.
    pub queues: &'a [(String, usize)],
    /// Records behind the end, by partition.
    pub lag: &'a BTreeMap<i32, i64>,
}

/// Sets the gauges.
pub fn gauges(seen: &Gauges<'_>) {
    gauge!(IN_FLIGHT_RECORDS).set(seen.records as f64);
    gauge!(IN_FLIGHT_BYTES).set(seen.bytes as f64);
    gauge!(PARTITIONS).set(seen.partitions as f64);
    gauge!(PAUSED).set(f64::from(u8::from(seen.paused)));
    for (version, depth) in seen.queues {
        gauge!(QUEUE_DEPTH, "version" => version.clone()).set(*depth as f64);
    }
    for (partition, lag) in seen.lag {
        gauge!(LAG, "partition" => partition.to_string()).set(*lag as f64);
    }
}
