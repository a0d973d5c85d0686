//! `demo`: the whole program at work on an embedded broker, with requests from `testdata/demo`.
//!
//! * `collect`: feeds the requests and gathers what comes out.
//! * `report`: the tables; `sheet`: the pictures.
//! * `rollback`: an experiment that goes wrong, and the way back; `guard`: one that a guard pauses; `stage`: what both share.

mod collect;
mod guard;
mod report;
mod rollback;
mod sheet;
mod stage;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{CliError, SettingsArguments, VerifyArguments, failed, output, report::html, run};
use crate::{
    control::{self, ControlTopic, Controller, Storage},
    engine::Engine,
    evidence::{Criteria, Language},
    evidence_store::{EvidenceReport, Reader, ReaderOptions},
    kafka::Connection,
    pipeline::{Pipeline, connection, engine_options, engine_specs, instance_name},
    settings::Plan,
    store::Thoroughness,
    telemetry::logging,
};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: SettingsArguments,
    #[command(flatten)]
    verify: VerifyArguments,
    /// Requests to publish, beginning the file anew as often as needed; without it, each line once
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    requests: Option<u32>,
    /// Where the requests are, one per line
    #[arg(long, value_name = "FILE", default_value = "testdata/demo/requests.jsonl")]
    source: PathBuf,
    /// Instead, run an experiment, have its treatment break, and roll back
    #[arg(long, conflicts_with_all = ["requests", "keep_running"])]
    rollback: bool,
    /// Instead, run an experiment, have its treatment break, and watch a guard pause it
    #[arg(long, conflicts_with_all = ["requests", "keep_running", "rollback", "sheet"])]
    guard: bool,
    /// Where to write the comparison of the variants, as a page
    #[arg(long, value_name = "FILE.html", conflicts_with = "rollback")]
    report: Option<PathBuf>,
    /// Leave broker and pipeline running afterwards, and say how to use them
    #[arg(long)]
    keep_running: bool,
    /// Where to write the pictures with their verdicts, as a page
    #[arg(long, value_name = "FILE.html", conflicts_with = "rollback")]
    sheet: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Nothing coming out for so long means that a request got lost.
const SILENCE_MAX: Duration = Duration::from_secs(60);

pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let plan = plan(&arguments.settings)?;
    if arguments.rollback {
        // The story tells what happens; every failure that is part of it would be a line.
        logging::start("off", run::log_style(&plan))?;
        return rollback::tell(arguments);
    }
    if arguments.guard {
        logging::start("off", run::log_style(&plan))?;
        return guard::tell(arguments);
    }
    logging::start("error", run::log_style(&plan))?;
    let say = |text: String| {
        if !arguments.json {
            output::line(text);
        }
    };
    let service = if arguments.keep_running { Some(run::Service::start(&plan)?) } else { None };
    let broker = run::start_broker(&plan)?.ok_or_else(|| failed("the embedded broker did not start"))?;
    let address = broker.bootstrap_servers();
    say(format!(
        "embedded broker at {address}, topics {}, {}, {}",
        plan.kafka.requests, plan.kafka.verdicts, plan.kafka.dead_letters
    ));
    let loading = spinner("loading versions");
    let engine = Engine::start(&engine_specs(&plan, arguments.verify.thoroughness()), engine_options(&plan))?;
    loading.finish_and_clear();
    for version in engine.versions() {
        let (identity, millions) = (version.identity(), version.identity().parameters as f64 / 1e6);
        let when = version
            .loaded()
            .map_or("loaded at its first use".to_owned(), |it| format!("loaded in {:.2} s", it.loading.as_secs_f64()));
        say(format!("version {} on {}, {millions:.2} M parameters, {when}", identity.name, identity.device));
    }
    say("a shop's stickers and what their sellers say of them; the versions in models/ were trained on such pictures, and on nothing else\n".to_owned());
    let connection = connection(&plan, Some(address.clone()));
    let pipeline = Pipeline::start(&plan, &connection, engine)?;
    let requests = collect::requests(&plan, &arguments.source, arguments.requests)?;
    let progress = bar(requests.len())?;
    let gathered = collect::all(&plan, &connection, &requests, SILENCE_MAX, &progress);
    progress.finish_and_clear();
    let gathered = gathered?;
    let report = report::Report::new(&gathered);
    if arguments.json {
        output::json(&report);
    } else {
        output::raw(report.text());
    }
    match &arguments.sheet {
        Some(sheet) => {
            std::fs::write(sheet, sheet::html(&requests, &gathered))
                .map_err(|error| failed(format!("{}: {error}", sheet.display())))?;
            say(format!("the pictures with their verdicts: {}", sheet.display()));
        }
        None => say("to see the pictures with their verdicts, add --sheet demo.html".to_owned()),
    }
    if let Some(file) = &arguments.report {
        let options = ReaderOptions::of(connection.clone(), &plan.kafka, &plan.evidence.store);
        let reader = Reader::start(options, None).map_err(failed)?;
        super::evidence::until_caught_up(&reader)?;
        html_report(file, &reader.access().report(Criteria::default(), None))?;
        say(format!("the comparison of the variants: {}", file.display()));
    }
    match service {
        Some(service) => {
            let (settings, thoroughness) = (&arguments.settings, arguments.verify.thoroughness());
            let controller = control(&plan, settings, &connection, &pipeline, thoroughness, on_this_machine)?;
            let reader = run::start_evidence(&plan, &connection, &controller)?;
            if let Some(address) = plan.admin.listen {
                let storage = plan.control.directory.as_deref().map(Storage::open).transpose()?;
                let (listener, tokens) = run::bind_admin(&plan, address, storage.as_ref())?;
                service.serve_admin(listener, &controller, reader.as_ref(), tokens, &plan)?;
            }
            say(report::how_to_go_on(&plan, &address));
            let stopping = service.heed_stops()?;
            service.until_stopped(stopping, pipeline, controller)?;
        }
        None => {
            pipeline.stopper()();
            pipeline.join()?;
        }
    }
    match gathered.unanswered() {
        0 => Ok(()),
        lost => Err(failed(format!("{lost} requests got neither a verdict nor a dead letter"))),
    }
}

/// Writes a report as a page.
fn html_report(file: &Path, report: &EvidenceReport) -> Result<(), CliError> {
    let page = html::page(&report.summary, Some(report), Language::English);
    std::fs::write(file, page).map_err(|error| failed(format!("{}: {error}", file.display())))
}

fn plan(settings: &SettingsArguments) -> Result<Plan, CliError> {
    Ok(on_this_machine(settings.plan()?))
}

/// Whatever cluster the settings name, the demo stays on this machine.
fn on_this_machine(mut plan: Plan) -> Plan {
    plan.kafka.bootstrap_servers = None;
    plan.kafka.options.clear();
    plan
}

/// What changes the configuration while the demo runs. It remembers nothing: the next demo begins anew.
fn control(
    plan: &Plan,
    settings: &SettingsArguments,
    connection: &Connection,
    pipeline: &Pipeline,
    thoroughness: Thoroughness,
    adapt: fn(Plan) -> Plan,
) -> Result<Controller, CliError> {
    let file = std::fs::read_to_string(settings.path()).map_err(failed)?;
    let topic = ControlTopic::open(connection, &plan.kafka)?;
    let mut memory = control::Memory::of_file(&file);
    memory.group.clone_from(&plan.kafka.group_id);
    if let Some(topic) = &topic {
        memory.topic.clone_from(&topic.contents.topic);
    }
    let start = control::Start {
        path: settings.path().to_owned(),
        file,
        memory,
        out_of_sync: None,
        republish: false,
        ask: false,
        storage: None,
        topic,
        configs: None,
        plan: plan.control.clone(),
        instance: instance_name(plan),
        adapt,
    };
    Controller::start(start, pipeline.switcher(thoroughness)).map_err(failed)
}

fn spinner(text: &'static str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(text);
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

fn bar(requests: usize) -> Result<ProgressBar, CliError> {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} answered  {msg}").map_err(failed)?;
    let bar = ProgressBar::new(requests as u64).with_style(style);
    bar.set_message("waiting for the group to form, about 3 s");
    bar.enable_steady_tick(Duration::from_millis(200));
    Ok(bar)
}
