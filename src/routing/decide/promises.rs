//! What is promised of experiments, each by a property, through the function that routes.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    tests::{alone, decide, experiment, features, spec},
    *,
};
use crate::{
    message::{AttributeValue, Attributes},
    routing::{
        ExperimentSpec, HoldoutSpec, Method, TableSpec,
        scheme::chance::{chi_square, murmur2},
    },
};

const UNITS: usize = 20_000;
/// Of Pearson's statistic with one degree of freedom, above it in one of ten million.
const ONE_DEGREE: f64 = 28.4;

fn variants(table: &Table, units: usize) -> Vec<Option<String>> {
    let none = Attributes::new();
    (0..units).map(|index| decide(table, &format!("r{index}"), &none).variant.map(|(_, variant)| variant)).collect()
}

fn table(experiments: Vec<ExperimentSpec>) -> Table {
    Table::new(&TableSpec { rules: vec![], experiments, ..spec() }).unwrap_or_else(|error| panic!("{error}"))
}

fn shared(scheme: &str, assignment: &str, ratio: f64, weights: [u32; 3]) -> ExperimentSpec {
    let [a, b, c] = weights;
    experiment(&format!(
        r#"{{"name": "e", "scheme": "{scheme}", "assignment": "{assignment}", "traffic_ratio": {ratio}, "variants": [
            {{"name": "a", "model_version": "base", "weight": {a}}}, {{"name": "b", "model_version": "small", "weight": {b}}},
            {{"name": "c", "model_version": "large", "weight": {c}}}]}}"#
    ))
}

/// Every way to assign in which settings say how much traffic there is.
fn with_exposure() -> impl Strategy<Value = (&'static str, &'static str)> {
    prop_oneof![
        Just(("m3v1", "cumulative")),
        Just(("m3v1", "rendezvous")),
        Just(("unleash", "cumulative")),
        Just(("optimizely", "cumulative")),
    ]
}

proptest! {
    #[test]
    fn raising_the_traffic_ratio_only_adds_units_and_moves_none(
        (scheme, assignment) in with_exposure(), low in 0..90_u32, more in 2..50_u32,
        weights in prop::array::uniform3(1..6_u32),
    ) {
        let of = |percent: u32| {
            let ratio = f64::from(percent.min(100)) / 100.0;
            variants(&table(vec![shared(scheme, assignment, ratio, weights)]), 1_000)
        };
        let (before, after) = (of(low), of(low + more));
        for (before, after) in before.iter().zip(&after) {
            prop_assert!(before.is_none() || before == after);
        }
        let count = |variants: &[Option<String>]| variants.iter().flatten().count();
        prop_assert!(count(&after) > count(&before));
    }

    #[test]
    fn a_change_of_weights_moves_units_only_to_variants_that_grew_by_more(
        before in prop::array::uniform3(1..50_u32), after in prop::array::uniform3(1..50_u32),
    ) {
        let of = |weights| variants(&table(vec![shared("m3v1", "rendezvous", 1.0, weights)]), 2_000);
        let grew = |variant: &str| {
            let index = ["a", "b", "c"].iter().position(|name| *name == variant).unwrap();
            f64::from(after[index]) / f64::from(before[index])
        };
        for (was, is) in of(before).iter().flatten().zip(of(after).iter().flatten()) {
            prop_assert!(was == is || grew(is) > grew(was), "{was} to {is}: {before:?} to {after:?}");
        }
    }

    #[test]
    fn whatever_is_hashed_the_same_request_goes_the_same_way_and_says_so_once(
        (scheme, assignment) in with_exposure(), id in "[a-z0-9]{0,8}", width in 1u32..2_000, role in "admin|guest", held: bool,
    ) {
        let attributes: Attributes =
            BTreeMap::from([("user_role".to_owned(), Some(AttributeValue::Text(role)))]);
        let request = Features { image_width: width, ..features(&id, &attributes) };
        let mut settings = spec();
        settings.experiments = vec![ExperimentSpec {
            layer: Some("models".into()),
            slice: Some([0.1, 0.9]),
            ..shared(scheme, assignment, 0.5, [3, 2, 1])
        }];
        if held {
            settings.holdouts =
                vec![HoldoutSpec { name: "never".into(), ratio: 0.3, unit: "request_id".into(), salt: None }];
        }
        let mut steps = Vec::new();
        let watched = Table::new(&settings).unwrap().decide(&request, &mut steps).unwrap();
        let unwatched = Table::new(&settings).unwrap().decide(&request, &mut ()).unwrap();
        prop_assert_eq!(&watched, &unwatched);
        let decided: Vec<&Step> = steps.iter().filter(|step| step.decided).collect();
        prop_assert_eq!(decided.len(), 1);
        prop_assert!(std::ptr::eq(decided[0], steps.last().unwrap()));
    }
}

