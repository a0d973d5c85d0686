//! Shares, sample ratios, pairs, strata, and several questions at once.

use serde_json::Value;

use super::{all_close, cases, close, close_to, count, counts, first, number, numbers};
use crate::statistics::{
    multiplicity, paired, proportion, sample_ratio,
    special::chi_squared_survival,
    strata::{self, Common, Table},
};

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
fn the_tail_of_chi_squared_is_exact_where_it_is_small() {
    close_to("tail", chi_squared_survival(185.226_551_563_229_12, 1.0), 3.502_192_273_048_579e-42, 1e-9);
}
