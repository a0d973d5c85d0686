//! `run`: requests in, verdicts out, until stopped.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Instant,
};

use clap::Args;
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
};

use super::{CliError, SettingsArguments, VerifyArguments, failed, operate};
use crate::{
    admin::{self, Tokens},
    control::{self, ConfigStore, ControlTopic, Controller, Restored, Sources, Storage, restore},
    engine::Engine,
    evidence_store::{Guards, Reader, ReaderOptions},
    http::HttpLimits,
    kafka::{Connection, EmbeddedBroker},
    pipeline::{self, Monitor, Pipeline, connection, engine_options, engine_specs},
    settings::{LogFormat, Plan, SettingsError, TelemetryPlan},
    store::Thoroughness,
    telemetry::{
        self, Probes,
        logging::{self, LogStyle},
    },
};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: SettingsArguments,
    #[command(flatten)]
    verify: VerifyArguments,
    /// Serve a broker inside the process where `kafka.bootstrap_servers` is "embedded", for trying things out
    #[arg(long)]
    embedded: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let path = arguments.settings.path();
    refuse_pipe(path)?;
    let plan = arguments.settings.plan()?;
    // Whoever forgot to name the cluster would have a healthy service that nobody sends anything to.
    if plan.kafka.bootstrap_servers.is_none() && !arguments.embedded {
        let reason = "is \"embedded\", a broker inside this process that forgets everything: name a cluster's `host:port`, \
                      or say `run --embedded`";
        let (path, field) = (path.to_owned(), "kafka.bootstrap_servers".to_owned());
        return Err(SettingsError::Field { path, line: None, field, reason: reason.to_owned() }.into());
    }
    logging::start(&plan.telemetry.log_level, log_style(&plan))?;
    let service = Service::start(&plan)?;
    let mut stopping = service.heed_stops()?;
    let broker = start_broker(&plan)?;
    let address = broker.as_ref().map(EmbeddedBroker::bootstrap_servers);
    if let Some(bootstrap_servers) = &address {
        tracing::warn!(
            bootstrap_servers,
            "Embedded broker started; it is for trying things out, and forgets everything at the end."
        );
    }
    let connection = connection(&plan, address);
    let (path, thoroughness) = (path.to_owned(), arguments.verify.thoroughness());
    // Brokers, disks and models may each keep a start waiting; a stop signal is heard meanwhile.
    let beginning = connection.clone();
    let Some(begun) = service.unless_stopped(&mut stopping, move || begin(plan, &beginning, path, thoroughness))?
    else {
        tracing::info!("Stopped while it was starting; no request was left half done.");
        service.end();
        return Ok(());
    };
    let Begun { plan, pipeline, start, admin } = begun?;
    let controller = Controller::start(start, pipeline.switcher(thoroughness)).map_err(failed)?;
    let reader = start_evidence(&plan, &connection, &controller)?;
    if let Some((listener, tokens)) = admin {
        service.serve_admin(listener, &controller, reader.as_ref(), tokens, &plan)?;
    }
    tracing::info!(config_digest = plan.config_digest, "Taking requests.");
    match service.until_stopped(stopping, pipeline, controller)? {
        0 => tracing::info!("Drained and committed; goodbye."),
        left => tracing::warn!(records = left, "Committed what was answered in time; the rest is read again."),
    }
    Ok(())
}

/// What stands before the first request is taken.
struct Begun {
    plan: Plan,
    pipeline: Pipeline,
    start: control::Start,
    admin: Option<(TcpListener, Tokens)>,
}

fn begin(plan: Plan, connection: &Connection, path: PathBuf, thoroughness: Thoroughness) -> Result<Begun, CliError> {
    let storage = plan.control.directory.as_deref().map(Storage::open).transpose()?;
    let admin = plan.admin.listen.map(|address| bind_admin(&plan, address, storage.as_ref())).transpose()?;
    let topic = ControlTopic::open(connection, &plan.kafka)?;
    let file = std::fs::read_to_string(&path).map_err(|error| failed(format!("{}: {error}", path.display())))?;
    let contents = topic.as_ref().map(|topic| &topic.contents);
    let sources = Sources { path: &path, file: &file, storage: storage.as_ref(), topic: contents };
    let Restored { mut plan, fallback, memory, mut out_of_sync, republish, ask } =
        restore(&sources, &plan.kafka.group_id, plan.control.history)?;
    if let Some(reason) = &out_of_sync {
        tracing::error!(reason, "Some changes of operators could not be restored.");
    }

    let mut pipeline = start_pipeline(&plan, connection, thoroughness);
    // The settings of the group may name a model that this machine lacks. Serving the local file is better than not starting.
    if let (Err(CliError::Engine(error)), Some(fallback)) = (&pipeline, fallback)
        && error.is_settings()
    {
        let reason = format!("the applied settings do not work here: {error}");
        tracing::error!(reason, "Starting with the settings file of this instance.");
        plan = fallback;
        pipeline = start_pipeline(&plan, connection, thoroughness);
        out_of_sync = Some(reason);
    }

    let instance = pipeline::instance_name(&plan);
    let start = control::Start {
        path,
        file,
        memory,
        out_of_sync,
        republish,
        // No other instance can be in the embedded broker.
        ask: ask && !connection.embedded,
        storage,
        topic,
        configs: config_store(&plan),
        plan: plan.control.clone(),
        instance,
        adapt: |plan| plan,
    };
    Ok(Begun { pipeline: pipeline?, plan, start, admin })
}

