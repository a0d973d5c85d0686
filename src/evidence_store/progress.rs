//! How current evidence is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far the reader is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// Whether every partition was read to its end.
    pub caught_up: bool,
    /// Whether that was so at some time since the start, or since the last failure.
    pub has_caught_up: bool,
    /// Age of the newest record that is not counted, in milliseconds; 0 when all are.
    pub behind_ms: u64,
    /// Records that were counted since the start of the program.
    pub records: u64,
    /// Why evidence cannot be read or kept now, if so.
    pub failure: Option<String>,
}
