//! What labels by people promise.

use serde_json::json;

use super::verdict;
use crate::evidence::{Criteria, Metric, Status, Summary, VerdictSet};

/// Verdicts with answers of people: the variants say `no` equally often, and are wrong differently
/// often. Of what they do not decide by themselves people see all, of the rest a twentieth.
fn reviewed_traffic(set: &mut VerdictSet, wrong_of_thousand: [u32; 2]) {
    let mut chance = fastrand::Rng::with_seed(51);
    for number in 0..40_000 {
        let arm = number % 2;
        let variant = ["control", "treatment"][arm];
        let is_no = chance.u32(0..10) < 3;
        // What is unsure is wrong more often. The treatment is unsure more often, and not wrong
        // more often for that.
        let is_unsure = chance.u32(0..10) < [1, 4][arm];
        let is_wrong = chance.u32(0..1_000) < wrong_of_thousand[arm] * if is_unsure { 2 } else { 1 };
        let shown = if is_unsure { 1.0 } else { 0.05 };
        let id = format!("{variant}-{number}");
        set.add(&verdict(&id, variant, if is_no { "no" } else { "yes" }, |verdict| {
            verdict["review_probability"] = json!(shown);
        }));
        if chance.f64() < shown {
            let label = if is_no == is_wrong { "yes" } else { "no" };
            let review = json!({
                "request_id": id, "label": label, "reviewer": "ann", "reviewed_at": "2026-12-01T08:00:00Z",
            });
            set.add_answer(review.to_string().as_bytes());
        }
    }
}

#[test]
fn labels_by_people_weigh_by_the_probability_of_being_shown() {
    let mut set = VerdictSet::default();
    reviewed_traffic(&mut set, [100, 100]);
    let summary = Summary::of(set.sums(), Criteria::default(), None);
    let metrics = &summary.experiments[0].comparisons[0].metrics;
    let misjudged = metrics.iter().find(|compared| compared.metric == Metric::Misjudged).unwrap();
    // 10 % of what is sure and 20 % of what is not: 11 % and 14 % of all verdicts. Unweighted it
    // would be 16 and 19 %.
    assert!((misjudged.control.unwrap() - 0.11).abs() < 0.02, "{misjudged:?}");
    assert!((misjudged.treatment.unwrap() - 0.14).abs() < 0.02, "{misjudged:?}");
    let [low, high] = misjudged.interval.unwrap();
    assert!(low < 0.03 && 0.03 < high, "{misjudged:?}");
    let no = metrics.iter().find(|compared| compared.metric == Metric::MisjudgedNo).unwrap();
    assert!((no.control.unwrap() - 0.11).abs() < 0.04, "{no:?}");
    assert_eq!((summary.reviews.unmatched, summary.reviews.agreement), (0, None));

    let mut set = VerdictSet::default();
    reviewed_traffic(&mut set, [50, 300]);
    let summary = Summary::of(set.sums(), Criteria::default(), None);
    let comparison = &summary.experiments[0].comparisons[0];
    let misjudged = comparison.metrics.iter().find(|compared| compared.metric == Metric::Misjudged).unwrap();
    assert_eq!(misjudged.status, Status::Harm, "{misjudged:?}");
}

#[test]
fn an_answer_may_come_before_its_verdict_and_the_last_of_a_person_stands() {
    let review = |reviewer: &str, label: &str, hour: u32| {
        json!({
            "request_id": "control-1", "label": label, "reviewer": reviewer,
            "reviewed_at": format!("2026-12-01T{hour:02}:00:00Z"),
        })
        .to_string()
        .into_bytes()
    };
    let verdict = verdict("control-1", "control", "no", |_| ());
    let answers = [review("ann", "yes", 8), review("ben", "no", 9), review("ann", "no", 10)];
    let of = |early: usize| {
        let mut set = VerdictSet::default();
        answers[..early].iter().for_each(|answer| set.add_answer(answer));
        set.add(&verdict);
        answers[early..].iter().rev().for_each(|answer| set.add_answer(answer));
        set.add_answer(&answers[0]);
        set.add_answer(b"no review");
        set.sums().clone()
    };
    let right = of(0);
    (1..=3).for_each(|early| assert_eq!(of(early).experiments, right.experiments, "{early}"));
    let reviews = right.reviews;
    assert_eq!((reviews.answers, reviews.records, reviews.requests), (2, 4, 1));
    assert_eq!((reviews.matched, reviews.unreadable), (1, 1));
    assert_eq!(reviews.agreement(), None, "all labels are equal now");
}

#[test]
fn reviews_of_young_verdicts_wait() {
    let mut set = VerdictSet::default();
    for number in 0..400 {
        let (hour, variant) = (number / 100, ["control", "treatment"][number % 2]);
        let id = format!("{variant}-{number}");
        set.add(&verdict(&id, variant, "no", |verdict| {
            verdict["timestamp"] = json!(format!("2026-11-30T{:02}:30:00.000Z", hour + 8));
            verdict["review_probability"] = json!(1.0);
        }));
        // Of the last hour people have answered the easy ones only, and those are right.
        let label = if hour < 3 && number % 10 < 3 { "yes" } else { "no" };
        let review = json!({
            "request_id": id, "label": label, "reviewer": "ann", "reviewed_at": "2026-12-01T08:00:00Z",
        });
        set.add_answer(review.to_string().as_bytes());
    }
    // In hours of the day.
    let rate = |until_hour: Option<i64>| {
        let day_ms = 1_795_996_800_000_i64;
        let review_until_ms = until_hour.map(|hour| day_ms + hour * 3_600_000);
        let criteria = Criteria { review_until_ms, ..Criteria::default() };
        let metrics = Summary::of(set.sums(), criteria, None).experiments[0].comparisons[0].metrics.clone();
        metrics.iter().find(|compared| compared.metric == Metric::Misjudged).unwrap().control
    };
    let rounded = |rate: Option<f64>| (rate.unwrap() * 1_000.0).round();
    assert_eq!(rounded(rate(None)), 300.0);
    assert_eq!(rounded(rate(Some(11))), 400.0, "the last hour is too young");
    assert_eq!(rate(Some(2)), None);
}
