//! Adds records to sums. Each request counts once: its earliest record. Neither the order of
//! reading nor the number of times that a record is read changes any sum.
//!
//! A sum over clusters must know the cluster's sums before and after, and a request that comes
//! again must be taken back if the record is earlier. The [`Index`] remembers both.

use super::{
    arm::{Arm, Cluster, MetricSums, hour_of},
    change::Change,
    first::{First, FirstOutcome},
    index::{Index, MemoryIndex, Slice},
    observation::{ArmKey, Evidence, ExpectedShadows, Kind, Observation, Pair, hash, live_key, shadow_key},
    reviewed::Reviewed,
    reviews::{HumanAnswer, HumanAnswers},
    sums::{PairSums, Sums, Touched},
};
use crate::message::{Decision, Label, Record, Review, Role, Verdict};

/// Sums with what must be remembered to keep them exact.
#[derive(Debug, Default)]
pub struct Ledger<I> {
    sums: Sums,
    touched: Touched,
    index: I,
}

/// The records that were read, in memory.
pub type VerdictSet = Ledger<MemoryIndex>;

impl VerdictSet {
    /// Adds a record of the verdict or shadow topic.
    pub fn add(&mut self, value: &[u8]) {
        let Ok(()) = self.add_value(value);
    }

    /// Adds a record of the dead-letter topic.
    pub fn add_letter(&mut self, letter: &Record) {
        let Ok(()) = self.add_dead_letter(letter);
    }

    /// Adds a record of the topic of reviews.
    pub fn add_answer(&mut self, value: &[u8]) {
        let Ok(()) = self.add_review(value);
    }
}

impl<I: Index> Ledger<I> {
    /// Goes on from sums that were kept, with the index that belongs to them.
    pub fn new(sums: Sums, index: I) -> Self {
        Self { sums, touched: Touched::default(), index }
    }

    /// The sums, and which of them changed since [`Self::new`].
    pub fn finish(self) -> (Sums, Touched) {
        (self.sums, self.touched)
    }

    /// The sums.
    pub fn sums(&self) -> &Sums {
        &self.sums
    }

    /// Adds a record of the verdict or shadow topic.
    ///
    /// # Errors
    /// When the index cannot be read or written. The sums are of no use then.
    pub fn add_value(&mut self, value: &[u8]) -> Result<(), I::Error> {
        let verdict = serde_json::from_slice::<Verdict>(value).ok();
        let evidence = verdict.as_ref().and_then(Evidence::of);
        let (Some(verdict), Some(evidence)) = (verdict, evidence) else {
            self.sums.excluded.unreadable += 1;
            return Ok(());
        };

        let key = match verdict.ab_role {
            Role::Live => live_key(&verdict.request_id),
            Role::Shadow => shadow_key(live_key(&verdict.request_id), &verdict.model_version),
        };
        self.count(key, evidence)
    }

    /// Adds a record of the dead-letter topic. One that no experiment took adds nothing.
    ///
    /// # Errors
    /// As [`Self::add_value`].
    pub fn add_dead_letter(&mut self, letter: &Record) -> Result<(), I::Error> {
        match Evidence::of_dead_letter(letter) {
            Some((request_id, evidence)) => self.count(hash(&["letter", &request_id]), evidence),
            None => Ok(()),
        }
    }

    /// Adds a record of the topic of reviews. It may come before its verdict, or long after.
    ///
    /// # Errors
    /// As [`Self::add_value`].
    pub fn add_review(&mut self, value: &[u8]) -> Result<(), I::Error> {
        let review = Review::from_bytes(value).ok();
        let answer = review.as_ref().and_then(HumanAnswer::of);
        let (Some(review), Some(answer)) = (review, answer) else {
            self.sums.reviews.unreadable += 1;
            return Ok(());
        };

        let key = live_key(&review.request_id);
        let before = self.index.answers(key)?;
        let mut after = before.clone();
        let counts = &mut self.sums.reviews;
        after.add(answer);
        counts.records += 1;
        counts.answers = counts.answers + after.len() - before.len();
        if before == after {
            return Ok(());
        }
        counts.requests += u64::from(before.is_empty());
        counts.change_pairs(&before, Change::Remove);
        counts.change_pairs(&after, Change::Add);
        self.index.set_answers(key, &after)?;

        if let Some(Evidence { time_ms, kind: Kind::Live(observation), .. }) = self.index.evidence(key)? {
            self.change_reviewed(time_ms, &observation, &before, Change::Remove)?;
            self.change_reviewed(time_ms, &observation, &after, Change::Add)?;
        }
        Ok(())
    }

