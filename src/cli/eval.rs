//! `eval`: how good versions are, on examples whose labels are known.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    time::Instant,
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{CliError, failed, output};
use crate::{
    dataset::{self, Example, Reader},
    engine::{ImageId, Judge, Model, ModelOptions, Prepared, Preparer},
    evaluation::{Judged, Paired, Report, Subject, picture},
    message::{Device, Label, Scores},
    store::{Thoroughness, VersionFolder},
    vision::{self, Limits},
    weights::Arithmetic,
};

#[derive(Args)]
pub(super) struct Arguments {
    /// The version, with what to run it in where that is not f32: ofa_large@int8 on flex, or @f16 on wgpu; give it several times to
    /// compare several
    #[arg(long, required = true, value_name = "VERSION[@PRECISION]")]
    version: Vec<Wanted>,
    /// The folder of versions
    #[arg(long, value_name = "DIRECTORY", default_value = "models")]
    models_dir: PathBuf,
    /// The folder of the data set
    #[arg(long, value_name = "DIRECTORY")]
    data: PathBuf,
    /// The split: the file of JSON lines without its ending; give it several times to see one beside the other
    #[arg(long, default_value = "test")]
    split: Vec<String>,
    /// Measure on the first examples only
    #[arg(long, value_name = "COUNT")]
    first: Option<usize>,
    /// Where to run: flex, ndarray, wgpu or wgpu:N
    #[arg(long, default_value = "flex")]
    device: Device,
    /// Draw accuracy by kind and label, confidence against accuracy, and latency
    #[arg(long, value_name = "FILE.svg")]
    picture: Option<PathBuf>,
    /// Write what each version answers to each example, a JSON line each: to see what it takes for what
    #[arg(long, value_name = "FILE.jsonl")]
    answers: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A version, and what to run it in.
#[derive(Clone, Debug, PartialEq)]
struct Wanted {
    name: String,
    precision: Arithmetic,
}

impl std::str::FromStr for Wanted {
    type Err = String;

    fn from_str(written: &str) -> Result<Self, String> {
        // No version's name has this sign in it.
        let (name, precision) = match written.split_once('@') {
            None => (written, Arithmetic::default()),
            Some((name, precision)) => (name, precision.parse()?),
        };
        Ok(Self { name: name.to_owned(), precision })
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.precision {
            Arithmetic::F32 => formatter.write_str(&self.name),
            precision => write!(formatter, "{}@{precision}", self.name),
        }
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Evaluation {
    versions: Vec<Report>,
    /// Each pair of versions on the same examples.
    pairs: Vec<Pair>,
}

#[derive(Serialize)]
struct Pair {
    split: String,
    first: String,
    second: String,
    #[serde(flatten)]
    paired: Paired,
}

/// A line of `--answers`: a line of the data set, with what a version says of it.
#[derive(Serialize)]
struct Answered<'e> {
    version: &'e str,
    split: &'e str,
    #[serde(flatten)]
    example: &'e Example,
    result: Label,
    scores: Scores,
}

const LIMITS: Limits = Limits { bytes_max: 1 << 28, pixels_max: 1 << 26, decode_bytes_max: u64::MAX };

pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let read = |split: &String| {
        let path = arguments.data.join(format!("{split}.jsonl"));
        let examples = dataset::read(&path).map_err(failed)?;
        Ok(examples.into_iter().take(arguments.first.unwrap_or(usize::MAX)).collect())
    };
    let mut names: Vec<&String> = Vec::new();
    for split in &arguments.split {
        if !names.contains(&split) {
            names.push(split);
        }
    }
    let splits = names.iter().copied().map(read).collect::<Result<Vec<Vec<Example>>, CliError>>()?;
    let examples: usize = splits.iter().map(Vec::len).sum();
    let bar = ProgressBar::new((examples * arguments.version.len()) as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} judged, {eta} left") {
        bar.set_style(style);
    }
    // Before an hour of judging, not after it.
    let mut answers = match &arguments.answers {
        Some(path) => Some((path, File::create(path).map(BufWriter::new).map_err(unwritten(path))?)),
        None => None,
    };
    let mut evaluation = Evaluation { versions: Vec::new(), pairs: Vec::new() };
    for (split, examples) in names.iter().copied().zip(&splits) {
        let mut all = Vec::new();
        for wanted in &arguments.version {
            let (device, precision) = (arguments.device, wanted.precision);
            let folder =
                VersionFolder::open(&arguments.models_dir.join(&wanted.name), Thoroughness::Hashes).map_err(failed)?;
            let options = ModelOptions { precision, ..ModelOptions::on(device) };
            let judged = judge(&folder, options, examples, &arguments.data, &bar)?;
            let (version, digest) = (&*wanted.to_string(), &*folder.manifest.digest());
            let parameters = folder.manifest.parameters;
            if let Some((path, file)) = &mut answers {
                for (example, &Judged { scores, .. }) in examples.iter().zip(&judged) {
                    let answered = Answered { version, split, example, result: scores.best(), scores };
                    let line = serde_json::to_string(&answered);
                    writeln!(file, "{}", line.map_err(failed)?).map_err(unwritten(path))?;
                }
            }
            all.push((Report::new(Subject { version, device, precision, digest, parameters }, split, &judged), judged));
        }
        for (index, (first, one)) in all.iter().enumerate() {
            for (second, other) in &all[index + 1..] {
                let both = one.iter().zip(other);
                let paired = Paired::of(both.map(|(one, other)| (one.picture, one.is_right(), other.is_right())));
                let [first, second] = [first, second].map(|report| report.version.clone());
                evaluation.pairs.push(Pair { split: split.clone(), first, second, paired });
            }
        }
        evaluation.versions.extend(all.into_iter().map(|(report, _)| report));
    }
    bar.finish_and_clear();
    if let Some((path, mut file)) = answers {
        file.flush().map_err(unwritten(path))?;
    }
    if let Some(path) = &arguments.picture {
        let svg = picture(&evaluation.versions).map_err(failed)?;
        std::fs::write(path, svg).map_err(unwritten(path))?;
    }
    if arguments.json {
        output::json(&evaluation);
    } else {
        names.into_iter().for_each(|split| show(split, &evaluation));
        if let Some(path) = &arguments.picture {
            output::line(format!("drawn: {}", path.display()));
        }
    }
    Ok(())
}

