//! `check`: settings, models and topics, without starting.

use clap::Args;
use serde::Serialize;

use super::{CliError, SettingsArguments, VerifyArguments, failed, output};
use crate::{
    engine::Engine,
    pipeline::{check_cluster, cluster_problems, connection, engine_options, every_spec},
    settings::Plan,
    store::Thoroughness,
    telemetry::logging,
    weights::Arithmetic,
};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: SettingsArguments,
    #[command(flatten)]
    verify: VerifyArguments,
    /// Check the settings only, and load no model
    #[arg(long)]
    settings_only: bool,
    /// Also ask the brokers: whether the topics are there, and take what requests may be
    #[arg(long)]
    kafka: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Checked {
    settings: String,
    config_digest: String,
    /// The cluster, where it was asked.
    bootstrap_servers: Option<String>,
    versions: Vec<Loaded>,
}

#[derive(Serialize)]
struct Loaded {
    version: String,
    device: String,
    adapter: Option<String>,
    precision: Arithmetic,
    parameters: u64,
    memory_bytes: Option<u64>,
    loading_seconds: Option<f64>,
    first_request_seconds: Option<f64>,
    digest: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let plan = arguments.settings.plan()?;
    logging::check(&plan.telemetry.log_level)?;
    let connection = connection(&plan, None);
    connection.check()?;
    if arguments.kafka {
        if plan.kafka.bootstrap_servers.is_none() {
            return Err(failed("`kafka.bootstrap_servers` is \"embedded\": there is no cluster to ask"));
        }
        let problems = cluster_problems(&plan, &connection)?;
        if !problems.is_empty() {
            let listed: String = problems.iter().map(|problem| format!("\n  {problem}")).collect();
            let remedy = "`ofa-stream topics create` shows how topics should be";
            return Err(failed(format!("the cluster is not ready ({remedy}):{listed}")));
        }
        // Warns of a control topic that is not compacted.
        check_cluster(&plan, &connection)?;
    }
    let versions = if arguments.settings_only { Vec::new() } else { load(&plan, arguments.verify.thoroughness())? };
    let checked = Checked {
        settings: arguments.settings.path().display().to_string(),
        config_digest: plan.config_digest.clone(),
        bootstrap_servers: plan.kafka.bootstrap_servers.clone().filter(|_| arguments.kafka),
        versions,
    };
    if arguments.json {
        output::json(&checked);
        return Ok(());
    }
    let rows = checked.versions.iter().map(|loaded| {
        vec![
            loaded.version.clone(),
            loaded.adapter.clone().unwrap_or_else(|| loaded.device.clone()),
            loaded.precision.to_string(),
            output::count(loaded.parameters),
            loaded.memory_bytes.map_or("-".to_owned(), output::bytes),
            loaded.loading_seconds.map_or("at first use".to_owned(), |seconds| format!("{seconds:.2} s")),
            loaded.first_request_seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.2} s")),
            output::digest(&loaded.digest),
        ]
    });
    if !checked.versions.is_empty() {
        output::show(&output::table(
            &["version", "device", "precision", "parameters", "memory", "loaded in", "first request", "digest"],
            &["parameters", "memory", "loaded in", "first request"],
            rows,
        ));
    }
    output::line(match &checked.bootstrap_servers {
        None => format!("{} is good.", checked.settings),
        Some(cluster) => format!("{} is good, and so are the topics on {cluster}.", checked.settings),
    });
    Ok(())
}

fn load(plan: &Plan, thoroughness: Thoroughness) -> Result<Vec<Loaded>, CliError> {
    let engine = Engine::start(&every_spec(plan, thoroughness), engine_options(plan))?;
    let loaded = engine.versions().into_iter().map(|version| {
        let (identity, loaded) = (version.identity(), version.loaded());
        Loaded {
            version: identity.name.clone(),
            device: identity.device.to_string(),
            adapter: loaded.as_ref().map(|loaded| loaded.adapter.clone()),
            precision: identity.precision,
            parameters: identity.parameters,
            memory_bytes: loaded.as_ref().map(|loaded| loaded.memory_bytes),
            loading_seconds: loaded.as_ref().map(|loaded| loaded.loading.as_secs_f64()),
            first_request_seconds: loaded.map(|loaded| loaded.first_request.as_secs_f64()),
            digest: identity.digest.clone(),
        }
    });
    let loaded = loaded.collect();
    engine.stop();
    Ok(loaded)
}
