//! What the routes share.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::auth::Tokens;
use crate::{control::Handle, pipeline::Switcher};

/// What the routes share.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) handle: Handle,
    pub(super) tokens: Arc<Tokens>,
    pub(super) body_bytes_max: usize,
    pub(super) switcher: Switcher,
    /// Trials at a time.
    pub(super) trials: Arc<Semaphore>,
}
