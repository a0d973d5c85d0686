//! `config`: the configurations that a running instance serves and served, by digest.

use clap::Subcommand;
use similar::TextDiff;

use super::{CliError, operate::Instance, output};
use crate::control::{ConfigInForce, ConfigListing, ServedConfig};

/// Show configurations that a running instance served, by the digest that verdicts carry
#[derive(Subcommand)]
pub(super) enum Command {
    /// List the configurations that it served
    List {
        #[command(flatten)]
        instance: Instance,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one configuration
    Show {
        /// The digest, or the beginning of it; without one, what is in force
        digest: Option<String>,
        #[command(flatten)]
        instance: Instance,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show how a configuration differs from another
    Diff {
        /// The digest, or the beginning of it
        digest: String,
        /// The other one; without it, what is in force
        other: Option<String>,
        #[command(flatten)]
        instance: Instance,
    },
}

/// Lines around a difference.
const CONTEXT_LINES: usize = 3;

pub(super) fn run(command: &Command) -> Result<(), CliError> {
    match command {
        Command::List { instance, json } => {
            let configs: Vec<ConfigListing> = instance.client()?.get("/v1/configs")?;
            if *json {
                output::json(&configs);
                return Ok(());
            }
            let now = jiff::Timestamp::now();
            let rows = configs.into_iter().map(|config| {
                let served = config.last_served_at.parse().map_or_else(|_| String::new(), |at| output::age(now, at));
                vec![output::digest(&config.config_digest), served]
            });
            output::show(&output::table(&["configuration", "last served"], &[], rows));
        }
        Command::Show { digest, instance, json } => {
            let config = find(instance, digest.as_deref())?;
            if *json {
                output::json(&config);
            } else {
                output::line(in_words(&config));
            }
        }
        Command::Diff { digest, other, instance } => {
            let (one, two) = (find(instance, Some(digest))?, find(instance, other.as_deref())?);
            let (before, after) = (in_words(&one), in_words(&two));
            if before == after {
                output::line("the same settings and overrides");
                return Ok(());
            }
            let diff = TextDiff::from_lines(&before, &after);
            let mut shown = diff.unified_diff();
            let names = (output::digest(&one.config_digest), output::digest(&two.config_digest));
            output::line(shown.context_radius(CONTEXT_LINES).header(&names.0, &names.1).to_string().trim_end());
        }
    }
    Ok(())
}

/// A configuration by its digest, or what is in force.
fn find(instance: &Instance, digest: Option<&str>) -> Result<ServedConfig, CliError> {
    let client = instance.client()?;
    if let Some(digest) = digest {
        let digits = digest.strip_prefix("sha256:").unwrap_or(digest);
        return Ok(client.get(&format!("/v1/configs/{}", super::operate::encoded(digits)))?);
    }
    let ConfigInForce { config_digest, source, text, overrides, .. } = client.get("/v1/config")?;
    Ok(ServedConfig { config_digest, first_served_at: String::new(), source, text, overrides })
}

fn in_words(config: &ServedConfig) -> String {
    // Plain data with string keys: serializing cannot fail.
    let overrides = serde_json::to_string_pretty(&config.overrides).unwrap_or_default();
    let commented = overrides.lines().map(|line| format!("# {line}\n")).collect::<String>();
    format!("# settings: {}\n# overrides:\n{commented}{}", config.source, config.text)
}
