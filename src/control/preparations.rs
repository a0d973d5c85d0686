//! Threads that make configurations ready: a rollback does not wait for a large model that is being loaded.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
};

use crossbeam_channel::Sender;

use super::controller::Message;
use crate::{
    engine::{Reuse, panic_message},
    pipeline::{SwitchError, Switcher},
    settings::Plan,
};

/// Threads that make configurations ready at a time. Each superseded change whose versions still load has one, and loads that
/// hang would gather them.
const THREADS_MAX: usize = 8;

pub(super) struct Preparations {
    switcher: Switcher,
    worker: Sender<Message>,
    /// Held by each thread.
    running: Arc<()>,
}

impl Preparations {
    /// Results go to `worker`.
    pub(super) fn new(switcher: Switcher, worker: Sender<Message>) -> Self {
        Self { switcher, worker, running: Arc::default() }
    }

    /// Makes a configuration ready on a thread, which sends [`Message::Prepared`] with this ticket. False where too many run.
    pub(super) fn begin(&self, ticket: u64, plan: Plan, reuse: Reuse) -> bool {
        let (switcher, worker, running) = (self.switcher.clone(), self.worker.clone(), self.running.clone());
        // This one and its own clone are two.
        if Arc::strong_count(&running) > THREADS_MAX + 1 {
            return false;
        }
        let prepare = move || {
            // The worker waits for an answer, also from a thread that panics.
            let prepared = catch_unwind(AssertUnwindSafe(|| switcher.prepare(plan, reuse)))
                .unwrap_or_else(|panic| Err(SwitchError::Defect(panic_message(panic.as_ref()))));
            // The controller may have ended.
            worker.send(Message::Prepared(ticket, Box::new(prepared))).ok();
            drop(running);
        };
        thread::Builder::new().name("control-prepare".to_owned()).spawn(prepare).is_ok()
    }
}
