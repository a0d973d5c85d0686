//! Threads that make configurations ready: a rollback does not wait for a large model that is being loaded.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
};

use crate::{
    engine::{Reuse, panic_message},
    pipeline::{Serving, SwitchError, Switcher},
    settings::Plan,
};

/// Threads that make configurations ready at a time. Each superseded change whose versions still load has one, and loads that
/// hang would gather them.
const THREADS_MAX: usize = 8;

pub(super) struct Preparations {
    switcher: Switcher,
    /// Held by each thread.
    running: Arc<()>,
}

impl Preparations {
    pub(super) fn new(switcher: Switcher) -> Self {
        Self { switcher, running: Arc::default() }
    }

    /// Makes a configuration ready on a thread, which gives it to `deliver`. False where too many run.
    pub(super) fn begin(
        &self,
        plan: Plan,
        reuse: Reuse,
        deliver: impl FnOnce(Result<Arc<Serving>, SwitchError>) + Send + 'static,
    ) -> bool {
        let switcher = self.switcher.clone();
        let running = self.running.clone();
        // This one and its own clone are two.
        if Arc::strong_count(&running) > THREADS_MAX + 1 {
            return false;
        }
        let prepare = move || {
            // The caller waits for a result, also from a thread that panics.
            let prepared = catch_unwind(AssertUnwindSafe(|| switcher.prepare(plan, reuse)))
                .unwrap_or_else(|panic| Err(SwitchError::Defect(panic_message(panic.as_ref()))));
            deliver(prepared);
            drop(running);
        };
        thread::Builder::new().name("control-prepare".to_owned()).spawn(prepare).is_ok()
    }
}
