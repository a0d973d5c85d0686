//! Which values settings may have, before anything is made of them.

use super::{
    load::{SettingsError, Source},
    raw::Raw,
};

/// Refuses numbers out of their range, shares that are none, and names with control characters.
pub(super) fn check(source: &Source, raw: &Raw) -> Result<(), SettingsError> {
    for (field, value, low, high) in ranges(raw) {
        if !(low..=high).contains(&value) {
            return Err(source.field(field, format!("is {value}, it must lie between {low} and {high}")));
        }
    }

    for (field, value) in shares(raw) {
        if !(0.0..=1.0).contains(&value) {
            return Err(source.field(field, format!("is {value}, it must lie between 0 and 1")));
        }
    }

    names(source, raw)
}

/// Fields with their value, and the lowest and highest that is allowed.
fn ranges(raw: &Raw) -> Vec<(&'static str, u64, u64, u64)> {
    vec![
        ("model_versions.keep_warm_ms", raw.model_versions.keep_warm_ms, 0, 7 * 24 * 3_600_000),
        ("control.watch_ms", raw.control.watch_ms, 0, 60_000),
        ("control.history", raw.control.history as u64, 1, 100),
        ("control.configs_max", raw.control.configs_max as u64, 1, 100_000),
        ("evidence.keep_ms", raw.evidence.keep_ms, 60_000, 400 * 86_400_000),
        ("evidence.commit_ms", raw.evidence.commit_ms, 10, 60_000),
        ("evidence.commit_records_max", raw.evidence.commit_records_max as u64, 1, 1_000_000),
        ("evidence.cache_bytes", raw.evidence.cache_bytes as u64, 1 << 20, 1 << 40),
        ("evidence.snapshot_ms", raw.evidence.snapshot_ms, 100, 86_400_000),
        ("evidence.behind_max_ms", raw.evidence.behind_max_ms, 1_000, 86_400_000),
        ("review.maturity_ms", raw.review.maturity_ms, 0, 90 * 86_400_000),
        ("admin.body_bytes_max", raw.admin.body_bytes_max as u64, 1_000, 1 << 26),
        ("kafka.embedded_partitions", raw.kafka.embedded_partitions.max(0) as u64, 1, 64),
        ("kafka.record_bytes_max", raw.kafka.record_bytes_max as u64, 1_000, 1_000_000_000),
        ("kafka.prefetch_bytes", raw.kafka.prefetch_bytes as u64, 1_000_000, 1_000_000_000),
        ("kafka.queue_bytes_max", raw.kafka.queue_bytes_max as u64, 1 << 20, 1 << 31),
        ("kafka.commit_interval_ms", raw.kafka.commit_interval_ms, 1, 60_000),
        ("kafka.publish_timeout_ms", raw.kafka.publish_timeout_ms, 100, 900_000),
        ("kafka.transaction_records_max", raw.kafka.transaction_records_max as u64, 1, 100_000),
        ("kafka.transaction_timeout_ms", raw.kafka.transaction_timeout_ms, 1_000, 900_000),
        ("kafka.rebalance_drain_ms", raw.kafka.rebalance_drain_ms, 0, 240_000),
        ("breaker.window", raw.breaker.window as u64, 1, 1_000_000),
        ("breaker.run_max", raw.breaker.run_max as u64, 1, 1_000_000),
        ("breaker.pause_ms", raw.breaker.pause_ms, 0, 86_400_000),
        ("requests.texts_max", raw.requests.texts_max as u64, 1, 256),
        ("requests.text_characters_max", raw.requests.text_characters_max as u64, 1, 1_000_000),
        ("requests.attributes_max", raw.requests.attributes_max as u64, 1, 10_000),
        ("requests.attribute_bytes_max", raw.requests.attribute_bytes_max as u64, 1, 1_000_000),
        // The parser itself goes no deeper than 128.
        ("requests.nesting_max", raw.requests.nesting_max as u64, 2, 120),
        ("requests.headers_max", raw.requests.headers_max as u64, 1, 10_000),
        ("images.bytes_max", raw.images.bytes_max as u64, 100, 1 << 30),
        ("images.pixels_max", raw.images.pixels_max, 1, 1 << 32),
        ("images.decode_bytes_max", raw.images.decode_bytes_max, 1 << 20, 1 << 40),
        ("images.read_timeout_ms", raw.images.read_timeout_ms, 1, 600_000),
        ("images.read_threads_max", raw.images.read_threads_max as u64, 1, 1_024),
        ("images.fetch.redirects_max", raw.images.fetch.redirects_max.into(), 0, 10),
        ("images.fetch.timeout_ms", raw.images.fetch.timeout_ms, 1, 600_000),
        ("images.fetch.concurrent_max", raw.images.fetch.concurrent_max as u64, 1, 1_024),
        ("pipeline.decode_threads", raw.pipeline.decode_threads as u64, 1, 256),
        ("pipeline.records_in_flight_max", raw.pipeline.records_in_flight_max as u64, 1, 1_000_000),
        ("pipeline.bytes_in_flight_max", raw.pipeline.bytes_in_flight_max as u64, 1 << 16, 1 << 40),
        ("pipeline.prepared_bytes_max", raw.pipeline.prepared_bytes_max, 1 << 20, 1 << 40),
        ("pipeline.drain_timeout_ms", raw.pipeline.drain_timeout_ms, 0, 600_000),
        ("pipeline.stalled_after_ms", raw.pipeline.stalled_after_ms, 100, 86_400_000),
        ("pipeline.dead_after_ms", raw.pipeline.dead_after_ms, 100, 86_400_000),
        ("devices.cpu.threads", raw.devices.cpu.threads as u64, 0, 1_024),
        ("devices.cpu.pass_tokens_max", raw.devices.cpu.pass_tokens_max as u64, 1, 1 << 40),
        ("devices.cpu.pass_bytes_max", raw.devices.cpu.pass_bytes_max, 1, 1 << 50),
        ("devices.gpu.pass_tokens_max", raw.devices.gpu.pass_tokens_max as u64, 1, 1 << 40),
        ("devices.gpu.pass_bytes_max", raw.devices.gpu.pass_bytes_max, 1, 1 << 50),
        ("telemetry.log_lines_max", raw.telemetry.log_lines_max as u64, 1, 1_000_000),
        ("telemetry.connections_max", raw.telemetry.connections_max as u64, 1, 10_000),
        ("telemetry.connection_timeout_ms", raw.telemetry.connection_timeout_ms, 100, 600_000),
        ("telemetry.text_preview_characters", raw.telemetry.text_preview_characters as u64, 0, 10_000),
    ]
}

