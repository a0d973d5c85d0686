//! `models list` and `models show`: what versions there are.

use clap::Args;
use serde::Serialize;

use super::{CliError, ModelsArguments, failed, output};
use crate::{
    message::VersionName,
    store::{Entry, Manifest},
};

#[derive(Args)]
pub(in crate::cli) struct ListArguments {
    #[command(flatten)]
    models: ModelsArguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(in crate::cli) struct ShowArguments {
    /// The version
    version: VersionName,
    #[command(flatten)]
    models: ModelsArguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A version in JSON.
#[derive(Serialize)]
struct Shown {
    version: String,
    digest: String,
    size_bytes: u64,
    memory_bytes: u64,
    gigaflop_per_request: f64,
    suits: &'static str,
    image_side: u32,
    answers: Vec<&'static str>,
    #[serde(flatten)]
    manifest: Manifest,
}

impl Shown {
    fn new(name: &VersionName, entry: Entry) -> Self {
        let Entry { manifest, definition, footprint } = entry;
        Self {
            version: name.to_string(),
            digest: manifest.digest(),
            size_bytes: manifest.bytes(),
            memory_bytes: footprint.memory_bytes,
            gigaflop_per_request: (footprint.flop / 1e8).round() / 10.0,
            suits: footprint.suits(),
            image_side: definition.task.patch_image_size,
            answers: definition.labels.iter().map(|label| label.as_str()).collect(),
            manifest,
        }
    }
}

/// A version that cannot be read costs its row only.
#[derive(Serialize)]
#[serde(untagged)]
enum Row {
    Good(Box<Shown>),
    Bad { version: String, error: String },
}

pub(super) fn list(arguments: &ListArguments) -> Result<(), CliError> {
    let inventory = arguments.models.inventory()?;
    let row = |name: &VersionName| match inventory.entry(name) {
        Ok(entry) => Row::Good(Box::new(Shown::new(name, entry))),
        Err(error) => Row::Bad { version: name.to_string(), error: error.to_string() },
    };
    let rows: Vec<Row> = inventory.names().iter().map(row).collect();
    if arguments.json {
        output::json(&rows);
        return Ok(());
    }
    if rows.is_empty() {
        output::line(format!(
            "{} has no versions; `ofa-stream models import` or `models pull` makes one",
            arguments.models.models_dir.display()
        ));
        return Ok(());
    }
    let cells = rows.iter().map(|row| match row {
        Row::Good(shown) => vec![
            shown.version.clone(),
            shown.manifest.architecture.clone(),
            output::count(shown.manifest.parameters),
            shown.manifest.dtype.to_string(),
            output::bytes(shown.size_bytes),
            output::bytes(shown.memory_bytes),
            shown.suits.to_owned(),
            output::digest(&shown.digest),
        ],
        Row::Bad { version, .. } => vec![version.clone(), "unusable".to_owned()],
    });
    let columns = ["version", "architecture", "parameters", "dtype", "on disk", "in memory", "suits", "digest"];
    output::show(&output::table(&columns, &["parameters", "on disk", "in memory"], cells));
    for row in &rows {
        if let Row::Bad { version, error } = row {
            output::line(format!("{version}: {error}"));
        }
    }
    Ok(())
}

pub(super) fn show(arguments: &ShowArguments) -> Result<(), CliError> {
    let inventory = arguments.models.inventory()?;
    inventory.path(&arguments.version).map_err(failed)?;
    let shown = Shown::new(&arguments.version, inventory.entry(&arguments.version).map_err(failed)?);
    if arguments.json {
        output::json(&shown);
        return Ok(());
    }
    let Manifest { architecture, parameters, dtype, imported_by, imported_at, temperature, source, files, .. } =
        &shown.manifest;
    let mut facts = vec![
        ("digest", shown.digest.clone()),
        ("architecture", format!("{architecture}, {} parameters", output::count(*parameters))),
        ("weights", format!("{dtype}, {} on disk", output::bytes(shown.size_bytes))),
        ("memory", format!("{} for one request in f32", output::bytes(shown.memory_bytes))),
        ("work", format!("{} GFLOP per request, suits {}", shown.gigaflop_per_request, shown.suits)),
        ("image", format!("{0}x{0}", shown.image_side)),
        ("answers", shown.answers.join(", ")),
        ("temperature", temperature.to_string()),
        ("imported", format!("{imported_at} by {imported_by}")),
        ("source", format!("{} ({})", source.name, source.layout)),
    ];
    if let (Some(model_id), Some(revision)) = (&source.model_id, &source.revision) {
        facts.push(("pulled", format!("{model_id} at {revision}")));
    }
    let rows = facts.into_iter().map(|(name, value)| vec![name.to_owned(), value]);
    output::show(&output::table(&["version", &shown.version], &[], rows));
    let rows = files.iter().map(|(name, file)| vec![name.clone(), output::bytes(file.bytes), file.sha256.clone()]);
    output::show(&output::table(&["file", "size", "sha256"], &["size"], rows));
    Ok(())
}
