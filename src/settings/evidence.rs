//! What verdicts say for evidence, and how evidence is kept.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{
    control::{OFF, Secret},
    load::{SettingsError, Source},
    raw,
};
use crate::routing::Segments;

/// What verdicts say for evidence, and how evidence is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct EvidencePlan {
    /// How it is kept. This part cannot change while the program runs.
    pub store: EvidenceStorePlan,
    /// Whether verdicts show the value of the unit, and not only a hash of it.
    pub unit_values: bool,
    /// The share of automatic decisions that people look at, too.
    pub audit_share: f64,
    /// Verdicts younger than this do not count in the rates of misjudgement that guards watch.
    pub review_maturity_ms: u64,
    /// Parts of the traffic that reports show apart.
    pub segments: Arc<Segments>,
}

/// How evidence is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceStorePlan {
    /// Whether this instance reads verdicts at all.
    pub enabled: bool,
    /// Where the store is; none keeps it in memory, and reads the topics again after a restart.
    pub directory: Option<PathBuf>,
    /// How long requests, units and pictures are remembered, at least, by this machine's clock.
    pub keep: Duration,
    /// How long records may wait for the next write.
    pub commit_interval: Duration,
    /// Records in one write, at most.
    pub commit_records_max: usize,
    /// Bytes of the store that are held in memory.
    pub cache_bytes: usize,
    /// How often all sums are written to their topic.
    pub snapshot_interval: Duration,
    /// Evidence that is older than this does not let a guard call anything safe.
    pub behind_max: Duration,
    /// Hashed with each unit, so that hashes cannot be guessed.
    pub unit_salt: Option<Secret>,
    /// The file that the salt was read from.
    pub unit_salt_file: Option<String>,
}

/// `running` is the plan that the program runs by, where it does: the salt is read once, at the
/// start.
pub(super) fn plan(
    source: &Source,
    raw: raw::Evidence,
    review: &raw::Review,
    running: Option<&EvidencePlan>,
) -> Result<EvidencePlan, SettingsError> {
    let segments = Segments::new(&raw.segments)
        .map_err(|(place, reason)| source.field(&format!("evidence.segments{place}"), reason))?;
    let known = running.filter(|running| running.store.unit_salt_file == raw.unit_salt_file);
    let unit_salt = match (known, &raw.unit_salt_file) {
        (Some(running), _) => running.store.unit_salt.clone(),
        (None, Some(file)) => Some(salt(source, file)?),
        (None, None) => None,
    };

    let store = EvidenceStorePlan {
        enabled: raw.enabled,
        directory: (raw.directory != OFF).then(|| raw.directory.into()),
        keep: Duration::from_millis(raw.keep_ms),
        commit_interval: Duration::from_millis(raw.commit_ms),
        commit_records_max: raw.commit_records_max,
        cache_bytes: raw.cache_bytes,
        snapshot_interval: Duration::from_millis(raw.snapshot_ms),
        behind_max: Duration::from_millis(raw.behind_max_ms),
        unit_salt,
        unit_salt_file: raw.unit_salt_file,
    };
    Ok(EvidencePlan {
        store,
        unit_values: raw.unit_values,
        audit_share: review.audit_share,
        review_maturity_ms: review.maturity_ms,
        segments: Arc::new(segments),
    })
}

/// A shorter salt can be found by trying.
const SALT_BYTES_MIN: usize = 16;

fn salt(source: &Source, file: &str) -> Result<Secret, SettingsError> {
    let refuse = |reason: String| source.field("evidence.unit_salt_file", format!("{file}: {reason}"));
    let text = std::fs::read_to_string(file).map_err(|error| refuse(error.to_string()))?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.len() < SALT_BYTES_MIN {
        return Err(refuse(format!("is shorter than {SALT_BYTES_MIN} characters")));
    }
    Ok(Secret::new(text.to_owned()))
}
