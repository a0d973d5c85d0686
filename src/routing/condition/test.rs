//! What one comparison asks of one value. Total, and without allocation.

use std::{cmp::Ordering, net::IpAddr};

use ipnet::IpNet;
use jiff::Timestamp;
use regex::Regex;

use super::semantic_version::{self, SemanticVersion};
use crate::routing::features::{Value, WHOLE_MAX};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Operator {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Equal => ordering.is_eq(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

/// `!=` and `not in` are these, negated.
#[derive(Clone, Debug)]
pub(super) enum Test {
    Number(Operator, f64),
    NumberAmong(Box<[f64]>),
    /// From the first up to, not including, the second; round the end where the first is larger.
    NumberRange(f64, f64),
    Text(Box<str>),
    TextAmong(Box<[Box<str>]>),
    Contains(Box<[Box<str>]>),
    StartsWith(Box<[Box<str>]>),
    EndsWith(Box<[Box<str>]>),
    Matches(Regex),
    Flag(bool),
    Version(Operator, SemanticVersion<Box<str>>),
    Time(Operator, Timestamp),
    Networks(Box<[IpNet]>),
}

impl Test {
    /// None where the value is of a type that this cannot be asked of, or cannot be read as one.
    pub(super) fn holds(&self, value: Value<'_>) -> Option<bool> {
        match value {
            Value::Number(value) => self.holds_for_number(value),
            Value::Text(text) => self.holds_for_text(text),
            // Any of them will do; where none does, one that cannot be asked leaves it open.
            Value::Texts(texts) => {
                let mut none_holds = (!texts.is_empty()).then_some(false);
                for text in texts {
                    match self.holds_for_text(text) {
                        Some(true) => return Some(true),
                        Some(false) => {}
                        None => none_holds = None,
                    }
                }
                none_holds
            }
            Value::Flag(flag) => match self {
                Self::Flag(wanted) => Some(flag == *wanted),
                _ => None,
            },
            Value::Time(time) => match self {
                Self::Time(operator, wanted) => Some(operator.holds(time.cmp(wanted))),
                _ => None,
            },
        }
    }

    fn holds_for_number(&self, value: f64) -> Option<bool> {
        // Such a number may be another one that was rounded: it is equal to none, and different from none.
        let is_exact = value.abs() < WHOLE_MAX;
        Some(match self {
            Self::Number(Operator::Equal, _) | Self::NumberAmong(_) if !is_exact => return None,
            Self::Number(operator, wanted) => operator.holds(value.partial_cmp(wanted)?),
            _ if value.is_nan() => return None,
            Self::NumberAmong(wanted) => wanted.contains(&value),
            Self::NumberRange(low, high) if low <= high => *low <= value && value < *high,
            Self::NumberRange(low, high) => *low <= value || value < *high,
            _ => return None,
        })
    }

    fn holds_for_text(&self, text: &str) -> Option<bool> {
        let any = |wanted: &[Box<str>], holds: fn(&str, &str) -> bool| wanted.iter().any(|one| holds(text, one));
        Some(match self {
            Self::Text(wanted) => *text == **wanted,
            Self::TextAmong(wanted) => any(wanted, |text, one| text == one),
            Self::Contains(wanted) => any(wanted, |text, one| text.contains(one)),
            Self::StartsWith(wanted) => any(wanted, |text, one| text.starts_with(one)),
            Self::EndsWith(wanted) => any(wanted, |text, one| text.ends_with(one)),
            Self::Matches(regex) => regex.is_match(text),
            Self::Version(operator, wanted) => {
                let version = SemanticVersion::parse(text)?;
                operator.holds(semantic_version::precedence(&version, wanted))
            }
            Self::Time(operator, wanted) => operator.holds(text.parse::<Timestamp>().ok()?.cmp(wanted)),
            Self::Networks(networks) => {
                // An IPv4 address that came over IPv6 is that address.
                let address = text.parse::<IpAddr>().ok()?.to_canonical();
                networks.iter().any(|network| network.contains(&address))
            }
            Self::Number(..) | Self::NumberAmong(_) | Self::NumberRange(..) | Self::Flag(_) => return None,
        })
    }
}