/// Starts reading evidence, unless settings turn it off.
pub(super) fn start_evidence(
    plan: &Plan,
    connection: &Connection,
    controller: &Controller,
) -> Result<Option<Reader>, CliError> {
    let store = &plan.evidence.store;
    if !store.enabled {
        return Ok(None);
    }
    let guards = Guards::new(controller.switcher(), controller.handle(), store.behind_max);
    let options = ReaderOptions::of(connection.clone(), &plan.kafka, store);
    Reader::start(options, Some(guards)).map(Some).map_err(failed)
}

/// Where configurations that were served are kept, if anywhere.
fn config_store(plan: &Plan) -> Option<ConfigStore> {
    plan.control.directory.as_deref().map(|directory| ConfigStore::new(directory, plan.control.configs_max))
}

/// Settings are read again while the program runs, which a pipe cannot be.
fn refuse_pipe(path: &Path) -> Result<(), SettingsError> {
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() && !found.is_dir() => Err(SettingsError::Unreadable {
            path: path.to_owned(),
            reason: "it is a pipe or a device, which cannot be read again: write the settings to a file".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// How log lines are written.
pub(super) fn log_style(plan: &Plan) -> LogStyle {
    let TelemetryPlan { log_format, log_lines_max, .. } = plan.telemetry;
    LogStyle { json: log_format == LogFormat::Json, lines_max: log_lines_max }
}

/// Bounds of the HTTP servers.
pub(super) fn http_limits(plan: &Plan) -> HttpLimits {
    let TelemetryPlan { connections_max, connection_timeout, .. } = plan.telemetry;
    HttpLimits { connections_max, timeout: connection_timeout, answer_timeout: connection_timeout }
}

/// Looks at the cluster before versions are loaded: what is wrong with it is known sooner, and a supervisor that tries again loads
/// nothing in vain.
fn start_pipeline(plan: &Plan, connection: &Connection, thoroughness: Thoroughness) -> Result<Pipeline, CliError> {
    pipeline::check_cluster(plan, connection)?;
    tracing::info!(versions = plan.versions.len(), "Loading versions.");
    let engine = Engine::start(&engine_specs(plan, thoroughness), engine_options(plan))?;
    Ok(Pipeline::start(plan, connection, engine)?)
}

/// Takes the address of the admin API. Before anything is loaded: where another has it, a supervisor should not see an
/// instance that joins the group again and again.
pub(super) fn bind_admin(
    plan: &Plan,
    address: SocketAddr,
    storage: Option<&Storage>,
) -> Result<(TcpListener, Tokens), CliError> {
    let tokens = operate::tokens(plan, storage)?;
    let listener = TcpListener::bind(address).map_err(|error| failed(format!("`admin.listen` {address}: {error}")))?;
    Ok((listener, tokens))
}

/// The embedded broker, where the plan wants one.
pub(super) fn start_broker(plan: &Plan) -> Result<Option<EmbeddedBroker>, CliError> {
    if plan.kafka.bootstrap_servers.is_some() {
        return Ok(None);
    }
    let kafka = &plan.kafka;
    let mut topics =
        vec![kafka.requests.as_str(), &kafka.verdicts, &kafka.dead_letters, &kafka.shadows, &kafka.reviews];
    topics.extend(kafka.control.as_deref());
    topics.extend(kafka.retries.iter().map(|retry| retry.topic.as_str()));
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
            let (live, ready, begun) = (service.monitor.clone(), service.monitor.clone(), Instant::now());
            let dead_after = plan.pipeline.dead_after;
            let starting = move || format!("starting and loading versions for {} s", begun.elapsed().as_secs());
            let probes = Probes {
                not_alive: Box::new(move || match live.get() {
                    Some(monitor) => monitor.not_alive(),
                    None => (begun.elapsed() >= dead_after).then(starting),
                }),
                not_ready: Box::new(move || match ready.get() {
                    Some(monitor) => monitor.not_ready(),
                    None => Some(starting()),
                }),
            };
            let limits = http_limits(plan);
            let serving = service.runtime.block_on(telemetry::serve(address, metrics, probes, limits));
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

    /// From now on a stop signal is heard, and waits for [`Self::unless_stopped`] or [`Self::until_stopped`]. Unheard, it would end
    /// the process in the middle of a request, and would not end at all what is the first process of its container.
    pub(super) fn heed_stops(&self) -> Result<Stopping, CliError> {
        let _inside = self.runtime.enter();
        Stopping::new()
    }

    /// Does what comes before the first request; none where a stop signal came before it was done.
    fn unless_stopped<T: Send + 'static>(
        &self,
        stopping: &mut Stopping,
        begin: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Option<T>, CliError> {
        self.runtime.block_on(async {
            tokio::select! {
                begun = tokio::task::spawn_blocking(begin) => begun.map(Some).map_err(failed),
                () = stopping.asked() => Ok(None),
            }
        })
    }

    /// Serves until the program ends.
    pub(super) fn spawn<F>(&self, server: impl FnOnce() -> std::io::Result<F>) -> Result<(), CliError>
    where
        F: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let _inside = self.runtime.enter();
        let server = server().map_err(failed)?;
        self.runtime.spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "The admin API ended.");
            }
        });
        Ok(())
    }

    /// Waits for a stop signal.
    pub(super) fn wait_for_stop(&self, stopping: &mut Stopping) {
        self.runtime.block_on(stopping.asked());
    }

    /// Ends without waiting for what still runs.
    fn end(self) {
        self.runtime.shutdown_background();
    }

    /// Serves the admin API.
    pub(super) fn serve_admin(
        &self,
        listener: TcpListener,
        controller: &Controller,
        reader: Option<&Reader>,
        tokens: Tokens,
        plan: &Plan,
    ) -> Result<(), CliError> {
        let address = listener.local_addr().map_err(failed)?;
        // A change may have to load a large version first.
        let limits = HttpLimits { answer_timeout: admin::ANSWER_MAX, ..http_limits(plan) };
        let evidence = reader.map(Reader::access);
        let served = admin::Served { handle: controller.handle(), switcher: controller.switcher(), evidence };
        self.spawn(|| admin::serve(listener, served, tokens, &plan.admin, limits))?;
        tracing::info!(%address, "Serving the admin API.");
        if !address.ip().is_loopback() {
            tracing::warn!(
                "The admin API is reachable from other machines, without TLS: put a proxy with TLS before it."
            );
        }
        Ok(())
    }

    /// Waits for a stop signal, or for the pipeline's own end; gives back the records that the drain
    /// had no time for. A second signal does not wait for the drain, and no stop lasts for ever. SIGHUP has the settings file read again.
    pub(super) fn until_stopped(
        self,
        mut stopping: Stopping,
        pipeline: Pipeline,
        controller: Controller,
    ) -> Result<usize, CliError> {
        let Self { runtime, mut hang_up, monitor } = self;
        // Set once: a service has one pipeline.
        monitor.set(pipeline.monitor()).ok();
        let (stop, stop_max, control) = (pipeline.stopper(), pipeline.stop_max(), controller.handle());
        let ended = runtime.block_on(async {
            let mut ended = tokio::task::spawn_blocking(move || {
                let left = pipeline.join();
                controller.stop();
                left
            });
            loop {
                tokio::select! {
                    ended = &mut ended => return Ok(ended.map_err(failed)??),
                    () = stopping.asked() => break,
                    _ = hang_up.recv() => control.reload(),
                }
            }
            tracing::info!("Stopping: finishing what is in flight.");
            stop();
            tokio::select! {
                ended = &mut ended => Ok(ended.map_err(failed)??),
                () = stopping.asked() => Err(failed("stopped twice: what was in flight is read again")),
                () = tokio::time::sleep(stop_max) => Err(failed(format!(
                    "the stop took longer than {stop_max:?} (`pipeline.drain_timeout_ms` and `kafka.publish_timeout_ms` together) and \
                     was cut short: what was in flight is read again"
                ))),
            }
        });
        // What has not ended by now is not waited for.
        runtime.shutdown_background();
        ended
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
