//! Metrics of delivery: transactions, rebalances, pauses, retries.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

const COMMITS: &str = "ofa_transaction_commits_total";
const ABORTS: &str = "ofa_transaction_aborts_total";
const COMMIT_SECONDS: &str = "ofa_transaction_commit_seconds";
pub(super) const COMMIT_RECORDS: &str = "ofa_transaction_records";
const LOST: &str = "ofa_partitions_lost_total";
const RESETS: &str = "ofa_offset_resets_total";
const DRAIN_TIMEOUTS: &str = "ofa_rebalance_drain_timeouts_total";
const PAUSES: &str = "ofa_pauses_total";
const RETRIES: &str = "ofa_retries_total";
const TOMBSTONES: &str = "ofa_tombstones_total";
const KEYS_MISSING: &str = "ofa_keys_missing_total";
const BREAKER: &str = "ofa_breaker_opened_total";
const RECREATED: &str = "ofa_topics_recreated_total";
const GROUP_LAG: &str = "ofa_group_lag_records";

pub(super) fn describe() {
    describe_counter!(COMMITS, "Transactions committed");
    describe_counter!(ABORTS, "Transactions aborted, whose requests are judged again");
    describe_histogram!(COMMIT_SECONDS, "Time of committing a transaction with its offsets");
    describe_histogram!(COMMIT_RECORDS, "Records of a transaction");
    describe_counter!(LOST, "Partitions that the group took away because this member was not heard of");
    describe_counter!(RESETS, "Times that what was to be read next was not in the log any more");
    describe_counter!(DRAIN_TIMEOUTS, "Rebalances that did not wait for all requests of a partition to be answered");
    describe_counter!(PAUSES, "Times that reading was paused, by reason: pressure, breaker");
    describe_counter!(RETRIES, "Records put into a retry topic, by error code");
    describe_counter!(TOMBSTONES, "Records without a value");
    describe_counter!(KEYS_MISSING, "Records without a key, whose order nobody can rely on");
    describe_counter!(BREAKER, "Times that reading was stopped because too much failed");
    describe_counter!(RECREATED, "Topics that were deleted and made again while they were read");
    describe_gauge!(
        GROUP_LAG,
        "Records that the group has not answered, of each partition, with or without an owner; the same on each instance"
    );
    for counter in [RECREATED, COMMITS, ABORTS, LOST, RESETS, DRAIN_TIMEOUTS, TOMBSTONES, KEYS_MISSING, BREAKER] {
        counter!(counter).absolute(0);
    }
}

/// A transaction with so many records was committed, in this time.
pub fn transaction_committed(records: usize, took: Duration) {
    counter!(COMMITS).increment(1);
    histogram!(COMMIT_SECONDS).record(took.as_secs_f64());
    histogram!(COMMIT_RECORDS).record(records as f64);
}

/// A transaction was aborted.
pub fn transaction_aborted() {
    counter!(ABORTS).increment(1);
}

/// Partitions were taken away.
pub fn partitions_lost(partitions: usize) {
    counter!(LOST).increment(partitions as u64);
}

/// What was to be read next was not in the log any more.
pub fn offset_reset() {
    counter!(RESETS).increment(1);
}

/// A topic was deleted and made again.
pub fn topic_recreated() {
    counter!(RECREATED).increment(1);
}

/// So many records of a partition wait for the group.
pub fn group_lag(topic: &str, partition: i32, records: i64) {
    let labels = [("topic", topic.to_owned()), ("partition", partition.to_string())];
    gauge!(GROUP_LAG, &labels).set(records as f64);
}

/// A rebalance did not wait any longer.
pub fn rebalance_drain_timed_out() {
    counter!(DRAIN_TIMEOUTS).increment(1);
}

/// Reading was paused.
pub fn paused(reason: &'static str) {
    counter!(PAUSES, "reason" => reason).increment(1);
}

/// A record was put into a retry topic.
pub fn retried(code: &'static str) {
    counter!(RETRIES, "code" => code).increment(1);
}

/// A record had no value.
pub fn tombstone() {
    counter!(TOMBSTONES).increment(1);
}

/// A record had no key.
pub fn key_missing() {
    counter!(KEYS_MISSING).increment(1);
}

/// The breaker opened.
pub fn breaker_opened() {
    counter!(BREAKER).increment(1);
}
