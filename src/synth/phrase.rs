//! A statement in words, with the typing of people who sell things.

use fastrand::Rng;

use super::{
    scene::{Colour, Shape, Side, Size, Texture},
    statement::{Description, Relation, Statement},
};

/// Out of a hundred, how many texts praise something, and how many have a typing error.
const PRAISED: u8 = 15;
const MISTYPED: u8 = 10;

const PRAISE: [&str; 8] = [
    "brand new!",
    "best offer:",
    "free shipping,",
    "top quality,",
    "limited edition,",
    "last chance!",
    "must have:",
    "great deal,",
];

/// The statement in one of many wordings, which the statement's truth has no part in choosing.
pub fn phrase(statement: &Statement, chance: &mut Rng) -> String {
    let text = match statement {
        Statement::Exists(described) => {
            let one = one(described, chance);
            one_of(chance, &["there is {}", "{}", "a picture of {}", "the photo shows {}", "you can see {}"])
                .replace("{}", &one)
        }
        Statement::Absent(described) => {
            let name = name(described, false, chance);
            one_of(chance, &["there is no {}", "no {}", "the photo shows no {}", "you can see no {}"])
                .replace("{}", &name)
        }
        Statement::Count(count, described) => {
            let number = ["no", "one", "two", "three", "four"][(*count).min(4)];
            let name = name(described, *count != 1, chance);
            let be = if *count == 1 { "is" } else { "are" };
            one_of(chance, &["exactly {}", "there {be} exactly {}", "the photo shows exactly {}"])
                .replace("{be}", be)
                .replace("{}", &format!("{number} {name}"))
        }
        Statement::Relates(subject, relation, object) => {
            let words: &[&str] = match relation {
                Relation::LeftOf => &["left of", "to the left of"],
                Relation::RightOf => &["right of", "to the right of"],
                Relation::Above => &["above", "higher than"],
                Relation::Below => &["below", "lower than"],
            };
            let relation = one_of(chance, words);
            let (subject, object) = (one(subject, chance), one(object, chance));
            let whole = one_of(chance, &["{} is ", "there is {} "]).replace("{}", &subject);
            format!("{whole}{relation} {object}")
        }
    };
    let text = if chance.u8(0..100) < PRAISED { format!("{} {text}", one_of(chance, &PRAISE)) } else { text };
    if chance.u8(0..100) < MISTYPED { mistyped(&text, chance) } else { text }
}

fn one_of<'w>(chance: &mut Rng, words: &[&'w str]) -> &'w str {
    words[chance.usize(0..words.len())]
}

/// `a large red circle on the left`
fn one(described: &Description, chance: &mut Rng) -> String {
    let name = name(described, false, chance);
    let article = if name.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    let place = described.side.map(|side| match side {
        Side::Left => one_of(chance, &[" on the left", " in the left half"]),
        Side::Right => one_of(chance, &[" on the right", " in the right half"]),
        Side::Top => one_of(chance, &[" at the top", " in the upper half"]),
        Side::Bottom => one_of(chance, &[" at the bottom", " in the lower half"]),
    });
    format!("{article} {name}{}", place.unwrap_or_default())
}

/// `large red circle`, `large red circles`
pub(super) fn name(described: &Description, several: bool, chance: &mut Rng) -> String {
    let size = described.size.map(|size| match size {
        Size::Small => one_of(chance, &["small", "little"]),
        Size::Large => one_of(chance, &["large", "big"]),
    });
    let texture = described.texture.map(|texture| match texture {
        Texture::Plain => "plain",
        Texture::Striped => "striped",
        Texture::Dotted => one_of(chance, &["dotted", "spotted"]),
    });
    let colour = described.colour.map(|colour| match colour {
        Colour::Red => "red",
        Colour::Green => "green",
        Colour::Blue => "blue",
        Colour::Yellow => "yellow",
        Colour::Purple => one_of(chance, &["purple", "violet"]),
        Colour::Black => "black",
        Colour::Orange => "orange",
        Colour::Pink => "pink",
        Colour::Brown => "brown",
        Colour::Turquoise => one_of(chance, &["turquoise", "cyan"]),
    });
    let (singular, plural) = match described.shape {
        None => ("shape", "shapes"),
        Some(Shape::Circle) => ("circle", "circles"),
        Some(Shape::Square) => ("square", "squares"),
        Some(Shape::Triangle) => ("triangle", "triangles"),
        Some(Shape::Star) => ("star", "stars"),
        Some(Shape::Cross) => ("cross", "crosses"),
        Some(Shape::Heart) => ("heart", "hearts"),
        Some(Shape::Ring) => ("ring", "rings"),
        Some(Shape::Diamond) => ("diamond", "diamonds"),
    };
    let noun = if several { plural } else { singular };
    [size, texture, colour, Some(noun)].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// Two letters of a longer word change places, one is left away, or one comes twice.
fn mistyped(text: &str, chance: &mut Rng) -> String {
    let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    let long: Vec<usize> = (0..words.len()).filter(|index| words[*index].len() > 4).collect();
    if long.is_empty() {
        return text.to_owned();
    }
    let word = &mut words[long[chance.usize(0..long.len())]];
    let mut letters: Vec<char> = word.chars().collect();
    let at = 1 + chance.usize(0..letters.len() - 2);
    match chance.u8(0..3) {
        0 => letters.swap(at, at + 1),
        1 => drop(letters.remove(at)),
        _ => letters.insert(at, letters[at]),
    }
    *word = letters.into_iter().collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_has_many_wordings_and_each_says_what_it_says() {
        let circle = Description { shape: Some(Shape::Circle), colour: Some(Colour::Red), ..Description::default() };
        let star = Description { shape: Some(Shape::Star), size: Some(Size::Large), ..Description::default() };
        let mut chance = Rng::with_seed(3);
        for (statement, words) in [
            (Statement::Exists(circle), vec!["red", "circle"]),
            (Statement::Absent(circle), vec!["no", "red", "circle"]),
            (Statement::Count(2, circle), vec!["exactly", "two", "red", "circles"]),
            (Statement::Relates(circle, Relation::LeftOf, star), vec!["red", "circle", "left of", "star"]),
        ] {
            let texts: Vec<String> = (0..400).map(|_| phrase(&statement, &mut chance)).collect();
            let whole = texts.iter().filter(|text| words.iter().all(|word| text.contains(word))).count();
            assert!(whole >= 340, "{whole} of 400: {texts:?}");
            let different: std::collections::BTreeSet<_> = texts.iter().collect();
            assert!(different.len() > 20, "{different:?}");
        }
    }
}
