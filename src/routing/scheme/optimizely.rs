//! Optimizely's bucketing: ten thousand buckets, in which variations and experiments of a group have ranges.
//!
//! Integers only: with 32-bit floats the highest hashes fell into a bucket that does not exist.

use super::{Spot, murmur3};

/// Buckets of one experiment or group.
pub const BUCKETS: u32 = 10_000;

/// The bucket of a unit in an experiment, or in a group of experiments that exclude each other.
pub fn bucket(unit: &str, parent_id: &str) -> Spot {
    Spot::spread(murmur3([unit, parent_id], 1), BUCKETS.into())
}
