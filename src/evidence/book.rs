//! All verdicts that were read: each request counts once, whatever order they come in.

use std::collections::{BTreeMap, HashMap, btree_map};

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
    /// They are no verdicts.
    pub unreadable: u64,
}

/// Evidence by request. It holds some 600 bytes for each verdict of an experiment.
#[derive(Clone, Debug, Default)]
pub struct Book {
    counted: HashMap<u128, Evidence>,
    left_out: LeftOut,
}

/// Variants of a question, by name.
pub(super) type Arms = BTreeMap<String, Arm>;

impl Book {
    /// Adds a record of the verdict or shadow topic. One that is no verdict is counted.
    pub fn add(&mut self, value: &[u8]) {
        match serde_json::from_slice::<Verdict>(value) {
            Ok(verdict) => self.add_verdict(&verdict),
            Err(_) => self.left_out.unreadable += 1,
        }
    }

    fn add_verdict(&mut self, verdict: &Verdict) {
        let Some(evidence) = Evidence::of(verdict) else {
            self.left_out.unreadable += 1;
            return;
        };
        match evidence {
            Evidence::Forced => self.left_out.forced += 1,
            Evidence::Outside => self.left_out.outside += 1,
            Evidence::Live(_) | Evidence::Pair(_) => self.count(verdict, evidence),
        }
    }

    fn count(&mut self, verdict: &Verdict, evidence: Evidence) {
        let key = match verdict.ab_role {
            Role::Live => hash(&["live", &verdict.request_id]),
            Role::Shadow => hash(&["shadow", &verdict.request_id, &verdict.model_version]),
        };
        match self.counted.get_mut(&key) {
            None => {
                self.counted.insert(key, evidence);
            }
            Some(counted) => {
                self.left_out.duplicates += 1;
                if evidence.rank() < counted.rank() {
                    *counted = evidence;
                }
            }
        }
    }

    /// Takes over what another has read.
    pub fn merge(&mut self, other: Self) {
        for (key, evidence) in other.counted {
            match self.counted.get_mut(&key) {
                None => {
                    self.counted.insert(key, evidence);
                }
                Some(counted) => {
                    self.left_out.duplicates += 1;
                    if evidence.rank() < counted.rank() {
                        *counted = evidence;
                    }
                }
            }
        }
        let left_out = &mut self.left_out;
        left_out.duplicates += other.left_out.duplicates;
        left_out.outside += other.left_out.outside;
        left_out.forced += other.left_out.forced;
        left_out.unreadable += other.left_out.unreadable;
    }

    /// Verdicts that do not count.
    pub fn left_out(&self) -> LeftOut {
        self.left_out
    }

    /// Questions, the name of their unit, and their variants.
    pub(super) fn questions(&self) -> BTreeMap<Question, (String, [i64; 2], Arms)> {
        let mut questions: BTreeMap<Question, (String, [i64; 2], Arms)> = BTreeMap::new();
        for evidence in self.counted.values() {
            let Evidence::Live(observation) = evidence else { continue };
            let time = observation.time_ms;
            let (_, [first, last], arms) = match questions.entry(observation.question.clone()) {
                btree_map::Entry::Occupied(entry) => entry.into_mut(),
                btree_map::Entry::Vacant(entry) => entry.insert((observation.unit.clone(), [time, time], Arms::new())),
            };
            (*first, *last) = ((*first).min(time), (*last).max(time));
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
