//! Means, rates and quantiles with their intervals.

use serde_json::Value;

use super::{all_close, cases, close, close_to, count, counts, first, number, numbers};
use crate::statistics::{
    Band, Difference, Histogram, Moments, UnitSums, Welch, bayes,
    bounded::{Betting, EmpiricalBernstein},
    edges, mixture, quantile, rank_of,
    special::chi_squared_quantile,
};

#[test]
fn normal_mixtures() {
    let oracles = first();
    for (alpha, right) in oracles["g_at_planned_information"].as_object().unwrap() {
        let alpha: f64 = alpha.parse().unwrap();
        close("exact g", mixture::planned_g(alpha), &right["exact_lambert"]);
        close("approximate g", mixture::planned_g_approximate(alpha), &right["approx"]);
    }
    let arm = |value: &Value| {
        let [mean, variance, n] = numbers(value)[..] else { panic!("{value}") };
        Moments { n, mean, variance }
    };
    for case in oracles["normal_mixture_cs"]["cases"].as_array().unwrap() {
        let (a, b) = (arm(&case["a"]), arm(&case["b"]));
        let difference = match case["relative"].as_bool().unwrap() {
            true => Difference::relative(a, b).unwrap(),
            false => Difference::of(a, b),
        };
        let alpha = number(&case["alpha"]);
        let g = (a.n + b.n) * mixture::planned_g_approximate(alpha) / number(&case["n_star"]);
        close("estimate", difference.estimate, &case["estimate"]);
        close("variance", difference.variance, &case["variance_of_estimate"]);
        close("g", g, &case["g"]);
        let half = mixture::half_width(difference.variance, g, alpha);
        close("half width", half, &case["halfwidth"]);
        let ln_e = mixture::ln_e_value(difference.estimate, difference.variance, g);
        close_to("e-value", ln_e, number(&case["evalue"]).ln(), 1e-9);
    }
    let case = &oracles["one_sided_cs"];
    let (a, b, alpha) = (arm(&case["a"]), arm(&case["b"]), number(&case["alpha"]));
    let difference = Difference::of(a, b);
    let g = (a.n + b.n) * mixture::planned_g_approximate(2.0 * alpha) / number(&case["n_star"]);
    let half = mixture::half_width_one_sided(difference.variance, g, alpha);
    close_to("lower", difference.estimate - half, number(&case["lower_bound"]), 1e-9);
    close_to("upper", difference.estimate + half, number(&case["upper_bound"]), 1e-9);
    for (level, right) in oracles["delayed_start"]["Psi_inv"].as_object().unwrap() {
        close(level, chi_squared_quantile(level.parse().unwrap(), 3.0), right);
    }
}

#[test]
fn asymptotic_confidence_sequences() {
    for case in cases("asymptotic_cs") {
        let (alpha, planned) = (number(&case["input"]["alpha"]), number(&case["input"]["tuned_for_t"]));
        let rho = |g: f64| g / planned;
        let expected = &case["expected"];
        let [approximate, exact] = [mixture::planned_g_approximate(alpha), mixture::planned_g(alpha)].map(rho);
        close("rho²", approximate, &expected["rho2_approx"]);
        close("rho²", exact, &expected["rho2_exact"]);
        for (rho, rows) in [(approximate, "with_rho2_approx"), (exact, "with_rho2_exact")] {
            for row in expected[rows].as_array().unwrap() {
                let t = count(&row["t"]);
                let formula = match alpha {
                    0.05 => |i: u64| ((i * 37 + 11) % 100) as f64 / 100.0 - 0.45,
                    _ => |i: u64| ((i * i * 7 + i) % 53) as f64 / 53.0,
                };
                let x: Vec<f64> = (0..t).map(formula).collect();
                let moments = Moments::of(&x);
                let (v, g) = (moments.variance_of_mean(), t as f64 * rho);
                close("mean", moments.mean, &row["mean"]);
                close("two-sided", mixture::half_width(v, g, alpha), &row["halfwidth_ddof1"]);
                let one_sided = mixture::half_width_one_sided(v, g, alpha);
                close("one-sided", one_sided, &row["halfwidth_one_sided_ddof1"]);
                let ln_e = mixture::ln_e_value(moments.mean, v, g);
                close("evidence", ln_e, &row["log_e_for_mean_0_ddof1"]);
            }
        }
    }
    for case in cases("msprt_normal") {
        let input = &case["input"];
        let (sigma, tau) = (number(&input["sigma"]), number(&input["tau"]));
        let (mut sum, mut running) = (0.0, 1.0_f64);
        for (at, x) in numbers(&input["x"]).iter().enumerate() {
            sum += x - number(&input["theta0"]);
            let n = (at + 1) as f64;
            let v = sigma * sigma / n;
            let ln_e = mixture::ln_e_value(sum / n, v, tau * tau / v);
            close("ln Λ", ln_e, &case["expected"]["log_lambda"][at]);
            running = running.min((-ln_e).exp());
            close("p", running, &case["expected"]["running_p"][at]);
        }
    }
}

