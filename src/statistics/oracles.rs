//! The statistics against numbers that other packages give, and that papers print.
//!
//! `testdata/vectors/statistics/`: each entry names its source, its conventions and its tolerance.

use serde_json::Value;

use super::{
    Band, Difference, Histogram, Moments, UnitSums, Welch,
    agreement::{self, Kappa, Scale, Weighting},
    bayes,
    bounded::{Betting, EmpiricalBernstein},
    edges, mixture, multiplicity, paired, proportion, quantile, sample_ratio,
    special::{chi_squared_quantile, chi_squared_survival},
    strata::{self, Common, Table},
    weighting::{self, Stratum, Weighted},
};

fn file(name: &str) -> Value {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/vectors/statistics/");
    serde_json::from_str(&std::fs::read_to_string(format!("{folder}{name}")).unwrap()).unwrap()
}

fn first() -> Value {
    file("stats_oracles.json")
}

/// The cases of an entry of the second file.
fn cases(name: &str) -> Vec<Value> {
    let all = file("stats_oracles_2.json");
    let entry = all["entries"].as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap();
    let cases = entry["cases"].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn number(value: &Value) -> f64 {
    match value {
        Value::String(text) if text == "inf" => f64::INFINITY,
        value => value.as_f64().unwrap_or_else(|| panic!("no number: {value}")),
    }
}

fn count(value: &Value) -> u64 {
    number(value) as u64
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(number).collect()
}

fn counts(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(count).collect()
}

/// Compares with a relative tolerance; an absolute one of 1e-12 besides.
fn close_to(what: &str, got: f64, right: f64, tolerance: f64) {
    let is_close = (got - right).abs() <= tolerance * right.abs() + 1e-12 || got == right;
    assert!(is_close, "{what}: {got}, not {right}");
}

fn close(what: &str, got: f64, right: &Value) {
    close_to(what, got, number(right), 1e-9);
}

fn all_close(what: &str, got: &[f64], right: &Value) {
    let right = numbers(right);
    assert_eq!(got.len(), right.len(), "{what}");
    got.iter().zip(right).for_each(|(got, right)| close_to(what, *got, right, 1e-9));
}

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
fn shares_and_their_differences() {
    let tables = first()["proportion_difference"]["cases"].as_array().unwrap().clone();
    let others = cases("newcombe");
    let of = |case: &Value| ["x1", "n1", "x2", "n2"].map(|name| count(&case[name]));
    for case in &tables {
        let [x1, n1, x2, n2] = of(case);
        all_close("Newcombe", &proportion::newcombe(x1, n1, x2, n2, 0.95), &case["newcomb"]);
        all_close("Wald", &proportion::wald(x1, n1, x2, n2, 0.95), &case["wald"]);
        let agresti_caffo = proportion::agresti_caffo(x1, n1, x2, n2, 0.95);
        all_close("Agresti & Caffo", &agresti_caffo, &case["agresti-caffo"]);
        all_close("Wilson", &proportion::wilson(x1, n1, 0.95), &case["wilson1"]);
    }
    for case in &others {
        let ([x1, n1, x2, n2], level) = (of(&case["input"]), number(&case["input"]["level"]));
        let expected = &case["expected"];
        all_close("Wilson", &proportion::wilson(x1, n1, level), &expected["wilson_1"]);
        all_close("Wilson", &proportion::wilson(x2, n2, level), &expected["wilson_2"]);
        all_close("Newcombe", &proportion::newcombe(x1, n1, x2, n2, level), &expected["newcombe"]);
        let ratio = proportion::ratio_katz(x1, n1, x2, n2, level);
        match &expected["ratio_log"] {
            ends if ends[0].is_null() => assert_eq!(ratio, None),
            right => all_close("Katz", &ratio.unwrap(), right),
        }
    }
    // Not those of statsmodels: see the function.
    for ([x1, n1, x2, n2], right) in [([56, 70, 48, 80], [0.0528, 0.3382]), ([9, 10, 3, 10], [0.1700, 0.8406])] {
        let score = proportion::miettinen_nurminen(x1, n1, x2, n2, 0.95);
        score.iter().zip(right).for_each(|(got, right)| assert!((got - right).abs() < 5e-5, "{score:?}"));
    }
    for case in cases("clopper_pearson") {
        let (input, expected) = (&case["input"], &case["expected"]);
        let (errors, n, level) = (count(&input["errors"]), count(&input["n"]), number(&input["level"]));
        let [lower, upper] = proportion::clopper_pearson_bounds(errors, n, level);
        close("lower", lower, &expected["one_sided_lower"]);
        close("upper", upper, &expected["one_sided_upper"]);
        let both = proportion::clopper_pearson(errors, n, level);
        all_close("both", &both, &expected["two_sided"]);
    }
}

#[test]
fn sample_ratios() {
    for case in first()["srm_chi2"]["cases"].as_array().unwrap() {
        let test = sample_ratio::chi_squared(&counts(&case["observed"]), &numbers(&case["weights"]));
        close("χ²", test.statistic, &case["chi2"]);
        close("df", test.df, &case["df"]);
        close("p", test.p_value, &case["p"]);
    }
    for case in first()["srm_sequential"]["cases"].as_array().unwrap() {
        let (theta, k) = (numbers(&case["theta"]), number(&case["concentration"]));
        let mut sums = vec![0; theta.len()];
        for (at, look) in case["counts"].as_array().unwrap().iter().enumerate() {
            sums.iter_mut().zip(counts(look)).for_each(|(sum, count)| *sum += count);
            let ln_e = match &case["alpha0"] {
                Value::Null => sample_ratio::ln_e_value(&sums, &theta, k),
                prior => sample_ratio::ln_e_value_of_prior(&sums, &theta, &numbers(prior)),
            };
            let right = match &case["steps"] {
                Value::Null => number(&case["published_logM1"][at]) - number(&case["published_logM0"][at]),
                steps => number(&steps[at]["log_e"]),
            };
            assert!((ln_e - right).abs() < 1e-8, "{ln_e} {right}");
        }
    }
    for case in cases("srm_sequential_2") {
        let (theta, expected) = (numbers(&case["input"]["theta"]), &case["expected"]);
        for (at, look) in case["input"]["looks"].as_array().unwrap().iter().enumerate() {
            let look = counts(look);
            for k in [10, 100, 1000, 10_000] {
                let right = number(&expected[format!("log_e_k={k}")][at]);
                assert!((sample_ratio::ln_e_value(&look, &theta, f64::from(k)) - right).abs() < 1e-8);
            }
            let right = number(&expected["log_mean_e_10_100_1000"][at]);
            assert!((sample_ratio::ln_mean_e_value(&look, &theta) - right).abs() < 1e-8);
        }
    }
}

#[test]
fn disagreements_of_pairs() {
    for case in first()["mcnemar"]["cases"].as_array().unwrap() {
        let (b, c) = (count(&case["b"]), count(&case["c"]));
        close("exact", paired::exact_p_value(b, c), &case["exact_p"]);
        if case["chi2"].is_null() {
            continue;
        }
        let (statistic, p) = paired::chi_squared(b, c, false);
        close("χ²", statistic, &case["chi2"]);
        close("p", p, &case["chi2_p"]);
        close("corrected", paired::chi_squared(b, c, true).1, &case["chi2_cc_p"]);
        close("mid-p", paired::mid_p_value(b, c), &case["mid_p"]);
        close("ln e", paired::ln_e_value(b, c, 0.5), &case["e_beta_half_log"]);
        close("ln e", paired::ln_e_value(b, c, 1.0), &case["e_uniform_log"]);
    }
    for case in cases("mcnemar_sequential") {
        let expected = &case["expected"];
        let looks = case["input"]["looks_b_c"].as_array().unwrap();
        for (name, a) in [("a=0.5", 0.5), ("a=1", 1.0), ("a=10", 10.0)] {
            for (at, look) in looks.iter().enumerate() {
                let [b, c] = counts(look)[..] else { panic!("{look}") };
                let near = |got: f64, right: &Value| {
                    let right = number(right);
                    assert!((got - right).abs() < 1e-9 + 1e-9 * right.abs(), "{name} {got} {right}");
                };
                near(paired::ln_e_value(b, c, a), &expected[name]["log_e"][at]);
                let one_sided = paired::ln_e_value_one_sided(b, c, a);
                near(one_sided, &expected[name]["log_e_one_sided_b_more"][at]);
            }
        }
        let [b, c] = counts(looks.last().unwrap())[..] else { panic!("{looks:?}") };
        close("exact", paired::exact_p_value(b, c), &expected["exact_p_last"]);
        close("mid-p", paired::mid_p_value(b, c), &expected["mid_p_last"]);
    }
}

#[test]
fn several_questions() {
    let published = &first()["multiple_comparisons"];
    let p = numbers(&published["pvals"]);
    all_close("Bonferroni", &multiplicity::bonferroni(&p), &published["bonferroni"]["adjusted"]);
    all_close("Holm", &multiplicity::holm(&p), &published["holm"]["adjusted"]);
    all_close("BH", &multiplicity::benjamini_hochberg(&p), &published["fdr_bh"]["adjusted"]);
    all_close("BY", &multiplicity::benjamini_yekutieli(&p), &published["fdr_by"]["adjusted"]);
    for name in ["e_BH", "e_BH2"] {
        let case = &published[name];
        let mask = multiplicity::e_benjamini_hochberg(&numbers(&case["evalues"]), number(&case["alpha"]));
        assert_eq!(mask.iter().filter(|is_rejected| **is_rejected).count() as u64, count(&case["rejects"]));
    }
    for case in cases("holm_bh") {
        let (p, expected) = (numbers(&case["input"]["p"]), &case["expected"]);
        all_close("Holm", &multiplicity::holm(&p), &expected["holm_adjusted"]);
        all_close("BH", &multiplicity::benjamini_hochberg(&p), &expected["bh_adjusted"]);
        all_close("BY", &multiplicity::benjamini_yekutieli(&p), &expected["by_adjusted"]);
        all_close("Hochberg", &multiplicity::hochberg(&p), &expected["hochberg_adjusted"]);
    }
    for case in cases("e_bh") {
        let (e, expected) = (numbers(&case["input"]["e"]), &case["expected"]);
        for (name, right) in expected.as_object().unwrap() {
            let Ok(alpha) = name.parse() else { continue };
            let mask = multiplicity::e_benjamini_hochberg(&e, alpha);
            assert_eq!(serde_json::json!(mask), right["mask"], "{alpha}");
        }
        let p: Vec<f64> = e.iter().map(|e| multiplicity::p_of_e(*e)).collect();
        all_close("p of e", &p, &expected["p_of_e"]);
    }
    for case in cases("p_to_e_calibrators") {
        let p = numbers(&case["input"]["p"]);
        let of = |calibrator: fn(f64) -> f64| p.iter().map(|p| calibrator(*p)).collect::<Vec<_>>();
        let average = of(multiplicity::e_of_p_average);
        all_close("average", &average, &case["expected"]["average_calibrator"]);
        let half = of(multiplicity::e_of_p_half);
        all_close("half", &half, &case["expected"]["half_calibrator"]);
    }
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
fn agreement_beyond_chance() {
    let weightings = [("none", Weighting::None), ("linear", Weighting::Linear), ("quadratic", Weighting::Quadratic)];
    for case in cases("cohen_kappa") {
        let table: Vec<Vec<f64>> = case["input"]["table"].as_array().unwrap().iter().map(numbers).collect();
        for (name, weighting) in weightings {
            let expected = &case["expected"][name];
            let Some(kappa) = Kappa::of(&table, weighting) else {
                assert!(expected["kappa"].is_null(), "{case}");
                continue;
            };
            close("κ", kappa.kappa, &expected["kappa"]);
            // The formula cancels: of statsmodels the last digits differ by weighting too.
            close_to("se", kappa.standard_error, number(&expected["se"]), 1e-8);
            close("se of chance", kappa.standard_error_of_chance, &expected["se_under_null"]);
            kappa.interval(0.95).iter().zip(numbers(&expected["ci95"])).for_each(|(got, right)| {
                assert!((got - right).abs() < 1e-9, "{got} {right}");
            });
        }
    }
    for case in cases("cohen_kappa_inverse_probability") {
        let input = &case["input"];
        let mut table = vec![vec![0.0; 3]; 3];
        let pairs = counts(&input["first"]).into_iter().zip(counts(&input["second"]));
        pairs.zip(numbers(&input["weight"])).for_each(|((first, second), weight)| {
            table[first as usize][second as usize] += weight;
        });
        for (name, weighting) in weightings {
            close(name, Kappa::of(&table, weighting).unwrap().kappa, &case["expected"][name]);
        }
    }
    for case in cases("fleiss_kappa") {
        let table: Vec<Vec<u64>> = case["input"]["counts"].as_array().unwrap().iter().map(counts).collect();
        match agreement::fleiss(&table) {
            None => assert!(case["expected"]["kappa"].is_null()),
            Some([kappa, randolph]) => {
                close("κ", kappa, &case["expected"]["kappa"]);
                close("Randolph", randolph, &case["expected"]["randolph"]);
            }
        }
    }
    for case in cases("krippendorff_alpha") {
        let raters = case["input"]["rater_by_unit"].as_array().unwrap();
        let given: Vec<f64> = raters.iter().flat_map(|row| row.as_array().unwrap()).filter_map(Value::as_f64).collect();
        let mut values = given.clone();
        values.sort_by(f64::total_cmp);
        values.dedup();
        let index = |value: f64| values.iter().position(|known| *known == value).unwrap();
        let units = raters[0].as_array().unwrap().len();
        let of_unit = |unit: usize| raters.iter().filter_map(|row| row[unit].as_f64()).map(index).collect();
        let ratings: Vec<Vec<usize>> = (0..units).map(of_unit).collect();
        let scales = [("nominal", Scale::Nominal), ("ordinal", Scale::Ordinal), ("interval", Scale::Interval)];
        for (name, scale) in scales {
            let alpha = agreement::krippendorff(&ratings, &values, scale).unwrap();
            close(name, alpha, &case["expected"][name]);
        }
    }
}

#[test]
fn labels_of_a_sample() {
    for case in cases("horvitz_thompson_hajek") {
        let (input, expected) = (&case["input"], &case["expected"]);
        let labels = numbers(&input["label"]);
        let shown = numbers(&input["shown_with_probability"]);
        let weighted = Weighted::of(labels.into_iter().zip(shown));
        let population = number(&input["population"]);
        close("total", weighted.total(), &expected["ht_total"]);
        close("mean", weighted.total() / population, &expected["ht_mean"]);
        close("se", weighted.total_standard_error() / population, &expected["ht_se_poisson"]);
        close("rate", weighted.rate(), &expected["hajek_mean"]);
        close("size", weighted.estimated_size(), &expected["estimated_size"]);
        let process = weighted.standard_error();
        close("se", process, &expected["hajek_se_with_replacement_hc0"]);
        close("se of the log", weighted.standard_error_of_log(), &expected["hajek_se_poisson"]);
        close("plain", weighted.plain_rate(), &expected["naive_mean"]);
        close("ess", weighted.effective_size(), &expected["effective_sample_size_kish"]);
    }
    for case in cases("stratified_mean") {
        let of = |value: &Value| Stratum { population: number(&value["population"]), labels: numbers(&value["label"]) };
        let strata: Vec<Stratum> = case["input"]["strata"].as_array().unwrap().iter().map(of).collect();
        let (mean, process, log) = weighting::stratified_mean(&strata);
        close("mean", mean, &case["expected"]["mean"]);
        close("se", process, &case["expected"]["se_without_fpc"]);
        close("se of the log", log, &case["expected"]["se_fpc"]);
    }
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
fn several_strata() {
    for case in cases("mantel_haenszel_and_simpson") {
        let of = |value: &Value| {
            let row = |at: usize| <[f64; 2]>::try_from(numbers(&value[at])).unwrap();
            Table { treatment: row(0), control: row(1) }
        };
        let tables: Vec<Table> = case["input"]["tables"].as_array().unwrap().iter().map(of).collect();
        let (common, expected) = (Common::of(&tables).unwrap(), &case["expected"]);
        close("difference", common.difference, &expected["mh_risk_difference"]);
        close("se", common.standard_error, &expected["risk_difference_se_sato"]);
        close("pooled", common.pooled, &expected["pooled_risk_difference"]);
        close("CMH", common.cmh[0], &expected["cmh_statistic"]);
        close("p", common.cmh[1], &expected["cmh_p"]);
        let corrected = strata::cmh_corrected(&tables);
        close("corrected", corrected[0], &expected["cmh_corrected_statistic"]);
        close("odds", common.ratios[0], &expected["mh_odds_ratio"]);
        close("risk", common.ratios[1], &expected["mh_risk_ratio"]);
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
            assert_eq!(super::rank_of(q, values.len() as u64), count(&right["rank"]));
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

#[test]
fn the_tail_of_chi_squared_is_exact_where_it_is_small() {
    close_to("tail", chi_squared_survival(185.226_551_563_229_12, 1.0), 3.502_192_273_048_579e-42, 1e-9);
}
