//! `topics create`: the topics that settings name, as they should be.

use clap::{Args, Subcommand};

use super::{CliError, brokers::Brokers, output};
use crate::{
    kafka::{KafkaError, TopicPlan},
    settings::Plan,
};

/// Create the topics that settings name
#[derive(Subcommand)]
pub(super) enum Command {
    /// Show the topics that are missing, with the commands that create them; --yes creates them
    Create(CreateArguments),
}

#[derive(Args)]
pub(super) struct CreateArguments {
    #[command(flatten)]
    brokers: Brokers,
    /// Partitions of requests, verdicts, dead letters, shadows and retries: as many instances can work
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    partitions: i32,
    /// Copies of each partition
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=100))]
    replication: i32,
    /// Create them
    #[arg(long)]
    yes: bool,
}

pub(super) fn run(command: &Command) -> Result<(), CliError> {
    let Command::Create(arguments) = command;
    let (plan, connection) = arguments.brokers.connect()?;
    let (mut missing, mut rows) = (Vec::new(), Vec::new());
    for topic in topics(&plan, arguments.partitions, arguments.replication) {
        let state = match connection.partitions(&[&topic.name]) {
            Ok(found) => format!("exists, {} partitions", found.values().sum::<i32>()),
            Err(KafkaError::TopicMissing { .. }) => {
                missing.push(topic.clone());
                "missing".to_owned()
            }
            Err(error) => return Err(error.into()),
        };
        rows.push(vec![topic.name.clone(), topic.partitions.to_string(), config_in_words(&topic), state]);
    }
    output::show(&output::table(&["topic", "partitions", "settings", "state"], &["partitions"], rows));
    if missing.is_empty() {
        output::line("all topics exist; `ofa-stream check --kafka` looks at their sizes");
        return Ok(());
    }
    if !arguments.yes {
        output::line("nothing was created. --yes creates them, or these commands:");
        missing.iter().for_each(|topic| output::line(command_line(topic, &connection.bootstrap_servers)));
        return Ok(());
    }
    for (name, created) in connection.create_topics(&missing)? {
        output::line(format!("{name}: {}", if created { "created" } else { "exists already" }));
    }
    Ok(())
}

/// The topics that settings name. Dead letters and retries hold a request with more headers, so they take larger records.
fn topics(plan: &Plan, partitions: i32, replication: i32) -> Vec<TopicPlan> {
    let kafka = &plan.kafka;
    let in_sync = (replication - 1).max(1).to_string();
    let topic = |name: &str, partitions: i32, config: &[(&str, String)]| {
        let own = config.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        let config = std::iter::once(("min.insync.replicas".to_owned(), in_sync.clone())).chain(own).collect();
        TopicPlan { name: name.to_owned(), partitions, replication, config }
    };
    let size = |bytes: usize| [("max.message.bytes", bytes.to_string())];
    let whole = size(kafka.record_bytes_max);
    // A few kilobytes for headers.
    let request = size(kafka.record_bytes_max.saturating_sub(HEADER_BYTES));
    let mut topics = vec![
        topic(&kafka.requests, partitions, &request),
        topic(&kafka.verdicts, partitions, &whole),
        topic(&kafka.dead_letters, partitions, &whole),
    ];
    if plan.table.has_shadows() {
        topics.push(topic(&kafka.shadows, partitions, &whole));
    }
    topics.push(topic(&kafka.reviews, partitions, &[]));
    topics.extend(kafka.retries.iter().map(|retry| topic(&retry.topic, partitions, &whole)));
    if let Some(evidence) = &kafka.evidence {
        // The last snapshots are all that is read.
        topics.push(topic(evidence, 1, &[("cleanup.policy", "compact".to_owned())]));
    }
    if let Some(control) = &kafka.control {
        // All instances read one order, so it has one partition.
        topics.push(topic(control, 1, &[("cleanup.policy", "compact".to_owned())]));
    }
    topics
}

const HEADER_BYTES: usize = 64 << 10;

fn config_in_words(topic: &TopicPlan) -> String {
    let config = topic.config.iter().map(|(name, value)| format!("{name}={value}"));
    config.collect::<Vec<_>>().join(" ")
}

/// The command of Kafka's own tool.
fn command_line(topic: &TopicPlan, bootstrap_servers: &str) -> String {
    let TopicPlan { name, partitions, replication, config } = topic;
    let config: String = config.iter().map(|(name, value)| format!(" --config {name}={value}")).collect();
    format!(
        "kafka-topics.sh --bootstrap-server {bootstrap_servers} --create --topic {name} --partitions {partitions} \
         --replication-factor {replication}{config}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_as_the_settings_need_them() {
        let plan = Plan::read("pipeline.toml".as_ref()).unwrap();
        let topics = topics(&plan, 6, 3);
        let names: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
        let expected = ["moderation.requests", "moderation.verdicts", "moderation.dead-letters"];
        assert_eq!(names[..3], expected);
        let control = topics.iter().find(|topic| topic.name == "moderation.control").unwrap();
        assert_eq!(
            (control.partitions, config_in_words(control).as_str()),
            (1, "min.insync.replicas=2 cleanup.policy=compact")
        );
        let bytes = |topic: &TopicPlan| topic.config[1].1.parse::<usize>().unwrap();
        assert!(bytes(&topics[2]) > bytes(&topics[0]), "a dead letter holds a request with more headers");
        let line = command_line(control, "host:9092");
        assert!(line.starts_with("kafka-topics.sh --bootstrap-server host:9092 --create --topic moderation.control "));
    }
}
