//! `report`: the variants of experiments, compared by their verdicts.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum};
use jiff::{Span, SpanRelativeTo, Timestamp};

use super::{CliError, SettingsArguments, failed, output};
use crate::{
    evidence::{
        Book, Comparison, Experiment, Judging, Language, LeftOut, Metric, Paired, Summary, sentence, status_word,
    },
    kafka::{Extent, KafkaError},
    pipeline::connection,
};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: SettingsArguments,
    /// Read files of verdicts and shadow verdicts instead of the topics: one JSON object per line, as a
    /// console consumer writes them down; `-` is standard input
    #[arg(long = "from-files", value_name = "FILE.jsonl", num_args = 1..)]
    files: Vec<PathBuf>,
    /// Where the brokers are, instead of what the settings say
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "files")]
    bootstrap_servers: Option<String>,
    /// Read records of the topics from this time on: a time such as 2026-12-01T08:00:00Z, or an age
    /// such as 7d or 12h; without it, all that the topics hold
    #[arg(long, value_name = "TIME", value_parser = since, conflicts_with = "files")]
    since: Option<Timestamp>,
    /// How long to wait for brokers that do not answer
    #[arg(long, value_name = "SECONDS", default_value_t = 60, conflicts_with = "files")]
    wait_max: u64,
    /// This experiment only
    #[arg(long)]
    experiment: Option<String>,
    /// The variant that others are compared with; `control`, or the first by name
    #[arg(long, value_name = "VARIANT")]
    control: Option<String>,
    /// How often a difference may be seen where there is none, however often one looks
    #[arg(long, default_value_t = Judging::default().alpha, value_parser = share)]
    alpha: f64,
    /// The smallest difference of a share, or of a mean confidence, that matters
    #[arg(long, value_name = "SHARE", default_value_t = Judging::default().smallest, value_parser = share)]
    smallest: f64,
    /// The language of tables
    #[arg(long, value_enum, default_value_t)]
    lang: Lang,
    /// What is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Lang {
    #[default]
    En,
    Zh,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    #[default]
    Table,
    Json,
    Csv,
}

fn share(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "is no number".to_owned())?;
    if value > 0.0 && value < 1.0 { Ok(value) } else { Err("must lie between 0 and 1".to_owned()) }
}

/// A verdict is smaller by far: texts are cut to a preview.
const LINE_BYTES_MAX: u64 = 16 << 20;

pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let mut book = Book::default();
    if arguments.files.is_empty() {
        read_topics(arguments, &mut book)?;
    }
    for path in &arguments.files {
        read(path, &mut book).map_err(|error| failed(format!("{}: {error}", path.display())))?;
    }
    let judging = Judging { alpha: arguments.alpha, smallest: arguments.smallest };
    let mut summary = Summary::of(&book, judging, arguments.control.as_deref());
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
    match arguments.format {
        Format::Json => output::json(&summary),
        Format::Csv => csv(&summary),
        Format::Table => tables(&summary, language(arguments.lang)),
    }
    Ok(())
}

fn language(lang: Lang) -> Language {
    match lang {
        Lang::En => Language::English,
        Lang::Zh => Language::Chinese,
    }
}

/// A time, or an age: how long ago it was.
fn since(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let age = text.parse::<Span>().and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
    let time = age.and_then(|age| Timestamp::now().checked_sub(age));
    time.map_err(|_| "is no time: write 2026-12-01T08:00:00Z, or an age such as 7d".to_owned())
}

/// Adds what the topics of verdicts and shadow verdicts hold now.
fn read_topics(arguments: &Arguments, book: &mut Book) -> Result<(), CliError> {
    let plan = arguments.settings.plan()?;
    let mut connection = connection(&plan, None);
    if let Some(bootstrap_servers) = &arguments.bootstrap_servers {
        connection.bootstrap_servers.clone_from(bootstrap_servers);
    }
    if connection.bootstrap_servers.is_empty() {
        return Err(failed(
            "the settings name the embedded broker, which no other process can reach by itself: give the address that \
             it printed with --bootstrap-servers, or files with --from-files",
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
                book.add(&value);
            }
        })?;
    }
    Ok(())
}

/// Adds the lines of a file.
fn read(path: &Path, book: &mut Book) -> std::io::Result<()> {
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
            book.add(&line);
        }
    }
}

