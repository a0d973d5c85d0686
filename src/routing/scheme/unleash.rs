//! Unleash's gradual rollout and variants, as its client specification and its Rust client have them.
//!
//! `n = murmur3(group ":" unit, seed) % modulus + 1`. Rollouts have whole percents, and a change of weights moves most
//! units, because the modulus is their sum.

use super::{Spot, murmur3};

/// Unleash hashes variants with another seed than rollouts, so that a rollout does not decide the variant.
const VARIANT_SEED: u32 = 86_028_157;
/// Rollouts are counted in whole percents.
pub const PERCENT: u32 = 100;

/// Where a unit falls in a rollout of `group`; it is exposed where this is below the percentage.
pub fn rollout(group: &str, unit: &str) -> Spot {
    spot(group, unit, 0, PERCENT.into())
}

/// The variant of a unit, and where it falls; none when all weights are zero.
pub fn variant(group: &str, unit: &str, weights: &[u64]) -> (Option<usize>, Spot) {
    let spot = spot(group, unit, VARIANT_SEED, weights.iter().sum());
    (super::first_above(spot.place, weights.iter().copied()), spot)
}

/// `place` is Unleash's number less one.
fn spot(group: &str, unit: &str, seed: u32, modulus: u64) -> Spot {
    let hash = murmur3([group, ":", unit], seed);
    Spot { hash, place: u64::from(hash).checked_rem(modulus).unwrap_or_default(), of: modulus }
}
