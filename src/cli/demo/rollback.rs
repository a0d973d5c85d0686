//! `demo --rollback`: an experiment runs, its treatment breaks, and one command has all traffic on control.
//!
//! What breaks is made to: from a moment on, the treatment's version answers with what is no number. All the rest, from
//! the requests to the command and the times shown, is the program as it runs in service.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    Arguments, CliError, SILENCE_MAX, control, failed, output, run, spinner,
    stage::{self, Cast},
};
use crate::{
    control::{Applied, AuditInfo, Command, CommandRequest, Handle},
    kafka::{Feeder, FeederOptions, Tail},
    message::{Outgoing, Verdict},
    pipeline::{Pipeline, connection},
    settings::Plan,
};

/// Time between requests.
const PACE: Duration = Duration::from_millis(80);
/// How long each part of the story takes.
const PART: Duration = Duration::from_millis(2_500);
/// A row of the picture.
const ROW: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(20);

/// A request that came out.
struct Seen {
    at: Duration,
    what: What,
    version: String,
    config_digest: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Control,
    Treatment,
    Failed,
}

/// What an operator did, or what went wrong, and when.
struct Event {
    at: Duration,
    what: String,
}

/// How the story ended.
#[derive(Debug, Serialize)]
struct Summary {
    requests: usize,
    unanswered: usize,
    failed: usize,
    /// From the command to the switch.
    switched_after_ms: f64,
    /// From the command to the last answer by the configuration before: what was in flight.
    in_flight_done_after_ms: f64,
    /// Requests that were in flight and finished as they were begun.
    in_flight: usize,
    /// Failures that came later than the last of these.
    failed_afterwards: usize,
    /// Verdicts of control's version by the configuration that was gone back to, and of any other.
    on_control_afterwards: usize,
    elsewhere_afterwards: usize,
}

pub(super) fn tell(arguments: &Arguments) -> Result<(), CliError> {
    let plan = stage::adapted(arguments.settings.plan()?);
    let cast = stage::cast(&plan)?;
    let broker = run::start_broker(&plan)?.ok_or_else(|| failed("the embedded broker did not start"))?;
    let connection = connection(&plan, Some(broker.bootstrap_servers()));
    let broken = Arc::new(AtomicBool::new(false));
    let loading = spinner("loading versions");
    let thoroughness = arguments.verify.thoroughness();
    let engine = stage::engine(&plan, &cast, &broken, thoroughness)?;
    loading.finish_and_clear();
    let pipeline = Pipeline::start(&plan, &connection, engine)?;
    let controller = control(&plan, &arguments.settings, &connection, &pipeline, thoroughness, stage::adapted)?;
    let story = Story {
        tail: Tail::new(&connection, &[&plan.kafka.verdicts, &plan.kafka.dead_letters])?,
        feeder: Feeder::new(
            &connection,
            FeederOptions {
                topic: plan.kafka.requests.clone(),
                group_id: plan.kafka.group_id.clone(),
                record_bytes_max: plan.kafka.record_bytes_max,
                wait_max: SILENCE_MAX,
            },
        )?,
        image: stage::image(&arguments.source)?,
        handle: controller.handle(),
        plan: &plan,
        cast: &cast,
        broken: &broken,
    };
    let told = story.play();
    controller.stop();
    pipeline.stopper()();
    pipeline.join()?;
    let (seen, events, summary) = told?;
    if arguments.json {
        output::json(&summary);
    } else {
        output::line(picture(&cast, &seen, &events, &summary));
    }
    match summary.unanswered {
        0 => Ok(()),
        lost => Err(failed(format!("{lost} requests got neither a verdict nor a dead letter"))),
    }
}

struct Story<'s> {
    tail: Tail,
    feeder: Feeder,
    image: String,
    handle: Handle,
    plan: &'s Plan,
    cast: &'s Cast,
    broken: &'s AtomicBool,
}

