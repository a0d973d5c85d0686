use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn at(partition: i32) -> Source {
    Source::requests(partition)
}

#[test]
fn outcomes_leave_in_offset_order_and_commits_follow_acknowledgements() {
    let mut ledger = Ledger::default();
    ledger.assign(at(0));
    // Offsets have gaps where the log was compacted or holds control records.
    let [a, b, c] = [3, 5, 9].map(|offset| ledger.register(at(0), offset, 10).unwrap());
    assert!(ledger.complete(c, "c") && ledger.complete(b, "b"));
    assert!(ledger.release().is_empty(), "the first record is still working");
    assert!(ledger.complete(a, "a"));
    assert_eq!(ledger.release().into_iter().map(|(_, outcome)| outcome).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert!(ledger.acknowledge(b) && ledger.acknowledge(c));
    assert!(ledger.committable().is_empty(), "the first record is not acknowledged");
    assert!(ledger.acknowledge(a));
    assert_eq!(ledger.committable(), [(at(0), 10)]);
    assert!(ledger.committable().is_empty(), "once is enough");
    ledger.forget_committed();
    assert_eq!(ledger.committable(), [(at(0), 10)]);
    assert_eq!((ledger.records(), ledger.bytes()), (0, 0));
}

#[test]
fn what_a_revoked_partition_had_on_its_way_is_void() {
    let mut ledger = Ledger::default();
    ledger.assign(at(0));
    let old = ledger.register(at(0), 7, 1).unwrap();
    assert_eq!(ledger.revoke(at(0)), None);
    assert!(!ledger.complete(old, ()));
    assert_eq!(ledger.register(at(0), 8, 1), None, "not owned");
    ledger.assign(at(0));
    let new = ledger.register(at(0), 7, 1).unwrap();
    assert!(!ledger.complete(old, ()) && ledger.complete(new, ()));
}

#[test]
fn a_record_that_is_read_twice_is_registered_once() {
    let mut ledger: Ledger<()> = Ledger::default();
    ledger.assign(at(0));
    assert!(ledger.register(at(0), 7, 1).is_some());
    assert!(ledger.register(at(0), 7, 1).is_none());
    assert_eq!((ledger.gap_before(at(0), 8), ledger.gap_before(at(0), 11), ledger.gap_before(at(1), 5)), (0, 3, 0));
}

#[test]
fn reading_that_began_before_where_the_group_stands_is_noticed_and_so_is_another_members_commit() {
    let mut ledger: Ledger<()> = Ledger::default();
    ledger.assign(at(0));
    assert!(!ledger.is_overtaken(at(0), Some(7)), "nothing was read");
    let ticket = ledger.register(at(0), 3, 1).unwrap();
    for (committed, expected) in [(None, false), (Some(2), false), (Some(3), false), (Some(4), true)] {
        assert_eq!(ledger.is_overtaken(at(0), committed), expected, "{committed:?}");
    }
    assert!(ledger.complete(ticket, ()));
    ledger.release();
    let reached = ledger.reached();
    ledger.settle(&reached);
    for (committed, expected) in [(None, true), (Some(3), true), (Some(4), false), (Some(5), true)] {
        assert_eq!(ledger.is_overtaken(at(0), committed), expected, "{committed:?}");
    }
    assert!(!ledger.is_overtaken(at(1), Some(5)), "it is not read here");
}

#[test]
fn a_group_whose_offsets_are_gone_or_whose_log_was_cut_is_believed() {
    let mut ledger: Ledger<()> = Ledger::default();
    ledger.assign(at(0));
    let answer = |ledger: &mut Ledger<()>, offset| {
        let ticket = ledger.register(at(0), offset, 1).unwrap();
        assert!(ledger.complete(ticket, ()));
        ledger.release();
    };
    answer(&mut ledger, 3);
    let reached = ledger.reached();
    ledger.settle(&reached);
    // The topic was made anew, and the group's offset went with the old one.
    ledger.rewind();
    assert_eq!(ledger.rewinding(), [(at(0), Some(4))]);
    ledger.resume(at(0), None);
    assert!(ledger.register(at(0), 0, 1).is_some());
    assert!(!ledger.is_overtaken(at(0), None) && ledger.is_overtaken(at(0), Some(9)));

    // The log was cut to less than where the group stands, which it does not forget.
    ledger.rewind();
    ledger.resume(at(0), Some(7));
    answer(&mut ledger, 7);
    let reached = ledger.reached();
    ledger.settle(&reached);
    assert!(ledger.register(at(0), 5, 1).is_some(), "what is read anew");
    assert!(!ledger.is_overtaken(at(0), Some(8)) && ledger.is_overtaken(at(0), Some(9)));
    ledger.rewind();
    assert_eq!(ledger.rewinding(), [(at(0), Some(5))]);
}

#[test]
fn where_the_group_stands_is_asked_once_in_each_generation_and_again_after_a_rewind() {
    let mut ledger: Ledger<()> = Ledger::default();
    let reached = |partition| Reached { source: at(partition), epoch: 1, next: 9 };
    ledger.assign(at(0));
    ledger.assign(at(1));
    assert_eq!(ledger.take_doubted(&[reached(0)], 4), [at(0)]);
    assert_eq!(ledger.take_doubted(&[reached(0), reached(1), reached(2)], 4), [at(1)]);
    assert_eq!(ledger.take_doubted(&[reached(0), reached(1)], 4), []);
    assert_eq!(ledger.take_doubted(&[reached(1)], 5), [at(1)]);
    assert_eq!(ledger.take_doubted(&[reached(0), reached(1)], 5), [at(0)]);
    ledger.rewind();
    assert_eq!(ledger.take_doubted(&[reached(0), reached(1)], 5), [at(0), at(1)]);
}

#[test]
fn a_log_that_begins_anew_is_read_anew() {
    let mut ledger = Ledger::default();
    ledger.assign(at(0));
    let old = ledger.register(at(0), 700, 1).unwrap();
    assert!(ledger.is_rewind(at(0), 3) && !ledger.is_rewind(at(0), 700) && !ledger.is_rewind(at(0), 701));
    let new = ledger.register(at(0), 3, 1).unwrap();
    assert!(!ledger.is_wanted(old) && ledger.is_wanted(new));
    assert!(!ledger.complete(old, ()) && ledger.complete(new, ()));
    assert_eq!(ledger.release().len(), 1);
    assert!(ledger.acknowledge(new));
    assert_eq!(ledger.committable(), [(at(0), 4)]);
}

/// One step of a schedule; the number picks among what is possible at that moment.
#[derive(Clone, Copy, Debug)]
enum Act {
    Read(i32),
    Complete(usize),
    Release,
    Acknowledge(usize),
    Commit,
    Revoke(i32),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0..3i32).prop_map(Act::Read),
        4 => any::<usize>().prop_map(Act::Complete),
        2 => Just(Act::Release),
        4 => any::<usize>().prop_map(Act::Acknowledge),
        1 => Just(Act::Commit),
        1 => (0..3i32).prop_map(Act::Revoke),
    ];
    proptest::collection::vec(act, 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Plays a schedule against an endless log in which every record's value is its offset. After a
    /// revocation reading goes on at the committed offset, as another member would.
    #[test]
    fn nothing_is_lost_and_order_is_kept_under_every_schedule(schedule in acts()) {
        let mut ledger = Ledger::default();
        let mut position: BTreeMap<i32, i64> = BTreeMap::new();
        let mut committed: BTreeMap<i32, i64> = BTreeMap::new();
        let (mut working, mut flying) = (Vec::new(), Vec::new());
        let mut durable: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
        let mut left: BTreeMap<(Source, u64), i64> = BTreeMap::new();
        for act in schedule {
            match act {
                Act::Read(partition) => {
                    ledger.assign(at(partition));
                    let next = position.entry(partition).or_insert(0);
                    working.extend(ledger.register(at(partition), *next, 1));
                    *next += 1;
                }
                Act::Complete(pick) if !working.is_empty() => {
                    let ticket: Ticket = working.swap_remove(pick % working.len());
                    ledger.complete(ticket, ticket.offset);
                }
                Act::Release => for (ticket, value) in ledger.release() {
                    prop_assert_eq!(ticket.offset, value);
                    let before = left.insert((ticket.source, ticket.epoch), value);
                    prop_assert!(before.is_none_or(|before| before < value), "order is broken");
                    flying.push(ticket);
                },
                Act::Acknowledge(pick) if !flying.is_empty() => {
                    let ticket = flying.swap_remove(pick % flying.len());
                    durable.entry(ticket.source.partition).or_default().push(ticket.offset);
                    ledger.acknowledge(ticket);
                }
                Act::Commit => committed.extend(ledger.committable().into_iter().map(|(source, next)| (source.partition, next))),
                Act::Revoke(partition) => {
                    committed.extend(ledger.revoke(at(partition)).map(|next| (partition, next)));
                    position.insert(partition, committed.get(&partition).copied().unwrap_or(0));
                }
                _ => {}
            }
            for (partition, next) in &committed {
                let stored = durable.get(partition).map(Vec::as_slice).unwrap_or_default();
                prop_assert!((0..*next).all(|offset| stored.contains(&offset)), "offset committed before its outcome was durable");
            }
        }
    }
}
