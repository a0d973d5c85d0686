//! Every failure of a record: its stage, its code, its words, and what follows from it.

use crate::{
    engine::{CaptionRefused, InferenceError},
    fetch::{Blame, FetchError},
    kafka::{KafkaError, PublishError, TransactionError},
    message::{DeadLetter, RequestError, Stage},
    routing::RouteError,
    vision::ImageError,
};

/// Why a record gets a dead letter instead of a verdict.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It is not a request.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// It has no value, and settings say that this is a mistake.
    #[error("the record has no value, and `kafka.tombstones` is \"dead_letter\"")]
    Tombstone,
    /// Its image is not base64.
    #[error("`image.base64` is not base64: {0}")]
    Base64(String),
    /// Its image was not fetched from the address that it gives.
    #[error("`image.url`: {0}")]
    Url(FetchError),
    /// Its image was not read from the path that it gives.
    #[error("`image.path`: {0}")]
    File(FetchError),
    /// Its image is refused.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The file of its image is empty or cut off: it may still be written.
    #[error("`image.path`: {0}")]
    FileIncomplete(ImageError),
    /// Its caption has no place in the prompt of the version that it is routed to.
    #[error(transparent)]
    Caption(#[from] CaptionRefused),
    /// It cannot be routed.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// The network did not answer.
    #[error(transparent)]
    Inference(#[from] InferenceError),
    /// A defect of this program or a library showed on it.
    #[error("a defect showed on this record: {0}; please report it")]
    Defect(String),
    /// Its verdict is larger than Kafka takes.
    #[error(
        "Kafka does not take the verdict, which is too large: raise `kafka.record_bytes_max` and the topic's `max.message.bytes`"
    )]
    VerdictTooLarge,
    /// Its verdict is refused by the brokers, alone as well.
    #[error("the brokers refuse the verdict: the verdicts topic has a policy that it does not meet")]
    VerdictRefused,
    /// It has no key, and the verdicts topic takes none without.
    #[error(
        "the record has no key, and the verdicts topic is compacted, which takes no record without one: publish it with a key"
    )]
    KeyMissing,
}

/// What follows from something that went wrong. [`Failure::consequence`] and [`Trouble::consequence`] are total: a new error
/// does not compile until somebody has decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// The record may succeed later: it waits in a retry topic, and becomes a dead letter after the last of them.
    RetryLater,
    /// It is the record's own fault: a dead letter.
    DeadLetter,
    /// The brokers or this machine are in trouble, which says nothing about the record: it is tried again after a pause.
    RetryInPlace,
    /// It is ours or the cluster's: the process ends, and nothing is lost.
    Stop,
}

/// What went wrong with all records at once.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Kafka.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// A transaction.
    #[error(transparent)]
    Transaction(#[from] TransactionError),
    /// A record was not published, and nobody says that it can be later.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// A version that records are routed to answers nothing any more.
    #[error("version `{version}`: {reason}")]
    Version {
        /// Which.
        version: String,
        /// Why.
        reason: String,
    },
}

impl Trouble {
    /// What follows from it.
    pub fn consequence(&self) -> Consequence {
        match self {
            Self::Transaction(TransactionError::Abort(_) | TransactionError::Refused(_)) => Consequence::RetryInPlace,
            Self::Transaction(TransactionError::Stop(_)) | Self::Kafka(_) | Self::Publish(_) | Self::Version { .. } => {
                Consequence::Stop
            }
        }
    }
}

/// Every code that a dead letter may have.
pub const FAILURE_CODES: [&str; 25] = [
    "empty_payload",
    "malformed_json",
    "missing_field",
    "invalid_field",
    "text_too_long",
    "image_source_missing",
    "image_source_conflict",
    "tombstone",
    "key_missing",
    "image_base64_invalid",
    "image_url_refused",
    "image_url_unreadable",
    "image_path_refused",
    "image_file_unreadable",
    "image_format_unsupported",
    "image_too_large",
    "image_undecodable",
    "unknown_version",
    "forced_version_refused",
    "inference_not_finite",
    "inference_failed",
    "version_stopped",
    "internal_defect",
    "verdict_too_large",
    "verdict_refused",
];

const MESSAGE_CHARACTERS_MAX: usize = 300;

