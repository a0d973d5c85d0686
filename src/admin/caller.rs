//! Who makes a change, and its conditions.

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
    response::Response,
};

use super::{answer::refused, auth::Identity};
use crate::control::ID_CHARACTERS_MAX;

/// Who makes a change, and its conditions, from its headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Caller {
    /// The name of the token, if it has one.
    pub(super) name: Option<String>,
    /// `If-Match`: the `ETag` that must be in force.
    pub(super) if_match: Option<String>,
    /// `Idempotency-Key`: the id of the change. A retry with the same id is not carried out twice.
    pub(super) id: Option<String>,
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        // Other bytes than ASCII become characters that no ETag and no id has.
        let text = |name: &str| {
            let value = parts.headers.get(name)?;
            Some(String::from_utf8_lossy(value.as_bytes()).trim().to_owned())
        };
        let if_match = match text("if-match").as_deref() {
            None | Some("*") => None,
            Some(list) if list.contains(',') || list.starts_with("W/") => {
                return Err(bad_header("if-match", "takes one ETag of `/v1/status`"));
            }
            Some(etag) => Some(etag.trim_matches('"').to_owned()),
        };
        let id = text("idempotency-key");
        let is_id = |id: &String| {
            !id.is_empty() && id.len() <= ID_CHARACTERS_MAX && id.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if id.as_ref().is_some_and(|id| !is_id(id)) {
            let reason = format!("takes up to {ID_CHARACTERS_MAX} visible ASCII characters");
            return Err(bad_header("idempotency-key", &reason));
        }
        let name = parts.extensions.get::<Identity>().and_then(|identity| identity.name.clone());
        Ok(Self { name, if_match, id })
    }
}

fn bad_header(name: &str, reason: &str) -> Response {
    refused(StatusCode::BAD_REQUEST, "bad_request", &format!("the header `{name}` {reason}"))
}
