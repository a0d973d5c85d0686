//! `models remove`: deletes a version.

use clap::Args;

use super::{CliError, ModelsArguments, failed, output};
use crate::{cli::SettingsArguments, message::VersionName, settings::Plan};

#[derive(Args)]
pub(in crate::cli) struct Arguments {
    /// The version
    version: VersionName,
    #[command(flatten)]
    models: ModelsArguments,
    /// Delete it even where the settings name it
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    settings: SettingsArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let inventory = arguments.models.inventory()?;
    let folder = inventory.path(&arguments.version).map_err(failed)?;
    let serving = if arguments.force { Vec::new() } else { serving(arguments, &folder)? };
    if !serving.is_empty() {
        return Err(failed(format!(
            "{} serves {} from {}, and would not start without it: take {} out there first, or add --force",
            arguments.settings.path().display(),
            serving.join(", "),
            folder.display(),
            if serving.len() == 1 { "it" } else { "them" },
        )));
    }
    inventory.remove(&arguments.version).map_err(failed)?;
    output::line(format!("{} is removed", folder.display()));
    Ok(())
}

/// The versions that the settings, where there are any, serve from this very folder.
fn serving(arguments: &Arguments, folder: &std::path::Path) -> Result<Vec<String>, CliError> {
    if !arguments.settings.path().exists() {
        return Ok(Vec::new());
    }
    let plan: Plan = arguments.settings.plan()?;
    let same = |served: &std::path::Path| match (served.canonicalize(), folder.canonicalize()) {
        (Ok(served), Ok(folder)) => served == folder,
        _ => false,
    };
    let serving = plan.versions.iter().filter(|(_, version)| same(&version.folder));
    Ok(serving.map(|(name, _)| format!("`{name}`")).collect())
}
