//! Which sources are read now. Pure: it is told the time, and says what is to be paused and resumed.
//!
//! Pausing throws away what the client has fetched ahead, so a source is paused only when it must be, and only once.

use std::collections::{BTreeMap, BTreeSet};

use crate::message::Source;

/// What holds sources up, and what was told to the client.
#[derive(Debug, Default)]
pub struct Flow {
    held: bool,
    leaving: BTreeSet<Source>,
    /// Records that are not due yet: their offset, and when they are, in milliseconds since the Unix epoch.
    delayed: BTreeMap<Source, (i64, i64)>,
    paused: BTreeSet<Source>,
}

/// What the client is to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// To be read from this offset, before anything is resumed.
    pub seek: Vec<(Source, i64)>,
    /// To be paused.
    pub pause: Vec<Source>,
    /// To be resumed.
    pub resume: Vec<Source>,
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

    /// Reads a source from this offset only when its time has come.
    pub fn delay(&mut self, source: Source, offset: i64, until_ms: i64) {
        self.delayed.insert(source, (offset, until_ms));
    }

    /// Forgets that a record is to be waited for: the source is read from elsewhere.
    pub fn forget_delay(&mut self, source: Source) {
        self.delayed.remove(&source);
    }

    /// Whether a record of this source must not be taken now, whatever the client still hands over.
    pub fn is_shut(&self, source: Source) -> bool {
        self.leaving.contains(&source) || self.delayed.contains_key(&source)
    }

    /// Sources that wait for a record to be due.
    pub fn delayed(&self) -> usize {
        self.delayed.len()
    }

    /// Forgets a source that was given up.
    pub fn gone(&mut self, source: Source) {
        self.leaving.remove(&source);
        self.delayed.remove(&source);
        self.paused.remove(&source);
    }

    /// What the client is to be told, so that of the sources `owned` exactly those are read that should be.
    pub fn turn(&mut self, owned: &[Source], now_ms: i64) -> Turn {
        let due = |(source, (offset, until_ms)): (&Source, &(i64, i64))| {
            (*until_ms <= now_ms && !self.leaving.contains(source)).then_some((*source, *offset))
        };
        let seek: Vec<(Source, i64)> = self.delayed.iter().filter_map(due).collect();
        seek.iter().for_each(|(source, _)| {
            self.delayed.remove(source);
        });
        let (stopped, reading): (Vec<Source>, Vec<Source>) =
            owned.iter().partition(|source| self.held || self.is_shut(**source));
        let pause: Vec<Source> = stopped.into_iter().filter(|source| self.paused.insert(*source)).collect();
        let resume: Vec<Source> = reading.into_iter().filter(|source| self.paused.remove(source)).collect();
        Turn { seek, pause, resume }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(seek: &[(Source, i64)], pause: &[Source], resume: &[Source]) -> Turn {
        Turn { seek: seek.to_vec(), pause: pause.to_vec(), resume: resume.to_vec() }
    }

    #[test]
    fn each_source_is_paused_and_resumed_once_for_whatever_reasons() {
        let (a, b, retries) = (Source::requests(0), Source::requests(1), Source { topic: 1, partition: 0 });
        let mut flow = Flow::default();
        assert_eq!(flow.turn(&[a, b], 0), turn(&[], &[], &[]));
        flow.hold(true);
        assert_eq!(flow.turn(&[a, b], 0), turn(&[], &[a, b], &[]));
        // One that comes while all is held up begins unpaused at the client.
        assert_eq!(flow.turn(&[a, b, retries], 0), turn(&[], &[retries], &[]));
        flow.leave(a);
        flow.hold(false);
        assert_eq!(flow.turn(&[a, b, retries], 0), turn(&[], &[], &[b, retries]));
        flow.delay(retries, 7, 1_000);
        assert!(flow.is_shut(retries) && !flow.is_shut(b));
        assert_eq!(flow.turn(&[a, b, retries], 999), turn(&[], &[retries], &[]));
        assert_eq!(flow.turn(&[a, b, retries], 1_000), turn(&[(retries, 7)], &[], &[retries]));
        flow.gone(a);
        assert_eq!(flow.turn(&[b, retries], 1_000), turn(&[], &[], &[]));
        assert_eq!(flow.turn(&[a, b, retries], 1_000), turn(&[], &[], &[]), "a came back, and is read");
    }
}
