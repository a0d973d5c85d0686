//! The thread that a version runs on: loads it, forms batches, answers, and loads it again when it broke.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::Sender;

use super::{
    InferenceError, Judge, Judged, Loaded, ModelError, Prepared, VersionSpec,
    answers::AnswerCache,
    budget::{Budget, Cost},
    judge::{Answer, Attempt, End, attempt},
    lanes::{Lane, Size, Waiting},
    panic_message,
    queue::{Formed, Queue},
    status::{Busy, State, Status},
};
use crate::{
    engine::Job,
    message::Load,
    telemetry::{self, FinishedPass},
};

/// Told once by a worker that loads at the start: that it could, or why not.
pub(super) type Report = Sender<Result<(), ModelError>>;

/// How often a worker looks whether a shadow may go, while others have the device.
const SHADOW_PAUSE: Duration = Duration::from_millis(10);
/// Restarts wait twice as long each time, up to this.
const RESTART_DELAY_MAX: Duration = Duration::from_secs(30);
/// A request is handed back once; under whom the version breaks twice, alone the second time, is to blame.
const BREAKAGES_MAX: u8 = 2;

/// One version's thread.
pub(super) struct Worker {
    pub(super) spec: VersionSpec,
    pub(super) queue: Arc<Queue>,
    pub(super) status: Arc<Status>,
    pub(super) answers: Arc<AnswerCache>,
    pub(super) budget: Arc<Budget>,
}

/// Answers what waits when the worker ends, however it ends: whoever asks later is told at once.
struct Closing<'w>(&'w Queue);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close_and_clear();
    }
}

/// Why a loaded version stops serving.
enum Ended {
    /// Nobody can ask any more.
    Closed,
    /// It broke.
    Broken {
        reason: String,
        /// Whether it answered anything since it was loaded.
        answered: bool,
        /// The request that is to blame, if the version works without it.
        suspect: Option<Job>,
    },
}

impl Worker {
    /// Loads, and answers until nobody can ask any more. One that is loaded at the first use keeps requests until it
    /// is; so does one that broke, until it works again or is given up.
    pub(super) fn work<J: Judge>(self, load: impl Fn(&VersionSpec) -> Result<J, ModelError>, report: &Report) {
        let _closing = Closing(&self.queue);
        if self.spec.load == Load::FirstUse && !self.queue.wait_for_work() {
            return;
        }
        let (mut failures, mut suspect) = (0, None::<Job>);
        let mut at_start = self.spec.load != Load::FirstUse;
        loop {
            let reason = match self.load(&load) {
                Err(error) if at_start => {
                    self.status.set(State::Stopped(error.to_string()));
                    // Nobody listens where another version failed first.
                    report.try_send(Err(error)).ok();
                    return;
                }
                Err(error) => format!("it does not load: {error}"),
                Ok(mut model) => {
                    // Once is enough, and nobody listens to a version that is loaded again.
                    report.try_send(Ok(())).ok();
                    at_start = false;
                    if let Some(job) = suspect.take() {
                        // It works without this request, so the request is to blame.
                        let reason = "the version breaks under this request".to_owned();
                        job.reply.send(Err(InferenceError::Device(reason)));
                    }
                    self.queue.set_ready(true);
                    let ended = self.serve(&mut model);
                    self.queue.set_ready(false);
                    // A device that is lost may panic once more.
                    catch_unwind(AssertUnwindSafe(move || drop(model))).ok();
                    match ended {
                        Ended::Closed => return,
                        Ended::Broken { reason, answered, suspect: blamed } => {
                            failures = if answered { 0 } else { failures };
                            suspect = blamed;
                            reason
                        }
                    }
                }
            };
            failures += 1;
            if failures > self.spec.restarts_max {
                return self.give_up(reason, suspect);
            }
            let delay = restart_delay(self.spec.restart_delay, failures);
            tracing::error!(version = self.spec.name, reason, failures, ?delay, "Version broke; it is loaded again.");
            self.status.set(State::Unhealthy(reason));
            telemetry::model_restart(&self.spec.name);
            if self.queue.wait_for_close(delay) {
                return;
            }
        }
    }

    fn load<J: Judge>(&self, load: impl Fn(&VersionSpec) -> Result<J, ModelError>) -> Result<J, ModelError> {
        if !self.status.is_unhealthy() {
            self.status.set(State::Loading);
        }
        let started = Instant::now();
        self.status.set_busy(Some(Busy::Load));
        // burn reports a device that is out of memory by panic.
        let model = catch_unwind(AssertUnwindSafe(|| load(&self.spec)))
            .unwrap_or_else(|panic| Err(ModelError::Panicked(panic_message(panic.as_ref()))));
        self.status.set_busy(None);
        let model = model?;
        let first_request = model.first_request();
        let loading = started.elapsed().saturating_sub(first_request);
        let loaded = Loaded { adapter: model.adapter(), memory_bytes: model.memory_bytes(), loading, first_request };
        tracing::info!(
            version = self.spec.name,
            device = %self.spec.options.device,
            adapter = loaded.adapter,
            memory_bytes = loaded.memory_bytes,
            seconds = loading.as_secs_f64(),
            first_request_seconds = first_request.as_secs_f64(),
            "Version loaded."
        );
        self.status.set_loaded(loaded);
        Ok(model)
    }

