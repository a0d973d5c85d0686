//! Names and types of what is written.

use std::ops::Range;

use ipnet::{IpNet, Ipv4Net};
use jiff::{
    Timestamp,
    tz::{TimeZone, TimeZoneDatabase},
};
use regex::RegexBuilder;

use super::{
    Comparison, Expression,
    grammar::{Asked, Literal, Placed, Set, Word, Written, WrittenField},
    semantic_version::SemanticVersion,
    test::{Operator, Test},
};
use crate::routing::features::{FORMATS, Field, IN_ZONES, Kind, Known, WEEKDAYS, WHOLE_MAX, resembled};

/// Bytes that a compiled pattern may take, and so may the table by which it is matched.
const PATTERN_BYTES_MAX: usize = 1 << 20;

pub(super) fn checked(written: Written<'_>, source: &str) -> Result<Expression, Placed<String>> {
    let boxed = |inner: Box<Written<'_>>| checked(*inner, source).map(Box::new);
    Ok(match written {
        Written::Not(inner) => Expression::Not(boxed(inner)?),
        Written::And(left, right) => Expression::And(boxed(left)?, boxed(right)?),
        Written::Or(left, right) => Expression::Or(boxed(left)?, boxed(right)?),
        Written::Comparison { field, asked, span } => {
            let field = named(field)?;
            let (negated, test) = match asked {
                Asked::Compare { operator, literal } => compare(&field, operator, literal)?,
                Asked::Among { negated, set } => (negated, among(&field, set)?),
                Asked::Words { word, texts, span } => (false, words(&field, word, &texts, span)?),
            };
            let source = source.get(span).unwrap_or(source).trim().into();
            Expression::Comparison(Comparison { field, negated, test, source })
        }
    })
}

/// The field that a name stands for.
pub(super) fn named(written: WrittenField<'_>) -> Result<Field, Placed<String>> {
    let (path, place) = written.name;
    if written.is_attribute {
        return if path.is_empty() {
            Err(("an attribute has a name".to_owned(), place))
        } else {
            Ok(Field::Attribute(path.to_owned()))
        };
    }
    if let Some(in_zone) = IN_ZONES.iter().find(|name| **name == path) {
        let zone = written.argument.map_or(Ok(TimeZone::UTC), zone)?;
        return Ok(if *in_zone == "hour" { Field::Hour(zone) } else { Field::Weekday(zone) });
    }
    if let Some((_, place)) = written.argument {
        return Err((format!("`{path}` takes no argument; hour and weekday take a time zone"), place));
    }
    if let Some((_, known, _)) = Known::ALL.iter().find(|(name, ..)| *name == path) {
        return Ok(Field::Known(*known));
    }
    match path.split_once('.') {
        Some(("attributes", name)) if !name.contains('.') => return Ok(Field::Attribute(name.to_owned())),
        Some(_) => return Err((format!("`{path}` is no field: attributes are written `attributes.name`"), place)),
        None => {}
    }
    if matches!(path, "and" | "or" | "not" | "in" | "true" | "false") {
        return Err((format!("expected a field, found `{path}`"), place));
    }
    match resembled(path) {
        Some(name) => {
            let reason = format!("`{path}` is close to `{name}`: write that, or `attributes.{path}` for an attribute");
            Err((reason, place))
        }
        None => Ok(Field::Attribute(path.to_owned())),
    }
}

/// The time zones that the program brings along: those of the machine may be of another year, and one
/// request would go different ways on two machines.
fn zone((name, place): Placed<&str>) -> Result<TimeZone, Placed<String>> {
    let unknown = |_| (format!("there is no time zone '{name}': names are such as 'Asia/Shanghai'"), place);
    TimeZoneDatabase::bundled().get(name).map_err(unknown)
}

