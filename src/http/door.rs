//! Checks that every request passes before a route sees it, and headers that every answer has.
//!
//! A page of another site can make a browser send requests to a loopback address. Three checks stop
//! that: the name in `Host` must be ours (a page whose name was re-bound to this address has another
//! one), a change must come from our own origin, and answers are never framed, sniffed or cached.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header},
    response::{IntoResponse, Response},
};

/// What a listener demands of requests.
#[derive(Clone, Debug, Default)]
pub struct Door {
    /// The names under which it may be addressed; none takes any.
    pub hosts: Option<HostRule>,
    /// True if HTTP/1.0 is refused. Health checks of some load balancers speak it.
    pub http_1_1_only: bool,
}

/// The names under which a listener may be addressed.
#[derive(Clone, Debug)]
pub struct HostRule {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Other names, as settings give them: `NAME` or `NAME:PORT`; `*` allows all.
    pub allowed: Vec<String>,
}

/// Longest path with its query, in bytes. A reason of 2,000 Latin characters, or 1,300 Chinese ones, fits percent-encoded.
const PATH_BYTES_MAX: usize = 12 << 10;

/// Headers of every answer.
const SECURITY_HEADERS: [(&str, &str); 6] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cache-control", "no-store"),
];
/// No route here serves a page; one that does sets its own.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

impl Door {
    /// The refusal of a request, if it may not pass.
    pub(super) fn refusal(&self, request: &Request) -> Option<Response> {
        let refuse = |status, code, message: &str| Some(refused(status, code, message));
        if self.http_1_1_only && request.version() != Version::HTTP_11 {
            return refuse(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "http_version", "speak HTTP/1.1");
        }
        let path_bytes = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
        if path_bytes > PATH_BYTES_MAX {
            return refuse(StatusCode::URI_TOO_LONG, "path_too_long", "the path and its query are too long");
        }
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        if let Some(hosts) = &self.hosts
            && !host.is_some_and(|host| hosts.admits(host))
        {
            let message = "this name is not allowed in `Host`: use the address of `admin.listen`, or add the name to \
                           `admin.allowed_hosts`";
            return refuse(StatusCode::MISDIRECTED_REQUEST, "host_refused", message);
        }
        if !is_same_origin(request.method(), request.headers(), host) {
            return refuse(StatusCode::FORBIDDEN, "origin_refused", "a page of another origin may change nothing here");
        }
        None
    }

    /// Adds the headers that every answer has. A route may have set its own.
    pub(super) fn finish(response: &mut Response) {
        let headers = response.headers_mut();
        let policy = ("content-security-policy", CONTENT_SECURITY_POLICY);
        for (name, value) in SECURITY_HEADERS.into_iter().chain([policy]) {
            headers.entry(name).or_insert(HeaderValue::from_static(value));
        }
    }
}

impl HostRule {
    /// True if a request may carry this value of `Host`.
    fn admits(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let listed = |allowed: &String| {
            let allowed = allowed.to_ascii_lowercase();
            allowed == "*" || allowed == host || allowed == name_of(&host)
        };
        if self.allowed.iter().any(listed) {
            return true;
        }
        let name = name_of(&host);
        if name == "localhost" {
            return true;
        }
        // An address cannot be re-bound to another one, as a name can.
        match name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(ip) => self.listen.ip().is_unspecified() || ip == self.listen.ip() || ip.is_loopback(),
            Err(_) => false,
        }
    }
}

/// The host without its port.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

/// False for a change that a page of another origin sends. Programs send no `Origin`.
fn is_same_origin(method: &Method, headers: &HeaderMap, host: Option<&str>) -> bool {
    if method.is_safe() {
        return true;
    }
    let text = |name: header::HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if site.is_some_and(|site| site != b"same-origin" && site != b"none") {
        return false;
    }
    match text(header::ORIGIN) {
        None => true,
        Some(origin) => {
            let authority = origin.split_once("://").map(|(_, authority)| authority);
            authority.is_some_and(|authority| host.is_some_and(|host| authority.eq_ignore_ascii_case(host)))
        }
    }
}

