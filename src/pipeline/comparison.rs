//! A live verdict and the shadow verdicts beside it, whichever comes first.
//!
//! Shadow verdicts are for comparison: they hold nothing up, are not waited for at a stop, and may be missing or come
//! twice after a crash.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    decision::{DecisionRules, Reading},
    outcome::{milliseconds, verdict_headers},
};
use crate::{
    delivery::Ticket,
    engine::{Identity, InferenceError, Judged},
    kafka::{PublishError, Publisher},
    message::{Answer, Decision, Header, LiveAnswer, Outgoing, Record, Role, Scores, TimingsMs, Verdict, carried},
    settings::Plan,
    telemetry,
};

/// Where shadow verdicts go.
pub(super) struct Outlet {
    topic: String,
    rules: DecisionRules,
    publish: Box<Publish>,
}

type Publish = dyn Fn(&Outgoing) -> Result<(), PublishError> + Send + Sync;

impl Outlet {
    pub(super) fn of(plan: &Plan, publisher: Arc<Publisher<Ticket>>) -> Self {
        let publish = Box::new(move |record: &Outgoing| publisher.publish_aside(record));
        Self { topic: plan.kafka.shadows.clone(), rules: DecisionRules::of(plan), publish }
    }
}

/// What is known of one request so far.
pub(super) struct Comparison {
    outlet: Outlet,
    /// When the record arrived in the program.
    arrived: Instant,
    key: Option<Vec<u8>>,
    /// Those that the verdict carries through.
    headers: Vec<Header>,
    state: Mutex<State>,
}

enum State {
    /// Shadow answers that came before the live one.
    Waiting(Vec<Shadow>),
    /// The live verdict is there.
    Live(Box<Verdict>),
    /// There is none to compare with.
    Refused,
}

/// A shadow's answer.
struct Shadow {
    identity: Arc<Identity>,
    reading: Reading,
    judged: Judged,
    /// From the record's arrival to this answer, as of live ones.
    latency: Duration,
}

impl Comparison {
    pub(super) fn new(record: &Record, arrived: Instant, outlet: Outlet) -> Self {
        let (key, headers) = (record.key.clone(), carried(record));
        Self { outlet, arrived, key, headers, state: Mutex::new(State::Waiting(Vec::new())) }
    }

    /// Whether a shadow's answer would be used.
    pub(super) fn is_wanted(&self) -> bool {
        !matches!(*self.lock(), State::Refused)
    }

    /// Takes the live verdict, or that there is none.
    pub(super) fn live(&self, verdict: Option<&Verdict>) {
        let next = verdict.map_or(State::Refused, |verdict| State::Live(Box::new(verdict.clone())));
        let State::Waiting(early) = std::mem::replace(&mut *self.lock(), next) else { return };
        for shadow in early {
            match verdict {
                Some(live) => self.publish(live, &shadow),
                None => telemetry::shadow_dropped(&shadow.identity.name, "live_refused"),
            }
        }
    }

    /// Takes a shadow's answer, and what its version read.
    pub(super) fn shadow(&self, identity: Arc<Identity>, reading: Reading, judged: Result<Judged, InferenceError>) {
        let latency = self.arrived.elapsed();
        let (live, judged) = match (&mut *self.lock(), judged) {
            (State::Refused, _) => return telemetry::shadow_dropped(&identity.name, "live_refused"),
            (_, Err(_)) => return telemetry::shadow_dropped(&identity.name, "failed"),
            (State::Waiting(early), Ok(judged)) => return early.push(Shadow { identity, reading, judged, latency }),
            (State::Live(live), Ok(judged)) => (live.clone(), judged),
        };
        self.publish(&live, &Shadow { identity, reading, judged, latency });
    }

