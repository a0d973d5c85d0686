//! Words and numbers as reports spell them, in English and Chinese.

use crate::{
    evidence::{GuardState, Language, Metric, Summary},
    evidence_store::GuardReport,
};

/// A text in the language of the report.
pub(super) fn word(language: Language, english: &'static str, chinese: &'static str) -> &'static str {
    match language {
        Language::English => english,
        Language::Chinese => chinese,
    }
}

/// A p-value as people read it.
pub(super) fn chance(p: f64) -> String {
    if p < 0.001 { "<0.001".to_owned() } else { format!("{p:.3}") }
}

pub(super) fn metric_word(metric: Metric, language: Language) -> &'static str {
    match metric {
        Metric::Confidence => word(language, "mean confidence", "平均置信度"),
        Metric::NoShare => word(language, "share of no", "“否”类比例"),
        Metric::ReviewShare => word(language, "manual-review rate", "人工复核率"),
        Metric::Latency => word(language, "mean latency, ms", "平均延迟（毫秒）"),
        Metric::Misjudged => word(language, "misjudged", "误判率"),
        Metric::MisjudgedNo => word(language, "misjudged no", "“否”类误判率"),
    }
}

pub(super) fn figure(metric: Metric, value: f64, has_sign: bool) -> String {
    match (metric, has_sign) {
        (Metric::Latency, true) => format!("{value:+.2}"),
        (Metric::Latency, false) => format!("{value:.2}"),
        (Metric::Confidence, true) => format!("{value:+.4}"),
        (Metric::Confidence, false) => format!("{value:.4}"),
        (_, true) => format!("{:+.2} %", value * 100.0),
        (_, false) => format!("{:.2} %", value * 100.0),
    }
}

/// How the figures were computed, and what was not counted.
pub(super) fn method(summary: &Summary, language: Language) -> String {
    let (alpha, excluded) = (summary.criteria.alpha, summary.excluded);
    match language {
        Language::English => format!(
            "Intervals of an experiment hold at any time and together (normal mixture in information time, α = {alpha}, \
             tuned for differences of {}); p is adjusted by Holm. Segments that stand out are found at a false discovery \
             rate of {alpha} (e-BH). Not counted: {} duplicates, {} outside experiments, {} forced, {} without their unit, \
             {} unreadable.",
            summary.criteria.min_effect,
            excluded.duplicates,
            excluded.outside,
            excluded.forced,
            excluded.unit_unknown,
            excluded.unreadable,
        ),
        Language::Chinese => format!(
            "同一实验的区间随时且同时有效（信息时间上的正态混合，α = {alpha}，按差异 {} 调整）；p 经 Holm 校正。\
             显著分段按错误发现率 {alpha}（e-BH）给出。未计入：重复 {}，实验之外 {}，强制分组 {}，缺少分流单元 {}，无法读取 {}。",
            summary.criteria.min_effect,
            excluded.duplicates,
            excluded.outside,
            excluded.forced,
            excluded.unit_unknown,
            excluded.unreadable,
        ),
    }
}

/// What a guard does, or what became of its experiment.
pub(super) fn guard_action(report: &GuardReport, language: Language) -> &str {
    match (report.paused, report.acted) {
        (true, true) => word(language, "paused by guard", "已由护栏暂停"),
        (true, false) => word(language, "paused", "已暂停"),
        (false, _) => &report.action,
    }
}

/// The state of a guard as reports spell it.
pub(super) fn guard_word(state: GuardState, language: Language) -> &'static str {
    match state {
        GuardState::NoData => word(language, "NO DATA", "无数据"),
        GuardState::Undecided => word(language, "UNDECIDED", "未定"),
        GuardState::Safe => word(language, "SAFE", "安全"),
        GuardState::Blind => word(language, "BLIND", "失明"),
        GuardState::Harm => word(language, "HARM", "有害"),
    }
}

/// Text as a page shows it: nothing that others wrote becomes a part of the page.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}