/// One line for each metric of each treatment.
fn csv(summary: &Summary) {
    output::raw(
        "experiment,epoch,definition,control,treatment,metric,control_value,treatment_value,difference,\
         lower,upper,p_value,probability_better,information,status",
    );
    for experiment in &summary.experiments {
        for comparison in &experiment.comparisons {
            for compared in &comparison.metrics {
                let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
                let end = |end: usize| number(compared.interval.map(|interval| interval[end]));
                let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
                let cells = [
                    experiment.experiment.clone(),
                    experiment.epoch.to_string(),
                    experiment.definition.clone(),
                    experiment.control.clone(),
                    comparison.treatment.clone(),
                    word(serde_json::json!(compared.metric)),
                    number(compared.control),
                    number(compared.treatment),
                    number(compared.difference),
                    end(0),
                    end(1),
                    number(compared.p_value),
                    number(compared.probability_better),
                    number(compared.information),
                    word(serde_json::json!(compared.status)),
                ];
                output::raw(cells.map(|cell| quoted(&cell)).join(","));
            }
        }
    }
}

/// A cell of CSV. A spreadsheet would take a text that begins with a sign for a formula.
fn quoted(cell: &str) -> String {
    let is_formula =
        cell.starts_with(['=', '+', '@', '\t', '\r']) || (cell.starts_with('-') && cell.parse::<f64>().is_err());
    let cell = if is_formula { format!("'{cell}") } else { cell.to_owned() };
    if cell.contains([',', '"', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell }
}

/// A text in the language of the report.
fn word(language: Language, english: &'static str, chinese: &'static str) -> &'static str {
    match language {
        Language::English => english,
        Language::Chinese => chinese,
    }
}

fn tables(summary: &Summary, language: Language) {
    for experiment in &summary.experiments {
        let Experiment { experiment: name, epoch, definition, period: [first, last], .. } = experiment;
        output::line(format!(
            "{} {name} · epoch {epoch} · {definition}\n{first} – {last}",
            word(language, "Experiment", "实验")
        ));
        for comparison in &experiment.comparisons {
            output::line(format!("\n{}", sentence(experiment, comparison, summary.judging, language)));
            metrics(experiment, comparison, language);
        }
        variants(experiment, language);
        health(experiment, language);
    }
    if !summary.paired.is_empty() {
        pairs(&summary.paired, language);
    }
    if summary.experiments.is_empty() && summary.paired.is_empty() {
        output::line(word(language, "No verdict is of an experiment.", "没有属于实验的结果。"));
    }
    left_out(summary, language);
}

/// The rows of the spreadsheet that this replaces.
fn metrics(experiment: &Experiment, comparison: &Comparison, language: Language) {
    let metric = word(language, "metric", "指标");
    let control = format!("{} {}", word(language, "control", "控制组"), experiment.control);
    let treatment = format!("{} {}", word(language, "treatment", "实验组"), comparison.treatment);
    let difference = word(language, "difference", "差异");
    let interval = word(language, "at any time", "随时有效区间");
    let status = word(language, "status", "状态");
    let columns = [metric, &control, &treatment, difference, interval, "p", status];
    let rows = comparison.metrics.iter().map(|compared| {
        let shown = |value: Option<f64>, sign| {
            value.map_or_else(|| "–".to_owned(), |value| figure(compared.metric, value, sign))
        };
        let ends = compared.interval.map_or_else(
            || "–".to_owned(),
            |[low, high]| format!("{} … {}", figure(compared.metric, low, true), figure(compared.metric, high, true)),
        );
        vec![
            metric_word(compared.metric, language).to_owned(),
            shown(compared.control, false),
            shown(compared.treatment, false),
            shown(compared.difference, true),
            ends,
            compared.p_value.map_or_else(|| "–".to_owned(), chance),
            status_word(compared.status, compared.information, language),
        ]
    });
    output::show(&output::table(&columns, &[&control, &treatment, difference, interval, "p"], rows));
}

/// A p-value as people read it.
fn chance(p: f64) -> String {
    if p < 0.001 { "<0.001".to_owned() } else { format!("{p:.3}") }
}

fn metric_word(metric: Metric, language: Language) -> &'static str {
    match metric {
        Metric::Confidence => word(language, "mean confidence", "平均置信度"),
        Metric::NoShare => word(language, "share of no", "“否”类比例"),
        Metric::ReviewShare => word(language, "manual-review rate", "人工复核率"),
        Metric::Latency => word(language, "mean latency, ms", "平均延迟（毫秒）"),
    }
}

