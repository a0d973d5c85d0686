//! A report as tables, in English or Chinese.

use super::words::{chance, figure, guard_action, guard_word, metric_word, word};
use crate::{
    cli::output,
    evidence::{
        Comparison, Excluded, Experiment, Judgement, Language, Paired, ReviewFigures, Summary, sentence, status_word,
    },
    evidence_store::{GuardReport, Progress},
};

pub(super) fn print(summary: &Summary, language: Language) {
    for experiment in &summary.experiments {
        let Experiment { experiment: name, epoch, definition, period: [first, last], .. } = experiment;
        output::line(format!(
            "{} {name} · epoch {epoch} · {definition}\n{first} – {last}",
            word(language, "Experiment", "实验")
        ));

        for comparison in &experiment.comparisons {
            output::line(format!("\n{}", sentence(experiment, comparison, summary.criteria, language)));
            metrics(experiment, comparison, language);
        }
        variants(experiment, language);
        health(experiment, language);
    }

    if !summary.paired.is_empty() {
        pairs(&summary.paired, language);
    }
    reviews(&summary.reviews, language);
    if summary.experiments.is_empty() && summary.paired.is_empty() {
        output::line(word(language, "No verdict is of an experiment.", "没有属于实验的结果。"));
    }
    excluded(summary, language);
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

fn variants(experiment: &Experiment, language: Language) {
    let observations = word(language, "observations", "独立样本");
    let columns = [
        word(language, "variant", "组"),
        word(language, "version", "模型版本"),
        word(language, "share", "份额"),
        word(language, "verdicts", "结果数"),
        observations,
        word(language, "cached", "缓存"),
        "p50 ms",
        "p95 ms",
        "p99 ms",
    ];
    let rows = experiment.variants.iter().map(|variant| {
        let mut row = vec![
            variant.name.clone(),
            variant.version.clone(),
            format!("{:.1} %", variant.share * 100.0),
            variant.verdicts.to_string(),
            variant.observations.to_string(),
            variant.cached.to_string(),
        ];
        row.extend(
            variant
                .latency_ms
                .iter()
                .map(|percentile| percentile.value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"))),
        );
        row
    });
    output::show(&output::table(&columns, &columns[2..], rows));
}

fn health(experiment: &Experiment, language: Language) {
    let p = experiment.sample_ratio.p_value;
    let is_healthy = experiment.sample_ratio.is_healthy;
    let state =
        if is_healthy { word(language, "as set", "与配置相符") } else { word(language, "UNHEALTHY", "异常") };
    let name = word(language, "Sample ratio", "分流比例");
    output::line(format!("{name}: {state} (p = {}).\n", chance(p)));
}

fn pairs(paired: &[Paired], language: Language) {
    output::line(word(language, "Two versions on the same requests", "两个版本对同一请求"));
    let columns = [
        word(language, "live", "线上"),
        word(language, "shadow", "影子"),
        word(language, "pairs", "对数"),
        word(language, "same label", "一致"),
        "κ",
        word(language, "only shadow no", "仅影子为否"),
        word(language, "only live no", "仅线上为否"),
        "p",
    ];
    let rows = paired.iter().map(|pair| {
        vec![
            pair.live_version.clone(),
            pair.shadow_version.clone(),
            pair.pairs.to_string(),
            format!("{:.1} %", pair.agreement * 100.0),
            pair.kappa.map_or_else(|| "–".to_owned(), |kappa| format!("{kappa:.2}")),
            pair.only_shadow_no.to_string(),
            pair.only_live_no.to_string(),
            chance(pair.p_value),
        ]
    });
    output::show(&output::table(&columns, &columns[2..], rows));
}

/// Answers of people, if there are any.
fn reviews(reviews: &ReviewFigures, language: Language) {
    let ReviewFigures { answers, superseded, requests, unmatched, unreadable, agreement } = reviews;
    if *answers == 0 {
        return;
    }
    let agreement = agreement.map_or_else(|| "–".to_owned(), |alpha| format!("{alpha:.2}"));
    output::line(match language {
        Language::English => format!(
            "Reviews: {answers} answers on {requests} requests, {superseded} changed or repeated, {unmatched} without a verdict \
             of an experiment, {unreadable} unreadable; agreement of reviewers (Krippendorff's α) {agreement}.\n"
        ),
        Language::Chinese => format!(
            "人工复核：{requests} 个请求共 {answers} 个答案，更改或重复 {superseded}，无对应实验结果 {unmatched}，\
             无法读取 {unreadable}；复核人一致性（Krippendorff α）{agreement}。\n"
        ),
    });
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

/// How current the evidence of a running instance is, and what its guards conclude.
pub(super) fn live(progress: &Progress, guards: &[GuardReport], language: Language) {
    if !guards.is_empty() {
        output::line(word(language, "Guards", "护栏"));
        let columns = [
            word(language, "experiment", "实验"),
            word(language, "guard", "护栏"),
            word(language, "treatment", "实验组"),
            word(language, "state", "状态"),
            word(language, "control events", "控制组事件"),
            word(language, "treatment events", "实验组事件"),
            word(language, "difference, points", "差异（百分点）"),
            "e",
            word(language, "action", "动作"),
        ];
        let rows = guards.iter().map(|report| guard_row(report, language));
        output::show(&output::table(&columns, &columns[4..8], rows));
    }

    let Progress { caught_up, behind_ms, failure, .. } = progress;
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

fn guard_row(report: &GuardReport, language: Language) -> Vec<String> {
    let Judgement { guard, treatment, state, events, units, difference, ln_e_value, .. } = &report.judgement;
    let count = |arm: usize| format!("{} / {}", events[arm], units[arm]);
    vec![
        report.experiment.clone(),
        guard.clone(),
        treatment.clone(),
        guard_word(*state, language).to_owned(),
        count(0),
        count(1),
        format!("{:+.2} … {:+.2}", 100.0 * difference[0], 100.0 * difference[1]),
        format!("{:.2e}", ln_e_value.exp()),
        guard_action(report, language).to_owned(),
    ]
}
