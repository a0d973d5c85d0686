//! What a running pipeline says about itself.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Counts, readiness and the poll loop's heartbeat.
#[derive(Debug)]
pub struct Monitor {
    verdicts: AtomicU64,
    dead_letters: AtomicU64,
    ready: AtomicBool,
    /// Whether reading stops because too much fails.
    breaker: AtomicBool,
    /// Since when this member was seen without a place in its group.
    outside_since: Mutex<Option<Instant>>,
    /// How long it may be without.
    patience: Duration,
    /// Versions that broke, with the reason.
    unhealthy: Mutex<Vec<(String, String)>>,
    started: Instant,
    /// Milliseconds from the start to the last poll.
    polled: AtomicU64,
}

/// A poll loop that has not come round for so long is stuck.
const HEARTBEAT_MAX: Duration = Duration::from_secs(60);

impl Monitor {
    /// `patience` is how long a member may be without a place in its group.
    pub(super) fn new(patience: Duration) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            verdicts: zero(),
            dead_letters: zero(),
            ready: AtomicBool::new(false),
            breaker: AtomicBool::new(false),
            outside_since: Mutex::default(),
            patience,
            unhealthy: Mutex::default(),
            started: Instant::now(),
            polled: zero(),
        }
    }

    /// Verdicts published since the start.
    pub fn verdicts(&self) -> u64 {
        self.verdicts.load(Ordering::Relaxed)
    }

    /// Dead letters published since the start.
    pub fn dead_letters(&self) -> u64 {
        self.dead_letters.load(Ordering::Relaxed)
    }

    /// Why requests are not all answered, if so: versions load, the cluster has not answered, a stop was asked for, too much
    /// fails, the group does not let this member in, or a version broke.
    pub fn not_ready(&self) -> Option<String> {
        if !self.ready.load(Ordering::Acquire) {
            return Some("loading, draining or stopped".to_owned());
        }
        if self.breaker.load(Ordering::Acquire) {
            return Some("the breaker is open: too many dead letters".to_owned());
        }
        if let Some(outside) = self.outside() {
            return Some(format!("without a place in the consumer group for {} s", outside.as_secs()));
        }
        let unhealthy = self.unhealthy.lock().unwrap_or_else(PoisonError::into_inner);
        let told = unhealthy.iter().map(|(version, reason)| format!("version `{version}` broke: {reason}"));
        (!unhealthy.is_empty()).then(|| told.collect::<Vec<_>>().join("; "))
    }

    /// Whether the poll loop still comes round.
    pub fn is_alive(&self) -> bool {
        let polled = Duration::from_millis(self.polled.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(polled) < HEARTBEAT_MAX
    }

    pub(super) fn count_verdict(&self) {
        self.verdicts.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_dead_letter(&self) {
        self.dead_letters.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    pub(super) fn is_breaker_open(&self) -> bool {
        self.breaker.load(Ordering::Acquire)
    }

    pub(super) fn set_breaker(&self, open: bool) {
        self.breaker.store(open, Ordering::Release);
    }

    /// Says whether this member has its place in its group now.
    pub(super) fn set_belongs(&self, belongs: bool) {
        let mut since = self.outside_since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = if belongs { None } else { since.or_else(|| Some(Instant::now())) };
    }

    /// How long this member has had no place in its group, where that is too long.
    pub(super) fn outside(&self) -> Option<Duration> {
        let outside = self.outside_since.lock().unwrap_or_else(PoisonError::into_inner).map(|since| since.elapsed());
        outside.filter(|outside| *outside >= self.patience)
    }

    pub(super) fn set_unhealthy(&self, versions: Vec<(String, String)>) {
        *self.unhealthy.lock().unwrap_or_else(PoisonError::into_inner) = versions;
    }

    pub(super) fn beat(&self) {
        self.polled.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
}
