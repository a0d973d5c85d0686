//! What is known of a version from outside its thread.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// What is known of a version once it is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The device by its own name.
    pub adapter: String,
    /// Memory of weights, position biases and kept images, in bytes.
    pub memory_bytes: u64,
    /// How long loading took, digests and warm-up included.
    pub loading: Duration,
    /// How long the first, empty request took, which shows that it works.
    pub first_request: Duration,
}

/// What a version is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is loaded at its first use, and nobody has asked yet.
    NotLoaded,
    /// It is being loaded.
    Loading,
    /// It answers.
    Ready,
    /// It broke, and is loaded again; requests wait.
    Unhealthy(String),
    /// It was given up, and answers nothing any more.
    Stopped(String),
}

impl State {
    /// Every state as metrics spell it.
    pub const NAMES: [&str; 5] = ["not_loaded", "loading", "ready", "unhealthy", "stopped"];

    /// The state as metrics spell it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NotLoaded => "not_loaded",
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Unhealthy(_) => "unhealthy",
            Self::Stopped(_) => "stopped",
        }
    }
}

/// What a version's thread is busy with: something that may hang.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// It loads the version.
    Load,
    /// It runs a forward pass.
    Pass,
}

/// State and figures of one version, written by its thread.
#[derive(Debug)]
pub(super) struct Status {
    known: Mutex<(State, Option<Loaded>)>,
    busy: Mutex<Option<(Busy, Instant)>>,
}

impl Status {
    pub(super) fn new() -> Self {
        Self { known: Mutex::new((State::NotLoaded, None)), busy: Mutex::new(None) }
    }

    /// What the thread is busy with, and since when.
    pub(super) fn busy(&self) -> Option<(Busy, Instant)> {
        *self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_busy(&self, busy: Option<Busy>) {
        *self.busy.lock().unwrap_or_else(PoisonError::into_inner) = busy.map(|busy| (busy, Instant::now()));
    }

    pub(super) fn state(&self) -> State {
        self.lock().0.clone()
    }

    pub(super) fn loaded(&self) -> Option<Loaded> {
        self.lock().1.clone()
    }

    pub(super) fn is_unhealthy(&self) -> bool {
        matches!(self.lock().0, State::Unhealthy(_))
    }

    pub(super) fn set(&self, state: State) {
        let mut status = self.lock();
        if state != State::Ready {
            status.1 = None;
        }
        status.0 = state;
    }

    pub(super) fn set_loaded(&self, loaded: Loaded) {
        *self.lock() = (State::Ready, Some(loaded));
    }

    pub(super) fn set_memory(&self, bytes: u64) {
        if let Some(loaded) = &mut self.lock().1 {
            loaded.memory_bytes = bytes;
        }
    }

    fn lock(&self) -> MutexGuard<'_, (State, Option<Loaded>)> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
