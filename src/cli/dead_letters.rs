//! `dead-letters`: what was refused and why, and putting it back once the cause is gone.

use std::{collections::BTreeMap, fs, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{CliError, brokers::Brokers, failed, output};
use crate::{
    kafka::{Connection, Extent, RecordLimits, TransactionError, TransactionOptions, TransactionalPublisher},
    message::{Outgoing, Record, Refusal, binary, replayed, text_header},
    pipeline::FAILURE_CODES,
    settings::Plan,
};

/// Look at dead letters, and put them back into the requests topic
#[derive(Subcommand)]
pub(super) enum Command {
    /// List dead letters, and how many there are of each code
    List(ListArguments),
    /// Show one dead letter: its headers, and its value on request
    Show(ShowArguments),
    /// Put dead letters back into the requests topic; says what it would do, until --yes
    Replay(ReplayArguments),
}

#[derive(Args)]
struct Where {
    #[command(flatten)]
    brokers: Brokers,
    /// How long to wait for brokers that say nothing
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    wait_max: u64,
}

#[derive(Args)]
struct Selection {
    /// Only letters with this code
    #[arg(long)]
    code: Option<String>,
    /// Only letters written at this time or later: 2026-11-24T12:00:00Z, or an age such as 2h
    #[arg(long, value_name = "TIME", value_parser = super::since)]
    since: Option<jiff::Timestamp>,
}

#[derive(Args)]
pub(super) struct ListArguments {
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    selection: Selection,
    /// Show so many, the newest
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct ShowArguments {
    #[command(flatten)]
    place: Where,
    /// Which one, as `list` names it
    #[arg(value_name = "PARTITION:OFFSET")]
    letter: Place,
    /// Write its value to a file, as it came; it is a user's picture and text
    #[arg(long, value_name = "FILE")]
    value: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct ReplayArguments {
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    selection: Selection,
    /// Which ones, as `list` names them
    #[arg(value_name = "PARTITION:OFFSET")]
    letters: Vec<Place>,
    /// All of them
    #[arg(long, conflicts_with = "letters")]
    all: bool,
    /// A repaired value for the one letter that is named
    #[arg(long, value_name = "FILE", requires = "letters")]
    value: Option<PathBuf>,
    /// A header for the one letter that is named, instead of those of that name; without a value, none
    #[arg(long = "header", value_name = "NAME[=VALUE]", requires = "letters")]
    headers: Vec<String>,
    /// Do it
    #[arg(long)]
    yes: bool,
}

/// A place in the dead-letter topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    partition: i32,
    offset: i64,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(written: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (partition, offset) = written.split_once(':')?;
            Some(Self { partition: partition.parse().ok()?, offset: offset.parse().ok()? })
        };
        read().ok_or_else(|| format!("`{written}` is no place: write PARTITION:OFFSET, such as 0:15"))
    }
}

/// A dead letter that was read.
struct Found {
    record: Record,
    refusal: Refusal,
    /// Bytes of its value.
    bytes: usize,
}

/// A dead letter, as `list` shows it.
#[derive(Serialize)]
struct Letter {
    place: String,
    time: Option<String>,
    #[serde(flatten)]
    refusal: Refusal,
    bytes: usize,
}

pub(super) fn run(command: &Command) -> Result<(), CliError> {
    match command {
        Command::List(arguments) => list(arguments),
        Command::Show(arguments) => show(arguments),
        Command::Replay(arguments) => replay(arguments),
    }
}

impl Where {
    /// Dead letters that `wanted` wants, with what their headers tell, oldest first; their values only where they are asked
    /// for, because a topic may hold many.
    fn read(
        &self,
        plan: &Plan,
        connection: &Connection,
        extent: &Extent,
        with_values: bool,
        wanted: impl Fn(&Record, &Refusal) -> bool,
    ) -> Result<Vec<Found>, CliError> {
        let mut found = Vec::new();
        let wait_max = Duration::from_secs(self.wait_max);
        connection.read_backlog(&plan.kafka.dead_letters, extent, wait_max, |mut record| {
            // What is none of this program's stays out: somebody else writes there too.
            let Some(refusal) = Refusal::of(&record).filter(|refusal| wanted(&record, refusal)) else { return };
            let bytes = record.payload.as_ref().map_or(0, Vec::len);
            if !with_values {
                record.payload = None;
            }
            found.push(Found { record, refusal, bytes });
        })?;
        found.sort_by_key(|Found { record, .. }| (record.timestamp_ms, record.partition, record.offset));
        Ok(found)
    }
}

impl Selection {
    /// Where letters that are taken may lie.
    fn extent(&self) -> Extent {
        self.since.map_or(Extent::All, |since| Extent::Since(since.as_millisecond()))
    }

    /// Refuses a code that no dead letter has: a slip would look like an empty topic.
    fn check(&self) -> Result<(), CliError> {
        let Some(code) = self.code.as_deref().filter(|code| !FAILURE_CODES.contains(code)) else { return Ok(()) };
        Err(failed(format!("there is no such code as `{code}`: there are {}", FAILURE_CODES.join(", "))))
    }

    fn takes(&self, record: &Record, refusal: &Refusal) -> bool {
        let since = self.since.map(jiff::Timestamp::as_millisecond);
        self.code.as_ref().is_none_or(|code| *code == refusal.code)
            && since.is_none_or(|since| record.timestamp_ms.is_some_and(|time| time >= since))
    }
}

fn place(record: &Record) -> Place {
    Place { partition: record.partition, offset: record.offset }
}

/// Where these places lie.
fn extent(places: &[Place]) -> Extent {
    let mut offsets: BTreeMap<i32, (i64, i64)> = BTreeMap::new();
    for Place { partition, offset } in places {
        let (first, last) = offsets.entry(*partition).or_insert((*offset, *offset));
        (*first, *last) = ((*first).min(*offset), (*last).max(*offset));
    }
    Extent::Between(offsets)
}

fn letter(Found { record, refusal, bytes }: &Found) -> Letter {
    let time = record.timestamp_ms.and_then(|time| jiff::Timestamp::from_millisecond(time).ok());
    Letter {
        place: format!("{}:{}", record.partition, record.offset),
        time: time.map(|time| format!("{time:.3}")),
        refusal: refusal.clone(),
        bytes: *bytes,
    }
}

fn list(arguments: &ListArguments) -> Result<(), CliError> {
    arguments.selection.check()?;
    let (plan, connection) = arguments.place.brokers.connect()?;
    let taken = |record: &Record, refusal: &Refusal| arguments.selection.takes(record, refusal);
    let found = arguments.place.read(&plan, &connection, &arguments.selection.extent(), false, taken)?;
    let mut codes: BTreeMap<&str, usize> = BTreeMap::new();
    found.iter().for_each(|found| *codes.entry(&found.refusal.code).or_default() += 1);
    let newest = found.iter().skip(found.len().saturating_sub(arguments.limit));
    let letters: Vec<Letter> = newest.map(letter).collect();
    if arguments.json {
        output::json(&serde_json::json!({ "letters": letters, "codes": codes }));
        return Ok(());
    }
    table(&letters);
    let codes: Vec<String> = codes.iter().map(|(code, letters)| format!("{letters} {code}")).collect();
    let shown =
        if letters.len() < found.len() { format!(", the newest {} shown", letters.len()) } else { String::new() };
    let topic = &plan.kafka.dead_letters;
    output::line(format!("{} dead letters in {topic}{shown}: {}", found.len(), codes.join(", ")));
    Ok(())
}

fn table(letters: &[Letter]) {
    let now = jiff::Timestamp::now();
    let number = |number: Option<i64>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
    let rows = letters.iter().map(|Letter { place, time, refusal, bytes }| {
        let Refusal { code, topic, partition, offset, attempts, message, request_id, arm, .. } = refusal.clone();
        let written = time.as_deref().and_then(|time| time.parse().ok());
        let age = written.map_or_else(String::new, |written| output::age(now, written));
        let origin = format!("{topic}/{}:{}", number(partition.map(i64::from)), number(offset));
        let request = request_id.map_or(origin, |id| format!("{id} {}", arm.unwrap_or_default()).trim_end().to_owned());
        let attempts = number(attempts.map(|attempts| attempts as i64));
        vec![place.clone(), age, code, attempts, request, output::bytes(*bytes as u64), message]
    });
    let columns = ["letter", "written", "code", "tries", "request", "value", "why"];
    output::show(&output::table(&columns, &["tries", "value"], rows));
}

fn show(arguments: &ShowArguments) -> Result<(), CliError> {
    let (plan, connection) = arguments.place.brokers.connect()?;
    let extent = extent(&[arguments.letter]);
    let found =
        arguments.place.read(&plan, &connection, &extent, true, |record, _| place(record) == arguments.letter)?;
    let Some(first) = found.first() else {
        return Err(failed(format!("there is no dead letter there in `{}`", plan.kafka.dead_letters)));
    };
    table(&[letter(first)]);
    let record = &first.record;
    let shown = |value: &Option<Vec<u8>>| match value.as_deref().map(std::str::from_utf8) {
        None => "null".to_owned(),
        Some(Ok(text)) => text.to_owned(),
        Some(Err(_)) => format!("{} bytes that are no text", value.as_ref().map_or(0, Vec::len)),
    };
    let key = ("key".to_owned(), shown(&record.key));
    // What users wrote is theirs, in headers as in values.
    let private = [binary::TEXT, binary::CAPTION, binary::ATTRIBUTES];
    let headers = record.headers.iter().map(|(name, value)| {
        if private.contains(&name.as_str()) {
            (name.clone(), format!("{} bytes, not shown", value.as_ref().map_or(0, Vec::len)))
        } else {
            (name.clone(), shown(value))
        }
    });
    let rows = std::iter::once(key).chain(headers).map(|(name, value)| vec![name, value]);
    output::show(&output::table(&["header", "value"], &[], rows));
    if let Some(file) = &arguments.value {
        let value = record.payload.as_deref().unwrap_or_default();
        fs::write(file, value).map_err(|error| failed(format!("{}: {error}", file.display())))?;
        output::line(format!("{} written to {}.", output::bytes(value.len() as u64), file.display()));
    }
    Ok(())
}

fn replay(arguments: &ReplayArguments) -> Result<(), CliError> {
    let ReplayArguments { place: from, selection, letters, all, value, headers, yes } = arguments;
    selection.check()?;
    if letters.is_empty() && !all && selection.code.is_none() && selection.since.is_none() {
        return Err(failed("say which: PARTITION:OFFSET as `dead-letters list` names them, --code, --since or --all"));
    }
    if (value.is_some() || !headers.is_empty()) && letters.len() != 1 {
        return Err(failed("--value and --header are for one letter: name exactly one"));
    }
    let repaired =
        value.as_ref().map(|file| fs::read(file).map_err(|error| failed(format!("{}: {error}", file.display()))));
    let repaired = repaired.transpose()?;
    let (plan, connection) = from.brokers.connect()?;
    let extent = if letters.is_empty() { selection.extent() } else { extent(letters) };
    // Without values: a topic may hold more than there is memory. They are read again in parts.
    let found = from.read(&plan, &connection, &extent, false, |record, refusal| {
        let named = letters.is_empty() || letters.contains(&place(record));
        named && selection.takes(record, refusal)
    })?;
    if let Some(missing) = letters.iter().find(|letter| found.iter().all(|found| place(&found.record) != **letter)) {
        let Place { partition, offset } = missing;
        return Err(failed(format!("there is no dead letter {partition}:{offset} that fits")));
    }
    table(&found.iter().map(letter).collect::<Vec<_>>());
    let (whole, omitted): (Vec<_>, Vec<_>) =
        found.iter().partition(|found| !found.refusal.omitted || repaired.is_some());
    if !omitted.is_empty() {
        output::line(format!(
            "{} of them are left out: their values were too large for the dead letters; produce them again.",
            omitted.len()
        ));
    }
    let topic = &plan.kafka.requests;
    if !yes {
        output::line(format!("{} would go back to {topic}; --yes does it.", whole.len()));
        return Ok(());
    }
    let mut sent = 0;
    for part in parts(&whole) {
        let places: Vec<Place> = part.iter().map(|found| place(&found.record)).collect();
        let is_of_part = |record: &Record, _: &Refusal| places.contains(&place(record));
        let letters = from.read(&plan, &connection, &self::extent(&places), true, is_of_part)?;
        let requests = letters.iter().map(|found| request(&found.record, topic, repaired.as_deref(), headers));
        let published = publish(&plan, &connection, requests.collect());
        published.map_err(|error| failed(format!("{error}; {sent} of {} went back before", whole.len())))?;
        sent += letters.len();
    }
    output::line(format!("{sent} went back to {topic}."));
    Ok(())
}

/// Letters of a transaction, and bytes of their values.
const PART: (usize, usize) = (200, 32 << 20);

/// Letters in parts that fit into memory and into a transaction, in the order in which they were written.
fn parts<'f>(letters: &[&'f Found]) -> Vec<Vec<&'f Found>> {
    let mut parts: Vec<Vec<&Found>> = Vec::new();
    let mut bytes = 0;
    for letter in letters {
        match parts.last_mut().filter(|part| part.len() < PART.0 && bytes + letter.bytes <= PART.1) {
            Some(part) => part.push(letter),
            None => {
                parts.push(vec![letter]);
                bytes = 0;
            }
        }
        bytes += letter.bytes;
    }
    parts
}

