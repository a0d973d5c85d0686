//! Partitions that come and go, and those that are read again. Part of the poll loop.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{poll::Poller, release::lock, run::PipelineError};
use crate::{
    kafka::{Change, KafkaError},
    message::Source,
    settings::Delivery,
    telemetry,
};

/// Partitions that are to go to another member, once what was read of them is finished and committed.
pub(super) struct GivingUp {
    sources: Vec<Source>,
    /// The group waits no longer.
    deadline: Instant,
}

/// Waited before sources are sought again that could not be.
const REWIND_PAUSE: Duration = Duration::from_millis(200);

impl Poller<'_> {
    /// Hears which partitions have come, and which are to go.
    pub(super) fn follow(&mut self, changes: Vec<Change>) -> Result<(), PipelineError> {
        for change in changes {
            match change {
                Change::Assigned(sources) => {
                    let member = self.consumer.identity().map(|identity| Arc::new(identity.member().to_owned()));
                    let mut ledger = lock(self.shared);
                    if ledger.sources().is_empty() {
                        self.shared.member.store(member);
                    }
                    sources.iter().for_each(|source| ledger.assign(*source));
                    drop(ledger);
                    tracing::info!(partitions = self.shown(&sources), "Partitions assigned.");
                }
                Change::Leaving(sources) => {
                    let mut ledger = lock(self.shared);
                    for source in &sources {
                        ledger.leave(*source);
                        self.flow.leave(*source);
                    }
                    drop(ledger);
                    self.shared.hurry.store(true, Ordering::Release);
                    let deadline = Instant::now() + self.shared.plan.kafka.rebalance_drain;
                    self.giving_up.push(GivingUp { sources, deadline });
                }
                Change::Lost(sources) => {
                    let partitions = self.shown(&sources);
                    tracing::warn!(partitions, "Partitions lost: the group has thrown this member out.");
                    telemetry::partitions_lost(sources.len());
                    self.giving_up.clear();
                    self.part_with(&sources)?;
                }
                Change::Reset(told) => {
                    telemetry::offset_reset();
                    tracing::error!(
                        told,
                        "Records were not in the log any more when they were to be read: they were deleted before, or the log was \
                         cut. Reading goes on with the oldest there are; give the topic a longer retention."
                    );
                }
            }
        }
        Ok(())
    }

    /// Gives partitions up whose records are finished, or for which the group waits no longer.
    pub(super) fn give_up(&mut self) -> Result<(), PipelineError> {
        let is_done = |giving: &GivingUp| {
            let ledger = lock(self.shared);
            let idle = giving.sources.iter().all(|source| ledger.records_of(*source) == 0);
            idle || Instant::now() >= giving.deadline || self.consumer.is_lost()
        };
        let (done, waiting): (Vec<GivingUp>, Vec<GivingUp>) = self.giving_up.drain(..).partition(is_done);
        self.giving_up = waiting;
        for GivingUp { sources, .. } in done {
            let left: usize = sources.iter().map(|source| lock(self.shared).records_of(*source)).sum();
            if left > 0 {
                telemetry::rebalance_drain_timed_out();
                tracing::warn!(
                    records = left,
                    "Partitions go to another member with requests unanswered, which it answers."
                );
            }
            self.commit_before_parting(&sources);
            tracing::info!(partitions = self.shown(&sources), "Partitions revoked.");
            self.part_with(&sources)?;
        }
        Ok(())
    }

    /// With transactions everything that is finished is committed already.
    fn commit_before_parting(&self, sources: &[Source]) {
        if self.shared.delivery == Delivery::ExactlyOnce || self.consumer.is_lost() {
            return;
        }
        let answered: Vec<(Source, i64)> = {
            let mut ledger = lock(self.shared);
            ledger.forget_committed();
            sources.iter().filter_map(|source| Some((*source, ledger.revoke(*source)?))).collect()
        };
        if let Err(error) = self.consumer.commit(&answered, true) {
            tracing::warn!(%error, "Offsets were not committed before a rebalance; their records will be answered again.");
        }
    }

    /// Another member has this one's name, or the brokers think so: what it owned is void, and it joins anew.
    pub(super) fn rejoin(&mut self) -> Result<(), PipelineError> {
        tracing::warn!("The group took this member for another of its name; it joins anew.");
        self.lose_all();
        Ok(self.consumer.rejoin()?)
    }

    /// Joins anew where the group has thrown this member out and let it in as another one: others may have what it owned.
    pub(super) fn rejoin_if_replaced(&mut self) -> Result<(), PipelineError> {
        if !self.shared.replaced.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        tracing::warn!("The group had thrown this member out without its knowing; it joins anew.");
        self.lose_all();
        Ok(self.consumer.join_anew()?)
    }

    /// Reads topics that were deleted and made again from their beginning.
    pub(super) fn read_recreated(&mut self) {
        let recreated = std::mem::take(&mut *self.shared.recreated.lock().unwrap_or_else(PoisonError::into_inner));
        for topic in recreated {
            let sources = lock(self.shared).sources();
            let of_topic = sources.into_iter().filter(|source| self.consumer.topic(*source) == topic);
            let from_beginning: Vec<(Source, Option<i64>)> = of_topic.map(|source| (source, None)).collect();
            if let Err(error) = self.consumer.seek(&from_beginning) {
                tracing::warn!(%error, topic, "A topic that was made again could not be read from its beginning yet.");
                self.shared.recreated.lock().unwrap_or_else(PoisonError::into_inner).push(topic);
                return;
            }
            for (source, _) in from_beginning {
                self.flow.forget_delay(source);
                self.in_hand.forget(source);
            }
        }
    }

    /// Before a new client comes: with it comes a good identity, with which nothing of the old may be committed.
    fn lose_all(&mut self) {
        self.giving_up.clear();
        let sources = lock(self.shared).sources();
        telemetry::partitions_lost(sources.len());
        self.forget(&sources);
    }

    /// Answers revocations that are still open: the client would wait for that at its end, for ever.
    pub(super) fn give_up_all(&mut self) -> Result<(), PipelineError> {
        for GivingUp { sources, .. } in std::mem::take(&mut self.giving_up) {
            self.commit_before_parting(&sources);
            self.part_with(&sources)?;
        }
        Ok(())
    }

    fn part_with(&mut self, sources: &[Source]) -> Result<(), PipelineError> {
        self.forget(sources);
        Ok(self.consumer.give_up(sources)?)
    }

    fn forget(&mut self, sources: &[Source]) {
        let mut ledger = lock(self.shared);
        for source in sources {
            ledger.revoke(*source);
            self.flow.gone(*source);
            self.in_hand.forget(*source);
        }
        drop(ledger);
        if self.giving_up.is_empty() && !self.shared.stop.load(Ordering::Acquire) {
            self.shared.hurry.store(false, Ordering::Release);
        }
    }

    /// After a transaction was aborted: reads from where the group stands.
    pub(super) fn rewind(&mut self) {
        let rewinding = lock(self.shared).rewinding();
        if rewinding.is_empty() || Instant::now() < self.rewind_at {
            return;
        }
        self.rewind_at = Instant::now() + REWIND_PAUSE;
        match self.seek_committed(&rewinding) {
            Ok(sought) => {
                let mut ledger = lock(self.shared);
                for (source, next) in sought {
                    self.flow.forget_delay(source);
                    self.in_hand.forget(source);
                    ledger.resume(source, next);
                }
            }
            Err(error) => tracing::warn!(%error, "Partitions could not be read again yet; this is tried on."),
        }
    }

    /// Seeks to where the group stands; where it stands nowhere, to the first record that was read here, or to the beginning.
    fn seek_committed(&self, rewinding: &[(Source, Option<i64>)]) -> Result<Vec<(Source, Option<i64>)>, KafkaError> {
        let sources: Vec<Source> = rewinding.iter().map(|(source, _)| *source).collect();
        let committed = self.consumer.committed(&sources)?;
        let place = |(source, first): &(Source, Option<i64>)| {
            (*source, committed.get(source).copied().flatten(), first.as_ref().copied())
        };
        let places: Vec<(Source, Option<i64>, Option<i64>)> = rewinding.iter().map(place).collect();
        let sought: Vec<(Source, Option<i64>)> =
            places.iter().map(|(source, committed, first)| (*source, committed.or(*first))).collect();
        self.consumer.seek(&sought)?;
        Ok(places.into_iter().map(|(source, committed, _)| (source, committed)).collect())
    }

    fn shown(&self, sources: &[Source]) -> String {
        let shown = |source: &Source| format!("{}/{}", self.consumer.topic(*source), source.partition);
        sources.iter().map(shown).collect::<Vec<_>>().join(", ")
    }
}