impl Story<'_> {
    fn play(&self) -> Result<(Vec<Seen>, Vec<Event>, Summary), CliError> {
        let forming = spinner("waiting for the group to form, about 3 s");
        let (over, mut seen, mut events) = (AtomicBool::new(false), Vec::new(), Vec::new());
        // Until the first answer comes, there is no story.
        let Cast { experiment, control, .. } = self.cast;
        let promote = Command::Promote { experiment: experiment.clone(), variant: control.clone() };
        self.command(promote, "before the story")?;
        self.feeder.feed(&self.request(0))?;
        let begun = loop {
            if self.tail.next(POLL)?.is_some() {
                break Instant::now();
            }
        };
        forming.finish_and_clear();
        let progress = spinner("");
        let mut rolled_back = None;
        let published = thread::scope(|scope| {
            let feeding = scope.spawn(|| {
                for number in 1.. {
                    if over.load(Ordering::Acquire) {
                        self.feeder.finish()?;
                        return Ok(number - 1);
                    }
                    self.feeder.feed(&self.request(number))?;
                    thread::sleep(PACE);
                }
                Ok::<usize, crate::kafka::KafkaError>(0)
            });
            let watched = self.watch(begun, &mut seen, &mut events, &mut rolled_back, &progress);
            over.store(true, Ordering::Release);
            let published = feeding.join().map_err(|_| failed("the feeding thread ended by a defect"))?;
            watched?;
            Ok::<usize, CliError>(published?)
        })?;
        let mut heard = Instant::now();
        while seen.len() < published && heard.elapsed() < SILENCE_MAX {
            if self.look(begun, &mut seen)? {
                heard = Instant::now();
            }
        }
        progress.finish_and_clear();
        let (commanded, applied) = rolled_back.ok_or_else(|| failed("the story ended too soon"))?;
        let summary = summary(self.cast, &seen, published, commanded, &applied);
        Ok((seen, events, summary))
    }

    /// The parts of the story, one after the other.
    fn watch(
        &self,
        begun: Instant,
        seen: &mut Vec<Seen>,
        events: &mut Vec<Event>,
        rolled_back: &mut Option<(Duration, Applied)>,
        progress: &indicatif::ProgressBar,
    ) -> Result<(), CliError> {
        let Cast { experiment, control, treatment, .. } = self.cast;
        for part in 0..4 {
            let at = begun.elapsed();
            let what = match part {
                0 => format!("all traffic is on {control}"),
                1 => {
                    let resume = Command::Resume { experiment: experiment.clone() };
                    let applied = self.command(resume, "the comparison begins")?;
                    format!("`ofa-stream resume {experiment}`: the comparison begins, after {:.1} ms", applied.took_ms)
                }
                2 => {
                    self.broken.store(true, Ordering::Release);
                    format!("{treatment} breaks, because the demo makes it: its answers are no numbers")
                }
                _ => {
                    let applied = self.command(Command::Rollback, "treatment fails")?;
                    let what =
                        format!("`ofa-stream rollback`: all on {control} again, after {:.1} ms", applied.took_ms);
                    *rolled_back = Some((at, applied));
                    what
                }
            };
            progress.set_message(what.clone());
            events.push(Event { at, what });
            while begun.elapsed() < at + PART {
                self.look(begun, seen)?;
            }
        }
        Ok(())
    }

    /// Takes what came out, if anything did.
    fn look(&self, begun: Instant, seen: &mut Vec<Seen>) -> Result<bool, CliError> {
        let Some(record) = self.tail.next(POLL)? else { return Ok(false) };
        let at = begun.elapsed();
        if record.topic == self.plan.kafka.dead_letters {
            seen.push(Seen { at, what: What::Failed, version: String::new(), config_digest: String::new() });
            return Ok(true);
        }
        let verdict: Verdict = serde_json::from_slice(record.payload.as_deref().unwrap_or_default()).map_err(failed)?;
        let is_treatment = verdict.ab_variant.as_ref() == Some(&self.cast.treatment);
        let what = if is_treatment { What::Treatment } else { What::Control };
        let (version, config_digest) = (verdict.model_version, verdict.route.config_digest);
        seen.push(Seen { at, what, version, config_digest });
        Ok(true)
    }

    fn request(&self, number: usize) -> Outgoing {
        stage::request(self.plan, &self.image, format!("rollback-{number}"))
    }

    fn command(&self, command: Command, why: &str) -> Result<Applied, CliError> {
        let info = AuditInfo { by: "demo".to_owned(), why: why.to_owned(), ..AuditInfo::default() };
        let request = CommandRequest::new(command, info);
        let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(failed)?;
        Ok(runtime.block_on(self.handle.command(request))?)
    }
}

