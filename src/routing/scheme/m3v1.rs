//! Assignment scheme `m3v1`. Frozen: every change is a new scheme under a new name, because it would
//! move units of running experiments.
//!
//! ```text
//! exposed    = spread(murmur3(salt ":exposure:" unit), 1_000_000) < traffic ratio in millionths
//! slice      = spread(murmur3(layer ":layer:" unit), 10_000) in the experiment's slice
//! held out   = spread(murmur3(salt ":holdout:" unit), 1_000_000) < ratio in millionths
//! cumulative = the first variant whose cumulative weight is above spread(murmur3(salt ":variant:" unit), Σ weights),
//!              weights in millionths, rounded
//! rendezvous = the variant with the highest  -weight / ln((murmur3(salt ":arm" variant ":" unit) + 0.5) / 2^32)
//! ```
//!
//! Exposure and variant are hashed with different infixes, so that raising the traffic ratio only
//! adds units and never moves one between variants. murmur3 rather than a CRC: with multiply-shift,
//! linear hashes make two experiments dependent on each other.

use super::{Spot, first_above, murmur3};

/// Traffic ratios are counted in parts per million.
pub const PARTS: u32 = 1_000_000;
/// Slices of layers are counted in parts per ten thousand.
pub const LAYER_PARTS: u32 = 10_000;
/// Weights of settings are turned into integers by this factor.
pub(super) const WEIGHT_PARTS: u32 = 1_000_000;

/// Where a unit falls on the scale of exposure.
pub fn exposure(salt: &str, unit: &str) -> Spot {
    Spot::spread(murmur3([salt, ":exposure:", unit], 0), PARTS.into())
}

/// Where a unit falls in a layer.
pub fn layer(name: &str, unit: &str) -> Spot {
    Spot::spread(murmur3([name, ":layer:", unit], 0), LAYER_PARTS.into())
}

/// Where a unit falls on the scale of a holdout.
pub fn holdout(salt: &str, unit: &str) -> Spot {
    Spot::spread(murmur3([salt, ":holdout:", unit], 0), PARTS.into())
}

/// Where a unit falls on the scale of shadows: apart from the others, so that what is compared is a fair sample of each
/// variant.
pub fn shadow(salt: &str, unit: &str) -> Spot {
    Spot::spread(murmur3([salt, ":shadow:", unit], 0), PARTS.into())
}

/// The variant of a unit by cumulative weights, and where it falls; none when all weights are zero.
pub fn cumulative(salt: &str, unit: &str, weights: &[u64]) -> (Option<usize>, Spot) {
    let spot = Spot::spread(murmur3([salt, ":variant:", unit], 0), weights.iter().sum());
    (first_above(spot.place, weights.iter().copied()), spot)
}

/// The variant of a unit by weighted rendezvous, the first of equal scores, with its hash; none when all weights are
/// zero. The logarithm is libm's in software, which gives the same bits on every machine.
pub fn rendezvous<'v>(
    salt: &str,
    unit: &str,
    variants: impl IntoIterator<Item = (&'v str, f64)>,
) -> Option<(usize, u32)> {
    let mut best: Option<(f64, usize, u32)> = None;
    for (index, (name, weight)) in variants.into_iter().enumerate() {
        let (score, hash) = score(salt, unit, name, weight);
        if weight > 0.0 && best.is_none_or(|(highest, ..)| score > highest) {
            best = Some((score, index, hash));
        }
    }
    best.map(|(_, index, hash)| (index, hash))
}

/// The score that a variant draws for a unit in rendezvous, and the hash that it comes from.
pub fn score(salt: &str, unit: &str, variant: &str, weight: f64) -> (f64, u32) {
    let hash = murmur3([salt, ":arm", variant, ":", unit], 0);
    (-weight / libm::log((f64::from(hash) + 0.5) / 4_294_967_296.0), hash)
}
