//! A report as tables, in English or Chinese.

use super::{
    rows::{self, Rows},
    words::{chance, figure, metric_word, word},
};
use crate::{
    cli::output,
    evidence::{Comparison, Excluded, Experiment, Language, Summary, sentence, status_word},
    evidence_store::{EvidenceReport, Progress},
};

/// `has_segments` shows the comparison within segments, which may be long.
pub(super) fn print(summary: &Summary, has_segments: bool, language: Language) {
    for experiment in &summary.experiments {
        let Experiment { experiment: name, epoch, definition, period: [first, last], .. } = experiment;
        output::line(format!(
            "{} {name} · epoch {epoch} · {definition}\n{first} – {last}",
            word(language, "Experiment", "实验")
        ));

        for comparison in &experiment.comparisons {
            output::line(format!("\n{}", sentence(experiment, comparison, summary.criteria, language)));
            metrics(experiment, comparison, language);
            if !comparison.adjusted.is_empty() {
                output::line(word(language, "Adjusted for segments", "按分段校正"));
                show(&rows::adjusted(&comparison.adjusted, language));
            }
        }
        show(&rows::variants(&experiment.variants, language));
        if let Some(answered) = rows::answered(&experiment.variants, language) {
            output::line(format!("{answered}."));
        }
        health(experiment, language);
        if has_segments && !experiment.segments.is_empty() {
            output::line(word(language, "Segments", "分段"));
            show(&rows::segments(&experiment.segments, language));
        }
    }

    if !summary.paired.is_empty() {
        output::line(word(language, "Two versions on the same requests", "两个版本对同一请求"));
        show(&rows::pairs(&summary.paired, language));
    }
    if let Some(reviews) = rows::reviews(&summary.reviews, language) {
        output::line(format!("{reviews}\n"));
    }
    if summary.experiments.is_empty() && summary.paired.is_empty() {
        output::line(word(language, "No verdict is of an experiment.", "没有属于实验的结果。"));
    }
    excluded(summary, language);
}

fn show(Rows { columns, numbers, rows }: &Rows) {
    output::show(&output::table(columns, &columns[numbers.clone()], rows.iter().cloned()));
}

/// One row for each metric.
fn metrics(experiment: &Experiment, comparison: &Comparison, language: Language) {
    let metric = word(language, "metric", "指标");
    let control = format!("{} {}", word(language, "control", "控制组"), experiment.control);
    let treatment = format!("{} {}", word(language, "treatment", "实验组"), comparison.treatment);
    let difference = word(language, "difference", "差异");
    let interval = word(language, "interval", "区间");
    let status = word(language, "status", "状态");
    let columns = [metric, &control, &treatment, difference, interval, "p", status];
    let rows = comparison.metrics.iter().map(|compared| {
        let shown = |value: Option<f64>, sign| {
            value.map_or_else(|| "–".to_owned(), |value| figure(compared.metric, value, sign))
        };
        let ends = compared.interval.map_or_else(
            || "–".to_owned(),
            |[low, high]| format!("{} … {}", figure(compared.metric, low, true), figure(compared.metric, high, true)),
        );
        vec![
            metric_word(compared.metric, language).to_owned(),
            shown(compared.control, false),
            shown(compared.treatment, false),
            shown(compared.difference, true),
            ends,
            compared.p_value.map_or_else(|| "–".to_owned(), chance),
            status_word(compared.status, compared.information, language),
        ]
    });
    output::show(&output::table(&columns, &[&control, &treatment, difference, interval, "p"], rows));
}

fn health(experiment: &Experiment, language: Language) {
    let p = experiment.sample_ratio.p_value;
    let is_healthy = experiment.sample_ratio.is_healthy;
    let state =
        if is_healthy { word(language, "as set", "与配置相符") } else { word(language, "UNHEALTHY", "异常") };
    let name = word(language, "Sample ratio", "分流比例");
    output::line(format!("{name}: {state} (p = {}).\n", chance(p)));
}

fn excluded(summary: &Summary, language: Language) {
    let Excluded { duplicates, outside, forced, unit_unknown, unreadable } = summary.excluded;
    let (alpha, min_effect) = (summary.criteria.alpha, summary.criteria.min_effect);
    output::line(match language {
        Language::English => format!(
            "Not counted: {duplicates} duplicates, {outside} outside experiments, {forced} forced, \
             {unit_unknown} without their unit, {unreadable} unreadable. Intervals of an experiment hold at any time and \
             together (normal mixture, α = {alpha}, tuned for differences of {min_effect}); p is adjusted by Holm."
        ),
        Language::Chinese => format!(
            "未计入：重复 {duplicates}，实验之外 {outside}，强制分组 {forced}，缺少分流单元 {unit_unknown}，无法读取 {unreadable}。\
             同一实验的区间随时且同时有效（正态混合，α = {alpha}，按差异 {min_effect} 调整）；p 经 Holm 校正。"
        ),
    });
}

/// How current the evidence of a running instance is, what its guards conclude, and how far ramps
/// are.
pub(super) fn live(report: &EvidenceReport, language: Language) {
    if !report.guards.is_empty() {
        output::line(word(language, "Guards", "护栏"));
        show(&rows::guards(&report.guards, language));
    }
    if !report.ramps.is_empty() {
        output::line(word(language, "Ramps", "放量"));
        show(&rows::ramps(&report.ramps, language));
    }

    let Progress { caught_up, behind_ms, failure, .. } = &report.progress;
    let seconds = *behind_ms as f64 / 1e3;
    output::line(match (failure, caught_up, language) {
        (Some(failure), _, Language::English) => format!("Evidence is incomplete: {failure}"),
        (Some(failure), _, Language::Chinese) => format!("证据不完整：{failure}"),
        (None, true, Language::English) => "Evidence is current.".to_owned(),
        (None, true, Language::Chinese) => "证据是最新的。".to_owned(),
        (None, false, Language::English) => format!("Evidence is {seconds:.1} s behind."),
        (None, false, Language::Chinese) => format!("证据滞后 {seconds:.1} 秒。"),
    });
}
