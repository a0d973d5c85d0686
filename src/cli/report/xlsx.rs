//! A report as a workbook: native tables, charts over time, and every number in long form.
//!
//! Texts are written as strings, so that a name never becomes a formula.

mod sheet;

use rust_xlsxwriter::{Chart, ChartType, Format, FormatAlign, Workbook, Worksheet, XlsxError};

use self::sheet::{Cell, Kind, Table};
use super::{
    long,
    rows::{self, Rows},
    words::{method, metric_word, word},
};
use crate::{
    evidence::{Compared, Experiment, Language, Metric, Summary, sentence, status_word},
    evidence_store::EvidenceReport,
};

/// The workbook. `live` is what a running instance adds.
pub(super) fn workbook(
    summary: &Summary,
    live: Option<&EvidenceReport>,
    language: Language,
) -> Result<Vec<u8>, XlsxError> {
    let mut workbook = Workbook::new();
    let mut add = |english, chinese, fill: &dyn Fn(&mut Worksheet) -> Result<(), XlsxError>| {
        let sheet = workbook.add_worksheet();
        sheet.set_name(word(language, english, chinese))?;
        fill(sheet)
    };
    add("Summary", "摘要", &|sheet| overview(sheet, summary, language))?;
    add("Metrics", "指标", &|sheet| metrics(summary, language).write(sheet))?;
    add("Variants", "组", &|sheet| variants(summary, language).write(sheet))?;
    if summary.experiments.iter().any(|experiment| !experiment.segments.is_empty()) {
        add("Segments", "分段", &|sheet| segments(summary, language).write(sheet))?;
    }
    add("Time series", "时间序列", &|sheet| time_series(sheet, summary, language))?;
    if !summary.paired.is_empty() {
        add("Agreement", "一致性", &|sheet| of_texts(&rows::pairs(&summary.paired, language)).write(sheet))?;
    }
    if let Some(live) = live.filter(|live| !live.guards.is_empty()) {
        add("Guards", "护栏", &|sheet| of_texts(&rows::guards(&live.guards, language)).write(sheet))?;
    }
    add("Data", "数据", &|sheet| data(summary).write(sheet))?;
    workbook.save_to_buffer()
}

/// The sentence of each treatment, the state of the sample ratio, and how figures were computed.
fn overview(sheet: &mut Worksheet, summary: &Summary, language: Language) -> Result<(), XlsxError> {
    let (title, answer, small) = (
        Format::new().set_bold().set_font_size(14.0),
        Format::new().set_text_wrap().set_align(FormatAlign::Top).set_bold(),
        Format::new().set_text_wrap().set_align(FormatAlign::Top),
    );
    sheet.set_column_width(0, 110.0)?;
    let mut row = 0;
    let mut line = |text: &str, format: &Format| {
        sheet.write_string_with_format(row, 0, text, format)?;
        row += 1;
        Ok::<(), XlsxError>(())
    };

    for experiment in &summary.experiments {
        let Experiment { experiment: name, epoch, definition, period: [first, last], .. } = experiment;
        line(&format!("{} {name}", word(language, "Experiment", "实验")), &title)?;
        line(&format!("epoch {epoch} · {definition} · {first} – {last}"), &small)?;
        for comparison in &experiment.comparisons {
            line(&sentence(experiment, comparison, summary.criteria, language), &answer)?;
        }
        let state = if experiment.sample_ratio.is_healthy {
            word(language, "as set", "与配置相符")
        } else {
            word(language, "UNHEALTHY", "异常")
        };
        let ratio = word(language, "Sample ratio", "分流比例");
        line(&format!("{ratio}: {state} (p = {:.4})", experiment.sample_ratio.p_value), &small)?;
        line("", &small)?;
    }
    if let Some(reviews) = rows::reviews(&summary.reviews, language) {
        line(&reviews, &small)?;
    }
    line(&method(summary, language), &small)
}

fn metrics(summary: &Summary, language: Language) -> Table {
    let mut columns = vec![
        (word(language, "experiment", "实验"), Kind::Text),
        (word(language, "epoch", "轮次"), Kind::Count),
        (word(language, "treatment", "实验组"), Kind::Text),
        (word(language, "metric", "指标"), Kind::Text),
    ];
    columns.extend(figure_columns(language));
    columns.extend([
        (word(language, "P(better)", "更好的概率"), Kind::Number),
        (word(language, "information", "信息量"), Kind::Share),
        (word(language, "days left", "剩余天数"), Kind::Number),
        (word(language, "status", "状态"), Kind::Status),
    ]);
    let mut table = Table::new(columns);
    for experiment in &summary.experiments {
        for comparison in &experiment.comparisons {
            for compared in &comparison.metrics {
                let mut row = vec![
                    Cell::text(&experiment.experiment),
                    Cell::Number(Some(f64::from(experiment.epoch))),
                    Cell::text(&comparison.treatment),
                    Cell::text(metric_word(compared.metric, language)),
                ];
                row.extend(figures(compared));
                row.extend([
                    Cell::Number(compared.probability_better),
                    Cell::Number(compared.information),
                    Cell::Number(compared.days_left),
                    Cell::text(&status_word(compared.status, compared.information, language)),
                ]);
                table.rows.push(row);
            }
        }
    }
    table
}

