//! From text to a checked expression.
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

use chumsky::{error::RichReason, prelude::*};

use super::{ConditionError, Expression, Literal, Operator};
use crate::routing::features::{Field, Known};

/// Conditions come from settings; the bound keeps nesting far from the end of the stack.
const CONDITION_BYTES_MAX: usize = 2_000;

type Extra<'s> = extra::Err<Rich<'s, char>>;

pub(super) fn parse(source: &str) -> Result<Expression, ConditionError> {
    let refuse = |span, reason| ConditionError { source: source.to_owned(), span, reason };
    if source.len() > CONDITION_BYTES_MAX {
        return Err(refuse(0..1, format!("the condition is longer than {CONDITION_BYTES_MAX} bytes")));
    }
    condition().parse(source).into_result().map_err(|errors| match errors.first() {
        Some(error) => refuse(error.span().into_range(), reason(error)),
        None => refuse(0..1, "the condition cannot be read".to_owned()),
    })
}

fn condition<'s>() -> impl Parser<'s, &'s str, Expression, Extra<'s>> {
    let any = recursive(|any| {
        let group = any.delimited_by(just('(').padded(), just(')').padded());
        let unary = text::ascii::keyword("not")
            .padded()
            .repeated()
            .foldr(comparison().or(group).labelled("a comparison such as `text_length < 20`"), |_, inner| {
                Expression::Not(Box::new(inner))
            });
        let all = unary.clone().foldl(
            text::ascii::keyword("and").padded().labelled("`and`").ignore_then(unary).repeated(),
            |left, right| Expression::And(Box::new(left), Box::new(right)),
        );
        all.clone()
            .foldl(text::ascii::keyword("or").padded().labelled("`or`").ignore_then(all).repeated(), |left, right| {
                Expression::Or(Box::new(left), Box::new(right))
            })
    });
    any.padded().then_ignore(end())
}

fn comparison<'s>() -> impl Parser<'s, &'s str, Expression, Extra<'s>> + Clone {
    let operator = choice((
        just("==").to(Operator::Equal),
        just("!=").to(Operator::NotEqual),
        just("<=").to(Operator::LessOrEqual),
        just(">=").to(Operator::GreaterOrEqual),
        just("<").to(Operator::Less),
        just(">").to(Operator::Greater),
    ))
    .labelled("an operator: == != < <= > >=")
    .padded();
    let spanned_literal = literal().map_with(|literal, extra| (literal, extra.span())).padded();
    field().padded().then(operator).then(spanned_literal).try_map(|((field, operator), (literal, place)), _| {
        check_types(&field, operator, &literal).map_err(|reason| Rich::custom(place, reason))?;
        Ok(Expression::Compare { field, operator, literal })
    })
}

fn field<'s>() -> impl Parser<'s, &'s str, Field, Extra<'s>> + Clone {
    let name = text::ascii::ident();
    name.separated_by(just('.'))
        .at_least(1)
        .to_slice()
        .try_map(|path: &str, place| named(path).map_err(|reason| Rich::custom(place, reason)))
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
        return Err(format!("expected a field before `{path}`"));
    }
    let near = Known::ALL.iter().find(|(name, _)| strsim::damerau_levenshtein(name, path) <= 2);
    match near {
        Some((name, _)) => {
            Err(format!("`{path}` is close to `{name}`: write that, or `attributes.{path}` for an attribute"))
        }
        None => Ok(Field::Attribute(path.to_owned())),
    }
}

fn literal<'s>() -> impl Parser<'s, &'s str, Literal, Extra<'s>> + Clone {
    let number =
        just('-').or_not().then(text::int(10)).then(just('.').then(text::digits(10)).or_not()).to_slice().try_map(
            |digits: &str, place| digits.parse().map(Literal::Number).map_err(|_| Rich::custom(place, "not a number")),
        );
    let quoted = |quote: char| none_of(quote).repeated().to_slice().delimited_by(just(quote), just(quote));
    choice((
        number,
        quoted('\'').or(quoted('"')).map(|text: &str| Literal::Text(text.to_owned())),
        text::ascii::keyword("true").to(Literal::Flag(true)),
        text::ascii::keyword("false").to(Literal::Flag(false)),
    ))
    .labelled("a number, a quoted text, true or false")
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

fn reason(error: &Rich<'_, char>) -> String {
    match error.reason() {
        RichReason::Custom(reason) => reason.clone(),
        RichReason::ExpectedFound { expected, found } => {
            let mut wanted: Vec<String> = expected.iter().map(ToString::to_string).collect();
            wanted.sort();
            wanted.dedup();
            let found = found.as_ref().map_or("the end".to_owned(), |character| format!("`{}`", **character));
            format!("expected {}, found {found}", wanted.join(" or "))
        }
    }
}
