//! From text to what is written, names and types not yet looked up: their errors would drown among the
//! grammar's alternatives if they were raised here.
//!
//! ```text
//! condition  = all { "or" all }
//! all        = unary { "and" unary }
//! unary      = { "not" } ( comparison | "(" condition ")" )
//! comparison = field ( operator literal | [ "not" ] "in" set | word ( text | texts ) )
//! field      = name [ "(" text ")" ] | "attributes." name | "attributes[" text "]"
//! name       = ASCII letters, digits and _, no digit first
//! operator   = "==" | "!=" | "<" | "<=" | ">" | ">="
//! word       = "contains" | "starts_with" | "ends_with" | "matches"
//! set        = "[" literal { "," literal } "]" | number ".." number | "cidr" ( text | texts )
//! literal    = number | text | true | false | "semver" text | "date" text
//! texts      = "[" text { "," text } "]"
//! number     = [ "-" ] digits [ "." digits ]          digits may be grouped: 1_000_000
//! text       = 'anything but this quote' | "anything but this quote"
//! ```

use std::ops::Range;

use chumsky::{
    error::{RichPattern, RichReason},
    input::MapExtra,
    prelude::*,
};

type Extra<'s> = extra::Err<Rich<'s, char>>;

/// A part of the source and its place.
pub(super) type Placed<T> = (T, Range<usize>);

/// An expression as it is written.
pub(super) enum Written<'s> {
    Comparison { field: WrittenField<'s>, asked: Asked<'s>, span: Range<usize> },
    Not(Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
}

/// A name, and what stands in parentheses behind it.
pub(super) struct WrittenField<'s> {
    pub(super) name: Placed<&'s str>,
    pub(super) argument: Option<Placed<&'s str>>,
    /// Whether it was written as `attributes['name']`.
    pub(super) is_attribute: bool,
}

/// What is asked of a field.
pub(super) enum Asked<'s> {
    Compare { operator: Placed<&'s str>, literal: Placed<Literal<'s>> },
    Among { negated: bool, set: Placed<Set<'s>> },
    Words { word: Word, texts: Vec<Placed<&'s str>>, span: Range<usize> },
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    Contains,
    StartsWith,
    EndsWith,
    Matches,
}

pub(super) enum Set<'s> {
    List(Vec<Placed<Literal<'s>>>),
    Range(f64, f64),
    Networks(Vec<Placed<&'s str>>),
}

#[derive(Clone)]
pub(super) enum Literal<'s> {
    Number(f64),
    Text(&'s str),
    Flag(bool),
    Version(&'s str),
    Date(&'s str),
}

pub(super) fn parse(source: &str) -> Result<Written<'_>, Placed<String>> {
    condition().parse(source).into_result().map_err(|errors| {
        let first = errors.first().map(|error| (reason(error, source), error.span().into_range()));
        first.unwrap_or_else(|| ("the condition cannot be read".to_owned(), 0..1))
    })
}

/// Reads a feature or an attribute alone.
pub(super) fn parse_field(source: &str) -> Result<WrittenField<'_>, Placed<String>> {
    field().padded().then_ignore(end().labelled("the end")).parse(source).into_result().map_err(|errors| {
        let first = errors.first().map(|error| (reason(error, source), error.span().into_range()));
        first.unwrap_or_else(|| ("the field cannot be read".to_owned(), 0..1))
    })
}

fn placed<'s, T>(value: T, extra: &mut MapExtra<'s, '_, &'s str, Extra<'s>>) -> Placed<T> {
    (value, extra.span().into_range())
}

fn keyword<'s>(word: &'static str) -> impl Parser<'s, &'s str, (), Extra<'s>> + Clone {
    text::ascii::keyword(word).ignored()
}

