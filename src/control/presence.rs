//! What the instances of a group tell each other: which revision each serves, and which are behind. Pure.
//!
//! Each instance publishes its status in the control topic, under a key of its own: at a change, and at
//! intervals. Programs before 2026-12 ignore these keys. An instance that stops withdraws its status; one
//! that was killed is silent after some intervals, and after an hour another instance deletes its status.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The status of one instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceStatus {
    /// `kafka.instance_id`, or its host and process.
    pub instance: String,
    /// The revision of the group that it has accepted.
    pub revision: u64,
    /// The configuration that it serves.
    pub config_digest: String,
    /// `in_sync`, `applying` or `out_of_sync`.
    pub sync: String,
    /// Why it is out of sync, if so.
    #[serde(default)]
    pub behind: Option<String>,
    /// The version of the program.
    #[serde(default)]
    pub program: String,
    /// True if nothing was heard of it for some intervals.
    #[serde(default)]
    pub silent: bool,
}

/// How often an instance repeats its status.
pub(super) const REPEAT_INTERVAL: Duration = Duration::from_secs(10);
/// An instance that was not heard of for so long is silent.
const SILENT_AFTER: Duration = Duration::from_secs(35);
/// A silent instance is forgotten after this.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);
/// Instances that are remembered.
const INSTANCES_MAX: usize = 1_000;

/// The instances of the group, as far as they were heard of.
#[derive(Default)]
pub(super) struct Presence(BTreeMap<String, (InstanceStatus, Instant)>);

impl Presence {
    /// Takes the status of an instance, or that it stopped.
    pub(super) fn heard(&mut self, instance: &str, status: Option<InstanceStatus>, now: Instant) {
        match status {
            None => drop(self.0.remove(instance)),
            Some(status) => {
                if self.0.len() < INSTANCES_MAX || self.0.contains_key(instance) {
                    self.0.insert(instance.to_owned(), (status, now));
                }
            }
        }
    }

    /// Forgets instances that were silent for long, and returns their names. Their records in the control topic can be
    /// deleted: a killed instance without `kafka.instance_id` has another name when it starts again.
    pub(super) fn forget_silent(&mut self, now: Instant) -> Vec<String> {
        let is_over = |heard: Instant| now.saturating_duration_since(heard) >= FORGOTTEN_AFTER;
        self.0.extract_if(.., |_, (_, heard)| is_over(*heard)).map(|(instance, _)| instance).collect()
    }

    /// True if an instance was heard of.
    pub(super) fn knows(&self, instance: &str) -> bool {
        self.0.contains_key(instance)
    }

    /// All instances.
    pub(super) fn list(&self, now: Instant) -> Vec<InstanceStatus> {
        let status = |(status, heard): &(InstanceStatus, Instant)| InstanceStatus {
            silent: now.saturating_duration_since(*heard) >= SILENT_AFTER,
            ..status.clone()
        };
        self.0.values().map(status).collect()
    }

    /// True if every instance that is not silent has settled on this revision or a later one.
    pub(super) fn has_settled(&self, revision: u64, now: Instant) -> bool {
        let settled = |status: &InstanceStatus| status.revision >= revision && status.sync != "applying";
        self.list(now).iter().all(|status| status.silent || settled(status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(instance: &str, revision: u64, sync: &str) -> InstanceStatus {
        InstanceStatus { instance: instance.to_owned(), revision, sync: sync.to_owned(), ..InstanceStatus::default() }
    }

    #[test]
    fn a_group_has_settled_when_no_instance_that_speaks_is_behind() {
        let begun = Instant::now();
        let mut presence = Presence::default();
        assert!(presence.has_settled(7, begun), "alone");
        presence.heard("one", Some(status("one", 7, "in_sync")), begun);
        presence.heard("two", Some(status("two", 6, "in_sync")), begun);
        assert!(!presence.has_settled(7, begun));
        presence.heard("two", Some(status("two", 7, "applying")), begun);
        assert!(!presence.has_settled(7, begun));
        // One that cannot follow is listed, and not waited for.
        presence.heard("two", Some(status("two", 7, "out_of_sync")), begun);
        assert!(presence.has_settled(7, begun));
        presence.heard("three", Some(status("three", 3, "in_sync")), begun);
        let later = begun + SILENT_AFTER;
        assert!(!presence.has_settled(7, begun) && presence.has_settled(7, later), "a killed one is silent");
        assert!(presence.list(later).iter().all(|status| status.silent));
        presence.heard("three", None, later);
        assert_eq!(presence.list(later).len(), 2, "one that stopped is gone");
        presence.heard("four", Some(status("four", 1, "in_sync")), begun + FORGOTTEN_AFTER);
        assert_eq!(presence.forget_silent(begun + FORGOTTEN_AFTER), ["one", "two"], "silent for long");
        assert_eq!(presence.list(later).len(), 1);
    }
}
