//! `[evidence]` and `[review]`, as they are written.

use serde::Deserialize;

use crate::routing::SegmentSpec;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::settings) struct Evidence {
    pub(in crate::settings) enabled: bool,
    pub(in crate::settings) directory: String,
    pub(in crate::settings) keep_ms: u64,
    pub(in crate::settings) commit_ms: u64,
    pub(in crate::settings) commit_records_max: usize,
    pub(in crate::settings) cache_bytes: usize,
    pub(in crate::settings) snapshot_ms: u64,
    pub(in crate::settings) behind_max_ms: u64,
    pub(in crate::settings) unit_values: bool,
    pub(in crate::settings) unit_salt_file: Option<String>,
    pub(in crate::settings) segments: Vec<SegmentSpec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::settings) struct Review {
    pub(in crate::settings) audit_share: f64,
    pub(in crate::settings) maturity_ms: u64,
}

impl Default for Evidence {
    fn default() -> Self {
        Self {
            enabled: true,
            directory: ".ofa-stream/evidence".to_owned(),
            keep_ms: 7 * 86_400_000,
            commit_ms: 500,
            commit_records_max: 5_000,
            cache_bytes: 64 << 20,
            snapshot_ms: 600_000,
            behind_max_ms: 60_000,
            unit_values: false,
            unit_salt_file: None,
            segments: Vec::new(),
        }
    }
}
