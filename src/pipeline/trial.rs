//! One request tried on some versions, outside of Kafka: nothing is published and nothing is counted as
//! traffic. Its passes run in the shadow lanes, so they delay no live request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, sync_channel},
    },
    time::{Duration, Instant},
};

use super::{
    admission::{Admission, Admitted, of_image},
    decision::Reading,
    failure::Failure,
    outcome::{Answered, Outcomes},
    serving::{Serving, Switcher},
    specs::image_limits,
};
use crate::{
    engine::{InferenceError, Job, Judged, Prepared, Reply, Version},
    message::{AttributeValue, Attributes, Record, Request, RequestError, Verdict},
    routing::{AssumedRequest, Overrides, ShareCounter, Shares, Step, Watch, hashed_attributes},
    settings::Plan,
    text::{Script, foreign_share},
    vision,
};

/// Why a trial has no verdict.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The request would become a dead letter.
    #[error("{0}")]
    Failure(Failure),
    /// The configuration in force does not name the version.
    #[error("there is no version `{name}` in the configuration in force: there are {}", known.join(", "))]
    UnknownVersion {
        /// The name.
        name: String,
        /// The versions that there are.
        known: Vec<String>,
    },
    /// Addresses are fetched for requests of the topic only.
    #[error("`image.url` is not fetched for a trial: send the picture as `image.base64`")]
    Url,
    /// The version has too much to do.
    #[error("version `{0}` has no room in its shadow queue now: try again")]
    Busy(String),
    /// The settings to compare with cannot work.
    #[error("{0}")]
    Settings(String),
    /// The caller is gone, or the version did not answer in time.
    #[error("the trial was cancelled, or took longer than {TRIAL_TIMEOUT:?}")]
    Cancelled,
}

impl From<Failure> for TrialError {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl TrialError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Failure(failure) => failure.code(),
            Self::UnknownVersion { .. } => "unknown_name",
            Self::Url => "image_url_refused",
            Self::Busy(_) => "busy",
            Self::Settings(_) => "settings",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What routing decided on a request, for people.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct RouteExplanation {
    /// The version that would answer.
    pub version: String,
    /// Why.
    pub reason: &'static str,
    /// The rule, holdout or promoted experiment that decided.
    pub rule: Option<String>,
    /// The experiment.
    pub experiment: Option<String>,
    /// Its variant.
    pub variant: Option<String>,
    /// The versions that would judge it for comparison.
    pub shadows: Vec<String>,
    /// The probability of each version for this request.
    pub probabilities: Option<std::collections::BTreeMap<String, f64>>,
    /// The digest of the configuration in force.
    pub config_digest: String,
    /// Everything that was tried, in order.
    pub steps: Vec<Step>,
}

/// A simulation of routing.
#[derive(Clone, Debug, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SimulationRequest {
    /// Made-up units, at most a million.
    #[schemars(range(max = 1_000_000))]
    pub units: usize,
    /// The text of every unit.
    pub text: String,
    /// Attributes of every unit. One that is hashed is the unit itself, unless it is given here.
    pub attributes: std::collections::BTreeMap<String, String>,
    /// Other settings, in TOML, to compare with.
    pub settings: Option<String>,
}

/// Units of a simulation.
const UNITS_MAX: usize = 1_000_000;

/// A trial takes at most so long, a load of a version included.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(60);

/// A version that works on a trial.
struct Running {
    version: Arc<Version>,
    admitted: Admitted,
    answer: Receiver<Result<Judged, InferenceError>>,
}

impl Switcher {
    /// Explains the route of a request, given as its JSON.
    ///
    /// # Errors
    /// Why it would become a dead letter before it is routed.
    pub fn explain_request(&self, json: &[u8]) -> Result<RouteExplanation, TrialError> {
        let serving = self.serving();
        let record = record(&serving, json)?;
        let mut steps: Vec<Step> = Vec::new();
        let (Admitted { route, .. }, _) = admit(&serving, &record, &mut steps)?;
        let (experiment, variant) = route.variant.unzip();
        Ok(RouteExplanation {
            version: route.version,
            reason: route.reason.as_str(),
            rule: route.rule,
            experiment,
            variant,
            shadows: route.shadows,
            probabilities: route.probabilities,
            config_digest: serving.plan.config_digest.clone(),
            steps,
        })
    }

