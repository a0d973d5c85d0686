//! The running program, driven from outside with a producer and a consumer of our own.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use rdkafka::{consumer::Consumer, message::Message};
use serde_json::{Value, json};

use crate::{
    broker::{DEAD_LETTERS, Outcome, PARTITIONS, REQUESTS, VERDICTS, cluster, image, produce, read, reader},
    support::{Running, page, program, repository, settings},
};

/// Ten ways to be wrong, with the code each must get.
fn bad(way: usize, id: &str) -> (Vec<u8>, &'static str) {
    let thumbnail = image("thumbnail.png");
    let with = |image: Value| json!({"request_id": id, "text": "a ball", "image": image});
    let (request, code) = match way {
        0 => return (format!("{{\"request_id\":\"{id}\",").into_bytes(), "malformed_json"),
        1 => (json!({"request_id": id, "image": {"base64": thumbnail}}), "missing_field"),
        2 => (with(json!({})), "image_source_missing"),
        3 => (with(json!({"base64": thumbnail, "url": "https://example.com/a.png"})), "image_source_conflict"),
        4 => (with(json!({"base64": "#"})), "image_base64_invalid"),
        5 => (with(json!({"base64": image("cut.jpg")})), "image_undecodable"),
        6 => (with(json!({"base64": image("enormous.png")})), "image_too_large"),
        7 => (with(json!({"base64": image("moving.gif")})), "image_format_unsupported"),
        8 => {
            let mut request = with(json!({"base64": thumbnail}));
            request["model_version"] = json!("ofa_huge");
            (request, "unknown_version")
        }
        _ => return (Vec::new(), "empty_payload"),
    };
    (request.to_string().into_bytes(), code)
}

#[test]
fn every_request_gets_exactly_its_outcome_in_order_per_key_from_the_embedded_broker() {
    let running = Running::start(&settings("embedded"));
    let pages = running.log_line("Serving /metrics")["address"].as_str().unwrap().to_owned();
    let address = running.log_line("Embedded broker started")["bootstrap_servers"].as_str().unwrap().to_owned();
    let thumbnail = image("thumbnail.png");
    let mut expected: BTreeMap<u64, Option<&str>> = BTreeMap::new();
    let mut requests = Vec::new();
    for number in 0..500_usize {
        let id = format!("r-{number}");
        let (payload, code) = match number % 10 {
            3 => {
                let (payload, code) = bad(number / 10 % 10, &id);
                (payload, Some(code))
            }
            _ => (
                json!({"request_id": id, "text": format!("ball {number}"), "image": {"base64": thumbnail}})
                    .to_string()
                    .into_bytes(),
                None,
            ),
        };
        expected.insert(number as u64, code);
        requests.push((format!("key-{}", number % 17), payload));
    }
    produce(&address, &requests);
    let mut outcomes = Vec::new();
    let consumer = reader(&address);
    read(&consumer, &mut outcomes, |outcomes| outcomes.len() >= requests.len());

    assert!(consumer.poll(Duration::from_secs(2)).is_none(), "an outcome too many");

    let numbers: BTreeSet<u64> = outcomes.iter().map(|outcome| outcome.number).collect();
    assert_eq!((outcomes.len(), numbers.len()), (500, 500), "every request exactly once");
    let mut last: BTreeMap<(String, i32, Option<Vec<u8>>), u64> = BTreeMap::new();
    for outcome in &outcomes {
        let (key, payload) = &requests[outcome.number as usize];
        assert_eq!(outcome.key.as_deref(), Some(key.as_bytes()));
        assert!(outcome.headers["traceparent"].starts_with("00-0af7"));
        let before = last.insert((outcome.topic.clone(), outcome.partition, outcome.key.clone()), outcome.number);
        assert!(before.is_none_or(|before| before < outcome.number), "{key}: {before:?} then {}", outcome.number);
        match expected[&outcome.number] {
            None => {
                assert_eq!(outcome.topic, VERDICTS);
                let verdict: ofa_stream::message::Verdict = serde_json::from_slice(&outcome.payload).unwrap();
                assert_eq!(verdict.route.reason, "experiment");
                assert_eq!(outcome.headers["ofa-model-version"], verdict.model_version);
            }
            Some(code) => {
                assert_eq!(outcome.topic, DEAD_LETTERS);
                assert_eq!((outcome.headers["ofa-error-code"].as_str(), &outcome.payload), (code, payload));
                assert_eq!(outcome.headers["__connect.errors.topic"], REQUESTS);
            }
        }
    }
    let belongs = Instant::now();
    while !page(&pages, "/metrics").contains("ofa_group_member 1") {
        assert!(belongs.elapsed() < Duration::from_secs(30), "it does not know that it has its place in the group");
        std::thread::sleep(Duration::from_millis(100));
    }
    let metrics = page(&pages, "/metrics");
    assert!(metrics.contains("ofa_records_consumed_total 500"), "{metrics}");
    assert!(metrics.contains("ofa_model_state{version=\"ofa_base\",state=\"ready\"} 1"), "{metrics}");
    let malformed = "ofa_dead_letters_total{code=\"malformed_json\",experiment=\"none\",variant=\"none\"} 5";
    assert!(metrics.contains(malformed), "{metrics}");
    assert!(
        page(&pages, "/healthz").starts_with("HTTP/1.1 200") && page(&pages, "/readyz").starts_with("HTTP/1.1 200")
    );
    assert_eq!(running.stop(), Some(0), "a stop signal drains and ends well");
}

