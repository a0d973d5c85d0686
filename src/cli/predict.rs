//! `predict`: one judgement without Kafka.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Instant,
};

use clap::Args;
use serde::Serialize;

use super::{CliError, SettingsArguments, VerifyArguments, failed, output};
use crate::{
    engine::{ImageId, Judge, Model, ModelOptions, Prepared, Preparer},
    message::{Answer, Device, Label, Scores},
    settings::{Plan, VersionPlan},
    store::VersionFolder,
    vision::{self, Limits},
    weights::Arithmetic,
};

#[derive(Args)]
pub(super) struct Arguments {
    /// The image: JPEG, PNG or WebP
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// The hypothesis; give it several times for several hypotheses about the image
    #[arg(long, required = true, allow_hyphen_values = true)]
    text: Vec<String>,
    /// A premise in words beside the image
    #[arg(long, allow_hyphen_values = true)]
    caption: Option<String>,
    /// The version; without it, the settings' default, or the only folder of --models-dir
    #[arg(long)]
    version: Option<String>,
    /// Take the version from this folder of versions instead of from the settings
    #[arg(long, value_name = "DIRECTORY")]
    models_dir: Option<PathBuf>,
    /// Where to run: flex, ndarray, wgpu or wgpu:N; without it, what the settings say, or flex
    #[arg(long)]
    device: Option<Device>,
    /// What to run in: f32, f16 on wgpu, or int8 on flex
    #[arg(long)]
    precision: Option<Arithmetic>,
    /// Judge it this often, and report the median latency
    #[arg(long, value_name = "TIMES", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// Print JSON with the names that verdicts have
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingsArguments,
    #[command(flatten)]
    verify: VerifyArguments,
}

/// The fields of a verdict that need no routing, under their names.
#[derive(Serialize)]
struct Prediction {
    result: Label,
    confidence: f32,
    scores: Scores,
    #[serde(skip_serializing_if = "Option::is_none")]
    answers: Option<Vec<Answer>>,
    model_version: String,
    model_digest: String,
    backend: Device,
    precision: Arithmetic,
    image_hash: String,
    image_width: u32,
    image_height: u32,
    text_preview: String,
    latency_ms: f64,
    /// Medians of the stages, of as many further passes, and what loading took; for comparisons.
    #[serde(skip_serializing_if = "Option::is_none")]
    stages_ms: Option<BTreeMap<&'static str, f64>>,
    load_seconds: f64,
    text_truncated: bool,
}

struct Chosen {
    name: String,
    folder: PathBuf,
    options: ModelOptions,
    limits: Limits,
}

const LIMITS: Limits = Limits { bytes_max: 1 << 28, pixels_max: 1 << 28, decode_bytes_max: u64::MAX };

pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let chosen = choose(arguments)?;
    let image =
        std::fs::read(&arguments.image).map_err(|error| failed(format!("{}: {error}", arguments.image.display())))?;
    let header = vision::probe(&image, &chosen.limits)
        .map_err(|error| failed(format!("{}: {error}", arguments.image.display())))?;
    let begun = Instant::now();
    let folder = VersionFolder::open(&chosen.folder, arguments.verify.thoroughness()).map_err(failed)?;
    let mut model = Model::load(&folder, chosen.options).map_err(failed)?;
    let load_seconds = begun.elapsed().as_secs_f64();
    let preparer = Preparer::new(&folder.definition, chosen.limits);
    let refused = |error: vision::ImageError| failed(format!("{}: {error}", arguments.image.display()));
    let id = ImageId::of(&image);
    let (mut latencies, mut stages) = (Vec::new(), BTreeMap::<&str, Vec<f64>>::new());
    let mut scores = Vec::new();
    let mut is_truncated = false;
    for _ in 0..arguments.repeat {
        let mut clock = Clock::new();
        let decoded = vision::decode(&image, &chosen.limits).map_err(refused)?;
        stages.entry("decode").or_default().push(clock.lap());
        let pixels = preparer.pixels(&decoded);
        stages.entry("resize").or_default().push(clock.lap());
        let sources = preparer.sources(&arguments.text, arguments.caption.as_deref()).map_err(failed)?;
        is_truncated = sources.is_truncated;
        let prepared = Prepared { image: id, pixels, sources: sources.ids };
        scores = model.judge(&[&prepared]).remove(0).map_err(failed)?;
        latencies.push(clock.whole());
        if arguments.repeat > 1 {
            for (stage, took) in model.stages(&prepared).map_err(failed)? {
                stages.entry(stage).or_default().push(took.as_secs_f64() * 1e3);
            }
        }
    }
    let latency_ms = median(latencies);
    let stages = stages.into_iter().map(|(stage, times)| (stage, median(times))).collect();
    let answers: Vec<Answer> =
        scores.into_iter().zip(&arguments.text).map(|(scores, text)| Answer::new(scores, text, usize::MAX)).collect();
    let decisive = Answer::decisive(&answers).cloned().ok_or_else(|| failed("there is no text"))?;
    let prediction = Prediction {
        result: decisive.result,
        confidence: decisive.confidence,
        scores: decisive.scores,
        text_preview: decisive.text_preview,
        answers: (answers.len() > 1).then(|| answers.clone()),
        model_version: chosen.name,
        model_digest: folder.manifest.digest(),
        backend: chosen.options.device,
        precision: chosen.options.precision,
        image_hash: id.to_string(),
        image_width: header.width,
        image_height: header.height,
        latency_ms,
        stages_ms: (arguments.repeat > 1).then_some(stages),
        load_seconds,
        text_truncated: is_truncated,
    };
    if arguments.json {
        output::json(&prediction);
    } else {
        show(&prediction, &answers);
    }
    Ok(())
}

