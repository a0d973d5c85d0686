//! `check`: settings and models, without starting.

use clap::Args;
use serde::Serialize;

use super::{CliError, SettingsArguments, output};
use crate::{
    engine::{Engine, Version},
    pipeline::{connection, engine_specs, image_limits},
    settings::Plan,
    telemetry::logging,
};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: SettingsArguments,
    /// Check the settings only, and load no model
    #[arg(long)]
    settings_only: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Checked {
    settings: String,
    config_digest: String,
    versions: Vec<Loaded>,
}

#[derive(Serialize)]
struct Loaded {
    version: String,
    device: String,
    parameters: usize,
    loading_seconds: f64,
    digest: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let plan = arguments.settings.plan()?;
    logging::check(&plan.telemetry.log_level)?;
    connection(&plan, None).check()?;
    let versions = if arguments.settings_only { Vec::new() } else { load(&plan)? };
    let checked = Checked {
        settings: arguments.settings.path().display().to_string(),
        config_digest: plan.table.digest().to_owned(),
        versions,
    };
    if arguments.json {
        output::json(&checked);
        return Ok(());
    }
    let rows = checked.versions.iter().map(|loaded| {
        let digest = loaded.digest.chars().take("sha256:".len() + 12).collect();
        vec![
            loaded.version.clone(),
            loaded.device.clone(),
            format!("{:.2} M", loaded.parameters as f64 / 1e6),
            format!("{:.2} s", loaded.loading_seconds),
            digest,
        ]
    });
    if !checked.versions.is_empty() {
        output::line(output::table(
            &["version", "device", "parameters", "loaded in", "digest"],
            &["parameters", "loaded in"],
            rows,
        ));
    }
    output::line(format!("{} is good.", checked.settings));
    Ok(())
}

fn load(plan: &Plan) -> Result<Vec<Loaded>, CliError> {
    let engine = Engine::start(&engine_specs(plan), image_limits(plan))?;
    let loaded = engine.versions().map(Version::identity).map(|version| Loaded {
        version: version.name.clone(),
        device: version.device.to_string(),
        parameters: version.parameters,
        loading_seconds: version.loading.as_secs_f64(),
        digest: version.digest.clone(),
    });
    let loaded = loaded.collect();
    engine.stop();
    Ok(loaded)
}