fn summary(cast: &Cast, seen: &[Seen], published: usize, commanded: Duration, applied: &Applied) -> Summary {
    // A failure does not say which configuration it was routed by; by then nothing of before is in flight any more.
    let settled = commanded + PART / 2;
    let in_flight: Vec<Duration> = seen
        .iter()
        .filter(|seen| match seen.what {
            What::Failed => (commanded..settled).contains(&seen.at),
            What::Control | What::Treatment => seen.at >= commanded && seen.config_digest == applied.previous_digest,
        })
        .map(|seen| seen.at)
        .collect();
    let failed = |seen: &&Seen| seen.what == What::Failed;
    let afterwards = seen.iter().filter(|seen| seen.at >= commanded && seen.config_digest == applied.config_digest);
    let (on_control, elsewhere): (Vec<&Seen>, Vec<&Seen>) =
        afterwards.partition(|seen| seen.version == cast.control_version);
    Summary {
        on_control_afterwards: on_control.len(),
        elsewhere_afterwards: elsewhere.len(),
        requests: published,
        unanswered: published.saturating_sub(seen.len()),
        failed: seen.iter().filter(failed).count(),
        switched_after_ms: applied.took_ms,
        in_flight: in_flight.len(),
        in_flight_done_after_ms: in_flight.iter().max().map_or(0.0, |last| (*last - commanded).as_secs_f64() * 1e3),
        failed_afterwards: seen.iter().filter(failed).filter(|seen| seen.at >= settled).count(),
    }
}

/// What came out in each half second, with what happened beside it.
fn picture(cast: &Cast, seen: &[Seen], events: &[Event], summary: &Summary) -> String {
    let end = seen.iter().map(|seen| seen.at).max().unwrap_or_default();
    let rows = (end.as_millis() / ROW.as_millis()) as u32 + 1;
    let mut lines = vec![format!(
        "█ {}, or whom the comparison leaves out   ▒ {}   x failed, a dead letter\n",
        cast.control, cast.treatment
    )];
    for row in 0..rows {
        let (from, to) = (ROW * row, ROW * (row + 1));
        let within = |at: Duration| from <= at && at < to;
        let count = |what: What| seen.iter().filter(|seen| seen.what == what && within(seen.at)).count();
        let bar = [(What::Control, "█"), (What::Treatment, "▒"), (What::Failed, "x")]
            .map(|(what, sign)| sign.repeat(count(what)))
            .concat();
        let happened: Vec<&str> =
            events.iter().filter(|event| within(event.at)).map(|event| event.what.as_str()).collect();
        let width = 16_usize.saturating_sub(bar.chars().count());
        lines.push(format!("{:4.1} s  {bar}{}{}", from.as_secs_f64(), " ".repeat(width), happened.join("; ")));
    }
    let in_flight = match summary.in_flight {
        0 => "nothing was in flight".to_owned(),
        count => {
            format!("{count} in flight finished as begun, the last after {:.0} ms", summary.in_flight_done_after_ms)
        }
    };
    lines.push(format!("\nrollback: switched {:.1} ms after the command; {in_flight}", summary.switched_after_ms));
    lines.push(format!(
        "{} requests: {} failed while {} was broken, {} after the rollback, {} unanswered; afterwards {} on {}, {} elsewhere",
        summary.requests,
        summary.failed,
        cast.treatment,
        summary.failed_afterwards,
        summary.unanswered,
        summary.on_control_afterwards,
        cast.control,
        summary.elsewhere_afterwards
    ));
    lines.join("\n")
}
