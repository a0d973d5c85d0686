use super::{
    chance::{chi_square, murmur2},
    *,
};

fn vectors(name: &str) -> serde_json::Value {
    let path = format!("{}/testdata/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn units(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("req-{index:06}")).collect()
}

#[test]
fn the_hash_agrees_with_the_reference_vectors() {
    let mut compared = 0;
    for case in vectors("murmur3_reference.json")["cases"].as_array().unwrap() {
        // The long inputs are given as Python expressions instead.
        let Some(bytes) = case["hex"].as_str().map(|digits| hex::decode(digits).unwrap()) else { continue };
        for (seed, expected) in case["murmur3_x86_32"].as_object().unwrap() {
            let hash = ::murmur3::murmur3_32(&mut bytes.as_slice(), seed.parse().unwrap()).unwrap();
            assert_eq!(u64::from(hash), expected.as_u64().unwrap(), "{} seed {seed}", case["name"]);
            compared += 1;
        }
    }
    assert!(compared > 100, "only {compared} cases");
}

#[test]
fn our_way_to_call_the_hash_agrees_with_the_vectors_and_with_the_verification_of_its_author() {
    let path = format!("{}/testdata/vectors/murmur3_reference_32.csv", env!("CARGO_MANIFEST_DIR"));
    let mut compared = 0;
    for line in std::fs::read_to_string(path).unwrap().lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let [_, bytes, seed, expected] = fields[..] else { panic!("{line}") };
        // Pieces are texts here; what is none is compared above.
        let Ok(text) = String::from_utf8(hex::decode(bytes).unwrap()) else { continue };
        let half = text.char_indices().map(|(place, _)| place).nth(text.chars().count() / 2).unwrap_or_default();
        let (one, two) = text.split_at(half);
        assert_eq!(murmur3([one, "", two], seed.parse().unwrap()), expected.parse::<u32>().unwrap(), "{line}");
        compared += 1;
    }
    assert!(compared > 100, "only {compared} cases");
    // SMHasher: keys 0, 0 1, 0 1 2 … with seeds from 256 down, and the hash of all their hashes.
    let key: Vec<u8> = (0..=255).collect();
    let hash = |bytes: &[u8], seed: u32| ::murmur3::murmur3_32(&mut &*bytes, seed).unwrap();
    let hashes: Vec<u8> =
        (0..256_usize).flat_map(|length| hash(&key[..length], 256 - length as u32).to_le_bytes()).collect();
    assert_eq!(hash(&hashes, 0), 0xB0F5_7EE3);
}

#[test]
fn hashing_in_pieces_gives_the_hash_of_the_whole() {
    for text in ["", "a", "ab", "abc", "abcd", "abcde", "req-000001", "用户42"] {
        let whole = ::murmur3::murmur3_32(&mut format!("{text}:arm{text}:{text}").as_bytes(), 7).unwrap();
        assert_eq!(murmur3([text, ":arm", text, ":", text], 7), whole, "{text}");
    }
}

#[test]
fn m3v1_agrees_with_the_published_bucketing() {
    for case in vectors("proposal_bucketing.json")["cases"].as_array().unwrap() {
        let (salt, unit) = (case["salt"].as_str().unwrap(), case["unit"].as_str().unwrap());
        let exposure = m3v1::exposure(salt, unit);
        assert_eq!(u64::from(exposure.hash), case["exposure_hash"].as_u64().unwrap(), "{case}");
        // The vectors were made with a resolution of 10,000; the scheme has a million. Their
        // ratios are whole in both, so exposure is the same.
        assert_eq!(Spot::spread(exposure.hash, 10_000).place < 1_000, case["exposed_at_10pct"].as_bool().unwrap());
        assert_eq!(exposure.place < 100_000, case["exposed_at_10pct"].as_bool().unwrap());
        assert_eq!(exposure.place < 500_000, case["exposed_at_50pct"].as_bool().unwrap());
        let (variant, spot) = m3v1::cumulative(salt, unit, &[50, 30, 20]);
        assert_eq!(u64::from(spot.hash), case["variant_hash"].as_u64().unwrap(), "{case}");
        assert_eq!(spot.place, case["bucket_of_100"].as_u64().unwrap());
        assert_eq!(variant.map(|i| i as u64), case["variant_cumulative"].as_u64());
        let rendezvous = m3v1::rendezvous(salt, unit, [("0", 50.0), ("1", 30.0), ("2", 20.0)]);
        assert_eq!(rendezvous.map(|(i, _)| i as u64), case["variant_rendezvous"].as_u64(), "{case}");
    }
}

