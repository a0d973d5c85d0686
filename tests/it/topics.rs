//! What topics are like costs no request its outcome: a compacted topic of verdicts, a topic of requests that is made again.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use rdkafka::Message as _;
use serde_json::{Value, json};

use crate::{
    broker::{PARTITIONS, image},
    kafka::{Kafka, Sent, receive, send},
    offered::committed_reader,
    support::{Running, page},
};

fn request(id: &str, key: Option<&'static str>) -> Sent<'static> {
    let request = json!({"request_id": id, "text": "a ball", "image": {"base64": image("thumbnail.png")}});
    Sent { key, payload: Some(request.to_string().into_bytes()), headers: vec![] }
}

#[test]
fn a_request_without_a_key_costs_itself_alone_where_verdicts_are_compacted() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let compacted = topics.name("compacted");
    kafka.create(&compacted, PARTITIONS, &[("cleanup.policy", "compact")]);
    let settings = topics.settings(kafka.address(), "compacted").replace(&topics.name("verdicts"), &compacted);
    let running = Running::start(&settings);
    let records: Vec<Sent<'_>> =
        (0..21).map(|number| request(&format!("r-{number}"), (number != 10).then_some("k"))).collect();
    send(kafka.address(), &topics.name("requests"), &records);
    assert_eq!(receive(kafka.address(), &compacted, 20).len(), 20);
    let letters = receive(kafka.address(), &topics.name("dead-letters"), 1);
    assert_eq!(letters[0].headers["ofa-error-code"], "key_missing");
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn a_topic_of_requests_that_is_made_again_is_read_from_its_beginning() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let requests = topics.name("requests");
    let running = Running::start(&topics.settings(kafka.address(), "again"));
    let pages = running.log_line("Serving /metrics")["address"].as_str().unwrap().to_owned();
    let publish = |name: &str, count: usize| {
        let records: Vec<Sent<'_>> = (0..count).map(|number| request(&format!("{name}-{number}"), Some("k"))).collect();
        send(kafka.address(), &requests, &records);
    };
    publish("old", 5);
    receive(kafka.address(), &topics.name("verdicts"), 5);
    // The thread that shows the group's lag has asked for the ids of topics before.
    let begun = Instant::now();
    while !page(&pages, "/metrics").contains("ofa_group_lag_records{") {
        assert!(begun.elapsed() < Duration::from_secs(60), "the group's lag is not shown");
        std::thread::sleep(Duration::from_millis(50));
    }

    kafka.delete(&requests);
    kafka.create(&requests, PARTITIONS, &[]);
    publish("new", 10);
    running.log_line("This topic was deleted and made again");
    // Those that were answered before this was noticed come twice.
    let consumer = committed_reader(kafka.address(), &topics);
    let mut missing: BTreeSet<String> = (0..10).map(|number| format!("new-{number}")).collect();
    let begun = Instant::now();
    while !missing.is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60), "without a verdict: {missing:?}");
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else { continue };
        let verdict: Value = serde_json::from_slice(message.payload().unwrap_or_default()).unwrap_or_default();
        missing.remove(verdict["request_id"].as_str().unwrap_or_default());
    }
    assert_eq!(running.stop(), Some(0));
}
