//! `reviews`: verdicts for people to look at, and their answers.

mod export;
mod import;

use clap::Subcommand;

use super::CliError;

/// Give verdicts to people, and read their answers back
#[derive(Subcommand)]
pub(super) enum Command {
    /// Print verdicts that people should review, each with the probability with which it was picked
    Export(export::Arguments),
    /// Publish people's answers: an export of Label Studio, CSV, or JSON lines
    Import(import::Arguments),
}

pub(super) fn run(command: &Command) -> Result<(), CliError> {
    match command {
        Command::Export(arguments) => export::run(arguments),
        Command::Import(arguments) => import::run(arguments),
    }
}
