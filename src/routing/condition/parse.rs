//! From text to a checked expression, in two steps: the grammar, then names and types. Errors of the
//! second step would drown among the grammar's alternatives if they were raised in the first.
//!
//! ```text
//! condition  = all { "or" all }
//! all        = unary { "and" unary }
//! unary      = { "not" } ( comparison | "(" condition ")" )
//! comparison = field operator literal
//! field      = name | "attributes." name
//! operator   = "==" | "!=" | "<" | "<=" | ">" | ">="
//! literal    = number | 'text' | "text" | true | false
//! ```

use std::ops::Range;

use chumsky::{
    error::{RichPattern, RichReason},
    prelude::*,
};

use super::{ConditionError, Expression, Literal, Operator};
use crate::routing::features::{Field, Known};

/// Conditions come from settings; the bound keeps nesting far from the end of the stack.
const CONDITION_BYTES_MAX: usize = 2_000;

type Extra<'s> = extra::Err<Rich<'s, char>>;

/// A part of the source and its place.
type Placed<T> = (T, Range<usize>);

/// An expression as it is written, names and operators not yet looked up.
enum Written<'s> {
    Compare { field: Placed<&'s str>, operator: Placed<&'s str>, literal: Placed<Literal> },
    Not(Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
}

pub(super) fn parse(source: &str) -> Result<Expression, ConditionError> {
    let refuse = |(reason, span)| ConditionError { source: source.to_owned(), span, reason };
    if source.len() > CONDITION_BYTES_MAX {
        return Err(refuse((format!("the condition is longer than {CONDITION_BYTES_MAX} bytes"), 0..1)));
    }
    let written = condition().parse(source).into_result().map_err(|errors| {
        let first = errors.first().map(|error| (reason(error, source), error.span().into_range()));
        refuse(first.unwrap_or_else(|| ("the condition cannot be read".to_owned(), 0..1)))
    })?;
    checked(written).map_err(refuse)
}

fn condition<'s>() -> impl Parser<'s, &'s str, Written<'s>, Extra<'s>> {
    let word = |word: &'static str, label: &'static str| text::ascii::keyword(word).padded().labelled(label);
    let any = recursive(|any| {
        let group = any.delimited_by(just('(').padded(), just(')').padded().labelled("`)`"));
        let unary = word("not", "`not`")
            .repeated()
            .foldr(comparison().or(group).labelled("a comparison such as `text_length < 20`"), |_, inner| {
                Written::Not(Box::new(inner))
            });
        let all = unary.clone().foldl(word("and", "`and`").ignore_then(unary).repeated(), |left, right| {
            Written::And(Box::new(left), Box::new(right))
        });
        all.clone().foldl(word("or", "`or`").ignore_then(all).repeated(), |left, right| {
            Written::Or(Box::new(left), Box::new(right))
        })
    });
    any.padded().then_ignore(end().labelled("the end"))
}

fn comparison<'s>() -> impl Parser<'s, &'s str, Written<'s>, Extra<'s>> + Clone {
    let field = text::ascii::ident().separated_by(just('.')).at_least(1).to_slice();
    let operator = one_of("=!<>").repeated().at_least(1).to_slice().labelled("an operator: == != < <= > >=");
    let placed = |text: &'s str, extra: &mut chumsky::input::MapExtra<'s, '_, &'s str, Extra<'s>>| {
        (text, extra.span().into_range())
    };
    let literal = literal().map_with(|literal, extra| (literal, extra.span().into_range()));
    field
        .map_with(placed)
        .padded()
        .then(operator.map_with(placed).padded())
        .then(literal.padded())
        .map(|((field, operator), literal)| Written::Compare { field, operator, literal })
}

