//! The pipeline's own cost per message: Kafka, parsing, decoding, routing, releasing, committing, with
//! a model that answers at once; the same without decoding, because the answer was kept; beside them the same records
//! through the same broker and nothing else.
//!
//! cargo bench --bench pipeline

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark ends where it cannot go on")]

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use divan::{Bencher, counter::ItemsCount};
use ofa_stream::{
    engine::{Answer, Engine, Judge, PassError, Prepared},
    kafka::{Connection, EmbeddedBroker, Feeder, FeederOptions, Tail},
    message::{Outgoing, Scores},
    ofa::Interrupt,
    pipeline::{Pipeline, connection, engine_options, engine_specs},
    settings::Plan,
    store::Thoroughness,
};

const MESSAGES: usize = 200;

fn main() {
    divan::main();
}

struct AtOnce;

impl Judge for AtOnce {
    fn attempt(&mut self, batch: &[&Prepared], _: Option<&Interrupt>) -> Result<Vec<Answer>, PassError> {
        let scores = Scores { yes: 0.5, maybe: 0.3, no: 0.2 };
        Ok(batch.iter().map(|request| Ok(vec![scores; request.sources.len()])).collect())
    }
}

fn requests(topic: &str, image: &str) -> Vec<Outgoing> {
    let image = STANDARD.encode(std::fs::read(image).unwrap());
    let request = |number: usize| {
        let payload =
            serde_json::json!({"request_id": format!("r-{number}"), "text": "a ball", "image": {"base64": image}});
        let key = format!("key-{}", number % 17).into_bytes();
        Outgoing {
            topic: topic.to_owned(),
            key: Some(key),
            payload: Some(payload.to_string().into_bytes()),
            headers: vec![],
        }
    };
    (0..MESSAGES).map(request).collect()
}

struct Setting {
    plan: Plan,
    connection: Connection,
    _broker: EmbeddedBroker,
}

impl Setting {
    fn new() -> Self {
        let mut plan = Plan::read("pipeline.toml".as_ref()).unwrap();
        // The embedded broker holds 3 MiB that are not committed; what the feeder waits for would be measured otherwise.
        plan.kafka.commit_interval = Duration::from_millis(2);
        let topics = [plan.kafka.requests.as_str(), &plan.kafka.verdicts, &plan.kafka.dead_letters];
        let broker = EmbeddedBroker::start(&topics, plan.kafka.embedded_partitions).unwrap();
        let connection = connection(&plan, Some(broker.bootstrap_servers()));
        Self { plan, connection, _broker: broker }
    }

    fn feeder(&self, topic: &str) -> Feeder {
        let options = FeederOptions {
            topic: topic.to_owned(),
            group_id: self.plan.kafka.group_id.clone(),
            record_bytes_max: self.plan.kafka.record_bytes_max,
            wait_max: Duration::from_secs(30),
        };
        Feeder::new(&self.connection, options).unwrap()
    }
}

fn drain(tail: &Tail, mut left: usize) {
    while left > 0 {
        left -= usize::from(tail.next(Duration::from_millis(100)).unwrap().is_some());
    }
}

const IMAGES: [&str; 2] = ["testdata/demo/thumbnail.png", "testdata/demo/shoe.jpg"];

#[divan::bench(args = IMAGES, sample_count = 10, sample_size = 1)]
fn through_the_pipeline(bencher: Bencher<'_, '_>, image: &str) {
    run(bencher, image, 0);
}

/// What is left beyond decoding, resizing and the model.
#[divan::bench(args = IMAGES, sample_count = 10, sample_size = 1)]
fn through_the_pipeline_with_the_answer_kept(bencher: Bencher<'_, '_>, image: &str) {
    run(bencher, image, 1 << 20);
}

fn run(bencher: Bencher<'_, '_>, image: &str, answer_cache_bytes: usize) {
    let mut setting = Setting::new();
    setting.plan.versions.values_mut().for_each(|version| version.answer_cache_bytes = answer_cache_bytes);
    let engine =
        Engine::start_with(&engine_specs(&setting.plan, Thoroughness::Sizes), engine_options(&setting.plan), |_, _| {
            Ok(AtOnce)
        })
        .unwrap();
    let pipeline = Pipeline::start(&setting.plan, &setting.connection, engine).unwrap();
    let tail =
        Tail::new(&setting.connection, &[&setting.plan.kafka.verdicts, &setting.plan.kafka.dead_letters]).unwrap();
    let feeder = setting.feeder(&setting.plan.kafka.requests);
    let requests = requests(&setting.plan.kafka.requests, image);
    let round = || {
        requests.iter().for_each(|request| feeder.feed(request).unwrap());
        drain(&tail, MESSAGES);
    };
    // The first round waits for the group to form.
    round();
    bencher.counter(ItemsCount::new(MESSAGES)).bench_local(round);
    pipeline.stopper()();
    pipeline.join().unwrap();
}

/// All requests of one round fit into the log, so a client publishes them without a feeder's bound.
#[divan::bench(args = IMAGES, sample_count = 10, sample_size = 1)]
fn through_the_broker_alone(bencher: Bencher<'_, '_>, image: &str) {
    use rdkafka::producer::{BaseRecord, DefaultProducerContext, ThreadedProducer};
    let setting = Setting::new();
    let mut config = rdkafka::ClientConfig::new();
    config.set("bootstrap.servers", &setting.connection.bootstrap_servers);
    config.set("enable.idempotence", "true").set("linger.ms", "5");
    let producer: ThreadedProducer<DefaultProducerContext> = config.create().unwrap();
    let topic = &setting.plan.kafka.requests;
    let tail = Tail::new(&setting.connection, &[topic]).unwrap();
    let requests = requests(topic, image);
    bencher.counter(ItemsCount::new(MESSAGES)).bench_local(|| {
        for request in &requests {
            let record =
                BaseRecord::to(topic).key(request.key.as_ref().unwrap()).payload(request.payload.as_ref().unwrap());
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        drain(&tail, MESSAGES);
    });
}
