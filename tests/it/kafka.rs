//! Real Apache Kafka on loopback, by `scripts/kafka`, and what tests do with it.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication, TopicResult},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::KafkaResult,
    message::{Headers, Message, OwnedHeaders},
    metadata::{MetadataPartition, MetadataTopic},
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::Value;

use crate::{
    broker::PARTITIONS,
    instance::operated,
    support::{repository, settings, skip},
};

/// A cluster that ends with its owner: its script stops at the end of its input.
pub(crate) struct Kafka {
    process: Child,
    input: Mutex<Option<ChildStdin>>,
    output: Mutex<BufReader<ChildStdout>>,
    /// What the script said after `ready`: plain addresses first.
    told: String,
    brokers: i32,
}

impl Kafka {
    /// A cluster of this test's own, whose brokers it may kill. None, said loudly, where Kafka cannot be had.
    pub(crate) fn start(arguments: &[&str]) -> Option<Self> {
        let brokers = arguments.iter().skip_while(|argument| **argument != "--brokers").nth(1);
        let mut script = Command::new(repository("scripts/kafka"));
        script.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = script.spawn().unwrap();
        let input = Mutex::new(process.stdin.take());
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let Some(told) = line.trim().strip_prefix("ready ").map(str::to_owned) else {
            process.wait().unwrap();
            skip(&format!("scripts/kafka cannot start Apache Kafka: {line}"));
            return None;
        };
        let brokers = brokers.map_or(1, |brokers| brokers.parse().unwrap());
        Some(Self { process, input, output: Mutex::new(output), told, brokers })
    }

    /// The one broker that most tests share, each with topics of its own.
    pub(crate) fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Kafka>> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&[])).as_ref()
    }

    pub(crate) fn address(&self) -> &str {
        self.told.split(' ').next().unwrap()
    }

    /// What the script told by this name.
    pub(crate) fn told(&self, name: &str) -> &str {
        let found = self.told.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("no {name} in {}", self.told))
    }

    /// Kills, starts, pauses or resumes brokers.
    pub(crate) fn tell(&self, command: &str) {
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(input.as_mut().unwrap(), "{command}").unwrap();
        let mut line = String::new();
        self.output.lock().unwrap_or_else(PoisonError::into_inner).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), format!("done {command}"));
    }

    /// Topics of a test, named after nothing else.
    pub(crate) fn topics(&self) -> Topics {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let prefix = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let topics = Topics { prefix };
        for topic in ["requests", "verdicts", "dead-letters", "shadows", "retry"] {
            self.create(&topics.name(topic), PARTITIONS, &[]);
        }
        self.create(&topics.name("control"), 1, &[("cleanup.policy", "compact")]);
        topics
    }

    pub(crate) fn create(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        self.create_as(NewTopic::new(topic, partitions, TopicReplication::Fixed(self.brokers.min(3))), settings);
    }

    /// One partition, which lies on this broker alone.
    pub(crate) fn create_on(&self, broker: i32, topic: &str) {
        let alone: &[&[i32]] = &[&[broker]];
        self.create_as(NewTopic::new(topic, 1, TopicReplication::Variable(alone)), &[("min.insync.replicas", "1")]);
    }

    fn create_as<'t>(&self, mut new: NewTopic<'t>, settings: &[(&'t str, &'t str)]) {
        let (topic, partitions) = (new.name, new.num_partitions);
        for (name, value) in settings {
            new = new.set(name, value);
        }
        let created: Vec<TopicResult> =
            self.administer(async |client, options| client.create_topics([&new], options).await);
        created.into_iter().for_each(|result| assert_eq!(result, Ok(topic.to_owned())));
        // Brokers tell others of it a little later than whoever created it.
        self.await_leaders(topic, |leaders| {
            leaders.len() == partitions as usize && leaders.iter().all(|leader| *leader > 0)
        });
    }

    /// Waits until those who lead a topic's partitions are as wanted; whom nobody leads has -1.
    pub(crate) fn await_leaders(&self, topic: &str, wanted: impl Fn(&[i32]) -> bool) {
        let client: BaseProducer = ClientConfig::new().set("bootstrap.servers", self.address()).create().unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        let is_led = || {
            let metadata = client.client().fetch_metadata(Some(topic), Duration::from_secs(10)).unwrap();
            let found = metadata.topics().iter().find(|found| found.name() == topic).map(MetadataTopic::partitions);
            found.is_some_and(|found| wanted(&found.iter().map(MetadataPartition::leader).collect::<Vec<_>>()))
        };
        while !is_led() {
            assert!(Instant::now() < deadline, "nobody leads {topic} as wanted");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn delete(&self, topic: &str) {
        let deleted: Vec<TopicResult> =
            self.administer(async |client, options| client.delete_topics(&[topic], options).await);
        deleted.into_iter().for_each(|result| assert_eq!(result, Ok(topic.to_owned())));
    }

    /// Deletes the records of a topic's first partition that lie before an offset, as retention does.
    pub(crate) fn delete_before(&self, topic: &str, offset: i64) {
        self.delete_records(topic, &[(0, Offset::Offset(offset))]);
    }

    /// Deletes all records of a topic, as retention does.
    pub(crate) fn delete_all(&self, topic: &str) {
        let all: Vec<(i32, Offset)> = (0..PARTITIONS).map(|partition| (partition, Offset::End)).collect();
        self.delete_records(topic, &all);
    }

    fn delete_records(&self, topic: &str, before: &[(i32, Offset)]) {
        let mut records = TopicPartitionList::new();
        for (partition, offset) in before {
            records.add_partition_offset(topic, *partition, *offset).unwrap();
        }
        let deleted = self.administer(async |client, options| client.delete_records(&records, options).await);
        deleted.elements().iter().for_each(|element| element.error().unwrap());
    }

    fn administer<T>(
        &self,
        change: impl AsyncFnOnce(&AdminClient<DefaultClientContext>, &AdminOptions) -> KafkaResult<T>,
    ) -> T {
        let client = ClientConfig::new().set("bootstrap.servers", self.address()).create().unwrap();
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(change(&client, &options)).unwrap()
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        // The end of its input stops it.
        self.input.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.process.wait().ok();
    }
}

/// The topics of one test.
pub(crate) struct Topics {
    prefix: String,
}

impl Topics {
    pub(crate) fn name(&self, topic: &str) -> String {
        format!("{}.{topic}", self.prefix)
    }

    /// The group that reads them.
    pub(crate) fn group(&self) -> &str {
        &self.prefix
    }

    /// Settings of an instance with these topics and a name.
    pub(crate) fn settings(&self, address: &str, instance: &str) -> String {
        let named = format!("{}control = \"off\"\n[kafka.options]", self.named(instance));
        settings(address).replace("control = \"off\"\n[kafka.options]", &named)
    }

    /// The same with everything that operators use.
    pub(crate) fn operated(&self, address: &str, instance: &str) -> String {
        let named = format!("{}control = \"{}\"\n[kafka.options]\n", self.named(instance), self.name("control"));
        operated(address).replace("[kafka.options]\n\"fetch.wait.max.ms\" = \"10\"\n", &named)
    }

    fn named(&self, instance: &str) -> String {
        format!(
            "group_id = \"{prefix}\"\ninstance_id = \"{instance}\"\nrequests = \"{prefix}.requests\"\n\
             verdicts = \"{prefix}.verdicts\"\ndead_letters = \"{prefix}.dead-letters\"\nshadows = \"{prefix}.shadows\"\n",
            prefix = self.prefix
        )
    }
}

/// A record that a test publishes.
#[derive(Clone, Default)]
pub(crate) struct Sent<'a> {
    pub(crate) key: Option<&'a str>,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) headers: Vec<(&'a str, &'a str)>,
}