/// Fields that are shares or probabilities.
fn shares(raw: &Raw) -> [(&'static str, f32); 5] {
    [
        ("review.audit_share", raw.review.audit_share as f32),
        ("breaker.share_max", raw.breaker.share_max as f32),
        ("telemetry.verdict_log_share", raw.telemetry.verdict_log_share as f32),
        ("decision.approve_confidence", raw.decision.approve_confidence),
        ("decision.reject_confidence", raw.decision.reject_confidence),
    ]
}

/// Names stand in logs, in tables and on terminals.
fn names(source: &Source, raw: &Raw) -> Result<(), SettingsError> {
    for (index, rule) in raw.routing_rules.iter().enumerate() {
        let name = rule.name.as_deref().unwrap_or_default();
        source.no_control_characters(&format!("routing_rules[{index}].name"), name)?;
    }

    for (index, holdout) in raw.holdouts.iter().enumerate() {
        source.no_control_characters(&format!("holdouts[{index}].name"), &holdout.name)?;
    }

    for (index, experiment) in raw.experiments.iter().enumerate() {
        source.no_control_characters(&format!("experiments[{index}].name"), &experiment.name)?;

        for (place, variant) in experiment.variants.iter().enumerate() {
            let field = format!("experiments[{index}].variants[{place}].name");
            source.no_control_characters(&field, &variant.name)?;
        }
    }
    Ok(())
}
