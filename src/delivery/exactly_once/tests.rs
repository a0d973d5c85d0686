//! A group of instances over a log in memory, with transactions, fencing and generations, driven through schedules of
//! everything that goes wrong. A schedule that fails is shrunk, printed with its seed, and kept to be replayed.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use proptest::prelude::*;

use super::{
    brokers::{Cluster, Log, Membership, Trouble, lose, notice, return_as_another, return_unnoticed},
    *,
};

const PARTITIONS: i32 = 3;
const RECORDS: i64 = 12;

/// One instance, as its poll loop and its release thread see the world.
struct Member {
    id: usize,
    ledger: Rc<Mutex<Ledger<i64>>>,
    driver: ExactlyOnce,
    log: Log,
    position: BTreeMap<Source, i64>,
    working: Vec<Ticket>,
    stopped: bool,
}

impl Member {
    /// Starts an instance under a transactional id: an older one of that id is fenced, and its transaction aborted.
    fn start(id: usize, cluster: &Rc<RefCell<Cluster>>) -> Self {
        let producer = {
            let mut cluster = cluster.borrow_mut();
            let newest = cluster.producers.entry(id).or_default();
            *newest += 1;
            *newest
        };
        let ledger = Rc::new(Mutex::new(Ledger::default()));
        let log = Log {
            cluster: cluster.clone(),
            ledger: ledger.clone(),
            id,
            producer,
            membership: Rc::new(RefCell::new(Membership {
                generation: cluster.borrow().generation,
                thrown_out: false,
                name: 0,
                assigned_as: 0,
            })),
            identity: 0,
            open: None,
            faults: Vec::new(),
        };
        let driver = ExactlyOnce::new(Window { interval: Duration::from_millis(100), records_max: 4 });
        let mut member =
            Self { id, ledger, driver, log, position: BTreeMap::new(), working: Vec::new(), stopped: false };
        member.sync();
        member
    }

    fn is_in_the_group(&self) -> bool {
        !self.stopped && !self.log.membership.borrow().thrown_out
    }

    /// What a rebalance tells a member of the group: what it has now.
    fn sync(&mut self) {
        let cluster = self.log.cluster.clone();
        self.log.membership.borrow_mut().generation = cluster.borrow().generation;
        let mut ledger = locked(&self.ledger);
        for (source, owner) in &cluster.borrow().owners {
            let mine = *owner == self.id;
            if mine && !ledger.sources().contains(source) {
                ledger.assign(*source);
                let committed = cluster.borrow().committed.get(source).copied();
                let begins = committed.filter(|_| !self.log.takes(|fault| matches!(fault, Trouble::Beginning)));
                self.position.insert(*source, begins.unwrap_or(0));
            } else if !mine {
                ledger.revoke(*source);
            }
        }
    }

    fn read(&mut self, partition: i32) {
        let source = Source::requests(partition);
        let Some(position) = self.position.get_mut(&source) else { return };
        let offset = *position + *position % 2;
        if offset >= 2 * RECORDS || !locked(&self.ledger).sources().contains(&source) {
            return;
        }
        *position = offset + 1;
        self.working.extend(locked(&self.ledger).register(source, offset, 1));
    }

    fn complete(&mut self, pick: usize) {
        if !self.working.is_empty() {
            let ticket = self.working.swap_remove(pick % self.working.len());
            locked(&self.ledger).complete(ticket, ticket.offset);
        }
    }

    fn advance(&mut self, now: Instant, hurry: bool) {
        let advanced = self.driver.advance(&self.ledger, &mut self.log, now, hurry);
        self.stopped |= advanced.is_err();
    }

    /// The poll loop hears of a rewind, and seeks; and joins anew where the brokers know this member by another name.
    fn seek(&mut self) {
        let is_another = {
            let membership = self.log.membership.borrow();
            membership.name != membership.assigned_as
        };
        if is_another {
            notice(&self.log.cluster, &self.ledger, &self.log.membership);
            self.sync();
        }
        let rewinding = locked(&self.ledger).rewinding();
        for (source, fallback) in rewinding {
            let committed = self.log.cluster.borrow().committed.get(&source).copied();
            // Where neither is known, from the beginning.
            self.position.insert(source, committed.or(fallback).unwrap_or(0));
            locked(&self.ledger).resume(source, committed);
        }
    }
}

