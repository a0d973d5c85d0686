//! What several test modules share.

use std::path::{Path, PathBuf};

use ofa_stream::message::Device;

/// Set in CI: a test that would skip fails instead.
const REQUIRE_ALL: &str = "OFA_STREAM_TEST_REQUIRE_ALL";

/// Says loudly that a test is skipped, or fails where nothing may be.
pub fn skip(what: &str) {
    assert!(std::env::var_os(REQUIRE_ALL).is_none(), "{REQUIRE_ALL} is set, and this cannot run: {what}");
    eprintln!("\n*** SKIPPED: {what} ***\n");
}

/// A path below the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A file below the repository, as JSON.
pub fn json(path: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The CPU devices, which every machine has.
pub const CPUS: [Device; 2] = [Device::Flex, Device::NdArray];
