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
    stopping: AtomicBool,
    /// Whether reading stops because too much fails.
    breaker: AtomicBool,
    /// Since when this member was seen without a place in its group.
    outside_since: Mutex<Option<Instant>>,
    /// How long it may be without.
    patience: Duration,
    /// Versions that broke, with the reason.
    unhealthy: Mutex<Vec<(String, String)>>,
    /// Why this machine cannot read images now, where it cannot.
    machine_trouble: Mutex<Option<String>>,
    /// What stands still, if anything.
    stall: Mutex<Option<Stall>>,
    dead_after: Duration,
    started: Instant,
    /// Milliseconds from the start to the last poll.
    polled: AtomicU64,
}

/// Something that may stand still: a record, a stage, a pass, a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stall {
    /// What it is, for people.
    pub(super) what: String,
    /// Since when.
    pub(super) since: Instant,
    /// For how long that is nothing unusual.
    pub(super) patience: Duration,
    /// Whether others wait because of it: a forward pass that hangs keeps records in flight, and is what people want to read.
    pub(super) is_cause: bool,
}

impl Stall {
    /// How much longer than usual it has lasted.
    fn overdue(&self) -> Option<Duration> {
        self.since.elapsed().checked_sub(self.patience)
    }
}

/// A poll loop that has not come round for so long is stuck.
const HEARTBEAT_MAX: Duration = Duration::from_secs(60);

impl Monitor {
    /// `patience` is how long a member may be without a place in its group, `dead_after` how long something may stand still beyond
    /// its own patience.
    pub(super) fn new(patience: Duration, dead_after: Duration) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            verdicts: zero(),
            dead_letters: zero(),
            ready: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            breaker: AtomicBool::new(false),
            outside_since: Mutex::default(),
            patience,
            unhealthy: Mutex::default(),
            machine_trouble: Mutex::default(),
            stall: Mutex::default(),
            dead_after,
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
    /// fails, the group does not let this member in, a version broke, this machine is in trouble, or something stands still.
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
        if let Some(trouble) = self.machine_trouble.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            return Some(format!("this machine cannot read images: {trouble}"));
        }
        if let Some((stall, _)) = self.overdue() {
            return Some(format!("{} for {} s", stall.what, stall.since.elapsed().as_secs()));
        }
        let unhealthy = self.unhealthy.lock().unwrap_or_else(PoisonError::into_inner);
        let told = unhealthy.iter().map(|(version, reason)| format!("version `{version}` broke: {reason}"));
        (!unhealthy.is_empty()).then(|| told.collect::<Vec<_>>().join("; "))
    }

    /// Why a supervisor should start the process again, if so: the poll loop does not come round, or something has stood still for
    /// so long that it will not end by itself.
    pub fn not_alive(&self) -> Option<String> {
        // A stop has a bound of its own, and waits for brokers where the poll loop does not come round.
        if self.stopping.load(Ordering::Acquire) {
            return None;
        }
        let polled = Duration::from_millis(self.polled.load(Ordering::Relaxed));
        if self.started.elapsed().saturating_sub(polled) >= HEARTBEAT_MAX {
            return Some("the poll loop is stuck".to_owned());
        }
        let (stall, overdue) = self.overdue()?;
        let seconds = stall.since.elapsed().as_secs();
        (overdue >= self.dead_after).then(|| format!("{} for {seconds} s", stall.what))
    }

    fn overdue(&self) -> Option<(Stall, Duration)> {
        let stall = self.stall.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let overdue = stall.overdue()?;
        Some((stall, overdue))
    }

    /// A stop was asked for.
    pub(super) fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Notes what stands still longest beyond its patience, causes before symptoms; gives for how long, in seconds.
    pub(super) fn set_stall(&self, stalls: Vec<Stall>) -> f64 {
        let rank = |stall: &Stall| (stall.overdue().map(|overdue| (stall.is_cause, overdue)), stall.since.elapsed());
        let worst = stalls.into_iter().max_by_key(rank);
        let seconds = worst.as_ref().map_or(0.0, |stall| stall.since.elapsed().as_secs_f64());
        *self.stall.lock().unwrap_or_else(PoisonError::into_inner) = worst;
        seconds
    }

    pub(super) fn set_machine_trouble(&self, trouble: Option<String>) {
        *self.machine_trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_still_is_named_and_ends_the_life_of_the_process_later() {
        let monitor = Monitor::new(Duration::from_secs(10), Duration::from_secs(60));
        monitor.set_ready(true);
        let stall = |seconds| Stall {
            what: "requests/3 offset 41 is in flight".to_owned(),
            since: Instant::now() - Duration::from_secs(seconds),
            patience: Duration::from_secs(30),
            is_cause: false,
        };
        monitor.set_stall(vec![stall(29)]);
        assert_eq!((monitor.not_ready(), monitor.not_alive()), (None, None));
        monitor.set_stall(vec![stall(1), stall(31)]);
        assert_eq!(monitor.not_ready().as_deref(), Some("requests/3 offset 41 is in flight for 31 s"));
        assert_eq!(monitor.not_alive(), None);
        let pass = Stall { what: "a forward pass lasts".to_owned(), is_cause: true, ..stall(30) };
        monitor.set_stall(vec![pass, stall(31)]);
        assert_eq!(
            monitor.not_ready().as_deref(),
            Some("a forward pass lasts for 30 s"),
            "the cause before its symptom"
        );
        monitor.set_stall(vec![stall(91)]);
        assert!(monitor.not_alive().unwrap().contains("offset 41"));
        monitor.set_stopping();
        assert_eq!(monitor.not_alive(), None, "the end of a stop is watched elsewhere");
        monitor.set_stall(Vec::new());
        assert_eq!((monitor.not_ready(), monitor.not_alive()), (None, None));
        monitor.set_machine_trouble(Some("Too many open files".to_owned()));
        assert!(monitor.not_ready().unwrap().contains("Too many open files"));
    }
}