fn literal<'s>() -> impl Parser<'s, &'s str, Literal, Extra<'s>> + Clone {
    let number = just('-').or_not().then(text::int(10)).then(just('.').then(text::digits(10)).or_not()).to_slice();
    // The grammar above only lets through what `f64` reads.
    let number = number.map(|digits: &str| Literal::Number(digits.parse().unwrap_or(f64::NAN)));
    let quoted = |quote: char| {
        let end = just(quote).labelled("a closing quote");
        none_of(quote).repeated().to_slice().delimited_by(just(quote), end)
    };
    choice((
        number,
        quoted('\'').or(quoted('"')).map(|text: &str| Literal::Text(text.to_owned())),
        text::ascii::keyword("true").to(Literal::Flag(true)),
        text::ascii::keyword("false").to(Literal::Flag(false)),
    ))
    .labelled("a number, a quoted text, true or false")
}

fn checked(written: Written<'_>) -> Result<Expression, Placed<String>> {
    let boxed = |inner: Box<Written<'_>>| checked(*inner).map(Box::new);
    Ok(match written {
        Written::Not(inner) => Expression::Not(boxed(inner)?),
        Written::And(left, right) => Expression::And(boxed(left)?, boxed(right)?),
        Written::Or(left, right) => Expression::Or(boxed(left)?, boxed(right)?),
        Written::Compare { field, operator, literal: (literal, place) } => {
            let field = named(field.0).map_err(|reason| (reason, field.1))?;
            let operator = operation(operator.0).map_err(|reason| (reason, operator.1))?;
            check_types(&field, operator, &literal).map_err(|reason| (reason, place))?;
            Expression::Compare { field, operator, literal }
        }
    })
}

fn named(path: &str) -> Result<Field, String> {
    if let Some((_, known)) = Known::ALL.iter().find(|(name, _)| *name == path) {
        return Ok(Field::Known(*known));
    }
    match path.split_once('.') {
        Some(("attributes", name)) if !name.contains('.') => return Ok(Field::Attribute(name.to_owned())),
        Some(_) => return Err(format!("`{path}` is no field: attributes are written `attributes.name`")),
        None => {}
    }
    if matches!(path, "and" | "or" | "not" | "true" | "false") {
        return Err(format!("expected a field, found `{path}`"));
    }
    let near = Known::ALL.iter().find(|(name, _)| strsim::damerau_levenshtein(name, path) <= 2);
    match near {
        Some((name, _)) => {
            Err(format!("`{path}` is close to `{name}`: write that, or `attributes.{path}` for an attribute"))
        }
        None => Ok(Field::Attribute(path.to_owned())),
    }
}

fn operation(written: &str) -> Result<Operator, String> {
    Ok(match written {
        "==" => Operator::Equal,
        "!=" => Operator::NotEqual,
        "<" => Operator::Less,
        "<=" => Operator::LessOrEqual,
        ">" => Operator::Greater,
        ">=" => Operator::GreaterOrEqual,
        _ => return Err(format!("`{written}` is no operator: there are == != < <= > >=")),
    })
}

fn check_types(field: &Field, operator: Operator, literal: &Literal) -> Result<(), String> {
    if let Field::Known(known) = field {
        match (known.is_number(), literal) {
            (true, Literal::Number(_)) | (false, Literal::Text(_)) => {}
            (true, _) => return Err(format!("`{field}` is a number: expected a number such as 20")),
            (false, _) => return Err(format!("`{field}` is text: expected a quoted text")),
        }
    }
    let ordered = !matches!(operator, Operator::Equal | Operator::NotEqual);
    match (ordered, literal) {
        (true, Literal::Flag(_)) => Err("true and false have no order: use == or !=".to_owned()),
        _ => Ok(()),
    }
}

fn reason(error: &Rich<'_, char>, source: &str) -> String {
    let RichReason::ExpectedFound { expected, found } = error.reason() else { return error.reason().to_string() };
    let mut wanted: Vec<String> =
        expected.iter().filter(|pattern| matches!(pattern, RichPattern::Label(_))).map(ToString::to_string).collect();
    wanted.sort();
    wanted.dedup();
    // A whole word that does not fit has a place and no single character.
    let found = match (found, source.get(error.span().into_range()).filter(|blamed| !blamed.is_empty())) {
        (Some(character), _) => format!("`{}`", **character),
        (None, Some(blamed)) => format!("`{blamed}`"),
        (None, None) => "the end".to_owned(),
    };
    format!("expected {}, found {found}", wanted.join(" or "))
}
