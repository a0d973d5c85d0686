//! The intake threads: records in, jobs to the engine, outcomes to the release thread.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender};

use super::{
    admission::{Admission, AdmissionError, Admitted, of_image},
    attempts::FirstAnswer,
    budget::BytePermit,
    comparison::{Comparison, Outlet},
    decision::Reading,
    failure::{Consequence, Failure, Trouble},
    outcome::{Answered, Outcome, Outcomes, Told},
    release::Release,
    run::{Arrived, Guarded, Shared},
    serving::Serving,
    specs::image_limits,
};
use crate::{
    delivery::Ticket,
    engine::{AnswerKey, Identity, InferenceError, Job, Judged, Prepared, Reply, Version, panic_message},
    kafka::Publisher,
    message::{FailureContext, Record},
    settings::Plan,
    telemetry, vision,
};

/// One intake thread.
pub(super) struct Thread {
    pub(super) shared: Arc<Shared>,
    pub(super) publisher: Arc<Publisher<Ticket>>,
    pub(super) finished: Sender<Release>,
}

/// What a routed request still needs.
enum Work {
    /// Nothing: its answer is known.
    Answered {
        judged: Judged,
        /// What its first try took, where this is another.
        first: Option<FirstAnswer>,
    },
    /// A pass.
    Pass { prepared: Prepared, answer_key: Option<AnswerKey>, shadows: Vec<ShadowJob>, permit: BytePermit },
}

/// What a shadow version is to judge.
struct ShadowJob {
    version: String,
    prepared: Prepared,
    reading: Reading,
}

/// A request between its record and its outcome.
struct Underway {
    ticket: Ticket,
    record: Record,
    arrived: Instant,
    /// Tries in this process, this one included.
    attempts: usize,
    /// What it was routed by.
    serving: Arc<Serving>,
    admitted: Admitted,
}

/// Why a record does not go on.
enum Ended {
    /// It failed, and came so far.
    Failed(Failure, Box<FailureContext>),
    /// It is not wanted any more: its partition has gone, or its transaction was aborted.
    Unwanted,
}

impl From<AdmissionError> for Ended {
    fn from(AdmissionError { failure, request_id }: AdmissionError) -> Self {
        Self::Failed(failure, Box::new(FailureContext { request_id, ..FailureContext::default() }))
    }
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure, Box::default())
    }
}

/// Waited before a record is tried again that failed by this machine's trouble, twice as long each time.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

impl Thread {
    /// Runs until the poll loop has ended.
    pub(super) fn run(&self, records: &Receiver<Arrived>) {
        let _guarded = Guarded(&self.shared, "intake");
        while let Some((ticket, record, arrived)) = self.shared.next(records) {
            if self.shared.is_wanted(ticket) {
                self.take_in(ticket, record, arrived);
            }
        }
    }

    fn take_in(&self, ticket: Ticket, record: Record, arrived: Instant) {
        {
            let serving = self.shared.serving.load();
            let outcomes = self.outcomes(&serving.plan);
            if record.payload.is_none() {
                return finish(&self.finished, ticket, outcomes.tombstone(record));
            }
            if outcomes.lacks_key(&record) {
                let outcome = outcomes.refused(record, &Failure::KeyMissing, FailureContext::default());
                return finish(&self.finished, ticket, outcome);
            }
        }

        let attempts = self.shared.attempts.begin(ticket);
        let Some((serving, prepared)) = self.prepare_in_time(ticket, &record) else { return };
        let (admitted, work) = match prepared {
            Ok(prepared) => prepared,
            Err(Ended::Unwanted) => return,
            Err(Ended::Failed(failure, context)) => {
                let outcome = self.outcomes(&serving.plan).failed(record, &failure, *context);
                return finish(&self.finished, ticket, outcome);
            }
        };
        let underway = Underway { ticket, record, arrived, attempts, serving, admitted };
        match work {
            Work::Answered { judged, first } => self.answer(underway, judged, first),
            Work::Pass { prepared, answer_key, shadows, permit } => {
                self.submit(underway, prepared, answer_key, shadows, permit);
            }
        }
    }

    fn outcomes<'a>(&'a self, plan: &'a Plan) -> Outcomes<'a> {
        Outcomes::of(plan, &self.shared.compacted, &self.shared.instance)
    }