    /// Adds or removes a verdict with the answers of people to it.
    fn change_reviewed(
        &mut self,
        time_ms: i64,
        observation: &Observation,
        answers: &HumanAnswers,
        change: Change,
    ) -> Result<(), I::Error> {
        if answers.is_empty() {
            return Ok(());
        }
        self.touched.experiments.insert(observation.arm.experiment.clone());
        let matched = &mut self.sums.reviews.matched;
        *matched = change.apply(*matched, 1);

        let Some(reviewed) = Reviewed::of(observation, answers) else { return Ok(()) };
        let before = self.index.reviewed(&observation.arm, observation.cluster)?;
        let after = before.changed(&reviewed, change);
        self.index.set_reviewed(&observation.arm, observation.cluster, &after)?;
        self.touched.hours.insert((observation.arm.clone(), hour_of(time_ms)));
        let arm = arm_of(&mut self.sums, &observation.arm);
        arm.reviews.change(&reviewed, &before, &after, change);
        arm.change_reviewed_hour(time_ms, &reviewed, change);
        Ok(())
    }

    /// Counts the earliest record of a request.
    fn count(&mut self, key: u128, evidence: Evidence) -> Result<(), I::Error> {
        self.note_first(&evidence)?;
        match self.index.evidence(key)? {
            None => {}
            Some(earlier) if earlier <= evidence => {
                self.sums.excluded.duplicates += 1;
                return Ok(());
            }
            Some(later) => {
                self.sums.excluded.duplicates += 1;
                self.change(key, &later, Change::Remove)?;
            }
        }
        self.index.set_evidence(key, &evidence)?;
        self.change(key, &evidence, Change::Add)
    }

    fn change(&mut self, key: u128, evidence: &Evidence, change: Change) -> Result<(), I::Error> {
        let Evidence { time_ms, kind, shadows } = evidence;
        if let Some(shadows) = shadows {
            self.change_expected(key, shadows, change)?;
        }
        let count = match kind {
            Kind::Live(observation) => {
                let answers = self.index.answers(key)?;
                self.change_reviewed(*time_ms, observation, &answers, change)?;
                return self.change_live(*time_ms, observation, change);
            }
            Kind::DeadLetter(arm, unit) => return self.change_dead_letter(*time_ms, arm, *unit, change),
            Kind::Pair(pair) => return self.change_judged(pair, change),
            Kind::Forced => &mut self.sums.excluded.forced,
            Kind::Outside => &mut self.sums.excluded.outside,
            Kind::UnitUnknown => &mut self.sums.excluded.unit_unknown,
        };
        *count = match change {
            Change::Add => *count + 1,
            Change::Remove => count.saturating_sub(1),
        };
        Ok(())
    }

    /// Changes how many shadow verdicts should come with a live one, and how many of them are
    /// there.
    fn change_expected(&mut self, live: u128, shadows: &ExpectedShadows, change: Change) -> Result<(), I::Error> {
        for versions in &shadows.versions {
            let found = self.index.evidence(shadow_key(live, &versions.1))?;
            let is_judged =
                matches!(found, Some(Evidence { kind: Kind::Pair(pair), .. }) if pair.versions == *versions);
            let pair = self.pair(versions);
            pair.expected = change.apply(pair.expected, 1);
            pair.judged = change.apply(pair.judged, u64::from(is_judged));
            let is_cached = shadows.is_cached && !is_judged;
            pair.cached = change.apply(pair.cached, u64::from(is_cached));
        }
        Ok(())
    }

    /// Changes how many of the expected shadow verdicts are there. One that is there already is
    /// replaced by an earlier one, which changes nothing.
    fn change_judged(&mut self, pair: &Pair, change: Change) -> Result<(), I::Error> {
        let Some(Evidence { shadows: Some(shadows), .. }) = self.index.evidence(pair.live)? else { return Ok(()) };
        if shadows.versions.contains(&pair.versions) {
            let sums = self.pair(&pair.versions);
            sums.judged = change.apply(sums.judged, 1);
            if shadows.is_cached {
                let counter = if change == Change::Add { Change::Remove } else { Change::Add };
                sums.cached = counter.apply(sums.cached, 1);
            }
        }
        Ok(())
    }

    fn change_live(&mut self, time_ms: i64, observation: &Observation, change: Change) -> Result<(), I::Error> {
        let sums = Cluster::of(observation);
        // A record that is taken back may belong to another experiment than the one that takes its
        // place.
        self.touched.experiments.insert(observation.arm.experiment.clone());
        self.change_cluster(&observation.arm, None, observation.cluster, &sums, change)?;
        for segment in &observation.segments {
            self.change_cluster(&observation.arm, Some(segment), observation.cluster, &sums, change)?;
        }
        arm_of(&mut self.sums, &observation.arm).change(time_ms, observation, change);
        self.touched.hours.insert((observation.arm.clone(), hour_of(time_ms)));
        Ok(())
    }

