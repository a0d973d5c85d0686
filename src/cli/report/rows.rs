//! The tables of a report as columns and cells, for the terminal and for the page.

use super::words::{chance, figure, guard_action, guard_word, metric_word, word};
use crate::{
    evidence::{Adjusted, Language, Metric, Paired, ReviewFigures, SegmentComparison, Variant},
    evidence_store::{GuardReport, RampReport},
};

/// Columns, which of them hold numbers, and rows of plain text.
pub(super) struct Rows {
    pub(super) columns: Vec<&'static str>,
    pub(super) numbers: std::ops::Range<usize>,
    pub(super) rows: Vec<Vec<String>>,
}

/// One row for each variant.
pub(super) fn variants(variants: &[Variant], language: Language) -> Rows {
    let columns = vec![
        word(language, "variant", "组"),
        word(language, "version", "模型版本"),
        word(language, "share", "份额"),
        word(language, "verdicts", "结果数"),
        word(language, "observations", "独立样本"),
        word(language, "cached", "缓存"),
        word(language, "dead letters", "死信"),
        "p50 ms",
        "p95 ms",
        "p99 ms",
    ];

    let row = |variant: &Variant| {
        let mut row = vec![
            variant.name.clone(),
            variant.version.clone(),
            format!("{:.1} %", variant.share * 100.0),
            variant.verdicts.to_string(),
            variant.observations.to_string(),
            variant.cached.to_string(),
            variant.dead_letters.to_string(),
        ];
        let shown = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"));
        row.extend(variant.latency_ms.iter().map(|percentile| shown(percentile.value)));
        row
    };
    Rows { columns, numbers: 2..10, rows: variants.iter().map(row).collect() }
}

/// One row for each pair of versions.
pub(super) fn pairs(paired: &[Paired], language: Language) -> Rows {
    let columns = vec![
        word(language, "live", "线上"),
        word(language, "shadow", "影子"),
        word(language, "pairs", "对数"),
        word(language, "missing", "缺失"),
        word(language, "of it cached", "其中缓存"),
        word(language, "same label", "一致"),
        "κ",
        word(language, "only shadow no", "仅影子为否"),
        word(language, "only live no", "仅线上为否"),
        "p",
    ];

    let row = |pair: &Paired| {
        vec![
            pair.live_version.clone(),
            pair.shadow_version.clone(),
            pair.pairs.to_string(),
            pair.missing.to_string(),
            pair.missing_cached.to_string(),
            pair.agreement.map_or_else(|| "–".to_owned(), |agreement| format!("{:.1} %", agreement * 100.0)),
            pair.kappa.map_or_else(|| "–".to_owned(), |kappa| format!("{kappa:.2}")),
            pair.only_shadow_no.to_string(),
            pair.only_live_no.to_string(),
            chance(pair.p_value),
        ]
    };
    Rows { columns, numbers: 2..10, rows: paired.iter().map(row).collect() }
}

/// One row for each guard and treatment.
pub(super) fn guards<'r>(reports: impl IntoIterator<Item = &'r GuardReport>, language: Language) -> Rows {
    let columns = vec![
        word(language, "experiment", "实验"),
        word(language, "guard", "护栏"),
        word(language, "treatment", "实验组"),
        word(language, "state", "状态"),
        word(language, "control events", "控制组事件"),
        word(language, "treatment events", "实验组事件"),
        word(language, "difference, points", "差异（百分点）"),
        word(language, "e of needed", "e / 所需"),
        word(language, "action", "动作"),
    ];

    let row = |report: &GuardReport| {
        let judgement = &report.judgement;
        let count = |arm: usize| format!("{} / {}", judgement.events[arm], judgement.units[arm]);
        let [low, high] = judgement.difference.map(|end| 100.0 * end);
        vec![
            report.experiment.clone(),
            judgement.guard.clone(),
            judgement.treatment.clone(),
            guard_word(judgement.state, language).to_owned(),
            count(0),
            count(1),
            format!("{low:+.2} … {high:+.2}"),
            format!("{:.2e} / {:.0}", judgement.ln_e_value.exp(), judgement.ln_e_value_needed.exp()),
            guard_action(report, language).to_owned(),
        ]
    };
    Rows { columns, numbers: 4..8, rows: reports.into_iter().map(row).collect() }
}

