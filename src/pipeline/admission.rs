//! From a record to a request that is parsed, checked and routed, with its image.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{decision::Reading, failure::Failure, specs::image_limits};
use crate::{
    engine::ImageId,
    fetch::{Blame, FetchError, Fetcher, Files},
    message::{Assignment, FailureContext, ImageSource, Origin, Record, Request, RequestError, decode_base64},
    routing::{Features, Route, Step, Table, Watch, salted_unit_hash},
    settings::{EmptyText, EvidencePlan, LimitsPlan, Plan},
    telemetry,
    text::{self, Script},
    vision::{self, Header, Limits},
};

/// What admission needs.
pub(super) struct Admission<'a> {
    pub(super) table: &'a Table,
    pub(super) limits: &'a LimitsPlan,
    pub(super) images: Limits,
    pub(super) evidence: &'a EvidencePlan,
    pub(super) sources: &'a ImageSources,
}

/// Where images come from that are not in the request.
#[derive(Debug)]
pub(super) struct ImageSources {
    pub(super) files: Files,
    pub(super) fetcher: Fetcher,
}

impl ImageSources {
    pub(super) fn new(limits: &LimitsPlan) -> Self {
        Self { files: Files::default(), fetcher: Fetcher::new(limits.fetch.clone()) }
    }
}

/// A request on its way to the model, with all that its verdict will say.
pub(super) struct Admitted {
    pub(super) request: Request,
    pub(super) route: Route,
    /// The value of each segment.
    pub(super) segments: BTreeMap<String, String>,
    pub(super) header: Header,
    pub(super) image: ImageId,
    /// Whether the image was read from a file.
    pub(super) is_file: bool,
    pub(super) text_length: usize,
    /// Whether a text says nothing, and settings send such a request to review.
    pub(super) says_nothing: bool,
    /// What the live version read; known once the texts are tokens.
    pub(super) reading: Reading,
    pub(super) fetching: Duration,
    pub(super) preparing: Duration,
}

impl Admitted {
    /// How far it came, should it fail.
    pub(super) fn context(&self) -> FailureContext {
        let (experiment, variant) = self.route.variant.clone().unzip();
        FailureContext {
            request_id: Some(self.request.request_id.clone()),
            experiment,
            variant,
            version: Some(self.route.version.clone()),
            assignment: self.route.assignment.clone(),
            config_digest: None,
        }
    }
}

/// A request that was not routed.
pub(super) struct AdmissionError {
    pub(super) failure: Failure,
    /// Its id, where it could be read.
    pub(super) request_id: Option<String>,
}

/// Counts what rules and experiments ask of requests that do not have it: a misspelt attribute shows here.
struct CountMissing;

impl Watch for CountMissing {
    fn tried(&mut self, _: impl FnOnce() -> Step) {}

    fn missing(&mut self, name: &str, field: &str) {
        telemetry::feature_missing(name, field);
    }
}

/// A record's route, and what it was judged by.
#[derive(Clone, Debug)]
pub struct Explained {
    /// The route.
    pub route: Route,
    /// The request's id.
    pub request_id: String,
    /// What its image is.
    pub header: Header,
    /// Encoded bytes of the image.
    pub image_bytes: usize,
    /// Characters of the longest text.
    pub text_length: usize,
}

/// Takes a record as far as its route is known, as live ones are, and tells `watch` how it came to it.
///
/// # Errors
/// Why it would become a dead letter before it is judged.
pub fn explain(plan: &Plan, table: &Table, record: &Record, watch: &mut impl Watch) -> Result<Explained, Failure> {
    let sources = ImageSources::new(&plan.limits);
    let admission = Admission { table, ..Admission::of(plan, &sources) };
    let admitted = admission.admit_watched(record, watch).map_err(|refused| refused.failure)?;
    let (Admitted { request, route, header, text_length, .. }, image) = admitted;
    Ok(Explained { route, request_id: request.request_id, header, image_bytes: image.len(), text_length })
}

impl<'a> Admission<'a> {
    /// Admission by the settings.
    pub(super) fn of(plan: &'a Plan, sources: &'a ImageSources) -> Self {
        let Plan { table, limits, evidence, .. } = plan;
        Self { table, limits, images: image_limits(plan), evidence, sources }
    }

    /// Takes a record as far as its route is known; returns its encoded image too.
    pub(super) fn admit(&self, record: &Record) -> Result<(Admitted, Vec<u8>), AdmissionError> {
        self.admit_watched(record, &mut CountMissing)
    }

    /// As [`Self::admit`]; `watch` sees how it is routed.
    pub(super) fn admit_watched(
        &self,
        record: &Record,
        watch: &mut impl Watch,
    ) -> Result<(Admitted, Vec<u8>), AdmissionError> {
        let request = Request::from_record(record, &self.limits.request)
            .map_err(|error| AdmissionError { failure: error.into(), request_id: None })?;
        let request_id = request.request_id.clone();
        let routed = self.route(request, record, watch);
        routed.map_err(|failure| AdmissionError { failure, request_id: Some(request_id) })
    }

