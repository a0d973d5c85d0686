//! What the routes share.

use std::sync::Arc;

use axum::extract::FromRef;
use tokio::sync::Semaphore;

use super::auth::Tokens;
use crate::{control::Handle, evidence_store::Access, pipeline::Switcher};

/// What the routes share.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) handle: Handle,
    pub(super) tokens: Arc<Tokens>,
    pub(super) body_bytes_max: usize,
    pub(super) switcher: Switcher,
    /// Trials at a time.
    pub(super) trials: Arc<Semaphore>,
    pub(super) evidence: Option<Access>,
}

impl FromRef<Api> for Option<Access> {
    fn from_ref(api: &Api) -> Self {
        api.evidence.clone()
    }
}
