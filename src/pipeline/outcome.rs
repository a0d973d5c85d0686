//! An answer or a failure, into the record that goes out.

use std::time::{Duration, Instant, SystemTime};

use super::{admission::Admitted, failure::Failure};
use crate::{
    engine::{Identity, Judged},
    message::{
        Answer, Decision, Header, Outgoing, Record, Role, RouteTaken, SCHEMA_VERSION, Scores, Texts, TimingsMs, Verdict,
    },
    settings::{Plan, Thresholds},
};

/// A finished request: the record to publish, and what metrics and logs say about it.
pub(super) struct Outcome {
    pub(super) outgoing: Outgoing,
    pub(super) told: Told,
    /// The record that a verdict answers, kept until the client has taken the verdict: one that is too
    /// large still becomes a dead letter.
    pub(super) record: Option<Record>,
}

/// What is told about a finished request.
pub(super) enum Told {
    Verdict(Box<Verdict>),
    Refused { code: &'static str, message: String, group: Option<String> },
}

/// What outcomes are made with.
pub(super) struct Outcomes<'a> {
    pub(super) verdicts: &'a str,
    pub(super) dead_letters: &'a str,
    pub(super) thresholds: Thresholds,
    pub(super) preview_characters: usize,
    pub(super) config_digest: &'a str,
}

impl<'a> Outcomes<'a> {
    pub(super) fn of(plan: &'a Plan) -> Self {
        Self {
            verdicts: &plan.kafka.verdicts,
            dead_letters: &plan.kafka.dead_letters,
            thresholds: plan.thresholds,
            preview_characters: plan.telemetry.text_preview_characters,
            config_digest: &plan.config_digest,
        }
    }

    /// The dead letter of a record that failed; `group` is its variant, where it came so far.
    pub(super) fn refused(&self, record: Record, failure: &Failure, group: Option<String>) -> Outcome {
        let told = Told::Refused { code: failure.code(), message: failure.message(), group };
        Outcome { outgoing: failure.dead_letter().into_record(record, self.dead_letters), told, record: None }
    }

    /// The verdict of a request that the network answered.
    pub(super) fn answered(
        &self,
        record: Record,
        arrived: Instant,
        admitted: Admitted,
        version: &Identity,
        judged: &Judged,
    ) -> Outcome {
        let verdict = self.verdict(arrived, admitted, version, judged);
        // Plain data with string keys: serializing cannot fail.
        let payload = serde_json::to_vec(&verdict).unwrap_or_default();
        let outgoing = Outgoing {
            topic: self.verdicts.to_owned(),
            key: record.key.clone(),
            payload: Some(payload),
            headers: verdict_headers(&record.headers, &verdict),
        };
        Outcome { outgoing, told: Told::Verdict(Box::new(verdict)), record: Some(record) }
    }

    fn verdict(&self, arrived: Instant, admitted: Admitted, version: &Identity, judged: &Judged) -> Verdict {
        let Admitted { request, route, header, image, text_length, fetching, preparing } = admitted;
        let texts = request.text.as_slice();
        let answer = |(scores, text): (&Scores, &String)| Answer::new(*scores, text, self.preview_characters);
        let answers: Vec<Answer> = judged.scores.iter().zip(texts).map(answer).collect();
        // A request has at least one text, and the engine one answer for each.
        let decisive = Answer::decisive(&answers).cloned().unwrap_or_else(|| Answer::new(Scores::default(), "", 0));
        let decision = self.thresholds.decide(decisive.result, decisive.confidence);
        let (ab_experiment, ab_variant) = route.variant.unzip();
        Verdict {
            timestamp: now(),
            result: decisive.result,
            confidence: decisive.confidence,
            scores: decisive.scores,
            text_preview: decisive.text_preview,
            answers: matches!(request.text, Texts::Many(_)).then_some(answers),
            decision,
            is_manual_review: decision == Decision::Review,
            model_version: version.name.clone(),
            model_digest: version.digest.clone(),
            backend: version.device,
            ab_experiment,
            ab_variant,
            ab_role: Role::Live,
            ab: route.assignment,
            route: RouteTaken {
                reason: route.reason.as_str().to_owned(),
                rule: route.rule,
                config_digest: self.config_digest.to_owned(),
            },
            image_hash: image.to_string(),
            text_length,
            image_width: header.width,
            image_height: header.height,
            latency_ms: milliseconds(arrived.elapsed()),
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

/// The headers that a verdict carries through.
pub(super) fn traced(incoming: &[Header]) -> Vec<Header> {
    incoming.iter().filter(|(name, _)| matches!(name.as_str(), "traceparent" | "tracestate")).cloned().collect()
}

/// Headers that consumers filter by without parsing; `traceparent` and `tracestate` go through.
pub(super) fn verdict_headers(incoming: &[Header], verdict: &Verdict) -> Vec<Header> {
    let text = |name: &str, value: &str| (name.to_owned(), Some(value.as_bytes().to_vec()));
    let mut headers = traced(incoming);
    headers.push(text("content-type", "application/json"));
    headers.push(text("ofa-schema-version", SCHEMA_VERSION));
    headers.push(text("ofa-model-version", &verdict.model_version));
    if verdict.ab_role == Role::Shadow {
        headers.push(text("ofa-ab-role", "shadow"));
    }
    headers.extend(verdict.ab_variant.as_deref().map(|variant| text("ofa-ab-variant", variant)));
    headers
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn now() -> String {
    let milliseconds =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
    jiff::Timestamp::from_millisecond(milliseconds).map_or_else(|_| String::new(), |now| format!("{now:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_rfc_3339_in_utc_with_milliseconds() {
        let now = now();
        assert_eq!((now.len(), now.ends_with('Z'), now.as_bytes()[19]), (24, true, b'.'), "{now}");
    }
}
