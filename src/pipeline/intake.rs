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
    failure::Failure,
    ledger::Ticket,
    outcome::{Outcome, Outcomes, Told},
    release::Release,
    run::{Arrived, Guarded, Shared},
    specs::image_limits,
};
use crate::{
    engine::{AnswerKey, Engine, Identity, InferenceError, Job, Judged, Prepared, Reply, Version, panic_message},
    kafka::Publisher,
    message::Record,
    telemetry, vision,
};

/// One intake thread.
pub(super) struct Thread {
    pub(super) shared: Arc<Shared>,
    pub(super) engine: Arc<Engine>,
    pub(super) publisher: Arc<Publisher>,
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
        // Decoders meet hostile bytes here; one that panics must not take its thread, and with it a
        // partition, along.
        let taken = catch_unwind(AssertUnwindSafe(|| self.prepare(&record)));
        let defect = |panic: Box<dyn std::any::Any + Send>| Failure::Defect(panic_message(panic.as_ref()));
        let (admitted, work) = match taken.unwrap_or_else(|panic| Err((defect(panic), None))) {
            Ok(taken) => taken,
            Err((failure, group)) => {
                let outcome = Outcomes::of(&self.shared.plan).refused(record, &failure, group);
                return finish(&self.finished, ticket, outcome);
            }
        };
        let underway = Underway { ticket, record, arrived, admitted };
        match work {
            Work::Kept(judged) => self.answer_kept(underway, judged),
            Work::Pass { prepared, answer_key, shadows } => self.submit(underway, prepared, answer_key, shadows),
        }
    }

    /// A failure behind the routing comes with the variant.
    fn prepare(&self, record: &Record) -> Result<(Admitted, Work), (Failure, Option<String>)> {
        let plan = &self.shared.plan;
        let admission = Admission { table: &plan.table, limits: &plan.limits, images: image_limits(plan) };
        let (mut admitted, image) = admission.admit(record).map_err(|failure| (failure, None))?;
        let begun = Instant::now();
        match self.work(&admitted, &image) {
            Ok(work) => {
                admitted.preparing = begun.elapsed();
                Ok((admitted, work))
            }
            Err(failure) => Err((failure, admitted.group())),
        }
    }

    fn work(&self, admitted: &Admitted, image: &[u8]) -> Result<Work, Failure> {
        let (texts, caption) = (admitted.request.text.as_slice(), admitted.request.caption.as_deref());
        let version = self.version(&admitted.route.version)?;
        let key = version.keeps_answers().then(|| AnswerKey::new(&admitted.image, texts, caption));
        if let Some(key) = &key {
            let kept = version.kept_answer(key);
            telemetry::answer_lookup(&version.identity().name, kept.is_some());
            if let Some(judged) = kept {
                return Ok(Work::Kept(judged));
            }
        }
        let decoded = vision::decode(image, &image_limits(&self.shared.plan))?;
        let pixels = version.preparer().pixels(&decoded);
        let mut shadows = Vec::new();
        for name in &admitted.route.shadows {
            let preparer = self.version(name)?.preparer();
            let pixels = match preparer.shares_pixels_with(version.preparer()) {
                true => pixels.clone(),
                false => preparer.pixels(&decoded),
            };
            shadows.push((name.clone(), preparer.with_pixels(admitted.image, pixels, texts, caption)));
        }
        let prepared = version.preparer().with_pixels(admitted.image, pixels, texts, caption);
        Ok(Work::Pass { prepared, answer_key: key, shadows })
    }

    /// The table and the engine are made from the same settings, so the version is there.
    fn version(&self, name: &str) -> Result<&Version, InferenceError> {
        self.engine.version(name).ok_or_else(|| InferenceError::Stopped(format!("there is no version `{name}`")))
    }

    /// A version that was there a moment ago. If it were not, its record would wait in vain, so the pipeline stops.
    fn found(&self, name: &str) -> Option<&Version> {
        let version = self.engine.version(name);
        if version.is_none() {
            self.shared.fail(format!("there is no version `{name}` any more"));
        }
        version
    }

    fn answer_kept(&self, underway: Underway, judged: Judged) {
        let Underway { ticket, record, arrived, admitted } = underway;
        for shadow in &admitted.route.shadows {
            telemetry::shadow_dropped(shadow, "live_answer_kept");
        }
        let Some(version) = self.found(&admitted.route.version) else { return };
        let outcome = Outcomes::of(&self.shared.plan).answered(record, arrived, admitted, version.identity(), &judged);
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
        let ticket = underway.ticket;
        let asking = self.shared.clone();
        let wanted = Box::new(move || asking.is_wanted(ticket));
        let comparison = (!shadows.is_empty()).then(|| {
            let outlet = Outlet::of(&self.shared.plan, self.publisher.clone());
            Arc::new(Comparison::new(&underway.record, outlet))
        });
        let Some(version) = self.found(&underway.admitted.route.version) else { return };
        let reply = self.reply(underway, version.identity().clone(), comparison.clone());
        version.submit(Job { prepared, wanted, reply, answer_key });
        let Some(comparison) = comparison else { return };
        for (name, prepared) in shadows {
            let Some(version) = self.engine.version(&name) else { continue };
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
        let Underway { ticket, record, arrived, admitted } = underway;
        Reply::new(move |judged: Result<Judged, InferenceError>| {
            let outcomes = Outcomes::of(&shared.plan);
            let outcome = match judged {
                Ok(judged) => outcomes.answered(record, arrived, admitted, &identity, &judged),
                // Everything for this version would fail: a topic must not be emptied into the
                // dead letters because a device is gone.
                Err(InferenceError::Stopped(reason)) => {
                    // At the end of the pipeline a broken version may still hold requests, which nobody waits for.
                    if shared.is_wanted(ticket) {
                        shared.fail(format!("version `{}`: {reason}", identity.name));
                    }
                    return;
                }
                Err(error) => {
                    let group = admitted.group();
                    outcomes.refused(record, &error.into(), group)
                }
            };
            if let Some(comparison) = comparison {
                match &outcome.told {
                    Told::Verdict(verdict) => comparison.live(Some(verdict)),
                    Told::Refused { .. } => comparison.live(None),
                }
            }
            finish(&finished, ticket, outcome);
        })
    }
}

fn finish(finished: &Sender<Release>, ticket: Ticket, outcome: Outcome) {
    // The receiver lives as long as the pipeline's thread; without it nobody waits any more.
    finished.send(Release::Finished(ticket, Box::new(outcome))).ok();
}
