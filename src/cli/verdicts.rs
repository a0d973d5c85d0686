//! `verdicts`: look at the verdict topic.

use std::{collections::VecDeque, time::Duration};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{CliError, brokers::Brokers, failed, output};
use crate::{
    kafka::{Connection, Extent, KafkaError, Tail},
    message::{Record, Verdict, header},
};

/// Look at verdicts
#[derive(Subcommand)]
pub(super) enum Command {
    /// Show the latest verdicts
    Tail(TailArguments),
    /// Show the verdicts of one request, its shadow verdicts and dead letters among them
    Show(ShowArguments),
}

#[derive(Args)]
struct Where {
    #[command(flatten)]
    brokers: Brokers,
    /// Only records written at this time or later: 2026-12-01T08:00:00Z, or an age such as 2h
    #[arg(long, value_name = "TIME", value_parser = super::since)]
    since: Option<Timestamp>,
    /// How long to wait for brokers that say nothing
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    wait_max: u64,
}

#[derive(Args)]
pub(super) struct TailArguments {
    #[command(flatten)]
    place: Where,
    /// Verdicts, at most
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Only verdicts of this experiment
    #[arg(long)]
    experiment: Option<String>,
    /// Only verdicts with this decision: approve, reject or review
    #[arg(long, value_parser = ["approve", "reject", "review"])]
    decision: Option<String>,
    /// Go on, and show verdicts as they come
    #[arg(long, short)]
    follow: bool,
    /// Print JSON, one verdict per line
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct ShowArguments {
    /// The request's id
    request_id: String,
    #[command(flatten)]
    place: Where,
}

/// Without `--since`, `tail` reads what was written in this time.
const RECENT: Duration = Duration::from_secs(600);

pub(super) fn run(command: &Command) -> Result<(), CliError> {
    match command {
        Command::Tail(arguments) => tail(arguments),
        Command::Show(arguments) => show(arguments),
    }
}

impl Where {
    fn read(
        &self,
        connection: &Connection,
        topic: &str,
        extent: &Extent,
        each: impl FnMut(Record),
    ) -> Result<(), KafkaError> {
        connection.read_backlog(topic, extent, Duration::from_secs(self.wait_max), each)
    }
}

fn tail(arguments: &TailArguments) -> Result<(), CliError> {
    let (plan, connection) = arguments.place.brokers.connect()?;
    let since = match arguments.place.since {
        Some(since) => since,
        None => Timestamp::now().checked_sub(RECENT).map_err(failed)?,
    };
    // Before the backlog is read, so that nothing between the two is lost.
    let follower = arguments.follow.then(|| Tail::from_end(&connection, &[&plan.kafka.verdicts])).transpose()?;
    let limit = arguments.limit as usize;
    // As many as are shown are held, in the order of their times.
    let mut latest: VecDeque<Record> = VecDeque::new();
    let extent = Extent::Since(since.as_millisecond());
    arguments.place.read(&connection, &plan.kafka.verdicts, &extent, |record| {
        if !arguments.wants(&record) {
            return;
        }
        let place = latest.partition_point(|other| other.timestamp_ms <= record.timestamp_ms);
        latest.insert(place, record);
        if latest.len() > limit {
            latest.pop_front();
        }
    })?;

    let verdicts =
        latest.iter().filter_map(|record| serde_json::from_slice::<Verdict>(record.payload.as_deref()?).ok());
    if arguments.json {
        verdicts.for_each(|verdict| output::line(as_json(&verdict)));
    } else {
        let now = Timestamp::now();
        let rows = verdicts.map(|verdict| {
            let made = verdict.timestamp.parse().map_or_else(|_| String::new(), |at| output::age(now, at));
            row(made, &verdict)
        });
        let columns = ["made", "request", "version", "arm", "result", "confidence", "decision", "ms"];
        output::show(&output::table(&columns, &["confidence", "ms"], rows));
    }
    follower.map_or(Ok(()), |follower| follow(arguments, &follower))
}

/// Shows verdicts as they come, until the program is stopped.
fn follow(arguments: &TailArguments, follower: &Tail) -> Result<(), CliError> {
    loop {
        let Some(record) = follower.next(Duration::from_millis(500))? else { continue };
        if !arguments.wants(&record) {
            continue;
        }
        let payload = record.payload.as_deref().unwrap_or_default();
        let Ok(verdict) = serde_json::from_slice::<Verdict>(payload) else { continue };
        output::line(if arguments.json {
            as_json(&verdict)
        } else {
            row(verdict.timestamp.clone(), &verdict).join("  ")
        });
    }
}

impl TailArguments {
    fn wants(&self, record: &Record) -> bool {
        let is = |name: &str, value: &Option<String>| {
            value.as_ref().is_none_or(|value| header(&record.headers, name) == Some(value))
        };
        record.payload.is_some() && is("ofa-experiment", &self.experiment) && is("ofa-decision", &self.decision)
    }
}

fn as_json(verdict: &Verdict) -> String {
    // Plain data with string keys: serializing cannot fail.
    serde_json::to_string(verdict).unwrap_or_default()
}

/// What the table shows of a verdict. `made` is when it was made.
fn row(made: String, verdict: &Verdict) -> Vec<String> {
    let arm = match (&verdict.ab_experiment, &verdict.ab_variant) {
        (Some(experiment), Some(variant)) => format!("{experiment}/{variant}"),
        _ => verdict.route.reason.clone(),
    };
    vec![
        made,
        verdict.request_id.clone(),
        verdict.model_version.clone(),
        arm,
        verdict.result.as_str().to_owned(),
        format!("{:.3}", verdict.confidence),
        verdict.decision.as_str().to_owned(),
        format!("{:.1}", verdict.latency_ms),
    ]
}

fn show(arguments: &ShowArguments) -> Result<(), CliError> {
    let (plan, connection) = arguments.place.brokers.connect()?;
    let extent = match arguments.place.since {
        Some(since) => Extent::Since(since.as_millisecond()),
        None => Extent::All,
    };
    let id = &arguments.request_id;
    let names = ["ofa-request-id", "ofa-error-request-id"];
    let mut found: Vec<Value> = Vec::new();
    for topic in [&plan.kafka.verdicts, &plan.kafka.shadows, &plan.kafka.dead_letters] {
        let read = arguments.place.read(&connection, topic, &extent, |record| {
            // Headers first: parsing every verdict of a large topic takes long.
            let named = names.iter().find_map(|name| header(&record.headers, name));
            if named == Some(id) {
                found.push(described(&record));
            }
        });
        match read {
            // Without shadow versions there may be no topic for them.
            Err(KafkaError::TopicMissing { .. }) if *topic == plan.kafka.shadows => {}
            read => read?,
        }
    }
    if found.is_empty() {
        return Err(failed(format!(
            "no verdict and no dead letter has the request id `{id}`; verdicts of releases before 2026-12 have no header \
             with it"
        )));
    }
    output::json(&found);
    Ok(())
}

/// A record with its position. The value of a dead letter is the producer's and is not shown.
fn described(record: &Record) -> Value {
    let verdict = record.payload.as_deref().and_then(|payload| serde_json::from_slice::<Value>(payload).ok());
    let is_letter = header(&record.headers, "ofa-error-code").is_some();
    let headers = record.headers.iter().filter(|(name, _)| name.starts_with("ofa-") || name.starts_with("__connect"));
    let text = |value: &Option<Vec<u8>>| value.as_deref().map(|value| String::from_utf8_lossy(value).into_owned());
    let headers: serde_json::Map<String, Value> =
        headers.map(|(name, value)| (name.clone(), text(value).into())).collect();
    json!({
        "topic": record.topic, "partition": record.partition, "offset": record.offset,
        "headers": if is_letter { Value::Object(headers) } else { Value::Null },
        "verdict": if is_letter { None } else { verdict },
    })
}
