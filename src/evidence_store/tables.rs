//! The tables of the store, and how entries are encoded.
//!
//! Requests, units and pictures are remembered in two generations: the current one and the one
//! before. When the current one has lasted for `evidence.keep_ms`, the older one is dropped as a
//! whole. So each is remembered for at least that time, and nothing is searched for what is too
//! old.

use redb::{ReadableTable as _, Table, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    error::StoreError,
    names::{Name, Names},
};
use crate::{
    evidence::{
        ArmKey, Cluster, Evidence, ExpectedShadows, ExperimentKey, First, FirstOutcome, FirstPair, FirstVerdict,
        HumanAnswers, Index, Kind, Observation, Pair, ReviewedCluster, Slice,
    },
    message::{Decision, Label},
};

/// The encoding of entries. A store of another one is made again from the topics, and a snapshot of
/// another one is not used.
pub(super) const FORMAT: u32 = 3;

/// `identity`, `generation`, `excluded`, `reviews`, `guards`.
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// The next offset of each partition, by topic.
pub(super) const OFFSETS: TableDefinition<'_, (&str, i32), i64> = TableDefinition::new("offsets");
pub(super) const NAMES: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("names");
/// Sums of an experiment, by its number.
pub(super) const EXPERIMENTS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("experiments");
/// Sums of an hour, by the number of the variant.
pub(super) const HOURS: TableDefinition<'_, (u32, i64), &[u8]> = TableDefinition::new("hours");
/// Labels of pairs, by the number of the two versions.
pub(super) const PAIRS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("pairs");

type Entries = TableDefinition<'static, u128, &'static [u8]>;
type Clusters = TableDefinition<'static, ClusterKey, &'static [u8]>;
type Firsts = TableDefinition<'static, FirstKey, &'static [u8]>;

/// The tables of one generation.
#[derive(Clone, Copy)]
pub(super) struct Generation {
    pub(super) requests: Entries,
    pub(super) clusters: Clusters,
    pub(super) firsts: Firsts,
    pub(super) answers: Entries,
    pub(super) reviewed: Firsts,
}

pub(super) const GENERATIONS: [Generation; 2] = [
    Generation {
        requests: TableDefinition::new("requests-0"),
        clusters: TableDefinition::new("clusters-0"),
        firsts: TableDefinition::new("firsts-0"),
        answers: TableDefinition::new("answers-0"),
        reviewed: TableDefinition::new("reviewed-0"),
    },
    Generation {
        requests: TableDefinition::new("requests-1"),
        clusters: TableDefinition::new("clusters-1"),
        firsts: TableDefinition::new("firsts-1"),
        answers: TableDefinition::new("answers-1"),
        reviewed: TableDefinition::new("reviewed-1"),
    },
];

/// Which generation is the current one, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Current {
    pub(super) generation: u8,
    /// Milliseconds since 1970, by the clock of this machine.
    pub(super) since_ms: i64,
}

/// An evidence as it is kept: numbers instead of names.
#[derive(Serialize, Deserialize)]
enum Kept {
    Live {
        arm: u32,
        version: u32,
        cluster: [u8; 16],
        /// The label, the decision and whether the answer was cached, in two, two and one bit.
        answer: u8,
        confidence: u64,
        latency_us: u64,
        review_probability: u32,
        segments: Vec<u32>,
    },
    Pair {
        versions: u32,
        labels: u8,
        picture: [u8; 16],
        live: [u8; 16],
    },
    DeadLetter {
        arm: u32,
        unit: Option<[u8; 16]>,
    },
    Forced,
    Outside,
    UnitUnknown,
}

/// A first verdict as it is kept.
#[derive(Serialize, Deserialize)]
struct KeptFirst {
    time_ms: i64,
    variant: u32,
    flags: u8,
    latency_us: Option<u64>,
}

pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Plain data into memory: this cannot fail.
    postcard::to_allocvec(value).unwrap_or_default()
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    Ok(postcard::from_bytes(bytes)?)
}

