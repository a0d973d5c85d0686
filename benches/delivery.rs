//! What delivery costs on Apache Kafka, with a model that answers at once: exactly once, at least once, and a loop of nothing but
//! librdkafka that reads the same records, writes as many of a verdict's size and commits. All in one run, taking turns.
//!
//! cargo bench --bench delivery

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_macros,
    reason = "a benchmark prints, and ends where it cannot go on"
)]

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ofa_stream::{
    engine::{Answer, Engine, Judge, PassError, Prepared},
    message::Scores,
    ofa::Interrupt,
    pipeline::{Pipeline, connection, engine_options, engine_specs},
    routing::Overrides,
    settings::Plan,
    store::Thoroughness,
};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, CommitMode, Consumer},
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
};

/// Requests that go through.
struct Load {
    /// Their topic; each run has one of its own where they come at a rate.
    requests: &'static str,
    messages: usize,
    /// How many a second; none for those that are all there at once.
    rate: Option<usize>,
    image: &'static str,
}

const AT_ONCE: Load = Load { requests: "requests", messages: 60_000, rate: None, image: "testdata/demo/thumbnail.png" };
const RATED: Load = Load { messages: 20_000, rate: Some(4_000), ..AT_ONCE };
/// A JPEG of 640×480, 45 kB, as uploads are.
const UPLOADS: Load = Load { requests: "uploads", messages: 10_000, rate: None, image: "testdata/demo/mug.jpg" };
const ROUNDS: usize = 5;
/// `pipeline.records_in_flight_max`, by default and when it is to be fast at any price. A transaction is
/// due when it holds half of it, or `kafka.transaction_records_max`.
const IN_FLIGHT: usize = 1_024;
const MANY_IN_FLIGHT: usize = 16_384;
const PARTITIONS: i32 = 4;
const VERDICT_BYTES: usize = 1_000;

struct AtOnce;

impl Judge for AtOnce {
    fn attempt(&mut self, batch: &[&Prepared], _: Option<&Interrupt>) -> Result<Vec<Answer>, PassError> {
        let scores = Scores { yes: 0.5, maybe: 0.3, no: 0.2 };
        Ok(batch.iter().map(|request| Ok(vec![scores; request.sources.len()])).collect())
    }
}

struct Kafka {
    _process: Child,
    address: String,
}

impl Kafka {
    fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka");
        let mut process = Command::new(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("ready ").expect("Apache Kafka").to_owned();
        Self { _process: process, address }
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.address);
        config
    }

    fn create(&self, topics: &[&str]) {
        let client: AdminClient<DefaultClientContext> = self.config().create().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let new: Vec<NewTopic<'_>> =
            topics.iter().map(|topic| NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1))).collect();
        runtime.block_on(client.create_topics(&new, &AdminOptions::new())).unwrap();
    }

    fn producer(&self) -> ThreadedProducer<DefaultProducerContext> {
        let mut config = self.config();
        config.set("enable.idempotence", "true").set("linger.ms", "5").set("compression.codec", "lz4");
        config.create().unwrap()
    }

    /// Publishes all requests, as fast as they go or so many a second.
    fn fill(&self, topic: &str, load: &Load) {
        let Load { messages, rate, image, .. } = *load;
        let image = STANDARD.encode(std::fs::read(image).unwrap());
        let producer = self.producer();
        let begun = Instant::now();
        for number in 0..messages {
            while rate.is_some_and(|rate| number as f64 > begun.elapsed().as_secs_f64() * rate as f64) {
                std::thread::sleep(Duration::from_millis(1));
            }
            let payload =
                serde_json::json!({"request_id": format!("r-{number}"), "text": format!("ball {}", number % 5),
                "image": {"base64": image}})
                .to_string();
            let key = format!("key-{}", number % 997);
            while producer.send(BaseRecord::to(topic).key(&key).payload(&payload)).is_err() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        producer.flush(Duration::from_secs(60)).unwrap();
    }

    /// Waits until all verdicts can be read by a read-committed consumer: seconds from when the first was written, by its
    /// timestamp, to when the last was read.
    fn time(&self, topic: &str, messages: usize) -> f64 {
        let mut config = self.config();
        config.set("group.id", "outside").set("isolation.level", "read_committed").set("fetch.wait.max.ms", "5");
        let consumer: BaseConsumer = config.create().unwrap();
        let mut all = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            all.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&all).unwrap();
        let (mut seen, mut begun) = (0, i64::MAX);
        while seen < messages {
            if let Some(message) = consumer.poll(Duration::from_millis(100)) {
                seen += 1;
                begun = begun.min(message.unwrap().timestamp().to_millis().unwrap());
            }
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        (now.as_millis() as i64 - begun) as f64 / 1e3
    }
}