/// One step of a schedule. `bool` names one of two instances; numbers pick among what is possible at that moment.
#[derive(Clone, Copy, Debug)]
enum Act {
    Read(bool, i32),
    Complete(bool, usize),
    Advance(bool, bool),
    Wait,
    Seek(bool),
    /// A rebalance moves a partition: its owner finishes what it has, or runs out of time.
    Move(i32, bool),
    /// The same in two steps, with everything else between them.
    Leave(i32),
    GiveUp,
    /// A second instance of the same name starts; the older one goes on, for as long as it can.
    Twin(bool),
    /// Older ones read, answer and commit.
    Ghosts,
    Lose(bool),
    Notice(bool),
    /// Who was thrown out is back before it noticed: with all that it had, or with nothing and as another one.
    Return(bool),
    ReturnAsAnother(bool),
    /// Killed, and started again.
    Crash(bool),
    Fault(bool, Trouble),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    use Trouble::{Begin, Beginning, Commit, Committed, LostInCommit, Publish};
    let trouble = proptest::sample::select(vec![Begin, Publish, Commit, LostInCommit, Committed, Beginning]);
    let act = prop_oneof![
        8 => (any::<bool>(), 0..PARTITIONS).prop_map(|(member, partition)| Act::Read(member, partition)),
        8 => (any::<bool>(), any::<usize>()).prop_map(|(member, pick)| Act::Complete(member, pick)),
        6 => (any::<bool>(), any::<bool>()).prop_map(|(member, hurry)| Act::Advance(member, hurry)),
        2 => Just(Act::Wait),
        3 => any::<bool>().prop_map(Act::Seek),
        1 => (0..PARTITIONS, any::<bool>()).prop_map(|(partition, drained)| Act::Move(partition, drained)),
        2 => (0..PARTITIONS).prop_map(Act::Leave),
        2 => Just(Act::GiveUp),
        1 => any::<bool>().prop_map(Act::Twin),
        2 => Just(Act::Ghosts),
        1 => any::<bool>().prop_map(Act::Lose),
        1 => any::<bool>().prop_map(Act::Notice),
        1 => any::<bool>().prop_map(Act::Return),
        1 => any::<bool>().prop_map(Act::ReturnAsAnother),
        1 => any::<bool>().prop_map(Act::Crash),
        1 => (any::<bool>(), trouble).prop_map(|(member, trouble)| Act::Fault(member, trouble)),
    ];
    proptest::collection::vec(act, 0..300)
}

struct Group {
    cluster: Rc<RefCell<Cluster>>,
    members: [Member; 2],
    /// Those whose name another one has taken.
    ghosts: Vec<Member>,
    /// The partition that is about to be given up, and by whom.
    leaving: Option<(i32, usize)>,
    now: Instant,
}

impl Group {
    fn new() -> Self {
        let cluster = Rc::new(RefCell::new(Cluster::default()));
        let owners = (0..PARTITIONS).map(|partition| (Source::requests(partition), partition as usize % 2)).collect();
        cluster.borrow_mut().owners = owners;
        let members = [0, 1].map(|id| Member::start(id, &cluster));
        Self { cluster, members, ghosts: Vec::new(), leaving: None, now: Instant::now() }
    }

    fn act(&mut self, act: Act) {
        let now = self.now;
        match act {
            Act::Wait => self.now += Duration::from_millis(60),
            Act::Move(partition, drained) => self.rebalance(partition, drained),
            Act::Leave(partition) if self.leaving.is_none() => {
                let source = Source::requests(partition);
                let owner = self.cluster.borrow().owners[&source];
                if self.members[owner].is_in_the_group() {
                    locked(&self.members[owner].ledger).leave(source);
                    self.leaving = Some((partition, owner));
                }
            }
            Act::Leave(_) => {}
            Act::GiveUp => {
                if let Some((partition, owner)) = self.leaving.take() {
                    locked(&self.members[owner].ledger).revoke(Source::requests(partition));
                    self.rebalance(partition, false);
                }
            }
            Act::Twin(member) => {
                let id = usize::from(member);
                let mut older = std::mem::replace(&mut self.members[id], Member::start(id, &self.cluster));
                older.log.faults.clear();
                self.ghosts.push(older);
            }
            Act::Ghosts => {
                for ghost in self.ghosts.iter_mut().filter(|ghost| !ghost.stopped) {
                    (0..PARTITIONS).for_each(|partition| ghost.read(partition));
                    (0..ghost.working.len()).for_each(|_| ghost.complete(0));
                    ghost.advance(now, true);
                }
            }
            Act::Lose(member) => {
                lose(&self.cluster, usize::from(member));
                self.members[usize::from(member)].log.membership.borrow_mut().thrown_out = true;
            }
            Act::Crash(member) => {
                let id = usize::from(member);
                self.members[id] = Member::start(id, &self.cluster);
            }
            Act::Read(member, partition) => self.running(member, |member| member.read(partition)),
            Act::Complete(member, pick) => self.running(member, |member| member.complete(pick)),
            Act::Advance(member, hurry) => self.running(member, |member| member.advance(now, hurry)),
            Act::Seek(member) => self.running(member, Member::seek),
            Act::Notice(member) => self.running(member, |member| {
                if !member.is_in_the_group() {
                    notice(&member.log.cluster, &member.ledger, &member.log.membership);
                    member.sync();
                }
            }),
            Act::Return(member) if self.leaving.is_some_and(|(_, owner)| owner == usize::from(member)) => {
                self.act(Act::GiveUp);
            }
            Act::Return(member) => self.running(member, |member| {
                if !member.is_in_the_group() {
                    return_unnoticed(&member.log.cluster, &member.ledger, &member.log);
                }
            }),
            Act::ReturnAsAnother(member) => self.running(member, |member| {
                if !member.is_in_the_group() {
                    return_as_another(&member.log.cluster, &member.log);
                }
            }),
            Act::Fault(member, trouble) => self.running(member, |member| member.log.faults.push(trouble)),
        }
        self.tell_all();
    }

