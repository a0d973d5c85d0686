//! `train`: a version that learns.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{CliError, failed, output};
use crate::{
    engine::open_gpu,
    message::{Device, VersionName},
    training::{Event, Job, Recipe, Workshop, curves, train},
    weights::Precision,
};

#[derive(Args)]
pub(super) struct Arguments {
    /// The folder of the data set: train.jsonl and validation.jsonl
    #[arg(long, value_name = "DIRECTORY")]
    data: PathBuf,
    /// The recipe, in TOML
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The version's folder, inside a folder of versions
    #[arg(long, value_name = "DIRECTORY")]
    out: PathBuf,
    /// A version's folder to begin with, instead of nothing
    #[arg(long, value_name = "DIRECTORY")]
    from: Option<PathBuf>,
    /// Where to train: wgpu, wgpu:N, flex or ndarray; without it a GPU where there is one, or else flex
    #[arg(long)]
    device: Option<Device>,
    /// How the weights are stored
    #[arg(long, default_value = "f16")]
    dtype: Precision,
    /// Replace a version of that name
    #[arg(long)]
    replace: bool,
    /// Begin anew, whatever was begun there before
    #[arg(long)]
    restart: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let name = arguments.out.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name: VersionName = name.parse().map_err(failed)?;
    let models = arguments.out.parent().filter(|parent| !parent.as_os_str().is_empty());
    let models = models.map_or_else(|| PathBuf::from("."), PathBuf::from);
    if arguments.out.exists() && !arguments.replace {
        return Err(failed(format!("{} is there already: choose another, or add --replace", arguments.out.display())));
    }
    let workshop = Workshop::new(&models, name.as_str());
    let job = Job {
        recipe_path: arguments.config.clone(),
        recipe: Recipe::read(&arguments.config).map_err(failed)?,
        data: arguments.data.clone(),
        models,
        name,
        from: arguments.from.clone(),
        device: arguments.device.or_else(open_gpu).unwrap_or(Device::Flex),
        dtype: arguments.dtype,
        replace: arguments.replace,
        restart: arguments.restart,
    };
    static CANCELLED: AtomicBool = AtomicBool::new(false);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(failed)?;
    runtime.spawn(async {
        if tokio::signal::ctrl_c().await.is_ok() {
            CANCELLED.store(true, Ordering::Relaxed);
        }
    });
    let bar = ProgressBar::new(job.recipe.steps as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} steps, {eta} left, {msg}") {
        bar.set_style(style);
    }
    let mut recent: Option<f64> = None;
    let trained = train(
        &job,
        &mut |event| match event {
            Event::Begun { examples: [learned, validated], parameters, step } => {
                bar.set_position(step as u64);
                bar.reset_eta();
                let goes_on = if step > 0 { format!(", going on after step {step}") } else { String::new() };
                output::line(format!(
                    "{} on {}: {} parameters, {learned} examples to learn from, {validated} to validate on{goes_on}",
                    job.name,
                    job.device,
                    output::count(parameters as u64)
                ));
            }
            Event::Step { step, loss } => {
                let smooth = recent.map_or(loss, |recent| 0.98 * recent + 0.02 * loss);
                recent = Some(smooth);
                bar.set_position(step as u64);
                bar.set_message(format!("loss {smooth:.3}"));
            }
            Event::Looked(look) => bar.suspend(|| {
                let shown = |loss: Option<f64>| loss.map_or("    –".to_owned(), |loss| format!("{loss:.3}"));
                output::line(format!(
                    "step {:>6}  training loss {}  validation loss {:.3}, of captions {}  accuracy {:.1} %",
                    look.step,
                    shown(look.training_loss),
                    look.loss,
                    shown(look.caption_loss),
                    look.accuracy * 100.0
                ));
            }),
        },
        &CANCELLED,
    )
    .map_err(failed)?;
    bar.finish_and_clear();
    let drawn = workshop.folder().join("curves.svg");
    let svg = curves(&trained.history).map_err(failed)?;
    std::fs::write(&drawn, svg).map_err(|error| failed(format!("{}: {error}", drawn.display())))?;
    if let Some(best) = trained.history.best() {
        output::line(format!(
            "{} is in {}: {:.1} % of the validation split after {} of {} steps, temperature {}, {} of training, {}",
            job.name,
            arguments.out.display(),
            best.accuracy * 100.0,
            best.step,
            trained.history.step,
            trained.manifest.temperature,
            indicatif::HumanDuration(Duration::from_secs_f64(trained.history.seconds)),
            output::bytes(trained.manifest.bytes()),
        ));
    }
    output::line(format!("how it went: {}", drawn.display()));
    Ok(())
}
