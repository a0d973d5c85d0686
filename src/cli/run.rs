//! `run`: requests in, verdicts out, until stopped.

use std::sync::Arc;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{CliError, SettingsArguments, failed};
use crate::{
    engine::Engine,
    kafka::EmbeddedBroker,
    pipeline::{Monitor, Pipeline, connection, engine_specs, image_limits},
    settings::{LogFormat, Plan},
    telemetry::{self, Probes, logging},
};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: SettingsArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let plan = arguments.settings.plan()?;
    logging::start(&plan.telemetry.log_level, plan.telemetry.log_format == LogFormat::Json)?;
    let broker = start_broker(&plan)?;
    let address = broker.as_ref().map(EmbeddedBroker::bootstrap_servers);
    if let Some(bootstrap_servers) = &address {
        tracing::warn!(
            bootstrap_servers,
            "Embedded broker started; it is for trying things out, and forgets everything at the end."
        );
    }
    tracing::info!(versions = plan.versions.len(), "Loading versions.");
    let engine = Engine::start(&engine_specs(&plan), image_limits(&plan))?;
    for version in engine.versions() {
        let (name, parameters, seconds) = (&version.name, version.parameters, version.loading.as_secs_f64());
        tracing::info!(version = name, device = %version.device, parameters, seconds, "Version loaded.");
    }
    let pipeline = Pipeline::start(&plan, &connection(&plan, address), engine)?;
    tracing::info!(config_digest = plan.table.digest(), "Taking requests.");
    until_stopped(&plan, pipeline)?;
    tracing::info!("Drained and committed; goodbye.");
    Ok(())
}

/// The embedded broker, where the plan wants one.
pub(super) fn start_broker(plan: &Plan) -> Result<Option<EmbeddedBroker>, CliError> {
    if plan.kafka.bootstrap_servers.is_some() {
        return Ok(None);
    }
    let topics = [plan.kafka.requests.as_str(), &plan.kafka.verdicts, &plan.kafka.dead_letters];
    Ok(Some(EmbeddedBroker::start(&topics, plan.kafka.embedded_partitions)?))
}

/// Serves metrics and health, and waits for a stop signal or the pipeline's own end.
pub(super) fn until_stopped(plan: &Plan, pipeline: Pipeline) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(failed)?;
    let stop = pipeline.stopper();
    let monitor = pipeline.monitor();
    runtime.block_on(async {
        let served = serve(plan, &monitor).await;
        if served.is_err() {
            stop();
        }
        let mut ended = tokio::task::spawn_blocking(move || pipeline.join());
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let joined = tokio::select! {
            joined = &mut ended => joined,
            _ = terminate.recv() => stopping(&stop, ended).await,
            _ = interrupt.recv() => stopping(&stop, ended).await,
        };
        joined.map_err(failed)??;
        served
    })
}

type Ended<T> = tokio::task::JoinHandle<T>;

async fn stopping<T>(stop: &impl Fn(), ended: Ended<T>) -> Result<T, tokio::task::JoinError> {
    tracing::info!("Stopping: finishing what is in flight.");
    stop();
    ended.await
}

async fn serve(plan: &Plan, monitor: &Arc<Monitor>) -> Result<(), CliError> {
    let metrics = telemetry::install().map_err(failed)?;
    let Some(address) = plan.telemetry.listen else { return Ok(()) };
    let (live, ready) = (monitor.clone(), monitor.clone());
    let probes = Probes { live: Box::new(move || live.is_alive()), ready: Box::new(move || ready.is_ready()) };
    let (bound, server) = telemetry::serve(address, metrics, probes)
        .await
        .map_err(|error| failed(format!("`telemetry.listen` {address}: {error}")))?;
    tracing::info!(address = %bound, "Serving /metrics, /healthz and /readyz.");
    tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "The metrics server ended.");
        }
    });
    Ok(())
}
