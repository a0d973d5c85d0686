//! From an answer to a decision. Pure.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    engine::Sources,
    message::{Answer, Decision, DecisionReason},
    settings::{Plan, Thresholds, Truncated},
};

/// What a decision depends on beside the answer, from settings.
#[derive(Clone, Debug)]
pub(super) struct DecisionRules {
    pub(super) thresholds: Thresholds,
    /// Those of versions that have their own.
    pub(super) version_thresholds: Arc<BTreeMap<String, Thresholds>>,
    pub(super) truncated: Truncated,
    pub(super) foreign_share_max: f64,
}

impl DecisionRules {
    pub(super) fn of(plan: &Plan) -> Self {
        let (truncated, foreign_share_max) = (plan.limits.truncated, plan.limits.foreign_share_max);
        let version_thresholds = plan.version_thresholds.clone();
        Self { thresholds: plan.thresholds, version_thresholds, truncated, foreign_share_max }
    }

    /// The decision on the answer of a version, and the reason if it differs from what the thresholds give. What was not read, or
    /// cannot be, is never approved.
    pub(super) fn decide(
        &self,
        version: &str,
        answer: &Answer,
        reading: &Reading,
    ) -> (Decision, Option<DecisionReason>) {
        let review = |reason| (Decision::Review, Some(reason));
        if reading.is_for_review {
            return review(DecisionReason::Rule);
        }
        if reading.says_nothing {
            return review(DecisionReason::EmptyText);
        }
        if reading.foreign_share > self.foreign_share_max {
            return review(DecisionReason::ForeignScript);
        }
        match self.truncated {
            Truncated::Review if reading.is_truncated => review(DecisionReason::TextTruncated),
            Truncated::Reject if reading.is_truncated => (Decision::Reject, Some(DecisionReason::TextTruncated)),
            _ => {
                let thresholds = self.version_thresholds.get(version).unwrap_or(&self.thresholds);
                (thresholds.decide(answer.result, answer.confidence), None)
            }
        }
    }
}

/// What a version read of a request, and what it did not.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Reading {
    /// Tokens of the longest text.
    pub(super) tokens: usize,
    pub(super) is_truncated: bool,
    pub(super) foreign_share: f64,
    /// A text says nothing, and settings send it to review.
    pub(super) says_nothing: bool,
    /// A rule sends the request to review.
    pub(super) is_for_review: bool,
}

impl Reading {
    pub(super) fn new(sources: &Sources, says_nothing: bool, is_for_review: bool) -> Self {
        Self {
            tokens: sources.tokens(),
            is_truncated: sources.is_truncated,
            foreign_share: sources.foreign_share,
            says_nothing,
            is_for_review,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Scores;

    #[test]
    fn what_was_not_read_is_never_approved_unless_settings_allow_it() {
        let answer = Answer::new(Scores { yes: 0.99, maybe: 0.01, no: 0.0 }, "", 0);
        let thresholds = Thresholds { approve_confidence: 0.8, reject_confidence: 0.8 };
        let strict = Thresholds { approve_confidence: 0.995, reject_confidence: 0.8 };
        let version_thresholds = Arc::new(BTreeMap::from([("strict".to_owned(), strict)]));
        let rules = |truncated| DecisionRules {
            thresholds,
            version_thresholds: version_thresholds.clone(),
            truncated,
            foreign_share_max: 0.2,
        };
        let plain = Reading { tokens: 7, ..Reading::default() };
        let cut = Reading { is_truncated: true, ..plain };
        let cases = [
            (Truncated::Review, plain, Decision::Approve, None),
            (Truncated::Review, cut, Decision::Review, Some(DecisionReason::TextTruncated)),
            (Truncated::Reject, cut, Decision::Reject, Some(DecisionReason::TextTruncated)),
            (Truncated::Allow, cut, Decision::Approve, None),
            (
                Truncated::Allow,
                Reading { foreign_share: 0.21, ..plain },
                Decision::Review,
                Some(DecisionReason::ForeignScript),
            ),
            (Truncated::Allow, Reading { foreign_share: 0.2, ..plain }, Decision::Approve, None),
            (
                Truncated::Allow,
                Reading { says_nothing: true, ..plain },
                Decision::Review,
                Some(DecisionReason::EmptyText),
            ),
            (Truncated::Reject, Reading { is_for_review: true, ..cut }, Decision::Review, Some(DecisionReason::Rule)),
        ];
        for (truncated, reading, decision, reason) in cases {
            let decided = rules(truncated).decide("other", &answer, &reading);
            assert_eq!(decided, (decision, reason), "{truncated:?} {reading:?}");
        }
        let strict = rules(Truncated::Review).decide("strict", &answer, &plain);
        assert_eq!(strict, (Decision::Review, None), "a version with its own thresholds");
    }
}
