//! What evidence promises.

use proptest::prelude::*;
use serde_json::{Value, json};

mod reviews;

use super::{Criteria, Language, Metric, Status, Summary, VerdictSet, sentence};

/// A verdict of an experiment, as the topic holds it.
pub(crate) fn verdict(id: &str, variant: &str, label: &str, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let version = if variant == "control" { "ofa_base" } else { "ofa_small" };
    let mut verdict = json!({
        "request_id": id, "timestamp": "2026-11-30T12:00:00.000Z", "result": label, "confidence": 0.9,
        "scores": {"yes": 0.05, "maybe": 0.05, "no": 0.9}, "decision": "reject",
        "is_manual_review": false, "model_version": version, "model_digest": "sha256:0",
        "backend": "flex", "precision": "f32", "ab_experiment": "e", "ab_variant": variant,
        "ab_role": "live", "route": {"reason": "experiment", "rule": null, "config_digest": "sha256:1"},
        "ab": {
            "definition": "d", "unit": "request_id", "scheme": "m3v1", "epoch": 1,
            "propensity": 0.5, "layer": "default",
        },
        "image_hash": id, "text_preview": "", "text_length": 1, "image_width": 1, "image_height": 1,
        "latency_ms": 2.0, "timings_ms": {"fetch": 0.0, "decode": 0.0, "queue": 0.0, "inference": 1.0},
    });
    change(&mut verdict);
    verdict.to_string().into_bytes()
}

fn verdicts(records: &[Vec<u8>]) -> VerdictSet {
    let mut set = VerdictSet::default();
    records.iter().for_each(|record| set.add(record));
    set
}

fn summary(records: &[Vec<u8>]) -> Summary {
    Summary::of(verdicts(records).sums(), Criteria::default(), None)
}

/// Verdicts of two arms, of which so many per thousand say no.
fn traffic(per_arm: usize, no_of_thousand: [usize; 2]) -> Vec<Vec<u8>> {
    let arm = |variant: &'static str, no: usize| {
        (0..per_arm).map(move |number| {
            let label = if number * 7919 % 1000 < no { "no" } else { "yes" };
            verdict(&format!("{variant}-{number}"), variant, label, |verdict| {
                verdict["latency_ms"] = json!(2.0 + (number % 10) as f64 / 10.0);
                verdict["confidence"] = json!(0.8 + (number % 7) as f64 / 50.0);
                let is_review = number % 20 == 0;
                verdict["decision"] = json!(if is_review { "review" } else { "approve" });
            })
        })
    };
    arm("control", no_of_thousand[0]).chain(arm("treatment", no_of_thousand[1])).collect()
}

#[test]
fn a_treatment_that_says_no_more_often_is_harm_and_one_that_is_alike_is_safe() {
    let worse = summary(&traffic(20_000, [50, 100]));
    let experiment = &worse.experiments[0];
    let no = &experiment.comparisons[0].metrics[1];
    assert_eq!((no.metric, no.status), (Metric::NoShare, Status::Harm));
    assert!((no.difference.unwrap() - 0.05).abs() < 1e-9, "{no:?}");
    let said = sentence(experiment, &experiment.comparisons[0], Criteria::default(), Language::English);
    assert!(said.starts_with("Keep control: treatment says no more often, by 5.0 points"), "{said}");
    let said = sentence(experiment, &experiment.comparisons[0], Criteria::default(), Language::Chinese);
    assert!(said.starts_with("保留 control：treatment “否”类比例高 5.0 个百分点"), "{said}");

    let alike = summary(&traffic(20_000, [50, 50]));
    let metrics = &alike.experiments[0].comparisons[0].metrics;
    assert!(metrics.iter().all(|compared| compared.status == Status::Safe), "{metrics:?}");

    let few = summary(&traffic(200, [50, 50]));
    let no = &few.experiments[0].comparisons[0].metrics[1];
    assert!(no.status == Status::Undecided && no.information.unwrap() < 0.2, "{no:?}");
    assert!(summary(&traffic(3, [0, 0])).experiments[0].comparisons[0].metrics[0].interval.is_none());
}

#[test]
fn a_variant_that_loses_requests_is_never_compared() {
    let mut records = traffic(5_000, [50, 50]);
    records.truncate(9_000);
    let summary = summary(&records);
    let experiment = &summary.experiments[0];
    assert!(!experiment.sample_ratio.is_healthy, "{experiment:?}");
    let said = sentence(experiment, &experiment.comparisons[0], Criteria::default(), Language::English);
    assert!(said.starts_with("Do not compare"), "{said}");
}

