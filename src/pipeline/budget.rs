//! Memory that all threads share, counted in bytes: decoders, and prepared pictures.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// A number of bytes that threads share. A clone is the same budget.
#[derive(Clone, Debug)]
pub(super) struct ByteBudget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug)]
struct State {
    bytes_max: u64,
    used: u64,
}

/// Bytes that one request holds, given back when this is dropped.
#[derive(Debug)]
pub(super) struct BytePermit {
    budget: ByteBudget,
    bytes: u64,
}

/// How soon a waiting thread notices that its request is not wanted any more.
const LOOK: Duration = Duration::from_millis(100);

impl ByteBudget {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self(Arc::new(Shared { state: Mutex::new(State { bytes_max, used: 0 }), freed: Condvar::new() }))
    }

    /// Changes its size. Permits that are out stay.
    pub(super) fn resize(&self, bytes_max: u64) {
        self.lock().bytes_max = bytes_max;
        self.0.freed.notify_all();
    }

    /// Bytes that permits hold now.
    pub(super) fn used(&self) -> u64 {
        self.lock().used
    }

    /// Waits until so many bytes are free; none where `gives_up` says meanwhile that the request is not wanted any more. One that
    /// needs more than the whole budget is let in when nothing else is: it would wait for ever.
    pub(super) fn acquire(&self, bytes: u64, gives_up: impl Fn() -> bool) -> Option<BytePermit> {
        let mut state = self.lock();
        while state.used > 0 && state.used.saturating_add(bytes) > state.bytes_max {
            if gives_up() {
                return None;
            }
            let waited = self.0.freed.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.used = state.used.saturating_add(bytes);
        Some(BytePermit { budget: self.clone(), bytes })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for BytePermit {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        state.used = state.used.saturating_sub(self.bytes);
        self.budget.0.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        thread,
    };

    use super::*;

    #[test]
    fn permits_never_hold_more_than_the_budget_together() {
        let budget = ByteBudget::new(100);
        let (held, most) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for thread in 0..8 {
                let (budget, held, most) = (&budget, &held, &most);
                scope.spawn(move || {
                    for round in 0..200 {
                        let bytes = 1 + (thread * 37 + round * 11) % 100;
                        let permit = budget.acquire(bytes, || false).unwrap();
                        let now = held.fetch_add(bytes, Ordering::SeqCst) + bytes;
                        most.fetch_max(now, Ordering::SeqCst);
                        held.fetch_sub(bytes, Ordering::SeqCst);
                        drop(permit);
                    }
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= 100 && budget.used() == 0);
    }

    #[test]
    fn a_request_larger_than_the_budget_goes_alone_and_one_that_is_not_wanted_gives_up() {
        let budget = ByteBudget::new(100);
        budget.resize(10);
        let large = budget.acquire(50, || false).unwrap();
        assert!(budget.acquire(1, || true).is_none());
        drop(large);
        assert_eq!(budget.used(), 0);
    }
}
