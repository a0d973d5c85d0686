//! `evidence`: reads the topics of outcomes and serves reports, without answering requests.

use std::time::Duration;

use clap::Args;

use super::{CliError, brokers::Brokers, failed, output, run};
use crate::{
    admin,
    control::Storage,
    evidence_store::{Progress, Reader, ReaderOptions},
    http::HttpLimits,
    telemetry::logging,
};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    brokers: Brokers,
    /// Read what the topics hold now, and end
    #[arg(long)]
    once: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let (plan, connection) = arguments.brokers.connect()?;
    logging::start(&plan.telemetry.log_level, run::log_style(&plan))?;
    let options = ReaderOptions::of(connection, &plan.kafka, &plan.evidence.store);
    if arguments.once {
        let reader = Reader::start(options, None).map_err(failed)?;
        let progress = until_caught_up(&reader)?;
        output::line(format!("{} records are counted; `ofa-stream report` compares the variants", progress.records));
        return Ok(());
    }

    let service = run::Service::start(&plan)?;
    let mut stopping = service.heed_stops()?;
    let storage = plan.control.directory.as_deref().map(Storage::open).transpose()?;
    let admin = plan.admin.listen.map(|address| run::bind_admin(&plan, address, storage.as_ref())).transpose()?;
    let reader = Reader::start(options, None).map_err(failed)?;
    if let Some((listener, tokens)) = admin {
        let limits: HttpLimits = run::http_limits(&plan);
        let address = listener.local_addr().map_err(failed)?;
        service.spawn(|| admin::serve_evidence(listener, reader.access(), tokens, &plan.admin, limits))?;
        tracing::info!(%address, "Serving /v1/evidence.");
    }
    tracing::info!("Reading evidence.");
    service.wait_for_stop(&mut stopping);
    tracing::info!("Stopped.");
    Ok(())
}

/// Waits until every partition was read to its end.
pub(super) fn until_caught_up(reader: &Reader) -> Result<Progress, CliError> {
    loop {
        let progress = reader.access().progress();
        if let Some(failure) = progress.failure {
            return Err(failed(failure));
        }
        if progress.caught_up {
            return Ok(progress);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