fn condition<'s>() -> impl Parser<'s, &'s str, Written<'s>, Extra<'s>> {
    let word = |word: &'static str, label: &'static str| keyword(word).padded().labelled(label);
    let any = recursive(|any| {
        let group = any.delimited_by(just('(').padded(), just(')').padded().labelled("`)`"));
        let unary = word("not", "`not`")
            .repeated()
            .foldr(comparison().or(group).labelled("a comparison such as `text_length < 20`"), |(), inner| {
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

fn field<'s>() -> impl Parser<'s, &'s str, WrittenField<'s>, Extra<'s>> + Clone {
    let name = text::ascii::ident().separated_by(just('.')).at_least(1).to_slice().map_with(placed);
    let argument = quoted().map_with(placed).padded().delimited_by(just('('), just(')').labelled("`)`")).or_not();
    let named = name.then(argument).map(|(name, argument)| WrittenField { name, argument, is_attribute: false });
    let index = quoted().map_with(placed).padded().delimited_by(just('['), just(']').labelled("`]`"));
    let attribute =
        keyword("attributes").ignore_then(index).map(|name| WrittenField { name, argument: None, is_attribute: true });
    attribute.or(named)
}

fn comparison<'s>() -> impl Parser<'s, &'s str, Written<'s>, Extra<'s>> + Clone {
    let field = field();
    let operator = one_of("=!<>").repeated().at_least(1).to_slice().labelled("an operator: == != < <= > >=");
    let compare = operator
        .map_with(placed)
        .then(literal().map_with(placed).padded())
        .map(|(operator, literal)| Asked::Compare { operator, literal });
    let among = keyword("not")
        .padded()
        .labelled("`not in`")
        .or_not()
        .then_ignore(keyword("in").labelled("`in`"))
        .then(set().map_with(placed).padded())
        .map(|(negated, set)| Asked::Among { negated: negated.is_some(), set });
    let word = choice((
        keyword("contains").to(Word::Contains),
        keyword("starts_with").to(Word::StartsWith),
        keyword("ends_with").to(Word::EndsWith),
        keyword("matches").to(Word::Matches),
    ))
    .labelled("`contains`, `starts_with`, `ends_with` or `matches`");
    let words =
        word.then(texts().map_with(placed).padded()).map(|(word, (texts, span))| Asked::Words { word, texts, span });
    field
        .then(choice((compare, words, among)).padded_by(text::whitespace()))
        .map_with(|(field, asked), extra| Written::Comparison { field, asked, span: extra.span().into_range() })
}

fn set<'s>() -> impl Parser<'s, &'s str, Set<'s>, Extra<'s>> + Clone {
    let list = list_of(literal().map_with(placed)).map(Set::List);
    let range = number()
        .then_ignore(just("..").labelled("`..` and a second number").padded())
        .then(number())
        .map(|(low, high)| Set::Range(low, high));
    let networks = keyword("cidr").padded().ignore_then(texts()).map(Set::Networks);
    choice((list, range, networks)).padded_by(text::whitespace()).labelled("a list, a range such as 22..6, or `cidr`")
}

fn texts<'s>() -> impl Parser<'s, &'s str, Vec<Placed<&'s str>>, Extra<'s>> + Clone {
    let text = quoted().map_with(placed);
    let one = text.clone().map(|text| vec![text]);
    choice((one, list_of(text))).padded_by(text::whitespace()).labelled("a quoted text or a list of them")
}

fn list_of<'s, T>(
    item: impl Parser<'s, &'s str, T, Extra<'s>> + Clone,
) -> impl Parser<'s, &'s str, Vec<T>, Extra<'s>> + Clone {
    let comma = just(',').labelled("`,`");
    let items = item.padded().separated_by(comma).at_least(1).collect();
    items.delimited_by(just('['), just(']').labelled("`]`"))
}

fn literal<'s>() -> impl Parser<'s, &'s str, Literal<'s>, Extra<'s>> + Clone {
    let named = |word: &'static str| keyword(word).padded().ignore_then(quoted());
    choice((
        number().map(Literal::Number),
        quoted().map(Literal::Text),
        keyword("true").to(Literal::Flag(true)),
        keyword("false").to(Literal::Flag(false)),
        named("semver").map(Literal::Version),
        named("date").map(Literal::Date),
    ))
    .labelled("a number, a quoted text, true or false")
}

fn number<'s>() -> impl Parser<'s, &'s str, f64, Extra<'s>> + Clone {
    let digits = || one_of("0123456789_").repeated();
    let whole = one_of("0123456789").labelled("a digit").then(digits());
    let fraction = just('.').then(one_of("0123456789").labelled("a digit")).then(digits());
    let number = just('-').or_not().then(whole).then(fraction.or_not()).to_slice();
    // What the grammar lets through is what `f64` reads, once groups are joined.
    number.map(|digits: &str| digits.replace('_', "").parse().unwrap_or(f64::NAN)).labelled("a number")
}

fn quoted<'s>() -> impl Parser<'s, &'s str, &'s str, Extra<'s>> + Clone {
    let in_quotes = |quote: char| {
        let end = just(quote).labelled("a closing quote");
        none_of(quote).repeated().to_slice().delimited_by(just(quote), end)
    };
    in_quotes('\'').or(in_quotes('"')).labelled("a quoted text")
}

fn reason(error: &Rich<'_, char>, source: &str) -> String {
    let RichReason::ExpectedFound { expected, found } = error.reason() else { return error.reason().to_string() };
    let labels = expected.iter().filter(|pattern| matches!(pattern, RichPattern::Label(_))).map(ToString::to_string);
    // Blanks may stand everywhere; nobody needs to be told.
    let mut wanted: Vec<String> = labels.filter(|label| label != "whitespace").collect();
    wanted.sort();
    wanted.dedup();
    if wanted.is_empty() {
        wanted.push("something else".to_owned());
    }
    // A whole word that does not fit has a place and no single character.
    let found = match (found, source.get(error.span().into_range()).filter(|blamed| !blamed.is_empty())) {
        (Some(character), _) => format!("`{}`", **character),
        (None, Some(blamed)) => format!("`{blamed}`"),
        (None, None) => "the end".to_owned(),
    };
    let before = source.get(..error.span().into_range().start).unwrap_or_default();
    let hint = match found.as_str() {
        "`.`" if before.ends_with(|last: char| last.is_ascii_digit()) => "; a version is written semver '2.3.0'",
        "`-`" if before.ends_with(|last: char| last.is_ascii_alphanumeric()) && !before.contains(' ') => {
            "; an attribute whose name is no plain word is written attributes['app-version']"
        }
        _ => "",
    };
    format!("expected {}, found {found}{hint}", wanted.join(" or "))
}
