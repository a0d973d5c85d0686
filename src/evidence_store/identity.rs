//! Which topics a store or a snapshot has read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Which topics a store has read.
#[derive(Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) format: u32,
    /// Names and ids; an empty id is not known.
    pub(super) topics: BTreeMap<String, String>,
}

impl Identity {
    /// Both together; none where they contradict each other. A topic that one of them lacks, or
    /// whose id one of them does not know, is no contradiction: brokers may be away.
    pub(super) fn joined(mut self, newer: &Self) -> Option<Self> {
        if self.format != newer.format {
            return None;
        }
        for (topic, id) in newer.topics.iter().filter(|(_, id)| !id.is_empty()) {
            let known = self.topics.entry(topic.clone()).or_default();
            if !known.is_empty() && known != id {
                return None;
            }
            known.clone_from(id);
        }
        Some(self)
    }
}
