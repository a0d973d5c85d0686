//! The intake threads: records in, jobs to the engine, outcomes to the release thread.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use crossbeam_channel::{Receiver, Sender};

use super::{
    admission::{Admission, Admitted},
    comparison::{Comparison, Outlet},
    failure::{Failure, Trouble},
    outcome::{Outcome, Outcomes, Told},
    release::Release,
    run::{Arrived, Guarded, Shared},
    serving::Serving,
    specs::image_limits,
};
use crate::{
    delivery::Ticket,
    engine::{AnswerKey, Identity, InferenceError, Job, Judged, Prepared, Reply, Version, panic_message},
    kafka::Publisher,
    message::Record,
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
    /// Nothing: its answer was kept from an earlier one.
    Kept(Judged),
    /// A pass.
    Pass { prepared: Prepared, answer_key: Option<AnswerKey>, shadows: Vec<(String, Prepared)> },
}

/// A request between its record and its outcome.
struct Underway {
    ticket: Ticket,
    record: Record,
    arrived: Instant,
    /// What it was routed by.
    serving: Arc<Serving>,
    admitted: Admitted,
}

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
        if record.payload.is_none() {
            let outcome = Outcomes::of(&self.shared.serving.load().plan).tombstone(record);
            return finish(&self.finished, ticket, outcome);
        }
        // Decoders meet hostile bytes here; one that panics must not take its thread, and with it a
        // partition, along.
        let serving = self.shared.serving.load_full();
        let taken = catch_unwind(AssertUnwindSafe(|| prepare(&serving, &record)));
        let defect = |panic: Box<dyn std::any::Any + Send>| Failure::Defect(panic_message(panic.as_ref()));
        let (admitted, work) = match taken.unwrap_or_else(|panic| Err((defect(panic), None))) {
            Ok(taken) => taken,
            Err((failure, group)) => {
                let outcome = Outcomes::of(&serving.plan).failed(record, &failure, group);
                return finish(&self.finished, ticket, outcome);
            }
        };
        let underway = Underway { ticket, record, arrived, serving, admitted };
        match work {
            Work::Kept(judged) => self.answer_kept(underway, judged),
            Work::Pass { prepared, answer_key, shadows } => self.submit(underway, prepared, answer_key, shadows),
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

    fn answer_kept(&self, underway: Underway, judged: Judged) {
        let Underway { ticket, record, arrived, serving, admitted } = underway;
        for shadow in &admitted.route.shadows {
            telemetry::shadow_dropped(shadow, "live_answer_kept");
        }
        let Some(version) = self.found(&serving, &admitted.route.version) else { return };
        let outcome = Outcomes::of(&serving.plan).answered(record, arrived, admitted, version.identity(), &judged);
        finish(&self.finished, ticket, outcome);
    }

    /// The live job first: shadows take what is left.
    fn submit(
        &self,
        underway: Underway,
        prepared: Prepared,
        answer_key: Option<AnswerKey>,
        shadows: Vec<(String, Prepared)>,
    ) {
        let (ticket, serving) = (underway.ticket, underway.serving.clone());
        let asking = self.shared.clone();
        let wanted = Box::new(move || asking.is_wanted(ticket));
        let comparison = (!shadows.is_empty()).then(|| {
            let outlet = Outlet::of(&serving.plan, self.publisher.clone());
            Arc::new(Comparison::new(&underway.record, outlet))
        });
        let Some(version) = self.found(&serving, &underway.admitted.route.version) else { return };
        let reply = self.reply(underway, version.identity().clone(), comparison.clone());
        version.submit(Job { prepared, wanted, reply, answer_key });
        let Some(comparison) = comparison else { return };
        for (name, prepared) in shadows {
            let Some(version) = serving.fleet.version(&name) else { continue };
            let (identity, comparing) = (version.identity().clone(), comparison.clone());
            let reply = Reply::new(move |judged| comparing.shadow(identity, judged));
            let asking = comparison.clone();
            let wanted = Box::new(move || asking.is_wanted());
            if !version.offer_shadow(Job { prepared, wanted, reply, answer_key: None }) {
                telemetry::shadow_dropped(&name, "queue_full");
            }
        }
    }

    fn reply(&self, underway: Underway, identity: Arc<Identity>, comparison: Option<Arc<Comparison>>) -> Reply {
        let (shared, finished) = (self.shared.clone(), self.finished.clone());
        let Underway { ticket, record, arrived, serving, admitted } = underway;
        Reply::new(move |judged: Result<Judged, InferenceError>| {
            let outcomes = Outcomes::of(&serving.plan);
            let outcome = match judged {
                Ok(judged) => outcomes.answered(record, arrived, admitted, &identity, &judged),
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
                    let group = admitted.group();
                    outcomes.failed(record, &error.into(), group)
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

/// A failure behind the routing comes with the variant.
fn prepare(serving: &Serving, record: &Record) -> Result<(Admitted, Work), (Failure, Option<String>)> {
    let plan = &serving.plan;
    let admission = Admission { table: &plan.table, limits: &plan.limits, images: image_limits(plan) };
    let (mut admitted, image) = admission.admit(record).map_err(|failure| (failure, None))?;
    let begun = Instant::now();
    match work(serving, &admitted, &image) {
        Ok(work) => {
            admitted.preparing = begun.elapsed();
            Ok((admitted, work))
        }
        Err(failure) => Err((failure, admitted.group())),
    }
}

fn work(serving: &Serving, admitted: &Admitted, image: &[u8]) -> Result<Work, Failure> {
    let (texts, caption) = (admitted.request.text.as_slice(), admitted.request.caption.as_deref());
    let live = version(serving, &admitted.route.version)?;
    let key = live.keeps_answers().then(|| AnswerKey::new(&admitted.image, texts, caption));
    if let Some(key) = &key {
        let kept = live.kept_answer(key);
        telemetry::answer_lookup(&live.identity().name, kept.is_some());
        if let Some(judged) = kept {
            return Ok(Work::Kept(judged));
        }
    }
    let decoded = vision::decode(image, &image_limits(&serving.plan))?;
    let pixels = live.preparer().pixels(&decoded);
    let mut shadows = Vec::new();
    for name in &admitted.route.shadows {
        let preparer = version(serving, name)?.preparer();
        let pixels = match preparer.shares_pixels_with(live.preparer()) {
            true => pixels.clone(),
            false => preparer.pixels(&decoded),
        };
        shadows.push((name.clone(), preparer.with_pixels(admitted.image, pixels, texts, caption)));
    }
    let prepared = live.preparer().with_pixels(admitted.image, pixels, texts, caption);
    Ok(Work::Pass { prepared, answer_key: key, shadows })
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