    fn change_dead_letter(
        &mut self,
        time_ms: i64,
        arm: &ArmKey,
        unit: Option<u128>,
        change: Change,
    ) -> Result<(), I::Error> {
        if let Some(unit) = unit.filter(|_| !arm.experiment.is_by_request()) {
            self.change_cluster(arm, None, unit, &Cluster::DEAD_LETTER, change)?;
        }
        self.touched.experiments.insert(arm.experiment.clone());
        self.touched.hours.insert((arm.clone(), hour_of(time_ms)));
        let arm = arm_of(&mut self.sums, arm);
        arm.dead_letters = match change {
            Change::Add => arm.dead_letters + 1,
            Change::Remove => arm.dead_letters.saturating_sub(1),
        };
        arm.change_hour(time_ms, &Cluster::DEAD_LETTER, change);
        Ok(())
    }

    /// Changes the sums of a cluster, and the sums over clusters with it.
    fn change_cluster(
        &mut self,
        arm: &ArmKey,
        segment: Option<&(String, String)>,
        cluster: u128,
        sums: &Cluster,
        change: Change,
    ) -> Result<(), I::Error> {
        let slice = Slice { arm: arm.clone(), segment: segment.cloned() };
        let before = self.index.cluster(&slice, cluster)?;
        let after = before.changed(sums, change);
        self.index.set_cluster(&slice, cluster, &after)?;

        let arm = arm_of(&mut self.sums, arm);
        let total = match segment {
            None => &mut arm.sums,
            Some(segment) => arm.segments.entry(segment.clone()).or_default(),
        };
        total.replace(&before, &after);
        arm.segments.retain(|_, sums| *sums != MetricSums::default());
        Ok(())
    }

    /// Notes times and first verdicts. They are minima and maxima over all records that were ever
    /// read, those that do not count among them, because a minimum cannot be taken back.
    fn note_first(&mut self, evidence: &Evidence) -> Result<(), I::Error> {
        match &evidence.kind {
            Kind::Live(observation) => {
                let key = &observation.arm.experiment;
                self.touched.experiments.insert(key.clone());
                self.sums.experiments.entry(key.clone()).or_default().note_time(evidence.time_ms);
                arm_of(&mut self.sums, &observation.arm).note(observation);
                if key.is_by_request() { self.note_first_verdict(evidence.time_ms, observation) } else { Ok(()) }
            }
            Kind::Pair(pair) => self.note_first_pair(evidence.time_ms, pair),
            Kind::DeadLetter(arm, _) => {
                // The variant is known from now on, also if this record does not count.
                self.touched.experiments.insert(arm.experiment.clone());
                arm_of(&mut self.sums, arm);
                Ok(())
            }
            Kind::Forced | Kind::Outside | Kind::UnitUnknown => Ok(()),
        }
    }

    fn note_first_verdict(&mut self, time_ms: i64, observation: &Observation) -> Result<(), I::Error> {
        let key = &observation.arm.experiment;
        let what = FirstOutcome {
            variant: observation.arm.variant.clone(),
            is_no: observation.label == Label::No,
            is_review: observation.decision == Decision::Review,
            latency_us: (!observation.is_cached).then_some(observation.latency_us),
        };
        let candidate = First { time_ms, what };
        let known = self.index.first_verdict(key, observation.cluster)?;
        if known.as_ref().is_some_and(|known| *known <= candidate) {
            return Ok(());
        }

        self.index.set_first_verdict(key, observation.cluster, &candidate)?;
        let arms = &mut self.sums.experiments.entry(key.clone()).or_default().arms;
        if let Some(known) = known {
            arms.entry(known.what.variant.clone()).or_default().firsts.change(&known.what, Change::Remove);
        }
        let variant = candidate.what.variant.clone();
        arms.entry(variant).or_default().firsts.change(&candidate.what, Change::Add);
        Ok(())
    }

    /// The sums of two versions, which are about to change.
    fn pair(&mut self, versions: &(String, String)) -> &mut PairSums {
        self.touched.pairs.insert(versions.clone());
        self.sums.pairs.entry(versions.clone()).or_default()
    }

    fn note_first_pair(&mut self, time_ms: i64, pair: &Pair) -> Result<(), I::Error> {
        let candidate = First { time_ms, what: (pair.labels.0 as u8, pair.labels.1 as u8) };
        let known = self.index.first_pair(&pair.versions, pair.picture)?;
        if known.as_ref().is_some_and(|known| *known <= candidate) {
            return Ok(());
        }

        self.index.set_first_pair(&pair.versions, pair.picture, &candidate)?;
        let table = &mut self.pair(&pair.versions).labels;
        if let Some(First { what: (live, shadow), .. }) = known {
            let count = &mut table[usize::from(live)][usize::from(shadow)];
            *count = count.saturating_sub(1);
        }
        let (live, shadow) = candidate.what;
        table[usize::from(live)][usize::from(shadow)] += 1;
        Ok(())
    }
}

fn arm_of<'s>(sums: &'s mut Sums, arm: &ArmKey) -> &'s mut Arm {
    let experiment = sums.experiments.entry(arm.experiment.clone()).or_default();
    experiment.arms.entry(arm.variant.clone()).or_default()
}