/// Milliseconds of one request, stage by stage.
struct Clock {
    begun: Instant,
    lap: Instant,
}

impl Clock {
    fn new() -> Self {
        let now = Instant::now();
        Self { begun: now, lap: now }
    }

    fn lap(&mut self) -> f64 {
        let before = std::mem::replace(&mut self.lap, Instant::now());
        self.lap.duration_since(before).as_secs_f64() * 1e3
    }

    fn whole(&self) -> f64 {
        self.begun.elapsed().as_secs_f64() * 1e3
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn show(prediction: &Prediction, answers: &[Answer]) {
    let percent = |probability: f32| format!("{:.1} %", probability * 100.0);
    let rows = answers.iter().map(|answer| {
        let Scores { yes, maybe, no } = answer.scores;
        vec![answer.text_preview.clone(), answer.result.as_str().to_owned(), percent(yes), percent(maybe), percent(no)]
    });
    output::show(&output::table(&["text", "result", "yes", "maybe", "no"], &["yes", "maybe", "no"], rows));
    output::line(format!(
        "version {} on {} in {}, image {}x{}, {:.1} ms after loading",
        prediction.model_version,
        prediction.backend,
        prediction.precision,
        prediction.image_width,
        prediction.image_height,
        prediction.latency_ms
    ));
}

fn choose(arguments: &Arguments) -> Result<Chosen, CliError> {
    if let Some(directory) = &arguments.models_dir {
        let name = match &arguments.version {
            Some(name) => name.clone(),
            None => only_folder(directory)?,
        };
        let options = ModelOptions {
            precision: arguments.precision.unwrap_or(Arithmetic::F32),
            ..ModelOptions::on(arguments.device.unwrap_or(Device::Flex))
        };
        return Ok(Chosen { folder: directory.join(&name), name, options, limits: LIMITS });
    }
    let plan = arguments.settings.plan()?;
    let name = arguments.version.clone().unwrap_or_else(|| plan.default_version().to_owned());
    let version = version_of(&plan, &name)?;
    let options = ModelOptions {
        precision: arguments.precision.unwrap_or(version.precision),
        threads: version.threads,
        bias_cache_bytes: version.position_cache_bytes,
        ..ModelOptions::on(arguments.device.unwrap_or(version.device))
    };
    Ok(Chosen { folder: version.folder.clone(), name, options, limits: crate::pipeline::image_limits(&plan) })
}

fn version_of<'p>(plan: &'p Plan, name: &str) -> Result<&'p VersionPlan, CliError> {
    plan.versions.get(name).ok_or_else(|| {
        let known: Vec<&str> = plan.versions.keys().map(String::as_str).collect();
        failed(format!("there is no version `{name}`: the settings have {}", known.join(", ")))
    })
}

fn only_folder(directory: &Path) -> Result<String, CliError> {
    let entries = std::fs::read_dir(directory).map_err(|error| failed(format!("{}: {error}", directory.display())))?;
    let folders = entries.filter_map(Result::ok).filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    match names.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(failed(format!("{} has no version folders", directory.display()))),
        _ => Err(failed(format!(
            "name one of the versions in {} with --version: {}",
            directory.display(),
            names.join(", ")
        ))),
    }
}
