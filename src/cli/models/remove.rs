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
    if !arguments.force && is_served(arguments, &folder)? {
        return Err(failed(format!(
            "{} names the version `{}`, and would not start without it: take it out there first, or add --force",
            arguments.settings.path().display(),
            arguments.version
        )));
    }
    inventory.remove(&arguments.version).map_err(failed)?;
    output::line(format!("{} is removed", folder.display()));
    Ok(())
}

/// Whether the settings, where there are any, name this very folder.
fn is_served(arguments: &Arguments, folder: &std::path::Path) -> Result<bool, CliError> {
    if !arguments.settings.path().exists() {
        return Ok(false);
    }
    let plan: Plan = arguments.settings.plan()?;
    let same = |served: &std::path::Path| match (served.canonicalize(), folder.canonicalize()) {
        (Ok(served), Ok(folder)) => served == folder,
        _ => false,
    };
    Ok(plan.versions.values().any(|version| same(&version.folder)))
}
