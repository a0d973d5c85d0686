//! What a test promises holds over simulated streams, with a look after every batch.

#![allow(clippy::disallowed_macros, reason = "a test prints")]

use fastrand::Rng;

use super::{Difference, Moments, UnitSums, mixture, plan::planned_variance, sample_ratio};

const STREAMS: usize = 2_000;
const ALPHA: f64 = 0.05;

/// More alarms than this are no chance: three standard deviations above α.
fn alarms_max() -> usize {
    let n = STREAMS as f64;
    (n * ALPHA + 3.0 * (n * ALPHA * (1.0 - ALPHA)).sqrt()) as usize
}

fn ln_e(difference: Difference, smallest: f64) -> f64 {
    let g = mixture::planned_g(ALPHA) * planned_variance(smallest, ALPHA) / difference.variance;
    mixture::ln_e_value(difference.estimate, difference.variance, g)
}

#[test]
fn looks_after_every_batch_give_no_more_false_alarms_than_alpha() {
    let mut chance = Rng::with_seed(11);
    let mut alarms = 0;
    let mut alarms_of_one_look_each = 0;
    for _ in 0..STREAMS {
        let (mut n, mut events) = ([0_u64; 2], [0_u64; 2]);
        let (mut is_alarmed, mut is_alarmed_naively) = (false, false);
        for _ in 0..100 {
            for _ in 0..100 {
                let arm = usize::from(chance.bool());
                n[arm] += 1;
                events[arm] += u64::from(chance.f64() < 0.1);
            }
            let [control, treatment] = [0, 1].map(|arm| Moments::of_share(events[arm], n[arm]));
            let difference = Difference::of(control, treatment);
            is_alarmed |= ln_e(difference, 0.02) >= -ALPHA.ln();
            is_alarmed_naively |= difference.estimate.abs() > 1.96 * difference.standard_error();
        }
        alarms += usize::from(is_alarmed);
        alarms_of_one_look_each += usize::from(is_alarmed_naively);
    }
    println!("{alarms} of {STREAMS} null streams; a test for one look gives {alarms_of_one_look_each}");
    assert!(alarms <= alarms_max(), "{alarms} false alarms");
    assert!(alarms_of_one_look_each > 5 * alarms_max(), "the streams are too tame to show anything");
}

/// Users with many requests, whose answers are alike, and pictures that come again.
#[test]
fn heavy_users_give_no_more_false_alarms_than_alpha() {
    let mut chance = Rng::with_seed(12);
    let mut alarms = 0;
    for _ in 0..STREAMS {
        let mut arms = [UnitSums::default(); 2];
        let mut is_alarmed = false;
        for batch in 0..40 {
            for _ in 0..50 {
                let requests = if chance.f64() < 0.05 { 40.0 } else { 1.0 + chance.u32(0..4) as f64 };
                let rate = if chance.f64() < 0.3 { 0.8 } else { 0.05 };
                let bad = (0..requests as usize).filter(|_| chance.f64() < rate).count() as f64;
                arms[usize::from(chance.bool())].add(bad, requests);
            }
            // The normal approximation needs some users.
            if batch >= 4 {
                let [control, treatment] = &arms;
                let difference = Difference {
                    estimate: treatment.ratio() - control.ratio(),
                    variance: control.variance() + treatment.variance(),
                };
                is_alarmed |= ln_e(difference, 0.05) >= -ALPHA.ln();
            }
        }
        alarms += usize::from(is_alarmed);
    }
    println!("{alarms} of {STREAMS} null streams of heavy users");
    assert!(alarms <= alarms_max(), "{alarms} false alarms");
}

/// Requests until a rise of the treatment's event rate is seen, at α = 0.01.
fn detected_after(chance: &mut Rng, shares: [f64; 2], rates: [f64; 2], requests_max: u64) -> Option<u64> {
    let mut events = [0_u64; 2];
    for request in 1..=requests_max {
        let arm = usize::from(chance.f64() < shares[1]);
        if chance.f64() < rates[arm] {
            events[arm] += 1;
            if sample_ratio::ln_mean_e_value(&events, &shares) >= 100_f64.ln() {
                return Some(request);
            }
        }
    }
    None
}

#[test]
fn errors_of_a_canary_are_seen_within_the_published_number_of_requests() {
    let mut chance = Rng::with_seed(13);
    let shares = [0.9, 0.1];
    let mut harm: Vec<u64> =
        (0..500).map(|_| detected_after(&mut chance, shares, [0.002, 0.02], 100_000).unwrap_or(100_000)).collect();
    harm.sort_unstable();
    let median = harm[harm.len() / 2];
    println!("0.2 % to 2 % at a canary of 10 %: seen after {median} requests (median)");
    assert!(median <= 5_700, "{median}");

    let alarms = (0..STREAMS).filter(|_| detected_after(&mut chance, shares, [0.01, 0.01], 20_000).is_some()).count();
    println!("{alarms} of {STREAMS} null streams at α = 0.01");
    assert!(alarms <= STREAMS / 100 + 14, "{alarms} false alarms");
}
