//! `models`: versions on disk, one file per command.

mod import;
mod list;
mod pull;
mod remove;
mod verify;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use super::{CliError, failed, output, run::Stopping};
use crate::{
    message::VersionName,
    store::{ImportOptions, Inventory, Manifest, Watch, import as import_checkpoint},
    text::Script,
    weights::Precision,
};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make a version from a checkpoint on disk
    Import(import::Arguments),
    /// Download a model from a hub and make a version of it
    Pull(pull::Arguments),
    /// Show all versions
    List(list::ListArguments),
    /// Show one version
    Show(list::ShowArguments),
    /// Compare every file of versions with what was imported
    Verify(verify::Arguments),
    /// Delete a version
    Remove(remove::Arguments),
}

pub(super) fn run(command: &Command) -> Result<(), CliError> {
    match command {
        Command::Import(arguments) => import::run(arguments),
        Command::Pull(arguments) => pull::run(arguments),
        Command::List(arguments) => list::list(arguments),
        Command::Show(arguments) => list::show(arguments),
        Command::Verify(arguments) => verify::run(arguments),
        Command::Remove(arguments) => remove::run(arguments),
    }
}

/// Where versions are.
#[derive(Args)]
struct ModelsArguments {
    /// The folder of versions
    #[arg(long, value_name = "DIRECTORY", default_value = "models")]
    models_dir: PathBuf,
}

impl ModelsArguments {
    fn inventory(&self) -> Result<Inventory, CliError> {
        Inventory::open(&self.models_dir).map_err(failed)
    }
}

/// What `import` and `pull` have in common.
#[derive(Args)]
struct TargetArguments {
    /// Name of the version
    #[arg(long = "as", value_name = "VERSION")]
    name: VersionName,
    #[command(flatten)]
    models: ModelsArguments,
    /// How the weights are stored: f32, or f16 at half the size
    #[arg(long, default_value = "f32")]
    dtype: Precision,
    /// Folder of vocab.json and merges.txt, or of fairseq's dict.txt, encoder.json and vocab.bpe, where they do not lie beside the checkpoint
    #[arg(long, value_name = "DIRECTORY")]
    tokenizer: Option<PathBuf>,
    /// A language that the checkpoint was trained on, by its code, such as en or zh; several times for several
    #[arg(long = "language", value_name = "CODE", default_value = "en")]
    languages: Vec<String>,
    /// Replace a version of this name
    #[arg(long)]
    replace: bool,
    /// Print the manifest as JSON
    #[arg(long)]
    json: bool,
}

impl TargetArguments {
    /// Imports a checkpoint, with a bar, and says what came of it.
    fn import(&self, path: &std::path::Path, pulled: Option<(String, String)>) -> Result<(), CliError> {
        if let Some(code) = self.languages.iter().find(|code| Script::of_language(code).is_none()) {
            return Err(failed(format!("--language {code}: write a code of ISO 639-1, such as en, zh or ru")));
        }
        let options = ImportOptions {
            models: self.models.models_dir.clone(),
            name: self.name.clone(),
            dtype: self.dtype,
            tokenizer: self.tokenizer.clone(),
            replace: self.replace,
            pulled,
            temperature: 1.0,
            trained: None,
            languages: self.languages.clone(),
        };
        let manifest = watched("importing", |watch| import_checkpoint(path, &options, watch).map_err(failed))?;
        if self.json {
            output::json(&manifest);
        } else {
            self.say(&manifest);
        }
        Ok(())
    }

    fn say(&self, manifest: &Manifest) {
        let Manifest { architecture, parameters, dtype, .. } = manifest;
        output::line(format!(
            "{} is in {}: {architecture}, {} parameters, {dtype}, {}, {}",
            self.name,
            self.models.models_dir.join(self.name.as_str()).display(),
            output::count(*parameters),
            output::bytes(manifest.bytes()),
            output::digest(&manifest.digest()),
        ));
        let files: Vec<&str> = manifest.source.weights.keys().map(String::as_str).collect();
        output::line(format!("weights read from {}", files.join(", ")));
        output::line(format!(
            "serve it: add a table [model_versions.versions.{}] to pipeline.toml and route to it, then `ofa-stream check`",
            self.name
        ));
    }
}

/// Runs long work with a bar of bytes. A stop signal asks the work to end and clean up, which it does
/// between two tensors or pieces of a file.
fn watched<T>(what: &'static str, work: impl FnOnce(Watch<'_>) -> Result<T, CliError>) -> Result<T, CliError> {
    let cancelled = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(failed)?;
    let flag = cancelled.clone();
    runtime.spawn(async move {
        let Ok(mut stopping) = Stopping::new() else { return };
        stopping.asked().await;
        flag.store(true, Ordering::Relaxed);
    });
    let template = "{msg} {bar:40} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(template).map_err(failed)?;
    let bar = ProgressBar::new(0).with_style(style).with_message(what);
    let progress = |done: u64, total: u64| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let done = work(Watch { progress: &progress, cancelled: &cancelled });
    bar.finish_and_clear();
    runtime.shutdown_background();
    done
}
