//! What each thread is doing, and since when, so that one that hangs can be named.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::delivery::Ticket;

/// Stages that threads are in now.
#[derive(Clone, Debug, Default)]
pub(super) struct Stages(Arc<Mutex<Vec<Stage>>>);

#[derive(Clone, Copy, Debug)]
struct Stage {
    name: &'static str,
    ticket: Ticket,
    since: Instant,
}

/// A stage that a thread is in until this is dropped.
pub(super) struct InStage {
    stages: Stages,
    since: Instant,
    ticket: Ticket,
}

impl Stages {
    /// Enters a stage with a record.
    pub(super) fn enter(&self, name: &'static str, ticket: Ticket) -> InStage {
        let since = Instant::now();
        self.lock().push(Stage { name, ticket, since });
        InStage { stages: self.clone(), since, ticket }
    }

    /// The stage that a thread is in for longest, with its record.
    pub(super) fn oldest(&self) -> Option<(&'static str, Ticket, Duration)> {
        let oldest = self.lock().iter().min_by_key(|stage| stage.since).copied()?;
        Some((oldest.name, oldest.ticket, oldest.since.elapsed()))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Stage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InStage {
    fn drop(&mut self) {
        self.stages.lock().retain(|stage| (stage.since, stage.ticket) != (self.since, self.ticket));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Source;

    #[test]
    fn the_stage_that_lasts_longest_is_named_until_it_ends() {
        let stages = Stages::default();
        let ticket = |offset| Ticket { source: Source::requests(0), epoch: 1, offset };
        assert!(stages.oldest().is_none());
        let first = stages.enter("decoding", ticket(7));
        let second = stages.enter("reading", ticket(8));
        let (name, oldest, _) = stages.oldest().unwrap();
        assert_eq!((name, oldest.offset), ("decoding", 7));
        drop(first);
        assert_eq!(stages.oldest().unwrap().1.offset, 8);
        drop(second);
        assert!(stages.oldest().is_none());
    }
}
