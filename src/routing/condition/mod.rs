//! The language of rules: comparisons joined by `and`, `or`, `not` and parentheses, as in
//! `text_length < 20 and image_resolution < 1024` or `user_role == 'admin'`.
//!
//! A comparison with an attribute that the request lacks, or that has another type, is neither true
//! nor false but missing, and missing stays missing under `not`: a rule about an attribute never
//! fires on a request without it.

mod parse;

use std::fmt;

use super::features::{Features, Field, Value};

/// A condition, read and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition(Expression);

#[derive(Clone, Debug, PartialEq)]
enum Expression {
    Compare { field: Field, operator: Operator, literal: Literal },
    Not(Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug, PartialEq)]
enum Literal {
    Number(f64),
    Text(String),
    Flag(bool),
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
        let before = self.source.get(..self.span.start).unwrap_or(&self.source).chars().count();
        let width = self.source.get(self.span.clone()).map_or(1, |blamed| blamed.chars().count().max(1));
        let (blanks, carets) = (" ".repeat(before), "^".repeat(width));
        write!(f, "{}\n    {}\n    {blanks}{carets}", self.reason, self.source)
    }
}

impl std::error::Error for ConditionError {}

impl Condition {
    /// Reads a condition and checks its types.
    ///
    /// # Errors
    /// With the place in the source and what was expected there.
    pub fn parse(source: &str) -> Result<Self, ConditionError> {
        parse::parse(source).map(Self)
    }

    /// Evaluates the condition. Total, and without allocation.
    pub fn evaluate(&self, features: &Features<'_>) -> Truth<'_> {
        self.0.evaluate(features)
    }
}

impl Expression {
    fn evaluate(&self, features: &Features<'_>) -> Truth<'_> {
        match self {
            Self::Compare { field, operator, literal } => match compare(features, field, *operator, literal) {
                Some(true) => Truth::True,
                Some(false) => Truth::False,
                None => Truth::Missing(match field {
                    Field::Attribute(name) => name,
                    Field::Known(_) => "",
                }),
            },
            Self::Not(inner) => match inner.evaluate(features) {
                Truth::True => Truth::False,
                Truth::False => Truth::True,
                missing @ Truth::Missing(_) => missing,
            },
            Self::And(left, right) => match (left.evaluate(features), right.evaluate(features)) {
                (Truth::False, _) | (_, Truth::False) => Truth::False,
                (missing @ Truth::Missing(_), _) | (_, missing @ Truth::Missing(_)) => missing,
                _ => Truth::True,
            },
            Self::Or(left, right) => match (left.evaluate(features), right.evaluate(features)) {
                (Truth::True, _) | (_, Truth::True) => Truth::True,
                (missing @ Truth::Missing(_), _) | (_, missing @ Truth::Missing(_)) => missing,
                _ => Truth::False,
            },
        }
    }
}

/// None where the request lacks the field or has it in another type.
fn compare(features: &Features<'_>, field: &Field, operator: Operator, literal: &Literal) -> Option<bool> {
    let ordering = match (features.get(field)?, literal) {
        (Value::Number(value), Literal::Number(literal)) => value.partial_cmp(literal)?,
        (Value::Text(value), Literal::Text(literal)) => value.cmp(literal.as_str()),
        (Value::Flag(value), Literal::Flag(literal)) => value.cmp(literal),
        _ => return None,
    };
    Some(match operator {
        Operator::Equal => ordering.is_eq(),
        Operator::NotEqual => ordering.is_ne(),
        Operator::Less => ordering.is_lt(),
        Operator::LessOrEqual => ordering.is_le(),
        Operator::Greater => ordering.is_gt(),
        Operator::GreaterOrEqual => ordering.is_ge(),
    })
}

#[cfg(test)]
mod tests;