    fn publish(&self, live: &Verdict, shadow: &Shadow) {
        let identity = &shadow.identity;
        let verdict = beside(live, shadow, &self.outlet.rules);
        let agrees = verdict.live.as_ref().is_some_and(|live| live.agrees);
        let outgoing = Outgoing {
            topic: self.outlet.topic.clone(),
            key: self.key.clone(),
            // Plain data with string keys: serializing cannot fail.
            payload: Some(serde_json::to_vec(&verdict).unwrap_or_default()),
            headers: verdict_headers(self.headers.clone(), &verdict),
        };
        match (self.outlet.publish)(&outgoing) {
            Ok(()) => telemetry::shadow_verdict(&identity.name, &live.model_version, agrees),
            Err(error) => {
                telemetry::shadow_dropped(&identity.name, "not_published");
                tracing::debug!(%error, "A shadow verdict was not published.");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The verdict of a shadow version about what a live verdict is about.
fn beside(live: &Verdict, shadow: &Shadow, rules: &DecisionRules) -> Verdict {
    let Shadow { identity, reading, judged, latency } = shadow;
    // The previews were cut already.
    let previews: Vec<&str> = match &live.answers {
        Some(answers) => answers.iter().map(|answer| answer.text_preview.as_str()).collect(),
        None => vec![&live.text_preview],
    };
    let answer = |(scores, preview): (&Scores, &str)| Answer::new(*scores, preview, usize::MAX);
    let answers: Vec<Answer> = judged.scores.iter().zip(previews).map(answer).collect();
    let decisive = Answer::decisive(&answers).cloned().unwrap_or_else(|| Answer::new(Scores::default(), "", 0));
    let (decision, decision_reason) = rules.decide(&identity.name, &decisive, reading);

    let (queue, inference) = (milliseconds(judged.queued), milliseconds(judged.inference));
    let TimingsMs { fetch, decode, .. } = live.timings_ms;
    Verdict {
        result: decisive.result,
        confidence: decisive.confidence,
        scores: decisive.scores,
        text_preview: decisive.text_preview,
        answers: live.answers.as_ref().map(|_| answers),
        decision,
        decision_reason,
        is_manual_review: decision == Decision::Review,
        review_probability: None,
        review_sampled: false,
        shadows: Vec::new(),
        text_tokens: reading.tokens,
        text_truncated: reading.is_truncated,
        model_version: identity.name.clone(),
        model_digest: identity.digest.clone(),
        backend: identity.device,
        precision: identity.precision,
        ab_role: Role::Shadow,
        latency_ms: milliseconds(*latency),
        timings_ms: TimingsMs { fetch, decode, queue, inference },
        cached: judged.cached,
        live: Some(LiveAnswer {
            model_version: live.model_version.clone(),
            result: live.result,
            confidence: live.confidence,
            scores: live.scores,
            decision: live.decision,
            agrees: live.result == decisive.result,
        }),
        ..live.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::mpsc::channel};

    use super::*;
    use crate::{
        engine::ModelOptions,
        message::{Device, Label, RouteTaken},
        settings::{Thresholds, Truncated},
    };

    fn live() -> Verdict {
        let answer = Answer::new(Scores { yes: 0.9, maybe: 0.1, no: 0.0 }, "a mug", 80);
        Verdict {
            request_id: "r".to_owned(),
            timestamp: String::new(),
            source: None,
            replayed_from: None,
            instance: String::new(),
            result: answer.result,
            confidence: answer.confidence,
            scores: answer.scores,
            answers: None,
            decision: Decision::Approve,
            decision_reason: None,
            is_manual_review: false,
            review_probability: None,
            review_sampled: false,
            shadows: Vec::new(),
            model_version: "live".to_owned(),
            model_digest: String::new(),
            backend: Device::Flex,
            precision: ModelOptions::on(Device::Flex).precision,
            ab_experiment: None,
            ab_variant: None,
            ab_role: Role::Live,
            ab: None,
            route: RouteTaken {
                reason: "rule".to_owned(),
                rule: None,
                config_digest: String::new(),
                probabilities: None,
            },
            segments: BTreeMap::new(),
            image_hash: String::new(),
            text_preview: answer.text_preview,
            text_length: 5,
            text_tokens: 9,
            text_truncated: false,
            requested_at: None,
            age_ms: None,
            attempts: 1,
            image_width: 1,
            image_height: 1,
            latency_ms: 1.0,
            timings_ms: TimingsMs::default(),
            cached: false,
            live: None,
        }
    }

    fn identity(name: &str) -> Arc<Identity> {
        Arc::new(Identity {
            name: name.to_owned(),
            digest: String::new(),
            device: Device::Flex,
            precision: ModelOptions::on(Device::Flex).precision,
            parameters: 0,
        })
    }

    fn judged(yes: f32) -> Judged {
        let scores = vec![Scores { yes, maybe: 0.0, no: 1.0 - yes }];
        Judged { scores, queued: Duration::ZERO, inference: Duration::ZERO, batch: 1, cached: false }
    }

    /// Runs a comparison, and gives the shadow verdicts that came of it.
    fn published(run: impl FnOnce(&Comparison)) -> Vec<Verdict> {
        let (sender, records) = channel();
        let publish = move |record: &Outgoing| {
            sender.send(serde_json::from_slice(record.payload.as_deref().unwrap()).unwrap()).unwrap();
            Ok(())
        };
        let thresholds = Thresholds { approve_confidence: 0.8, reject_confidence: 0.8 };
        let (truncated, foreign_share_max) = (Truncated::Review, 1.0);
        let rules = DecisionRules { thresholds, version_thresholds: Arc::default(), truncated, foreign_share_max };
        let outlet = Outlet { topic: "shadows".to_owned(), rules, publish: Box::new(publish) };
        run(&Comparison::new(&Record::default(), Instant::now(), outlet));
        records.iter().collect()
    }

    #[test]
    fn every_shadow_that_answers_is_published_once_whichever_comes_first() {
        let verdicts = published(|comparison| {
            comparison.shadow(identity("early"), Reading::default(), Ok(judged(0.7)));
            comparison.live(Some(&live()));
            comparison.shadow(identity("late"), Reading::default(), Ok(judged(0.1)));
            comparison.shadow(identity("broken"), Reading::default(), Err(InferenceError::NotFinite));
        });
        let told: Vec<(&str, Label, bool)> = verdicts
            .iter()
            .map(|verdict| (verdict.model_version.as_str(), verdict.result, verdict.live.as_ref().unwrap().agrees))
            .collect();
        assert_eq!(told, [("early", Label::Yes, true), ("late", Label::No, false)]);
        assert_eq!(verdicts[1].decision, Decision::Reject, "by its own answer");
    }

    #[test]
    fn without_a_live_verdict_there_is_nothing_to_compare_with() {
        let verdicts = published(|comparison| {
            comparison.shadow(identity("early"), Reading::default(), Ok(judged(0.7)));
            assert!(comparison.is_wanted());
            comparison.live(None);
            assert!(!comparison.is_wanted());
            comparison.shadow(identity("late"), Reading::default(), Ok(judged(0.7)));
        });
        assert_eq!(verdicts, []);
    }
}
