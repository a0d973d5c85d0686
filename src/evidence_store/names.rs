//! Short numbers for long names. A store has few names, and each stands in millions of entries.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

use serde::{Deserialize, Serialize};

use crate::evidence::{ArmKey, ExperimentKey};

/// What an entry of the store names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Name {
    Experiment(ExperimentKey),
    Arm(ArmKey),
    /// The version that answers for a variant, and the variant's share in millionths.
    Version(String, u64),
    /// Name and value of a segment.
    Segment(String, String),
    /// Live and shadow version.
    Versions(String, String),
    /// A variant of an experiment whose name the entry's key has.
    Variant(String),
}

/// Names with their numbers.
#[derive(Debug, Default)]
pub(super) struct Names {
    by_name: HashMap<Name, u32>,
    by_number: BTreeMap<u32, Name>,
    /// Numbers that are not written yet.
    new: Vec<u32>,
}

impl Names {
    /// Adds a name as it was read.
    pub(super) fn restore(&mut self, number: u32, name: Name) {
        self.by_name.insert(name.clone(), number);
        self.by_number.insert(number, name);
    }

    /// The number of a name; a new one where it has none.
    pub(super) fn number(&mut self, name: Name) -> u32 {
        if let Some(number) = self.by_name.get(&name) {
            return *number;
        }
        // 0 means no name.
        let number = self.by_number.last_key_value().map_or(0, |(last, _)| *last) + 1;
        self.restore(number, name);
        self.new.push(number);
        number
    }

    /// The name of a number.
    pub(super) fn name(&self, number: u32) -> Option<&Name> {
        self.by_number.get(&number)
    }

    /// Names that were not written yet.
    pub(super) fn take_new(&mut self) -> Vec<(u32, Name)> {
        let new = std::mem::take(&mut self.new);
        new.into_iter().filter_map(|number| Some((number, self.by_number.get(&number)?.clone()))).collect()
    }
}