/// Judges one example after the other, as a service without a queue does: latencies are those of one request.
fn judge(
    folder: &VersionFolder,
    options: ModelOptions,
    examples: &[Example],
    data: &Path,
    bar: &ProgressBar,
) -> Result<Vec<Judged>, CliError> {
    let mut model = Model::load(folder, options).map_err(failed)?;
    let preparer = Preparer::new(&folder.definition, LIMITS);
    let reader = Reader::new(data);
    let mut judged = Vec::with_capacity(examples.len());
    let (mut pictures, mut lengths) = (HashMap::new(), HashSet::new());
    for (index, example) in examples.iter().enumerate() {
        let named = |error: &dyn std::fmt::Display| {
            let name = example.request_id.clone().unwrap_or_else(|| format!("example {}", index + 1));
            failed(format!("{name}: {error}"))
        };
        let bytes = reader.bytes(&example.image).map_err(|error| named(&error))?;
        let mut answered = || {
            let image = vision::decode(&bytes, &LIMITS).map_err(|error| named(&error))?;
            let texts = std::slice::from_ref(&example.text);
            let sources = preparer.sources(texts, example.caption.as_deref()).map_err(|error| named(&error))?;
            let (image, pixels) = (ImageId::of(&bytes), preparer.pixels(&image));
            let prepared = Prepared { image, pixels, sources: sources.ids };
            model.judge(&[&prepared]).remove(0).map_err(|error| named(&error))
        };
        // What the first text of a length costs, a service pays once.
        if lengths.insert(preparer.source(&example.text, example.caption.as_deref()).len()) {
            answered()?;
        }
        let begun = Instant::now();
        let scores = answered()?;
        let latency = begun.elapsed();
        let scores = scores.first().copied().unwrap_or_default();
        let seen = pictures.len();
        let picture = *pictures.entry(&example.image).or_insert(seen);
        judged.push(Judged { expected: example.label, picture, kind: example.kind.clone(), scores, latency });
        bar.inc(1);
    }
    Ok(judged)
}