#[test]
fn verdicts_of_another_definition_testers_and_promoted_traffic_are_not_mixed_in() {
    let mut records = traffic(100, [50, 50]);
    let before = summary(&records).experiments[0].clone();
    records.push(verdict("tester", "treatment", "no", |verdict| verdict["ab"]["forced"] = json!(true)));
    records.push(verdict("promoted", "treatment", "no", |verdict| {
        (verdict["ab"], verdict["ab_experiment"], verdict["ab_variant"]) = (json!(null), json!(null), json!(null));
        verdict["route"]["reason"] = json!("promoted");
    }));
    records.push(verdict("other", "treatment", "no", |verdict| verdict["ab"]["definition"] = json!("d2")));
    records.push(b"no verdict".to_vec());
    records.push(verdict("late", "treatment", "no", |verdict| verdict["latency_ms"] = json!(1e300)));
    records.push(verdict("sure", "treatment", "no", |verdict| verdict["confidence"] = json!(1.5)));
    let after = summary(&records);
    assert_eq!(after.experiments.len(), 2);
    assert!(after.experiments.contains(&before), "{after:?}");
    let excluded = after.excluded;
    assert_eq!((excluded.forced, excluded.outside, excluded.unreadable), (1, 1, 3));
}

#[test]
fn repeated_pictures_and_heavy_users_widen_the_interval() {
    let width = |change: &dyn Fn(usize, &mut Value)| {
        let records: Vec<Vec<u8>> = (0..4_000)
            .map(|number| {
                let variant = if number % 2 == 0 { "control" } else { "treatment" };
                let label = if (number / 2) / 20 % 5 == 0 { "no" } else { "yes" };
                verdict(&number.to_string(), variant, label, |verdict| change(number, verdict))
            })
            .collect();
        let [low, high] = summary(&records).experiments[0].comparisons[0].metrics[1].interval.unwrap();
        high - low
    };
    let alone = width(&|_, _| ());
    let pictures = width(&|number, verdict| verdict["image_hash"] = json!((number / 2 / 20).to_string()));
    let users = width(&|number, verdict| {
        verdict["ab"]["unit"] = json!("user_id");
        verdict["ab"]["unit_hash"] = json!(format!("{}-{}", number % 2, number / 2 / 20));
    });
    assert!(pictures > 3.0 * alone && users > 3.0 * alone, "{alone} {pictures} {users}");
}

#[test]
fn kept_answers_are_no_observation_of_latency() {
    let mut records = traffic(100, [50, 50]);
    let latency = |records: &[Vec<u8>]| summary(records).experiments[0].comparisons[0].metrics[3].clone();
    let before = latency(&records);
    for number in 0..50 {
        records.push(verdict(&format!("kept-{number}"), "treatment", "yes", |verdict| {
            verdict["cached"] = json!(true);
            verdict["latency_ms"] = json!(0.01);
        }));
    }
    assert_eq!(latency(&records), before);
}

#[test]
fn shadows_give_agreement_and_no_live_verdict() {
    let shadow = |id: usize, live: &str, shadow: &str| {
        verdict(&id.to_string(), "control", shadow, |verdict| {
            verdict["ab_role"] = json!("shadow");
            verdict["image_hash"] = json!((id % 60).to_string());
            verdict["model_version"] = json!("ofa_large");
            verdict["live"] = json!({
                "model_version": "ofa_base", "result": live, "confidence": 0.9,
                "scores": {"yes": 0.9, "maybe": 0.1, "no": 0.0}, "decision": "approve", "agrees": live == shadow,
            });
        })
    };
    // The last ones are of pictures that were judged before.
    let records: Vec<Vec<u8>> = (0..90)
        .map(|id| match id % 60 {
            0..40 => shadow(id, "yes", "yes"),
            40..58 => shadow(id, "yes", "no"),
            _ => shadow(id, "no", "yes"),
        })
        .collect();
    let summary = summary(&records);
    let paired = &summary.paired[0];
    assert!(summary.experiments.is_empty());
    assert_eq!((paired.pairs, paired.only_shadow_no, paired.only_live_no), (60, 18, 2));
    assert!((paired.agreement.unwrap() - 2.0 / 3.0).abs() < 1e-12 && paired.p_value < 0.01, "{paired:?}");
}