/// Seconds that a pipeline takes for some requests.
fn through_the_pipeline(kafka: &Kafka, round: usize, delivery: &str, in_flight: usize, load: &Load) -> f64 {
    let Load { requests, messages, rate, .. } = *load;
    let name = format!("{requests}-{delivery}-{in_flight}-{round}-{}", rate.unwrap_or_default());
    let requests = if rate.is_some() { format!("{name}-requests") } else { requests.to_owned() };
    kafka.create(&[&name, &format!("{name}-dead"), &requests]);
    let text = format!(
        "[kafka]\nbootstrap_servers = \"{}\"\ngroup_id = \"{name}\"\ninstance_id = \"bench\"\ndelivery = \"{delivery}\"\n\
         requests = \"{requests}\"\nverdicts = \"{name}\"\ndead_letters = \"{name}-dead\"\n[pipeline]\nrecords_in_flight_max = {in_flight}\n[model_versions]\n\
         default = \"ofa_small\"\n[model_versions.versions.ofa_small]\n",
        kafka.address
    );
    let plan = Plan::from_text("pipeline.toml".as_ref(), text, &Overrides::default()).unwrap();
    let engine =
        Engine::start_with(&engine_specs(&plan, Thoroughness::Sizes), engine_options(&plan), |_, _| Ok(AtOnce))
            .unwrap();
    let pipeline = Pipeline::start(&plan, &connection(&plan, None), engine).unwrap();
    let seconds = std::thread::scope(|scope| {
        if rate.is_some() {
            scope.spawn(|| kafka.fill(&requests, load));
        }
        kafka.time(&name, messages)
    });
    pipeline.stopper()();
    pipeline.join().unwrap();
    seconds
}

fn through_librdkafka_alone(kafka: &Kafka, requests: &str, round: usize) -> f64 {
    let name = format!("plain-{round}");
    kafka.create(&[&name]);
    let mut config = kafka.config();
    config.set("group.id", &name).set("auto.offset.reset", "earliest").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().unwrap();
    consumer.subscribe(&[requests]).unwrap();
    let producer = kafka.producer();
    let verdict = vec![b'x'; VERDICT_BYTES];
    std::thread::scope(|scope| {
        let timing = scope.spawn(|| kafka.time(&name, AT_ONCE.messages));
        let mut seen = 0;
        while seen < AT_ONCE.messages {
            let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
            let message = message.unwrap();
            while producer.send(BaseRecord::to(&name).key(message.key().unwrap()).payload(&verdict)).is_err() {
                std::thread::sleep(Duration::from_millis(1));
            }
            seen += 1;
            if seen % 1_000 == 0 {
                consumer.commit_message(&message, CommitMode::Async).unwrap();
            }
        }
        producer.flush(Duration::from_secs(60)).unwrap();
        timing.join().unwrap()
    })
}

/// Seconds of a core that this process has taken.
fn processor_seconds() -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let told = std::fs::read_to_string("/proc/self/stat").unwrap();
    // Behind the name, which may hold anything: state first, user and system time as the 12th and 13th.
    let behind = told.rsplit_once(')').unwrap().1;
    behind.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>()
        / TICKS_PER_SECOND
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn main() {
    let kafka = Kafka::start();
    kafka.create(&[AT_ONCE.requests, UPLOADS.requests]);
    kafka.fill(AT_ONCE.requests, &AT_ONCE);
    kafka.fill(UPLOADS.requests, &UPLOADS);
    let mut seconds: [Vec<f64>; 7] = Default::default();
    let mut uploads = Vec::new();
    for round in 0..ROUNDS {
        let through = |delivery, in_flight, load| through_the_pipeline(&kafka, round, delivery, in_flight, load);
        seconds[0].push(through("exactly_once", IN_FLIGHT, &AT_ONCE));
        seconds[1].push(through("at_least_once", IN_FLIGHT, &AT_ONCE));
        seconds[2].push(through("exactly_once", MANY_IN_FLIGHT, &AT_ONCE));
        seconds[3].push(through("at_least_once", MANY_IN_FLIGHT, &AT_ONCE));
        seconds[4].push(through_librdkafka_alone(&kafka, AT_ONCE.requests, round));
        seconds[5].push(through("exactly_once", IN_FLIGHT, &RATED));
        seconds[6].push(through("at_least_once", IN_FLIGHT, &RATED));
        let before = processor_seconds();
        through("exactly_once", IN_FLIGHT, &UPLOADS);
        uploads.push((processor_seconds() - before) / UPLOADS.messages as f64);
        let shown: Vec<String> = seconds.iter().map(|seconds| format!("{:.2}", seconds[round])).collect();
        println!("round {}: {} s", round + 1, shown.join(", "));
    }
    let ratio = |of: usize, to: usize| {
        let each: Vec<f64> = seconds[of].iter().zip(&seconds[to]).map(|(of, to)| to / of).collect();
        median(&each)
    };
    let rate = |what: usize, messages: usize| messages as f64 / median(&seconds[what]);
    println!("requests of 4 kB, medians of {ROUNDS} rounds, ratios within rounds");
    let (messages, rated) = (AT_ONCE.messages, RATED.messages);
    println!("{messages}, all there at once:");
    for (first, in_flight) in [(0, IN_FLIGHT), (2, MANY_IN_FLIGHT)] {
        let second = first + 1;
        let (once, at_least) = (rate(first, messages), rate(second, messages));
        println!(
            "  {in_flight:5} in flight, exactly once   {once:8.0} per second, {:.2} of at least once",
            ratio(first, second)
        );
        println!(
            "  {in_flight:5} in flight, at least once  {at_least:8.0} per second, {:.2} of librdkafka alone",
            ratio(second, 4)
        );
    }
    println!("  librdkafka alone                {:8.0} per second", rate(4, messages));
    println!("{rated}, {} a second:", RATED.rate.unwrap_or_default());
    println!(
        "  exactly once                    {:8.0} per second, {:.2} of at least once",
        rate(5, rated),
        ratio(5, 6)
    );
    println!("  at least once                   {:8.0} per second", rate(6, rated));
    println!("{} JPEGs of 45 kB, exactly once, the verdicts read by the same process:", UPLOADS.messages);
    println!(
        "  a request takes {:.0} µs of a core, beyond decoding its picture and judging it",
        1e6 * median(&uploads)
    );
}
