//! Metrics of the configuration and its changes.

use std::sync::{Mutex, PoisonError};

use metrics::{counter, describe_counter, describe_gauge, gauge};

const INFO: &str = "ofa_config_info";
const REVISION: &str = "ofa_config_revision";
const BEHIND: &str = "ofa_config_behind";
const SWITCHES: &str = "ofa_config_switches_total";
const REFUSED: &str = "ofa_config_refused_total";

pub(super) fn describe() {
    describe_gauge!(INFO, "1, with the digest of the configuration in force; 0 for earlier ones");
    describe_gauge!(REVISION, "Number of the last change of the group that this instance knows");
    describe_gauge!(BEHIND, "1 while this instance does not serve by what the group has");
    describe_counter!(SWITCHES, "Switches to another configuration");
    describe_counter!(REFUSED, "Changes that were refused, by error code");
    counter!(SWITCHES).absolute(0);
}

/// The configuration in force.
pub fn config(digest: &str, revision: u64, behind: bool) {
    static SHOWN: Mutex<Option<String>> = Mutex::new(None);
    let mut shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if shown.as_deref() != Some(digest) {
        match shown.replace(digest.to_owned()) {
            Some(before) => {
                counter!(SWITCHES).increment(1);
                gauge!(INFO, "digest" => before).set(0.0);
            }
            None => {}
        }
    }
    gauge!(INFO, "digest" => digest.to_owned()).set(1.0);
    gauge!(REVISION).set(revision as f64);
    gauge!(BEHIND).set(f64::from(u8::from(behind)));
}

/// A change was refused.
pub fn config_refused(code: &'static str) {
    counter!(REFUSED, "code" => code).increment(1);
}