#[test]
fn the_highest_hashes_have_a_place_on_every_scale() {
    for of in [1, 2, 100, 10_000, 1_000_000, u64::from(u32::MAX), 1 << 60] {
        assert_eq!(Spot::spread(u32::MAX, of).place, of - of.div_ceil(1 << 32), "{of}");
        assert_eq!(Spot::spread(0, of).place, 0);
    }
    // Its hash is so high that 32-bit floats lost it in Optimizely's Go client.
    let high = optimizely::bucket("15580846", "default-rollout-386456-20914452332");
    assert_eq!((high.hash, high.place), (0xFFFF_FFBC, 9_999));
    // Keys of flagd's test bed whose hashes are the corners.
    for (key, hash) in
        [("ejOoVL", 0), ("bY9fO-", 1), ("SI7p-", i32::MAX as u32), ("6LvT0", 1 << 31), ("ceQdGm", u32::MAX)]
    {
        let (variant, spot) = flagd::fractional("", key, &[1, 1]);
        assert_eq!((spot.hash, variant), (hash, Some(usize::from(hash > i32::MAX as u32))), "{key}");
    }
}

#[test]
fn holdouts_and_variants_of_one_salt_are_independent() {
    let units = units(40_000);
    let arm = |unit: &str| m3v1::cumulative("a#1", unit, &[1, 1]).0.unwrap();
    let held = |unit: &str| usize::from(m3v1::holdout("a#1", unit).place < 300_000);
    let layer = |unit: &str| usize::from(m3v1::layer("a#1", unit).place < 3_000);
    // One degree of freedom: above 10.8 in one of a thousand, and the hash has no luck to run out of.
    assert!(chi_square(units.iter().map(|unit| (held(unit), arm(unit)))) < 10.8);
    assert!(chi_square(units.iter().map(|unit| (layer(unit), arm(unit)))) < 10.8);
    assert!(chi_square(units.iter().map(|unit| (layer(unit), held(unit)))) < 10.8);
}

#[test]
fn keys_are_hashed_as_kafka_hashes_them() {
    for case in vectors("kafka_murmur2.json")["cases"].as_array().unwrap() {
        let key = case["key"].as_str().unwrap();
        assert_eq!(i64::from(murmur2(key.as_bytes()) as i32), case["murmur2"].as_i64().unwrap(), "{key}");
    }
}

#[test]
fn rendezvous_moves_the_least_there_can_be_where_one_weight_changes_or_a_variant_comes_or_goes() {
    let units = units(60_000);
    let moved = |before: &[f64], after: &[f64]| {
        let names = ["a", "b", "c"];
        let arm = |unit: &str, weights: &[f64]| {
            m3v1::rendezvous("exp#1", unit, names.into_iter().zip(weights.iter().copied())).unwrap().0
        };
        units.iter().filter(|unit| arm(unit, before) != arm(unit, after)).count() as f64 / units.len() as f64
    };
    for (before, after) in [
        (&[50.0, 50.0][..], &[60.0, 40.0][..]),
        (&[33.0, 33.0, 33.0], &[40.0, 30.0, 30.0]),
        (&[50.0, 50.0, 0.0], &[33.0, 33.0, 34.0]),
        (&[1.0, 1.0, 1.0], &[1.0, 1.0, 0.0]),
    ] {
        let share = |weights: &[f64], index: usize| weights.get(index).unwrap_or(&0.0) / weights.iter().sum::<f64>();
        let least: f64 = (0..3).map(|index| (share(after, index) - share(before, index)).max(0.0)).sum();
        let moved = moved(before, after);
        // Five standard deviations of a share among these units.
        assert!(
            (moved - least).abs() < 5.0 * (least / units.len() as f64).sqrt(),
            "{before:?} {after:?}: {moved} {least}"
        );
    }
}

#[test]
fn each_variant_gets_its_share() {
    let units = units(60_000);
    let shares = |arm: &dyn Fn(&str) -> usize| {
        let mut counts = [0.0; 3];
        units.iter().for_each(|unit| counts[arm(unit)] += 1.0 / units.len() as f64);
        counts
    };
    let weights = [5, 3, 2];
    let named = || ["a", "b", "c"].into_iter().zip(weights.map(|weight| weight as f64));
    for (name, shares) in [
        ("cumulative", shares(&|unit| m3v1::cumulative("s", unit, &weights).0.unwrap())),
        ("rendezvous", shares(&|unit| m3v1::rendezvous("s", unit, named()).unwrap().0)),
        ("unleash", shares(&|unit| unleash::variant("s", unit, &weights).0.unwrap())),
        ("flagd", shares(&|unit| flagd::fractional("s", unit, &weights).0.unwrap())),
    ] {
        for (share, weight) in shares.iter().zip(weights) {
            assert!((share - weight as f64 / 10.0).abs() < 0.011, "{name}: {shares:?}");
        }
    }
}

proptest::proptest! {
    #[test]
    fn weights_scaled_alike_pick_alike(
        unit in ".{1,12}", weights in proptest::collection::vec(1u64..1000, 1..5), scale in 1u64..100_000,
    ) {
        let scaled: Vec<u64> = weights.iter().map(|weight| weight * scale).collect();
        proptest::prop_assert_eq!(m3v1::cumulative("s", &unit, &weights).0, m3v1::cumulative("s", &unit, &scaled).0);
    }
}