    /// Prepares a record, again and again while this machine is in trouble, which is no fault of the record. None where it is
    /// not wanted any more.
    fn prepare_in_time(&self, ticket: Ticket, record: &Record) -> Option<(Arc<Serving>, PreparedRequest)> {
        let mut pause = PAUSE.0;
        loop {
            let serving = self.shared.serving.load_full();
            // Decoders meet hostile bytes here; one that panics must not take its thread, and with it a partition, along.
            let prepared = catch_unwind(AssertUnwindSafe(|| self.prepare(&serving, ticket, record)));
            let defect = |panic: Box<dyn std::any::Any + Send>| {
                Err(Ended::Failed(Failure::Defect(panic_message(panic.as_ref())), Box::default()))
            };
            let prepared = prepared.unwrap_or_else(defect);
            let trouble = match &prepared {
                Err(Ended::Failed(failure, _)) if failure.consequence() == Consequence::RetryInPlace => {
                    failure.message()
                }
                _ => {
                    self.shared.monitor.set_machine_trouble(None);
                    return Some((serving, prepared));
                }
            };
            telemetry::tried_in_place();
            tracing::warn!(
                error = trouble,
                ?pause,
                "This machine cannot read an image now; the record is tried again."
            );
            self.shared.monitor.set_machine_trouble(Some(trouble));
            thread::sleep(pause);
            pause = (pause * 2).min(PAUSE.1);
            if !self.shared.is_wanted(ticket) {
                return None;
            }
        }
    }

    /// A version of the request's own configuration. If it were not there, its record would wait in vain, so the pipeline
    /// stops.
    fn found<'s>(&self, serving: &'s Serving, name: &str) -> Option<&'s Version> {
        let version = serving.fleet.version(name);
        if version.is_none() {
            self.shared.fail(format!("there is no version `{name}` any more"));
        }
        version.map(Arc::as_ref)
    }

    fn answer(&self, underway: Underway, judged: Judged, first: Option<FirstAnswer>) {
        let Underway { ticket, record, arrived, attempts, serving, mut admitted } = underway;
        for shadow in &admitted.route.shadows {
            telemetry::shadow_dropped(shadow, "live_answer_kept");
        }
        let Some(version) = self.found(&serving, &admitted.route.version) else { return };
        let latency = match &first {
            Some(first) => {
                (admitted.fetching, admitted.preparing) = (first.fetching, first.preparing);
                first.latency
            }
            None => arrived.elapsed(),
        };
        if first.is_none() {
            self.shared.keep_first(ticket, &serving, &admitted, version.identity(), &judged, latency);
        }
        let answered = Answered { admitted, version: version.identity(), judged: &judged, latency, attempts };
        let outcome = self.outcomes(&serving.plan).answered(record, answered);
        finish(&self.finished, ticket, outcome);
    }

    /// The live job first: shadows take what is left.
    fn submit(
        &self,
        underway: Underway,
        prepared: Prepared,
        answer_key: Option<AnswerKey>,
        shadows: Vec<ShadowJob>,
        permit: BytePermit,
    ) {
        let (ticket, serving) = (underway.ticket, underway.serving.clone());
        // All jobs share the picture's bytes, which are given back with the last of them.
        let permit = Arc::new(permit);
        let asking = self.shared.clone();
        let wanted = Box::new(move || asking.is_wanted(ticket));
        let comparison = (!shadows.is_empty()).then(|| {
            let outlet = Outlet::of(&serving.plan, self.publisher.clone());
            Arc::new(Comparison::new(&underway.record, underway.arrived, outlet))
        });
        let Some(version) = self.found(&serving, &underway.admitted.route.version) else { return };
        let reply = self.reply(underway, version.identity().clone(), comparison.clone(), permit.clone());
        version.submit(Job { prepared, wanted, reply, answer_key });
        let Some(comparison) = comparison else { return };
        for ShadowJob { version: name, prepared, reading } in shadows {
            let Some(version) = serving.fleet.version(&name) else { continue };
            let (identity, comparing, permit) = (version.identity().clone(), comparison.clone(), permit.clone());
            let reply = Reply::new(move |judged| {
                comparing.shadow(identity, reading, judged);
                drop(permit);
            });
            let asking = comparison.clone();
            let wanted = Box::new(move || asking.is_wanted());
            if !version.offer_shadow(Job { prepared, wanted, reply, answer_key: None }) {
                telemetry::shadow_dropped(&name, "queue_full");
            }
        }
    }

    fn reply(
        &self,
        underway: Underway,
        identity: Arc<Identity>,
        comparison: Option<Arc<Comparison>>,
        permit: Arc<BytePermit>,
    ) -> Reply {
        let (shared, finished) = (self.shared.clone(), self.finished.clone());
        let Underway { ticket, record, arrived, attempts, serving, admitted } = underway;
        Reply::new(move |judged: Result<Judged, InferenceError>| {
            drop(permit);
            let outcomes = Outcomes::of(&serving.plan, &shared.compacted, &shared.instance);
            let outcome = match judged {
                Ok(judged) => {
                    let latency = arrived.elapsed();
                    shared.keep_first(ticket, &serving, &admitted, &identity, &judged, latency);
                    let version = identity.as_ref();
                    outcomes.answered(record, Answered { admitted, version, judged: &judged, latency, attempts })
                }
                // Everything for this version would fail: a topic must not be emptied into the
                // dead letters because a device is gone.
                Err(InferenceError::Stopped(reason)) => {
                    // At the end of the pipeline a broken version may still hold requests, which nobody waits for.
                    if shared.is_wanted(ticket) {
                        shared.fail(Trouble::Version { version: identity.name.clone(), reason });
                    }
                    return;
                }
                Err(error) => {
                    let context = admitted.context();
                    outcomes.failed(record, &error.into(), context)
                }
            };
            if let Some(comparison) = comparison {
                match &outcome.told {
                    Told::Verdict(verdict) => comparison.live(Some(verdict)),
                    Told::Refused { .. } | Told::Retried { .. } | Told::Tombstone => comparison.live(None),
                }
            }
            finish(&finished, ticket, outcome);
        })
    }
}