/// A refusal, in the form of the admin API.
fn refused(status: StatusCode, code: &str, message: &str) -> Response {
    let body = format!("{{\"code\":\"{code}\",\"message\":\"{message}\"}}");
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn rule(listen: &str, allowed: &[&str]) -> HostRule {
        HostRule { listen: listen.parse().unwrap(), allowed: allowed.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn only_our_own_names_are_admitted() {
        let loopback = rule("127.0.0.1:9465", &["ops.example", "other.example:8443"]);
        let anywhere = rule("0.0.0.0:9465", &[]);
        let v6 = rule("[::1]:9465", &[]);
        let cases = [
            (&loopback, "127.0.0.1:9465", true),
            (&loopback, "localhost", true),
            (&loopback, "LOCALHOST:9465", true),
            (&loopback, "[::1]:9465", true),
            (&loopback, "ops.example:9465", true),
            (&loopback, "Ops.Example", true),
            (&loopback, "other.example:8443", true),
            (&loopback, "other.example", false),
            (&loopback, "evil.example", false),
            (&loopback, "127.0.0.1.evil.example", false),
            (&loopback, "10.0.0.7:9465", false),
            (&loopback, "", false),
            (&anywhere, "10.0.0.7:9465", true),
            (&anywhere, "[fd00::7]:9465", true),
            (&anywhere, "evil.example:9465", false),
            (&v6, "[::1]", true),
            (&v6, "[fd00::7]", false),
        ];
        for (rule, host, admitted) in cases {
            assert_eq!(rule.admits(host), admitted, "{host} at {}", rule.listen);
        }
        assert!(rule("127.0.0.1:9465", &["*"]).admits("anything"));
    }

    #[test]
    fn a_request_is_refused_by_code() {
        let door = Door { hosts: Some(rule("127.0.0.1:9465", &[])), http_1_1_only: true };
        let status = |change: &dyn Fn(axum::http::request::Builder) -> axum::http::request::Builder| {
            let builder = Request::builder().uri("/v1/status").header("host", "localhost");
            let request = change(builder).body(Body::empty()).unwrap();
            door.refusal(&request).map(|response| response.status().as_u16())
        };
        assert_eq!(status(&|request| request), None);
        assert_eq!(status(&|request| request.version(Version::HTTP_10)), Some(505));
        assert_eq!(status(&|request| request.uri(format!("/{}", "x".repeat(PATH_BYTES_MAX)))), Some(414));
        assert_eq!(status(&|request| request.method("POST")), None, "a program");
        let post = |name: &'static str, value: &'static str| {
            move |request: axum::http::request::Builder| request.method("POST").header(name, value)
        };
        assert_eq!(status(&post("origin", "http://localhost")), None);
        assert_eq!(status(&post("origin", "http://evil.example")), Some(403));
        assert_eq!(status(&post("origin", "null")), Some(403));
        assert_eq!(status(&post("sec-fetch-site", "cross-site")), Some(403));
        assert_eq!(status(&post("sec-fetch-site", "same-origin")), None);
        let evil = Request::builder().header("host", "evil.example").body(Body::empty()).unwrap();
        assert_eq!(door.refusal(&evil).unwrap().status().as_u16(), 421);
        let nameless = Request::builder().body(Body::empty()).unwrap();
        assert_eq!(door.refusal(&nameless).unwrap().status().as_u16(), 421);
    }

    #[test]
    fn every_answer_has_the_security_headers() {
        let mut response = StatusCode::OK.into_response();
        response.headers_mut().insert("cache-control", HeaderValue::from_static("max-age=60"));
        Door::finish(&mut response);
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("cache-control"), "max-age=60", "a route may set its own");
        assert!(header("content-security-policy").contains("frame-ancestors 'none'"));
    }
}
