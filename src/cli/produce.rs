//! `produce`: requests from a folder or from JSON lines, into the requests topic.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    CliError, SettingsArguments, failed, output,
    requests::{self, FromFile, Reading},
};
use crate::{
    kafka::{Feeder, FeederOptions},
    pipeline::connection,
};

#[derive(Args)]
pub(super) struct Arguments {
    /// A folder of images, each with its text in a .txt file of the same name, or a file with one
    /// request per line, whose `image.path` may lead to files beside it
    #[arg(value_name = "PATH")]
    source: PathBuf,
    #[command(flatten)]
    settings: SettingsArguments,
    /// Where the brokers are, instead of what the settings say
    #[arg(long, value_name = "HOST:PORT")]
    bootstrap_servers: Option<String>,
    /// The topic, instead of what the settings say
    #[arg(long)]
    topic: Option<String>,
    /// The field that becomes the record key: request_id or an attribute's name
    #[arg(long, default_value = "request_id")]
    key: String,
    /// Publish lines as they are, whether they are requests or not
    #[arg(long)]
    unchecked: bool,
    /// How long to wait for a full embedded broker to be read
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait_max: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let plan = arguments.settings.plan()?;
    let topic = arguments.topic.clone().unwrap_or_else(|| plan.kafka.requests.clone());
    let mut connection = connection(&plan, None);
    if let Some(bootstrap_servers) = &arguments.bootstrap_servers {
        connection.bootstrap_servers.clone_from(bootstrap_servers);
    }
    if connection.bootstrap_servers.is_empty() {
        let remedy = "the settings name the embedded broker, which lives inside `run --embedded` or `demo --keep-running`: \
                      give the address that it printed with --bootstrap-servers";
        return Err(failed(remedy));
    }
    let options = FeederOptions {
        topic: topic.clone(),
        group_id: plan.kafka.group_id.clone(),
        record_bytes_max: plan.kafka.record_bytes_max,
        wait_max: Duration::from_secs(arguments.wait_max),
    };
    let feeder = Feeder::new(&connection, options)?;
    let style = ProgressStyle::with_template("{spinner} {pos} requests published, {per_sec}").map_err(failed)?;
    let progress = ProgressBar::new_spinner().with_style(style);
    let reading = Reading { topic: &topic, key: &arguments.key, checked: !arguments.unchecked };
    let fed = feed(&feeder, requests::read(&arguments.source, reading)?, &progress);
    // A line that is refused must not take those before it along: the client holds them back for a moment.
    let stored = feeder.finish();
    let published = progress.position();
    let unstored = |error| format!("{error}; of {published} requests some may not be stored");
    match (fed, stored) {
        (Ok(()), Ok(())) => {}
        (Ok(()), Err(error)) => return Err(failed(unstored(error))),
        (Err(error), Ok(())) => {
            return Err(failed(format!("{error}; {published} requests were published before")));
        }
        (Err(error), Err(other)) => return Err(failed(format!("{error}; {}", unstored(other)))),
    }
    progress.finish_and_clear();
    if arguments.json {
        output::json(&serde_json::json!({ "published": published, "topic": topic }));
    } else {
        output::line(format!("{published} requests published to {topic}."));
    }
    Ok(())
}

/// Publishes all requests, or those before the first that cannot be.
fn feed(
    feeder: &Feeder,
    requests: impl Iterator<Item = Result<FromFile, CliError>>,
    progress: &ProgressBar,
) -> Result<(), CliError> {
    for request in requests {
        let FromFile { place, record } = request?;
        feeder.feed(&record).map_err(|error| failed(format!("{place}: {error}")))?;
        progress.inc(1);
    }
    Ok(())
}
