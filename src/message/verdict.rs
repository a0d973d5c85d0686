//! What consumers read: the answer, and everything needed to explain it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Device;
use crate::weights::Arithmetic;

/// Does the image entail the text?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Label {
    /// The image contradicts the text.
    No,
    /// The image neither entails nor contradicts the text.
    Maybe,
    /// The image entails the text.
    Yes,
}

impl Label {
    /// The label as verdicts spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Maybe => "maybe",
            Self::Yes => "yes",
        }
    }
}

/// The probability of each label; they sum to one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Scores {
    /// Probability that the image entails the text.
    pub yes: f32,
    /// Probability that it does neither.
    pub maybe: f32,
    /// Probability that the image contradicts the text.
    pub no: f32,
}

impl Scores {
    /// With six decimals: networks in other precisions differ in the fourth.
    #[must_use]
    pub fn rounded(self) -> Self {
        let round = |share: f32| ((f64::from(share) * 1e6).round() / 1e6) as f32;
        Self { yes: round(self.yes), maybe: round(self.maybe), no: round(self.no) }
    }

    /// The probability of one label.
    pub fn of(&self, label: Label) -> f32 {
        match label {
            Label::No => self.no,
            Label::Maybe => self.maybe,
            Label::Yes => self.yes,
        }
    }

    /// The label with the highest probability; of equal ones the less favourable, so that a tie
    /// never approves.
    pub fn best(&self) -> Label {
        let less_favourable_last = [Label::Yes, Label::Maybe, Label::No];
        less_favourable_last.into_iter().max_by(|a, b| self.of(*a).total_cmp(&self.of(*b))).unwrap_or(Label::No)
    }
}

/// What to do with the content, by the thresholds in settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// The text fits the image with enough confidence.
    Approve,
    /// The text contradicts the image with enough confidence.
    Reject,
    /// A person should look.
    Review,
}

impl Decision {
    /// The decision as verdicts spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Reject => "reject",
            Self::Review => "review",
        }
    }
}

/// Why a decision is another than the scores alone would give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DecisionReason {
    /// A rule sends the request to review.
    Rule,
    /// A text says nothing: it has no letter, digit or symbol.
    EmptyText,
    /// A text is in a script that the version does not know.
    ForeignScript,
    /// A part of a text or of the caption was not read.
    TextTruncated,
}

impl DecisionReason {
    /// The reason as verdicts spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::EmptyText => "empty_text",
            Self::ForeignScript => "foreign_script",
            Self::TextTruncated => "text_truncated",
        }
    }
}

/// Whether a verdict counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The verdict that is acted on.
    Live,
    /// A verdict for comparison, in a topic of its own.
    Shadow,
}

/// The live verdict that a shadow verdict is compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LiveAnswer {
    /// The version that answered.
    pub model_version: String,
    /// Its label.
    pub result: Label,
    /// The probability of that label.
    pub confidence: f32,
    /// The probability of every label.
    pub scores: Scores,
    /// What was decided.
    pub decision: Decision,
    /// Whether both versions gave the same label.
    pub agrees: bool,
}

/// How the unit was assigned to its variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Assignment {
    /// Digest of the experiment's unit, salt, epoch, scheme and variants: only verdicts of one definition may be compared.
    /// Absent in verdicts of earlier releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<String>,
    /// A digest of the unit, where it is not the request's id. It differs from experiment to experiment.
    /// With `evidence.unit_salt_file` it is salted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit_hash: Option<String>,
    /// The unit itself, where `evidence.unit_values` is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit_value: Option<String>,
    /// Which field was hashed: `request_id`, `key` or an attribute's name.
    pub unit: String,
    /// The assignment scheme.
    #[schemars(extend("enum" = ["m3v1", "unleash", "optimizely", "flagd"]))]
    pub scheme: String,
    /// How the scheme picked among variants: `cumulative` or `rendezvous`.
    #[schemars(extend("enum" = ["cumulative", "rendezvous"]))]
    #[serde(default = "cumulative")]
    pub assignment: String,
    /// Counts deliberate re-randomisations of the experiment.
    pub epoch: u32,
    /// The probability with which a unit of this experiment gets this variant.
    pub propensity: f64,
    /// The layer of the experiment; at most one experiment of a layer takes a unit. `default` where it is in none.
    pub layer: String,
    /// Whether settings name this unit and its variant, so that no chance was involved: comparisons leave it out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forced: bool,
}

fn once() -> usize {
    1
}

fn cumulative() -> String {
    "cumulative".to_owned()
}

