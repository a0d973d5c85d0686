//! An answer or a failure, into the record that goes out.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use super::{
    admission::Admitted,
    decision::DecisionRules,
    failure::{Consequence, Failure},
    parcel::place_key,
};
use crate::{
    engine::{Identity, Judged},
    message::{
        Answer, DeadLetter, Decision, FailureContext, Header, Origin, Outgoing, Record, RecordPosition, Role,
        RouteTaken, SCHEMA_VERSION, Scores, Texts, TimingsMs, Verdict, carried, replayed_from, retry_attempt,
        retry_record, text_header,
    },
    routing,
    settings::{KafkaPlan, Plan, RetryPlan, Tombstones},
};

/// A finished request: the record to publish, and what metrics and logs say about it.
pub(super) struct Outcome {
    /// None for a record that nothing answers.
    pub(super) outgoing: Option<Outgoing>,
    pub(super) told: Told,
    /// The record that a verdict answers, kept until the client has taken the verdict: one that is too
    /// large still becomes a dead letter.
    pub(super) record: Option<Record>,
}

/// What is told about a finished request.
pub(super) enum Told {
    Verdict(Box<Verdict>),
    Refused {
        code: &'static str,
        message: String,
        context: Box<FailureContext>,
    },
    /// It is tried again later.
    Retried {
        /// What it becomes where the retry topic does not take it.
        letter: DeadLetter,
        context: Box<FailureContext>,
        attempt: usize,
        delay: Duration,
    },
    Tombstone,
}

impl Told {
    fn refused(failure: &Failure, context: FailureContext) -> Self {
        Self::Refused { code: failure.code(), message: failure.message(), context: Box::new(context) }
    }
}

/// What outcomes are made with.
pub(super) struct Outcomes<'a> {
    pub(super) kafka: &'a KafkaPlan,
    pub(super) rules: DecisionRules,
    pub(super) preview_characters: usize,
    /// The share of automatic decisions that people look at.
    pub(super) audit_share: f64,
    pub(super) config_digest: &'a str,
    /// The name of this instance.
    pub(super) instance: &'a str,
    /// Topics that take no record without a key.
    pub(super) compacted: &'a BTreeSet<String>,
}

impl<'a> Outcomes<'a> {
    pub(super) fn of(plan: &'a Plan, compacted: &'a BTreeSet<String>, instance: &'a str) -> Self {
        Self {
            kafka: &plan.kafka,
            rules: DecisionRules::of(plan),
            preview_characters: plan.telemetry.text_preview_characters,
            audit_share: plan.evidence.audit_share,
            config_digest: &plan.config_digest,
            instance,
            compacted,
        }
    }

    /// Whether the verdicts topic takes no verdict of this record.
    pub(super) fn lacks_key(&self, record: &Record) -> bool {
        record.key.is_none() && self.compacted.contains(&self.kafka.verdicts)
    }

    /// What becomes of a record that failed: another try where that may help and settings name a topic for it, a dead
    /// letter otherwise. `context` is how far it came.
    pub(super) fn failed(&self, record: Record, failure: &Failure, context: FailureContext) -> Outcome {
        let retry = match failure.consequence() {
            Consequence::RetryLater => self.kafka.retries.get(retry_attempt(&record)),
            Consequence::DeadLetter | Consequence::RetryInPlace | Consequence::Stop => None,
        };
        let Some(RetryPlan { topic, delay }) = retry else { return self.refused(record, failure, context) };
        let due_ms = (since_the_epoch() + *delay).as_millis() as i64;
        let outgoing = retry_record(&record, topic, failure.code(), due_ms);
        let attempt = retry_attempt(&record) + 1;
        let (letter, context) = (failure.dead_letter(), Box::new(self.routed(context)));
        let told = Told::Retried { letter, context, attempt, delay: *delay };
        Outcome { outgoing: Some(outgoing), told, record: Some(record) }
    }

    /// The dead letter of a record.
    pub(super) fn refused(&self, record: Record, failure: &Failure, context: FailureContext) -> Outcome {
        let context = self.routed(context);
        let mut letter = failure.dead_letter().into_record(record, &self.kafka.dead_letters, &context);
        let told = Told::refused(failure, context);
        if letter.key.is_none() && self.compacted.contains(&letter.topic) {
            letter.key = Some(place_key(&letter));
        }
        Outcome { outgoing: Some(letter), told, record: None }
    }

    /// With the configuration that routed it.
    fn routed(&self, context: FailureContext) -> FailureContext {
        FailureContext { config_digest: Some(self.config_digest.to_owned()), ..context }
    }

    /// What becomes of a record without a value.
    pub(super) fn tombstone(&self, record: Record) -> Outcome {
        let forwarded = |record: &Record| Outgoing {
            topic: self.kafka.verdicts.clone(),
            key: record.key.clone(),
            payload: None,
            headers: carried(record),
        };
        match self.kafka.tombstones {
            Tombstones::DeadLetter => self.refused(record, &Failure::Tombstone, FailureContext::default()),
            // Without a key it says nothing about anything.
            Tombstones::Forward if record.key.is_some() => {
                Outcome { outgoing: Some(forwarded(&record)), told: Told::Tombstone, record: None }
            }
            Tombstones::Forward | Tombstones::Skip => Outcome { outgoing: None, told: Told::Tombstone, record: None },
        }
    }

