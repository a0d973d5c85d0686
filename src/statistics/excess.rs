//! Whether a treatment has events more often than the control, at any time and without a normal
//! approximation: for errors and other rare events.
//!
//! Where both arms have events equally often, the arm of an event is a draw from the arms' shares
//! (Lindon & Malek, NeurIPS 2022, arXiv:2011.03567). Evidence for an excess is a mixture of
//! likelihood ratios over larger shares of the treatment; smaller ones take no part, so the test is
//! one-sided (Robbins 1970; Ramdas et al. 2020, section 5).

use super::{
    sample_ratio::CONCENTRATIONS,
    special::{beta_survival, first_true, ln_beta},
};

/// ln of the evidence that an event belongs to the treatment with a probability above `share`. It
/// exceeds ln(1/α) with a probability of at most α, at any time, where the probability is `share`
/// or less. `events` are of control and treatment.
pub fn ln_e_value(events: [u64; 2], share: f64) -> f64 {
    let [control, treatment] = events.map(|events| events as f64);
    let each = CONCENTRATIONS.map(|k| {
        let (a, b) = (k * share, k * (1.0 - share));
        let (after_a, after_b) = (a + treatment, b + control);
        // The part of each distribution that lies above the share.
        let before = beta_survival(share, a, b).ln();
        let after = beta_survival(share, after_a, after_b).max(f64::MIN_POSITIVE).ln();
        let whole = ln_beta(after_a, after_b) - ln_beta(a, b);
        whole + after - before - treatment * share.ln() - control * (1.0 - share).ln()
    });
    let highest = each.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mean = each.iter().map(|ln| (ln - highest).exp()).sum::<f64>() / each.len() as f64;
    let ln_mean = highest + mean.ln();
    // Where the treatment has fewer events than its share, no larger share fits better, so there is no
    // evidence. Far below, the part above the share underflows, and the sum would be wrong.
    if treatment <= share * (treatment + control) { ln_mean.min(0.0) } else { ln_mean }
}

/// ln of the evidence that the treatment's rate exceeds the control's by more than `margin`, for
/// rates that do not drift. It exceeds ln(1/α) with a probability of at most α, at any time, where
/// the rate does not. `counts` are events and units of control and treatment.
///
/// It is the smallest product of both arms' evidence over all pairs of rates that the margin
/// allows; the product for the true pair is an e-value (Ramdas et al. 2020, universal inference).
pub fn ln_e_value_beyond(counts: [[u64; 2]; 2], margin: f64) -> f64 {
    let [control, treatment] = counts;
    let rate = |[events, units]: [u64; 2]| events as f64 / units.max(1) as f64;
    if rate(treatment) - rate(control) <= margin {
        return 0.0;
    }

    // The pair that fits best lies on the margin, where the sum is convex in the control's rate.
    let evidence =
        |of_control: f64| ln_e_value_of_rate(control, of_control) + ln_e_value_of_rate(treatment, of_control + margin);
    let (mut low, mut high) = (rate(control), (rate(treatment) - margin).max(rate(control)));
    for _ in 0..200 {
        let third = (high - low) / 3.0;
        if evidence(low + third) <= evidence(high - third) {
            high -= third;
        } else {
            low += third;
        }
    }
    evidence(0.5 * (low + high))
}

/// ln of the evidence against a rate: the mixture of all others over it, with a prior of Beta(½,
/// ½).
pub fn ln_e_value_of_rate([events, units]: [u64; 2], rate: f64) -> f64 {
    let (events, others) = (events as f64, units.saturating_sub(events) as f64);
    let ln_power = |base: f64, power: f64| if power == 0.0 { 0.0 } else { power * base.ln() };
    let mixture = ln_beta(0.5 + events, 0.5 + others) - ln_beta(0.5, 0.5);
    mixture - ln_power(rate, events) - ln_power(1.0 - rate, others)
}