/// One row for each ramp.
pub(super) fn ramps<'r>(reports: impl IntoIterator<Item = &'r RampReport>, language: Language) -> Rows {
    let columns = vec![
        word(language, "experiment", "实验"),
        word(language, "share of units", "流量占比"),
        word(language, "next", "下一步"),
        word(language, "waits for", "等待"),
    ];
    let percent = |share: f64| format!("{} %", (share * 1e6).round() / 1e4);
    let row = |report: &RampReport| {
        let waits_for = match (&report.next, &report.waits_for) {
            (None, _) => word(language, "nothing: it is at its end", "无：已完成").to_owned(),
            (Some(_), None) => word(language, "nothing: the step is due", "无：即将放量").to_owned(),
            (Some(_), Some(waits_for)) => waits_for.clone(),
        };
        vec![
            report.experiment.clone(),
            percent(report.traffic_ratio),
            report.next.map_or_else(|| "–".to_owned(), percent),
            waits_for,
        ]
    };
    Rows { columns, numbers: 1..3, rows: reports.into_iter().map(row).collect() }
}

/// One row for each segment and metric.
pub(super) fn adjusted(adjusted: &[Adjusted], language: Language) -> Rows {
    let columns = vec![
        word(language, "segment", "分段"),
        word(language, "metric", "指标"),
        word(language, "difference", "差异"),
        word(language, "interval", "区间"),
        word(language, "variance, of unadjusted", "方差（相对未校正）"),
    ];
    let row = |adjusted: &Adjusted| {
        let shown = |value| figure(adjusted.metric, value, true);
        let [low, high] = adjusted.interval.map(shown);
        vec![
            adjusted.segment.clone(),
            metric_word(adjusted.metric, language).to_owned(),
            shown(adjusted.difference),
            format!("{low} … {high}"),
            format!("{:.1} %", 100.0 * adjusted.variance_ratio),
        ]
    };
    Rows { columns, numbers: 2..5, rows: adjusted.iter().map(row).collect() }
}

/// One row for each value of a segment and each treatment.
pub(super) fn segments(segments: &[SegmentComparison], language: Language) -> Rows {
    let mut columns = vec![
        word(language, "segment", "分段"),
        word(language, "treatment", "实验组"),
        word(language, "verdicts", "结果数"),
    ];
    columns.extend(Metric::ALL.map(|metric| metric_word(metric, language)));
    columns.push(word(language, "stands out", "显著"));
    columns.push(word(language, "other sign than overall", "与总体方向相反"));

    let row = |segment: &SegmentComparison| {
        let names = |metrics: &[Metric]| {
            metrics.iter().map(|metric| metric_word(*metric, language)).collect::<Vec<_>>().join(", ")
        };
        let mut row = vec![
            format!("{} = {}", segment.segment, segment.value),
            segment.treatment.clone(),
            format!("{} / {}", segment.verdicts[0], segment.verdicts[1]),
        ];
        row.extend(segment.metrics.iter().map(|compared| {
            compared.difference.map_or_else(|| "–".to_owned(), |value| figure(compared.metric, value, true))
        }));
        row.extend([names(&segment.stands_out), names(&segment.reversed)]);
        row
    };
    Rows { columns, numbers: 2..7, rows: segments.iter().map(row).collect() }
}

/// How many of the verdicts that people are meant to review they have answered, by variant; none
/// where people review nothing.
pub(super) fn answered(variants: &[Variant], language: Language) -> Option<String> {
    let expected = variants.iter().filter(|variant| variant.review_expected >= 1.0);
    let each: Vec<String> = expected
        .map(|variant| {
            let answered: u64 = variant.reviewed.iter().flatten().sum();
            format!("{} {answered} / {:.0}", variant.name, variant.review_expected)
        })
        .collect();
    let title = word(language, "Reviewed, of the verdicts meant for review", "已复核 / 应复核");
    (!each.is_empty()).then(|| format!("{title}: {}", each.join(", ")))
}

/// Answers of people, in words; none where there are none.
pub(super) fn reviews(reviews: &ReviewFigures, language: Language) -> Option<String> {
    let ReviewFigures { answers, superseded, requests, unmatched, unreadable, agreement } = reviews;
    if *answers == 0 {
        return None;
    }
    let agreement = agreement.map_or_else(|| "–".to_owned(), |alpha| format!("{alpha:.2}"));
    Some(match language {
        Language::English => format!(
            "Reviews: {answers} answers on {requests} requests, {superseded} changed or repeated, \
             {unmatched} without a verdict of an experiment, {unreadable} unreadable; agreement of \
             reviewers (Krippendorff's α) {agreement}."
        ),
        Language::Chinese => format!(
            "人工复核：{requests} 个请求共 {answers} 个答案，更改或重复 {superseded}，\
             无对应实验结果 {unmatched}，无法读取 {unreadable}；\
             复核人一致性（Krippendorff α）{agreement}。"
        ),
    })
}
