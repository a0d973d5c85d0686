//! `models pull`: from a hub to a version.

use std::time::Duration;

use clap::Args;

use super::{CliError, TargetArguments, failed, output, watched};
use crate::store::{Hub, ModelId, Pull};

#[derive(Args)]
pub(in crate::cli) struct Arguments {
    /// The model's id on the hub, such as iic/ofa_visual-entailment_snli-ve_large_en
    #[arg(value_name = "OWNER/NAME")]
    model_id: ModelId,
    /// The hub: modelscope or huggingface
    #[arg(long, default_value = "modelscope")]
    from: Hub,
    /// The hub's address, or that of a mirror; without it, the public one
    #[arg(long, value_name = "URL", env = "OFA_STREAM_HUB_ENDPOINT")]
    endpoint: Option<String>,
    /// Branch, tag or commit; without it, the hub's main branch
    #[arg(long)]
    revision: Option<String>,
    /// A token of the hub, for private models
    #[arg(long, env = "OFA_STREAM_HUB_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Attempts in a row without progress before giving up
    #[arg(long, default_value = "6", value_parser = clap::value_parser!(u32).range(1..=100))]
    attempts: u32,
    /// Wait behind the first failed attempt, in milliseconds; it doubles, up to about a minute
    #[arg(long, default_value = "1000", value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=60_000))]
    retry_delay_ms: u64,
    /// How long the hub may be silent before the connection counts as broken, in milliseconds
    #[arg(long, default_value = "60000", value_name = "MS", value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    idle_timeout_ms: u64,
    #[command(flatten)]
    target: TargetArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let hub = arguments.from;
    let endpoint = arguments.endpoint.as_deref().unwrap_or(hub.endpoint());
    if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
        return Err(failed(format!("--endpoint {endpoint}: an address begins with https:// or http://")));
    }
    let revision = arguments.revision.as_deref().unwrap_or(hub.default_revision());
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-/".contains(c);
    if revision.is_empty() || !revision.chars().all(plain) || revision.split('/').any(|part| part == "..") {
        return Err(failed(format!("--revision `{revision}` is no branch, tag or commit")));
    }
    let pull = Pull {
        hub,
        endpoint: endpoint.trim_end_matches('/').to_owned(),
        model: arguments.model_id.clone(),
        revision: revision.to_owned(),
        token: arguments.token.clone(),
        attempts: arguments.attempts as usize,
        retry_delay: Duration::from_millis(arguments.retry_delay_ms),
        idle_timeout: Duration::from_millis(arguments.idle_timeout_ms),
    };
    let models = &arguments.target.models.models_dir;
    let there = models.join(arguments.target.name.as_str());
    if there.exists() && !arguments.target.replace {
        return Err(failed(format!("{} is there already: choose another name, or add --replace", there.display())));
    }
    let pulled = watched("downloading", |watch| pull.download(models, watch).map_err(failed))?;
    let kept = |error: CliError| {
        failed(format!("{error}\nthe download is kept in {}; the same command uses it", pulled.folder().display()))
    };
    arguments.target.import(pulled.folder(), Some((pull.model.to_string(), pull.revision.clone()))).map_err(kept)?;
    if let Err(error) = pulled.forget() {
        output::error(format!("the version is good, its download could not be removed: {error}"));
    }
    Ok(())
}