/// The request of a dead letter. A header says where it comes from.
fn request(letter: &Record, topic: &str, repaired: Option<&[u8]>, headers: &[String]) -> Outgoing {
    let mut request = replayed(letter, topic);
    if let Some(value) = repaired {
        request.payload = Some(value.to_vec());
    }
    for header in headers {
        let (name, value) = header.split_once('=').map_or((header.as_str(), None), |(name, value)| (name, Some(value)));
        request.headers.retain(|(known, _)| known != name);
        request.headers.extend(value.map(|value| text_header(name, value)));
    }
    request
}

/// All of them or none.
fn publish(plan: &Plan, connection: &Connection, requests: Vec<Outgoing>) -> Result<(), CliError> {
    let options = TransactionOptions {
        // Two people may do this at a time, each in a container where the process has the number 1.
        transactional_id: format!("{}-replay-{:016x}", plan.kafka.group_id, fastrand::u64(..)),
        limits: RecordLimits {
            record_bytes_max: plan.kafka.record_bytes_max,
            batch_bytes: None,
            queue_bytes_max: plan.kafka.queue_bytes_max,
        },
        timeout: plan.kafka.transaction_timeout,
        wait_max: plan.kafka.publish_timeout,
        group: None,
    };
    let mut publisher: TransactionalPublisher<()> = TransactionalPublisher::open(connection, options)?;
    let mut published = || {
        publisher.begin()?;
        for request in &requests {
            if !publisher.publish((), request)? {
                return Err(TransactionError::Abort("a request is larger than `kafka.record_bytes_max`".to_owned()));
            }
        }
        Ok(())
    };
    if let Err(error) = published() {
        // What was begun must not hold readers up.
        publisher.abort().ok();
        return Err(failed(format!("none went back: {error}")));
    }
    // A commit that was not answered may have come through; one that can be undone has not.
    publisher.commit_alone().map_err(|error| match publisher.abort() {
        Ok(()) => failed(format!("none went back: {error}")),
        Err(_) => failed(format!("whether they went back is not known: {error}; look for them before you try again")),
    })
}