impl Failure {
    /// The stable code of this failure: the metric label and the dead-letter header.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Request(error) => error.code(),
            Self::Tombstone => "tombstone",
            Self::Base64(_) => "image_base64_invalid",
            Self::Url(FetchError { blame: Blame::Refused, .. }) => "image_url_refused",
            Self::Url(_) => "image_url_unreadable",
            Self::File(FetchError { blame: Blame::Refused, .. }) => "image_path_refused",
            Self::File(_) => "image_file_unreadable",
            Self::Image(error) | Self::FileIncomplete(error) => error.code(),
            Self::Caption(_) => "invalid_field",
            Self::Route(error) => error.code(),
            Self::Inference(error) => error.code(),
            Self::Defect(_) => "internal_defect",
            Self::VerdictTooLarge => "verdict_too_large",
            Self::VerdictRefused => "verdict_refused",
            Self::KeyMissing => "key_missing",
        }
    }

    /// What follows from it.
    pub fn consequence(&self) -> Consequence {
        match self {
            Self::Url(error) | Self::File(error) => match error.blame {
                Blame::Refused | Blame::Request => Consequence::DeadLetter,
                // The file may be written later than its request, or lie on a share that is away.
                Blame::Moment => Consequence::RetryLater,
                Blame::Machine => Consequence::RetryInPlace,
            },
            Self::FileIncomplete(_) => Consequence::RetryLater,
            Self::Inference(InferenceError::Stopped(_)) => Consequence::Stop,
            Self::Inference(
                InferenceError::NotFinite | InferenceError::TooManyTokens { .. } | InferenceError::Device(_),
            )
            | Self::Request(_)
            | Self::Tombstone
            | Self::Base64(_)
            | Self::Image(_)
            | Self::Caption(_)
            | Self::Route(_)
            | Self::Defect(_)
            | Self::VerdictTooLarge
            | Self::VerdictRefused
            | Self::KeyMissing => Consequence::DeadLetter,
        }
    }

    fn stage(&self) -> Stage {
        match self {
            Self::Request(_) | Self::Tombstone | Self::KeyMissing | Self::Defect(_) => Stage::Parse,
            Self::Base64(_) | Self::Url(_) | Self::File(_) | Self::Image(_) | Self::FileIncomplete(_) => Stage::Image,
            Self::Route(_) | Self::Caption(_) => Stage::Routing,
            Self::Inference(_) => Stage::Inference,
            Self::VerdictTooLarge | Self::VerdictRefused => Stage::Publish,
        }
    }

    /// What was wrong, for headers and logs: cut, because names that a producer chose are part of it.
    pub fn message(&self) -> String {
        let whole = self.to_string();
        match whole.char_indices().nth(MESSAGE_CHARACTERS_MAX) {
            Some((end, _)) => format!("{}…", whole.get(..end).unwrap_or_default()),
            None => whole,
        }
    }

    /// The dead letter of a record that failed so.
    pub fn dead_letter(&self) -> DeadLetter {
        DeadLetter { stage: self.stage(), code: self.code(), message: self.message() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_from_a_failure_is_decided_for_each() {
        let fetch = |blame| FetchError { blame, reason: "why".to_owned() };
        use Consequence::{DeadLetter, RetryInPlace, RetryLater, Stop};
        let failures = [
            (Failure::File(fetch(Blame::Moment)), RetryLater),
            (Failure::File(fetch(Blame::Refused)), DeadLetter),
            (Failure::File(fetch(Blame::Request)), DeadLetter),
            (Failure::File(fetch(Blame::Machine)), RetryInPlace),
            (Failure::Url(fetch(Blame::Moment)), RetryLater),
            (Failure::Url(fetch(Blame::Machine)), RetryInPlace),
            (Failure::FileIncomplete(ImageError::Incomplete("cut".into())), RetryLater),
            (Failure::Image(ImageError::Incomplete("cut".into())), DeadLetter),
            (Failure::Inference(InferenceError::Stopped("lost".into())), Stop),
            (Failure::Inference(InferenceError::NotFinite), DeadLetter),
            (Failure::Inference(InferenceError::Device("shape".into())), DeadLetter),
            (Failure::Request(RequestError::EmptyPayload), DeadLetter),
            (Failure::Tombstone, DeadLetter),
            (Failure::VerdictTooLarge, DeadLetter),
            (Failure::Defect("bug".into()), DeadLetter),
        ];
        for (failure, expected) in failures {
            assert_eq!(failure.consequence(), expected, "{failure}");
            assert!(FAILURE_CODES.contains(&failure.code()), "{}", failure.code());
        }
        let kafka = || KafkaError::Fatal("refused".into());
        let failed = PublishError::Failed { topic: "t".into(), reason: "timed out".into() };
        let troubles = [
            (Trouble::Transaction(TransactionError::Abort("generation".into())), RetryInPlace),
            (Trouble::Transaction(TransactionError::Refused("topic".into())), RetryInPlace),
            (Trouble::Transaction(TransactionError::Stop(kafka())), Stop),
            (Trouble::Kafka(kafka()), Stop),
            (Trouble::Publish(failed), Stop),
            (Trouble::Version { version: "v".into(), reason: "gone".into() }, Stop),
        ];
        for (trouble, expected) in troubles {
            assert_eq!(trouble.consequence(), expected, "{trouble}");
        }
    }
}
