//! The demo's tables.

use std::collections::BTreeMap;

use comfy_table::Table;
use serde::Serialize;

use super::{super::output, collect::Gathered};
use crate::{
    message::{Label, Verdict},
    settings::Plan,
};

/// Everything the demo shows.
#[derive(Serialize)]
pub(super) struct Report<'g> {
    published: usize,
    unanswered: usize,
    seconds: f64,
    verdicts: Vec<Judged<'g>>,
    dead_letters: Vec<DeadLetterRow<'g>>,
    variants: Vec<VariantSummary>,
}

#[derive(Serialize)]
struct Judged<'g> {
    #[serde(flatten)]
    verdict: &'g Verdict,
    /// What it should be, where the request says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<Label>,
}

impl Judged<'_> {
    fn is_right(&self) -> Option<bool> {
        self.expected.map(|expected| expected == self.verdict.result)
    }
}

#[derive(Serialize)]
struct DeadLetterRow<'g> {
    request_id: &'g str,
    code: &'g str,
    reason: &'g str,
}

/// One way that requests took, and how they fared.
#[derive(Serialize)]
struct VariantSummary {
    group: String,
    model_version: String,
    verdicts: usize,
    /// Of those whose request says what they should be.
    right: usize,
    judged: usize,
    mean_confidence: f64,
    yes_share: f64,
    maybe_share: f64,
    no_share: f64,
    latency_ms_p50: f64,
    latency_ms_p95: f64,
}

impl<'g> Report<'g> {
    pub(super) fn new(gathered: &'g Gathered) -> Self {
        let dead_letters = gathered.dead_letters.values().map(|refused| DeadLetterRow {
            request_id: &refused.request,
            code: &refused.code,
            reason: &refused.reason,
        });
        let verdicts: Vec<Judged<'_>> = gathered
            .verdicts
            .iter()
            .map(|(number, verdict)| Judged { verdict, expected: gathered.expected.get(number).copied() })
            .collect();
        Self {
            published: gathered.published,
            unanswered: gathered.unanswered(),
            seconds: gathered.took.as_secs_f64(),
            variants: summaries(&verdicts),
            verdicts,
            dead_letters: dead_letters.collect(),
        }
    }

    /// The report for people.
    pub(super) fn text(&self) -> String {
        format!(
            "Verdicts\n{}\n\nDead letters\n{}\n\nGroups\n{}\n\n\
             {} requests: {} verdicts, {} dead letters, {} unanswered, in {:.1} s from the first request",
            self.verdict_table(),
            self.dead_letter_table(),
            self.group_table(),
            self.published,
            self.verdicts.len(),
            self.dead_letters.len(),
            self.unanswered,
            self.seconds
        )
    }

    fn verdict_table(&self) -> Table {
        let rows = self.verdicts.iter().map(|judged| {
            let verdict = judged.verdict;
            let route =
                verdict.route.rule.as_ref().map_or(verdict.route.reason.clone(), |rule| format!("rule: {rule}"));
            vec![
                verdict.request_id.clone(),
                shortened(&verdict.text_preview, 34),
                route,
                verdict.ab_variant.clone().unwrap_or_else(|| "-".to_owned()),
                verdict.model_version.clone(),
                judged.expected.map_or("-", Label::as_str).to_owned(),
                match judged.is_right() {
                    Some(false) => format!("{} ✗", verdict.result.as_str()),
                    Some(true) | None => verdict.result.as_str().to_owned(),
                },
                format!("{:.3}", verdict.confidence),
                format!("{:.1}", verdict.latency_ms),
            ]
        });
        let columns = ["request", "text", "route", "variant", "version", "expected", "result", "confidence", "ms"];
        output::table(&columns, &["confidence", "ms"], rows)
    }

    fn dead_letter_table(&self) -> Table {
        let rows = self
            .dead_letters
            .iter()
            .map(|letter| vec![letter.request_id.to_owned(), letter.code.to_owned(), shortened(letter.reason, 90)]);
        output::table(&["request", "code", "reason"], &[], rows)
    }

    fn group_table(&self) -> Table {
        let percent = |share: f64| format!("{:.0} %", share * 100.0);
        let rows = self.variants.iter().map(|variant| {
            vec![
                variant.group.clone(),
                variant.model_version.clone(),
                variant.verdicts.to_string(),
                format!("{} of {}", variant.right, variant.judged),
                format!("{:.3}", variant.mean_confidence),
                percent(variant.yes_share),
                percent(variant.maybe_share),
                percent(variant.no_share),
                format!("{:.1}", variant.latency_ms_p50),
                format!("{:.1}", variant.latency_ms_p95),
            ]
        });
        let numbers = ["verdicts", "right", "confidence", "yes", "maybe", "no", "p50 ms", "p95 ms"];
        let columns: Vec<&str> = ["group", "version"].into_iter().chain(numbers).collect();
        output::table(&columns, &numbers, rows)
    }
}

