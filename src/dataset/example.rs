//! One line of a data set.

use serde::{Deserialize, Serialize};

use crate::message::Label;

/// A request with its label. Fields that are not known are passed over, so that reviewed verdicts can be lines as they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// What it is called in reports of what went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The picture.
    pub image: Picture,
    /// What is said of it.
    pub text: String,
    /// A premise in words beside the picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caption: Option<String>,
    /// Whether the picture entails it.
    pub label: Label,
    /// What the picture shows, in words, as far as somebody has said it: learned from, and never shown to a version that is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Why the label is what it is, in words, as far as somebody has said it: learned from, and never shown to a version that is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation: Option<String>,
    /// What it is about; accuracy is told for each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

/// Where a picture is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Picture {
    /// In a file, below the folder of the data set.
    Path(String),
    /// In the line itself.
    Base64(String),
}