#[test]
fn tests_of_welch() {
    for case in cases("welch") {
        let input = &case["input"];
        let [a, b] = ["a", "b"].map(|arm| Moments::of(&numbers(&input[arm])));
        let (test, expected) = (Welch::of(a, b).unwrap(), &case["expected"]);
        close("difference", test.difference, &expected["difference_b_minus_a"]);
        close("t", test.t, &expected["t"]);
        close("df", test.df, &expected["df"]);
        close("p", test.p_value, &expected["p_two_sided"]);
        all_close("interval", &test.interval(0.95), &expected["ci95"]);
    }
    let case = &first()["welch"][0];
    let arm = |value: &Value| {
        let [sum, squares, n] = numbers(value)[..] else { panic!("{value}") };
        Moments::of_sums(n as u64, sum, squares)
    };
    let test = Welch::of(arm(&case["a(sum,sumsq,n)"]), arm(&case["b"])).unwrap();
    close("df", test.df, &case["df"]);
    close("p", test.p_value, &case["p"]);
    all_close("interval", &test.interval(0.95), &case["ci95"]);
}

#[test]
fn bayes_gives_the_published_probabilities() {
    for case in first()["beta_binomial_prob_better"]["cases"].as_array().unwrap() {
        let arm = |name: &str| <[u64; 2]>::try_from(counts(&case[name])).unwrap();
        let probability = bayes::probability_larger(arm("a"), arm("b"));
        close_to("P(b > a)", probability, number(&case["P(b>a)"]), 1e-8);
    }
    let difference = Difference { estimate: 0.3, variance: 0.04 };
    close_to("P", bayes::probability_positive(difference), 0.933_192_798_731_141_9, 1e-12);
    // 0.2 φ(1.5) - 0.3 Φ(-1.5).
    close_to("loss", bayes::expected_loss(difference), 0.005_861_358_752_520_9, 1e-9);
}

#[test]
fn rates_over_units() {
    for case in cases("ratio_delta_method") {
        let input = &case["input"];
        let pairs = numbers(&input["bad_by_unit"]).into_iter().zip(numbers(&input["events_by_unit"]));
        let (sums, expected) = (UnitSums::of(pairs), &case["expected"]);
        close("ratio", sums.ratio(), &expected["ratio"]);
        close("se", sums.variance().sqrt(), &expected["se_delta"]);
        close("cluster", sums.variance_uncorrected().sqrt(), &expected["se_cluster_uncorrected"]);
        close("events", sums.effective_events(), &expected["effective_events"]);
    }
    for case in cases("cluster_robust_difference") {
        let input = &case["input"];
        let (y, arms) = (numbers(&input["y"]), counts(&input["arm"]));
        let units = counts(&input["unit"]);
        let arm = |wanted: u64| {
            let mut by_unit = std::collections::BTreeMap::<u64, (f64, f64)>::new();
            for ((y, _), unit) in y.iter().zip(&arms).zip(&units).filter(|((_, arm), _)| **arm == wanted) {
                let sums = by_unit.entry(*unit).or_default();
                *sums = (sums.0 + y, sums.1 + 1.0);
            }
            UnitSums::of(by_unit.into_values())
        };
        let (control, treatment, expected) = (arm(0), arm(1), &case["expected"]);
        close("difference", treatment.ratio() - control.ratio(), &expected["difference"]);
        let delta = (control.variance() + treatment.variance()).sqrt();
        close("se", delta, &expected["se_delta_per_arm"]);
        let plain = (control.variance_uncorrected() + treatment.variance_uncorrected()).sqrt();
        close("uncorrected", plain, &expected["se_cluster_uncorrected"]);
    }
}

