//! `run`: requests in, verdicts out, until stopped.

use std::sync::{Arc, OnceLock};

use clap::Args;
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
};

use super::{CliError, SettingsArguments, VerifyArguments, failed};
use crate::{
    engine::Engine,
    kafka::EmbeddedBroker,
    pipeline::{Monitor, Pipeline, connection, engine_options, engine_specs},
    settings::{LogFormat, Plan},
    telemetry::{self, Probes, logging},
};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: SettingsArguments,
    #[command(flatten)]
    verify: VerifyArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let plan = arguments.settings.plan()?;
    logging::start(&plan.telemetry.log_level, plan.telemetry.log_format == LogFormat::Json)?;
    let service = Service::start(&plan)?;
    let broker = start_broker(&plan)?;
    let address = broker.as_ref().map(EmbeddedBroker::bootstrap_servers);
    if let Some(bootstrap_servers) = &address {
        tracing::warn!(
            bootstrap_servers,
            "Embedded broker started; it is for trying things out, and forgets everything at the end."
        );
    }
    tracing::info!(versions = plan.versions.len(), "Loading versions.");
    let engine = Engine::start(&engine_specs(&plan, arguments.verify.thoroughness()), engine_options(&plan))?;
    let pipeline = Pipeline::start(&plan, &connection(&plan, address), engine)?;
    tracing::info!(config_digest = plan.table.digest(), "Taking requests.");
    let settings = arguments.settings.clone();
    match service.until_stopped(pipeline, move || settings.plan())? {
        0 => tracing::info!("Drained and committed; goodbye."),
        left => tracing::warn!(records = left, "Committed what was answered in time; the rest is read again."),
    }
    Ok(())
}

/// The embedded broker, where the plan wants one.
pub(super) fn start_broker(plan: &Plan) -> Result<Option<EmbeddedBroker>, CliError> {
    if plan.kafka.bootstrap_servers.is_some() {
        return Ok(None);
    }
    let kafka = &plan.kafka;
    let topics = [kafka.requests.as_str(), &kafka.verdicts, &kafka.dead_letters, &kafka.shadows];
    Ok(Some(EmbeddedBroker::start(&topics, plan.kafka.embedded_partitions)?))
}

/// Metrics, health pages and signals. Started before versions are loaded, so that loading can be
/// watched and its metrics are kept.
pub(super) struct Service {
    runtime: Runtime,
    /// Heard from the start: unheard, it would end the process while versions load.
    hang_up: Signal,
    /// Empty while versions load.
    monitor: Arc<OnceLock<Arc<Monitor>>>,
}

impl Service {
    pub(super) fn start(plan: &Plan) -> Result<Self, CliError> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(failed)?;
        let hang_up = {
            let _inside = runtime.enter();
            signal(SignalKind::hangup()).map_err(failed)?
        };
        let service = Self { runtime, hang_up, monitor: Arc::default() };
        // Without pages nobody would read the metrics, and their samples would pile up.
        if let Some(address) = plan.telemetry.listen {
            let metrics = telemetry::install().map_err(failed)?;
            let (live, ready) = (service.monitor.clone(), service.monitor.clone());
            let probes = Probes {
                live: Box::new(move || live.get().is_none_or(|monitor| monitor.is_alive())),
                not_ready: Box::new(move || match ready.get() {
                    Some(monitor) => monitor.not_ready(),
                    None => Some("loading".to_owned()),
                }),
            };
            let serving = service.runtime.block_on(telemetry::serve(address, metrics, probes));
            let (bound, server) = serving.map_err(|error| failed(format!("`telemetry.listen` {address}: {error}")))?;
            tracing::info!(address = %bound, "Serving /metrics, /healthz and /readyz.");
            service.runtime.spawn(async move {
                if let Err(error) = server.await {
                    tracing::error!(%error, "The metrics server ended.");
                }
            });
        }
        Ok(service)
    }

    /// Waits for a stop signal, or for the pipeline's own end; gives back the records that the drain
    /// had no time for. A second signal does not wait for the drain.
    ///
    /// SIGHUP has `reread` read the settings again: what may change while versions run is taken over.
    pub(super) fn until_stopped(
        self,
        pipeline: Pipeline,
        reread: impl Fn() -> Result<Plan, CliError> + Send + 'static,
    ) -> Result<usize, CliError> {
        // Set once: a service has one pipeline.
        self.monitor.set(pipeline.monitor()).ok();
        let (stop, retune) = (pipeline.stopper(), pipeline.retuner());
        let mut hang_up = self.hang_up;
        let ended = self.runtime.block_on(async {
            let mut joined = tokio::task::spawn_blocking(move || pipeline.join());
            let mut stopping = Stopping::new()?;
            loop {
                tokio::select! {
                    joined = &mut joined => return Ok(joined.map_err(failed)??),
                    () = stopping.asked() => break,
                    _ = hang_up.recv() => take_over(reread(), &retune),
                }
            }
            tracing::info!("Stopping: finishing what is in flight.");
            stop();
            tokio::select! {
                joined = &mut joined => Ok(joined.map_err(failed)??),
                () = stopping.asked() => Err(failed("stopped twice: what was in flight is read again")),
            }
        });
        self.runtime.shutdown_background();
        ended
    }
}

fn take_over(read: Result<Plan, CliError>, retune: &impl Fn(&Plan) -> Result<(), Vec<String>>) {
    match read.map(|plan| retune(&plan)) {
        Ok(Ok(())) => tracing::info!("Settings read again: batching and devices are as they say now."),
        Ok(Err(sections)) => tracing::error!(
            ?sections,
            "Settings refused, and nothing changed: only batching and devices may differ while versions run."
        ),
        Err(error) => tracing::error!(%error, "Settings refused, and nothing changed."),
    }
}

/// Stop signals.
pub(super) struct Stopping {
    terminate: Signal,
    interrupt: Signal,
}

impl Stopping {
    pub(super) fn new() -> Result<Self, CliError> {
        let listen = |kind| signal(kind).map_err(failed);
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    pub(super) async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
