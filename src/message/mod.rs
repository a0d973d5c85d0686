//! What crosses Kafka: requests in, verdicts and dead letters out. Plain data, no behaviour beyond
//! reading and writing it.
//!
//! * [`Record`] and [`Outgoing`]: one Kafka record as it came, and one as it will go.
//! * [`Request`]: what producers publish, read by [`Request::from_json`].
//! * [`Verdict`]: what consumers read.
//! * [`DeadLetter`]: a refused record, its bytes untouched, with the reason in its headers.
//! * [`Device`]: where a version runs, as settings, verdicts and tables spell it; [`Load`]: when it is loaded.
//!
//! The JSON Schemas in `schemas/` are generated from these types; a test compares them.

mod dead_letter;
mod device;
mod record;
mod request;
mod verdict;
mod version_name;

pub use dead_letter::{DeadLetter, DeadLetterHeaders, Stage};
pub use device::{Device, Load, UnknownDevice};
pub use record::{Header, Outgoing, Record};
pub use request::{AttributeValue, Attributes, ImageSource, Request, RequestError, Texts};
pub use verdict::{Answer, Assignment, Decision, Label, LiveAnswer, Role, RouteTaken, Scores, TimingsMs, Verdict};
pub use version_name::{VersionName, VersionNameError};

/// Version of the record contract, sent in the header `ofa-schema-version`. It changes only when
/// a reader of the old contract could misread the new one.
pub const SCHEMA_VERSION: &str = "1";