    fn running(&mut self, member: bool, act: impl FnOnce(&mut Member)) {
        let member = &mut self.members[usize::from(member)];
        if !member.stopped {
            act(member);
        }
    }

    fn rebalance(&mut self, partition: i32, drained: bool) {
        let source = Source::requests(partition);
        let owner = self.cluster.borrow().owners[&source];
        let now = self.now;
        let from = &mut self.members[owner];
        if from.is_in_the_group() {
            locked(&from.ledger).leave(source);
            if drained {
                (0..from.working.len()).for_each(|_| from.complete(0));
                from.advance(now, true);
            }
            locked(&from.ledger).revoke(source);
        }
        let mut cluster = self.cluster.borrow_mut();
        cluster.generation += 1;
        cluster.owners.insert(source, 1 - owner);
    }

    /// A new generation reaches all who are in the group.
    fn tell_all(&mut self) {
        self.members.iter_mut().filter(|member| member.is_in_the_group()).for_each(Member::sync);
    }

    /// Everything gets well: who was thrown out notices, who stopped is started again, until all is answered.
    fn recover(&mut self) {
        self.act(Act::GiveUp);
        for _ in 0..4 * RECORDS {
            for id in 0..2 {
                if self.members[id].stopped {
                    self.members[id] = Member::start(id, &self.cluster);
                }
                let member = &mut self.members[id];
                member.log.faults.clear();
                if !member.is_in_the_group() {
                    notice(&member.log.cluster, &member.ledger, &member.log.membership);
                }
                member.sync();
                member.seek();
                (0..PARTITIONS).for_each(|partition| member.read(partition));
                (0..member.working.len()).for_each(|_| member.complete(0));
                member.advance(self.now, true);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn nothing_is_lost_or_comes_twice_and_order_is_kept_under_every_schedule(schedule in acts()) {
        let mut group = Group::new();
        for act in schedule {
            group.act(act);
            let cluster = group.cluster.borrow();
            let mut last: BTreeMap<Source, i64> = BTreeMap::new();
            for (source, offset) in &cluster.visible {
                let before = last.insert(*source, *offset);
                prop_assert!(before.is_none_or(|before| before < *offset), "{source:?}: {before:?}, then {offset}");
            }
            for (source, next) in &cluster.committed {
                let answered = cluster.visible.iter().filter(|(from, offset)| from == source && offset < next).count();
                prop_assert_eq!(answered as i64, (next + 1) / 2, "{:?} is committed to {}", source, next);
            }
        }
        group.recover();
        prop_assert_eq!(group.cluster.borrow().visible.len() as i64, i64::from(PARTITIONS) * RECORDS);
    }
}

#[test]
fn a_twin_of_the_same_identity_stops_the_older_one() {
    let mut group = Group::new();
    group.members[0].read(0);
    group.members[0].complete(0);
    let mut twin = Member::start(0, &group.cluster);
    group.members[0].advance(group.now, true);
    assert!(group.members[0].stopped && group.cluster.borrow().visible.is_empty());
    twin.read(0);
    twin.complete(0);
    twin.advance(group.now, true);
    assert_eq!(group.cluster.borrow().visible, [(Source::requests(0), 0)]);
}
