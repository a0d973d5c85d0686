//! Assignment scheme `m3v1`. Frozen: every change is a new scheme under a new name, because it would
//! move units of running experiments.
//!
//! Exposure and variant are hashed with different infixes, so that raising the traffic ratio only
//! adds units and never moves one between variants. murmur3 rather than a CRC: with multiply-shift,
//! linear hashes make two experiments dependent on each other.

use std::io::Read;

/// The scheme's name, as settings and verdicts spell it.
pub const SCHEME: &str = "m3v1";
/// Traffic ratios are counted in parts per million.
pub const PARTS: u32 = 1_000_000;

/// `murmur3_x86_32` of the text with seed 0, read in pieces so that nothing is joined on the heap.
fn murmur3(pieces: [&str; 3]) -> u32 {
    let [a, b, c] = pieces.map(str::as_bytes);
    // Reading from memory cannot fail; zero would be a valid hash, so nothing depends on this arm.
    murmur3::murmur3_32(&mut a.chain(b).chain(c), 0).unwrap_or_default()
}

/// The hash that decides on exposure.
pub fn exposure_hash(salt: &str, unit: &str) -> u32 {
    murmur3([salt, ":exposure:", unit])
}

/// The hash that decides on the variant.
pub fn variant_hash(salt: &str, unit: &str) -> u32 {
    murmur3([salt, ":variant:", unit])
}

/// The hash that decides on shadows: apart from the others, so that what is compared is a fair sample of each variant.
pub fn shadow_hash(salt: &str, unit: &str) -> u32 {
    murmur3([salt, ":shadow:", unit])
}

/// `(hash * range) >> 32`: an even spread of the hash over `0..range`, without modulo bias.
pub fn spread(hash: u32, range: u64) -> u64 {
    ((u128::from(hash) * u128::from(range)) >> 32) as u64
}

/// The index of the first cumulative weight above the hash's place; none when all weights are zero.
pub fn pick(hash: u32, weights: impl Iterator<Item = u64> + Clone) -> Option<usize> {
    let place = spread(hash, weights.clone().sum());
    let mut cumulative = 0;
    weights.into_iter().position(|weight| {
        cumulative += weight;
        place < cumulative
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors(json: &str) -> serde_json::Value {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_hash_agrees_with_the_reference_vectors() {
        let vectors = vectors(include_str!("../../testdata/vectors/murmur3_reference.json"));
        let mut compared = 0;
        for case in vectors["cases"].as_array().unwrap() {
            // The long inputs are given as Python expressions instead.
            let Some(bytes) = case["hex"].as_str().map(|digits| hex::decode(digits).unwrap()) else { continue };
            for (seed, expected) in case["murmur3_x86_32"].as_object().unwrap() {
                let hash = murmur3::murmur3_32(&mut bytes.as_slice(), seed.parse().unwrap()).unwrap();
                assert_eq!(u64::from(hash), expected.as_u64().unwrap(), "{} seed {seed}", case["name"]);
                compared += 1;
            }
        }
        assert!(compared > 100, "only {compared} cases");
    }

    #[test]
    fn hashing_in_pieces_gives_the_hash_of_the_whole() {
        for text in ["", "a", "ab", "abc", "abcd", "abcde", "req-000001", "用户42"] {
            let whole = murmur3::murmur3_32(&mut format!("{text}:variant:{text}").as_bytes(), 0).unwrap();
            assert_eq!(variant_hash(text, text), whole, "{text}");
        }
    }

    #[test]
    fn exposure_and_variant_agree_with_the_published_bucketing() {
        let vectors = vectors(include_str!("../../testdata/vectors/proposal_bucketing.json"));
        for case in vectors["cases"].as_array().unwrap() {
            let (salt, unit) = (case["salt"].as_str().unwrap(), case["unit"].as_str().unwrap());
            let exposure = exposure_hash(salt, unit);
            let variant = variant_hash(salt, unit);
            assert_eq!(u64::from(exposure), case["exposure_hash"].as_u64().unwrap(), "{case}");
            assert_eq!(u64::from(variant), case["variant_hash"].as_u64().unwrap(), "{case}");
            // The vectors were made with a resolution of 10,000; the scheme has a million. Their
            // ratios are whole in both, so exposure is the same.
            assert_eq!(spread(exposure, 10_000) < 1_000, case["exposed_at_10pct"].as_bool().unwrap());
            assert_eq!(spread(exposure, PARTS.into()) < 100_000, case["exposed_at_10pct"].as_bool().unwrap());
            assert_eq!(spread(exposure, PARTS.into()) < 500_000, case["exposed_at_50pct"].as_bool().unwrap());
            assert_eq!(spread(variant, 100), case["bucket_of_100"].as_u64().unwrap());
            assert_eq!(pick(variant, [50, 30, 20].into_iter()).map(|i| i as u64), case["variant_cumulative"].as_u64());
        }
    }

    proptest::proptest! {
        #[test]
        fn raising_the_ratio_only_adds_units(salt in ".{0,12}", unit in ".{1,24}", low in 0..PARTS, more in 0..PARTS) {
            let place = spread(exposure_hash(&salt, &unit), PARTS.into());
            let high = (low + more).min(PARTS);
            proptest::prop_assert!(place >= low.into() || place < high.into());
        }

        #[test]
        fn weights_scaled_alike_pick_alike(hash: u32, weights in proptest::collection::vec(1u64..1000, 1..5), scale in 1u64..100_000) {
            let scaled: Vec<u64> = weights.iter().map(|weight| weight * scale).collect();
            proptest::prop_assert_eq!(pick(hash, weights.into_iter()), pick(hash, scaled.into_iter()));
        }
    }
}
