//! What people say about a verdict. Their answers are the only truth there is about quality.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Decision, Label, RecordPosition};

/// An answer of a person, as the topic of reviews holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Review {
    /// The request that was reviewed.
    #[schemars(length(min = 1, max = 256))]
    pub request_id: String,
    /// What the label should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Label>,
    /// What should be done with the content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// Who answered. The last answer of one person stands.
    #[schemars(length(min = 1, max = 200))]
    pub reviewer: String,
    /// When, RFC 3339.
    #[schemars(extend("format" = "date-time"))]
    pub reviewed_at: String,
    /// The probability with which the verdict was shown to a person, where it is another than the verdict's
    /// `review_probability`. Above 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub probability: Option<f64>,
    /// False if the verdict was shown for another reason than the sample, such as a disagreement of versions: the answer
    /// then has no weight in rates.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub sampled: bool,
    /// The record of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<RecordPosition>,
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

/// A record of the topic of reviews that is no review.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// It is no JSON, or fields are missing.
    #[error("it is no review: {0}")]
    Malformed(String),
    /// A field has a value that it cannot have.
    #[error("`{field}` {reason}")]
    InvalidField {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// No review is longer.
const BYTES_MAX: usize = 64 << 10;

impl Review {
    /// Reads a record.
    ///
    /// # Errors
    /// Why it is no review.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ReviewError> {
        if bytes.len() > BYTES_MAX {
            return Err(ReviewError::Malformed(format!("it is longer than {BYTES_MAX} bytes")));
        }
        let review: Self = serde_json::from_slice(bytes).map_err(|error| ReviewError::Malformed(error.to_string()))?;
        review.check()?;
        Ok(review)
    }

    /// Checks the fields.
    ///
    /// # Errors
    /// The first that cannot be.
    pub fn check(&self) -> Result<(), ReviewError> {
        let refuse = |field, reason: &str| Err(ReviewError::InvalidField { field, reason: reason.to_owned() });
        let is_name = |text: &str, characters_max: usize| {
            (1..=characters_max).contains(&text.chars().count()) && !text.chars().any(char::is_control)
        };
        if !is_name(&self.request_id, 256) {
            return refuse("request_id", "must have 1 to 256 characters, none of them a control character");
        }
        if !is_name(&self.reviewer, 200) {
            return refuse("reviewer", "must have 1 to 200 characters, none of them a control character");
        }
        if self.label.is_none() && self.decision.is_none() {
            return refuse("label", "is missing, and so is `decision`: give one of them");
        }
        if self.reviewed_at.parse::<jiff::Timestamp>().is_err() {
            return refuse("reviewed_at", "is no time: write 2026-12-01T08:00:00Z");
        }
        if self.probability.is_some_and(|probability| !(probability > 0.0 && probability <= 1.0)) {
            return refuse("probability", "must be above 0 and at most 1");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_review_says_who_when_and_what() {
        let good = r#"{"request_id": "r", "label": "no", "reviewer": "ann", "reviewed_at": "2026-12-01T08:00:00Z"}"#;
        assert_eq!(Review::from_bytes(good.as_bytes()).unwrap().label, Some(Label::No));
        let wrong = |from: &str, to: &str| match Review::from_bytes(good.replace(from, to).as_bytes()).unwrap_err() {
            ReviewError::InvalidField { field, .. } => field,
            ReviewError::Malformed(_) => "malformed",
        };
        assert_eq!(wrong("\"r\"", "\"\""), "request_id");
        assert_eq!(wrong("ann", "a\\u0000"), "reviewer");
        assert_eq!(wrong("\"label\": \"no\",", ""), "label");
        assert_eq!(wrong("2026-12-01T08:00:00Z", "yesterday"), "reviewed_at");
        assert_eq!(wrong("\"label\"", "\"probability\": 0.0, \"label\""), "probability");
        assert_eq!(wrong("\"no\"", "\"nein\""), "malformed");
        assert!(Review::from_bytes(&vec![b' '; BYTES_MAX + 1]).is_err());
    }
}
