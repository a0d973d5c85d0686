//! The lanes of one version, between the threads that bring requests and the one that judges them.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    Job,
    lanes::{Decision, Knobs, Lane, Lanes, Reason, Shape, Size, Waiting},
};
use crate::ofa::Interrupt;

/// Requests that go into one pass.
pub(super) struct Formed {
    pub(super) lane: Lane,
    pub(super) reason: Reason,
    pub(super) batch: Vec<Waiting<Job>>,
}

/// The lanes behind a lock.
pub(super) struct Queue {
    state: Mutex<State>,
    /// Something came, or closing began.
    came: Condvar,
    /// A live request left.
    left: Condvar,
    /// Raised when a live request comes while this version judges a shadow.
    interrupt: Interrupt,
}

struct State {
    lanes: Lanes<Job>,
    knobs: Knobs,
    /// Whether the version answers: whoever brings a request to one that does not is not held up, because the same
    /// threads serve the others. What is in flight is bounded elsewhere.
    ready: bool,
    /// Whether requests no longer wait for company.
    hurried: bool,
    closed: bool,
}

impl Queue {
    pub(super) fn new(knobs: Knobs) -> Self {
        let state = State { lanes: Lanes::default(), knobs, ready: false, hurried: false, closed: false };
        Self { state: Mutex::new(state), came: Condvar::new(), left: Condvar::new(), interrupt: Interrupt::default() }
    }

    /// Puts a live request into its lane; waits while that is full and the version answers. One that comes after the end
    /// is dropped, and its reply says so.
    pub(super) fn push(&self, job: Job) {
        let waiting = waiting(job);
        let mut state = self.lock();
        while state.lanes.len(Lane::Live) >= state.knobs.queue_size && state.ready && !state.closed {
            state = self.left.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if !state.closed {
            state.lanes.push(Lane::Live, waiting);
            self.interrupt.raise();
            drop(state);
            self.came.notify_all();
        }
    }

    /// Puts a shadow request into its lane. False, and the request is let go, where that is full.
    pub(super) fn offer_shadow(&self, job: Job) -> bool {
        let mut state = self.lock();
        if state.closed || state.lanes.len(Lane::Shadow) >= state.knobs.shadow_queue_size {
            drop(state);
            job.reply.discard();
            return false;
        }
        state.lanes.push(Lane::Shadow, waiting(job));
        drop(state);
        self.came.notify_all();
        true
    }

    /// Waits for the next pass; none once the queue is closed and empty.
    pub(super) fn next(&self, shape: &Shape) -> Option<Formed> {
        let mut state = self.lock();
        loop {
            if state.closed {
                state.lanes.clear(Lane::Shadow).into_iter().for_each(|shadow| shadow.item.reply.discard());
            }
            let decision = state.lanes.decide(Instant::now(), &state.knobs, shape, state.closed || state.hurried);
            state = match decision {
                Decision::Go { lane, reason, places } => {
                    let batch = state.lanes.take(lane, &places);
                    // Under the lock: a live request that comes from now on raises it again.
                    self.interrupt.clear();
                    drop(state);
                    self.left.notify_all();
                    return Some(Formed { lane, reason, batch });
                }
                Decision::Nothing if state.closed => return None,
                Decision::Nothing => self.came.wait(state).unwrap_or_else(PoisonError::into_inner),
                Decision::Until(due) => {
                    let length = due.saturating_duration_since(Instant::now());
                    self.came.wait_timeout(state, length).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Waits until something waits; false once the queue is closed and empty.
    pub(super) fn wait_for_work(&self) -> bool {
        let mut state = self.lock();
        loop {
            if !Lane::ALL.iter().all(|lane| state.lanes.len(*lane) == 0) {
                return true;
            }
            if state.closed {
                return false;
            }
            state = self.came.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits so long, less where a live request comes or the queue is closed.
    pub(super) fn pause(&self, length: Duration) {
        let state = self.lock();
        let busy = |state: &mut State| state.lanes.is_idle() && !state.closed;
        drop(self.came.wait_timeout_while(state, length, busy));
    }

    /// Waits so long; true where the queue was closed meanwhile.
    pub(super) fn wait_for_close(&self, length: Duration) -> bool {
        let state = self.lock();
        let waited = self.came.wait_timeout_while(state, length, |state| !state.closed);
        waited.unwrap_or_else(PoisonError::into_inner).0.closed
    }

    /// Puts requests back in front of a lane.
    pub(super) fn put_back(&self, lane: Lane, batch: Vec<Waiting<Job>>) {
        self.lock().lanes.put_back(lane, batch);
    }

    /// Says whether the version answers.
    pub(super) fn set_ready(&self, ready: bool) {
        self.lock().ready = ready;
        self.left.notify_all();
    }

    /// Has requests wait for company no longer.
    pub(super) fn hurry(&self) {
        self.lock().hurried = true;
        self.came.notify_all();
    }

    /// Says that nothing comes any more. A shadow pass that runs is asked to give up.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.interrupt.raise();
        self.came.notify_all();
        self.left.notify_all();
    }

    /// Takes every request of a lane.
    pub(super) fn take_all(&self, lane: Lane) -> Vec<Job> {
        let taken = self.lock().lanes.clear(lane);
        self.left.notify_all();
        taken.into_iter().map(|waiting| waiting.item).collect()
    }

    /// Lets go of what waits, whose replies then say that nobody answered.
    pub(super) fn close_and_clear(&self) {
        self.close();
        Lane::ALL.into_iter().for_each(|lane| drop(self.take_all(lane)));
    }

    pub(super) fn len(&self, lane: Lane) -> usize {
        self.lock().lanes.len(lane)
    }

    pub(super) fn set_knobs(&self, knobs: Knobs) {
        self.lock().knobs = knobs;
        self.came.notify_all();
        self.left.notify_all();
    }

    pub(super) fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Lanes are changed under the lock in steps that cannot panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn waiting(job: Job) -> Waiting<Job> {
    let sources = &job.prepared.sources;
    let size = Size { rows: sources.len(), tokens: sources.iter().map(Vec::len).max().unwrap_or_default() };
    Waiting { item: job, since: Instant::now(), size, breakages: 0 }
}
