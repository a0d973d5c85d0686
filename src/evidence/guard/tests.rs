//! What guards promise, over simulated traffic with a look after every batch.

#![allow(clippy::disallowed_macros, reason = "a test prints")]

use fastrand::Rng;
use serde_json::json;

use super::*;
use crate::{evidence::VerdictSet, message::Record, routing::GuardSpec};

fn guard(change: serde_json::Value) -> GuardSpec {
    let mut spec = json!({"metric": "no_rate", "alpha": 0.01});
    let (Some(spec_fields), Some(changes)) = (spec.as_object_mut(), change.as_object()) else { panic!("no object") };
    spec_fields.extend(changes.clone());
    serde_json::from_value(spec).unwrap()
}

fn criteria(guards: &[GuardSpec]) -> GuardCriteria<'_> {
    GuardCriteria { guards, treatments: 1, review_until_ms: i64::MAX }
}

/// Traffic of two variants, one verdict at a time.
struct Traffic {
    chance: Rng,
    set: VerdictSet,
    number: u64,
    /// The treatment's share of the requests.
    share: f64,
    unit: &'static str,
}

impl Traffic {
    fn new(seed: u64, share: f64, unit: &'static str) -> Self {
        Self { chance: Rng::with_seed(seed), set: VerdictSet::default(), number: 0, share, unit }
    }

    /// A verdict on a picture or of a user, in milliseconds after the start.
    fn verdict(&mut self, variant: &str, who: u64, is_no: bool, latency_ms: f64) {
        self.verdict_with(variant, who, is_no, latency_ms, None);
    }

    fn verdict_with(&mut self, variant: &str, who: u64, is_no: bool, latency_ms: f64, shown: Option<f64>) {
        self.number += 1;
        let share = if variant == "control" { 1.0 - self.share } else { self.share };
        let time = jiff::Timestamp::from_millisecond(1_796_130_000_000 + self.number as i64).unwrap();
        let record = crate::evidence::tests::verdict(
            &self.number.to_string(),
            variant,
            if is_no { "no" } else { "yes" },
            |verdict| {
                verdict["timestamp"] = json!(format!("{time:.3}"));
                verdict["ab"]["propensity"] = json!(share);
                verdict["ab"]["unit"] = json!(self.unit);
                verdict["latency_ms"] = json!(latency_ms);
                verdict["review_probability"] = json!(shown);
                verdict["image_hash"] = json!(who.to_string());
                if self.unit != "request_id" {
                    verdict["ab"]["unit_hash"] = json!(format!("{variant}-{who}"));
                }
            },
        );
        self.set.add(&record);
    }

    /// A verdict whose answer comes from the cache.
    fn cached(&mut self, variant: &str, picture: u64) {
        self.number += 1;
        let record = crate::evidence::tests::verdict(&self.number.to_string(), variant, "yes", |verdict| {
            verdict["image_hash"] = json!(picture.to_string());
            verdict["cached"] = json!(true);
        });
        self.set.add(&record);
    }

    /// The verdict of a shadow on a picture that the live version calls `yes`.
    fn shadow(&mut self, picture: u64, live: &str, shadow: &str, label: &str) {
        self.number += 1;
        let record = crate::evidence::tests::verdict(&self.number.to_string(), "control", label, |verdict| {
            verdict["ab_role"] = json!("shadow");
            verdict["image_hash"] = json!(picture.to_string());
            verdict["model_version"] = json!(shadow);
            verdict["live"] = json!({
                "model_version": live, "result": "yes", "confidence": 0.9,
                "scores": {"yes": 0.9, "maybe": 0.1, "no": 0.0}, "decision": "approve", "agrees": label == "yes",
            });
        });
        self.set.add(&record);
    }

    fn dead_letter(&mut self, variant: &str) {
        self.number += 1;
        let headers = [
            ("ofa-error-request-id", format!("dead-{}", self.number)),
            ("ofa-error-experiment", "e".to_owned()),
            ("ofa-error-variant", variant.to_owned()),
            ("ofa-error-epoch", "1".to_owned()),
            ("ofa-error-definition", "d".to_owned()),
            ("ofa-error-unit", "request_id".to_owned()),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), Some(value.into_bytes())));
        let timestamp_ms = Some(1_796_130_000_000);
        self.set.add_letter(&Record { headers: headers.to_vec(), timestamp_ms, ..Record::default() });
    }

    fn variant(&mut self) -> &'static str {
        if self.chance.f64() < self.share { "treatment" } else { "control" }
    }

    fn judge(&self, guard: &GuardSpec) -> Judgement {
        self.judgements(guard).remove(0)
    }

    fn judgements(&self, guard: &GuardSpec) -> Vec<Judgement> {
        let sums = self.set.sums();
        let (key, _) = sums.experiments.first_key_value().unwrap();
        judge(key, sums, criteria(std::slice::from_ref(guard)))
    }

    fn is_harm(&self, guard: &GuardSpec) -> bool {
        self.judgements(guard).iter().any(|judgement| judgement.state == GuardState::Harm)
    }
}

