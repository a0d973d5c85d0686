//! Images by their URL. A producer chooses the URL, and this program stands inside a network: so the name is resolved once, every
//! address of it is checked, and the connection goes to the very address that was checked.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::sync_channel,
    },
    thread,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use ureq::{
    Agent, Body, Error,
    config::Config,
    http::{Response, StatusCode, Uri, header},
    unversioned::{
        resolver::{ResolvedSocketAddrs, Resolver},
        transport::{DefaultConnector, NextTimeout},
    },
};

use super::{Blame, FetchError, is_special};

/// What may be fetched, and within which bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchOptions {
    /// Hosts, in small letters; one that begins with `*.` stands for all names below it. None allows nothing.
    pub hosts: Vec<String>,
    /// `https`, `http`.
    pub schemes: Vec<String>,
    /// Ports that are allowed in addition to those of the schemes.
    pub ports: Vec<u16>,
    /// Special networks (private ones, say) that may be fetched from.
    pub networks: Vec<IpNet>,
    /// Redirects that are followed, each checked as the first URL was.
    pub redirects_max: u32,
    /// Time for one image, from the name's resolution to the last byte.
    pub timeout: Duration,
    /// Images that are fetched at a time.
    pub concurrent_max: usize,
}

/// Fetches images. A clone shares the bound on what is fetched at a time.
#[derive(Clone, Debug)]
pub struct Fetcher {
    options: Arc<FetchOptions>,
    fetching: Arc<AtomicUsize>,
    resolving: Arc<AtomicUsize>,
}

/// One fetch, counted until it ends.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Fetcher {
    /// A fetcher with these options.
    pub fn new(options: FetchOptions) -> Self {
        Self { options: Arc::new(options), fetching: Arc::default(), resolving: Arc::default() }
    }

    /// Images that are fetched now.
    pub fn fetching(&self) -> usize {
        self.fetching.load(Ordering::Acquire)
    }

    /// The bytes of an image, at most `bytes_max` and one, by which the caller sees that it is longer.
    ///
    /// # Errors
    /// When settings do not allow the URL or one of its host's addresses, or its server does not give it.
    pub fn fetch(&self, url: &str, bytes_max: usize) -> Result<Vec<u8>, FetchError> {
        let mut uri = self.checked(url)?;
        let _counted = self.count()?;
        let deadline = Instant::now() + self.options.timeout;
        for _ in 0..=self.options.redirects_max {
            let response = self.get(&uri, deadline)?;
            match next_location(&response) {
                Some(location) => uri = self.checked(&resolved(&uri, &location)?)?,
                None => return body(response, bytes_max),
            }
        }
        let followed = self.options.redirects_max;
        refused(format!("the server redirects more often than {followed} times, `images.fetch.redirects_max`"))
    }

    fn count(&self) -> Result<Counted, FetchError> {
        let before = self.fetching.fetch_add(1, Ordering::AcqRel);
        let counted = Counted(self.fetching.clone());
        if before < self.options.concurrent_max {
            Ok(counted)
        } else {
            Err(FetchError::new(Blame::Moment, "as many images are fetched as `images.fetch.concurrent_max` allows"))
        }
    }

    /// Checks a URL by its letters.
    fn checked(&self, url: &str) -> Result<Uri, FetchError> {
        let options = &self.options;
        if options.hosts.is_empty() {
            return refused("addresses are not fetched: `images.fetch.hosts` is empty");
        }
        let Ok(uri) = url.parse::<Uri>() else { return refused("it is no URL") };
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return refused("it has no scheme or no host");
        };
        if !options.schemes.iter().any(|allowed| allowed == scheme) {
            return refused("its scheme is none of `images.fetch.schemes`");
        }
        // What stands before an `@` would go to the server, and hides the host from a reader.
        if authority.as_str().contains('@') {
            return refused("it holds a user name");
        }
        let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
        if !options.hosts.iter().any(|allowed| allows(allowed, &host)) {
            return refused("its host is none of `images.fetch.hosts`");
        }
        let usual = if scheme == "https" { 443 } else { 80 };
        let port = authority.port_u16().unwrap_or(usual);
        if port != usual && !options.ports.contains(&port) {
            return refused("its port is none of `images.fetch.ports`");
        }
        Ok(uri)
    }

    fn get(&self, uri: &Uri, deadline: Instant) -> Result<Response<Body>, FetchError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // A proxy of the environment would resolve the name itself.
            .proxy(None)
            .max_redirects(0)
            // A pooled connection would skip the check of the name's present addresses.
            .max_idle_connections(0)
            .max_response_header_size(16 << 10)
            .timeout_global(Some(left))
            .user_agent(concat!("ofa-stream/", env!("CARGO_PKG_VERSION")))
            .build();
        let resolver = CheckedResolver {
            networks: self.options.networks.clone(),
            resolving: self.resolving.clone(),
            threads_max: self.options.concurrent_max,
        };
        let agent = Agent::with_parts(config, DefaultConnector::new(), resolver);
        agent.get(uri).call().map_err(failure)
    }
}

/// Whether an entry of the list allows a host.
fn allows(allowed: &str, host: &str) -> bool {
    match allowed.strip_prefix("*.") {
        Some(parent) => host.strip_suffix(parent).is_some_and(|name| name.len() > 1 && name.ends_with('.')),
        None => allowed == host,
    }
}