#[test]
fn means_of_bounded_values() {
    for case in cases("empirical_bernstein_cs") {
        let input = &case["input"];
        let mut interval = EmpiricalBernstein::new(number(&input["alpha"]));
        let times = counts(&case["expected"]["t"]);
        for (at, x) in numbers(&input["x"]).into_iter().enumerate() {
            interval.add(x);
            let Some(row) = times.iter().position(|t| *t == at as u64 + 1) else { continue };
            let [lower, upper] = interval.interval();
            close("lower", lower, &case["expected"]["lower"][row]);
            close("upper", upper, &case["expected"]["upper"][row]);
        }
    }
    for case in cases("betting_cs") {
        let input = &case["input"];
        let mut interval = Betting::new(number(&input["alpha"]));
        let times = counts(&case["expected"]["t"]);
        for (at, x) in numbers(&input["x"]).into_iter().enumerate() {
            interval.add(x);
            let Some(row) = times.iter().position(|t| *t == at as u64 + 1) else { continue };
            let [lower, upper] = interval.interval();
            for (got, name) in [(lower, "lower"), (upper, "upper")] {
                let right = number(&case["expected"][name][row]);
                assert!((got - right).abs() < 1e-9, "{name} {got} {right}");
            }
            for (m, right) in case["expected"]["log_capital_at"].as_object().unwrap() {
                let [up, down] = interval.ln_capital(m.parse().unwrap());
                close("up", up, &right["up"][row]);
                close("down", down, &right["down"][row]);
            }
        }
    }
}

#[test]
fn quantiles() {
    for case in first()["quantile_order_stat_ci"]["cases"].as_array().unwrap() {
        let (n, p) = (count(&case["n"]), number(&case["p"]));
        let ranks = quantile::fixed(n, p, 0.05);
        assert_eq!(ranks.lower, Some(count(&case["lower_rank"])));
        let exists = case["upper_exists"].as_bool().unwrap();
        assert_eq!(ranks.upper, exists.then(|| count(&case["upper_rank"])));
    }
    for case in cases("sequential_quantile_band") {
        let input = &case["input"];
        let (alpha, t_min) = (number(&input["alpha"]), number(&input["t_min"]));
        let band = Band::new(alpha, t_min);
        close_to("C", band.constant(), number(&case["expected"]["C"]), 1e-6);
        let rank = |value: &Value| value.as_u64();
        for look in case["expected"]["looks"].as_array().unwrap() {
            let t = count(&look["t"]);
            close_to("band", band.half_width(t as f64), number(&look["lil_band"]), 1e-6);
            for (p, right) in look["lil_ranks"].as_object().unwrap() {
                let ranks = band.ranks(t, p.parse().unwrap());
                assert_eq!(ranks.lower, rank(&right["lower_rank"]), "{look}");
                assert_eq!(ranks.upper, rank(&right["upper_rank"]), "{look}");
            }
            for (p, right) in look["fixed_p_beta_binomial"].as_object().unwrap() {
                let ranks = quantile::at_any_time(t, p.parse().unwrap(), alpha, t_min);
                assert_eq!(ranks.lower, rank(&right["lower_rank"]), "{p} {right}");
                assert_eq!(ranks.upper, rank(&right["upper_rank"]), "{p} {right}");
            }
        }
    }
}

#[test]
fn histograms() {
    for case in cases("log_histogram_quantiles") {
        let values: Vec<u64> = match &case["input"]["x"] {
            Value::Null => (0..1000_u64)
                .map(|i| {
                    let steps = if i % 37 == 5 { 400_000 } else { 0 };
                    let jumps = if i % 301 == 7 { 3_000_000 } else { 0 };
                    20_000 + (i * 7919 + 13) % 90_001 + steps + jumps
                })
                .collect(),
            given => counts(given),
        };
        let mut histogram = Histogram::default();
        values.iter().for_each(|value| histogram.add(*value));
        let expected = &case["expected"]["growth_1.01"];
        let bins: serde_json::Map<String, Value> =
            histogram.bins().map(|(bin, count)| (bin.to_string(), count.into())).collect();
        assert_eq!(bins.len() as u64, count(&expected["occupied_bins"]));
        assert!(expected["bins"].is_null() || Value::Object(bins) == expected["bins"], "{}", case["name"]);
        for (q, right) in expected["quantiles"].as_object().unwrap() {
            let q: f64 = q.parse().unwrap();
            assert_eq!(rank_of(q, values.len() as u64), count(&right["rank"]));
            let bin = histogram.quantile_bin(q).unwrap();
            assert_eq!(u64::from(bin), count(&right["bin"]));
            close("lower edge", edges(bin)[0], &right["bin_lower"]);
            close("upper edge", edges(bin)[1], &right["bin_upper"]);
            let ranks = quantile::fixed(values.len() as u64, q, 0.05);
            for (end, right) in ranks.within(&histogram).iter().zip(right["interval_from_bins"].as_array().unwrap()) {
                match end {
                    None => assert!(right.is_null()),
                    Some(end) => close("interval", *end, right),
                }
            }
        }
    }
}