fn summaries(verdicts: &[Judged<'_>]) -> Vec<VariantSummary> {
    let mut groups: BTreeMap<(String, String), Vec<&Judged<'_>>> = BTreeMap::new();
    for judged in verdicts {
        let verdict = judged.verdict;
        let group = verdict.ab_variant.clone().unwrap_or_else(|| format!("({})", verdict.route.reason));
        groups.entry((group, verdict.model_version.clone())).or_default().push(judged);
    }
    groups.into_iter().map(|((group, model_version), verdicts)| summary(group, model_version, &verdicts)).collect()
}

fn summary(group: String, model_version: String, judged: &[&Judged<'_>]) -> VariantSummary {
    let verdicts: Vec<&Verdict> = judged.iter().map(|judged| judged.verdict).collect();
    let known: Vec<bool> = judged.iter().filter_map(|judged| judged.is_right()).collect();
    let count = verdicts.len();
    let share = |label: Label| verdicts.iter().filter(|verdict| verdict.result == label).count() as f64 / count as f64;
    // Kept answers would flatter their version.
    let measured = verdicts.iter().filter(|verdict| !verdict.cached);
    let mut latencies: Vec<f64> = measured.map(|verdict| verdict.latency_ms).collect();
    latencies.sort_by(f64::total_cmp);
    VariantSummary {
        group,
        model_version,
        verdicts: count,
        right: known.iter().filter(|is_right| **is_right).count(),
        judged: known.len(),
        mean_confidence: verdicts.iter().map(|verdict| f64::from(verdict.confidence)).sum::<f64>() / count as f64,
        yes_share: share(Label::Yes),
        maybe_share: share(Label::Maybe),
        no_share: share(Label::No),
        latency_ms_p50: percentile(&latencies, 0.50),
        latency_ms_p95: percentile(&latencies, 0.95),
    }
}

/// The smallest value with at least this share of the sorted values at or below it (nearest rank).
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied().unwrap_or_default()
}

fn shortened(text: &str, characters_max: usize) -> String {
    if text.chars().count() > characters_max {
        text.chars().take(characters_max - 1).chain(['…']).collect()
    } else {
        text.to_owned()
    }
}

/// What can be done with the demo once it is left running.
pub(super) fn how_to_go_on(plan: &Plan, address: &str) -> String {
    let kafka = &plan.kafka;
    let metrics = plan.telemetry.listen.map_or("off".to_owned(), |listen| format!("http://{listen}/metrics"));
    format!(
        "\nStill running; stop it with Ctrl-C.\n\
         metrics   {metrics}\n\
         request   echo '{{\"request_id\":\"mine\",\"text\":\"a red circle\",\"image\":{{\"base64\":\"'$(base64 -w0 testdata/demo/sticker-08.jpg)'\"}}}}' \\\n\
         \x20           | kcat -P -b {address} -t {} -k me\n\
         verdicts  kcat -C -b {address} -t {} -o beginning\n\
         or        ofa-stream produce testdata/demo/requests.jsonl --unchecked --bootstrap-servers {address}",
        kafka.requests, kafka.verdicts
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::collect::Refused, *};
    use crate::{
        message::{Answer, Decision, Device, Role, RouteTaken, Scores, TimingsMs},
        weights::Arithmetic,
    };

    fn verdict(number: u32, rule: Option<&str>, variant: Option<&str>, scores: Scores) -> Verdict {
        let answer = Answer::new(scores, "a text that goes on for longer than the column is wide", 80);
        Verdict {
            request_id: format!("shop-{number:02}"),
            timestamp: String::new(),
            segments: Default::default(),
            review_probability: None,
            review_sampled: false,
            shadows: Vec::new(),
            source: None,
            replayed_from: None,
            instance: String::new(),
            result: answer.result,
            confidence: answer.confidence,
            scores,
            answers: None,
            decision: Decision::Review,
            decision_reason: None,
            is_manual_review: true,
            model_version: "ofa_base".to_owned(),
            model_digest: String::new(),
            backend: Device::Flex,
            precision: Arithmetic::F32,
            ab_experiment: variant.map(|_| "compare".to_owned()),
            ab_variant: variant.map(str::to_owned),
            ab_role: Role::Live,
            ab: None,
            route: RouteTaken {
                reason: if rule.is_some() { "rule" } else { "experiment" }.to_owned(),
                rule: rule.map(str::to_owned),
                config_digest: String::new(),
                probabilities: None,
            },
            image_hash: String::new(),
            text_preview: answer.text_preview,
            text_length: 54,
            text_tokens: 12,
            text_truncated: false,
            requested_at: None,
            age_ms: None,
            attempts: 1,
            image_width: 64,
            image_height: 64,
            latency_ms: f64::from(number) * 10.0,
            timings_ms: TimingsMs::default(),
            cached: false,
            live: None,
        }
    }

    #[test]
    fn the_report_shows_verdicts_dead_letters_and_groups() {
        let yes = Scores { yes: 0.7, maybe: 0.2, no: 0.1 };
        let no = Scores { yes: 0.2, maybe: 0.2, no: 0.6 };
        let verdicts = [
            verdict(1, None, Some("control"), yes),
            verdict(2, None, Some("control"), no),
            verdict(3, Some("thumbnail"), None, yes),
        ];
        let refused = Refused {
            request: "bad-01".to_owned(),
            code: "missing_field".to_owned(),
            reason: "missing field `text`".to_owned(),
        };
        let gathered = Gathered {
            published: 5,
            verdicts: (1..).zip(verdicts).collect(),
            dead_letters: BTreeMap::from([(4, refused)]),
            expected: BTreeMap::from([(1, Label::Yes), (2, Label::Yes)]),
            took: Duration::from_millis(2_340),
        };
        insta::assert_snapshot!(Report::new(&gathered).text());
    }

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let values: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!((percentile(&values, 0.5), percentile(&values, 0.95), percentile(&values, 0.0)), (10.0, 19.0, 1.0));
        assert_eq!(percentile(&[7.0], 0.95), 7.0);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }
}