const LABELS: [Label; 3] = [Label::No, Label::Maybe, Label::Yes];
const DECISIONS: [Decision; 3] = [Decision::Approve, Decision::Reject, Decision::Review];

fn label(number: u8) -> Result<Label, StoreError> {
    LABELS.get(usize::from(number)).copied().ok_or(StoreError::Damaged("there is no such label"))
}

/// A record as it is kept: its time, what it contributes, and the shadows that should come with it:
/// whether the answer was cached, and the numbers of the versions.
type KeptEvidence = (i64, Kept, Option<(bool, Vec<u32>)>);

fn kept(evidence: &Evidence, names: &mut Names) -> KeptEvidence {
    let kept = match &evidence.kind {
        Kind::Live(observation) => {
            let Observation { arm, version, share, segments, .. } = observation;
            let is_cached = u8::from(observation.is_cached);
            Kept::Live {
                arm: names.number(Name::Arm(arm.clone())),
                version: names.number(Name::Version(version.clone(), *share)),
                cluster: observation.cluster.to_le_bytes(),
                answer: observation.label as u8 | (observation.decision as u8) << 2 | is_cached << 4,
                confidence: observation.confidence,
                latency_us: observation.latency_us,
                review_probability: observation.review_probability,
                segments: segments
                    .iter()
                    .map(|(name, value)| names.number(Name::Segment(name.clone(), value.clone())))
                    .collect(),
            }
        }
        Kind::Pair(pair) => Kept::Pair {
            versions: names.number(Name::Versions(pair.versions.0.clone(), pair.versions.1.clone())),
            labels: pair.labels.0 as u8 | (pair.labels.1 as u8) << 2,
            picture: pair.picture.to_le_bytes(),
            live: pair.live.to_le_bytes(),
        },
        Kind::DeadLetter(arm, unit) => {
            Kept::DeadLetter { arm: names.number(Name::Arm(arm.clone())), unit: unit.map(u128::to_le_bytes) }
        }
        Kind::Forced => Kept::Forced,
        Kind::Outside => Kept::Outside,
        Kind::UnitUnknown => Kept::UnitUnknown,
    };
    let shadows = evidence.shadows.as_ref().map(|shadows| {
        let number = |(live, shadow): &(String, String)| names.number(Name::Versions(live.clone(), shadow.clone()));
        (shadows.is_cached, shadows.versions.iter().map(number).collect())
    });
    (evidence.time_ms, kept, shadows)
}

fn restored((time_ms, kept, shadows): KeptEvidence, names: &Names) -> Result<Evidence, StoreError> {
    const UNKNOWN: StoreError = StoreError::Damaged("a number has no name");
    let arm_of = |number| match names.name(number) {
        Some(Name::Arm(arm)) => Ok(arm.clone()),
        _ => Err(UNKNOWN),
    };

    let versions_of = |number| match names.name(number) {
        Some(Name::Versions(live, shadow)) => Ok((live.clone(), shadow.clone())),
        _ => Err(UNKNOWN),
    };

    let kind = match kept {
        Kept::Live { arm, version, cluster, answer, confidence, latency_us, review_probability, segments } => {
            let Some(Name::Version(version, share)) = names.name(version) else { return Err(UNKNOWN) };
            let segment = |number: u32| match names.name(number) {
                Some(Name::Segment(name, value)) => Ok((name.clone(), value.clone())),
                _ => Err(UNKNOWN),
            };
            let decision = DECISIONS.get(usize::from(answer >> 2 & 3));

            Kind::Live(Observation {
                arm: arm_of(arm)?,
                version: version.clone(),
                share: *share,
                cluster: u128::from_le_bytes(cluster),
                label: label(answer & 3)?,
                decision: *decision.ok_or(StoreError::Damaged("there is no such decision"))?,
                confidence,
                latency_us,
                is_cached: answer >> 4 & 1 == 1,
                review_probability,
                segments: segments.into_iter().map(segment).collect::<Result<_, _>>()?,
            })
        }
        Kept::Pair { versions, labels, picture, live } => Kind::Pair(Pair {
            versions: versions_of(versions)?,
            labels: (label(labels & 3)?, label(labels >> 2 & 3)?),
            picture: u128::from_le_bytes(picture),
            live: u128::from_le_bytes(live),
        }),
        Kept::DeadLetter { arm, unit } => Kind::DeadLetter(arm_of(arm)?, unit.map(u128::from_le_bytes)),
        Kept::Forced => Kind::Forced,
        Kept::Outside => Kind::Outside,
        Kept::UnitUnknown => Kind::UnitUnknown,
    };
    let shadows = match shadows {
        None => None,
        Some((is_cached, numbers)) => {
            let versions = numbers.into_iter().map(versions_of).collect::<Result<_, _>>()?;
            Some(ExpectedShadows { versions, is_cached })
        }
    };
    Ok(Evidence { time_ms, kind, shadows })
}

