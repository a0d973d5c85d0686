//! The routes of the admin API: addresses, roles and handlers.

use std::{future::Future, io, sync::Arc};

use axum::{
    Router,
    body::HttpBody,
    extract::{DefaultBodyLimit, FromRef, MatchedPath, Path, Query, Request, State},
    http::{Method, StatusCode, header},
    middleware::{self, Next},
    response::Response,
    routing::{MethodRouter, delete, get, post, put},
};
use serde::Deserialize;
use tokio::{net::TcpListener, sync::Semaphore};

use super::{
    answer::{json, refused, with_etag},
    api::Api,
    auth::Tokens,
    changes::{
        apply, clear, pause, promote, ramp_from, refusal, resume, rollback, set_default, set_traffic, upgrade_format,
        use_file,
    },
    evidence::evidence,
    trials::{TRIALS_MAX, explain, predict, simulate},
};
use crate::{
    control::{ConfigStore, Handle},
    evidence_store::Access,
    http::{Door, HostRule, HttpLimits, serve_connections},
    pipeline::Switcher,
    settings::{AdminPlan, Role},
};

/// A method of an address, with the role that it needs. There are no others.
struct Route<S> {
    method: &'static str,
    path: &'static str,
    role: Role,
    handler: MethodRouter<S>,
}

/// The route of evidence.
fn evidence_route<S: Clone + Send + Sync + 'static>() -> Route<S>
where
    Option<Access>: FromRef<S>,
{
    Route { method: "GET", path: "/v1/evidence", role: Role::Look, handler: get(evidence) }
}

/// Every route. A test compares them with the OpenAPI document, and walks them with every role.
fn routes() -> Vec<Route<Api>> {
    let route = |method, path, role, handler| Route { method, path, role, handler };
    let openapi = || async { json(StatusCode::OK, &super::openapi()) };
    vec![
        route("GET", "/v1/status", Role::Look, get(status)),
        evidence_route(),
        route("GET", "/v1/audit", Role::Look, get(audit)),
        route("GET", "/v1/openapi.json", Role::Look, get(openapi)),
        route("GET", "/v1/instances", Role::Look, get(instances)),
        route("GET", "/v1/config", Role::Look, get(config)),
        route("GET", "/v1/configs", Role::Look, get(configs)),
        route("GET", "/v1/configs/{digest}", Role::Look, get(config_by_digest)),
        route("POST", "/v1/predict", Role::Look, post(predict)),
        route("POST", "/v1/explain", Role::Look, post(explain)),
        route("POST", "/v1/simulate", Role::Look, post(simulate)),
        route("PUT", "/v1/config", Role::Operate, put(apply)),
        route("DELETE", "/v1/config", Role::Operate, delete(use_file)),
        route("DELETE", "/v1/overrides", Role::Operate, delete(clear)),
        route("POST", "/v1/rollback", Role::Operate, post(rollback)),
        route("POST", "/v1/default/{version}", Role::Operate, post(set_default)),
        route("POST", "/v1/experiments/{name}/pause", Role::Operate, post(pause)),
        route("POST", "/v1/experiments/{name}/resume", Role::Operate, post(resume)),
        route("POST", "/v1/experiments/{name}/promote/{variant}", Role::Operate, post(promote)),
        route("POST", "/v1/experiments/{name}/traffic/{share}", Role::Operate, post(set_traffic)),
        route("POST", "/v1/experiments/{name}/ramp/{share}", Role::Operate, post(ramp_from)),
        route("POST", "/v1/record-format", Role::Operate, post(upgrade_format)),
    ]
}

/// The role that a method of an address needs. An address that does not exist needs one that may look, so that a
/// caller without a token does not learn which exist.
fn role_of(routes: &[(&'static str, &'static str, Role)], method: &Method, path: Option<&str>) -> Role {
    let method = if *method == Method::HEAD { "GET" } else { method.as_str() };
    let found = routes.iter().find(|(known, at, _)| *known == method && Some(*at) == path);
    found.map_or(Role::Look, |(_, _, role)| *role)
}

/// Serves at an address that is bound; returns the server, to be awaited. Called inside of a runtime.
///
/// # Errors
/// When the system does not let it.
pub fn serve(
    listener: std::net::TcpListener,
    served: Served,
    tokens: Tokens,
    plan: &AdminPlan,
    limits: HttpLimits,
) -> io::Result<impl Future<Output = io::Result<()>> + Send + use<>> {
    let Served { handle, switcher, evidence } = served;
    let trials = Arc::new(Semaphore::new(TRIALS_MAX));
    let api = Api { handle, tokens: Arc::new(tokens), body_bytes_max: plan.body_bytes_max, switcher, trials, evidence };
    serve_router(listener, router(api), plan, limits)
}

/// What the routes are about.
pub struct Served {
    /// Changes the configuration.
    pub handle: Handle,
    /// Serves it.
    pub switcher: Switcher,
    /// Evidence, where this instance reads it.
    pub evidence: Option<Access>,
}

/// As [`serve`], for a program that only reads evidence.
///
/// # Errors
/// When the system does not let it.
pub fn serve_evidence(
    listener: std::net::TcpListener,
    evidence: Access,
    tokens: Tokens,
    plan: &AdminPlan,
    limits: HttpLimits,
) -> io::Result<impl Future<Output = io::Result<()>> + Send + use<>> {
    let router = router_of(vec![evidence_route()], Some(evidence), Arc::new(tokens), plan.body_bytes_max);
    serve_router(listener, router, plan, limits)
}

