//! What is answered at which address.

use std::{future::Future, io, sync::Arc};

use axum::{
    Router,
    body::{Bytes, HttpBody},
    extract::{DefaultBodyLimit, FromRequestParts, Path, Query, Request, State},
    http::{Method, StatusCode, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use super::auth::{Role, Tokens};
use crate::{
    control::{AuditInfo, Command, CommandRequest, ControlError, Handle, ID_CHARACTERS_MAX},
    pipeline::SwitchError,
    telemetry::{HttpLimits, serve_connections},
};

/// What a change takes besides its address: who, why and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ChangeRequest {
    /// Who, for the audit log.
    pub by: String,
    /// Why, for the audit log.
    pub why: String,
    /// Prepare everything, and change nothing.
    pub dry_run: bool,
    /// Carry it out although a newer record of the control topic cannot be read. What that record changed is lost.
    pub force: bool,
}

/// Conditions of a change, in its headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Conditions {
    /// `If-Match`: the `ETag` that must be in force.
    if_match: Option<String>,
    /// `Idempotency-Key`: the id of the change. A retry with the same id is not carried out twice.
    id: Option<String>,
}

impl<S: Sync> FromRequestParts<S> for Conditions {
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
        Ok(Self { if_match, id })
    }
}

fn bad_header(name: &str, reason: &str) -> Response {
    refused(StatusCode::BAD_REQUEST, "bad_request", &format!("the header `{name}` {reason}"))
}

/// Why something is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refusal {
    /// A stable code.
    pub code: String,
    /// For people: what is wrong, where, and what to do.
    pub message: String,
}

#[derive(Clone)]
struct Api {
    handle: Handle,
    tokens: Arc<Tokens>,
    body_bytes_max: usize,
}

/// Serves at an address that is bound; gives the server, to be awaited. Called inside of a runtime.
///
/// # Errors
/// When the system does not let it.
pub fn serve(
    listener: std::net::TcpListener,
    handle: Handle,
    tokens: Tokens,
    body_bytes_max: usize,
    limits: HttpLimits,
) -> io::Result<impl Future<Output = io::Result<()>> + Send> {
    let api = Api { handle, tokens: Arc::new(tokens), body_bytes_max };
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/config", put(apply).delete(use_file))
        .route("/v1/overrides", delete(clear))
        .route("/v1/rollback", post(rollback))
        .route("/v1/default/{version}", post(set_default))
        .route("/v1/experiments/{name}/pause", post(pause))
        .route("/v1/experiments/{name}/resume", post(resume))
        .route("/v1/experiments/{name}/promote/{variant}", post(promote))
        .route("/v1/record-format", post(upgrade_format))
        .route("/v1/audit", get(audit))
        .route("/v1/openapi.json", get(|| async { json(StatusCode::OK, &super::openapi()) }))
        .fallback(|| async { refused(StatusCode::NOT_FOUND, "no_such_address", "see /v1/openapi.json") })
        .layer(middleware::from_fn_with_state(api.clone(), admit))
        .layer(DefaultBodyLimit::max(body_bytes_max))
        .with_state(api);
    listener.set_nonblocking(true)?;
    Ok(serve_connections(TcpListener::from_std(listener)?, router, limits))
}

/// Lets in who has a token that allows it.
async fn admit(State(api): State<Api>, request: Request, next: Next) -> Response {
    let authorization = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    match (api.tokens.role(authorization), request.method()) {
        (None, _) => {
            let message = "send `Authorization: Bearer TOKEN`; the token is in the file `token` of `control.directory`";
            let mut response = refused(StatusCode::UNAUTHORIZED, "unauthorized", message);
            response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
            response
        }
        (Some(Role::Read), method) if *method != Method::GET && *method != Method::HEAD => {
            refused(StatusCode::FORBIDDEN, "forbidden", "this token may look, and change nothing")
        }
        // Here they stand in the body, and one that is overlooked would be a real change.
        (_, method) if *method == Method::POST && request.uri().query().is_some() => {
            refused(StatusCode::BAD_REQUEST, "bad_request", "a POST takes `by`, `why` and `dry_run` in its body")
        }
        // And here in the query.
        (_, method) if *method == Method::DELETE && request.body().size_hint().upper() != Some(0) => {
            refused(StatusCode::BAD_REQUEST, "bad_request", "a DELETE takes `by`, `why` and `dry_run` in its query")
        }
        _ if declared_length(&request).is_some_and(|bytes| bytes > api.body_bytes_max) => {
            // Read to its end, within reason: whoever still sends would see a broken connection and not the answer.
            axum::body::to_bytes(request.into_body(), DRAINED_BYTES_MAX).await.ok();
            refused(StatusCode::PAYLOAD_TOO_LARGE, "too_large", TOO_LARGE)
        }
        _ => in_our_words(next.run(request).await),
    }
}