/// At most this many alarms of so many null streams are chance: three standard deviations above α.
fn alarms_max(streams: usize, alpha: f64) -> usize {
    let n = streams as f64;
    (n * alpha + 3.0 * (n * alpha * (1.0 - alpha)).sqrt()) as usize
}

#[test]
fn equal_variants_with_repeated_pictures_raise_no_more_alarms_than_alpha() {
    const STREAMS: usize = 2_000;
    let guard = guard(json!({"alpha": 0.05, "min_events": 0}));
    let alarms = (0..STREAMS)
        .filter(|stream| {
            let mut traffic = Traffic::new(*stream as u64, 0.1, "request_id");
            let mut pictures: Vec<[bool; 2]> = Vec::new();
            (0..15).any(|_| {
                for _ in 0..40 {
                    // Each version has its own opinion on a picture, and keeps it when the picture
                    // comes again.
                    let is_new = pictures.is_empty() || traffic.chance.f64() > 0.3;
                    if is_new {
                        pictures.push([traffic.chance.f64() < 0.1, traffic.chance.f64() < 0.1]);
                    }
                    // The first pictures come again most often.
                    let among = if is_new { pictures.len() } else { pictures.len().min(5) };
                    let place = if is_new { among - 1 } else { traffic.chance.usize(0..among) };
                    let variant = traffic.variant();
                    let is_no = pictures[place][usize::from(variant == "treatment")];
                    traffic.verdict(variant, place as u64, is_no, 1.0);
                }
                traffic.is_harm(&guard)
            })
        })
        .count();
    println!("{alarms} of {STREAMS} null streams with 30 % repeated pictures");
    assert!(alarms <= alarms_max(STREAMS, 0.05), "{alarms}");
}

#[test]
fn equal_variants_with_heavy_users_raise_no_more_alarms_than_alpha() {
    const STREAMS: usize = 2_000;
    let guard = guard(json!({"alpha": 0.05, "min_events": 0}));
    let alarms = (0..STREAMS)
        .filter(|stream| {
            let mut traffic = Traffic::new(1_000 + *stream as u64, 0.5, "user_id");
            let mut user = 0;
            (0..15).any(|_| {
                for _ in 0..20 {
                    user += 1;
                    let variant = traffic.variant();
                    let rate = if traffic.chance.f64() < 0.2 { 0.9 } else { 0.02 };
                    let requests = if traffic.chance.f64() < 0.05 { 30 } else { 1 };
                    for _ in 0..requests {
                        let is_no = traffic.chance.f64() < rate;
                        traffic.verdict(variant, user, is_no, 1.0);
                    }
                }
                traffic.is_harm(&guard)
            })
        })
        .count();
    println!("{alarms} of {STREAMS} null streams with heavy users");
    assert!(alarms <= alarms_max(STREAMS, 0.05), "{alarms}");
}

#[test]
fn a_canary_whose_errors_rise_tenfold_is_found_within_the_published_number_of_requests() {
    let mut found: Vec<u64> = (0..300)
        .map(|stream| {
            let mut chance = Rng::with_seed(stream);
            let (mut counts, mut requests) = ([[0_u64; 2]; 2], 0_u64);
            loop {
                requests += 1;
                let arm = usize::from(chance.f64() < 0.1);
                counts[arm][1] += 1;
                let is_error = chance.f64() < [0.002, 0.02][arm];
                counts[arm][0] += u64::from(is_error);
                let is_harm = || judge_rates(counts, Some([0.9, 0.1]), 0.0, 0.01).state == GuardState::Harm;
                if requests >= 100_000 || (is_error && is_harm()) {
                    return requests;
                }
            }
        })
        .collect();
    found.sort_unstable();
    let median = found[found.len() / 2];
    println!("0.2 % to 2 % at a canary of 10 %: found after {median} requests (median), α = 0.01");
    assert!(median <= 5_700, "{median}");
}

