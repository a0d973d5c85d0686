//! The commands, one file each.

mod brokers;
mod check;
mod config;
mod dead_letters;
mod demo;
mod eval;
mod evidence;
mod explain;
mod models;
mod operate;
mod output;
mod predict;
mod produce;
mod report;
mod requests;
mod reviews;
mod run;
mod synth;
mod topics;
#[cfg(feature = "train")]
mod train;
mod verdicts;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use jiff::{Span, SpanRelativeTo, Timestamp};

use crate::{
    admin::ClientError,
    control::ControlError,
    engine::EngineError,
    kafka::KafkaError,
    pipeline::PipelineError,
    settings::{Plan, SettingsError},
    store::Thoroughness,
    telemetry::logging::{self, LogLevelError},
};

/// Image-text moderation over Kafka: routes each request to one of several OFA visual-entailment
/// models and publishes verdicts with A/B metadata.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the whole program at work on an embedded broker
    Demo(demo::Arguments),
    /// Read requests, publish verdicts, until stopped
    Run(run::Arguments),
    /// Check settings and models without starting
    Check(check::Arguments),
    /// Judge one image and text, without Kafka
    Predict(predict::Arguments),
    /// Say which version would answer and why, or what shares a configuration would give
    Explain(explain::Arguments),
    /// Publish requests from a folder or from JSON lines
    Produce(produce::Arguments),
    /// Look at dead letters, and put them back into the requests topic
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
    /// Create the topics that settings name
    #[command(subcommand)]
    Topics(topics::Command),
    /// Look at verdicts
    #[command(subcommand)]
    Verdicts(verdicts::Command),
    #[command(flatten)]
    Operate(operate::Command),
    /// Show configurations that a running instance served, by the digest that verdicts carry
    #[command(subcommand)]
    Config(config::Command),
    /// Compare the variants of experiments by their verdicts
    Report(report::Arguments),
    /// Give verdicts to people, and read their answers back
    #[command(subcommand)]
    Reviews(reviews::Command),
    /// Read the topics of outcomes, and serve reports of them, without answering requests
    Evidence(evidence::Arguments),
    /// Measure versions on examples whose labels are known
    Eval(eval::Arguments),
    /// Make up a data set of pictures and statements to train and measure on
    Synth(synth::Arguments),
    /// Train a version, from nothing or from another, on labelled examples
    #[cfg(feature = "train")]
    Train(train::Arguments),
    /// Import, pull, list, verify and remove model versions
    #[command(subcommand)]
    Models(models::Command),
}

/// Where the settings are.
#[derive(Args, Clone)]
struct SettingsArguments {
    /// The settings file
    #[arg(long, value_name = "FILE", default_value = "pipeline.toml", env = "OFA_STREAM_CONFIG")]
    config: PathBuf,
}

impl SettingsArguments {
    fn plan(&self) -> Result<Plan, CliError> {
        Ok(Plan::read(&self.config)?)
    }

    fn path(&self) -> &Path {
        &self.config
    }
}

/// How thoroughly versions are checked before they are loaded.
#[derive(Args)]
struct VerifyArguments {
    /// Compare the files of versions with their manifests by size only, not by SHA-256: starts faster
    #[arg(long)]
    skip_verify: bool,
}

impl VerifyArguments {
    fn thoroughness(&self) -> Thoroughness {
        if self.skip_verify { Thoroughness::Sizes } else { Thoroughness::Hashes }
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    LogLevel(#[from] LogLevelError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{0}")]
    Failed(String),
}

/// `EX_CONFIG` of sysexits: the settings cannot work, and starting again does not help.
const EXIT_SETTINGS: u8 = 78;
/// `EX_TEMPFAIL` of sysexits: the outcome of a change is unknown. Look at `status`.
const EXIT_UNKNOWN: u8 = 75;

impl CliError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Settings(_) | Self::LogLevel(_) | Self::Kafka(KafkaError::Client(_)) => ExitCode::from(EXIT_SETTINGS),
            Self::Pipeline(PipelineError::Kafka(KafkaError::Client(_))) => ExitCode::from(EXIT_SETTINGS),
            Self::Control(ControlError::Settings(_) | ControlError::Unreadable { .. }) => ExitCode::from(EXIT_SETTINGS),
            Self::Client(error) if error.is_unknown(false) => ExitCode::from(EXIT_UNKNOWN),
            Self::Engine(error) if error.is_settings() => ExitCode::from(EXIT_SETTINGS),
            _ => ExitCode::FAILURE,
        }
    }
}

/// A time, or an age: how long ago it was.
fn since(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let age = text.parse::<Span>().and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
    let time = age.and_then(|age| Timestamp::now().checked_sub(age));
    time.map_err(|_| "is no time: write 2026-12-01T08:00:00Z, or an age such as 7d".to_owned())
}

fn failed(error: impl std::fmt::Display) -> CliError {
    CliError::Failed(error.to_string())
}

/// Reads the command line, runs the command, and prints its error with what to do about it.
pub fn main() -> ExitCode {
    let command = Arguments::parse().command;
    // A service's last words belong into its log, where they are looked for.
    let is_service = matches!(command, Command::Run(_) | Command::Evidence(_));
    let done = run_command(&command);
    let code = match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if is_service && logging::is_started() && tracing::enabled!(tracing::Level::ERROR) {
                tracing::error!(%error, "The process ends.");
            } else {
                output::error(&error);
            }
            error.exit_code()
        }
    };
    logging::finish();
    if output::is_complete() {
        code
    } else {
        output::error("what was printed could not be written as a whole");
        ExitCode::FAILURE
    }
}

fn run_command(command: &Command) -> Result<(), CliError> {
    match command {
        Command::Demo(arguments) => demo::run(arguments),
        Command::Run(arguments) => run::run(arguments),
        Command::Check(arguments) => check::run(arguments),
        Command::Predict(arguments) => predict::run(arguments),
        Command::Explain(arguments) => explain::run(arguments),
        Command::Produce(arguments) => produce::run(arguments),
        Command::DeadLetters(command) => dead_letters::run(command),
        Command::Topics(command) => topics::run(command),
        Command::Verdicts(command) => verdicts::run(command),
        Command::Operate(command) => operate::run(command),
        Command::Config(command) => config::run(command),
        Command::Report(arguments) => report::run(arguments),
        Command::Reviews(command) => reviews::run(command),
        Command::Evidence(arguments) => evidence::run(arguments),
        Command::Eval(arguments) => eval::run(arguments),
        Command::Synth(arguments) => synth::run(arguments),
        #[cfg(feature = "train")]
        Command::Train(arguments) => train::run(arguments),
        Command::Models(command) => models::run(command),
    }
}
