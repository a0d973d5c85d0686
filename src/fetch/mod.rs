//! Where the bytes of an image come from when they are not in the request.
//!
//! * `beneath`: a file below a folder, opened so that no path and no link leads out.
//! * [`Files`]: such files, read on threads with a deadline.
//! * `address`: which IP addresses are no place to fetch from.
//! * [`Fetcher`]: images by their URL, within settings.
//!
//! Every error says whether the request, the moment or the machine is to blame: [`Blame`].

mod address;
mod beneath;
mod files;
mod url;

pub use address::is_special;
pub use beneath::read_beneath;
pub use files::Files;
pub use url::{FetchOptions, Fetcher};

/// Who is to blame that an image was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Settings do not allow what the request asks for. Another try does not help.
    Refused,
    /// The request names something that cannot be read. Another try does not help.
    Request,
    /// The image is not there yet, or its source does not answer. Another try may help.
    Moment,
    /// This machine lacks something, such as file descriptors. It says nothing about the request.
    Machine,
}

/// An image that was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct FetchError {
    /// Who is to blame.
    pub blame: Blame,
    /// What was wrong, and what to do about it.
    pub reason: String,
}

impl FetchError {
    fn new(blame: Blame, reason: impl Into<String>) -> Self {
        Self { blame, reason: reason.into() }
    }
}