fn refused<T>(reason: impl Into<String>) -> Result<T, FetchError> {
    Err(FetchError::new(Blame::Refused, reason))
}

/// Where a redirect leads; none where the response is none.
fn next_location(response: &Response<Body>) -> Option<String> {
    let is_redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response.headers().get(header::LOCATION).filter(|_| is_redirect)?;
    location.to_str().ok().map(str::to_owned)
}

/// A redirect's location: a whole URL, or an absolute path on the same host.
fn resolved(from: &Uri, location: &str) -> Result<String, FetchError> {
    if location.contains("://") && !location.starts_with('/') {
        return Ok(location.to_owned());
    }
    match (from.scheme_str(), from.authority()) {
        (Some(scheme), Some(authority)) if location.starts_with('/') && !location.starts_with("//") => {
            Ok(format!("{scheme}://{authority}{location}"))
        }
        _ => refused("the server redirects to something that is no whole URL"),
    }
}

/// The body of a good answer.
fn body(response: Response<Body>, bytes_max: usize) -> Result<Vec<u8>, FetchError> {
    let status = response.status();
    if !status.is_success() {
        return Err(status_error(status));
    }
    let claimed = response.body().content_length();
    let limit = (bytes_max as u64).saturating_add(1);
    if claimed.is_some_and(|bytes| bytes >= limit) {
        // As a body that is too long: the caller refuses it by its length, and nothing of it is read.
        return Ok(vec![0; bytes_max.saturating_add(1)]);
    }
    let mut bytes = Vec::new();
    let mut reader = response.into_body().into_with_config().limit(u64::MAX).reader();
    let read = std::io::Read::read_to_end(&mut std::io::Read::take(&mut reader, limit), &mut bytes);
    read.map_err(|error| failure(Error::from(error)))?;
    Ok(bytes)
}

fn status_error(status: StatusCode) -> FetchError {
    let blame = match status.as_u16() {
        // It may come later, or the server may be busy.
        404 | 408 | 425 | 429 | 500.. => Blame::Moment,
        300..=399 => Blame::Refused,
        _ => Blame::Request,
    };
    FetchError::new(blame, format!("the server answers {status}"))
}

fn failure(error: Error) -> FetchError {
    match error {
        Error::Other(inner) if inner.is::<Forbidden>() => FetchError::new(Blame::Refused, inner.to_string()),
        Error::Io(inner) => match inner.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE | rustix::io::Errno::NOMEM) => {
                FetchError::new(Blame::Machine, inner.to_string())
            }
            _ => FetchError::new(Blame::Moment, format!("its server: {inner}")),
        },
        Error::BadUri(_) | Error::Http(_) => FetchError::new(Blame::Refused, "it is no URL"),
        Error::Timeout(_) => FetchError::new(Blame::Moment, "it was not there within `images.fetch.timeout_ms`"),
        Error::HostNotFound => FetchError::new(Blame::Moment, "its host has no address"),
        other => FetchError::new(Blame::Moment, format!("its server: {other}")),
    }
}

/// An address that nothing is fetched from.
#[derive(Debug)]
struct Forbidden;

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not which: the answer would map the network.
        f.write_str("its host has an address in a special network, which `images.fetch.networks` does not allow")
    }
}

impl std::error::Error for Forbidden {}

/// Resolves a name, and refuses it where any of its addresses is special: a server of names could give both kinds, and the
/// order is its own.
#[derive(Debug)]
struct CheckedResolver {
    networks: Vec<IpNet>,
    /// Threads that resolve a name now, also after their deadline.
    resolving: Arc<AtomicUsize>,
    threads_max: usize,
}

impl CheckedResolver {
    fn check(&self, addresses: &[SocketAddr]) -> Result<SocketAddr, Error> {
        let is_allowed = |address: IpAddr| {
            !is_special(address) || self.networks.iter().any(|network| network.contains(&address.to_canonical()))
        };
        if addresses.iter().any(|address| !is_allowed(address.ip())) {
            return Err(Error::Other(Box::new(Forbidden)));
        }
        addresses.first().copied().ok_or(Error::HostNotFound)
    }
}

impl Resolver for CheckedResolver {
    fn resolve(&self, uri: &Uri, _: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let host = uri.host().ok_or(Error::HostNotFound)?;
        // An address of IPv6 stands in brackets.
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned();
        let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(usual);
        // The system's resolver has no deadline of its own; its thread may outlive ours.
        let before = self.resolving.fetch_add(1, Ordering::AcqRel);
        let counted = Counted(self.resolving.clone());
        if before >= self.threads_max {
            return Err(Error::Io(io::Error::other("too many names are being resolved")));
        }
        let (sender, answer) = sync_channel(1);
        let resolving = thread::Builder::new().name("resolve".to_owned()).spawn(move || {
            let found = (host.as_str(), port).to_socket_addrs().map(Vec::from_iter);
            sender.send(found).ok();
            drop(counted);
        });
        resolving.map_err(Error::Io)?;
        let found = answer.recv_timeout(*timeout.after).map_err(|_| Error::Timeout(timeout.reason))?;
        let checked = self.check(&found.map_err(|_| Error::HostNotFound)?)?;
        let mut addresses = self.empty();
        addresses.push(checked);
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests;
