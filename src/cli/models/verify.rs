//! `models verify`: whether versions are still what was imported.

use clap::Args;

use super::{CliError, ModelsArguments, failed, output};
use crate::message::VersionName;

#[derive(Args)]
pub(in crate::cli) struct Arguments {
    /// The versions; without any, all of them
    versions: Vec<VersionName>,
    #[command(flatten)]
    models: ModelsArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let inventory = arguments.models.inventory()?;
    for name in &arguments.versions {
        inventory.path(name).map_err(failed)?;
    }
    let names = if arguments.versions.is_empty() { inventory.names() } else { &arguments.versions };
    let mut bad = 0;
    for name in names {
        match inventory.verify(name) {
            Ok(()) => output::line(format!("{name} is good")),
            Err(error) => {
                bad += 1;
                output::line(format!("{name} is BAD: {error}"));
            }
        }
    }
    match bad {
        0 => Ok(()),
        bad => Err(failed(format!("{bad} of {} versions are not what was imported", names.len()))),
    }
}
