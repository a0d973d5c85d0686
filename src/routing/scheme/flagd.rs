//! The `fractional` operation of flagd and OpenFeature, in its second version: whole weights on a scale of their sum.

use super::{Spot, first_above, murmur3};

/// The sum of weights may not be above this.
pub const WEIGHTS_MAX: u64 = i32::MAX as u64;

/// The variant of a unit, and where it falls; none when all weights are zero. flagd hashes the flag's key and the
/// targeting key joined.
pub fn fractional(flag_key: &str, unit: &str, weights: &[u64]) -> (Option<usize>, Spot) {
    let spot = Spot::spread(murmur3([flag_key, unit], 0), weights.iter().sum());
    (first_above(spot.place, weights.iter().copied()), spot)
}