    fn route(
        &self,
        mut request: Request,
        record: &Record,
        watch: &mut impl Watch,
    ) -> Result<(Admitted, Vec<u8>), Failure> {
        let says_nothing = self.says_nothing(&request)?;

        let begun = Instant::now();
        // The base64 text is dropped here: the record still has it, and a verdict does not need it.
        let source = std::mem::take(&mut request.image);
        let is_file = source.path.is_some();
        let image = self.fetch(source, record)?;
        let fetching = begun.elapsed();
        let header = vision::probe(&image, &self.images).map_err(|error| of_image(error, is_file, &image))?;

        let texts = request.text.as_slice();
        let text_length = texts.iter().map(|text| text.chars().count()).max().unwrap_or_default();
        let key = record.key_text();
        let non_latin = texts.iter().map(|text| text::foreign_share(text, &[Script::Latin]));
        let features = Features {
            request_id: &request.request_id,
            key: key.as_deref(),
            texts,
            caption: request.caption.as_deref(),
            text_length,
            non_latin_share: non_latin.fold(0.0, f64::max),
            image_width: header.width,
            image_height: header.height,
            image_bytes: image.len(),
            image_format: header.format.as_str(),
            time_ms: Origin::of(record).timestamp_ms,
            attributes: &request.attributes,
            forced_version: request.model_version.as_deref(),
        };
        let mut route = self.table.decide(&features, watch)?;
        route.assignment = route.assignment.map(|assignment| shown(assignment, self.evidence));
        let segments = self.evidence.segments.of(&features);

        let (id, preparing, reading) = (ImageId::of(&image), Duration::ZERO, Reading::default());
        let admitted = Admitted {
            request,
            route,
            segments,
            header,
            image: id,
            is_file,
            text_length,
            says_nothing,
            reading,
            fetching,
            preparing,
        };
        Ok((admitted, image))
    }

    /// Whether a text says nothing, and the request goes to review for it.
    fn says_nothing(&self, request: &Request) -> Result<bool, Failure> {
        let says_nothing = |text: &String| text::says_nothing(&text::clean(text, usize::MAX));
        let has_empty = request.text.as_slice().iter().any(says_nothing);
        match self.limits.empty_text {
            EmptyText::Refuse if has_empty => {
                let reason = "has no letter, digit or symbol, so there is nothing to judge (`requests.empty_text`)";
                Err(RequestError::InvalidField { field: "text".to_owned(), reason: reason.to_owned() }.into())
            }
            EmptyText::Refuse | EmptyText::Judge => Ok(false),
            EmptyText::Review => Ok(has_empty),
        }
    }

    /// The encoded image. Only a request whose value is the image names no source.
    fn fetch(&self, source: ImageSource, record: &Record) -> Result<Vec<u8>, Failure> {
        match source {
            ImageSource { base64: Some(text), .. } => decode_base64(&text).map_err(Failure::Base64),
            ImageSource { path: Some(path), .. } => self.read(&path).map_err(Failure::File),
            ImageSource { url: Some(url), .. } => {
                self.sources.fetcher.fetch(&url, self.images.bytes_max).map_err(Failure::Url)
            }
            ImageSource { .. } => Ok(record.payload.clone().unwrap_or_default()),
        }
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, FetchError> {
        let LimitsPlan { read_timeout, read_threads_max, .. } = *self.limits;
        match &self.limits.path_root {
            None => {
                let reason = "paths are off: `images.path_root` is not set".to_owned();
                Err(FetchError { blame: Blame::Refused, reason })
            }
            Some(root) => self.sources.files.read(root, path, self.images.bytes_max, read_timeout, read_threads_max),
        }
    }
}

/// The assignment as far as verdicts show it: the unit itself by setting only, and its digest with the salt.
fn shown(assignment: Assignment, plan: &EvidencePlan) -> Assignment {
    let salted = |hash: String| match &plan.store.unit_salt {
        Some(salt) => salted_unit_hash(salt.reveal(), &hash),
        None => hash,
    };
    Assignment {
        unit_value: assignment.unit_value.filter(|_| plan.unit_values),
        unit_hash: assignment.unit_hash.map(salted),
        ..assignment
    }
}

/// A refused image. A file that is cut off may still be written: on shared folders files appear before they are whole.
pub(super) fn of_image(error: vision::ImageError, is_file: bool, image: &[u8]) -> Failure {
    /// No format is recognized by fewer.
    const BYTES_MIN: usize = 12;
    let is_incomplete = matches!(error, vision::ImageError::Incomplete(_)) || image.len() < BYTES_MIN;
    if is_file && is_incomplete { Failure::FileIncomplete(error) } else { Failure::Image(error) }
}
