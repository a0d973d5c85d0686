//! The language of rules: comparisons joined by `and`, `or`, `not` and parentheses, as in
//! `text_length < 20 and image_resolution < 1024` or `region in ['cn-east', 'cn-north']`.
//!
//! * `grammar`: from text to what is written.
//! * `check`: names and types, into an expression that cannot go wrong.
//! * `test`: what one comparison asks of one value.
//! * `semantic_version`: how versions such as `2.3.0` compare.
//!
//! A comparison with an attribute that the request lacks, or that has another type, is neither true
//! nor false but missing, and missing stays missing under `not`: it never makes a condition hold, in
//! either polarity. Under `and` and `or` the other side may decide without it.

mod check;
mod grammar;
mod semantic_version;
mod test;

use std::fmt;

use unicode_width::UnicodeWidthStr;

use self::test::Test;
use super::features::{Features, Field};

/// A condition, read and checked.
#[derive(Clone, Debug)]
pub struct Condition(Expression);

#[derive(Clone, Debug)]
enum Expression {
    Comparison(Comparison),
    Not(Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
}

/// A field, what is asked of it, and how that is written.
#[derive(Clone, Debug)]
struct Comparison {
    field: Field,
    /// Whether the test must fail: `!=` and `not in`.
    negated: bool,
    test: Test,
    source: Box<str>,
}

/// What a condition is for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth<'c> {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It cannot be told, because the request lacks this attribute, or has it in another type.
    Missing(&'c str),
}

/// A condition that cannot be read, with the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionError {
    source: String,
    /// Bytes of the source that are to blame.
    span: std::ops::Range<usize>,
    reason: String,
}

impl fmt::Display for ConditionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, end) = (self.span.start.min(self.source.len()), self.span.end.min(self.source.len()));
        let before = self.source.get(..start).unwrap_or_default();
        // A condition may go over several lines, and one line may be very long.
        let line = before.rfind('\n').map_or(0, |place| place + 1);
        let rest = self.source.get(line..).unwrap_or_default();
        let rest = rest.split('\n').next().unwrap_or_default();
        let blamed = (start - line, end.saturating_sub(line).min(rest.len()));
        let from = rest.char_indices().rev().map(|(place, _)| place);
        let from = from.filter(|place| *place <= blamed.0).nth(SHOWN_BEFORE).unwrap_or(0);
        let to = rest.char_indices().map(|(place, _)| place).filter(|place| *place >= blamed.1.max(blamed.0));
        let to = to.into_iter().nth(SHOWN_BEHIND).unwrap_or(rest.len());
        let cut = |cut: bool| if cut { "…" } else { "" };
        let shown = format!("{}{}{}", cut(from > 0), rest.get(from..to).unwrap_or(rest), cut(to < rest.len()));
        let blanks = rest.get(from..blamed.0).map_or(0, UnicodeWidthStr::width) + usize::from(from > 0);
        let carets = rest.get(blamed.0..blamed.1).map_or(0, UnicodeWidthStr::width).max(1);
        let shown = shown.replace('\t', " ");
        write!(f, "{}\n    {shown}\n    {}{}", self.reason, " ".repeat(blanks), "^".repeat(carets))
    }
}

impl std::error::Error for ConditionError {}

/// Characters of a line that errors show before and behind the place.
const SHOWN_BEFORE: usize = 80;
const SHOWN_BEHIND: usize = 60;
const CONDITION_BYTES_MAX: usize = 4_000;
/// Reading recurses with each parenthesis; this keeps it far from the end of the stack.
const NESTING_MAX: usize = 50;

impl Condition {
    /// Reads a condition and checks its names and types.
    ///
    /// # Errors
    /// With the place in the source and what was expected there.
    pub fn parse(source: &str) -> Result<Self, ConditionError> {
        let refuse = |(reason, span)| ConditionError { source: source.to_owned(), span, reason };
        if source.len() > CONDITION_BYTES_MAX {
            return Err(refuse((format!("the condition is longer than {CONDITION_BYTES_MAX} bytes"), 0..1)));
        }
        if let Some(place) = too_deep(source) {
            return Err(refuse((format!("parentheses are nested more than {NESTING_MAX} deep"), place..place + 1)));
        }
        let written = grammar::parse(source).map_err(refuse)?;
        check::checked(written, source).map(Self).map_err(refuse)
    }

