//! A report as one page: no script, no request to anywhere, and it prints well.

use std::fmt::Write as _;

use super::{
    plots,
    rows::{self, Rows},
    words::{chance, escaped, figure, method, metric_word, word},
};
use crate::{
    evidence::{
        Comparison, Experiment, GuardState, Language, Metric, SegmentComparison, Summary, sentence, status_word,
    },
    evidence_store::{EvidenceReport, GuardReport},
};

const STYLE: &str = "\
:root { color-scheme: light dark; --ink: #1c1f23; --soft: #5b6570; --line: #d4d9de; --paper: #fff; --bad: #b3261e; \
--good: #1a7f4b; --mark: #2457a6 }
@media (prefers-color-scheme: dark) { :root { --ink: #e7eaee; --soft: #a3adb8; --line: #3a424b; --paper: #16191d; \
--bad: #ff8a80; --good: #6fd39b; --mark: #8ab4f8 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem; \
margin: 0 auto; padding: 1.5rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.2rem; margin-top: 2.5rem } h3 { font-size: 1rem; margin-top: 1.5rem }
.answer { font-size: 1.1rem; border-left: 4px solid var(--mark); padding: .2rem 0 .2rem .8rem }
.small { color: var(--soft); font-size: .85rem }
.wide { overflow-x: auto; margin: 1rem 0 }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line) }
th { color: var(--soft); font-weight: 600 } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
.harm { color: var(--bad); font-weight: 600 } .good { color: var(--good); font-weight: 600 }
svg { max-width: 100%; height: auto } svg text { fill: var(--soft); font-size: 11px }
@media print { body { max-width: none; padding: 0 } h2 { break-before: auto } table, svg { break-inside: avoid } }";

/// The page. `live` is what a running instance adds: guards, and how current the figures are.
pub(in crate::cli) fn page(summary: &Summary, live: Option<&EvidenceReport>, language: Language) -> String {
    let code = match language {
        Language::English => "en",
        Language::Chinese => "zh-Hans",
    };
    let title = word(language, "Comparison of model versions", "模型版本对比");
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"{code}\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <style>{STYLE}</style></head><body><h1>{title}</h1>\n"
    );
    for experiment in &summary.experiments {
        let guards = live.iter().flat_map(|live| &live.guards);
        let guards: Vec<&GuardReport> = guards
            .filter(|guard| guard.experiment == experiment.experiment && guard.definition == experiment.definition)
            .collect();
        experiment_part(&mut page, summary, experiment, &guards, language);
        let ramps = live.iter().flat_map(|live| &live.ramps);
        let own =
            ramps.filter(|ramp| ramp.experiment == experiment.experiment && ramp.definition == experiment.definition);
        let ramps = rows::ramps(own, language);
        if !ramps.rows.is_empty() {
            writeln!(page, "<h3>{}</h3>", word(language, "Ramp", "放量")).ok();
            table_of(&mut page, &ramps);
        }
    }
    if summary.experiments.is_empty() {
        let nothing = word(language, "No verdict is of an experiment.", "没有属于实验的结果。");
        writeln!(page, "<p>{nothing}</p>").ok();
    }
    if !summary.paired.is_empty() {
        let title = word(language, "Two versions on the same requests", "两个版本对同一请求");
        writeln!(page, "<h2>{title}</h2>").ok();
        table_of(&mut page, &rows::pairs(&summary.paired, language));
    }
    if let Some(reviews) = rows::reviews(&summary.reviews, language) {
        writeln!(page, "<p>{}</p>", escaped(&reviews)).ok();
    }
    method_part(&mut page, summary, language);
    page.push_str("</body></html>\n");
    page
}

