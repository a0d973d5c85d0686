//! The sentence that an owner reads first, in English and Chinese.

use super::{Compared, Comparison, Criteria, Experiment, Metric, Status};

/// A language of reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Language {
    /// English.
    #[default]
    English,
    /// Simplified Chinese.
    Chinese,
}

/// What to do about a treatment, with the evidence for it.
pub fn sentence(experiment: &Experiment, comparison: &Comparison, criteria: Criteria, language: Language) -> String {
    let alpha = criteria.alpha;
    let words = Words { control: &experiment.control, treatment: &comparison.treatment, language, alpha };
    let of = |status: Status| comparison.metrics.iter().filter(move |compared| compared.status == status);
    if !experiment.sample_ratio.is_healthy {
        return words.unhealthy(experiment.sample_ratio.p_value);
    }
    if of(Status::NoData).count() == comparison.metrics.len() {
        return words.no_data();
    }
    if let Some(harm) = of(Status::Harm).next() {
        return words.keep(harm);
    }
    // A metric without variance, such as a share of zero, is ignored.
    let open = of(Status::Undecided).filter_map(|compared| Some((compared.information?, compared.days_left)));
    if let Some((information, days_left)) = open.min_by(|one, other| one.0.total_cmp(&other.0)) {
        return words.undecided(information, days_left);
    }
    match of(Status::Better).next() {
        Some(better) => words.choose(better),
        None => words.alike(),
    }
}

/// A status as reports spell it.
pub fn status_word(status: Status, information: Option<f64>, language: Language) -> String {
    let percent = information.unwrap_or_default() * 100.0;
    match (status, language) {
        (Status::NoData, Language::English) => "NO DATA".to_owned(),
        (Status::Undecided, Language::English) => format!("UNDECIDED ({percent:.0} % of plan)"),
        (Status::Safe, Language::English) => "SAFE".to_owned(),
        (Status::Harm, Language::English) => "HARM".to_owned(),
        (Status::Better, Language::English) => "BETTER".to_owned(),
        (Status::NoData, Language::Chinese) => "无数据".to_owned(),
        (Status::Undecided, Language::Chinese) => format!("未定（计划的 {percent:.0} %）"),
        (Status::Safe, Language::Chinese) => "安全".to_owned(),
        (Status::Harm, Language::Chinese) => "有害".to_owned(),
        (Status::Better, Language::Chinese) => "更好".to_owned(),
    }
}

struct Words<'e> {
    control: &'e str,
    treatment: &'e str,
    language: Language,
    alpha: f64,
}

