//! Which sources are read now. Pure: it is told the time.

use std::collections::{BTreeMap, BTreeSet};

use crate::message::Source;

/// What holds sources up.
#[derive(Debug, Default)]
pub struct Flow {
    held: bool,
    leaving: BTreeSet<Source>,
    /// Sources whose next record is not due yet: when it is, in milliseconds since the Unix epoch.
    delayed: BTreeMap<Source, i64>,
}

impl Flow {
    /// Holds everything up, or nothing any more.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Whether everything is held up.
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// Reads no more of a source: it is about to be given up.
    pub fn leave(&mut self, source: Source) {
        self.leaving.insert(source);
    }

    /// Reads no more of a source before this time.
    pub fn delay(&mut self, source: Source, until_ms: i64) {
        self.delayed.insert(source, until_ms);
    }

    /// Delays no longer the sources whose time has come.
    pub fn end_delays(&mut self, now_ms: i64) {
        self.delayed.retain(|_, until_ms| *until_ms > now_ms);
    }

    /// Whether records of a source are taken now.
    pub fn is_open(&self, source: Source) -> bool {
        !self.held && !self.leaving.contains(&source) && !self.delayed.contains_key(&source)
    }

    /// Whether nothing but a delay holds a source up.
    pub fn is_open_but_for_delay(&self, source: Source) -> bool {
        !self.held && !self.leaving.contains(&source)
    }

    /// Sources that wait for a record to be due.
    pub fn delayed(&self) -> usize {
        self.delayed.len()
    }

    /// Forgets that a record is waited for: the source is read from elsewhere.
    pub fn forget_delay(&mut self, source: Source) {
        self.delayed.remove(&source);
    }

    /// Forgets a source that was given up.
    pub fn gone(&mut self, source: Source) {
        self.leaving.remove(&source);
        self.delayed.remove(&source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_read_when_nothing_holds_it_up() {
        let (requests, retries) = (Source::requests(0), Source { topic: 1, partition: 0 });
        let mut flow = Flow::default();
        assert!(flow.is_open(requests));
        flow.hold(true);
        assert!(!flow.is_open(requests) && flow.is_held());
        flow.hold(false);
        flow.leave(requests);
        assert!(!flow.is_open(requests) && flow.is_open(retries));
        flow.gone(requests);
        assert!(flow.is_open(requests), "it came back");

        flow.delay(retries, 1_000);
        flow.end_delays(999);
        assert_eq!((flow.is_open(retries), flow.is_open_but_for_delay(retries), flow.delayed()), (false, true, 1));
        flow.end_delays(1_000);
        assert_eq!((flow.is_open(retries), flow.delayed()), (true, 0));
    }
}