#[test]
fn harm_beyond_the_margin_is_harm_and_harm_within_it_is_safe() {
    let of = |rates: [u64; 2], margin| {
        judge_rates([[rates[0], 20_000], [rates[1], 20_000]], Some([0.5, 0.5]), margin, 0.01).state
    };
    assert_eq!(of([1_000, 1_000], 0.01), GuardState::Safe);
    assert_eq!(of([1_000, 1_060], 0.02), GuardState::Safe);
    assert_eq!(of([1_000, 1_100], 0.01), GuardState::Undecided);
    assert_eq!(of([1_000, 1_600], 0.01), GuardState::Harm);
    assert_eq!(of([1_000, 600], 0.01), GuardState::Safe, "fewer events are no harm");
    assert_eq!(of([1_000, 600], 0.0), GuardState::Safe, "it is better, beyond doubt");
    assert_eq!(of([0, 0], 0.01), GuardState::Safe, "no event in 20,000 units bounds the rate");
    assert_eq!(of([0, 0], 0.0), GuardState::Undecided);
    let nothing = judge_rates([[0, 0], [0, 10]], Some([0.5, 0.5]), 0.01, 0.01).state;
    assert_eq!(nothing, GuardState::NoData);
}

#[test]
fn a_guard_waits_for_events_and_time_before_it_calls_harm() {
    let mut traffic = Traffic::new(5, 0.5, "request_id");
    for number in 0..600 {
        let variant = traffic.variant();
        traffic.verdict(variant, number, variant == "treatment", 1.0);
    }
    let state = |change| traffic.judge(&guard(change)).state;
    assert_eq!(state(json!({})), GuardState::Harm);
    assert_eq!(state(json!({"min_events": 1_000})), GuardState::Undecided);
    assert_eq!(state(json!({"initial_delay_ms": 100})), GuardState::Harm);
    assert_eq!(state(json!({"initial_delay_ms": 10_000})), GuardState::Undecided);
    assert_eq!(state(json!({"control": "treatment"})), GuardState::Safe);
    let judged = traffic.judge(&guard(json!({})));
    assert!(judged.in_words().starts_with("no_rate: treatment has "), "{}", judged.in_words());
    assert_eq!(judged.clone().blinded().state, GuardState::Harm);
    assert_eq!(Judgement { state: GuardState::Safe, ..judged }.blinded().state, GuardState::Blind);
}

#[test]
fn dead_letters_and_slow_answers_belong_to_their_variant() {
    let mut traffic = Traffic::new(6, 0.5, "request_id");
    for number in 0..2_000 {
        let variant = traffic.variant();
        if variant == "treatment" && number % 20 == 0 {
            traffic.dead_letter(variant);
        } else {
            let is_slow = variant == "treatment" && number % 10 == 0;
            traffic.verdict(variant, number, false, if is_slow { 900.0 } else { 20.0 });
        }
    }
    let letters = traffic.judge(&guard(json!({"metric": "dead_letter_rate"})));
    assert_eq!((letters.state, letters.events[0]), (GuardState::Harm, 0), "{letters:?}");
    let slow = traffic.judge(&guard(json!({"metric": "latency_over_ms", "limit_ms": 800})));
    assert_eq!((slow.state, slow.events[0]), (GuardState::Harm, 0), "{slow:?}");
    let none = traffic.judge(&guard(json!({"metric": "latency_over_ms", "limit_ms": 2_000})));
    assert_eq!((none.state, none.events), (GuardState::Undecided, [0, 0]));
    assert_eq!(traffic.judge(&guard(json!({}))).events, [0, 0]);
}

#[test]
fn alpha_is_divided_over_the_guards_that_can_pause() {
    let mut traffic = Traffic::new(7, 0.5, "request_id");
    for number in 0..50 {
        let variant = traffic.variant();
        traffic.verdict(variant, number, false, 1.0);
    }
    let sums = traffic.set.sums();
    let (key, _) = sums.experiments.first_key_value().unwrap();
    let guards = [
        guard(json!({})),
        guard(json!({"metric": "review_rate", "dry_run": true})),
        guard(json!({"metric": "dead_letter_rate", "action": "warn"})),
        guard(json!({"metric": "sample_ratio"})),
    ];
    let alphas: Vec<f64> = judge(key, sums, criteria(&guards)).iter().map(|judged| judged.alpha).collect();
    let third = 0.01 / 3.0;
    assert_eq!(alphas, [third, third, 0.01, third]);
}

