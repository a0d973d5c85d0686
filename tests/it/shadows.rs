//! Shadow verdicts, beside the live ones.

use std::collections::BTreeMap;

use ofa_stream::message::{Role, Verdict};
use serde_json::json;

use crate::{
    broker::{Outcome, SHADOWS, VERDICTS, cluster, image, produce, read, reader},
    support::{Running, metric, page, settings},
};

#[test]
fn every_live_verdict_of_an_experiment_gets_its_shadows_with_the_live_answer_beside_them() {
    const REQUESTS: usize = 40;
    let cluster = cluster();
    let address = cluster.bootstrap_servers();
    let shadowed = settings(&address).replace("traffic_ratio = 1.0", "traffic_ratio = 1.0\nshadow = ['ofa_base']");
    let running = Running::start(&shadowed);
    let pages = running.log_line("Serving /metrics")["address"].as_str().unwrap().to_owned();
    let thumbnail = image("thumbnail.png");
    let requests: Vec<_> = (0..REQUESTS)
        .map(|number| {
            let texts = if number % 2 == 0 { json!("a ball") } else { json!(["a ball", "a red ball", "two"]) };
            let request = json!({"request_id": format!("r-{number}"), "text": texts, "image": {"base64": thumbnail}});
            // One that is refused has no shadow.
            let request = match number {
                7 => json!({"request_id": "r-7", "text": "x", "image": {"base64": "AAAA"}}),
                _ => request,
            };
            (format!("key-{number}"), request.to_string().into_bytes())
        })
        .collect();
    produce(&address, &requests);
    let consumer = reader(&address);
    let mut outcomes: Vec<Outcome> = Vec::new();
    // What ofa_base answers live it does not shadow.
    let by_small = |outcomes: &[Outcome]| {
        let small =
            |outcome: &&Outcome| outcome.headers.get("ofa-model-version").is_some_and(|name| name == "ofa_small");
        outcomes.iter().filter(|outcome| outcome.topic == VERDICTS).filter(small).count()
    };
    let shadows = |outcomes: &[Outcome]| outcomes.iter().filter(|outcome| outcome.topic == SHADOWS).count();
    read(&consumer, &mut outcomes, |outcomes| {
        outcomes.len() >= REQUESTS
            && shadows(outcomes) == by_small(outcomes)
            && outcomes.len() == REQUESTS + shadows(outcomes)
    });
    let verdict = |outcome: &Outcome| serde_json::from_slice::<Verdict>(&outcome.payload).unwrap();
    let live: BTreeMap<u64, Verdict> = outcomes
        .iter()
        .filter(|outcome| outcome.topic == VERDICTS)
        .map(|outcome| (outcome.number, verdict(outcome)))
        .collect();
    let mut agreeing = 0;
    assert!(shadows(&outcomes) > 10);
    for outcome in outcomes.iter().filter(|outcome| outcome.topic == SHADOWS) {
        let (shadow, live) = (verdict(outcome), &live[&outcome.number]);
        assert_eq!(outcome.headers["ofa-ab-role"], "shadow");
        assert_eq!(outcome.key.as_deref(), Some(format!("key-{}", outcome.number).as_bytes()));
        assert!(outcome.headers["traceparent"].starts_with("00-0af7"));
        assert_eq!((shadow.ab_role, live.ab_role), (Role::Shadow, Role::Live));
        assert_eq!((shadow.model_version.as_str(), live.model_version.as_str()), ("ofa_base", "ofa_small"));
        assert_eq!(
            (&shadow.request_id, &shadow.ab, &shadow.image_hash),
            (&live.request_id, &live.ab, &live.image_hash)
        );
        assert_eq!(shadow.answers.as_ref().map(Vec::len), live.answers.as_ref().map(Vec::len));
        let beside = shadow.live.unwrap();
        assert_eq!((beside.result, beside.confidence, beside.scores), (live.result, live.confidence, live.scores));
        assert_eq!(beside.agrees, shadow.result == live.result);
        agreeing += usize::from(beside.agrees);
    }
    let metrics = page(&pages, "/metrics");
    let counted = |agrees: &str| metric(&metrics, "ofa_shadow_verdicts_total", &format!("agrees=\"{agrees}\""));
    assert_eq!((counted("yes") as usize, counted("no") as usize), (agreeing, shadows(&outcomes) - agreeing));
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn the_same_request_again_is_answered_from_what_was_kept_and_says_so() {
    let cluster = cluster();
    let address = cluster.bootstrap_servers();
    let keeping = settings(&address).replace("answer_cache_bytes = 0", "answer_cache_bytes = 100_000");
    let running = Running::start(&keeping);
    let pages = running.log_line("Serving /metrics")["address"].as_str().unwrap().to_owned();
    let thumbnail = image("thumbnail.png");
    let consumer = reader(&address);
    let mut outcomes = Vec::new();
    for (round, text) in ["a ball", "a ball", "a cube"].into_iter().enumerate() {
        // One unit, and so one version.
        let request = json!({"request_id": "r-1", "text": text, "image": {"base64": thumbnail}});
        produce(&address, &[("key".to_owned(), request.to_string().into_bytes())]);
        read(&consumer, &mut outcomes, |outcomes| outcomes.len() == round + 1);
    }
    let verdicts: Vec<Verdict> =
        outcomes.iter().map(|outcome| serde_json::from_slice(&outcome.payload).unwrap()).collect();
    assert_eq!(verdicts.iter().map(|verdict| verdict.cached).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(verdicts[0].scores, verdicts[1].scores);
    assert!(verdicts[0].scores != verdicts[2].scores);
    assert_eq!(verdicts[1].timings_ms.inference, 0.0);
    let metrics = page(&pages, "/metrics");
    assert_eq!(metric(&metrics, "ofa_answers_total", "outcome=\"kept\""), 1.0);
    assert_eq!(metric(&metrics, "ofa_latency_seconds_count", ""), 2.0, "the kept answer is left out of latencies");
    assert_eq!(running.stop(), Some(0));
}