fn unwritten(path: &Path) -> impl FnOnce(std::io::Error) -> CliError {
    move |error| failed(format!("{}: {error}", path.display()))
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn show(split: &str, evaluation: &Evaluation) {
    let versions: Vec<&Report> = evaluation.versions.iter().filter(|report| report.split == split).collect();
    let pairs: Vec<&Pair> = evaluation.pairs.iter().filter(|pair| pair.split == split).collect();
    let names: Vec<&str> = std::iter::once("").chain(versions.iter().map(|report| report.version.as_str())).collect();
    let row = |name: &str, of: &dyn Fn(&Report) -> String| {
        std::iter::once(name.to_owned()).chain(versions.iter().map(|report| of(report))).collect::<Vec<_>>()
    };
    let mut rows = vec![
        row("accuracy", &|report| percent(report.overall.accuracy)),
        row("95 % interval", &|report| {
            let interval = report.overall.interval;
            format!("{} to {}", percent(interval.low), percent(interval.high))
        }),
    ];
    for label in ["yes", "maybe", "no"] {
        rows.push(row(&format!("label {label}"), &|report| {
            report.labels.get(label).map_or_else(String::new, |share| percent(share.accuracy))
        }));
    }
    let kinds: std::collections::BTreeSet<&String> = versions.iter().flat_map(|report| report.kinds.keys()).collect();
    for kind in kinds {
        rows.push(row(&format!("kind {kind}"), &|report| {
            report.kinds.get(kind).map_or_else(String::new, |share| percent(share.accuracy))
        }));
    }
    rows.push(row("mean confidence", &|report| percent(report.calibration.confidence)));
    rows.push(row("expected calibration error", &|report| percent(report.calibration.expected_error)));
    rows.push(row("loss", &|report| format!("{:.3}", report.loss)));
    rows.push(row("latency p50, p95, p99", &|report| {
        let latency = report.latency_ms;
        format!("{:.1}, {:.1}, {:.1} ms", latency.p50, latency.p95, latency.p99)
    }));
    rows.push(row("parameters", &|report| output::count(report.parameters)));
    let examples = versions.first().map_or(0, |report| report.overall.all);
    output::line(format!("{examples} examples of the split `{split}`"));
    output::show(&output::table(&names, &names[1..], rows));
    for report in versions {
        let labels = ["yes", "maybe", "no"];
        let rows = labels.iter().zip(report.confusion.0).map(|(label, counts)| {
            std::iter::once((*label).to_owned()).chain(counts.iter().map(u64::to_string)).collect()
        });
        let corner = format!("{}: is, was called", report.version);
        output::show(&output::table(&[&corner, "yes", "maybe", "no"], &labels, rows));
    }
    if !pairs.is_empty() {
        let rows = pairs.iter().map(|Pair { first, second, paired, .. }| {
            vec![
                format!("{second} against {first}"),
                format!("{:+.1} %", paired.difference * 100.0),
                paired.second_only.to_string(),
                paired.first_only.to_string(),
                probability(paired.p_value),
            ]
        });
        let columns = ["on the same examples", "difference", "right alone", "wrong alone", "p"];
        output::show(&output::table(&columns, &columns[1..], rows));
        output::line("p: permutation test over pictures; McNemar's exact test where each has one example");
    }
}

/// What is too small for a float is not nought.
fn probability(p: f64) -> String {
    if p < f64::MIN_POSITIVE { "< 1e-307".to_owned() } else { format!("{p:.2e}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_asked_for_by_its_name_and_by_what_it_runs_in_where_that_is_not_single_precision() {
        let wanted = |name: &str, precision| Ok(Wanted { name: name.to_owned(), precision });
        for (written, expected, shown) in [
            ("ofa_large", wanted("ofa_large", Arithmetic::F32), "ofa_large"),
            ("ofa_large@f32", wanted("ofa_large", Arithmetic::F32), "ofa_large"),
            ("ofa_large@int8", wanted("ofa_large", Arithmetic::Int8), "ofa_large@int8"),
        ] {
            assert_eq!(written.parse(), expected);
            assert_eq!(expected.unwrap().to_string(), shown);
        }
        assert_eq!("ofa_large@int4".parse::<Wanted>(), Err("expected `f32`, `f16` or `int8`".to_owned()));
    }
}
