//! Real Apache Kafka on loopback, by `scripts/kafka`, and what tests do with it.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};

use crate::{
    broker::PARTITIONS,
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
        let replicas = self.brokers.min(3);
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(replicas));
        for (name, value) in settings {
            new = new.set(name, value);
        }
        let client: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", self.address()).create().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        let created = runtime.block_on(client.create_topics([&new], &options)).unwrap();
        created.into_iter().for_each(|result| assert_eq!(result, Ok(topic.to_owned())));
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

    /// Settings of an instance with these topics and a name.
    pub(crate) fn settings(&self, address: &str, instance: &str) -> String {
        let kafka = format!(
            "group_id = \"{prefix}\"\ninstance_id = \"{instance}\"\nrequests = \"{prefix}.requests\"\n\
             verdicts = \"{prefix}.verdicts\"\ndead_letters = \"{prefix}.dead-letters\"\nshadows = \"{prefix}.shadows\"\n\
             control = \"off\"\n",
            prefix = self.prefix
        );
        settings(address).replace("control = \"off\"\n[kafka.options]", &format!("{kafka}[kafka.options]"))
    }
}
