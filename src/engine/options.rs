//! What all versions share, and why one cannot be started.

use super::{Cost, ModelError, device, version::VersionSpec};
use crate::vision::Limits;

/// What all versions share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// What images may cost.
    pub images: Limits,
    /// Passes at the same time on the CPU.
    pub cpu: Cost,
    /// Passes at the same time on each GPU.
    pub gpu: Cost,
}

impl From<Limits> for EngineOptions {
    /// These limits, and as many passes at a time as the cores allow.
    fn from(images: Limits) -> Self {
        let all = Cost { threads: device::cores(), tokens: usize::MAX, bytes: u64::MAX };
        Self { images, cpu: all, gpu: all }
    }
}

/// A version that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// It does not load.
    #[error("version `{name}`: {source}")]
    Version {
        /// Its name.
        name: String,
        /// Why.
        source: Box<ModelError>,
    },
    /// It was being loaded already, and that failed.
    #[error("version `{name}` does not load: {reason}")]
    NotLoaded {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// A later change made it unnecessary.
    #[error("loading was cancelled, because a later change came first")]
    Cancelled,
    /// Its thread ended before it said anything.
    #[error("version `{name}`: its thread ended while loading")]
    Thread {
        /// Its name.
        name: String,
    },
}

impl EngineError {
    pub(super) fn version(spec: &VersionSpec, error: ModelError) -> Self {
        Self::Version { name: spec.name.clone(), source: Box::new(error) }
    }

    /// Whether the settings name something that is not there, so that trying again does not help.
    pub fn is_settings(&self) -> bool {
        matches!(self, Self::Version { source, .. } if matches!(**source, ModelError::Folder(_) | ModelError::Load { .. } | ModelError::Device(_)))
    }
}