#[test]
fn pairs_that_are_missing_are_counted_with_those_of_cached_answers() {
    let live = |id: usize, is_cached: bool| {
        verdict(&format!("r-{id}"), "control", "yes", |verdict| {
            verdict["shadows"] = json!(["ofa_large"]);
            verdict["cached"] = json!(is_cached);
        })
    };
    let shadow = |id: usize| {
        verdict(&format!("r-{id}"), "control", "yes", |verdict| {
            verdict["ab_role"] = json!("shadow");
            verdict["model_version"] = json!("ofa_large");
            verdict["live"] = json!({
                "model_version": "ofa_base", "result": "yes", "confidence": 0.9,
                "scores": {"yes": 0.9, "maybe": 0.1, "no": 0.0}, "decision": "approve", "agrees": true,
            });
        })
    };
    // Of ten requests three were cached, two found no time on the device, and one came twice.
    let mut records: Vec<Vec<u8>> = (0..10).map(|id| live(id, id < 3)).collect();
    records.push(live(5, false));
    records.extend((5..10).map(shadow));
    records.push(shadow(6));
    let paired = summary(&records).paired[0].clone();
    assert_eq!((paired.pairs, paired.missing, paired.missing_cached), (5, 5, 3), "{paired:?}");
    records.reverse();
    assert_eq!(summary(&records).paired[0], paired);
}

#[test]
fn a_request_that_two_versions_judged_live_counts_its_pair_once_in_any_order() {
    let live = |version: &str, second: u32| {
        verdict("r", "control", "yes", |verdict| {
            verdict["shadows"] = json!(["v"]);
            verdict["model_version"] = json!(version);
            verdict["timestamp"] = json!(format!("2026-11-30T12:00:{second:02}.000Z"));
        })
    };
    let shadow = |live: &str, second: u32| {
        verdict("r", "control", "yes", |verdict| {
            verdict["ab_role"] = json!("shadow");
            verdict["model_version"] = json!("v");
            verdict["timestamp"] = json!(format!("2026-11-30T12:00:{second:02}.000Z"));
            verdict["live"] = json!({
                "model_version": live, "result": "yes", "confidence": 0.9,
                "scores": {"yes": 0.9, "maybe": 0.1, "no": 0.0}, "decision": "approve", "agrees": true,
            });
        })
    };
    // Judged again after the live version had changed.
    let records = [live("A", 0), live("B", 10), shadow("A", 1), shadow("B", 11)];
    let right = summary(&records).paired;
    assert_eq!(right.iter().map(|paired| paired.missing).sum::<u64>(), 0, "{right:?}");
    let mut chance = fastrand::Rng::with_seed(3);
    for _ in 0..24 {
        let mut shuffled = records.clone();
        chance.shuffle(&mut shuffled);
        assert_eq!(summary(&shuffled).paired, right);
    }
}

#[test]
fn a_metric_that_never_varies_holds_nothing_up() {
    let records: Vec<Vec<u8>> = traffic(20_000, [50, 50])
        .iter()
        .map(|record| {
            let mut verdict: Value = serde_json::from_slice(record).unwrap();
            verdict["decision"] = json!("approve");
            verdict.to_string().into_bytes()
        })
        .collect();
    let summary = summary(&records);
    let experiment = &summary.experiments[0];
    assert_eq!(experiment.comparisons[0].metrics[2].status, Status::NoData);
    let said = sentence(experiment, &experiment.comparisons[0], Criteria::default(), Language::English);
    assert!(said.starts_with("treatment is as good as control"), "{said}");
}

#[test]
fn a_control_that_is_not_there_is_never_replaced_by_another() {
    let set = verdicts(&traffic(20, [50, 50]));
    let of = |control| Summary::of(set.sums(), Criteria::default(), control).experiments;
    assert_eq!(of(Some("treatment"))[0].control, "treatment");
    assert_eq!(of(Some("contorl")), []);
}

#[test]
fn two_units_of_one_definition_are_two_questions_and_a_unit_that_is_not_named_is_excluded() {
    let mut records = traffic(50, [50, 50]);
    for number in 0..20 {
        records.push(verdict(&format!("user-{number}"), "control", "no", |verdict| {
            verdict["ab"]["unit"] = json!("user_id");
            if number < 15 {
                verdict["ab"]["unit_hash"] = json!(number.to_string());
            }
        }));
    }
    let first = summary(&records);
    assert_eq!((first.experiments.len(), first.excluded.unit_unknown), (2, 5));
    records.reverse();
    assert_eq!(summary(&records), first);
}

