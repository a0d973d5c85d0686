//! Brokers in memory: a log with transactions, fencing and the generations of a group, and all that goes wrong with it.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Mutex};

use super::{Fault, Ledger, Reached, Source, Ticket, Transactions, locked};

/// The brokers. Offsets of requests are the even ones: logs have gaps.
#[derive(Default)]
pub(super) struct Cluster {
    /// What a read-committed reader sees: source and offset of the request, in the order of the output.
    pub(super) visible: Vec<(Source, i64)>,
    pub(super) committed: BTreeMap<Source, i64>,
    /// The newest producer of each transactional id.
    pub(super) producers: BTreeMap<usize, u64>,
    /// The group's generation, and who owns what in it.
    pub(super) generation: i32,
    pub(super) owners: BTreeMap<Source, usize>,
}

/// A transactional producer of the cluster, with the faults that are to come.
pub(super) struct Log {
    pub(super) cluster: Rc<RefCell<Cluster>>,
    pub(super) ledger: Rc<Mutex<Ledger<i64>>>,
    pub(super) id: usize,
    pub(super) producer: u64,
    pub(super) membership: Rc<RefCell<Membership>>,
    /// The generation in which it was identified.
    pub(super) identity: i32,
    pub(super) open: Option<Vec<(Source, i64)>>,
    pub(super) faults: Vec<Trouble>,
}

/// What this member's client knows of its group.
pub(super) struct Membership {
    pub(super) generation: i32,
    /// It is not told of new generations, until it notices and joins again.
    pub(super) thrown_out: bool,
    /// The name that the brokers know it by, and by which they did when it was given what it owns.
    pub(super) name: u32,
    pub(super) assigned_as: u32,
}

/// What goes wrong with the next call that it can happen to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trouble {
    Begin,
    Publish,
    Commit,
    /// The member is thrown out, notices, and has joined again, all between the identity and what is asked then.
    LostInCommit,
    /// The coordinator does not say where the group stands.
    Committed,
    /// The client takes the next partition that comes for one in which nothing was ever committed.
    Beginning,
}

impl Log {
    pub(super) fn takes(&mut self, fits: impl Fn(Trouble) -> bool) -> bool {
        let found = self.faults.iter().position(|fault| fits(*fault));
        found.map(|index| self.faults.remove(index)).is_some()
    }

    fn fenced(&self) -> Result<(), Fault> {
        match self.cluster.borrow().producers[&self.id] == self.producer {
            true => Ok(()),
            false => Err(Fault::Stop("fenced".to_owned())),
        }
    }

    fn abort_if(&mut self, fits: impl Fn(Trouble) -> bool) -> Result<(), Fault> {
        self.fenced()?;
        if self.takes(fits) { Err(Fault::Abort("injected".to_owned())) } else { Ok(()) }
    }
}

impl Transactions<i64> for Log {
    fn begin(&mut self) -> Result<(), Fault> {
        assert!(self.open.is_none(), "begun twice");
        self.abort_if(|fault| matches!(fault, Trouble::Begin))?;
        self.open = Some(Vec::new());
        Ok(())
    }

    fn publish(&mut self, ticket: Ticket, outcome: i64) -> Result<(), Fault> {
        self.abort_if(|fault| matches!(fault, Trouble::Publish))?;
        self.open.as_mut().expect("begun").push((ticket.source, outcome));
        Ok(())
    }

    fn identify(&mut self) -> Result<i32, Fault> {
        self.identity = self.membership.borrow().generation;
        if self.takes(|fault| matches!(fault, Trouble::LostInCommit)) {
            lose(&self.cluster, self.id);
            notice(&self.cluster, &self.ledger, &self.membership);
        }
        let membership = self.membership.borrow();
        match membership.name == membership.assigned_as {
            true => Ok(self.identity),
            false => Err(Fault::Abort("let in as another one".to_owned())),
        }
    }

    fn committed(&mut self, sources: &[Source]) -> Result<BTreeMap<Source, Option<i64>>, Fault> {
        self.abort_if(|fault| matches!(fault, Trouble::Committed))?;
        let cluster = self.cluster.borrow();
        Ok(sources.iter().map(|source| (*source, cluster.committed.get(source).copied())).collect())
    }

    fn commit(&mut self, reached: &[Reached]) -> Result<(), Fault> {
        self.abort_if(|fault| matches!(fault, Trouble::Commit))?;
        let mut cluster = self.cluster.borrow_mut();
        // As the brokers do: they look at the generation, not at who owns the partitions of these offsets.
        if self.identity != cluster.generation {
            return Err(Fault::Abort("illegal generation".to_owned()));
        }
        cluster.visible.extend(self.open.take().expect("begun"));
        cluster.committed.extend(reached.iter().map(|reached| (reached.source, reached.next)));
        Ok(())
    }

    fn abort(&mut self) -> Result<(), Fault> {
        self.fenced()?;
        self.open = None;
        Ok(())
    }
}

/// The coordinator gives a member's partitions to its neighbour, without its knowing.
pub(super) fn lose(cluster: &Rc<RefCell<Cluster>>, member: usize) {
    let mut cluster = cluster.borrow_mut();
    cluster.generation += 1;
    for owner in cluster.owners.values_mut() {
        *owner = if *owner == member { (member + 1) % 2 } else { *owner };
    }
}

/// A member that was thrown out drops everything, and joins again.
pub(super) fn notice(cluster: &Rc<RefCell<Cluster>>, ledger: &Mutex<Ledger<i64>>, membership: &RefCell<Membership>) {
    let mut ledger = locked(ledger);
    ledger.sources().into_iter().for_each(|source| {
        ledger.revoke(source);
    });
    let generation = cluster.borrow().generation;
    let mut membership = membership.borrow_mut();
    (membership.generation, membership.thrown_out) = (generation, false);
    membership.assigned_as = membership.name;
}

/// A member that was thrown out is in the group again, under another name and with nothing; its client does not tell, and it goes on
/// with what it had.
pub(super) fn return_as_another(cluster: &RefCell<Cluster>, member: &Log) {
    let mut cluster = cluster.borrow_mut();
    cluster.generation += 1;
    let mut membership = member.membership.borrow_mut();
    membership.generation = cluster.generation;
    membership.name += 1;
}

/// A member that was thrown out is let in again with all that it had, and never hears that it was gone: its client tells it of a
/// rebalance, and no more.
pub(super) fn return_unnoticed(cluster: &RefCell<Cluster>, ledger: &Mutex<Ledger<i64>>, member: &Log) {
    let mut cluster = cluster.borrow_mut();
    cluster.generation += 1;
    let had = locked(ledger).sources();
    cluster.owners.extend(had.into_iter().map(|source| (source, member.id)));
    let mut membership = member.membership.borrow_mut();
    (membership.generation, membership.thrown_out) = (cluster.generation, false);
}