/// A record of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RecordPosition {
    /// The topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// The offset in the partition.
    pub offset: i64,
}

/// Why this version answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RouteTaken {
    /// `forced`, `rule`, `holdout`, `experiment`, `promoted` or `default`.
    #[schemars(extend("enum" = ["forced", "rule", "holdout", "experiment", "promoted", "default"]))]
    pub reason: String,
    /// Name of the rule, the holdout or the promoted experiment that decided.
    pub rule: Option<String>,
    /// SHA-256 of the configuration that decided: routing and thresholds.
    pub config_digest: String,
    /// The probability of each version for this request under this configuration, over the hash of its units: holdouts,
    /// experiments and the default together. Versions that cannot answer it are absent. Absent where experiments share a salt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probabilities: Option<BTreeMap<String, f64>>,
}

/// The answer to one of several texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Answer {
    /// The label with the highest probability.
    pub result: Label,
    /// Its probability.
    pub confidence: f32,
    /// The probability of every label.
    pub scores: Scores,
    /// The beginning of the text, as far as settings allow.
    pub text_preview: String,
}

impl Answer {
    /// The answer to a text, of which the first `preview_characters` are kept.
    pub fn new(scores: Scores, text: &str, preview_characters: usize) -> Self {
        // Rounded after the label is chosen, so that rounding makes no tie.
        let result = scores.best();
        let scores = scores.rounded();
        let text_preview = text.chars().take(preview_characters).collect();
        Self { result, confidence: scores.of(result), scores, text_preview }
    }

    /// The answer that decides over all: the least favourable, because the image must entail every
    /// text. Of several `no` the one with the highest probability of no, of several `maybe` or `yes` the one with the lowest of
    /// yes: the order of the texts decides nothing. None where there are no answers.
    pub fn decisive(answers: &[Self]) -> Option<&Self> {
        let by_yes = |a: &Self, b: &Self| a.scores.yes.total_cmp(&b.scores.yes);
        let by_no = |a: &Self, b: &Self| b.scores.no.total_cmp(&a.scores.no);
        answers.iter().min_by(|a, b| {
            a.result.cmp(&b.result).then_with(|| match a.result {
                Label::No => by_no(a, b).then_with(|| by_yes(a, b)),
                Label::Maybe | Label::Yes => by_yes(a, b).then_with(|| by_no(a, b)),
            })
        })
    }
}

/// Where the time went, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TimingsMs {
    /// Getting the encoded image: base64 or file.
    pub fetch: f64,
    /// Decoding and resizing the image, and tokenizing the text.
    pub decode: f64,
    /// Waiting for the model.
    pub queue: f64,
    /// The batch in the model.
    pub inference: f64,
}

