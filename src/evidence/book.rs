//! All verdicts that were read: each request counts once, whatever order they come in.

use std::collections::{BTreeMap, HashMap, hash_map};

use serde::Serialize;

use super::{
    observation::{Evidence, Pair, Question, hash},
    sums::Arm,
};
use crate::message::{Role, Verdict};

/// Verdicts that do not count, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// They came again: a replay, or a delivery at least once. The earliest one counts.
    pub duplicates: u64,
    /// No experiment took the request.
    pub outside: u64,
    /// Settings named the unit and its variant.
    pub forced: u64,
    /// Their unit is not the request, and they do not name it: verdicts of earlier releases.
    pub unit_unknown: u64,
    /// They are no verdicts, or have numbers that make no sense.
    pub unreadable: u64,
}

/// Evidence by request. It holds about 800 bytes for each verdict.
#[derive(Clone, Debug, Default)]
pub struct Book {
    counted: HashMap<u128, Evidence>,
    duplicates: u64,
    unreadable: u64,
}

/// Variants of a question, by name.
pub(super) type Arms = BTreeMap<String, Arm>;

impl Book {
    /// Adds a record of the verdict or shadow topic. One that is no verdict is counted.
    pub fn add(&mut self, value: &[u8]) {
        match serde_json::from_slice::<Verdict>(value) {
            Ok(verdict) => self.add_verdict(&verdict),
            Err(_) => self.unreadable += 1,
        }
    }

    fn add_verdict(&mut self, verdict: &Verdict) {
        let Some(evidence) = Evidence::of(verdict) else {
            self.unreadable += 1;
            return;
        };
        let key = match verdict.ab_role {
            Role::Live => hash(&["live", &verdict.request_id]),
            Role::Shadow => hash(&["shadow", &verdict.request_id, &verdict.model_version]),
        };
        self.count(key, evidence);
    }

    /// Keeps the earliest verdict of a request.
    fn count(&mut self, key: u128, evidence: Evidence) {
        match self.counted.entry(key) {
            hash_map::Entry::Vacant(entry) => {
                entry.insert(evidence);
            }
            hash_map::Entry::Occupied(mut entry) => {
                self.duplicates += 1;
                if evidence.rank() < entry.get().rank() {
                    entry.insert(evidence);
                }
            }
        }
    }

    /// Takes over what another has read.
    pub fn merge(&mut self, other: Self) {
        self.duplicates += other.duplicates;
        self.unreadable += other.unreadable;
        other.counted.into_iter().for_each(|(key, evidence)| self.count(key, evidence));
    }

    /// Verdicts that do not count.
    pub fn left_out(&self) -> LeftOut {
        let mut left_out = LeftOut { duplicates: self.duplicates, unreadable: self.unreadable, ..LeftOut::default() };
        for evidence in self.counted.values() {
            match evidence {
                Evidence::Live(_) | Evidence::Pair(_) => {}
                Evidence::Forced(_) => left_out.forced += 1,
                Evidence::Outside(_) => left_out.outside += 1,
                Evidence::UnitUnknown(_) => left_out.unit_unknown += 1,
            }
        }
        left_out
    }

    /// Questions, with the times of their first and last verdict and their variants.
    pub(super) fn questions(&self) -> BTreeMap<Question, ([i64; 2], Arms)> {
        let mut questions: BTreeMap<Question, ([i64; 2], Arms)> = BTreeMap::new();
        for evidence in self.counted.values() {
            let Evidence::Live(observation) = evidence else { continue };
            let time = observation.time_ms;
            let empty = || ([time, time], Arms::new());
            let ([first, last], arms) = questions.entry(observation.question.clone()).or_insert_with(empty);
            *first = time.min(*first);
            *last = time.max(*last);
            arms.entry(observation.variant.clone()).or_default().add(observation);
        }
        questions
    }

    pub(super) fn pairs(&self) -> impl Iterator<Item = &Pair> {
        self.counted.values().filter_map(|evidence| match evidence {
            Evidence::Pair(pair) => Some(pair),
            _ => None,
        })
    }
}
