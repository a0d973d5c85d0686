//! What a worker is asked, and where its answer goes.

use std::time::Duration;

use super::{AnswerKey, InferenceError, Prepared};
use crate::message::Scores;

/// What a worker is asked to do.
pub struct Job {
    /// The request.
    pub prepared: Prepared,
    /// Asked when the batch is formed: a request that nobody waits for any more costs nothing.
    pub wanted: Box<dyn Fn() -> bool + Send>,
    /// Where the answer goes.
    pub reply: Reply,
    /// Under what the answer is kept, where answers are.
    pub answer_key: Option<AnswerKey>,
}

type Answered = Box<dyn FnOnce(Result<Judged, InferenceError>) + Send>;

/// Where an answer goes, called on the worker's thread. One that is dropped without an answer, because
/// its worker ended, answers that: a request never waits for nothing.
pub struct Reply(Option<Answered>);

impl Reply {
    /// A reply that calls this.
    pub fn new(answered: impl FnOnce(Result<Judged, InferenceError>) + Send + 'static) -> Self {
        Self(Some(Box::new(answered)))
    }

    /// Answers.
    pub(super) fn send(mut self, judged: Result<Judged, InferenceError>) {
        if let Some(answered) = self.0.take() {
            answered(judged);
        }
    }

    /// Lets a request go that nobody waits for.
    pub fn discard(mut self) {
        self.0 = None;
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(answered) = self.0.take() {
            answered(Err(InferenceError::Stopped("its worker ended".to_owned())));
        }
    }
}

/// An answer, and what it took.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// Scores of each text.
    pub scores: Vec<Scores>,
    /// Time in the queue.
    pub queued: Duration,
    /// Time of the forward pass that this request was part of.
    pub inference: Duration,
    /// Requests in that pass.
    pub batch: usize,
    /// Whether the answer was kept from an earlier request, and no pass was needed.
    pub cached: bool,
}
