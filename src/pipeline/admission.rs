//! From a record to a request that is parsed, checked and routed, with its image.

use std::{
    fs::File,
    io::Read,
    path::Path,
    time::{Duration, Instant},
};

use base64::Engine as _;

use super::{failure::Failure, specs::image_limits};
use crate::{
    engine::ImageId,
    message::{BASE64, ImageSource, Origin, Record, Request, Texts},
    routing::{Features, Route, Step, Table, Watch},
    settings::{LimitsPlan, Plan},
    telemetry,
    vision::{self, Header, Limits},
};

/// What admission needs.
pub(super) struct Admission<'a> {
    pub(super) table: &'a Table,
    pub(super) limits: &'a LimitsPlan,
    pub(super) images: Limits,
}

/// A request on its way to the model, with all that its verdict will say.
pub(super) struct Admitted {
    pub(super) request: Request,
    pub(super) route: Route,
    pub(super) header: Header,
    pub(super) image: ImageId,
    pub(super) text_length: usize,
    pub(super) fetching: Duration,
    pub(super) preparing: Duration,
}

impl Admitted {
    /// The variant, for a request in an experiment.
    pub(super) fn group(&self) -> Option<String> {
        self.route.variant.as_ref().map(|(_, variant)| variant.clone())
    }
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
    let admission = Admission { table, limits: &plan.limits, images: image_limits(plan) };
    let (Admitted { request, route, header, text_length, .. }, image) = admission.admit_watched(record, watch)?;
    Ok(Explained { route, request_id: request.request_id, header, image_bytes: image.len(), text_length })
}

impl Admission<'_> {
    /// Takes a record as far as its route is known; gives its encoded image too.
    pub(super) fn admit(&self, record: &Record) -> Result<(Admitted, Vec<u8>), Failure> {
        self.admit_watched(record, &mut CountMissing)
    }

    fn admit_watched(&self, record: &Record, watch: &mut impl Watch) -> Result<(Admitted, Vec<u8>), Failure> {
        let mut request = Request::from_record(record)?;
        let text_length = self.text_length(&request)?;
        let begun = Instant::now();
        // The base64 text is dropped here: the record still has it, and a verdict does not need it.
        let image = self.fetch(std::mem::take(&mut request.image), record)?;
        let fetching = begun.elapsed();
        let header = vision::probe(&image, &self.images)?;
        let features = Features {
            request_id: &request.request_id,
            key: record.key_text(),
            texts: request.text.as_slice(),
            caption: request.caption.as_deref(),
            text_length,
            image_width: header.width,
            image_height: header.height,
            image_bytes: image.len(),
            image_format: header.format.as_str(),
            time_ms: Origin::of(record).timestamp_ms,
            attributes: &request.attributes,
            forced_version: request.model_version.as_deref(),
        };
        let route = self.table.decide(&features, watch)?;
        let id = ImageId::of(&image);
        let preparing = Duration::ZERO;
        Ok((Admitted { request, route, header, image: id, text_length, fetching, preparing }, image))
    }

    /// Characters of the longest text, once all texts are within their limits.
    fn text_length(&self, request: &Request) -> Result<usize, Failure> {
        let LimitsPlan { texts_max, text_characters_max, .. } = *self.limits;
        let too_long = |field, reason| Err(Failure::TextTooLong { field, reason });
        if let Texts::Many(texts) = &request.text
            && texts.len() > texts_max
        {
            return too_long("text", format!("is a list of {}, `requests.texts_max` allows {texts_max}", texts.len()));
        }
        let longest = request.text.as_slice().iter().map(|text| text.chars().count()).max().unwrap_or_default();
        let caption = request.caption.as_deref().map_or(0, |caption| caption.chars().count());
        for (field, length) in [("text", longest), ("caption", caption)] {
            if length > text_characters_max {
                return too_long(
                    field,
                    format!("has {length} characters, `requests.text_characters_max` allows {text_characters_max}"),
                );
            }
        }
        Ok(longest)
    }

    /// The encoded image. Only a request whose value is the image names no source.
    fn fetch(&self, source: ImageSource, record: &Record) -> Result<Vec<u8>, Failure> {
        match source {
            ImageSource { base64: Some(text), .. } => {
                BASE64.decode(text.as_bytes()).map_err(|error| Failure::Base64(error.to_string()))
            }
            ImageSource { path: Some(path), .. } => self.read(Path::new(&path)),
            ImageSource { url: Some(_), .. } => Err(Failure::UrlRefused),
            ImageSource { .. } => Ok(record.payload.clone().unwrap_or_default()),
        }
    }

    /// Reads a file below the allowed root, wherever links lead.
    fn read(&self, path: &Path) -> Result<Vec<u8>, Failure> {
        let Some(root) = &self.limits.path_root else {
            return Err(Failure::PathRefused("paths are off: `images.path_root` is not set".to_owned()));
        };
        let unreadable = |error: std::io::Error| Failure::FileUnreadable(error.to_string());
        let resolved = root.join(path).canonicalize().map_err(unreadable)?;
        if !resolved.starts_with(root) {
            return Err(Failure::PathRefused("it leads out of `images.path_root`".to_owned()));
        }
        // A pipe or a device would hold the thread for ever.
        if !resolved.is_file() {
            return Err(Failure::PathRefused("it leads to no ordinary file".to_owned()));
        }
        // One byte more than allowed is enough for the limit to refuse it.
        let file = File::open(&resolved).map_err(unreadable)?;
        let mut bytes = Vec::new();
        file.take(self.images.bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        Ok(bytes)
    }
}
