//! What a worker runs, and who is to blame when it fails.

use std::time::Duration;

use super::{Prepared, Shape, Size};
use crate::{message::Scores, ofa::Interrupt};

/// The scores of each text of a request.
pub type Answer = Result<Vec<Scores>, InferenceError>;

/// A request that the network did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InferenceError {
    /// The answer is not a number.
    #[error("the network's answer is not a finite number")]
    NotFinite,
    /// A text is longer than the model has positions.
    #[error("a text has {tokens} tokens with its prompt, this version has positions for {tokens_max}")]
    TooManyTokens {
        /// What it has.
        tokens: usize,
        /// What the version can hold.
        tokens_max: usize,
    },
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(String),
    /// The version answers nothing any more.
    #[error("the version has stopped working: {0}")]
    Stopped(String),
}

impl InferenceError {
    /// The stable code of this error: the metric label and the dead-letter header.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFinite => "inference_not_finite",
            Self::TooManyTokens { .. } => "text_too_long",
            Self::Device(_) => "inference_failed",
            Self::Stopped(_) => "version_stopped",
        }
    }
}

/// A pass that gave no answers at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassError {
    /// It was asked to give up.
    Interrupted,
    /// It failed; some request of the batch may be to blame, or the version.
    Failed(String),
}

/// What a worker runs: a loaded model, or something that stands in for one.
pub trait Judge {
    /// One pass over a batch: an answer for each request, in order.
    ///
    /// # Errors
    /// When the pass as a whole gave no answers.
    fn attempt(&mut self, batch: &[&Prepared], interrupt: Option<&Interrupt>) -> Result<Vec<Answer>, PassError>;

    /// Whether a request that always works is answered: if not, the version is broken.
    fn works(&mut self) -> bool {
        true
    }

    /// How its passes are shaped.
    fn shape(&self) -> Shape {
        Shape::default()
    }

    /// About what a pass over these requests holds, in bytes.
    fn pass_bytes(&self, requests: &[Size]) -> u64 {
        let _ = requests;
        0
    }

    /// The device by its own name.
    fn adapter(&self) -> String {
        String::new()
    }

    /// Memory that it holds, in bytes.
    fn memory_bytes(&self) -> u64 {
        0
    }

    /// How long its first, empty request took.
    fn first_request(&self) -> Duration {
        Duration::ZERO
    }

    /// Images of the last pass whose features were kept from before, and all of its images.
    fn images_reused(&self) -> (usize, usize) {
        (0, 0)
    }

    /// Judges a batch; a version that breaks answers so for all that it has not answered.
    fn judge(&mut self, batch: &[&Prepared]) -> Vec<Answer> {
        let Attempt { answers, end } = attempt(self, batch, None);
        let reason = match end {
            End::Broken(reason) => reason,
            End::Whole | End::Interrupted => "it gave no answer".to_owned(),
        };
        answers
            .into_iter()
            .map(|answer| answer.unwrap_or_else(|| Err(InferenceError::Stopped(reason.clone()))))
            .collect()
    }
}

/// What came of a batch.
pub(super) struct Attempt {
    /// In the batch's order; none for requests that nothing is known of yet.
    pub(super) answers: Vec<Option<Answer>>,
    pub(super) end: End,
}

/// How a batch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Every request has its answer.
    Whole,
    /// It was given up for another.
    Interrupted,
    /// The version answers not even a request that always works.
    Broken(String),
}

/// Judges a batch. One that fails as a whole is halved until the bad request stands alone, so that it does not cost
/// its neighbours. Where one fails alone and the request that always works does too, it is not the request: the version
/// is broken, and what it has not answered stays open.
pub(super) fn attempt<J: Judge + ?Sized>(judge: &mut J, batch: &[&Prepared], interrupt: Option<&Interrupt>) -> Attempt {
    let open = |end: End| Attempt { answers: vec![None; batch.len()], end };
    match judge.attempt(batch, interrupt) {
        Ok(answers) => Attempt { answers: answers.into_iter().map(Some).collect(), end: End::Whole },
        Err(PassError::Interrupted) => open(End::Interrupted),
        Err(PassError::Failed(_)) if batch.len() > 1 => {
            let (first, second) = batch.split_at(batch.len() / 2);
            let mut whole = attempt(judge, first, interrupt);
            match whole.end {
                End::Whole => {
                    let rest = attempt(judge, second, interrupt);
                    whole.answers.extend(rest.answers);
                    whole.end = rest.end;
                }
                _ => whole.answers.resize(batch.len(), None),
            }
            whole
        }
        Err(PassError::Failed(reason)) if judge.works() => {
            Attempt { answers: vec![Some(Err(InferenceError::Device(reason))); batch.len()], end: End::Whole }
        }
        Err(PassError::Failed(reason)) => open(End::Broken(reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::prepare::tests::numbered;

    /// Fails every pass that holds one of these requests; broken once it met `fatal`.
    struct Touchy {
        bad: Vec<u32>,
        fatal: Option<u32>,
        broken: bool,
        passes: usize,
    }

    impl Judge for Touchy {
        fn attempt(&mut self, batch: &[&Prepared], _: Option<&Interrupt>) -> Result<Vec<Answer>, PassError> {
            self.passes += 1;
            let numbers: Vec<u32> = batch.iter().map(|request| request.sources[0][0]).collect();
            self.broken |= self.fatal.is_some_and(|fatal| numbers == [fatal]);
            match self.broken || numbers.iter().any(|number| self.bad.contains(number) || Some(*number) == self.fatal) {
                true => Err(PassError::Failed("it would not".to_owned())),
                false => Ok(batch.iter().map(|_| Ok(vec![Scores::default()])).collect()),
            }
        }

        fn works(&mut self) -> bool {
            !self.broken
        }
    }

    fn run(bad: &[u32], fatal: Option<u32>, count: u32) -> (Attempt, usize) {
        let mut judge = Touchy { bad: bad.to_vec(), fatal, broken: false, passes: 0 };
        let requests: Vec<Prepared> = (0..count).map(numbered).collect();
        let attempt = attempt(&mut judge, &requests.iter().collect::<Vec<_>>(), None);
        (attempt, judge.passes)
    }

    proptest::proptest! {
        #[test]
        fn of_a_failed_batch_only_the_bad_requests_fail(
            bad in proptest::collection::vec(0_u32..40, 0..5),
            count in 1_u32..40,
        ) {
            let (attempt, passes) = run(&bad, None, count);
            proptest::prop_assert_eq!(attempt.end, End::Whole);
            for (number, answer) in attempt.answers.into_iter().enumerate() {
                let expected = match bad.contains(&(number as u32)) {
                    true => Err(InferenceError::Device("it would not".to_owned())),
                    false => Ok(vec![Scores::default()]),
                };
                proptest::prop_assert_eq!(answer, Some(expected));
            }
            // A bad one costs a pass per halving and one for the other half each time.
            let halvings = count.next_power_of_two().trailing_zeros() as usize;
            proptest::prop_assert!(passes <= 1 + 2 * halvings * bad.len());
        }
    }

    #[test]
    fn a_version_that_breaks_leaves_open_what_it_has_not_answered() {
        let (attempt, _) = run(&[], Some(5), 8);
        assert_eq!(attempt.end, End::Broken("it would not".to_owned()));
        let answered: Vec<bool> = attempt.answers.iter().map(Option::is_some).collect();
        assert_eq!(answered, [true, true, true, true, true, false, false, false]);
    }
}
