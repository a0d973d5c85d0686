//! Where verdicts come from: topics or files.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    time::Duration,
};

use super::Arguments;
use crate::{
    cli::{CliError, failed},
    evidence::VerdictSet,
    kafka::{Extent, KafkaError},
    pipeline::connection,
};

/// No verdict is as long as this, because texts are cut to a preview.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// Adds what the topics of verdicts and shadow verdicts hold now.
pub(super) fn read_topics(arguments: &Arguments, verdicts: &mut VerdictSet) -> Result<(), CliError> {
    let plan = arguments.settings.plan()?;
    let mut connection = connection(&plan, None);
    if let Some(bootstrap_servers) = &arguments.bootstrap_servers {
        connection.bootstrap_servers.clone_from(bootstrap_servers);
    }
    if connection.bootstrap_servers.is_empty() {
        return Err(failed(
            "the settings name the embedded broker: give the address that it printed with --bootstrap-servers, or files \
             with --from-files",
        ));
    }

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

    for topic in topics {
        connection.read_backlog(topic, &extent, Duration::from_secs(arguments.wait_max), |record| {
            // A tombstone that was forwarded is no verdict.
            if let Some(value) = record.payload {
                verdicts.add(&value);
            }
        })?;
    }
    Ok(())
}

/// Adds the lines of a file.
pub(super) fn read_file(path: &Path, verdicts: &mut VerdictSet) -> std::io::Result<()> {
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
            verdicts.add(&line);
        }
    }
}
