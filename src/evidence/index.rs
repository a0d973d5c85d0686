//! What must be remembered of single requests, units and pictures. The rest of evidence is sums.

use std::{collections::HashMap, convert::Infallible};

use super::{
    arm::Cluster,
    first::{FirstPair, FirstVerdict},
    observation::{ArmKey, Evidence, ExperimentKey},
    reviewed::ReviewedCluster,
    reviews::HumanAnswers,
};

/// The verdicts of a variant, all or those of one segment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slice {
    /// The variant.
    pub arm: ArmKey,
    /// Name and value of the segment; none for all verdicts.
    pub segment: Option<(String, String)>,
}

/// Remembers requests, units and pictures, in memory or in a store.
pub trait Index {
    /// What reading or writing may fail with.
    type Error;

    /// The record that counts for a request.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn evidence(&mut self, key: u128) -> Result<Option<Evidence>, Self::Error>;

    /// Sets the record that counts for a request.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn set_evidence(&mut self, key: u128, evidence: &Evidence) -> Result<(), Self::Error>;

    /// Answers of people to a request, by the key of its live verdict.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn answers(&mut self, key: u128) -> Result<HumanAnswers, Self::Error>;

    /// Sets the answers of people to a request.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn set_answers(&mut self, key: u128, answers: &HumanAnswers) -> Result<(), Self::Error>;

    /// The sums of a unit or picture.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn cluster(&mut self, slice: &Slice, cluster: u128) -> Result<Cluster, Self::Error>;

    /// Sets the sums of a unit or picture.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn set_cluster(&mut self, slice: &Slice, cluster: u128, sums: &Cluster) -> Result<(), Self::Error>;

    /// The reviewed verdicts of a unit or picture.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn reviewed(&mut self, arm: &ArmKey, cluster: u128) -> Result<ReviewedCluster, Self::Error>;

    /// Sets the reviewed verdicts of a unit or picture.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn set_reviewed(&mut self, arm: &ArmKey, cluster: u128, sums: &ReviewedCluster) -> Result<(), Self::Error>;

    /// The first verdict of a picture.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn first_verdict(&mut self, of: &ExperimentKey, picture: u128) -> Result<Option<FirstVerdict>, Self::Error>;

    /// Sets the first verdict of a picture.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn set_first_verdict(&mut self, of: &ExperimentKey, picture: u128, first: &FirstVerdict)
    -> Result<(), Self::Error>;

    /// The first pair of verdicts of a picture, for a live and a shadow version.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn first_pair(&mut self, of: &(String, String), picture: u128) -> Result<Option<FirstPair>, Self::Error>;

    /// Sets the first pair of verdicts of a picture.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn set_first_pair(&mut self, of: &(String, String), picture: u128, first: &FirstPair) -> Result<(), Self::Error>;
}

/// An index in memory. It takes about a kilobyte for each request.
#[derive(Debug, Default)]
pub struct MemoryIndex {
    evidence: HashMap<u128, Evidence>,
    answers: HashMap<u128, HumanAnswers>,
    clusters: HashMap<(Slice, u128), Cluster>,
    reviewed: HashMap<(ArmKey, u128), ReviewedCluster>,
    first_verdicts: HashMap<(ExperimentKey, u128), FirstVerdict>,
    first_pairs: HashMap<((String, String), u128), FirstPair>,
}

impl Index for MemoryIndex {
    type Error = Infallible;

    fn evidence(&mut self, key: u128) -> Result<Option<Evidence>, Infallible> {
        Ok(self.evidence.get(&key).cloned())
    }

    fn set_evidence(&mut self, key: u128, evidence: &Evidence) -> Result<(), Infallible> {
        self.evidence.insert(key, evidence.clone());
        Ok(())
    }

    fn answers(&mut self, key: u128) -> Result<HumanAnswers, Infallible> {
        Ok(self.answers.get(&key).cloned().unwrap_or_default())
    }

    fn set_answers(&mut self, key: u128, answers: &HumanAnswers) -> Result<(), Infallible> {
        self.answers.insert(key, answers.clone());
        Ok(())
    }

    fn cluster(&mut self, slice: &Slice, cluster: u128) -> Result<Cluster, Infallible> {
        Ok(self.clusters.get(&(slice.clone(), cluster)).copied().unwrap_or_default())
    }

    fn set_cluster(&mut self, slice: &Slice, cluster: u128, sums: &Cluster) -> Result<(), Infallible> {
        self.clusters.insert((slice.clone(), cluster), *sums);
        Ok(())
    }

    fn reviewed(&mut self, arm: &ArmKey, cluster: u128) -> Result<ReviewedCluster, Infallible> {
        Ok(self.reviewed.get(&(arm.clone(), cluster)).copied().unwrap_or_default())
    }

    fn set_reviewed(&mut self, arm: &ArmKey, cluster: u128, sums: &ReviewedCluster) -> Result<(), Infallible> {
        self.reviewed.insert((arm.clone(), cluster), *sums);
        Ok(())
    }

    fn first_verdict(&mut self, of: &ExperimentKey, picture: u128) -> Result<Option<FirstVerdict>, Infallible> {
        Ok(self.first_verdicts.get(&(of.clone(), picture)).cloned())
    }

    fn set_first_verdict(&mut self, of: &ExperimentKey, picture: u128, first: &FirstVerdict) -> Result<(), Infallible> {
        self.first_verdicts.insert((of.clone(), picture), first.clone());
        Ok(())
    }

    fn first_pair(&mut self, of: &(String, String), picture: u128) -> Result<Option<FirstPair>, Infallible> {
        Ok(self.first_pairs.get(&(of.clone(), picture)).cloned())
    }

    fn set_first_pair(&mut self, of: &(String, String), picture: u128, first: &FirstPair) -> Result<(), Infallible> {
        self.first_pairs.insert((of.clone(), picture), first.clone());
        Ok(())
    }
}
