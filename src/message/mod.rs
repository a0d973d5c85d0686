//! What crosses Kafka: requests in, verdicts and dead letters out. Plain data, no behaviour beyond
//! reading and writing it.
//!
//! * [`Record`] and [`Outgoing`]: one Kafka record as it came, and one as it will go; [`Source`]: where it came from.
//! * [`Request`]: what producers publish; `read` reads it within [`RequestBounds`]; `parse` reads JSON and counts meanwhile,
//!   `base64` reads every spelling of it, `sniff` names what is no JSON.
//! * `binary`: requests whose value is the image, and their headers; [`carried`]: headers that go on to the answer.
//! * [`Verdict`]: what consumers read.
//! * [`Review`]: what a person says about a verdict.
//! * [`DeadLetter`]: a refused record, its bytes untouched, with the reason in its headers; `retry`: one that may succeed
//!   later.
//! * [`Device`]: where a version runs, as settings, verdicts and tables spell it; [`Load`]: when it is loaded.
//!
//! The JSON Schemas in `schemas/` are generated from these types; a test compares them.

mod base64;
pub mod binary;
mod dead_letter;
mod device;
mod headers;
mod parse;
mod read;
mod record;
mod request;
mod retry;
mod review;
mod sniff;
mod verdict;
mod version_name;

pub use base64::{decode_base64, encode_base64};
pub use dead_letter::{
    DeadLetter, DeadLetterHeaders, FailureContext, OMITTED, Refusal, Stage, is_added, replayed, replayed_from,
};
pub use device::{Device, Load, UnknownDevice};
pub use headers::{carried, header, text_header};
pub use parse::RequestBounds;
pub use record::{Header, Outgoing, Record, Source};
pub use request::{AttributeValue, Attributes, ImageSource, Request, RequestError, Texts};
pub use retry::{Origin, forget_retries, retry_attempt, retry_due_ms, retry_record};
pub use review::{Review, ReviewError};
pub(crate) use sniff::kind as file_kind;
pub use verdict::{
    Answer, Assignment, Decision, DecisionReason, Label, LiveAnswer, RecordPosition, Role, RouteTaken, Scores,
    TimingsMs, Verdict,
};
pub use version_name::{VersionName, VersionNameError};

/// Version of the record contract, sent in the header `ofa-schema-version`. It rises when fields are
/// added, so that a reader knows whether an absent field was not known or has no value. Fields of an
/// older version keep their meaning.
pub const SCHEMA_VERSION: &str = "2";