fn figure(metric: Metric, value: f64, has_sign: bool) -> String {
    match (metric, has_sign) {
        (Metric::Latency, true) => format!("{value:+.2}"),
        (Metric::Latency, false) => format!("{value:.2}"),
        (Metric::Confidence, true) => format!("{value:+.4}"),
        (Metric::Confidence, false) => format!("{value:.4}"),
        (_, true) => format!("{:+.2} %", value * 100.0),
        (_, false) => format!("{:.2} %", value * 100.0),
    }
}

fn variants(experiment: &Experiment, language: Language) {
    let observations = word(language, "observations", "独立样本");
    let columns = [
        word(language, "variant", "组"),
        word(language, "version", "模型版本"),
        word(language, "share", "份额"),
        word(language, "verdicts", "结果数"),
        observations,
        word(language, "kept", "缓存"),
        "p50 ms",
        "p95 ms",
        "p99 ms",
    ];
    let rows = experiment.variants.iter().map(|variant| {
        let mut row = vec![
            variant.name.clone(),
            variant.version.clone(),
            format!("{:.1} %", variant.share * 100.0),
            variant.verdicts.to_string(),
            variant.observations.to_string(),
            variant.cached.to_string(),
        ];
        row.extend(
            variant
                .latency_ms
                .iter()
                .map(|percentile| percentile.value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"))),
        );
        row
    });
    output::show(&output::table(&columns, &columns[2..], rows));
}

fn health(experiment: &Experiment, language: Language) {
    let p = experiment.sample_ratio.p_value;
    let is_healthy = experiment.sample_ratio.is_healthy;
    let state =
        if is_healthy { word(language, "as set", "与配置相符") } else { word(language, "UNHEALTHY", "异常") };
    let name = word(language, "Sample ratio", "分流比例");
    output::line(format!("{name}: {state} (p = {}).\n", chance(p)));
}

fn pairs(paired: &[Paired], language: Language) {
    output::line(word(language, "Two versions on the same requests", "两个版本对同一请求"));
    let columns = [
        word(language, "live", "线上"),
        word(language, "shadow", "影子"),
        word(language, "pairs", "对数"),
        word(language, "same label", "一致"),
        "κ",
        word(language, "no: shadow alone", "仅影子为否"),
        word(language, "no: live alone", "仅线上为否"),
        "p",
    ];
    let rows = paired.iter().map(|pair| {
        vec![
            pair.live_version.clone(),
            pair.shadow_version.clone(),
            pair.pairs.to_string(),
            format!("{:.1} %", pair.agreement * 100.0),
            pair.kappa.map_or_else(|| "–".to_owned(), |kappa| format!("{kappa:.2}")),
            pair.no_alone[0].to_string(),
            pair.no_alone[1].to_string(),
            chance(pair.p_value),
        ]
    });
    output::show(&output::table(&columns, &columns[2..], rows));
}

fn left_out(summary: &Summary, language: Language) {
    let LeftOut { duplicates, outside, forced, unit_unknown, unreadable } = summary.left_out;
    let (alpha, smallest) = (summary.judging.alpha, summary.judging.smallest);
    output::line(match language {
        Language::English => format!(
            "Left out: {duplicates} duplicates, {outside} outside experiments, {forced} forced, \
             {unit_unknown} without their unit, {unreadable} unreadable. Intervals of an experiment hold at any time and \
             together (normal mixture, α = {alpha}, tuned for differences of {smallest}); p is adjusted by Holm."
        ),
        Language::Chinese => format!(
            "未计入：重复 {duplicates}，实验之外 {outside}，强制分组 {forced}，缺少分流单元 {unit_unknown}，无法读取 {unreadable}。\
             同一实验的区间随时且同时有效（正态混合，α = {alpha}，按差异 {smallest} 调整）；p 经 Holm 校正。"
        ),
    });
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn no_cell_becomes_a_formula() {
        for (cell, right) in [
            ("=1+1", "'=1+1"),
            ("-cmd", "'-cmd"),
            ("-0.5", "-0.5"),
            ("@x", "'@x"),
            ("a,b", "\"a,b\""),
            ("a\"b", "\"a\"\"b\""),
        ] {
            assert_eq!(quoted(cell), right);
        }
    }
}