fn serve_router(
    listener: std::net::TcpListener,
    router: Router,
    plan: &AdminPlan,
    limits: HttpLimits,
) -> io::Result<impl Future<Output = io::Result<()>> + Send + use<>> {
    let hosts = HostRule { listen: listener.local_addr()?, allowed: plan.allowed_hosts.clone() };
    let door = Door { hosts: Some(hosts), http_1_1_only: true };
    listener.set_nonblocking(true)?;
    Ok(serve_connections(TcpListener::from_std(listener)?, router, limits, door))
}

fn router(api: Api) -> Router {
    let (tokens, body_bytes_max) = (api.tokens.clone(), api.body_bytes_max);
    router_of(routes(), api, tokens, body_bytes_max)
}

fn router_of<S: Clone + Send + Sync + 'static>(
    routes: Vec<Route<S>>,
    state: S,
    tokens: Arc<Tokens>,
    body_bytes_max: usize,
) -> Router {
    let roles: Vec<_> = routes.iter().map(|route| (route.method, route.path, route.role)).collect();
    let roles = Arc::new(roles);
    let admit = move |request: Request, next: Next| {
        let (roles, tokens) = (roles.clone(), tokens.clone());
        async move { admit(&roles, &tokens, body_bytes_max, request, next).await }
    };
    let router = routes.into_iter().fold(Router::new(), |router, route| router.route(route.path, route.handler));
    router
        .fallback(|| async { refused(StatusCode::NOT_FOUND, "no_such_address", "see /v1/openapi.json") })
        .layer(middleware::from_fn(admit))
        .layer(DefaultBodyLimit::max(body_bytes_max))
        .with_state(state)
}

/// Lets a request in if its token allows it.
async fn admit(
    roles: &[(&'static str, &'static str, Role)],
    tokens: &Tokens,
    body_bytes_max: usize,
    mut request: Request,
    next: Next,
) -> Response {
    let authorization = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some(identity) = tokens.identify(authorization) else {
        let message = "send `Authorization: Bearer TOKEN`; the token is in the file `token` of `control.directory`";
        let mut response = refused(StatusCode::UNAUTHORIZED, "unauthorized", message);
        response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        return response;
    };
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let is_known = path.is_some();
    let needed = role_of(roles, &method, path);
    if identity.role < needed || (!is_known && !method.is_safe() && identity.role < Role::Operate) {
        let message = format!("this needs a token with the role `{}`", role_name(needed.max(Role::Review)));
        return refused(StatusCode::FORBIDDEN, "forbidden", &message);
    }
    // A parameter in the wrong place would be overlooked, and a dry run would be a real change.
    if method == Method::POST && needed == Role::Operate && request.uri().query().is_some() {
        let message = "a POST takes `by`, `why`, `dry_run` and `force` in its body";
        return refused(StatusCode::BAD_REQUEST, "bad_request", message);
    }
    if method == Method::DELETE && request.body().size_hint().upper() != Some(0) {
        let message = "a DELETE takes `by`, `why`, `dry_run` and `force` in its query";
        return refused(StatusCode::BAD_REQUEST, "bad_request", message);
    }
    if declared_length(&request).is_some_and(|bytes| bytes > body_bytes_max) {
        // Read to its end, within reason: a client that still sends would see a broken connection and not the answer.
        axum::body::to_bytes(request.into_body(), DRAINED_BYTES_MAX).await.ok();
        return refused(StatusCode::PAYLOAD_TOO_LARGE, "too_large", TOO_LARGE);
    }
    request.extensions_mut().insert(identity);
    in_our_words(next.run(request).await)
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Look => "look",
        Role::Review => "review",
        Role::Operate => "operate",
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

async fn instances(State(api): State<Api>) -> Response {
    match api.handle.instances().await {
        Ok(instances) => json(StatusCode::OK, &instances),
        Err(error) => refusal(&error),
    }
}

async fn config(State(api): State<Api>) -> Response {
    match api.handle.config().await {
        Ok(config) => with_etag(json(StatusCode::OK, &config), &config.etag),
        Err(error) => refusal(&error),
    }
}

async fn configs(State(api): State<Api>) -> Response {
    match api.handle.configs().map_or(Ok(Vec::new()), ConfigStore::list) {
        Ok(configs) => json(StatusCode::OK, &configs),
        Err(error) => refusal(&error),
    }
}

async fn config_by_digest(State(api): State<Api>, Path(digest): Path<String>) -> Response {
    let Some(configs) = api.handle.configs() else {
        let message = "`control.directory` is off, so configurations are not kept";
        return refused(StatusCode::NOT_FOUND, "unknown_name", message);
    };
    match configs.find(&digest) {
        Ok(config) => json(StatusCode::OK, &config),
        Err(error) => refusal(&error),
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
    let lines = api.handle.storage().map_or(Ok(Vec::new()), |storage| storage.audited(limit.min(AUDIT_LINES_MAX)));
    match lines {
        Ok(lines) => json(StatusCode::OK, &lines),
        Err(error) => refusal(&error),
    }
}

/// A command whose body is a [`ChangeRequest`] in JSON.
#[cfg(test)]
mod tests;