proptest! {
    // Each looks at many units.
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn exposure_and_variant_are_independent(salt in "[a-z]{1,10}", rendezvous: bool) {
        // Whom a tenth would take, and what they get when all are taken.
        let of = |ratio: f64| alone(|it| {
            (it.traffic_ratio, it.salt) = (ratio, Some(salt.clone()));
            it.assignment = if rendezvous { Method::Rendezvous } else { Method::Cumulative };
        });
        let (tenth, all) = (variants(&of(0.1), UNITS), variants(&of(1.0), UNITS));
        let pairs = tenth.iter().zip(&all).map(|(tenth, all)| {
            (usize::from(tenth.is_some()), usize::from(all.as_deref() == Some("control")))
        });
        prop_assert!(chi_square(pairs) < ONE_DEGREE);
    }

    #[test]
    fn two_experiments_are_independent_and_so_are_two_epochs_of_one(
        salts in prop::array::uniform2("[a-z]{1,10}"), epochs in prop::array::uniform2(1..1000_u32),
    ) {
        prop_assume!(salts[0] != salts[1] && epochs[0] != epochs[1]);
        let of = |salt: Option<&String>, epoch| {
            variants(&alone(|it| (it.traffic_ratio, it.salt, it.epoch) = (1.0, salt.cloned(), epoch)), UNITS)
        };
        let independent = |one: &[Option<String>], other: &[Option<String>]| {
            let arm = |variant: &Option<String>| usize::from(variant.as_deref() == Some("control"));
            chi_square(one.iter().zip(other).map(|(one, other)| (arm(one), arm(other)))) < ONE_DEGREE
        };
        prop_assert!(independent(&of(Some(&salts[0]), 1), &of(Some(&salts[1]), 1)));
        prop_assert!(independent(&of(None, epochs[0]), &of(None, epochs[1])));
        prop_assert!(!independent(&of(None, 1), &of(None, 1)), "the test can fail");
    }

    #[test]
    fn the_variant_does_not_depend_on_the_partition_of_the_key(
        salt in "[a-z]{1,10}", prefix in "[a-z-]{0,6}", partitions in 2..25_usize, rendezvous: bool,
    ) {
        let table = alone(|it| {
            (it.traffic_ratio, it.salt, it.unit) = (1.0, Some(salt.clone()), "key".to_owned());
            it.assignment = if rendezvous { Method::Rendezvous } else { Method::Cumulative };
        });
        let none = Attributes::new();
        let pairs = (0..UNITS).map(|index| {
            let key = format!("{prefix}{index}");
            let request = Features { key: Some(&key), ..features("r", &none) };
            let (_, variant) = table.decide(&request, &mut ()).unwrap().variant.unwrap();
            // As Kafka's Java client and librdkafka's murmur2_random do.
            let partition = (murmur2(key.as_bytes()) & 0x7fff_ffff) as usize % partitions;
            (partition, usize::from(variant == "control"))
        });
        // Wilson and Hilferty (1931): the same one of ten million, for any number of degrees.
        let degrees = (partitions - 1) as f64;
        let spread = 2.0 / (9.0 * degrees);
        let above = degrees * (1.0 - spread + 5.2 * spread.sqrt()).powi(3);
        prop_assert!(chi_square(pairs) < above);
    }
}