impl Words<'_> {
    fn keep(&self, harm: &Compared) -> String {
        let (control, finding) = (self.control, self.finding(harm));
        match self.language {
            Language::English => format!("Keep {control}: {finding}."),
            Language::Chinese => format!("保留 {control}：{finding}。"),
        }
    }

    fn choose(&self, better: &Compared) -> String {
        let (treatment, finding) = (self.treatment, self.finding(better));
        match self.language {
            Language::English => {
                format!("Choose {treatment}: {finding}, and no other metric is worse by what matters.")
            }
            Language::Chinese => format!("选择 {treatment}：{finding}，其他指标没有明显变差。"),
        }
    }

    fn alike(&self) -> String {
        let (control, treatment) = (self.control, self.treatment);
        match self.language {
            Language::English => format!("{treatment} is as good as {control}: no metric is worse by what matters."),
            Language::Chinese => format!("{treatment} 与 {control} 一样好：没有指标明显变差。"),
        }
    }

    fn undecided(&self, information: f64, days_left: Option<f64>) -> String {
        let (treatment, percent) = (self.treatment, information * 100.0);
        if information >= 1.0 {
            return match self.language {
                Language::English => format!(
                    "Undecided on {treatment}: all planned evidence has come, and a difference lies near the limit."
                ),
                Language::Chinese => format!("{treatment} 尚无定论：计划证据已齐，差异接近界限。"),
            };
        }
        let time = days_left.map_or_else(String::new, |days| self.time_left(days));
        match self.language {
            Language::English => {
                format!("Undecided on {treatment}: {percent:.0} % of the planned evidence has come{time}. Go on.")
            }
            Language::Chinese => format!("{treatment} 尚无定论：已有计划证据的 {percent:.0} %{time}。请继续。"),
        }
    }

    /// How long the planned evidence takes at today's traffic.
    fn time_left(&self, days: f64) -> String {
        let (hours, whole_days) = ((days * 24.0).ceil(), days.ceil());
        match self.language {
            Language::English if days > 365.0 => "; the rest takes more than a year at today's traffic".to_owned(),
            Language::Chinese if days > 365.0 => "；按当前流量还需一年以上".to_owned(),
            Language::English if days < 2.0 => format!("; about {hours:.0} h to the planned size at today's traffic"),
            Language::Chinese if days < 2.0 => format!("；按当前流量约 {hours:.0} 小时达到计划样本量"),
            Language::English => format!("; about {whole_days:.0} days to the planned size at today's traffic"),
            Language::Chinese => format!("；按当前流量约 {whole_days:.0} 天达到计划样本量"),
        }
    }

    fn no_data(&self) -> String {
        match self.language {
            Language::English => {
                format!("No comparison yet: {} or {} has too few verdicts.", self.control, self.treatment)
            }
            Language::Chinese => format!("暂时无法比较：{} 或 {} 的结果太少。", self.control, self.treatment),
        }
    }

    fn unhealthy(&self, p_value: f64) -> String {
        match self.language {
            Language::English => format!(
                "Do not compare: units are not divided as settings say (sample ratio, p = {p_value:.1e}). \
                 Find what loses or adds requests of a variant first."
            ),
            Language::Chinese => {
                format!("请勿比较：分流比例与配置不符（p = {p_value:.1e}）。请先查明哪个组丢失或多出请求。")
            }
        }
    }

    /// What differs, by how much, and how sure that is.
    fn finding(&self, compared: &Compared) -> String {
        let difference = compared.difference.unwrap_or_default();
        let more = difference > 0.0;
        let size = amount(compared.metric, difference.abs(), self.language);
        let ends = compared.interval.unwrap_or([difference; 2]).map(f64::abs);
        let [low, high] = if more { ends } else { [ends[1], ends[0]] };
        let low = figure(compared.metric, low);
        let high = figure(compared.metric, high);
        let level = ((1.0 - self.alpha) * 1e6).round() / 1e4;
        let treatment = self.treatment;

        match self.language {
            Language::English => {
                let verb = match (compared.metric, more) {
                    (Metric::Confidence, true) => "is surer by",
                    (Metric::Confidence, false) => "is less sure by",
                    (Metric::NoShare, true) => "says no more often, by",
                    (Metric::NoShare, false) => "says no less often, by",
                    (Metric::ReviewShare, true) => "sends more to people, by",
                    (Metric::ReviewShare, false) => "sends less to people, by",
                    (Metric::Misjudged, true) => "is contradicted by people more often, by",
                    (Metric::Misjudged, false) => "is contradicted by people less often, by",
                    (Metric::MisjudgedNo, true) => "says no wrongly more often, by",
                    (Metric::MisjudgedNo, false) => "says no wrongly less often, by",
                    (Metric::Latency, true) => "is slower by",
                    (Metric::Latency, false) => "is faster by",
                };
                format!("{treatment} {verb} {size} ({low} to {high}, {level} % valid at any time)")
            }
            Language::Chinese => {
                let verb = match (compared.metric, more) {
                    (Metric::Confidence, true) => "置信度高",
                    (Metric::Confidence, false) => "置信度低",
                    (Metric::NoShare, true) => "“否”类比例高",
                    (Metric::NoShare, false) => "“否”类比例低",
                    (Metric::ReviewShare, true) => "人工复核率高",
                    (Metric::ReviewShare, false) => "人工复核率低",
                    (Metric::Misjudged, true) => "误判率高",
                    (Metric::Misjudged, false) => "误判率低",
                    (Metric::MisjudgedNo, true) => "“否”类误判率高",
                    (Metric::MisjudgedNo, false) => "“否”类误判率低",
                    (Metric::Latency, true) => "延迟高",
                    (Metric::Latency, false) => "延迟低",
                };
                format!("{treatment} {verb} {size}（{low} 至 {high}，{level} % 区间随时有效）")
            }
        }
    }
}

fn amount(metric: Metric, value: f64, language: Language) -> String {
    let unit = match (metric, language) {
        (Metric::Latency, Language::English) => "ms",
        (Metric::Latency, Language::Chinese) => "毫秒",
        (_, Language::English) => "points",
        (_, Language::Chinese) => "个百分点",
    };
    format!("{} {unit}", figure(metric, value))
}

fn figure(metric: Metric, value: f64) -> String {
    match metric {
        Metric::Latency => format!("{value:.2}"),
        _ => format!("{:.1}", value * 100.0),
    }
}
