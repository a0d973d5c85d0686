//! A report as CSV.

use crate::evidence::Summary;

/// One line for each metric of each treatment.
pub(super) fn lines(summary: &Summary) -> String {
    let mut lines = String::from(
        "experiment,epoch,definition,control,treatment,metric,control_value,treatment_value,difference,\
         lower,upper,p_value,probability_better,information,days_left,status\n",
    );
    for experiment in &summary.experiments {
        for comparison in &experiment.comparisons {
            for compared in &comparison.metrics {
                let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
                let end = |end: usize| number(compared.interval.map(|interval| interval[end]));
                let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
                let cells = [
                    experiment.experiment.clone(),
                    experiment.epoch.to_string(),
                    experiment.definition.clone(),
                    experiment.control.clone(),
                    comparison.treatment.clone(),
                    word(serde_json::json!(compared.metric)),
                    number(compared.control),
                    number(compared.treatment),
                    number(compared.difference),
                    end(0),
                    end(1),
                    number(compared.p_value),
                    number(compared.probability_better),
                    number(compared.information),
                    number(compared.days_left),
                    word(serde_json::json!(compared.status)),
                ];
                lines.push_str(&cells.map(|cell| quoted(&cell)).join(","));
                lines.push('\n');
            }
        }
    }
    lines
}

/// A cell of CSV. A spreadsheet would take a text that begins with a sign for a formula.
fn quoted(cell: &str) -> String {
    let is_formula =
        cell.starts_with(['=', '+', '@', '\t', '\r']) || (cell.starts_with('-') && cell.parse::<f64>().is_err());
    let cell = if is_formula { format!("'{cell}") } else { cell.to_owned() };
    if cell.contains([',', '"', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn no_cell_becomes_a_formula() {
        for (cell, right) in [
            ("=1+1", "'=1+1"),
            ("-cmd", "'-cmd"),
            ("-0.5", "-0.5"),
            ("@x", "'@x"),
            ("a,b", "\"a,b\""),
            ("a\"b", "\"a\"\"b\""),
        ] {
            assert_eq!(quoted(cell), right);
        }
    }
}
