//! What is written down of each change: the state file, the audit log, log lines, metrics.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Change, ControlError, Files, files::Saved};
use crate::telemetry;

/// A line of the audit log.
#[derive(Serialize)]
struct Audited<'a> {
    revision: u64,
    #[serde(flatten)]
    change: &'a Change,
    result: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Names that the new configuration lacks, by kind.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    gone: BTreeMap<&'a str, Vec<&'a str>>,
    from: &'a str,
    to: &'a str,
}

/// Where it is written.
pub(super) struct Journal(pub(super) Option<Files>);

impl Journal {
    /// A switch from one configuration to another. `gone` has kinds and names that the new one lacks.
    pub(super) fn switched(
        &self,
        revision: u64,
        change: &Change,
        (from, to): (&str, &str),
        gone: &[(&'static str, String)],
        warnings: &[String],
    ) {
        telemetry::config_switched();
        let Change { action, by, why, .. } = change;
        tracing::info!(
            action,
            by,
            why,
            revision,
            config_digest = to,
            previous_digest = from,
            "Configuration switched."
        );
        // A file that was cut while it was copied may be valid up to there.
        let names: Vec<String> = gone.iter().map(|(kind, name)| format!("{kind} `{name}`")).collect();
        if !gone.is_empty() {
            let gone = names.join(", ");
            tracing::warn!(gone, "The new configuration lacks what the one before had. Is the file whole?");
        }
        for warning in warnings {
            tracing::warn!(warning, "The configuration works, and may not be what was meant.");
        }
        let reason = (!gone.is_empty()).then(|| format!("gone: {}", names.join(", ")));
        let mut by_kind: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (kind, name) in gone {
            by_kind.entry(kind).or_default().push(name);
        }
        self.audit(&Audited { revision, change, result: "switched", reason, gone: by_kind, from, to });
    }

    /// A change that is refused, while this configuration serves.
    pub(super) fn refused(&self, revision: u64, change: &Change, error: &ControlError, serving: &str) {
        telemetry::config_refused(error.code());
        let (code, action) = (error.code(), &change.action);
        tracing::error!(%error, code, action, "A change is refused, and nothing changed.");
        let reason = Some(error.to_string());
        let gone = BTreeMap::new();
        self.audit(&Audited { revision, change, result: "refused", reason, gone, from: serving, to: serving });
    }

    fn audit(&self, line: &Audited<'_>) {
        let Some(files) = &self.0 else { return };
        if let Err(error) = files.audit(line) {
            telemetry::config_unwritten("audit");
            tracing::error!(%error, "The audit log cannot be written.");
        }
    }

    /// Keeps the state for a restart; gives what to warn about where that does not work.
    pub(super) fn save(&self, saved: &Saved) -> Option<String> {
        let error = self.0.as_ref()?.save(saved).err()?;
        telemetry::config_unwritten("state");
        tracing::error!(%error, "The state file cannot be written: a restart would forget the last change.");
        Some(format!("the state file cannot be written, so a restart of this instance may forget this: {error}"))
    }
}