/// A record that is ready for its version, or why it does not go on.
type PreparedRequest = Result<(Admitted, Work), Ended>;

impl Thread {
    /// Takes a record as far as its jobs are ready. A failure after the routing comes with its context.
    fn prepare(&self, serving: &Serving, ticket: Ticket, record: &Record) -> PreparedRequest {
        let admission = Admission::of(&serving.plan, &serving.sources);
        let _stage = self.shared.stages.enter("reading a request and its image", ticket);
        let (mut admitted, image) = admission.admit(record)?;
        let begun = Instant::now();
        let work = self.work(serving, ticket, &mut admitted, &image);
        admitted.preparing = begun.elapsed();
        match work {
            Ok(work) => Ok((admitted, work)),
            Err(Ended::Failed(failure, _)) => Err(Ended::Failed(failure, Box::new(admitted.context()))),
            Err(Ended::Unwanted) => Err(Ended::Unwanted),
        }
    }

    fn work(&self, serving: &Serving, ticket: Ticket, admitted: &mut Admitted, image: &[u8]) -> Result<Work, Ended> {
        let (texts, caption) = (admitted.request.text.as_slice(), admitted.request.caption.as_deref());
        let live = version(serving, &admitted.route.version).map_err(Failure::from)?;
        let sources = live.preparer().sources(texts, caption).map_err(Failure::from)?;
        let (says_nothing, is_for_review) = (admitted.says_nothing, admitted.route.is_for_review);
        admitted.reading = Reading::new(&sources, says_nothing, is_for_review);

        // Its own first answer, and not one that was cached meanwhile: that would be the same with other timings.
        let (config_digest, identity) = (&serving.plan.config_digest, live.identity());
        let content = AnswerKey::new(&admitted.image, texts, caption);
        if let Some(first) = self.shared.attempts.first(ticket, config_digest, &identity.digest, &content) {
            return Ok(Work::Answered { judged: first.judged.clone(), first: Some(first) });
        }
        let key = live.keeps_answers().then_some(content);
        if let Some(key) = &key {
            let kept = live.kept_answer(key);
            telemetry::answer_lookup(&identity.name, kept.is_some());
            if let Some(judged) = kept {
                return Ok(Work::Answered { judged, first: None });
            }
        }

        let gives_up = || !self.shared.is_wanted(ticket);
        let permit = self.shared.prepared.acquire(live.preparer().pixel_bytes(), gives_up).ok_or(Ended::Unwanted)?;
        let decoding = admitted.header.decoding_bytes;
        let decoder = self.shared.decoding.acquire(decoding, gives_up).ok_or(Ended::Unwanted)?;
        let decoded = vision::decode(image, &image_limits(&serving.plan))
            .map_err(|error| Ended::from(of_image(error, admitted.is_file, image)))?;
        let pixels = live.preparer().pixels(&decoded);
        let mut shadows = Vec::new();
        for name in &admitted.route.shadows {
            let preparer = version(serving, name).map_err(Failure::from)?.preparer();
            // It reads other prompts than the live one, and may take no caption.
            let Ok(sources) = preparer.sources(texts, caption) else {
                telemetry::shadow_dropped(name, "caption_refused");
                continue;
            };
            let reading = Reading::new(&sources, says_nothing, is_for_review);
            let pixels =
                if preparer.shares_pixels_with(live.preparer()) { pixels.clone() } else { preparer.pixels(&decoded) };
            let prepared = Prepared { image: admitted.image, pixels, sources: sources.ids };
            shadows.push(ShadowJob { version: name.clone(), prepared, reading });
        }
        drop(decoder);
        let prepared = Prepared { image: admitted.image, pixels, sources: sources.ids };
        Ok(Work::Pass { prepared, answer_key: key, shadows, permit })
    }
}

/// The table and the fleet are made from the same settings, so the version is there.
fn version<'s>(serving: &'s Serving, name: &str) -> Result<&'s Version, InferenceError> {
    let found = serving.fleet.version(name);
    found.map(Arc::as_ref).ok_or_else(|| InferenceError::Stopped(format!("there is no version `{name}`")))
}

fn finish(finished: &Sender<Release>, ticket: Ticket, outcome: Outcome) {
    // The receiver lives as long as the pipeline's thread; without it nobody waits any more.
    finished.send(Release::Finished(ticket, Box::new(outcome))).ok();
}
