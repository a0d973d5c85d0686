//! `demo --guard`: a treatment turns bad, and a guard pauses the experiment by itself.
//!
//! What breaks is made to: from a moment on, the treatment's version answers with numbers that are
//! none. The requests, the evidence, the guard and its pause are the program as it runs in service.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    Arguments, CliError, SILENCE_MAX, control, failed, html_report, output, run, spinner,
    stage::{self, Cast},
};
use crate::{
    evidence::{Criteria, GuardState, Judgement},
    evidence_store::{Access, GuardReport, Guards, Reader, ReaderOptions},
    kafka::{Feeder, FeederOptions},
    pipeline::{Pipeline, connection},
    routing::{GuardAction, GuardMetric, GuardSpec},
    settings::Plan,
};

/// Time between requests.
const PACE: Duration = Duration::from_millis(25);
/// How long both variants work.
const HEALTHY: Duration = Duration::from_secs(6);
/// How long the guard has to act, and how long traffic goes on afterwards.
const HARM_MAX: Duration = Duration::from_secs(40);
const AFTERWARDS: Duration = Duration::from_secs(2);
/// A row of the picture.
const ROW: Duration = Duration::from_millis(500);

/// The state of the guard at a moment.
struct Moment {
    at: Duration,
    judgement: Option<Judgement>,
    is_paused: bool,
}

/// How the story ended.
#[derive(Debug, Serialize)]
struct Summary {
    /// Requests that were published.
    requests: usize,
    /// From the moment that the treatment broke until the experiment was paused.
    paused_after_ms: f64,
    /// Requests in this time.
    requests_until_paused: usize,
    /// What the guard gave as the reason.
    why: String,
}

pub(super) fn tell(arguments: &Arguments) -> Result<(), CliError> {
    let plan = adapted(arguments.settings.plan()?);
    let cast = stage::cast(&plan)?;
    let broker = run::start_broker(&plan)?.ok_or_else(|| failed("the embedded broker did not start"))?;
    let connection = connection(&plan, Some(broker.bootstrap_servers()));
    let broken = Arc::new(AtomicBool::new(false));
    let loading = spinner("loading versions");
    let thoroughness = arguments.verify.thoroughness();
    let engine = stage::engine(&plan, &cast, &broken, thoroughness)?;
    loading.finish_and_clear();

    let pipeline = Pipeline::start(&plan, &connection, engine)?;
    let controller = control(&plan, &arguments.settings, &connection, &pipeline, thoroughness, adapted)?;
    let store = &plan.evidence.store;
    let guards = Guards::new(controller.switcher(), controller.handle(), store.behind_max);
    let options = ReaderOptions::of(connection.clone(), &plan.kafka, store);
    let reader = Reader::start(options, Some(guards)).map_err(failed)?;
    let feeder = Feeder::new(
        &connection,
        FeederOptions {
            topic: plan.kafka.requests.clone(),
            group_id: plan.kafka.group_id.clone(),
            record_bytes_max: plan.kafka.record_bytes_max,
            wait_max: SILENCE_MAX,
        },
    )?;

    let image = stage::image(&arguments.source)?;
    let story = Story { plan: &plan, image, feeder, access: reader.access(), broken: &broken };
    let outcome = story.play();
    let report = reader.access().report(Criteria::default(), Some(&cast.control));
    drop(reader);
    controller.stop();
    pipeline.stopper()();
    pipeline.join()?;

    let (moments, summary) = outcome?;
    if let Some(file) = &arguments.report {
        html_report(file, &report)?;
    }
    if arguments.json {
        output::json(&summary);
    } else {
        output::line(picture(&cast, &moments, &summary));
    }
    Ok(())
}

/// The settings of the demo, with a guard of dead letters on every experiment.
fn adapted(plan: Plan) -> Plan {
    let mut plan = stage::adapted(plan);
    for experiment in &mut plan.table_spec.experiments {
        experiment.ramp.clear();
        experiment.guards = vec![GuardSpec {
            name: Some("errors".to_owned()),
            metric: GuardMetric::DeadLetterRate,
            limit_ms: None,
            margin: 0.0,
            alpha: 0.01,
            min_events: 5,
            initial_delay_ms: 0,
            action: GuardAction::Pause,
            dry_run: false,
            control: None,
        }];
    }
    // The screen shows the guard as it is, twice a second.
    plan.evidence.store.commit_interval = Duration::from_millis(200);
    plan
}

struct Story<'s> {
    plan: &'s Plan,
    image: String,
    feeder: Feeder,
    access: Access,
    broken: &'s AtomicBool,
}

