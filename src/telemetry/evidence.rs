//! Metrics of the evidence that is read and kept.

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

const RECORDS: &str = "ofa_evidence_records_total";
const BEHIND: &str = "ofa_evidence_behind_seconds";
const DELAY: &str = "ofa_evidence_delay_seconds";
const REQUESTS: &str = "ofa_evidence_requests";
const BYTES: &str = "ofa_evidence_store_bytes";
const FAILURES: &str = "ofa_evidence_failures_total";
const SNAPSHOTS: &str = "ofa_evidence_snapshots_total";
const GUARD: &str = "ofa_guard_state";
const GUARD_EVIDENCE: &str = "ofa_guard_ln_e_value";
const GUARD_ACTIONS: &str = "ofa_guard_actions_total";

pub(super) fn describe() {
    describe_counter!(RECORDS, "Records that evidence has counted, by topic");
    describe_gauge!(BEHIND, "Age of the newest record that is not counted as evidence yet; 0 when all are");
    describe_histogram!(DELAY, "From the time of a record to the write that counts it, once evidence has caught up");
    describe_gauge!(REQUESTS, "Requests that evidence remembers, so that one that comes again counts once");
    describe_gauge!(BYTES, "Bytes of the evidence store");
    describe_counter!(FAILURES, "Failures to read topics for evidence or to keep it, by error code");
    describe_counter!(SNAPSHOTS, "Snapshots of the evidence, by result");
    describe_gauge!(GUARD, "State of a guard: 0 no data, 1 undecided, 2 safe, 3 harm, 4 blind");
    describe_gauge!(GUARD_EVIDENCE, "Evidence of a guard against its treatment, as the logarithm of its e-value");
    describe_counter!(GUARD_ACTIONS, "Actions of guards and ramps, by result");
}

/// Records of a topic were counted.
pub fn evidence_records(topic: &str, count: u64) {
    counter!(RECORDS, "topic" => topic.to_owned()).increment(count);
}

/// How far evidence is behind.
pub fn evidence_behind(seconds: f64) {
    gauge!(BEHIND).set(seconds);
}

/// A record was counted so long after it was written.
pub fn evidence_delay(seconds: f64) {
    histogram!(DELAY).record(seconds);
}

/// What the store holds.
pub fn evidence_size(requests: u64, bytes: u64) {
    gauge!(REQUESTS).set(requests as f64);
    gauge!(BYTES).set(bytes as f64);
}

/// Evidence could not be read or kept.
pub fn evidence_failed(code: &'static str) {
    counter!(FAILURES, "code" => code).increment(1);
}

/// A snapshot was written, or was not.
pub fn evidence_snapshot(result: &'static str) {
    counter!(SNAPSHOTS, "result" => result).increment(1);
}

/// The state of a guard about a treatment, and the logarithm of its e-value.
pub fn guard_state(experiment: &str, guard: &str, treatment: &str, state: u8, ln_e_value: f64) {
    let labels =
        [("experiment", experiment.to_owned()), ("guard", guard.to_owned()), ("treatment", treatment.to_owned())];
    gauge!(GUARD, &labels).set(f64::from(state));
    gauge!(GUARD_EVIDENCE, &labels).set(ln_e_value);
}

/// A guard or a ramp acted, or tried to.
pub fn guard_acted(experiment: &str, guard: &str, result: &'static str) {
    let labels = [("experiment", experiment.to_owned()), ("guard", guard.to_owned()), ("result", result.to_owned())];
    counter!(GUARD_ACTIONS, &labels).increment(1);
}
