//! Agreement of raters, and labels of a sample.

use serde_json::Value;

use super::{cases, close, close_to, counts, number, numbers};
use crate::statistics::{
    agreement::{self, Kappa, Scale, Weighting},
    weighting::{self, Stratum, Weighted},
};

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