    /// The verdict of a request that the network answered.
    pub(super) fn answered(&self, record: Record, answered: Answered<'_>) -> Outcome {
        let verdict = self.verdict(&record, answered);
        // Plain data with string keys: serializing cannot fail.
        let payload = serde_json::to_vec(&verdict).unwrap_or_default();
        let outgoing = Outgoing {
            topic: self.kafka.verdicts.clone(),
            key: record.key.clone(),
            payload: Some(payload),
            headers: verdict_headers(carried(&record), &verdict),
        };
        Outcome { outgoing: Some(outgoing), told: Told::Verdict(Box::new(verdict)), record: Some(record) }
    }

    /// The verdict on a request that the network answered.
    pub(super) fn verdict(&self, record: &Record, answered: Answered<'_>) -> Verdict {
        let Answered { admitted, version, judged, latency, attempts } = answered;
        let Admitted { request, route, segments, header, image, text_length, fetching, preparing, reading, .. } =
            admitted;
        let texts = request.text.as_slice();
        let answer = |(scores, text): (&Scores, &String)| Answer::new(*scores, text, self.preview_characters);
        let answers: Vec<Answer> = judged.scores.iter().zip(texts).map(answer).collect();
        // A request has at least one text, and the engine one answer for each.
        let decisive = Answer::decisive(&answers).cloned().unwrap_or_else(|| Answer::new(Scores::default(), "", 0));

        let (decision, decision_reason) = self.rules.decide(&version.name, &decisive, &reading);
        let (ab_experiment, ab_variant) = route.variant.unzip();
        let Origin { topic, partition, offset, timestamp_ms: requested_ms } = Origin::of(record);
        let now_ms = since_the_epoch().as_millis() as i64;

        Verdict {
            timestamp: timestamp(now_ms),
            source: Some(RecordPosition { topic, partition, offset }),
            replayed_from: replayed_from(record),
            instance: self.instance.to_owned(),
            result: decisive.result,
            confidence: decisive.confidence,
            scores: decisive.scores,
            text_preview: decisive.text_preview,
            answers: matches!(request.text, Texts::Many(_)).then_some(answers),
            decision,
            decision_reason,
            is_manual_review: decision == Decision::Review,
            review_probability: Some(if decision == Decision::Review { 1.0 } else { self.audit_share }),
            review_sampled: decision != Decision::Review && routing::is_audited(&request.request_id, self.audit_share),
            model_version: version.name.clone(),
            model_digest: version.digest.clone(),
            backend: version.device,
            precision: version.precision,
            ab_experiment,
            ab_variant,
            ab_role: Role::Live,
            shadows: route.shadows,
            ab: route.assignment,
            route: RouteTaken {
                reason: route.reason.as_str().to_owned(),
                rule: route.rule,
                config_digest: self.config_digest.to_owned(),
                probabilities: route.probabilities,
            },
            segments,
            image_hash: image.to_string(),
            text_length,
            text_tokens: reading.tokens,
            text_truncated: reading.is_truncated,
            image_width: header.width,
            image_height: header.height,
            requested_at: requested_ms.map(timestamp),
            // Clocks of two machines differ; nothing is answered before it was asked.
            age_ms: requested_ms.map(|requested_ms| (now_ms - requested_ms).max(0) as f64),
            attempts: retry_attempt(record) + attempts,
            latency_ms: milliseconds(latency),
            timings_ms: TimingsMs {
                fetch: milliseconds(fetching),
                decode: milliseconds(preparing),
                queue: milliseconds(judged.queued),
                inference: milliseconds(judged.inference),
            },
            cached: judged.cached,
            live: None,
            request_id: request.request_id,
        }
    }
}

/// A request that the network answered.
pub(super) struct Answered<'a> {
    pub(super) admitted: Admitted,
    pub(super) version: &'a Identity,
    pub(super) judged: &'a Judged,
    /// From its arrival in the program to its answer.
    pub(super) latency: Duration,
    /// Tries in this process.
    pub(super) attempts: usize,
}

/// Behind those that go on from the request, the headers that consumers filter by without parsing.
pub(super) fn verdict_headers(carried: Vec<Header>, verdict: &Verdict) -> Vec<Header> {
    let mut headers = carried;
    headers.push(text_header("content-type", "application/json"));
    headers.push(text_header("ofa-schema-version", SCHEMA_VERSION));
    headers.push(text_header("ofa-request-id", verdict.request_id.as_str()));
    headers.push(text_header("ofa-result", verdict.result.as_str()));
    headers.push(text_header("ofa-decision", verdict.decision.as_str()));
    headers.push(text_header("ofa-model-version", verdict.model_version.as_str()));
    if verdict.ab_role == Role::Shadow {
        headers.push(text_header("ofa-ab-role", "shadow"));
    }
    headers.extend(verdict.ab_experiment.as_deref().map(|name| text_header("ofa-experiment", name)));
    headers.extend(verdict.ab_variant.as_deref().map(|variant| text_header("ofa-ab-variant", variant)));
    headers
}

pub(super) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// Milliseconds since the epoch in RFC 3339; empty beyond what a calendar can tell.
fn timestamp(milliseconds: i64) -> String {
    jiff::Timestamp::from_millisecond(milliseconds).map_or_else(|_| String::new(), |time| format!("{time:.3}"))
}

/// The time of this machine's clock.
pub(super) fn since_the_epoch() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_rfc_3339_in_utc_with_milliseconds() {
        let now = timestamp(since_the_epoch().as_millis() as i64);
        assert_eq!((now.len(), now.ends_with('Z'), now.as_bytes()[19]), (24, true, b'.'), "{now}");
    }
}