fn experiment_part(
    page: &mut String,
    summary: &Summary,
    experiment: &Experiment,
    guards: &[&GuardReport],
    language: Language,
) {
    let Experiment { experiment: name, epoch, definition, period: [first, last], .. } = experiment;
    writeln!(
        page,
        "<h2>{} {}</h2><p class=\"small\">epoch {epoch} · {} · {} – {}</p>",
        word(language, "Experiment", "实验"),
        escaped(name),
        escaped(definition),
        escaped(first),
        escaped(last),
    )
    .ok();
    for guard in guards.iter().filter(|guard| guard.judgement.state == GuardState::Harm) {
        let harm = word(language, "Harm", "有害");
        writeln!(page, "<p class=\"answer harm\">{harm}. {}</p>", escaped(&guard.judgement.in_words())).ok();
    }
    for comparison in &experiment.comparisons {
        let answer = sentence(experiment, comparison, summary.criteria, language);
        writeln!(page, "<p class=\"answer\">{}</p>", escaped(&answer)).ok();
        metrics(page, experiment, comparison, language);
        if !comparison.adjusted.is_empty() {
            writeln!(page, "<h3>{}</h3>", word(language, "Adjusted for segments", "按分段校正")).ok();
            table_of(page, &rows::adjusted(&comparison.adjusted, language));
        }
    }
    table_of(page, &rows::variants(&experiment.variants, language));
    if let Some(answered) = rows::answered(&experiment.variants, language) {
        writeln!(page, "<p>{}</p>", escaped(&answered)).ok();
    }
    let p = escaped(&chance(experiment.sample_ratio.p_value));
    let (class, state) = if experiment.sample_ratio.is_healthy {
        ("good", word(language, "as set", "与配置相符"))
    } else {
        ("harm", word(language, "UNHEALTHY", "异常"))
    };
    writeln!(
        page,
        "<p>{}: <span class=\"{class}\">{state}</span> (p = {p})</p>",
        word(language, "Sample ratio", "分流比例")
    )
    .ok();
    if !guards.is_empty() {
        writeln!(page, "<h3>{}</h3>", word(language, "Guards", "护栏")).ok();
        table_of(page, &rows::guards(guards.iter().copied(), language));
    }
    segments(page, &experiment.segments, language);
    for (title, of) in [
        (word(language, "Share of no by hour", "每小时“否”类比例"), Metric::NoShare),
        (word(language, "Mean latency by hour, ms", "每小时平均延迟（毫秒）"), Metric::Latency),
    ] {
        page.push_str(&plots::hours(&experiment.hours, of, title));
    }
}

/// A table of cells that are HTML already. The columns in `numbers` hold numbers.
fn table(page: &mut String, columns: &[&str], numbers: std::ops::Range<usize>, rows: &[Vec<String>]) {
    let class = |place: usize| if numbers.contains(&place) { " class=\"n\"" } else { "" };
    page.push_str("<div class=\"wide\"><table><thead><tr>");
    for (place, column) in columns.iter().enumerate() {
        write!(page, "<th scope=\"col\"{}>{}</th>", class(place), escaped(column)).ok();
    }
    page.push_str("</tr></thead><tbody>\n");
    for row in rows {
        page.push_str("<tr>");
        for (place, cell) in row.iter().enumerate() {
            write!(page, "<td{}>{cell}</td>", class(place)).ok();
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody></table></div>\n");
}

/// A table of plain text.
fn table_of(page: &mut String, Rows { columns, numbers, rows }: &Rows) {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| escaped(cell)).collect()).collect();
    table(page, columns, numbers.clone(), &rows);
}

fn metrics(page: &mut String, experiment: &Experiment, comparison: &Comparison, language: Language) {
    let control = format!("{} {}", word(language, "control", "控制组"), experiment.control);
    let treatment = format!("{} {}", word(language, "treatment", "实验组"), comparison.treatment);
    let columns = [
        word(language, "metric", "指标"),
        &control,
        &treatment,
        word(language, "difference", "差异"),
        word(language, "interval, valid at any time", "区间（随时有效）"),
        "",
        "p",
        word(language, "status", "状态"),
    ];
    let rows: Vec<Vec<String>> = comparison
        .metrics
        .iter()
        .map(|compared| {
            let shown = |value: Option<f64>, sign| {
                value.map_or_else(|| "–".to_owned(), |value| figure(compared.metric, value, sign))
            };
            let ends = compared
                .interval
                .map_or_else(|| "–".to_owned(), |ends| ends.map(|end| figure(compared.metric, end, true)).join(" … "));
            let status = status_word(compared.status, compared.information, language);
            vec![
                metric_word(compared.metric, language).to_owned(),
                shown(compared.control, false),
                shown(compared.treatment, false),
                shown(compared.difference, true),
                ends,
                plots::interval(compared),
                compared.p_value.map_or_else(|| "–".to_owned(), chance).replace('<', "&lt;"),
                format!("<span class=\"{}\">{}</span>", status_class(compared.status), escaped(&status)),
            ]
        })
        .collect();
    table(page, &columns, 1..5, &rows);
}

fn status_class(status: crate::evidence::Status) -> &'static str {
    use crate::evidence::Status;
    match status {
        Status::Harm => "harm",
        Status::Better | Status::Safe => "good",
        Status::NoData | Status::Undecided => "",
    }
}

fn segments(page: &mut String, segments: &[SegmentComparison], language: Language) {
    if !segments.is_empty() {
        writeln!(page, "<h3>{}</h3>", word(language, "Segments", "分段")).ok();
        table_of(page, &rows::segments(segments, language));
    }
}

fn method_part(page: &mut String, summary: &Summary, language: Language) {
    writeln!(page, "<p class=\"small\">{}</p>", escaped(&method(summary, language))).ok();
}