    /// The verdicts of some versions on a request, given as its JSON; of the version that it is routed to, if none is named.
    /// Blocks until all have answered, or `cancelled` is set.
    ///
    /// # Errors
    /// Why there is no verdict.
    pub fn try_request(
        &self,
        json: &[u8],
        versions: &[String],
        cancelled: &Arc<AtomicBool>,
    ) -> Result<Vec<Verdict>, TrialError> {
        let begun = Instant::now();
        let serving = self.serving();
        let record = record(&serving, json)?;
        let (first, image) = admit(&serving, &record, &mut ())?;
        let names = if versions.is_empty() { vec![first.route.version.clone()] } else { versions.to_vec() };

        let gives_up = || cancelled.load(Ordering::Acquire) || begun.elapsed() > TRIAL_TIMEOUT;
        let decoder = self.shared.decoding.acquire(first.header.decoding_bytes, gives_up);
        let decoder = decoder.ok_or(TrialError::Cancelled)?;
        let decoded = vision::decode(&image, &image_limits(&serving.plan))
            .map_err(|error| of_image(error, first.is_file, &image))?;
        let mut running = Vec::new();
        for name in &names {
            let (admitted, _) = admit(&serving, &record, &mut ())?;
            running.push(self.begin(&serving, name, admitted, &decoded, cancelled)?);
        }
        drop(decoder);

        let outcomes = Outcomes::of(&serving.plan, &self.shared.compacted, &self.shared.instance);
        let verdicts = running.into_iter().map(|Running { version, admitted, answer }| {
            let judged = loop {
                match answer.recv_timeout(Duration::from_millis(100)) {
                    Ok(judged) => break judged.map_err(Failure::from)?,
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout) if !gives_up() => {}
                    Err(_) => return Err(TrialError::Cancelled),
                }
            };
            let latency = begun.elapsed();
            let identity = version.identity();
            let answered = Answered { admitted, version: identity, judged: &judged, latency, attempts: 1 };
            // It was never a record of a topic.
            Ok(Verdict { source: None, requested_at: None, age_ms: None, ..outcomes.verdict(&record, answered) })
        });
        verdicts.collect()
    }

    /// The shares that the configuration in force gives to made-up units, and what other settings would move.
    ///
    /// # Errors
    /// When the other settings cannot work, or `cancelled` is set.
    pub fn simulate(&self, request: &SimulationRequest, cancelled: &AtomicBool) -> Result<Shares, TrialError> {
        let serving = self.serving();
        let path = "the settings to compare with".as_ref();
        let other = request
            .settings
            .clone()
            .map(|text| Plan::from_text_while(path, text, &Overrides::default(), Some(&serving.plan)));
        let other = other.transpose().map_err(|error| TrialError::Settings(error.to_string()))?;
        let specs = [Some(&serving.plan.table_spec), other.as_ref().map(|plan| &plan.table_spec)];
        let hashed: Vec<String> = specs.into_iter().flatten().flat_map(hashed_attributes).collect();

        let against = other.as_ref().map(|plan| (&plan.table, plan.config_digest.as_str()));
        let mut counter = ShareCounter::new((&serving.plan.table, &serving.plan.config_digest), against);
        let text = AttributeValue::Text;
        let given = request.attributes.iter().map(|(name, value)| (name.clone(), Some(text(value.clone()))));
        let given: Vec<_> = given.collect();
        let assumed = AssumedRequest {
            texts: vec![request.text.clone()],
            non_latin_share: foreign_share(&request.text, &[Script::Latin]),
            image_size: (640, 480),
            image_bytes: 100_000,
            time_ms: jiff::Timestamp::now().as_millisecond(),
            ..AssumedRequest::default()
        };
        for number in 0..request.units.min(UNITS_MAX) {
            if number % 1_000 == 0 && cancelled.load(Ordering::Acquire) {
                return Err(TrialError::Cancelled);
            }
            let unit = format!("unit-{number:07}");
            let mut attributes: Attributes =
                hashed.iter().map(|name| (name.clone(), Some(text(unit.clone())))).collect();
            attributes.extend(given.clone());
            counter.add(&AssumedRequest { request_id: unit.clone(), key: unit, attributes, ..assumed.clone() });
        }
        Ok(counter.finish())
    }

    fn begin(
        &self,
        serving: &Serving,
        name: &str,
        mut admitted: Admitted,
        decoded: &vision::RgbImage,
        cancelled: &Arc<AtomicBool>,
    ) -> Result<Running, TrialError> {
        let Some(version) = serving.fleet.version(name).cloned() else {
            let known = serving.fleet.versions().map(|version| version.identity().name.clone()).collect();
            return Err(TrialError::UnknownVersion { name: name.to_owned(), known });
        };
        let (texts, caption) = (admitted.request.text.as_slice(), admitted.request.caption.as_deref());
        let sources = version.preparer().sources(texts, caption).map_err(Failure::from)?;
        admitted.reading = Reading::new(&sources, admitted.says_nothing, admitted.route.is_for_review);

        let gives_up = || cancelled.load(Ordering::Acquire);
        let permit = self.shared.prepared.acquire(version.preparer().pixel_bytes(), gives_up);
        let permit = permit.ok_or(TrialError::Cancelled)?;
        let pixels = version.preparer().pixels(decoded);
        let prepared = Prepared { image: admitted.image, pixels, sources: sources.ids };
        let (sender, answer) = sync_channel(1);
        let reply = Reply::new(move |judged| {
            drop(permit);
            // The caller may be gone.
            sender.send(judged).ok();
        });
        let asking = cancelled.clone();
        let wanted = Box::new(move || !asking.load(Ordering::Acquire));
        if !version.offer_shadow(Job { prepared, wanted, reply, answer_key: None }) {
            return Err(TrialError::Busy(name.to_owned()));
        }
        Ok(Running { version, admitted, answer })
    }
}

/// The request as a record that has the time of now.
fn record(serving: &Serving, json: &[u8]) -> Result<Record, TrialError> {
    let timestamp_ms = Some(jiff::Timestamp::now().as_millisecond());
    let record = Record { payload: Some(json.to_vec()), timestamp_ms, ..Record::default() };
    let request = Request::from_record(&record, &serving.plan.limits.request)
        .map_err(|error: RequestError| Failure::from(error))?;
    if request.image.url.is_some() {
        return Err(TrialError::Url);
    }
    Ok(record)
}

fn admit(serving: &Serving, record: &Record, watch: &mut impl Watch) -> Result<(Admitted, Vec<u8>), TrialError> {
    Admission::of(&serving.plan, &serving.sources)
        .admit_watched(record, watch)
        .map_err(|refused| refused.failure.into())
}
