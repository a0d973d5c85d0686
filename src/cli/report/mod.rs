//! `report`: the variants of experiments, compared by their verdicts.
//!
//! * `source`: where the figures come from: topics, files, or a running instance.
//! * `tables`, `csv`, `html` (with `plots`), `xlsx`, `parquet`: how they are shown.
//! * `rows`, `long`, `words`: what they show, and in which words.

mod csv;
pub(in crate::cli) mod html;
mod long;
#[cfg(feature = "parquet")]
mod parquet;
mod plots;
mod rows;
mod source;
mod tables;
mod words;
mod xlsx;

use std::{
    collections::BTreeSet,
    io::IsTerminal as _,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum};
use jiff::{Span, SpanRelativeTo, Timestamp};

use super::{CliError, brokers::Brokers, failed, output};
use crate::{
    evidence::{Criteria, Language, Summary, VerdictSet},
    evidence_store::EvidenceReport,
};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    brokers: Brokers,
    /// Read files of verdicts and shadow verdicts instead of the topics: one JSON object per line,
    /// as a console consumer writes them down; `-` is standard input
    #[arg(long = "from-files", value_name = "FILE.jsonl", num_args = 1.., conflicts_with = "bootstrap_servers")]
    files: Vec<PathBuf>,
    /// With --from-files, files of reviews: one JSON object per line, as their topic holds them
    #[arg(long, value_name = "FILE.jsonl", num_args = 1.., requires = "files")]
    reviews: Vec<PathBuf>,
    /// Ask a running instance for its evidence instead of reading the topics: at once, with the
    /// conclusions of guards
    #[arg(long, conflicts_with_all = ["files", "bootstrap_servers", "since"])]
    live: bool,
    /// The admin API of that instance; without it, the one in the settings
    #[arg(long, value_name = "URL", env = "OFA_STREAM_ADMIN")]
    admin: Option<String>,
    /// The file with its token; without it, the one in the settings or in `control.directory`
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Read records of the topics from this time on: a time such as 2026-12-01T08:00:00Z, or an age
    /// such as 7d or 12h; without it, all that the topics hold
    #[arg(long, value_name = "TIME", value_parser = super::since, conflicts_with = "files")]
    since: Option<Timestamp>,
    /// How long to wait for brokers that do not answer
    #[arg(long, value_name = "SECONDS", default_value_t = 60, conflicts_with = "files")]
    wait_max: u64,
    /// This experiment only
    #[arg(long)]
    experiment: Option<String>,
    /// Also the comparison within each value of this segment; JSON, HTML and XLSX have all segments
    /// where none is named
    #[arg(long, value_name = "NAME")]
    segment: Option<String>,
    /// The variant that others are compared with; experiments without it are not shown. By default
    /// `control`, or the first by name
    #[arg(long, value_name = "VARIANT")]
    control: Option<String>,
    /// The highest rate of false findings over all metrics of an experiment, however often you look
    #[arg(long, default_value_t = Criteria::default().alpha, value_parser = share)]
    alpha: f64,
    /// The smallest difference of a share, or of a mean confidence, that matters
    #[arg(long, value_name = "SHARE", default_value_t = Criteria::default().min_effect, value_parser = share)]
    min_effect: f64,
    /// Verdicts younger than this do not count in rates of misjudgement, such as 24h: people have
    /// not answered all of them yet
    #[arg(long, value_name = "AGE", default_value = "0h", value_parser = age)]
    mature_after: Duration,
    /// The language of tables
    #[arg(long, value_enum, default_value_t)]
    lang: Lang,
    /// What is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Write to this file instead of the standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Lang {
    #[default]
    En,
    Zh,
}

impl From<Lang> for Language {
    fn from(lang: Lang) -> Self {
        match lang {
            Lang::En => Self::English,
            Lang::Zh => Self::Chinese,
        }
    }
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    #[default]
    Table,
    Json,
    Csv,
    /// One page without scripts, for a browser or a mail
    Html,
    /// A workbook with tables and charts
    Xlsx,
    /// Figures in long form, one JSON object per line, for databases
    Jsonl,
    /// The same as Parquet
    #[cfg(feature = "parquet")]
    Parquet,
}