#[test]
fn a_treatment_that_answers_nothing_at_all_is_harm() {
    let mut traffic = Traffic::new(8, 0.1, "request_id");
    for number in 0..600 {
        match traffic.variant() {
            "control" => traffic.verdict("control", number, false, 1.0),
            treatment => traffic.dead_letter(treatment),
        }
    }
    let letters = traffic.judge(&guard(json!({"metric": "dead_letter_rate"})));
    assert_eq!(letters.state, GuardState::Harm, "{letters:?}");
    let ratio = traffic.judge(&guard(json!({"metric": "sample_ratio"})));
    // The sample ratio is slow to judge so few units; before, it saw nothing at all.
    assert!(ratio.units[1] == 0 && ratio.ln_e_value > 1.0, "{ratio:?}");
    assert!(ratio.in_words().contains("settings divide them otherwise"), "{}", ratio.in_words());
}

#[test]
fn a_treatment_that_people_contradict_more_often_is_harm() {
    let of = |wrong_of_hundred: [u64; 2], reviews: u64| {
        let mut traffic = Traffic::new(9, 0.5, "request_id");
        for number in 0..reviews {
            let arm = (number % 2) as usize;
            traffic.verdict_with(["control", "treatment"][arm], number, true, 1.0, Some(0.5));
            let is_wrong = number * 7_919 / 2 % 100 < wrong_of_hundred[arm];
            let review = json!({
                "request_id": traffic.number.to_string(), "label": if is_wrong { "yes" } else { "no" },
                "reviewer": "ann", "reviewed_at": "2026-12-01T08:00:00Z",
            });
            traffic.set.add_answer(review.to_string().as_bytes());
        }
        traffic.judge(&guard(json!({"metric": "misjudged_rate", "margin": 0.03})))
    };
    let harm = of([5, 20], 4_000);
    assert_eq!((harm.state, harm.units), (GuardState::Harm, [2_000, 2_000]), "{harm:?}");
    assert!(harm.ln_e_value > harm.ln_e_value_needed, "{harm:?}");
    assert_eq!(of([5, 5], 20_000).state, GuardState::Safe);
    assert_eq!(of([5, 20], 60).state, GuardState::Undecided, "too few for a normal approximation");
}

#[test]
fn a_shadow_that_labels_too_many_pictures_differently_is_harm() {
    let of = |different_of_hundred: u64, pairs: u64| {
        let mut traffic = Traffic::new(10, 0.5, "request_id");
        traffic.verdict("control", 1_000_000, false, 1.0);
        traffic.verdict("treatment", 1_000_001, false, 1.0);
        for number in 0..pairs {
            let label = if number * 7_919 % 100 < different_of_hundred { "no" } else { "yes" };
            traffic.shadow(number, "ofa_base", "ofa_small", label);
        }
        traffic.judge(&guard(json!({"metric": "disagreement", "margin": 0.1})))
    };
    let harm = of(20, 1_000);
    assert_eq!((harm.state, harm.events[1], harm.units[1]), (GuardState::Harm, 200, 1_000), "{harm:?}");
    assert!(harm.in_words().contains("label 200 of 1000 pictures differently"), "{}", harm.in_words());
    assert_eq!(of(5, 1_000).state, GuardState::Safe);
    assert_eq!(of(11, 1_000).state, GuardState::Undecided);
    assert_eq!(of(0, 0).state, GuardState::NoData);
}

#[test]
fn a_warm_cache_of_one_variant_is_no_harm_of_the_other() {
    let mut traffic = Traffic::new(11, 0.5, "request_id");
    for number in 0..30_000_u64 {
        let variant = traffic.variant();
        let latency = if traffic.chance.f64() < 0.05 { 900.0 } else { 20.0 };
        // A third of the control's answers come from the cache, and are not measured.
        if variant == "control" && traffic.chance.f64() < 0.33 {
            traffic.cached(variant, number);
        } else {
            traffic.verdict(variant, number, false, latency);
        }
    }
    let slow = traffic.judge(&guard(json!({"metric": "latency_over_ms", "limit_ms": 800})));
    assert_eq!(slow.state, GuardState::Undecided, "{slow:?}");
}
