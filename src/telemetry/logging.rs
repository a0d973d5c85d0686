//! How log lines look. They go to standard error, so that standard output stays a command's result.
//!
//! A thread of its own writes them. Where stderr is not read fast enough, lines are dropped and counted: a full pipe must not hold
//! up the threads that answer requests.

use std::{
    io::{IsTerminal, stderr},
    sync::{Mutex, OnceLock, PoisonError},
};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// A log filter that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("log level `{level}`: {reason}")]
pub struct LogLevelError {
    level: String,
    reason: String,
}

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogStyle {
    /// One JSON object per line.
    pub json: bool,
    /// Lines that may wait to be written.
    pub lines_max: usize,
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

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();
/// Writes what waits when it is dropped.
static WRITER: Mutex<Option<WorkerGuard>> = Mutex::new(None);

/// Starts logging; the environment variable `RUST_LOG` wins over `level`. A second call changes
/// nothing.
///
/// # Errors
/// When the level is not in the notation of `RUST_LOG`.
pub fn start(level: &str, style: LogStyle) -> Result<(), LogLevelError> {
    let level = std::env::var("RUST_LOG").unwrap_or_else(|_| level.to_owned());
    let lines = tracing_subscriber::registry().with(filter(&level)?);
    if DROPPED.get().is_some() {
        return Ok(());
    }
    let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(style.lines_max).thread_name("log");
    let (writer, guard) = builder.finish(stderr());
    // Only a second call fails, and the first one's choice stands.
    DROPPED.set(writer.error_counter()).ok();
    *WRITER.lock().unwrap_or_else(PoisonError::into_inner) = Some(guard);
    let started = if style.json {
        lines.with(fmt::layer().json().flatten_event(true).with_writer(writer)).try_init()
    } else {
        // Colours in a file or a pipe stand in the way of a search. https://no-color.org
        let is_coloured = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        lines.with(fmt::layer().with_target(false).with_ansi(is_coloured).with_writer(writer)).try_init()
    };
    started.ok();
    Ok(())
}

/// Whether logging was started, so that the reason of an end belongs into the log.
pub fn is_started() -> bool {
    DROPPED.get().is_some()
}

/// Lines dropped since the start.
pub fn lines_dropped() -> u64 {
    DROPPED.get().map_or(0, |counter| counter.dropped_lines() as u64)
}

/// Writes what waits, for about a second at most. Called at the end of the process; what is logged afterwards is lost.
pub fn finish() {
    drop(WRITER.lock().unwrap_or_else(PoisonError::into_inner).take());
}