/// The key of a cluster: number of the variant, number of the segment or 0, and cluster.
type ClusterKey = (u32, u32, u128);
/// The key of a first verdict: number of the experiment or of the two versions, and picture.
type FirstKey = (u32, u128);

/// The index in the tables of one write.
pub(super) struct StoredIndex<'n, 'txn> {
    names: &'n mut Names,
    /// The current generation first.
    requests: [Table<'txn, u128, &'static [u8]>; 2],
    clusters: [Table<'txn, ClusterKey, &'static [u8]>; 2],
    firsts: [Table<'txn, FirstKey, &'static [u8]>; 2],
    answers: [Table<'txn, u128, &'static [u8]>; 2],
    /// The key is the number of the variant, and the unit or picture.
    reviewed: [Table<'txn, FirstKey, &'static [u8]>; 2],
}

impl<'n, 'txn> StoredIndex<'n, 'txn> {
    pub(super) fn open(
        write: &'txn WriteTransaction,
        current: Current,
        names: &'n mut Names,
    ) -> Result<Self, StoreError> {
        let [first, second] = GENERATIONS;
        let [now, before] = if current.generation == 0 { [first, second] } else { [second, first] };
        Ok(Self {
            names,
            requests: [write.open_table(now.requests)?, write.open_table(before.requests)?],
            clusters: [write.open_table(now.clusters)?, write.open_table(before.clusters)?],
            firsts: [write.open_table(now.firsts)?, write.open_table(before.firsts)?],
            answers: [write.open_table(now.answers)?, write.open_table(before.answers)?],
            reviewed: [write.open_table(now.reviewed)?, write.open_table(before.reviewed)?],
        })
    }
}

impl Index for StoredIndex<'_, '_> {
    type Error = StoreError;

    fn evidence(&mut self, key: u128) -> Result<Option<Evidence>, StoreError> {
        for table in &self.requests {
            if let Some(entry) = table.get(key)? {
                return restored(decode(entry.value())?, self.names).map(Some);
            }
        }
        Ok(None)
    }

    fn set_evidence(&mut self, key: u128, evidence: &Evidence) -> Result<(), StoreError> {
        let bytes = encode(&kept(evidence, self.names));
        self.requests[0].insert(key, bytes.as_slice())?;
        Ok(())
    }

    fn answers(&mut self, key: u128) -> Result<HumanAnswers, StoreError> {
        for table in &self.answers {
            if let Some(entry) = table.get(key)? {
                return decode(entry.value());
            }
        }
        Ok(HumanAnswers::default())
    }

    fn set_answers(&mut self, key: u128, answers: &HumanAnswers) -> Result<(), StoreError> {
        self.answers[0].insert(key, encode(answers).as_slice())?;
        Ok(())
    }

    fn cluster(&mut self, slice: &Slice, cluster: u128) -> Result<Cluster, StoreError> {
        let key = self.cluster_key(slice, cluster);
        for table in &self.clusters {
            if let Some(entry) = table.get(key)? {
                return decode(entry.value());
            }
        }
        Ok(Cluster::default())
    }