/// The columns of [`figures`].
fn figure_columns(language: Language) -> [(&'static str, Kind); 6] {
    [
        (word(language, "control value", "控制组数值"), Kind::Number),
        (word(language, "treatment value", "实验组数值"), Kind::Number),
        (word(language, "difference", "差异"), Kind::Number),
        (word(language, "lower, any time", "下界（随时有效）"), Kind::Number),
        (word(language, "upper, any time", "上界（随时有效）"), Kind::Number),
        (word(language, "p, any time", "p（随时有效）"), Kind::Number),
    ]
}

/// Control, treatment, difference, both ends and p; shares as percent.
fn figures(compared: &Compared) -> [Cell; 6] {
    let is_share = !matches!(compared.metric, Metric::Latency | Metric::Confidence);
    let cell = |value: Option<f64>| if is_share { Cell::Share(value) } else { Cell::Number(value) };
    let [low, high] = compared.interval.map_or([None; 2], |ends| ends.map(Some));
    [
        cell(compared.control),
        cell(compared.treatment),
        cell(compared.difference),
        cell(low),
        cell(high),
        Cell::Number(compared.p_value),
    ]
}

fn variants(summary: &Summary, language: Language) -> Table {
    let columns = vec![
        (word(language, "experiment", "实验"), Kind::Text),
        (word(language, "variant", "组"), Kind::Text),
        (word(language, "version", "模型版本"), Kind::Text),
        (word(language, "share", "份额"), Kind::Share),
        (word(language, "verdicts", "结果数"), Kind::Count),
        (word(language, "observations", "独立样本"), Kind::Count),
        (word(language, "cached", "缓存"), Kind::Count),
        (word(language, "dead letters", "死信"), Kind::Count),
        ("p50 ms", Kind::Number),
        ("p95 ms", Kind::Number),
        ("p99 ms", Kind::Number),
    ];
    let mut table = Table::new(columns);
    for experiment in &summary.experiments {
        for variant in &experiment.variants {
            let mut row = vec![
                Cell::text(&experiment.experiment),
                Cell::text(&variant.name),
                Cell::text(&variant.version),
                Cell::Number(Some(variant.share)),
            ];
            let counts = [variant.verdicts, variant.observations, variant.cached, variant.dead_letters];
            row.extend(counts.map(|count| Cell::Number(Some(count as f64))));
            row.extend(variant.latency_ms.iter().map(|percentile| Cell::Number(percentile.value)));
            table.rows.push(row);
        }
    }
    table
}

fn segments(summary: &Summary, language: Language) -> Table {
    let mut columns = vec![
        (word(language, "experiment", "实验"), Kind::Text),
        (word(language, "segment", "分段"), Kind::Text),
        (word(language, "value", "取值"), Kind::Text),
        (word(language, "treatment", "实验组"), Kind::Text),
        (word(language, "metric", "指标"), Kind::Text),
    ];
    columns.extend(figure_columns(language));
    columns.push((word(language, "stands out", "显著"), Kind::Text));
    let mut table = Table::new(columns);
    for experiment in &summary.experiments {
        for segment in &experiment.segments {
            for compared in &segment.metrics {
                let mut row = vec![
                    Cell::text(&experiment.experiment),
                    Cell::text(&segment.segment),
                    Cell::text(&segment.value),
                    Cell::text(&segment.treatment),
                    Cell::text(metric_word(compared.metric, language)),
                ];
                row.extend(figures(compared));
                let stands_out = segment.stands_out.contains(&compared.metric);
                row.push(Cell::text(if stands_out { word(language, "yes", "是") } else { "" }));
                table.rows.push(row);
            }
        }
    }
    table
}

/// One block for each variant, so that a chart takes its rows as a series.
fn time_series(sheet: &mut Worksheet, summary: &Summary, language: Language) -> Result<(), XlsxError> {
    let columns = vec![
        (word(language, "experiment", "实验"), Kind::Text),
        (word(language, "variant", "组"), Kind::Text),
        (word(language, "hour, UTC", "小时（UTC）"), Kind::Time),
        (word(language, "verdicts", "结果数"), Kind::Count),
        (word(language, "dead letters", "死信"), Kind::Count),
        (metric_word(Metric::NoShare, language), Kind::Share),
        (metric_word(Metric::ReviewShare, language), Kind::Share),
        (metric_word(Metric::Confidence, language), Kind::Number),
        (metric_word(Metric::Latency, language), Kind::Number),
    ];
    let mut table = Table::new(columns);
    // First and last row of each series.
    let mut series: Vec<(u32, u32)> = Vec::new();
    for experiment in &summary.experiments {
        for variant in &experiment.variants {
            let begins = table.rows.len() as u32 + 1;
            for hour in experiment.hours.iter().filter(|hour| hour.variant == variant.name) {
                table.rows.push(vec![
                    Cell::text(&experiment.experiment),
                    Cell::text(&hour.variant),
                    Cell::time(&hour.hour),
                    Cell::Number(Some(hour.verdicts as f64)),
                    Cell::Number(Some(hour.dead_letters as f64)),
                    Cell::Number(hour.no_share),
                    Cell::Number(hour.review_share),
                    Cell::Number(hour.confidence),
                    Cell::Number(hour.latency_ms),
                ]);
            }
            let ends = table.rows.len() as u32;
            if ends >= begins {
                series.push((begins, ends));
            }
        }
    }
    table.write(sheet)?;

    let name = word(language, "Time series", "时间序列");
    const VARIANT: u16 = 1;
    const HOUR: u16 = 2;
    for (place, (column, metric)) in [(5, Metric::NoShare), (8, Metric::Latency)].into_iter().enumerate() {
        let mut chart = Chart::new(ChartType::Line);
        for (first, last) in &series {
            let range = |column| (name, *first, column, *last, column);
            // By a cell: a name of its own could be read as a formula.
            chart.add_series().set_name((name, *first, VARIANT)).set_categories(range(HOUR)).set_values(range(column));
        }
        chart.title().set_name(metric_word(metric, language));
        chart.set_width(720).set_height(300);
        if !series.is_empty() {
            sheet.insert_chart(1 + 16 * place as u32, 10, &chart)?;
        }
    }
    Ok(())
}

fn data(summary: &Summary) -> Table {
    let mut columns: Vec<(&str, Kind)> = long::TEXTS.map(|name| (name, Kind::Text)).to_vec();
    columns.extend([("epoch", Kind::Count), ("value", Kind::Number)]);
    let mut table = Table::new(columns);
    for row in long::rows(summary) {
        let mut cells = row.texts().map(Cell::text).to_vec();
        cells.extend([Cell::Number(Some(f64::from(row.epoch))), Cell::Number(Some(row.value))]);
        table.rows.push(cells);
    }
    table
}

/// A table of texts.
fn of_texts(Rows { columns, rows, .. }: &Rows) -> Table {
    let mut table = Table::new(columns.iter().map(|column| (*column, Kind::Text)).collect());
    table.rows = rows.iter().map(|row| row.iter().map(|cell| Cell::text(cell)).collect()).collect();
    table
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read as _};

    use serde_json::json;

    use super::*;
    use crate::evidence::{Criteria, VerdictSet, tests::verdict};

    /// The parts of a workbook, by name.
    fn parts(bytes: &[u8]) -> Vec<(String, String)> {
        let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
        (0..archive.len())
            .map(|place| {
                let mut file = archive.by_index(place).unwrap();
                let mut text = String::new();
                file.read_to_string(&mut text).unwrap();
                (file.name().unwrap().into_owned(), text)
            })
            .collect()
    }

    #[test]
    fn a_workbook_has_tables_charts_and_no_formula() {
        let mut set = VerdictSet::default();
        for number in 0..400 {
            let variant = ["control", "treatment"][number % 2];
            set.add(&verdict(&number.to_string(), variant, if number % 7 == 0 { "no" } else { "yes" }, |verdict| {
                verdict["ab_experiment"] = json!("=HYPERLINK(\"http://example.com\")");
                verdict["ab_variant"] = json!(format!("=[x.xlsx]S!{variant}"));
                verdict["segments"] = json!({"region": "+cn"});
                verdict["timestamp"] = json!(format!("2026-11-30T{:02}:00:00.000Z", number / 40));
            }));
        }
        let summary = Summary::of(set.sums(), Criteria::default(), None);
        let bytes = workbook(&summary, None, Language::Chinese).unwrap();
        let parts = parts(&bytes);
        let all = |begins: &str| parts.iter().filter(|(name, _)| name.starts_with(begins)).count();
        assert_eq!((all("xl/tables/table"), all("xl/charts/chart")), (5, 2));
        let text: String = parts.iter().map(|(_, text)| text.as_str()).collect();
        assert!(text.contains("摘要") && text.contains("人工复核率") && text.contains("=HYPERLINK("));
        let sheets = parts.iter().filter(|(name, _)| name.starts_with("xl/worksheets/sheet"));
        let charts = parts.iter().filter(|(name, _)| name.starts_with("xl/charts/chart"));
        let is_own = |formula: &str| formula.starts_with("'时间序列'!") || formula.starts_with("时间序列!");
        for (_, chart) in charts {
            assert!(chart.split("<c:f>").skip(1).all(is_own), "{chart}");
        }
        assert!(sheets.clone().count() == 6 && sheets.into_iter().all(|(_, sheet)| !sheet.contains("<f>")));
        assert_eq!(long::rows(&summary).len(), long::lines(&summary).unwrap().lines().count());
    }

    #[test]
    fn a_report_without_a_verdict_is_a_workbook_too() {
        let summary = Summary::of(VerdictSet::default().sums(), Criteria::default(), None);
        assert!(!parts(&workbook(&summary, None, Language::English).unwrap()).is_empty());
    }
}
