//! Metrics of the configuration and its changes.

use metrics::{counter, describe_counter, describe_gauge, gauge};

const FINGERPRINT: &str = "ofa_config_fingerprint";
const REVISION: &str = "ofa_config_revision";
const BEHIND: &str = "ofa_config_behind";
const SWITCHES: &str = "ofa_config_switches_total";
const REFUSED: &str = "ofa_config_refused_total";
const UNWRITTEN: &str = "ofa_config_unwritten_total";

pub(super) fn describe() {
    describe_gauge!(
        FINGERPRINT,
        "First 48 bits of the digest of the configuration in force: the same on all instances"
    );
    describe_gauge!(REVISION, "Number of the last change of the group that this instance knows");
    describe_gauge!(BEHIND, "1 while this instance cannot serve what the group has accepted");
    describe_counter!(SWITCHES, "Switches to another configuration");
    describe_counter!(REFUSED, "Changes that were refused, by error code");
    describe_counter!(UNWRITTEN, "Changes that were made and could not be written down, by file");
    counter!(SWITCHES).absolute(0);
    for file in ["state", "audit", "configs"] {
        counter!(UNWRITTEN, "file" => file).absolute(0);
    }
}

/// The configuration in force.
pub fn config(digest: &str, revision: u64, behind: bool) {
    gauge!(FINGERPRINT).set(fingerprint(digest));
    gauge!(REVISION).set(revision as f64);
    gauge!(BEHIND).set(f64::from(u8::from(behind)));
}

/// Another configuration was switched to.
pub fn config_switched() {
    counter!(SWITCHES).increment(1);
}

/// The first 48 bits of a digest, which a gauge holds exactly: a label with the digest would be one more series for every
/// change.
fn fingerprint(digest: &str) -> f64 {
    let digits = digest.strip_prefix("sha256:").and_then(|digits| digits.get(..12));
    digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or_default() as f64
}

/// A change was made and could not be written into this file.
pub fn config_unwritten(file: &'static str) {
    counter!(UNWRITTEN, "file" => file).increment(1);
}

/// A change was refused.
pub fn config_refused(code: &'static str) {
    counter!(REFUSED, "code" => code).increment(1);
}

#[cfg(test)]
mod tests {
    use super::fingerprint;

    #[test]
    fn different_digests_have_different_fingerprints_that_a_gauge_holds() {
        let one = format!("sha256:{}", "f".repeat(64));
        assert_eq!(fingerprint(&one), 281_474_976_710_655.0);
        assert_eq!(fingerprint(&one.replacen("fff", "ffe", 1)), 281_474_976_710_655.0 - (1_u64 << 36) as f64);
        assert_eq!(fingerprint("short"), 0.0);
    }
}
