//! What is answered at which address.

use std::{future::Future, io, sync::Arc};

use axum::{
    Router,
    body::{Bytes, HttpBody},
    extract::{DefaultBodyLimit, Path, Query, Request, State},
    http::{Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use super::auth::{Role, Tokens};
use crate::{
    control::{Applied, Command, ControlError, Handle, Order, Who},
    pipeline::SwitchError,
    telemetry::{HttpLimits, serve_connections},
};

/// Who asks, why, and whether it is only tried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Asked {
    /// Who, for the audit log.
    pub by: String,
    /// Why, for the audit log.
    pub why: String,
    /// Whether everything is to be made ready and nothing changed.
    pub dry_run: bool,
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
        Ok(report) => json(StatusCode::OK, &report),
        Err(error) => refusal(&error),
    }
}

async fn apply(State(api): State<Api>, Query(asked): Query<Asked>, body: Bytes) -> Response {
    match String::from_utf8(body.to_vec()) {
        Ok(text) => order(&api, Command::Apply { text }, asked).await,
        Err(_) => {
            refused(StatusCode::BAD_REQUEST, "bad_request", "the body is not UTF-8: send the text of the settings")
        }
    }
}

async fn use_file(State(api): State<Api>, Query(asked): Query<Asked>) -> Response {
    order(&api, Command::UseFile, asked).await
}

async fn clear(State(api): State<Api>, Query(asked): Query<Asked>) -> Response {
    order(&api, Command::Clear, asked).await
}

async fn rollback(State(api): State<Api>, body: Bytes) -> Response {
    match read(&body) {
        Ok(asked) => order(&api, Command::Rollback, asked).await,
        Err(error) => unreadable(&error),
    }
}

async fn set_default(State(api): State<Api>, Path(version): Path<String>, body: Bytes) -> Response {
    match read(&body) {
        Ok(asked) => order(&api, Command::SetDefault { version }, asked).await,
        Err(error) => unreadable(&error),
    }
}

async fn pause(State(api): State<Api>, Path(experiment): Path<String>, body: Bytes) -> Response {
    match read(&body) {
        Ok(asked) => order(&api, Command::Pause { experiment }, asked).await,
        Err(error) => unreadable(&error),
    }
}

async fn resume(State(api): State<Api>, Path(experiment): Path<String>, body: Bytes) -> Response {
    match read(&body) {
        Ok(asked) => order(&api, Command::Resume { experiment }, asked).await,
        Err(error) => unreadable(&error),
    }
}

async fn promote(State(api): State<Api>, Path((experiment, variant)): Path<(String, String)>, body: Bytes) -> Response {
    match read(&body) {
        Ok(asked) => order(&api, Command::Promote { experiment, variant }, asked).await,
        Err(error) => unreadable(&error),
    }
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
    let lines = api.handle.files().map_or(Ok(Vec::new()), |files| files.audited(limit.min(AUDIT_LINES_MAX)));
    match lines {
        Ok(lines) => json(StatusCode::OK, &lines),
        Err(error) => refusal(&error),
    }
}

async fn order(api: &Api, command: Command, Asked { by, why, dry_run }: Asked) -> Response {
    let applied: Result<Applied, ControlError> =
        api.handle.order(Order { command, who: Who { by, why }.bounded(), dry_run }).await;
    match applied {
        Ok(applied) => json(StatusCode::OK, &applied),
        Err(error) => refusal(&error),
    }
}

/// A JSON body; an empty one is an empty object. An array would be read field by field, which no caller means.
fn read(body: &Bytes) -> Result<Asked, serde_json::Error> {
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
        ControlError::NoHistory | ControlError::Superseded | ControlError::UnknownState(_) => StatusCode::CONFLICT,
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