fn compare(
    field: &Field,
    (operator, operator_place): Placed<&str>,
    (literal, place): Placed<Literal<'_>>,
) -> Result<(bool, Test), Placed<String>> {
    let (negated, operation) = match operator {
        "==" => (false, Operator::Equal),
        "!=" => (true, Operator::Equal),
        "<" => (false, Operator::Less),
        "<=" => (false, Operator::LessOrEqual),
        ">" => (false, Operator::Greater),
        ">=" => (false, Operator::GreaterOrEqual),
        _ => return Err((format!("`{operator}` is no operator: there are == != < <= > >="), operator_place)),
    };
    expect(field, &literal, place.clone())?;
    let test = match literal {
        Literal::Number(number) => Test::Number(operation, number),
        Literal::Text(_) if operation != Operator::Equal => {
            let reason = match field {
                Field::Weekday(_) => "days have no order: use == != or `in` a list",
                _ => {
                    "texts have no order: use == or !=, or say what is meant, semver '2.3.0' or date '2026-12-01T00:00:00Z'"
                }
            };
            return Err((reason.to_owned(), operator_place));
        }
        Literal::Text(text) => Test::Text(text.into()),
        Literal::Flag(_) if operation != Operator::Equal => {
            return Err(("true and false have no order: use == or !=".to_owned(), place));
        }
        Literal::Flag(flag) => Test::Flag(flag),
        Literal::Version(text) => match SemanticVersion::parse(text) {
            Some(version) => Test::Version(operation, version.into_owned()),
            None => return Err((format!("'{text}' is no version: write it as '2.3.0'"), place)),
        },
        Literal::Date(text) => match text.parse::<Timestamp>() {
            Ok(time) => Test::Time(operation, time),
            Err(_) => {
                let reason = format!("'{text}' is no time with its offset: write it as '2026-12-01T08:00:00+08:00'");
                return Err((reason, place));
            }
        },
    };
    Ok((negated, test))
}

/// Whether the literal is of a type that the field may have.
fn expect(field: &Field, literal: &Literal<'_>, place: Range<usize>) -> Result<(), Placed<String>> {
    if let Literal::Number(number) = literal
        && number.abs() >= WHOLE_MAX
    {
        let reason =
            "whole numbers from 2^53 on are not distinct: send the attribute as text, and compare with a quoted text";
        return Err((reason.to_owned(), place));
    }
    let wanted = match (field.kind(), literal) {
        (None, _)
        | (Some(Kind::Number), Literal::Number(_))
        | (Some(Kind::Text), Literal::Text(_))
        | (Some(Kind::Time), Literal::Date(_)) => return possible(field, literal, place),
        (Some(Kind::Text), Literal::Version(_)) if !is_one_of_few(field) => return Ok(()),
        (Some(Kind::Number), _) => "is a number: expected a number such as 20",
        (Some(Kind::Text), _) => "is text: expected a quoted text",
        (Some(Kind::Time), _) => "is a time: expected a date such as date '2026-12-01T00:00:00Z'",
    };
    Err((format!("`{field}` {wanted}"), place))
}

/// Whether the field has one of a few texts.
fn is_one_of_few(field: &Field) -> bool {
    matches!(field, Field::Weekday(_) | Field::Known(Known::ImageFormat))
}

/// A day or a format that does not exist would never come, and an hour neither; its negation would always hold.
fn possible(field: &Field, literal: &Literal<'_>, place: Range<usize>) -> Result<(), Placed<String>> {
    match (field, literal) {
        (Field::Weekday(_), Literal::Text(day)) if !WEEKDAYS.contains(day) => {
            Err((format!("'{day}' is no day: there are {}", WEEKDAYS.join(" ")), place))
        }
        (Field::Known(Known::ImageFormat), Literal::Text(format)) if !FORMATS.contains(format) => {
            Err((format!("'{format}' is no format: there are {}", FORMATS.join(" ")), place))
        }
        (Field::Hour(_), Literal::Number(hour)) if hour.fract() != 0.0 || !(0.0..24.0).contains(hour) => {
            Err((format!("{hour} is no hour: they go from 0 to 23, in whole numbers"), place))
        }
        _ => Ok(()),
    }
}

