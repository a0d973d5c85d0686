//! Which records of the control topic count. Pure.
//!
//! A record is a whole state, and says the how-manieth it is: one more than the state that it was made from. Of several with one number
//! the first counts. All instances read them in one order, so all go by the same one; whoever wrote another finds that out by reading, and
//! makes its change once more, upon the one that counts. A command is answered when its record has come back and counts.
//!
//! That leaves two ways for instances to differ, which end by themselves. A record that does not count may be the last that compaction
//! left, when whoever wrote it is gone: an instance that starts then goes by it. And a topic that was emptied has an instance
//! count from the beginning. Both show to the others as records that do not count and that nobody makes good: after a while they say
//! again what they have agreed upon, with the next number.

use super::State;

/// What a record is to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// It is what the group has agreed upon.
    Counts {
        /// Whether it was written here.
        own: bool,
    },
    /// It was written here, and another came first.
    Beaten,
    /// It says what is known.
    Known,
    /// It was written elsewhere, and another came first.
    Beside,
}

/// Weighs a record against what was agreed upon before; `awaited` is the change that was written here and has not come back.
pub(super) fn weigh(agreed: &State, awaited: Option<&str>, record: &State) -> Weight {
    let id = record.change.as_ref().map(|change| change.id.as_str()).filter(|id| !id.is_empty());
    let own = id.is_some() && id == awaited;
    match record.revision > agreed.revision {
        true => Weight::Counts { own },
        false if own => Weight::Beaten,
        false if record.change == agreed.change => Weight::Known,
        false => Weight::Beside,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use fastrand::Rng;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        control::{Change, Command},
        routing::TableSpec,
    };

    /// An instance: what it has agreed upon, how far it has read, and what it has to do.
    struct Instance {
        agreed: State,
        read: usize,
        /// Commands that nobody has answered.
        orders: Vec<usize>,
        /// The change that was sent, until it comes back.
        awaited: Option<String>,
        /// On its way to the topic.
        sent: Option<State>,
        /// Whether a record was read that does not count and that nobody has made good.
        uneasy: bool,
        answered: BTreeSet<usize>,
    }

    fn table() -> TableSpec {
        let experiment = |number: usize| {
            serde_json::json!({"name": format!("e{number}"), "traffic_ratio": 0.5,
                "variants": [{"name": "v", "model_version": "base", "weight": 1}]})
        };
        let experiments: Vec<_> = (0..40).map(experiment).collect();
        let spec = serde_json::json!({"versions": ["base"], "default": "base", "allow_forced": false, "rules": [],
            "experiments": experiments});
        serde_json::from_value(spec).unwrap()
    }

    impl Instance {
        fn new(agreed: State, read: usize, orders: Vec<usize>) -> Self {
            Self { agreed, read, orders, awaited: None, sent: None, uneasy: false, answered: BTreeSet::new() }
        }

        fn send(&mut self, chance: &mut Rng, table: &TableSpec) {
            let Some(order) = self.orders.last().filter(|_| self.awaited.is_none()) else { return };
            let change = Change { id: format!("{order}-{}", chance.u64(..)), ..Change::default() };
            self.awaited = Some(change.id.clone());
            let command = Command::Pause { experiment: format!("e{order}") };
            self.sent = Some(self.agreed.after(&command, change, table, 3).unwrap());
        }

        fn read(&mut self, log: &[State]) {
            let Some(record) = log.get(self.read) else { return };
            self.read += 1;
            match weigh(&self.agreed, self.awaited.as_deref(), record) {
                Weight::Counts { own } => {
                    self.agreed = record.clone();
                    self.uneasy = false;
                    if own {
                        self.awaited = None;
                        self.answered.extend(self.orders.pop());
                    }
                }
                Weight::Beaten => self.awaited = None,
                Weight::Known => {}
                Weight::Beside => self.uneasy = true,
            }
        }

        /// Says again what it has agreed upon, after it was uneasy for a while.
        fn say_again(&mut self) -> Option<State> {
            let says = std::mem::take(&mut self.uneasy);
            says.then(|| State { revision: self.agreed.revision + 1, ..self.agreed.clone() })
        }

        fn is_quiet(&self, log: &[State]) -> bool {
            self.orders.is_empty() && self.sent.is_none() && self.read == log.len()
        }
    }

    /// Any order of sending, arriving and reading, until nothing is left to do.
    fn play(instances: &mut [Instance], log: &mut Vec<State>, chance: &mut Rng, table: &TableSpec) {
        while !instances.iter().all(|instance| instance.is_quiet(log)) {
            let instance = &mut instances[chance.usize(..instances.len())];
            match chance.u16(..601) {
                0..200 => instance.send(chance, table),
                200..400 => log.extend(instance.sent.take()),
                400..600 => instance.read(log),
                // Far less often than the rest, as it waits for long; crossing with whatever is under way.
                _ => log.extend(instance.say_again()),
            }
        }
    }

    /// Those who are uneasy for a while say again what they have agreed upon, if nobody was faster.
    fn reassure(instances: &mut [Instance], log: &mut Vec<State>, chance: &mut Rng, table: &TableSpec) -> usize {
        let mut said = 0;
        while let Some(uneasy) = instances.iter().position(|instance| instance.uneasy) {
            log.extend(instances[uneasy].say_again());
            said += 1;
            assert!(said <= 2 * instances.len(), "it does not end");
            play(instances, log, chance, table);
        }
        said
    }

    /// Instances that know nothing yet, each with so many commands of its own.
    fn group(count: usize, commands: usize) -> Vec<Instance> {
        let orders = |instance: usize| (0..commands).map(|order| instance * commands + order).collect();
        (0..count).map(|instance| Instance::new(State::default(), 0, orders(instance))).collect()
    }

    /// What so many commands pause.
    fn asked_for(commands: usize) -> BTreeSet<String> {
        (0..commands).map(|order| format!("e{order}")).collect()
    }

    fn paused(state: &State) -> BTreeSet<String> {
        state.current.overrides.experiments.keys().cloned().collect()
    }

    proptest! {
        #[test]
        fn whatever_comes_at_the_same_moment_all_agree_and_no_answered_command_is_lost(
            seed: u64, count in 1..9_usize, commands in 1..4_usize,
        ) {
            let (mut chance, table, mut log) = (Rng::with_seed(seed), table(), Vec::new());
            let mut instances = group(count, commands);
            play(&mut instances, &mut log, &mut chance, &table);
            // A round is won by one, so each command meets as many others as there are instances, and now and then one that says again.
            prop_assert!(log.len() <= 2 * count * count * commands, "{} records of {count}×{commands}", log.len());
            reassure(&mut instances, &mut log, &mut chance, &table);
            for instance in &instances {
                prop_assert_eq!(&instance.agreed, &instances[0].agreed);
                prop_assert_eq!(paused(&instance.agreed), asked_for(count * commands));
                prop_assert_eq!(instance.answered.len(), commands);
            }
        }

        #[test]
        fn what_a_dead_instance_left_behind_is_made_good_before_others_read_it(seed: u64, count in 2..6_usize) {
            let (mut chance, table, mut log) = (Rng::with_seed(seed), table(), Vec::new());
            let mut instances = group(count, 1);
            play(&mut instances, &mut log, &mut chance, &table);
            // It was made from the state before the last one.
            let before = log.iter().find(|state| state.revision + 1 == instances[0].agreed.revision).unwrap();
            let mut dead = Instance::new(before.clone(), log.len(), vec![30]);
            dead.send(&mut chance, &table);
            log.extend(dead.sent);
            play(&mut instances, &mut log, &mut chance, &table);
            reassure(&mut instances, &mut log, &mut chance, &table);
            // What compaction leaves.
            let mut late = Instance::new(State::default(), log.len() - 1, vec![]);
            late.read(&log);
            prop_assert!(late.agreed.revision > 0);
            for instance in &instances {
                prop_assert_eq!(&instance.agreed, &late.agreed);
                prop_assert_eq!(paused(&instance.agreed), asked_for(count));
            }
        }

        #[test]
        fn a_topic_that_was_emptied_does_not_have_the_others_forget(seed: u64, count in 2..6_usize) {
            let (mut chance, table, mut log) = (Rng::with_seed(seed), table(), Vec::new());
            let mut instances = group(count, 1);
            play(&mut instances, &mut log, &mut chance, &table);
            log.clear();
            instances.iter_mut().for_each(|instance| instance.read = 0);
            // One that knows nothing starts, and counts from the beginning.
            instances.push(Instance::new(State::default(), 0, vec![31]));
            play(&mut instances, &mut log, &mut chance, &table);
            reassure(&mut instances, &mut log, &mut chance, &table);
            for instance in &instances {
                prop_assert_eq!(&instance.agreed, &instances[0].agreed);
                prop_assert!(paused(&instance.agreed).is_superset(&asked_for(count)));
            }
        }
    }
}
