//! Feeds the demo's requests and gathers what comes out.

use std::{
    collections::BTreeMap,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use indicatif::ProgressBar;
use serde_json::Value;

use super::super::{
    CliError, failed,
    requests::{self, Reading},
};
use crate::{
    kafka::{Connection, Feeder, FeederOptions, Tail},
    message::{Label, Outgoing, Record, Verdict},
    settings::Plan,
};

/// What came out.
pub(super) struct Gathered {
    /// Requests that were published.
    pub(super) published: usize,
    /// Verdicts in the order of their requests.
    pub(super) verdicts: BTreeMap<u32, Verdict>,
    /// Dead letters in the order of their requests.
    pub(super) dead_letters: BTreeMap<u32, Refused>,
    /// What requests should be called, where the file says so.
    pub(super) expected: BTreeMap<u32, Label>,
    /// From the first request to the last outcome.
    pub(super) took: Duration,
}

/// A dead letter, as its headers describe it.
pub(super) struct Refused {
    pub(super) request: String,
    pub(super) code: String,
    pub(super) reason: String,
}

impl Gathered {
    /// Requests that got neither a verdict nor a dead letter.
    pub(super) fn unanswered(&self) -> usize {
        self.published - self.verdicts.len() - self.dead_letters.len()
    }
}

/// Numbers the requests; dead letters keep it, verdicts are found by their request's id.
const NUMBER_HEADER: &str = "ofa-demo-number";
const POLL: Duration = Duration::from_millis(100);

/// Publishes the requests and gathers their outcomes, until all are there or nothing came for
/// `silence_max`.
pub(super) fn all(
    plan: &Plan,
    connection: &Connection,
    requests: &[Numbered],
    silence_max: Duration,
    progress: &ProgressBar,
) -> Result<Gathered, CliError> {
    let tail = Tail::new(connection, &[&plan.kafka.verdicts, &plan.kafka.dead_letters])?;
    let options = FeederOptions {
        topic: plan.kafka.requests.clone(),
        group_id: plan.kafka.group_id.clone(),
        record_bytes_max: plan.kafka.record_bytes_max,
        wait_max: silence_max,
    };
    let feeder = Feeder::new(connection, options)?;

    let by_id: BTreeMap<String, u32> =
        requests.iter().filter_map(|(number, request)| Some((id(request)?, *number))).collect();

    let mut gathered = Gathered {
        published: requests.len(),
        verdicts: BTreeMap::new(),
        dead_letters: BTreeMap::new(),
        expected: requests.iter().filter_map(|(number, request)| Some((*number, expected(request)?))).collect(),
        took: Duration::ZERO,
    };

    thread::scope(|scope| {
        let feeding = scope.spawn(|| {
            requests.iter().try_for_each(|(_, request)| feeder.feed(request))?;
            feeder.finish()
        });

        let begun = Instant::now();
        let mut heard = Instant::now();
        while gathered.unanswered() > 0 && heard.elapsed() < silence_max {
            let Some(record) = tail.next(POLL)? else { continue };
            heard = Instant::now();
            gathered.took = begun.elapsed();
            progress.set_message("");

            if record.topic == plan.kafka.verdicts {
                let verdict: Verdict =
                    serde_json::from_slice(record.payload.as_deref().unwrap_or_default()).map_err(failed)?;
                if let Some(number) = by_id.get(&verdict.request_id) {
                    gathered.verdicts.insert(*number, verdict);
                }
            } else if let Some(number) = header(&record, NUMBER_HEADER).and_then(|number| number.parse().ok()) {
                gathered.dead_letters.insert(number, refused(&record));
            }
            progress.set_position((gathered.published - gathered.unanswered()) as u64);
        }

        feeding.join().map_err(|_| failed("the feeding thread ended by a defect"))??;
        Ok(gathered)
    })
}

/// A request of the demo, with its place in the order of publishing.
pub(super) type Numbered = (u32, Outgoing);

/// The requests of the file once, or begun anew until there are `count`; ids of later rounds are
/// changed, so that every request is one of its own.
pub(super) fn requests(plan: &Plan, source: &Path, count: Option<u32>) -> Result<Vec<Numbered>, CliError> {
    let reading = Reading { topic: &plan.kafka.requests, key: "user_id", checked: false };
    let once: Vec<Outgoing> = requests::read(source, reading)?
        .map(|request| request.map(|request| request.record))
        .collect::<Result<_, _>>()?;
    if once.is_empty() {
        return Err(failed(format!("{} holds no requests", source.display())));
    }
    let numbers = 0..count.unwrap_or(once.len() as u32);
    Ok(numbers
        .zip(once.iter().cycle())
        .map(|(number, request)| {
            let mut request = request.clone();
            let round = number as usize / once.len();
            if round > 0 {
                request.payload = request.payload.map(|payload| renamed(payload, round));
            }
            request.headers.push((NUMBER_HEADER.to_owned(), Some(number.to_string().into_bytes())));
            (number, request)
        })
        .collect())
}

fn renamed(payload: Vec<u8>, round: usize) -> Vec<u8> {
    let Ok(mut request) = serde_json::from_slice::<Value>(&payload) else { return payload };
    if let Some(Value::String(id)) = request.get_mut("request_id") {
        id.push_str(&format!("-{round}"));
    }
    request.to_string().into_bytes()
}

fn id(request: &Outgoing) -> Option<String> {
    let request: Value = serde_json::from_slice(request.payload.as_deref()?).ok()?;
    request["request_id"].as_str().map(str::to_owned)
}

fn expected(request: &Outgoing) -> Option<Label> {
    let request: Value = serde_json::from_slice(request.payload.as_deref()?).ok()?;
    serde_json::from_value(request.get("label")?.clone()).ok()
}

fn refused(record: &Record) -> Refused {
    let request: Option<Value> = record.payload.as_deref().and_then(|payload| serde_json::from_slice(payload).ok());
    let request = request.and_then(|request| Some(request.get("request_id")?.as_str()?.to_owned()));
    let of = |name| header(record, name).unwrap_or_default().to_owned();
    Refused {
        request: request.unwrap_or_else(|| "(unknown)".to_owned()),
        code: of("ofa-error-code"),
        reason: of("__connect.errors.exception.message"),
    }
}

fn header<'r>(record: &'r Record, name: &str) -> Option<&'r str> {
    let value = record.headers.iter().find(|(header, _)| header == name)?.1.as_deref()?;
    std::str::from_utf8(value).ok()
}