/// A time such as 12h or 7d.
fn age(text: &str) -> Result<Duration, String> {
    let age = text.parse::<Span>().and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
    let age = age.map_err(|_| "write an age such as 12h or 7d".to_owned())?;
    Duration::try_from(age).map_err(|_| "must not be negative".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "is no number".to_owned())?;
    if value > 0.0 && value < 1.0 { Ok(value) } else { Err("must lie between 0 and 1".to_owned()) }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let (mut summary, live) = if arguments.live {
        let report = source::ask_instance(arguments)?;
        (report.summary.clone(), Some(report))
    } else {
        (computed(arguments)?, None)
    };
    if let Some(control) = arguments.control.as_deref().filter(|_| summary.experiments.is_empty()) {
        return Err(failed(format!("no verdict is of a variant `{control}`: name one with --control")));
    }

    if let Some(name) = &arguments.experiment {
        let known: Vec<String> = summary.experiments.iter().map(|it| it.experiment.clone()).collect();
        summary.experiments.retain(|experiment| experiment.experiment == *name);
        if summary.experiments.is_empty() {
            let reason = format!("no verdict is of experiment `{name}`; there are: {}", known.join(", "));
            return Err(failed(reason));
        }
        // Pairs are of versions, not of experiments.
        summary.paired.clear();
    }

    if let Some(segment) = &arguments.segment {
        keep_segment(&mut summary, segment)?;
    }

    let live = live.map(|report| EvidenceReport { summary: summary.clone(), ..report });
    show(&summary, live.as_ref(), arguments)
}

/// Leaves out all other segments.
fn keep_segment(summary: &mut Summary, name: &str) -> Result<(), CliError> {
    let all = summary.experiments.iter().flat_map(|experiment| &experiment.segments);
    let known: BTreeSet<String> = all.map(|segment| segment.segment.clone()).collect();
    if !known.contains(name) {
        let known: Vec<String> = known.into_iter().collect();
        let reason = format!("no verdict has segment `{name}`; there are: {}", known.join(", "));
        return Err(failed(reason));
    }
    for experiment in &mut summary.experiments {
        experiment.segments.retain(|segment| segment.segment == name);
        experiment.comparisons.iter_mut().for_each(|it| it.adjusted.retain(|adjusted| adjusted.segment == name));
    }
    Ok(())
}

fn show(summary: &Summary, live: Option<&EvidenceReport>, arguments: &Arguments) -> Result<(), CliError> {
    let language = arguments.lang.into();
    let text = |text: String| text.into_bytes();
    let bytes = match arguments.format {
        Format::Json => {
            let json = match live {
                Some(report) => serde_json::to_string_pretty(report),
                None => serde_json::to_string_pretty(summary),
            };
            text(json.map_err(failed)? + "\n")
        }
        Format::Csv => text(csv::lines(summary)),
        Format::Html => text(html::page(summary, live, language)),
        Format::Xlsx => xlsx::workbook(summary, live, language).map_err(failed)?,
        Format::Jsonl => text(long::lines(summary)?),
        #[cfg(feature = "parquet")]
        Format::Parquet => parquet::file(summary).map_err(failed)?,
        Format::Table if arguments.output.is_some() => {
            return Err(failed("--output needs a --format other than table: html, xlsx, json or csv"));
        }
        Format::Table => {
            tables::print(summary, arguments.segment.is_some(), language);
            if let Some(report) = live {
                tables::live(report, language);
            }
            return Ok(());
        }
    };
    write(&bytes, arguments)
}

/// Writes to the file that is named, or to the standard output.
fn write(bytes: &[u8], arguments: &Arguments) -> Result<(), CliError> {
    if let Some(file) = &arguments.output {
        return std::fs::write(file, bytes).map_err(|error| failed(format!("{}: {error}", file.display())));
    }
    let is_text = std::str::from_utf8(bytes).is_ok();
    if !is_text && std::io::stdout().is_terminal() {
        return Err(failed("this format is not for a terminal: name a file with --output"));
    }
    output::binary(bytes);
    Ok(())
}

impl Arguments {
    fn criteria(&self) -> Criteria {
        let age_ms = i64::try_from(self.mature_after.as_millis()).unwrap_or(i64::MAX);
        let until_ms = Timestamp::now().as_millisecond().saturating_sub(age_ms);
        let review_until_ms = (age_ms > 0).then_some(until_ms);
        Criteria { alpha: self.alpha, min_effect: self.min_effect, review_until_ms }
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> CliError {
    failed(format!("{}: {error}", path.display()))
}

/// The figures of topics or files, computed from nothing.
fn computed(arguments: &Arguments) -> Result<Summary, CliError> {
    let mut verdicts = VerdictSet::default();
    if arguments.files.is_empty() {
        source::read_topics(arguments, &mut verdicts)?;
    }
    for path in &arguments.files {
        source::read_file(path, |line| verdicts.add(line)).map_err(|error| unreadable(path, &error))?;
    }
    for path in &arguments.reviews {
        source::read_file(path, |line| verdicts.add_answer(line)).map_err(|error| unreadable(path, &error))?;
    }
    Ok(Summary::of(verdicts.sums(), arguments.criteria(), arguments.control.as_deref()))
}
