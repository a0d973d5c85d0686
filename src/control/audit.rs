//! Writes audit lines, log lines and metrics of changes.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    Change, Memory, Storage, command,
    machine::{AuditEntry, AuditResult},
};
use crate::telemetry;

/// A line of the audit log.
#[derive(Serialize)]
struct Line<'a> {
    revision: u64,
    id: &'a str,
    action: String,
    at: &'a str,
    by: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    claimed: &'a str,
    why: &'a str,
    instance: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    forced: bool,
    result: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Names that the new configuration lacks, by kind.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    gone: BTreeMap<&'a str, Vec<&'a str>>,
    from: &'a str,
    to: &'a str,
}

/// The audit log of an instance, where it has a folder.
pub(super) struct Audit(pub(super) Option<Storage>);

impl Audit {
    /// Writes one entry.
    pub(super) fn write(&self, entry: &AuditEntry) {
        let AuditEntry { revision, change, digests: [from, to], notes, missing, .. } = entry;
        let names: Vec<String> = missing.iter().map(|(kind, name)| format!("{kind} `{name}`")).collect();
        let (result, code) = log(entry, &names);

        let now = command::now();
        let mut reasons = notes.clone();
        if !names.is_empty() {
            reasons.push(format!("gone: {}", names.join(", ")));
        }
        let mut gone: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (kind, name) in missing {
            gone.entry(kind).or_default().push(name);
        }
        let Change { id, action, at, by, claimed, why, instance, forced, .. } = change;
        self.append(&Line {
            revision: *revision,
            id,
            action: action.in_words(),
            // A change of the settings file carries no time.
            at: if at.is_empty() { &now } else { at },
            by,
            claimed,
            why,
            instance,
            forced: *forced,
            result,
            code,
            reason: (!reasons.is_empty()).then(|| reasons.join("; ")),
            gone,
            from,
            to,
        });
    }

    fn append(&self, line: &Line<'_>) {
        let Some(storage) = &self.0 else { return };
        if let Err(error) = storage.audit(line) {
            telemetry::config_unwritten("audit");
            tracing::error!(%error, "The audit log cannot be written.");
        }
    }

    /// Saves the memory for a restart; returns a warning where that fails.
    pub(super) fn save(&self, memory: &Memory) -> Option<String> {
        let error = self.0.as_ref()?.save(memory).err()?;
        telemetry::config_unwritten("state");
        tracing::error!(%error, "The state file cannot be written: a restart would forget the last change.");
        Some(format!("the state file cannot be written, so a restart of this instance may forget this: {error}"))
    }
}

/// Writes the log line and the metric of an entry; returns its result and code for the audit log.
fn log<'e>(entry: &'e AuditEntry, missing: &[String]) -> (&'static str, Option<&'e str>) {
    let AuditEntry { revision, change, result, digests: [from, to], notes, .. } = entry;
    let (action, by, why) = (change.action.in_words(), &change.by, &change.why);
    let reason = notes.join("; ");
    match result {
        AuditResult::Switched => {
            telemetry::config_switched();
            tracing::info!(
                action,
                by,
                why,
                revision,
                config_digest = to,
                previous_digest = from,
                "Configuration switched."
            );
            if !missing.is_empty() {
                // A file that was cut while it was copied may be valid up to that place.
                let gone = missing.join(", ");
                tracing::warn!(gone, "The new configuration lacks what the one before had. Is the file complete?");
            }
            for warning in notes {
                tracing::warn!(warning, "The configuration works. Is it the one you meant?");
            }
            ("switched", None)
        }
        AuditResult::Unchanged => {
            tracing::info!(action, by, why, revision, "A change was accepted; this instance serves as before.");
            ("unchanged", None)
        }
        AuditResult::Overtaken => ("overtaken", None),
        AuditResult::OutOfSync(code) => {
            telemetry::config_refused(code);
            tracing::error!(reason, code, action, "This instance cannot serve what the group accepted.");
            ("out_of_sync", Some(code))
        }
        AuditResult::Refused(code) => {
            telemetry::config_refused(code);
            tracing::error!(reason, code, action, "A change is refused, and nothing changed.");
            ("refused", Some(code))
        }
        AuditResult::Unknown => {
            telemetry::config_refused("outcome_unknown");
            tracing::error!(reason, action, "The outcome of a change is unknown.");
            ("unknown", Some("outcome_unknown"))
        }
        AuditResult::Abandoned => ("abandoned", None),
    }
}
