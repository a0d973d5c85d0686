//! `models import`: from a checkpoint on disk to a version.

use std::path::PathBuf;

use clap::Args;

use super::{CliError, TargetArguments};

#[derive(Args)]
pub(in crate::cli) struct Arguments {
    /// A folder as ModelScope or Hugging Face publish it, or a fairseq checkpoint (.pt)
    #[arg(value_name = "CHECKPOINT")]
    path: PathBuf,
    #[command(flatten)]
    target: TargetArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    arguments.target.import(&arguments.path, None)
}
