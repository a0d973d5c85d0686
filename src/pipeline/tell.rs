//! What metrics, logs and the breaker hear about a finished request.

use std::{sync::PoisonError, time::Instant};

use super::{cluster::read_topics, outcome::Told, run::Shared};
use crate::{
    delivery::Ticket,
    message::{DeadLetter, DecisionReason, Verdict},
    settings::Plan,
    telemetry::{self, FinishedVerdict},
};

/// Tells about a request whose outcome is on its way, or, in a transaction, committed.
pub(super) fn tell(shared: &Shared, told: &Told, ticket: Ticket) {
    let Ticket { source, offset, .. } = ticket;
    let (topic, partition) = (read_topics(&shared.plan.kafka).nth(source.topic.into()), source.partition);
    match told {
        Told::Verdict(verdict) => {
            shared.monitor.count_verdict();
            telemetry::verdict(&FinishedVerdict {
                version: &verdict.model_version,
                experiment: verdict.ab_experiment.as_deref(),
                variant: verdict.ab_variant.as_deref(),
                result: verdict.result.as_str(),
                decision: verdict.decision.as_str(),
                confidence: verdict.confidence,
                age_ms: verdict.age_ms,
                latency_ms: (!verdict.cached).then_some(verdict.latency_ms),
                stages_ms: [
                    ("fetch", verdict.timings_ms.fetch),
                    ("decode", verdict.timings_ms.decode),
                    ("queue", verdict.timings_ms.queue),
                    ("inference", verdict.timings_ms.inference),
                ],
                truncated: verdict.text_truncated,
                decision_reason: verdict.decision_reason.map(DecisionReason::as_str),
            });
            if !is_logged(&shared.plan, verdict) {
                return note(shared, false);
            }
            tracing::info!(
                request_id = verdict.request_id,
                version = verdict.model_version,
                result = verdict.result.as_str(),
                confidence = verdict.confidence,
                latency_ms = verdict.latency_ms,
                reason = verdict.route.reason,
                "[AB:{}] Verdict.",
                verdict.ab_variant.as_deref().unwrap_or("-"),
            );
        }
        Told::Refused { code, message, context } => {
            shared.monitor.count_dead_letter();
            telemetry::dead_letter(code, context.experiment.as_deref(), context.variant.as_deref());
            let group = context.variant.as_deref().unwrap_or("-");
            tracing::warn!(topic, partition, offset, code, error = message, "[AB:{group}] Dead letter.");
        }
        Told::Retried { letter: DeadLetter { code, message, .. }, context, attempt, delay } => {
            telemetry::retried(code);
            let group = context.variant.as_deref().unwrap_or("-");
            tracing::warn!(
                topic,
                partition,
                offset,
                code,
                error = message,
                attempt,
                ?delay,
                "[AB:{group}] Is tried again later."
            );
        }
        Told::Tombstone => telemetry::tombstone(),
    }
    note(shared, matches!(told, Told::Refused { .. }));
}

/// Whether a verdict has a log line. By a hash of its request's id, so that an instance that judges it again says the same.
fn is_logged(plan: &Plan, verdict: &Verdict) -> bool {
    let share = plan.telemetry.verdict_log_share;
    if share >= 1.0 {
        return true;
    }
    let hash = murmur3::murmur3_32(&mut verdict.request_id.as_bytes(), 0).unwrap_or_default();
    f64::from(hash) < share * (f64::from(u32::MAX) + 1.0)
}

fn note(shared: &Shared, refused: bool) {
    let opened = shared.breaker.lock().unwrap_or_else(PoisonError::into_inner).note(refused, Instant::now());
    if opened {
        telemetry::breaker_opened();
        let pause = shared.plan.breaker.pause;
        tracing::error!(
            ?pause,
            "Too many dead letters: reading stops, so that they do not take the whole topic. Look at their codes \
             (`ofa-stream dead-letters list`), and repair the cause or roll back; a change of the configuration closes the \
             breaker at once."
        );
    }
}
