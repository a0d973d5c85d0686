//! One file over HTTP, resumed where it broke off.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    path::Path,
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use ureq::{Agent, Body, config::RedirectAuthHeaders, http::Response};

use super::{PART, Pull, PullError, Watch, disk, hub::RemoteFile};
use crate::store::manifest::sha256;

/// Asks a hub, and asks again where that may help.
pub(super) struct Downloader<'p> {
    agent: Agent,
    pull: &'p Pull,
    watch: Watch<'p>,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(60);
const LISTING_BYTES_MAX: u64 = 16 << 20;
const CHUNK_BYTES: usize = 1 << 18;
/// Between two looks at whether the user wants to stop.
const NAP: Duration = Duration::from_millis(50);

/// What one attempt ended with.
enum Failure {
    /// Another attempt may do better; the hub may ask for a wait, which is granted up to a bound.
    Passing(String, Option<Duration>),
    /// It will not.
    Final(PullError),
}

impl From<PullError> for Failure {
    fn from(error: PullError) -> Self {
        Self::Final(error)
    }
}

impl<'p> Downloader<'p> {
    pub(super) fn new(pull: &'p Pull, watch: Watch<'p>) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .timeout_per_read(Some(pull.idle_timeout))
            // A renamed model is a redirect on the same host; a file's store is another one.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .user_agent(concat!("ofa-stream/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.into(), pull, watch }
    }

    /// A small text.
    pub(super) fn text(&self, url: &str) -> Result<String, PullError> {
        self.retried(url, || {
            let mut body = self.ask(url, 0)?.into_body();
            let text = body.with_config().limit(LISTING_BYTES_MAX).read_to_string();
            text.map_err(|error| Failure::Passing(error.to_string(), None))
        })
    }

    /// A file into a folder; `done` of `total` bytes were there before it. One that is there already,
    /// whole, is not asked for again.
    pub(super) fn file(
        &self,
        url: &str,
        file: &RemoteFile,
        folder: &Path,
        (done, total): (u64, u64),
    ) -> Result<(), PullError> {
        let whole = folder.join(&file.name);
        let part = folder.join(format!("{}{PART}", file.name));
        if fs::metadata(&whole).is_ok_and(|found| found.len() == file.bytes)
            && self.digest_fits(url, file, &whole).is_ok()
        {
            (self.watch.progress)(done + file.bytes, total);
            return Ok(());
        }
        if length(&part) != Some(file.bytes) {
            self.retried_while(url, || length(&part).unwrap_or(0), || self.attempt(url, file, &part, (done, total)))?;
        }
        self.digest_fits(url, file, &part)?;
        Ok(fs::rename(&part, &whole).map_err(disk(&whole))?)
    }

    fn digest_fits(&self, url: &str, file: &RemoteFile, path: &Path) -> Result<(), PullError> {
        let Some(expected) = &file.sha256 else { return Ok(()) };
        let found = sha256(path).map_err(disk(path))?;
        if found.eq_ignore_ascii_case(expected) {
            return Ok(());
        }
        fs::remove_file(path).map_err(disk(path))?;
        Err(PullError::Digest { url: url.to_owned(), expected: expected.clone(), found })
    }

    /// Appends what the hub gives to the part that is there.
    fn attempt(&self, url: &str, file: &RemoteFile, part: &Path, (done, total): (u64, u64)) -> Result<(), Failure> {
        let disk_full = |error| Failure::Final(disk(part)(error).into());
        let mut have = length(part).filter(|have| *have <= file.bytes).unwrap_or(0);
        if have == file.bytes && part.exists() {
            return Ok(());
        }
        let mut response = self.ask(url, have)?;
        // A hub that ignores the range gives the whole file again. One that does not say which part it
        // gives is asked for the whole file: its bytes could belong anywhere.
        if have > 0 && response.status() == 206 && range_start(&response) != Some(have) {
            response = self.ask(url, 0)?;
        }
        if response.status() != 206 {
            have = 0;
        }
        let mut options = OpenOptions::new();
        let mut out: File = options.create(true).write(true).truncate(false).open(part).map_err(disk_full)?;
        out.set_len(have).map_err(disk_full)?;
        std::io::Seek::seek(&mut out, std::io::SeekFrom::End(0)).map_err(disk_full)?;
        let mut body = response.into_body().into_reader();
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            self.watch.check().map_err(|error| Failure::Final(error.into()))?;
            let read = match body.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => return Err(Failure::Passing(format!("the connection broke: {error}"), None)),
            };
            have += read as u64;
            if have > file.bytes {
                drop(out);
                fs::remove_file(part).map_err(disk_full)?;
                return Err(PullError::TooLong { url: url.to_owned(), bytes: file.bytes }.into());
            }
            out.write_all(&chunk[..read]).map_err(disk_full)?;
            (self.watch.progress)(done + have, total);
        }
        out.sync_all().map_err(disk_full)?;
        match have == file.bytes {
            true => Ok(()),
            false => {
                Err(Failure::Passing(format!("it ended after {have} of the {} bytes announced", file.bytes), None))
            }
        }
    }

    fn ask(&self, url: &str, from: u64) -> Result<Response<Body>, Failure> {
        let mut request = self.agent.get(url);
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        if let Some(token) = &self.pull.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let response = request.call().map_err(|error| Failure::Passing(error.to_string(), None))?;
        let status = response.status().as_u16();
        let after = || {
            let header = response.headers().get("retry-after")?.to_str().ok()?;
            Some(Duration::from_secs(header.parse().ok()?).min(RETRY_DELAY_MAX))
        };
        let remedy = match status {
            200 | 206 => return Ok(response),
            // A part that is complete, or belongs to another file: begin again.
            416 if from > 0 => return self.ask(url, 0),
            408 | 425 | 429 | 500..=599 => return Err(Failure::Passing(format!("the hub answers {status}"), after())),
            401 | 403 => "the model is private or must be agreed to; put a token of the hub into OFA_STREAM_HUB_TOKEN",
            404 => "it has no such model or revision; compare both with the hub's page of the model",
            _ => "this is not what a hub of this kind answers; check --from and --endpoint",
        };
        Err(PullError::Status { url: url.to_owned(), status, remedy }.into())
    }

    fn retried<T>(&self, url: &str, attempt: impl FnMut() -> Result<T, Failure>) -> Result<T, PullError> {
        self.retried_while(url, || 0, attempt)
    }

    /// Tries again after growing waits. An attempt after which there is more than before begins the
    /// count anew.
    fn retried_while<T>(
        &self,
        url: &str,
        there: impl Fn() -> u64,
        mut attempt: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, PullError> {
        let delays = || {
            let builder = ExponentialBuilder::default().with_min_delay(self.pull.retry_delay).with_jitter();
            builder.with_max_delay(RETRY_DELAY_MAX).with_max_times(self.pull.attempts.saturating_sub(1)).build()
        };
        let (mut waits, mut most, mut failed) = (delays(), there(), 0);
        loop {
            let (reason, at_least) = match attempt() {
                Ok(done) => return Ok(done),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(reason, at_least)) => (reason, at_least),
            };
            if there() > most {
                (waits, most, failed) = (delays(), there(), 0);
            }
            failed += 1;
            let Some(wait) = waits.next() else {
                return Err(PullError::Connection { url: url.to_owned(), reason, attempts: failed });
            };
            self.sleep(wait.max(at_least.unwrap_or_default()))?;
        }
    }

    fn sleep(&self, mut wait: Duration) -> Result<(), PullError> {
        while !wait.is_zero() {
            self.watch.check()?;
            let nap = wait.min(NAP);
            std::thread::sleep(nap);
            wait -= nap;
        }
        Ok(())
    }
}

fn length(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|found| found.len())
}

/// Where a partial answer begins: `bytes 100-199/200`.
fn range_start(response: &Response<Body>) -> Option<u64> {
    let range = response.headers().get("content-range")?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}
