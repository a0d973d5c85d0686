//! Answers of the admin API: JSON, and refusals with a stable code.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why something is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refusal {
    /// A stable code.
    pub code: String,
    /// For people: what is wrong, where, and what to do.
    pub message: String,
}

/// A refusal.
pub(super) fn refused(status: StatusCode, code: &str, message: &str) -> Response {
    json(status, &Refusal { code: code.to_owned(), message: message.to_owned() })
}

/// An answer.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    // Plain data with string keys: serializing cannot fail.
    let body = serde_json::to_vec(value).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// The refusal of a body that cannot be read.
pub(super) fn unreadable(error: &serde_json::Error) -> Response {
    refused(StatusCode::BAD_REQUEST, "bad_request", &format!("the body: {error}"))
}

/// Adds the `ETag` that a later change can name in `If-Match`.
pub(super) fn with_etag(mut response: Response, etag: &str) -> Response {
    if let Ok(value) = header::HeaderValue::from_str(&format!("\"{etag}\"")) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}
