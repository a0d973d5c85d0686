//! How log lines look. They go to standard error, so that standard output stays a command's result.

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// A log filter that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("log level `{level}`: {reason}")]
pub struct LogLevelError {
    level: String,
    reason: String,
}

/// Checks a level.
///
/// # Errors
/// When it is not in the notation of `RUST_LOG`.
pub fn check(level: &str) -> Result<(), LogLevelError> {
    filter(level).map(drop)
}

fn filter(level: &str) -> Result<EnvFilter, LogLevelError> {
    EnvFilter::try_new(level).map_err(|error| LogLevelError { level: level.to_owned(), reason: error.to_string() })
}

/// Starts logging; the environment variable `RUST_LOG` wins over `level`. A second call changes
/// nothing.
///
/// # Errors
/// When the level is not in the notation of `RUST_LOG`.
pub fn start(level: &str, json: bool) -> Result<(), LogLevelError> {
    let level = std::env::var("RUST_LOG").unwrap_or_else(|_| level.to_owned());
    let lines = tracing_subscriber::registry().with(filter(&level)?);
    let started = match json {
        true => lines.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).try_init(),
        false => lines.with(fmt::layer().with_target(false).with_writer(std::io::stderr)).try_init(),
    };
    // Only a second call fails, and the first one's choice stands.
    started.ok();
    Ok(())
}