#[test]
fn a_kill_in_mid_run_loses_nothing() {
    let cluster = cluster();
    let address = cluster.bootstrap_servers();
    let thumbnail = image("thumbnail.png");
    let request =
        |number: usize| json!({"request_id": format!("r-{number}"), "text": "a ball", "image": {"base64": thumbnail}});
    let requests: Vec<_> =
        (0..600).map(|number| (format!("key-{}", number % 17), request(number).to_string().into_bytes())).collect();
    let consumer = reader(&address);
    let mut outcomes = Vec::new();

    // Few at a time, so that the kill comes in the middle on any machine.
    let slow = settings(&address) + "[pipeline]\nrecords_in_flight_max = 4\n";
    let first = Running::start(&slow);
    produce(&address, &requests);
    read(&consumer, &mut outcomes, |outcomes| outcomes.len() >= 40);
    first.kill();
    let published: i64 = (0..PARTITIONS)
        .map(|partition| consumer.fetch_watermarks(VERDICTS, partition, Duration::from_secs(5)).unwrap().1)
        .sum();
    assert!(published < requests.len() as i64, "the kill came too late to prove anything: {published} verdicts");

    let second = Running::start(&settings(&address));
    // Until then a stop ends it at once.
    second.log_line("Taking requests");
    let numbers = |outcomes: &[Outcome]| outcomes.iter().map(|outcome| outcome.number).collect::<BTreeSet<_>>().len();
    read(&consumer, &mut outcomes, |outcomes| numbers(outcomes) == requests.len());
    println!(
        "{} outcomes for {} requests: {} came twice around the kill",
        outcomes.len(),
        requests.len(),
        outcomes.len() - requests.len()
    );
    assert_eq!(second.stop(), Some(0));

    // What was committed at the stop is not read again.
    let third = Running::start(&settings(&address));
    third.log_line("Partitions assigned");
    std::thread::sleep(Duration::from_secs(2));
    assert!(consumer.poll(Duration::from_secs(1)).is_none(), "a request was answered again after a clean stop");
    assert_eq!(third.stop(), Some(0));
}

#[test]
fn what_produce_publishes_is_answered() {
    let running = Running::start(&settings("embedded"));
    let address = running.log_line("Embedded broker started")["bootstrap_servers"].as_str().unwrap().to_owned();
    running.log_line("Taking requests");
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(repository("testdata/demo/mug.jpg"), folder.path().join("mug.jpg")).unwrap();
    std::fs::write(folder.path().join("mug.txt"), "a red mug\n").unwrap();
    let produce = |arguments: &[&str]| {
        let output = program()
            .arg("produce")
            .args(arguments)
            .args(["--bootstrap-servers", &address, "--json"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
        printed["published"].as_u64().unwrap()
    };
    let published = produce(&["testdata/demo/requests.jsonl", "--unchecked", "--key", "user_id"])
        + produce(&[folder.path().to_str().unwrap()]);
    let consumer = reader(&address);
    let mut ids = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    while (ids.len() as u64) < published && Instant::now() < deadline {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.unwrap();
        let value: Option<Value> = serde_json::from_slice(message.payload().unwrap_or_default()).ok();
        ids.push(value.map_or(String::new(), |value| value["request_id"].as_str().unwrap_or_default().to_owned()));
    }
    assert_eq!((published, ids.len()), (36, 36));
    assert!(ids.iter().any(|id| id == "mug") && ids.iter().any(|id| id == "shop-01"));

    let refused =
        program().args(["produce", "testdata/demo/requests.jsonl", "--bootstrap-servers", &address]).output().unwrap();
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(error.contains("requests.jsonl line 3: the value is not JSON"), "{error}");
}

#[test]
fn a_stop_while_it_starts_ends_it_at_once() {
    // Nobody answers there, which is waited for.
    let running = Running::start(&settings("127.0.0.1:9"));
    running.log_line("Serving /metrics");
    std::thread::sleep(Duration::from_millis(300));
    let asked = Instant::now();
    let (code, told) = running.stop_and_hear();
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("Stopped while it was starting"), "{told}");
    assert!(asked.elapsed() < Duration::from_secs(5), "it took {:?}", asked.elapsed());
}

#[test]
fn a_stop_waits_no_longer_than_its_bound_and_what_is_left_is_read_again() {
    let cluster = cluster();
    let address = cluster.bootstrap_servers();
    let image = image("mug.jpg");
    let request =
        |number: usize| json!({"request_id": format!("r-{number}"), "text": "a mug", "image": {"base64": image}});
    let requests: Vec<_> =
        (0..300).map(|number| (format!("key-{}", number % 17), request(number).to_string().into_bytes())).collect();
    produce(&address, &requests);
    let hurried = settings(&address) + "[pipeline]\ndrain_timeout_ms = 1\n";
    let consumer = reader(&address);
    let mut outcomes = Vec::new();
    let first = Running::start(&hurried);
    read(&consumer, &mut outcomes, |outcomes| !outcomes.is_empty());
    let asked = Instant::now();
    assert_eq!(first.stop(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(10), "a drain of 1 ms took {:?}", asked.elapsed());

    let second = Running::start(&settings(&address));
    // Until then a stop ends it at once.
    second.log_line("Taking requests");
    let numbers = |outcomes: &[Outcome]| outcomes.iter().map(|outcome| outcome.number).collect::<BTreeSet<_>>().len();
    read(&consumer, &mut outcomes, |outcomes| numbers(outcomes) == requests.len());
    assert_eq!(second.stop(), Some(0));
}