fn among(field: &Field, (set, place): Placed<Set<'_>>) -> Result<Test, Placed<String>> {
    match set {
        Set::Networks(networks) => {
            if field.kind().is_some_and(|kind| kind != Kind::Text) || is_one_of_few(field) {
                return Err((format!("`{field}` is no address that could be in a network"), place));
            }
            networks.into_iter().map(network).collect::<Result<_, _>>().map(Test::Networks)
        }
        Set::Range(low, high) => {
            if !matches!(field, Field::Hour(_)) {
                expect(field, &Literal::Number(low), place.clone())?;
            }
            match field {
                Field::Hour(_)
                    if low.fract() != 0.0
                        || high.fract() != 0.0
                        || low > 23.0
                        || high > 24.0
                        || low.min(high) < 0.0 =>
                {
                    Err(("hours go from 0 to 24, in whole numbers".to_owned(), place))
                }
                Field::Hour(_) if low != high => Ok(Test::NumberRange(low, high)),
                _ if low < high => Ok(Test::NumberRange(low, high)),
                _ => Err((
                    "the range is empty: it goes from its first number up to, not including, its second; \
                           only hours go round"
                        .to_owned(),
                    place,
                )),
            }
        }
        Set::List(literals) => {
            let (mut numbers, mut texts) = (Vec::new(), Vec::new());
            for (literal, place) in literals {
                expect(field, &literal, place.clone())?;
                match literal {
                    Literal::Number(number) if texts.is_empty() => numbers.push(number),
                    Literal::Text(text) if numbers.is_empty() => texts.push(text.into()),
                    Literal::Number(_) | Literal::Text(_) => {
                        return Err(("all of a list must be numbers, or all quoted texts".to_owned(), place));
                    }
                    _ => return Err(("a list has numbers or quoted texts".to_owned(), place)),
                }
            }
            Ok(if texts.is_empty() { Test::NumberAmong(numbers.into()) } else { Test::TextAmong(texts.into()) })
        }
    }
}

/// A network; an address alone is the network of that one.
fn network((text, place): Placed<&str>) -> Result<IpNet, Placed<String>> {
    let address = || text.parse::<std::net::IpAddr>().ok().map(IpNet::from);
    let reason = || format!("'{text}' is no network: write it as '10.0.0.0/8' or '2001:db8::/32'");
    let network: IpNet = text.parse().ok().or_else(address).ok_or_else(|| (reason(), place))?;
    // Addresses that came as IPv4 in IPv6 are compared as the IPv4 addresses that they are.
    Ok(match network {
        IpNet::V6(wide) if wide.prefix_len() >= 96 => match wide.addr().to_ipv4_mapped() {
            Some(address) => Ipv4Net::new(address, wide.prefix_len() - 96).map_or(network, IpNet::V4),
            None => network,
        },
        _ => network,
    })
}

fn words(field: &Field, word: Word, texts: &[Placed<&str>], span: Range<usize>) -> Result<Test, Placed<String>> {
    if field.kind().is_some_and(|kind| kind != Kind::Text) || is_one_of_few(field) {
        return Err((format!("`{field}` is no text that could be searched"), span));
    }
    if let Some((_, place)) = texts.iter().find(|(text, _)| text.is_empty()) {
        return Err(("an empty text is in every text".to_owned(), place.clone()));
    }
    let owned = || texts.iter().map(|(text, _)| (*text).into()).collect();
    Ok(match (word, texts) {
        (Word::Contains, _) => Test::Contains(owned()),
        (Word::StartsWith, _) => Test::StartsWith(owned()),
        (Word::EndsWith, _) => Test::EndsWith(owned()),
        (Word::Matches, [(pattern, place)]) => {
            let mut builder = RegexBuilder::new(pattern);
            builder.size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX);
            Test::Matches(builder.build().map_err(|error| (pattern_reason(&error), place.clone()))?)
        }
        (Word::Matches, _) => return Err(("`matches` takes one pattern; join several by |".to_owned(), span)),
    })
}

/// The library draws the pattern over several lines; its last one says what is wrong.
fn pattern_reason(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ").trim_end_matches('.').to_owned();
    let remedy = match error {
        regex::Error::CompiledTooBig(_) => ": repeat less, or say (?-u:\\w) for \\w where only ASCII is meant",
        _ => "",
    };
    format!("no pattern: {last}{remedy}")
}