/// Verdicts over two days, 100 in an hour, of regions that say no with different frequency.
fn regional_traffic(hours: usize) -> Vec<Vec<u8>> {
    let mut chance = fastrand::Rng::with_seed(77);
    (0..hours * 100)
        .map(|number| {
            let arm = chance.usize(0..2);
            let region = ["cn", "eu"][chance.usize(0..2)];
            let rate = if region == "cn" { 0.02 } else { 0.9 } + [0.0, 0.01][arm];
            let label = if chance.f64() < rate { "no" } else { "yes" };
            verdict(&number.to_string(), ["control", "treatment"][arm], label, |verdict| {
                let (day, hour) = (number / 2_400, number / 100 % 24);
                verdict["timestamp"] = json!(format!("2026-11-{:02}T{hour:02}:{:02}:00.000Z", day + 1, number % 60));
                verdict["segments"] = json!({"region": region});
            })
        })
        .collect()
}

#[test]
fn adjustment_for_a_segment_takes_its_variance_away() {
    let summary = summary(&regional_traffic(40));
    let comparison = &summary.experiments[0].comparisons[0];
    let adjusted = comparison.adjusted.iter().find(|adjusted| adjusted.metric == Metric::NoShare).unwrap();
    assert_eq!(adjusted.segment, "region");
    assert!(adjusted.variance_ratio < 0.35, "{adjusted:?}");
    let [low, high] = adjusted.interval;
    assert!(low < 0.01 && 0.01 < high, "{adjusted:?}");
    let [wide_low, wide_high] = comparison.metrics[1].interval.unwrap();
    assert!(high - low < 0.7 * (wide_high - wide_low), "{adjusted:?}");
}

#[test]
fn units_with_two_values_of_a_segment_are_not_adjusted_for_it() {
    let mut records = regional_traffic(10);
    for number in 0..2 {
        records.push(verdict(&format!("moved-{number}"), "control", "no", |verdict| {
            verdict["image_hash"] = json!("one picture");
            let region = ["cn", "eu"][number];
            verdict["segments"] = json!({"region": region});
        }));
    }
    assert_eq!(summary(&records).experiments[0].comparisons[0].adjusted, []);
}

#[test]
fn the_planned_size_comes_sooner_with_more_traffic() {
    let of = |hours: usize| {
        let summary = summary(&regional_traffic(hours));
        let experiment = summary.experiments[0].clone();
        let no = experiment.comparisons[0].metrics[1].clone();
        (experiment.verdicts_per_day.unwrap(), no.information.unwrap(), no.days_left.unwrap(), summary)
    };
    let (per_day, information, days, summary) = of(48);
    assert!((per_day / 2_400.0 - 1.0).abs() < 0.02, "{per_day}");
    // 4,800 verdicts gave this part of the information: the rest comes at 2,400 a day.
    let right = 2.0 * (1.0 - information) / information;
    assert!((days / right - 1.0).abs() < 0.02, "{days} {right}");
    let said = sentence(
        &summary.experiments[0],
        &summary.experiments[0].comparisons[0],
        Criteria::default(),
        Language::English,
    );
    assert!(said.contains("days to the planned size at today's traffic"), "{said}");

    let (per_day, _, shorter, _) = of(12);
    assert!((per_day / 2_400.0 - 1.0).abs() < 0.1 && shorter > days, "{per_day} {shorter}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The same bits in any order, with any record twice.
    #[test]
    fn order_and_duplicates_change_nothing(seed in any::<u64>(), again in 0_usize..200) {
        let mut records = traffic(120, [100, 200]);
        let alone = summary(&records).experiments;
        // A verdict that was judged again later, by another answer. Only the time of the last
        // record changes.
        records.push(verdict("control-3", "treatment", "no", |verdict| {
            verdict["timestamp"] = json!("2026-11-30T12:00:01.000Z");
        }));
        let right = summary(&records).experiments;
        prop_assert_eq!(&right[0].comparisons, &alone[0].comparisons);
        let right = serde_json::to_value(right).unwrap();
        records.extend_from_within(again..again + 30);
        fastrand::Rng::with_seed(seed).shuffle(&mut records);
        let whole = verdicts(&records);
        prop_assert_eq!(whole.sums().excluded.duplicates, 31);
        let got = Summary::of(whole.sums(), Criteria::default(), None);
        prop_assert!(serde_json::to_value(got.experiments).unwrap() == right);
    }
}