/// A verdict. The flat names are those that A/B logs and spreadsheets already have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    /// The request's own id.
    pub request_id: String,
    /// When the verdict was made, RFC 3339 in UTC with milliseconds.
    #[schemars(extend("format" = "date-time"))]
    pub timestamp: String,
    /// The record of the request, where it was published first. Absent in verdicts of earlier releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<RecordPosition>,
    /// The dead letter that an operator replayed as this request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed_from: Option<RecordPosition>,
    /// The instance that answered: `kafka.instance_id`, or its host and process.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance: String,
    /// The label with the highest probability. For several texts: the least favourable of their
    /// results (no before maybe before yes), because the image must entail them all.
    pub result: Label,
    /// The probability of `result`; for several texts, that of the answer which decided.
    pub confidence: f32,
    /// The probability of every label, of the answer which decided.
    pub scores: Scores,
    /// One answer per text, in order, where the request had a list of texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Vec<Answer>>,
    /// What to do, by the thresholds in settings, unless `decision_reason` says otherwise.
    pub decision: Decision,
    /// Why the decision is another than the thresholds give; absent where it is theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision_reason: Option<DecisionReason>,
    /// True when `decision` is `review`.
    pub is_manual_review: bool,
    /// The probability with which people are shown this verdict: 1 where `decision` is `review`, `review.audit_share` otherwise.
    /// Labels by people weigh by one over it. Absent in shadow verdicts, and in verdicts of earlier releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review_probability: Option<f64>,
    /// True if the audit slice picked this automatic decision for people.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub review_sampled: bool,
    /// The version that answered.
    pub model_version: String,
    /// SHA-256 of that version's weights.
    pub model_digest: String,
    /// The device it ran on.
    pub backend: Device,
    /// What it computed in.
    pub precision: Arithmetic,
    /// The experiment that took the request.
    pub ab_experiment: Option<String>,
    /// The variant it was assigned to.
    pub ab_variant: Option<String>,
    /// Whether this verdict counts.
    pub ab_role: Role,
    /// How it was assigned.
    pub ab: Option<Assignment>,
    /// Why this version answered.
    pub route: RouteTaken,
    /// The value of each segment that `[evidence]` declares: one of the declared values, `other`, or `missing`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub segments: BTreeMap<String, String>,
    /// SHA-256 of the encoded image.
    pub image_hash: String,
    /// The beginning of the text, as far as settings allow.
    pub text_preview: String,
    /// Length of the text in characters; the longest, where there are several.
    pub text_length: usize,
    /// Tokens that the version read of the longest text, its prompt included.
    #[serde(default)]
    pub text_tokens: usize,
    /// Whether a part of a text or of the caption was not read, because the version reads no more tokens.
    #[serde(default)]
    pub text_truncated: bool,
    /// Width of the image in pixels, upright.
    pub image_width: u32,
    /// Height of the image in pixels, upright.
    pub image_height: u32,
    /// The time of the request's record, RFC 3339 in UTC with milliseconds; null where it has none.
    #[serde(default)]
    #[schemars(extend("format" = "date-time"))]
    pub requested_at: Option<String>,
    /// From then to the verdict, in milliseconds, waiting in Kafka included; null where the record has no time.
    #[serde(default)]
    pub age_ms: Option<f64>,
    /// How often the request was tried: more than once where it waited in a retry topic, or where its first transaction was
    /// aborted.
    #[serde(default = "once")]
    pub attempts: usize,
    /// From the record's arrival in the program to the verdict, in milliseconds. Of a request whose first transaction was
    /// aborted, that of its first try. It leaves out waiting in Kafka, which `age_ms` has.
    pub latency_ms: f64,
    /// Where the time went.
    pub timings_ms: TimingsMs,
    /// Whether the answer was kept from an earlier request with the same image, texts and version: no pass was needed,
    /// so comparisons of latency leave it out.
    #[serde(default)]
    pub cached: bool,
    /// Versions that are meant to judge this request as shadows. Their verdicts may be missing: a cached answer has none, and
    /// otherwise the device had no time, or the shadow failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shadows: Vec<String>,
    /// The live verdict, in a shadow verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveAnswer>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_scores_the_less_favourable_label_wins() {
        let third = 1.0 / 3.0;
        assert_eq!(Scores { yes: third, maybe: third, no: third }.best(), Label::No);
        assert_eq!(Scores { yes: 0.4, maybe: 0.4, no: 0.2 }.best(), Label::Maybe);
        assert_eq!(Scores { yes: 0.5, maybe: 0.3, no: 0.2 }.best(), Label::Yes);
    }

    #[test]
    fn of_several_answers_the_least_favourable_decides() {
        let answer = |yes, maybe, no| Answer::new(Scores { yes, maybe, no }, "words that go on", 5);
        let answers = [answer(0.9, 0.1, 0.0), answer(0.1, 0.2, 0.7), answer(0.1, 0.8, 0.1)];
        let decisive = Answer::decisive(&answers).unwrap();
        assert_eq!((decisive.result, decisive.confidence, decisive.text_preview.as_str()), (Label::No, 0.7, "words"));
        assert!(Answer::decisive(&[]).is_none());
    }

    proptest::proptest! {
        #[test]
        fn the_order_of_texts_decides_nothing(
            parts in proptest::collection::vec((0_u32..6, 0_u32..6, 1_u32..6), 1..6),
            turns in 0_usize..6,
        ) {
            let answer = |&(yes, maybe, no): &(u32, u32, u32)| {
                let share = |part: u32| part as f32 / (yes + maybe + no) as f32;
                Answer::new(Scores { yes: share(yes), maybe: share(maybe), no: share(no) }, "", 0)
            };
            let answers: Vec<Answer> = parts.iter().map(answer).collect();
            let mut others = answers.clone();
            let turns = turns % others.len();
            others.rotate_left(turns);
            others.reverse();
            let (one, other) = (Answer::decisive(&answers).unwrap(), Answer::decisive(&others).unwrap());
            proptest::prop_assert_eq!(one, other);
            let is_no_better = |answer: &Answer| one.result < answer.result
                || (one.result == answer.result && match one.result {
                    Label::No => one.scores.no >= answer.scores.no,
                    Label::Maybe | Label::Yes => one.scores.yes <= answer.scores.yes,
                });
            proptest::prop_assert!(answers.iter().all(is_no_better));
        }
    }
}