    fn set_cluster(&mut self, slice: &Slice, cluster: u128, sums: &Cluster) -> Result<(), StoreError> {
        let key = self.cluster_key(slice, cluster);
        self.clusters[0].insert(key, encode(sums).as_slice())?;
        Ok(())
    }

    fn reviewed(&mut self, arm: &ArmKey, cluster: u128) -> Result<ReviewedCluster, StoreError> {
        let key = (self.names.number(Name::Arm(arm.clone())), cluster);
        for table in &self.reviewed {
            if let Some(entry) = table.get(key)? {
                return decode(entry.value());
            }
        }
        Ok(ReviewedCluster::default())
    }

    fn set_reviewed(&mut self, arm: &ArmKey, cluster: u128, sums: &ReviewedCluster) -> Result<(), StoreError> {
        let key = (self.names.number(Name::Arm(arm.clone())), cluster);
        self.reviewed[0].insert(key, encode(sums).as_slice())?;
        Ok(())
    }

    fn first_verdict(&mut self, of: &ExperimentKey, picture: u128) -> Result<Option<FirstVerdict>, StoreError> {
        let key = (self.names.number(Name::Experiment(of.clone())), picture);
        for table in &self.firsts {
            let Some(entry) = table.get(key)? else { continue };
            let KeptFirst { time_ms, variant, flags, latency_us } = decode(entry.value())?;
            let Some(Name::Variant(variant)) = self.names.name(variant) else {
                return Err(StoreError::Damaged("a number has no name"));
            };
            let (is_no, is_review) = (flags & 1 == 1, flags & 2 == 2);
            let what = FirstOutcome { variant: variant.clone(), is_no, is_review, latency_us };
            return Ok(Some(First { time_ms, what }));
        }
        Ok(None)
    }

    fn set_first_verdict(&mut self, of: &ExperimentKey, picture: u128, first: &FirstVerdict) -> Result<(), StoreError> {
        let First { time_ms, what: FirstOutcome { variant, is_no, is_review, latency_us } } = first;
        let kept = KeptFirst {
            time_ms: *time_ms,
            variant: self.names.number(Name::Variant(variant.clone())),
            flags: u8::from(*is_no) | u8::from(*is_review) << 1,
            latency_us: *latency_us,
        };
        let key = (self.names.number(Name::Experiment(of.clone())), picture);
        self.firsts[0].insert(key, encode(&kept).as_slice())?;
        Ok(())
    }

    fn first_pair(&mut self, of: &(String, String), picture: u128) -> Result<Option<FirstPair>, StoreError> {
        let key = (self.names.number(Name::Versions(of.0.clone(), of.1.clone())), picture);
        for table in &self.firsts {
            let Some(entry) = table.get(key)? else { continue };
            let (time_ms, live, shadow): (i64, u8, u8) = decode(entry.value())?;
            if live > 2 || shadow > 2 {
                return Err(StoreError::Damaged("there is no such label"));
            }
            return Ok(Some(First { time_ms, what: (live, shadow) }));
        }
        Ok(None)
    }

    fn set_first_pair(&mut self, of: &(String, String), picture: u128, first: &FirstPair) -> Result<(), StoreError> {
        let key = (self.names.number(Name::Versions(of.0.clone(), of.1.clone())), picture);
        let First { time_ms, what: (live, shadow) } = first;
        self.firsts[0].insert(key, encode(&(*time_ms, *live, *shadow)).as_slice())?;
        Ok(())
    }
}

impl StoredIndex<'_, '_> {
    fn cluster_key(&mut self, slice: &Slice, cluster: u128) -> ClusterKey {
        let arm = self.names.number(Name::Arm(slice.arm.clone()));
        let segment = slice.segment.clone();
        let segment = segment.map_or(0, |(name, value)| self.names.number(Name::Segment(name, value)));
        (arm, segment, cluster)
    }
}
