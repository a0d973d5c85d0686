//! Producers and consumers of our own, beside a broker on loopback.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::{Headers, Message, OwnedHeaders},
    mocking::MockCluster,
    producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer},
};
use serde_json::Value;

use crate::support::repository;

pub(crate) const REQUESTS: &str = "moderation.requests";
pub(crate) const VERDICTS: &str = "moderation.verdicts";
pub(crate) const DEAD_LETTERS: &str = "moderation.dead-letters";
pub(crate) const SHADOWS: &str = "moderation.shadows";
pub(crate) const CONTROL: &str = "moderation.control";
pub(crate) const PARTITIONS: i32 = 4;

/// What came out for one request.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) number: u64,
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) payload: Vec<u8>,
    pub(crate) headers: BTreeMap<String, String>,
}

pub(crate) fn image(name: &str) -> String {
    STANDARD.encode(std::fs::read(repository("testdata/demo").join(name)).unwrap())
}

/// A cluster with every topic.
pub(crate) fn cluster() -> MockCluster<'static, DefaultProducerContext> {
    let cluster = MockCluster::new(1).unwrap();
    for topic in [REQUESTS, VERDICTS, DEAD_LETTERS, SHADOWS] {
        cluster.create_topic(topic, PARTITIONS, 1).unwrap();
    }
    cluster.create_topic(CONTROL, 1, 1).unwrap();
    cluster
}

/// The number of a request is in its id, and in a header for those whose id cannot be read.
pub(crate) fn produce(bootstrap_servers: &str, requests: &[(String, Vec<u8>)]) {
    produce_to(bootstrap_servers, REQUESTS, requests);
}

/// As [`produce`], to another topic.
pub(crate) fn produce_to(bootstrap_servers: &str, topic: &str, requests: &[(String, Vec<u8>)]) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap_servers)
        .set("enable.idempotence", "true")
        .create()
        .unwrap();
    for (number, (key, payload)) in requests.iter().enumerate() {
        let number = number.to_string();
        let headers = OwnedHeaders::new()
            .insert(rdkafka::message::Header { key: "number", value: Some(&number) })
            .insert(rdkafka::message::Header {
                key: "traceparent",
                value: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            });
        producer
            .send(BaseRecord::to(topic).key(key).payload(payload).headers(headers))
            .map_err(|(error, _)| error)
            .unwrap();
        producer.poll(Duration::ZERO);
    }
    producer.flush(Duration::from_secs(30)).unwrap();
}

pub(crate) fn reader(bootstrap_servers: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap_servers).set("group.id", "outside").set("auto.offset.reset", "earliest");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut all = TopicPartitionList::new();
    for topic in [VERDICTS, DEAD_LETTERS, SHADOWS] {
        for partition in 0..PARTITIONS {
            all.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        }
    }
    consumer.assign(&all).unwrap();
    consumer
}

/// Reads outcomes until `enough` says so, or nothing comes for half a minute.
pub(crate) fn read(consumer: &BaseConsumer, outcomes: &mut Vec<Outcome>, enough: impl Fn(&[Outcome]) -> bool) {
    let mut heard = Instant::now();
    while !enough(outcomes) {
        assert!(heard.elapsed() < Duration::from_secs(30), "nothing came for 30 s after {} outcomes", outcomes.len());
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.unwrap();
        heard = Instant::now();
        outcomes.push(outcome(&message));
    }
}

/// What a record of an output topic says.
pub(crate) fn outcome(message: &impl Message) -> Outcome {
    let headers: BTreeMap<String, String> = message.headers().map_or_else(BTreeMap::new, |headers| {
        headers
            .iter()
            .map(|header| {
                (header.key.to_owned(), String::from_utf8_lossy(header.value.unwrap_or_default()).into_owned())
            })
            .collect()
    });
    let payload = message.payload().unwrap_or_default().to_vec();
    let number = match headers.get("number") {
        Some(number) => number.parse().unwrap(),
        None => {
            let verdict: Value = serde_json::from_slice(&payload).unwrap();
            verdict["request_id"].as_str().unwrap().rsplit('-').next().unwrap().parse().unwrap()
        }
    };
    let (topic, partition, offset) = (message.topic().to_owned(), message.partition(), message.offset());
    Outcome { number, topic, partition, offset, key: message.key().map(<[u8]>::to_vec), payload, headers }
}
