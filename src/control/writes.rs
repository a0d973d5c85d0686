//! What this instance wrote to the control topic and has not read back yet. Pure.

use std::collections::VecDeque;

use super::{ControlError, Order, State};

/// Changes on their way through the control topic.
#[derive(Default)]
pub(super) struct Writes {
    offsets: VecDeque<i64>,
    orders: Vec<Order>,
    /// The change of another instance that came in between, and was overwritten unknowingly.
    overwritten: Option<State>,
}

impl Writes {
    /// A change was written.
    pub(super) fn wrote(&mut self, offset: i64, order: Order) {
        self.offsets.push_back(offset);
        self.orders.push(order);
    }

    /// A record was read that lies at or before the last write. Once the last write itself is read: the state that was
    /// overwritten, if any, and what is to be made once more upon it so that both are there.
    pub(super) fn read(&mut self, record: Result<State, ControlError>, offset: i64) -> Option<(State, Vec<Order>)> {
        if !self.offsets.contains(&offset) {
            match record {
                Ok(state) => self.overwritten = Some(state),
                Err(error) => {
                    tracing::error!(%error, "A change of another instance is overwritten, and cannot be read.");
                }
            }
            return None;
        }
        self.offsets.retain(|own| *own != offset);
        if !self.offsets.is_empty() {
            return None;
        }
        let orders = std::mem::take(&mut self.orders);
        self.overwritten.take().map(|state| (state, orders))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Command, Who};

    fn order(experiment: &str) -> Order {
        Order { command: Command::Pause { experiment: experiment.to_owned() }, who: Who::default(), dry_run: false }
    }

    fn state(revision: u64) -> Result<State, ControlError> {
        Ok(State { revision, ..State::default() })
    }

    #[test]
    fn own_records_that_come_back_alone_are_nothing_new() {
        let mut writes = Writes::default();
        writes.wrote(5, order("a"));
        writes.wrote(6, order("b"));
        assert_eq!(writes.read(state(5), 5), None);
        assert_eq!(writes.read(state(6), 6), None);
        writes.wrote(9, order("c"));
        assert_eq!(writes.read(state(9), 9), None);
    }

    #[test]
    fn what_another_wrote_in_between_is_given_with_all_that_must_be_made_again() {
        let mut writes = Writes::default();
        writes.wrote(6, order("a"));
        assert_eq!(writes.read(state(5), 5), None, "until the last own one is there");
        writes.wrote(7, order("b"));
        assert_eq!(writes.read(state(6), 6), None);
        let (overwritten, orders) = writes.read(state(7), 7).unwrap();
        assert_eq!((overwritten.revision, orders), (5, vec![order("a"), order("b")]));
        assert_eq!(writes.read(state(7), 7), None, "once");
    }
}