/// Publishes records, in the order given, to one partition so that it is kept.
pub(crate) fn send(address: &str, topic: &str, records: &[Sent<'_>]) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address).set("enable.idempotence", "true").set("compression.type", "zstd");
    let producer: BaseProducer = config.set("message.max.bytes", "16000000").create().unwrap();
    hand_over(&producer, topic, records);
    producer.flush(Duration::from_secs(30)).unwrap();
}

pub(crate) fn hand_over(producer: &BaseProducer, topic: &str, records: &[Sent<'_>]) {
    for Sent { key, payload, headers } in records {
        let headers = headers.iter().fold(OwnedHeaders::new(), |all, (name, value)| {
            all.insert(rdkafka::message::Header { key: name, value: Some(*value) })
        });
        let mut record = BaseRecord::<str, [u8]>::to(topic).partition(0).headers(headers);
        record.key = *key;
        record.payload = payload.as_deref();
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
}

/// How long a topic may be silent before nothing more is expected of it: longer than a busy machine and a few passes of a slow
/// version can make of it, so that it is a promise that was broken.
const UNHEARD_MAX: Duration = Duration::from_secs(150);

/// Reads a topic as a read-committed consumer, until so many records are there; then looks for one too many.
pub(crate) fn receive(address: &str, topic: &str, count: usize) -> Vec<Received> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address).set("group.id", "outside").set("isolation.level", "read_committed");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&all).unwrap();
    let (mut records, mut heard) = (Vec::new(), Instant::now());
    while records.len() < count || heard.elapsed() < Duration::from_millis(700) {
        assert!(heard.elapsed() < UNHEARD_MAX, "{} of {count} records in {topic}", records.len());
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.unwrap();
        heard = Instant::now();
        let text = |value: Option<&[u8]>| value.map(|value| String::from_utf8_lossy(value).into_owned());
        let headers = message.headers().map(|headers| {
            headers.iter().map(|header| (header.key.to_owned(), text(header.value).unwrap_or_default())).collect()
        });
        records.push(Received {
            place: format!("{}:{}", message.partition(), message.offset()),
            key: text(message.key()),
            payload: message.payload().map(<[u8]>::to_vec),
            headers: headers.unwrap_or_default(),
        });
    }
    assert_eq!(records.len(), count, "records in {topic}");
    records
}

/// A record that a test has read.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) place: String,
    pub(crate) key: Option<String>,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) headers: BTreeMap<String, String>,
}

impl Received {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(self.payload.as_deref().unwrap()).unwrap()
    }
}