fn declared_length(request: &Request) -> Option<usize> {
    request.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

const TOO_LARGE: &str = "the body is larger than `admin.body_bytes_max`";
const DRAINED_BYTES_MAX: usize = 16 << 20;

/// What the framework refuses by itself, said as everything else is.
fn in_our_words(response: Response) -> Response {
    let ours = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    match response.status() {
        StatusCode::PAYLOAD_TOO_LARGE if !ours => refused(StatusCode::PAYLOAD_TOO_LARGE, "too_large", TOO_LARGE),
        StatusCode::METHOD_NOT_ALLOWED if !ours => {
            refused(StatusCode::METHOD_NOT_ALLOWED, "no_such_method", "see /v1/openapi.json")
        }
        status if status.is_client_error() && !ours => {
            refused(status, "bad_request", "the query or the path cannot be read; see /v1/openapi.json")
        }
        _ => response,
    }
}

async fn status(State(api): State<Api>) -> Response {
    match api.handle.report().await {
        Ok(report) => with_etag(json(StatusCode::OK, &report), &report.etag),
        Err(error) => refusal(&error),
    }
}

/// Adds the `ETag` that a later change can name in `If-Match`.
fn with_etag(mut response: Response, etag: &str) -> Response {
    if let Ok(value) = header::HeaderValue::from_str(&format!("\"{etag}\"")) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}

async fn apply(
    State(api): State<Api>,
    conditions: Conditions,
    Query(change): Query<ChangeRequest>,
    body: Bytes,
) -> Response {
    match String::from_utf8(body.to_vec()) {
        Ok(text) => carry_out(&api, Command::Apply { text }, change, conditions).await,
        Err(_) => {
            refused(StatusCode::BAD_REQUEST, "bad_request", "the body is not UTF-8: send the text of the settings")
        }
    }
}

async fn use_file(State(api): State<Api>, conditions: Conditions, Query(change): Query<ChangeRequest>) -> Response {
    carry_out(&api, Command::UseFile, change, conditions).await
}

async fn clear(State(api): State<Api>, conditions: Conditions, Query(change): Query<ChangeRequest>) -> Response {
    carry_out(&api, Command::Clear, change, conditions).await
}

async fn rollback(State(api): State<Api>, conditions: Conditions, body: Bytes) -> Response {
    post_command(&api, Command::Rollback, conditions, &body).await
}

async fn upgrade_format(State(api): State<Api>, conditions: Conditions, body: Bytes) -> Response {
    post_command(&api, Command::UpgradeFormat, conditions, &body).await
}

async fn set_default(
    State(api): State<Api>,
    Path(version): Path<String>,
    conditions: Conditions,
    body: Bytes,
) -> Response {
    post_command(&api, Command::SetDefault { version }, conditions, &body).await
}

async fn pause(
    State(api): State<Api>,
    Path(experiment): Path<String>,
    conditions: Conditions,
    body: Bytes,
) -> Response {
    post_command(&api, Command::Pause { experiment }, conditions, &body).await
}

async fn resume(
    State(api): State<Api>,
    Path(experiment): Path<String>,
    conditions: Conditions,
    body: Bytes,
) -> Response {
    post_command(&api, Command::Resume { experiment }, conditions, &body).await
}

async fn promote(
    State(api): State<Api>,
    Path((experiment, variant)): Path<(String, String)>,
    conditions: Conditions,
    body: Bytes,
) -> Response {
    post_command(&api, Command::Promote { experiment, variant }, conditions, &body).await
}

/// How many lines of the audit log.
#[derive(Deserialize)]
struct AuditLimit {
    #[serde(default = "hundred")]
    limit: usize,
}

fn hundred() -> usize {
    100
}

const AUDIT_LINES_MAX: usize = 1_000;

async fn audit(State(api): State<Api>, Query(AuditLimit { limit }): Query<AuditLimit>) -> Response {
    let lines = api.handle.storage().map_or(Ok(Vec::new()), |storage| storage.audited(limit.min(AUDIT_LINES_MAX)));
    match lines {
        Ok(lines) => json(StatusCode::OK, &lines),
        Err(error) => refusal(&error),
    }
}

/// A command whose body is a [`ChangeRequest`] in JSON.
async fn post_command(api: &Api, command: Command, conditions: Conditions, body: &Bytes) -> Response {
    match read(body) {
        Ok(change) => carry_out(api, command, change, conditions).await,
        Err(error) => unreadable(&error),
    }
}

async fn carry_out(api: &Api, command: Command, change: ChangeRequest, conditions: Conditions) -> Response {
    let ChangeRequest { by, why, dry_run, force } = change;
    let mut request = CommandRequest::new(command, AuditInfo { by, why });
    (request.dry_run, request.force, request.if_match) = (dry_run, force, conditions.if_match);
    if let Some(id) = conditions.id {
        request.id = id;
    }
    match api.handle.command(request).await {
        Ok(applied) => with_etag(json(StatusCode::OK, &applied), &applied.etag),
        Err(error) => refusal(&error),
    }
}

/// A JSON body; an empty one is an empty object. An array would be read field by field, which no caller means.
fn read(body: &Bytes) -> Result<ChangeRequest, serde_json::Error> {
    let fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(if body.is_empty() { b"{}" } else { body })?;
    serde_json::from_value(fields.into())
}

fn unreadable(error: &serde_json::Error) -> Response {
    refused(StatusCode::BAD_REQUEST, "bad_request", &format!("the body: {error}"))
}

fn refusal(error: &ControlError) -> Response {
    let status = match error {
        ControlError::Switch(SwitchError::Kafka(_)) => StatusCode::SERVICE_UNAVAILABLE,
        ControlError::Settings(_) | ControlError::Switch(_) => StatusCode::UNPROCESSABLE_ENTITY,
        ControlError::Unknown { .. } => StatusCode::NOT_FOUND,
        ControlError::NoHistory
        | ControlError::Superseded
        | ControlError::UnknownState(_)
        | ControlError::RevisionLimit => StatusCode::CONFLICT,
        ControlError::Conflict { .. } => StatusCode::PRECONDITION_FAILED,
        ControlError::OutcomeUnknown { .. } => StatusCode::GATEWAY_TIMEOUT,
        ControlError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        ControlError::Busy | ControlError::NotPublished(_) | ControlError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        ControlError::Unreadable { .. } | ControlError::InUse(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    refused(status, error.code(), &error.to_string())
}

fn refused(status: StatusCode, code: &str, message: &str) -> Response {
    json(status, &Refusal { code: code.to_owned(), message: message.to_owned() })
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    // Plain data with string keys: serializing cannot fail.
    let body = serde_json::to_vec(value).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