/// The interval of a rate that holds at any time: rates against which the mixture of all others,
/// with a prior of Beta(½, ½), has less evidence than 1/α (Robbins 1970; Howard et al. 2021,
/// section 3.4).
pub fn rate_interval(events: u64, of: u64, alpha: f64) -> [f64; 2] {
    if of == 0 {
        return [0.0, 1.0];
    }
    let is_ruled_out = |rate: f64| ln_e_value_of_rate([events, of], rate) >= -alpha.ln();

    let observed = events as f64 / of as f64;
    let lower = if is_ruled_out(0.0) { first_true(0.0, observed, |rate| !is_ruled_out(rate)) } else { 0.0 };
    let upper = if is_ruled_out(1.0) { first_true(observed, 1.0, is_ruled_out) } else { 1.0 };
    [lower, upper]
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    #[test]
    fn an_excess_of_the_treatment_is_evidence_and_a_lack_is_none() {
        assert!(ln_e_value([20, 20], 0.5) < 0.5);
        assert!(ln_e_value([5, 40], 0.5) > 8.0);
        assert!(ln_e_value([40, 5], 0.5) < 0.0, "fewer events are no harm");
        assert!(ln_e_value([0, 0], 0.1).abs() < 1e-9, "nothing was seen");
        for fewer in [[9_000, 3], [90_000, 100], [1_000_000, 0], [1_000_000, 3]] {
            assert!(ln_e_value(fewer, 0.1) <= 0.0, "{fewer:?}: a treatment that is far better is no harm");
        }
        for events in [[1_000_000, 3], [3, 1_000_000], [900_000, 100_000]] {
            assert!(ln_e_value(events, 0.1).is_finite(), "{events:?}");
        }
    }

    #[test]
    fn the_evidence_is_a_mean_of_likelihood_ratios() {
        // Without events its mean is one, for every share: the sum over both outcomes of one event.
        for share in [0.1, 0.5, 0.8] {
            let of = |events| ln_e_value(events, share).exp();
            let mean = share * of([0, 1]) + (1.0 - share) * of([1, 0]);
            assert!((mean - 1.0).abs() < 1e-9, "{share}: {mean}");
        }
    }

    #[test]
    fn null_streams_raise_no_more_false_alarms_than_alpha() {
        let mut chance = Rng::with_seed(21);
        // At the bound, and below it.
        for truth in [0.1, 0.06] {
            let alarms = (0..2_000)
                .filter(|_| {
                    let mut events = [0_u64; 2];
                    (0..400).any(|_| {
                        events[usize::from(chance.f64() < truth)] += 1;
                        ln_e_value(events, 0.1) >= 20_f64.ln()
                    })
                })
                .count();
            assert!(alarms <= 129, "{alarms} of 2,000 at α = 0.05, with a share of {truth}");
        }
    }

    #[test]
    fn a_rate_within_the_margin_raises_no_more_false_alarms_than_alpha() {
        let mut chance = Rng::with_seed(23);
        let alarms = (0..500)
            .filter(|_| {
                let mut counts = [[0_u64; 2]; 2];
                (0..40).any(|_| {
                    for _ in 0..20 {
                        let arm = usize::from(chance.bool());
                        counts[arm][1] += 1;
                        counts[arm][0] += u64::from(chance.f64() < [0.05, 0.10][arm]);
                    }
                    ln_e_value_beyond(counts, 0.05) >= 20_f64.ln()
                })
            })
            .count();
        assert!(alarms <= 39, "{alarms} of 500 at the margin, α = 0.05");

        assert!(ln_e_value_beyond([[0, 300], [90, 90]], 0.05) > 50.0, "a control without events is no excuse");
        assert!(ln_e_value_beyond([[90, 90], [0, 300]], 0.05) == 0.0);
        assert!(ln_e_value_beyond([[0, 0], [5, 5]], 0.1) < 20.0_f64.ln(), "nothing is known of the control");
    }

    #[test]
    fn the_interval_of_a_rate_holds_it_whenever_one_looks() {
        let mut chance = Rng::with_seed(22);
        let misses = (0..1_000)
            .filter(|_| {
                let mut events = 0;
                (1..=300).any(|of| {
                    events += u64::from(chance.f64() < 0.03);
                    let [low, high] = rate_interval(events, of, 0.05);
                    !(low..=high).contains(&0.03)
                })
            })
            .count();
        assert!(misses <= 71, "{misses} of 1,000");

        assert_eq!(rate_interval(0, 0, 0.05), [0.0, 1.0]);
        let [low, high] = rate_interval(0, 1_000, 0.05);
        assert!(low == 0.0 && high < 0.01, "{low} {high}");
        let [low, high] = rate_interval(1_000, 1_000, 0.05);
        assert!(low > 0.99 && high == 1.0, "{low} {high}");
    }
}
