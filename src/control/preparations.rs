//! Threads that prepare configurations: a rollback does not wait for a large model that is being loaded.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::machine::Ticket;
use crate::{
    engine::{Reuse, panic_message},
    pipeline::{Serving, SwitchError, Switcher},
    settings::Plan,
};

/// Preparations at a time. A cancelled one ends soon, but a load that hangs keeps its thread.
const THREADS_MAX: usize = 8;

pub(super) struct Preparations {
    switcher: Switcher,
    /// Held by each thread.
    running: Arc<()>,
    /// Set to cancel a preparation.
    cancelled: BTreeMap<Ticket, Arc<AtomicBool>>,
}

impl Preparations {
    pub(super) fn new(switcher: Switcher) -> Self {
        Self { switcher, running: Arc::default(), cancelled: BTreeMap::new() }
    }

    /// Prepares a configuration on a thread, which passes the result to `deliver`. False if too many run.
    pub(super) fn begin(
        &mut self,
        ticket: Ticket,
        plan: Plan,
        reuse: Reuse,
        deliver: impl FnOnce(Result<Arc<Serving>, SwitchError>) + Send + 'static,
    ) -> bool {
        // This one and its own clone are two.
        let (switcher, running) = (self.switcher.clone(), self.running.clone());
        if Arc::strong_count(&running) > THREADS_MAX + 1 {
            return false;
        }
        let cancelled = Arc::new(AtomicBool::new(false));
        self.cancelled.insert(ticket, cancelled.clone());
        let prepare = move || {
            // The driver waits for a result, also from a thread that panics.
            let prepared = catch_unwind(AssertUnwindSafe(|| switcher.prepare(plan, reuse, &cancelled)))
                .unwrap_or_else(|panic| Err(SwitchError::Defect(panic_message(panic.as_ref()))));
            deliver(prepared);
            drop(running);
        };
        thread::Builder::new().name("control-prepare".to_owned()).spawn(prepare).is_ok()
    }

    /// Cancels a preparation; its result is still delivered.
    pub(super) fn cancel(&self, ticket: Ticket) {
        if let Some(cancelled) = self.cancelled.get(&ticket) {
            cancelled.store(true, Ordering::Release);
        }
    }

    /// A result was delivered.
    pub(super) fn ended(&mut self, ticket: Ticket) {
        self.cancelled.remove(&ticket);
    }

    /// Unloads what was loaded for nothing. Not while something is being prepared: it may need it.
    pub(super) fn release_unused(&self) {
        if self.cancelled.is_empty() {
            self.switcher.release();
        }
    }
}