    /// Evaluates the condition. Total, and without allocation.
    pub fn evaluate(&self, features: &Features<'_>) -> Truth<'_> {
        self.0.evaluate(features)
    }

    /// Why it does not hold, for people: the comparisons that decide, with the values they met.
    pub fn why_not(&self, features: &Features<'_>) -> String {
        let mut reasons = Vec::new();
        self.0.reasons(features, &mut reasons);
        reasons.join("; ")
    }
}

/// Reads a feature or an attribute as conditions spell it, such as `region`, `attributes['app-version']` or
/// `hour('Asia/Shanghai')`.
pub(super) fn parse_field(source: &str) -> Result<Field, ConditionError> {
    let refuse = |(reason, span)| ConditionError { source: source.to_owned(), span, reason };
    if source.len() > CONDITION_BYTES_MAX {
        return Err(refuse((format!("the field is longer than {CONDITION_BYTES_MAX} bytes"), 0..1)));
    }
    grammar::parse_field(source).and_then(check::named).map_err(refuse)
}

/// Where parentheses outside of texts are nested too deep.
fn too_deep(source: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0_usize, None);
    for (place, character) in source.char_indices() {
        match (quote, character) {
            (None, '\'' | '"') => quote = Some(character),
            (Some(open), _) if open == character => quote = None,
            (None, '(') => depth += 1,
            (None, ')') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > NESTING_MAX {
            return Some(place);
        }
    }
    None
}

impl Expression {
    fn evaluate(&self, features: &Features<'_>) -> Truth<'_> {
        match self {
            Self::Comparison(comparison) => comparison.evaluate(features),
            Self::Not(inner) => match inner.evaluate(features) {
                Truth::True => Truth::False,
                Truth::False => Truth::True,
                missing @ Truth::Missing(_) => missing,
            },
            Self::And(left, right) => match left.evaluate(features) {
                Truth::False => Truth::False,
                Truth::True => right.evaluate(features),
                missing @ Truth::Missing(_) => match right.evaluate(features) {
                    Truth::False => Truth::False,
                    _ => missing,
                },
            },
            Self::Or(left, right) => match left.evaluate(features) {
                Truth::True => Truth::True,
                Truth::False => right.evaluate(features),
                missing @ Truth::Missing(_) => match right.evaluate(features) {
                    Truth::True => Truth::True,
                    _ => missing,
                },
            },
        }
    }

    /// The comparisons that make it what it is.
    fn reasons(&self, features: &Features<'_>, reasons: &mut Vec<String>) {
        let truth = self.evaluate(features);
        match self {
            Self::Comparison(comparison) => reasons.push(comparison.in_words(features, truth)),
            Self::Not(inner) => inner.reasons(features, reasons),
            // One side that is as the whole is enough for `and` that is false and `or` that is true.
            Self::And(left, right) | Self::Or(left, right) => {
                let enough = matches!(
                    (self, truth),
                    (Self::And(..), Truth::False) | (Self::Or(..), Truth::True) | (_, Truth::Missing(_))
                );
                for side in [left, right] {
                    if !enough || side.evaluate(features) == truth {
                        side.reasons(features, reasons);
                        if enough {
                            return;
                        }
                    }
                }
            }
        }
    }
}

impl Comparison {
    fn evaluate(&self, features: &Features<'_>) -> Truth<'_> {
        match features.get(&self.field).and_then(|value| self.test.holds(value)) {
            Some(holds) if holds != self.negated => Truth::True,
            Some(_) => Truth::False,
            None => Truth::Missing(self.field.source()),
        }
    }

    fn in_words(&self, features: &Features<'_>, truth: Truth<'_>) -> String {
        let Self { field, source, .. } = self;
        match (features.get(field), truth) {
            (None, _) => format!("{field} is missing"),
            (Some(value), Truth::Missing(_)) => format!("{field} is {value}, which `{source}` cannot be asked of"),
            (Some(value), Truth::True) => format!("{field} is {value}, so `{source}` holds"),
            (Some(value), Truth::False) => format!("{field} is {value}, not `{source}`"),
        }
    }
}

#[cfg(test)]
mod tests;
