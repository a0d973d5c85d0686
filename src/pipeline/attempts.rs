//! What earlier tries of records came to, until their outcome is committed. An aborted transaction has its records read again; the
//! second try keeps the first answer and its timings, or comparisons would take it for an answer that was cached.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    delivery::Ticket,
    engine::{AnswerKey, Judged},
    message::Source,
};

/// Tries of records that are not committed. Partitions that go to another member may come back with the same records, so only
/// their commit, or newer records in their room, removes them.
#[derive(Debug)]
pub(super) struct Attempts {
    /// Zero where nothing is ever aborted.
    records_max: usize,
    known: Mutex<Known>,
}

type Place = (Source, i64);

#[derive(Debug, Default)]
struct Known {
    attempts: HashMap<Place, Attempt>,
    /// Places by the order in which they were first tried.
    order: BTreeMap<u64, Place>,
    begun: u64,
}

#[derive(Debug, Default)]
struct Attempt {
    number: u64,
    tries: usize,
    first: Option<FirstAnswer>,
}

/// The first answer to a record, and what it took.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FirstAnswer {
    /// What it was routed and judged by: another configuration may give another answer.
    pub(super) config_digest: String,
    pub(super) model_digest: String,
    /// The picture and texts. A topic that is made again has other records at the same offsets.
    pub(super) content: AnswerKey,
    pub(super) judged: Judged,
    pub(super) fetching: Duration,
    pub(super) preparing: Duration,
    pub(super) latency: Duration,
}

impl Attempts {
    /// Keeps tries of so many records.
    pub(super) fn new(records_max: usize) -> Self {
        Self { records_max, known: Mutex::default() }
    }

    /// Counts a try; gives how many there were, this one included.
    pub(super) fn begin(&self, ticket: Ticket) -> usize {
        if self.records_max == 0 {
            return 1;
        }
        let place = (ticket.source, ticket.offset);
        let known = &mut *self.lock();
        if !known.attempts.contains_key(&place) {
            known.insert(place, self.records_max);
        }
        let attempt = known.attempts.entry(place).or_default();
        attempt.tries += 1;
        attempt.tries
    }

    /// The first answer to a record, where it was given by this configuration and this version to the same content.
    pub(super) fn first(
        &self,
        ticket: Ticket,
        config_digest: &str,
        model_digest: &str,
        content: &AnswerKey,
    ) -> Option<FirstAnswer> {
        let known = self.lock();
        let first = known.attempts.get(&(ticket.source, ticket.offset))?.first.as_ref()?;
        let is_by = first.config_digest == config_digest && first.model_digest == model_digest;
        (is_by && first.content == *content).then(|| first.clone())
    }

    /// Keeps an answer, unless there is an earlier one by the same configuration and version.
    pub(super) fn answered(&self, ticket: Ticket, answer: FirstAnswer) {
        if let Some(attempt) = self.lock().attempts.get_mut(&(ticket.source, ticket.offset)) {
            let is_same = |first: &FirstAnswer| {
                (&first.config_digest, &first.model_digest, first.content)
                    == (&answer.config_digest, &answer.model_digest, answer.content)
            };
            if !attempt.first.as_ref().is_some_and(is_same) {
                attempt.first = Some(answer);
            }
        }
    }

    /// Forgets a record whose outcome is committed.
    pub(super) fn settled(&self, ticket: Ticket) {
        let mut known = self.lock();
        if let Some(attempt) = known.attempts.remove(&(ticket.source, ticket.offset)) {
            known.order.remove(&attempt.number);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Adds a place; the oldest one goes where there is no room.
    fn insert(&mut self, place: Place, records_max: usize) {
        if self.attempts.len() >= records_max
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.attempts.remove(&oldest);
        }
        self.begun += 1;
        self.order.insert(self.begun, place);
        self.attempts.insert(place, Attempt { number: self.begun, ..Attempt::default() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ImageId;

    fn ticket(partition: i32, offset: i64) -> Ticket {
        Ticket { source: Source::requests(partition), epoch: 1, offset }
    }

    fn content(text: &str) -> AnswerKey {
        AnswerKey::new(&ImageId::of(&[1]), &[text.to_owned()], None)
    }

    fn answer(config: &str, milliseconds: u64) -> FirstAnswer {
        let time = Duration::from_millis(milliseconds);
        FirstAnswer {
            config_digest: config.to_owned(),
            model_digest: "m".to_owned(),
            content: content("a"),
            judged: Judged { scores: Vec::new(), queued: time, inference: time, batch: 1, cached: false },
            fetching: time,
            preparing: time,
            latency: time,
        }
    }

    #[test]
    fn a_second_try_keeps_the_first_answer_until_it_is_committed() {
        let attempts = Attempts::new(10);
        assert_eq!((attempts.begin(ticket(0, 7)), attempts.first(ticket(0, 7), "c", "m", &content("a"))), (1, None));
        attempts.answered(ticket(0, 7), answer("c", 30));
        let again = Ticket { epoch: 2, ..ticket(0, 7) };
        assert_eq!(attempts.begin(again), 2);
        attempts.answered(again, answer("c", 1));
        assert_eq!(attempts.first(again, "c", "m", &content("a")), Some(answer("c", 30)));
        assert_eq!(
            attempts.first(again, "other", "m", &content("a")),
            None,
            "another configuration may answer otherwise"
        );
        assert_eq!(attempts.first(again, "c", "m", &content("b")), None, "the topic was made again");
        attempts.settled(again);
        assert_eq!((attempts.begin(again), attempts.first(again, "c", "m", &content("a"))), (1, None));
    }

    #[test]
    fn beyond_the_bound_the_oldest_records_are_forgotten() {
        let attempts = Attempts::new(2);
        for offset in 0..5 {
            assert_eq!(attempts.begin(ticket(0, offset)), 1);
        }
        assert_eq!(attempts.begin(ticket(0, 4)), 2);
        assert_eq!(attempts.begin(ticket(0, 0)), 1, "it was forgotten");
        attempts.settled(ticket(0, 0));
        assert_eq!(attempts.lock().order.len(), 1);
        assert_eq!(Attempts::new(0).begin(ticket(0, 0)), 1);
    }
}
