//! Where verdicts come from: topics or files.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    time::Duration,
};

use super::Arguments;
use crate::{
    cli::{
        CliError, failed,
        operate::{Instance, encoded},
    },
    evidence::{Criteria, VerdictSet},
    evidence_store::EvidenceReport,
    kafka::{Extent, KafkaError},
};

/// No verdict is as long as this, because texts are cut to a preview.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// Adds what the topics of verdicts and shadow verdicts hold now.
pub(super) fn read_topics(arguments: &Arguments, verdicts: &mut VerdictSet) -> Result<(), CliError> {
    let connected = arguments.brokers.connect().map_err(|error| match error {
        CliError::Failed(reason) => failed(format!("{reason}, or files with --from-files")),
        other => other,
    });
    let (plan, connection) = connected?;
    let extent = match arguments.since {
        Some(time) => Extent::Since(time.as_millisecond()),
        None => Extent::All,
    };

    let mut topics = vec![&plan.kafka.verdicts];
    // Without shadow versions there may be no topic for them.
    match connection.partitions(&[&plan.kafka.shadows]) {
        Ok(_) => topics.push(&plan.kafka.shadows),
        Err(KafkaError::TopicMissing { .. }) => {}
        Err(error) => return Err(error.into()),
    }

    let wait_max = Duration::from_secs(arguments.wait_max);
    for topic in topics {
        connection.read_backlog(topic, &extent, wait_max, |record| {
            // A tombstone that was forwarded is no verdict.
            if let Some(value) = record.payload {
                verdicts.add(&value);
            }
        })?;
    }
    match connection.read_backlog(&plan.kafka.reviews, &extent, wait_max, |record| {
        record.payload.iter().for_each(|value| verdicts.add_answer(value));
    }) {
        // Reviews may have no topic.
        Ok(()) | Err(KafkaError::TopicMissing { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    connection.read_backlog(&plan.kafka.dead_letters, &extent, wait_max, |letter| verdicts.add_letter(&letter))?;
    Ok(())
}

/// The evidence of a running instance.
pub(super) fn ask_instance(arguments: &Arguments) -> Result<EvidenceReport, CliError> {
    let instance = Instance {
        settings: arguments.brokers.settings.clone(),
        admin: arguments.admin.clone(),
        token_file: arguments.token_file.clone(),
    };
    let Criteria { alpha, min_effect, review_until_ms } = arguments.criteria();
    let mut path = format!("/v1/evidence?alpha={alpha}&min_effect={min_effect}");
    if let Some(until_ms) = review_until_ms {
        path.push_str(&format!("&review_until_ms={until_ms}"));
    }
    if let Some(control) = &arguments.control {
        path.push_str(&format!("&control={}", encoded(control)));
    }
    Ok(instance.client()?.get(&path)?)
}

/// Reads the lines of a file.
pub(super) fn read_file(path: &Path, mut each: impl FnMut(&[u8])) -> std::io::Result<()> {
    let source: Box<dyn std::io::Read> = match path.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(File::open(path)?),
    };

    let mut lines = BufReader::new(source);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut lines).take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        if read as u64 == LINE_BYTES_MAX {
            return Err(std::io::Error::other("a line is longer than 16 MiB: this is no file of verdicts"));
        }
        if !line.trim_ascii().is_empty() {
            each(&line);
        }
    }
}