impl Story<'_> {
    fn play(&self) -> Result<(Vec<Moment>, Summary), CliError> {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let feeding = scope.spawn(|| {
                for number in 0.. {
                    if over.load(Ordering::Acquire) {
                        self.feeder.finish()?;
                        return Ok(number);
                    }
                    self.feeder.feed(&stage::request(self.plan, &self.image, format!("guard-{number}")))?;
                    thread::sleep(PACE);
                }
                Ok::<usize, crate::kafka::KafkaError>(0)
            });
            let watched = self.watch();
            over.store(true, Ordering::Release);
            let requests = feeding.join().map_err(|_| failed("the feeding thread ended by a defect"))??;
            let (moments, mut summary) = watched?;
            summary.requests = requests;
            Ok((moments, summary))
        })
    }

    /// Waits for evidence, breaks the treatment, and waits for the guard.
    fn watch(&self) -> Result<(Vec<Moment>, Summary), CliError> {
        let forming = spinner("waiting for the group to form, about 3 s");
        let waiting = Instant::now();
        while self.report().is_none() {
            if waiting.elapsed() > SILENCE_MAX {
                return Err(failed("no verdict of the experiment came"));
            }
            thread::sleep(Duration::from_millis(50));
        }
        forming.finish_and_clear();

        let (begun, progress) = (Instant::now(), spinner(""));
        let (mut moments, mut broke, mut paused) = (Vec::new(), None, None);
        loop {
            let (at, report) = (begun.elapsed(), self.report());
            let is_paused = report.as_ref().is_some_and(|report| report.paused);
            let judgement = report.map(|report| report.judgement);
            progress.set_message(in_one_line(judgement.as_ref(), is_paused));
            moments.push(Moment { at, judgement, is_paused });

            if broke.is_none() && at >= HEALTHY {
                self.broken.store(true, Ordering::Release);
                broke = Some(at);
            }
            if is_paused && paused.is_none() {
                paused = Some(at);
            }
            match (broke, paused) {
                (Some(broke), Some(paused)) if at >= paused + AFTERWARDS => {
                    progress.finish_and_clear();
                    return Ok((moments, self.summary(broke, paused)));
                }
                (Some(broke), None) if at > broke + HARM_MAX => return Err(failed("the guard did not act")),
                _ => thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn report(&self) -> Option<GuardReport> {
        self.access.report(Criteria::default(), None).guards.into_iter().next()
    }

    fn summary(&self, broke: Duration, paused: Duration) -> Summary {
        let lasted = paused.saturating_sub(broke);
        Summary {
            requests: 0,
            paused_after_ms: lasted.as_secs_f64() * 1e3,
            requests_until_paused: (lasted.as_secs_f64() / PACE.as_secs_f64()) as usize,
            why: self.report().map_or_else(String::new, |report| report.judgement.in_words()),
        }
    }
}

fn in_one_line(judgement: Option<&Judgement>, is_paused: bool) -> String {
    let Some(judgement) = judgement else { return "no verdict of the experiment yet".to_owned() };
    let Judgement { events: [a, b], units: [of_a, of_b], ln_e_value, ln_e_value_needed, .. } = judgement;
    let state = if is_paused { "PAUSED by guard" } else { word(judgement.state) };
    format!(
        "control {a} of {of_a} failed, treatment {b} of {of_b}; evidence {:.1} of {:.0} needed; {state}",
        ln_e_value.exp(),
        ln_e_value_needed.exp()
    )
}

fn word(state: GuardState) -> &'static str {
    match state {
        GuardState::NoData => "NO DATA",
        GuardState::Undecided => "UNDECIDED",
        GuardState::Safe => "SAFE",
        GuardState::Blind => "BLIND",
        GuardState::Harm => "HARM",
    }
}

/// The evidence in each half second, as a bar: its logarithm, up to what is needed.
fn picture(cast: &Cast, moments: &[Moment], summary: &Summary) -> String {
    const WIDTH: f64 = 30.0;
    let mut text = format!(
        "the guard `errors` watches dead letters of {} against {}; a full bar pauses the experiment\n\n",
        cast.treatment, cast.control
    );
    let mut next = Duration::ZERO;
    for moment in moments {
        if moment.at < next {
            continue;
        }
        next = moment.at + ROW;
        let Some(judgement) = &moment.judgement else { continue };
        let share = (judgement.ln_e_value / judgement.ln_e_value_needed).clamp(0.0, 1.0);
        let filled = (share * WIDTH).round() as usize;
        let bar = format!("{}{}", "█".repeat(filled), "·".repeat(WIDTH as usize - filled));
        writeln!(text, "{:5.1} s  {bar}  {}", moment.at.as_secs_f64(), in_one_line(Some(judgement), moment.is_paused))
            .ok();
    }
    writeln!(
        text,
        "\n{} broke, because the demo made it; {:.1} s and {} requests later the guard paused {}:\n{}\n\
         Going on needs a person: `ofa-stream resume {}`.",
        cast.treatment,
        summary.paused_after_ms / 1e3,
        summary.requests_until_paused,
        cast.experiment,
        summary.why,
        cast.experiment,
    )
    .ok();
    text
}