    fn serve(&self, model: &mut impl Judge) -> Ended {
        let shape = model.shape();
        let mut answered = false;
        while let Some(Formed { lane, reason, batch }) = self.queue.next(&shape) {
            let (batch, unwanted): (Vec<_>, Vec<_>) = batch.into_iter().partition(|waiting| (waiting.item.wanted)());
            unwanted.into_iter().for_each(|waiting| let_go(lane, waiting.item));
            if batch.is_empty() {
                continue;
            }
            let sizes: Vec<Size> = batch.iter().map(|waiting| waiting.size).collect();
            let positions = shape.positions(sizes.iter().copied());
            let cost = Cost {
                threads: self.spec.options.cpu_threads(),
                tokens: positions.padded,
                bytes: model.pass_bytes(&sizes),
            };
            let interrupt = (lane == Lane::Shadow).then(|| self.queue.interrupt());
            let pass = match interrupt {
                None => self.budget.enter(cost),
                Some(interrupt) => match self.budget.enter_shadow(cost, interrupt) {
                    Some(pass) => pass,
                    None => {
                        self.queue.put_back(lane, batch);
                        self.queue.pause(SHADOW_PAUSE);
                        continue;
                    }
                },
            };
            let begun = Instant::now();
            let prepared: Vec<&Prepared> = batch.iter().map(|waiting| &waiting.item.prepared).collect();
            self.status.set_busy(Some(Busy::Pass));
            let attempted = catch_unwind(AssertUnwindSafe(|| attempt(model, &prepared, interrupt)));
            let Attempt { answers, end } = attempted.unwrap_or_else(|panic| Attempt {
                answers: vec![None; batch.len()],
                end: End::Broken(panic_message(panic.as_ref())),
            });
            self.status.set_busy(None);
            let inference = begun.elapsed();
            drop(pass);
            telemetry::pass(&FinishedPass {
                version: &self.spec.name,
                lane: lane.as_str(),
                reason: reason.as_str(),
                requests: batch.len(),
                padding: positions.padding(),
                inference,
                images: model.images_reused(),
                given_up: end == End::Interrupted,
            });
            self.status.set_memory(model.memory_bytes());
            answered |= answers.iter().any(|answer| matches!(answer, Some(Ok(_))));
            let open = self.reply(batch, answers, begun, inference);
            match end {
                End::Whole => {}
                End::Interrupted => self.queue.put_back(lane, open),
                End::Broken(reason) => return Ended::Broken { reason, answered, suspect: self.hand_back(lane, open) },
            }
        }
        Ended::Closed
    }

    /// Sends the answers that there are; gives back the requests that are open.
    fn reply(
        &self,
        batch: Vec<Waiting<Job>>,
        answers: Vec<Option<Answer>>,
        begun: Instant,
        inference: Duration,
    ) -> Vec<Waiting<Job>> {
        let size = batch.len();
        let mut open = Vec::new();
        for (waiting, answer) in batch.into_iter().zip(answers) {
            let Some(answer) = answer else {
                open.push(waiting);
                continue;
            };
            let Job { reply, answer_key, .. } = waiting.item;
            let queued = begun.saturating_duration_since(waiting.since);
            if let (Some(key), Ok(scores)) = (answer_key, &answer) {
                self.answers.insert(key, scores);
            }
            reply.send(answer.map(|scores| Judged { scores, queued, inference, batch: size, cached: false }));
        }
        open
    }

    /// Hands requests back under which the version broke; gives back one that it broke under twice, alone the second
    /// time. Shadows are let go: nobody waits for them.
    fn hand_back(&self, lane: Lane, mut open: Vec<Waiting<Job>>) -> Option<Job> {
        if lane == Lane::Shadow {
            open.into_iter().for_each(|waiting| let_go(lane, waiting.item));
            return None;
        }
        open.iter_mut().for_each(|waiting| waiting.breakages += 1);
        match open.as_slice() {
            [alone] if alone.breakages >= BREAKAGES_MAX => open.pop().map(|waiting| waiting.item),
            _ => {
                self.queue.put_back(Lane::Retry, open);
                None
            }
        }
    }

    /// A version that cannot be loaded again answers nothing, and says why to all who ask, until nobody can.
    fn give_up(&self, reason: String, suspect: Option<Job>) {
        tracing::error!(version = self.spec.name, reason, "Version given up.");
        let stopped = InferenceError::Stopped(reason.clone());
        self.status.set(State::Stopped(reason));
        let answer = |job: Job| job.reply.send(Err(stopped.clone()));
        suspect.into_iter().for_each(answer);
        while self.queue.wait_for_work() {
            for lane in Lane::ALL {
                self.queue.take_all(lane).into_iter().for_each(answer);
            }
        }
    }
}

/// Lets a request go that nobody waits for. A shadow's reply is told, because it counts those that get no verdict.
fn let_go(lane: Lane, job: Job) {
    match lane {
        Lane::Live | Lane::Retry => job.reply.discard(),
        Lane::Shadow => job.reply.send(Err(InferenceError::Device("nobody waits for it".to_owned()))),
    }
}

/// Twice as long each time, within a bound.
fn restart_delay(first: Duration, failures: u32) -> Duration {
    first.saturating_mul(1 << (failures - 1).min(16)).min(RESTART_DELAY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_wait_longer_each_time_up_to_a_bound() {
        let delays: Vec<u64> =
            [1, 2, 3, 20, u32::MAX].map(|n| restart_delay(Duration::from_secs(1), n).as_secs()).to_vec();
        assert_eq!(delays, [1, 2, 4, 30, 30]);
    }
}
