//! Chooses statements so that neither words nor pictures alone give the label away.

use std::collections::HashMap;

use super::{
    scene::{Colour, Shape, Side, Size, Texture},
    statement::{Description, Kind, Relation, Statement},
};
use crate::message::Label;

/// Keeps count of which words went with which labels, and prefers the statements whose words need the label that they have.
///
/// Each picture gets equally many statements of each label, so that the picture alone tells nothing; and each word, and each
/// pair of them that matters, comes equally often with each label, so that the words alone tell nothing either.
#[derive(Debug, Default)]
pub struct Balance {
    counts: HashMap<Feature, [u32; 3]>,
}

/// Something that one who reads the words alone could go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Feature {
    Kind(Kind),
    Word(Kind, Word),
    Pair(Word, Word),
    Whole(Statement),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Word {
    Shape(Shape),
    Colour(Colour),
    Size(Size),
    Texture(Texture),
    Side(Side),
    Relation(Relation),
    Count(usize),
    /// No shape is said, or no colour.
    NoShape,
    NoColour,
    /// Both descriptions name the same.
    SameShape,
    SameColour,
}

impl Balance {
    /// How much the words of a statement go with a label already, more than with others; the least is wanted most.
    pub fn surplus(&self, statement: &Statement, label: Label) -> f64 {
        features(statement).map(|feature| self.surplus_of(feature, label)).sum()
    }

    fn surplus_of(&self, feature: Feature, label: Label) -> f64 {
        let counts = self.counts.get(&feature).copied().unwrap_or_default();
        let all: u32 = counts.iter().sum();
        (f64::from(counts[index(label)]) - f64::from(all) / 3.0) / (f64::from(all) + 3.0).sqrt()
    }

    /// Kinds, those that have come least often with a label first, and those last that have come more often with it than with
    /// others already.
    pub fn scarcest(&self, label: Label) -> [Kind; 7] {
        let mut kinds = Kind::ALL;
        kinds.sort_by_key(|kind| {
            let counts = self.counts.get(&Feature::Kind(*kind)).copied().unwrap_or_default();
            let least = counts.into_iter().min().unwrap_or_default();
            let count = counts[index(label)];
            (count > least + AHEAD, count)
        });
        kinds
    }

    /// Takes a statement that was chosen.
    pub fn take(&mut self, statement: &Statement, label: Label) {
        for feature in features(statement) {
            self.counts.entry(feature).or_default()[index(label)] += 1;
        }
    }
}

/// How much more often a kind may have come with one label than with another.
const AHEAD: u32 = 4;

fn index(label: Label) -> usize {
    match label {
        Label::Yes => 0,
        Label::Maybe => 1,
        Label::No => 2,
    }
}

fn features(statement: &Statement) -> impl Iterator<Item = Feature> {
    let kind = statement.kind();
    let mut words: Vec<Word> = statement.descriptions().flat_map(words_of).collect();
    match statement {
        Statement::Count(count, _) => words.push(Word::Count(*count)),
        Statement::Relates(subject, relation, object) => {
            words.push(Word::Relation(*relation));
            words.extend((subject.shape == object.shape).then_some(Word::SameShape));
            words.extend((subject.colour == object.colour).then_some(Word::SameColour));
        }
        Statement::Exists(_) | Statement::Absent(_) => {}
    }
    let pairs: Vec<Feature> = (0..words.len())
        .flat_map(|one| (one + 1..words.len()).map(move |other| (one, other)))
        .map(|(one, other)| Feature::Pair(words[one].min(words[other]), words[one].max(words[other])))
        .collect();
    let single = words.into_iter().map(move |word| Feature::Word(kind, word));
    [Feature::Kind(kind), Feature::Whole(*statement)].into_iter().chain(single).chain(pairs)
}

fn words_of(described: &Description) -> impl Iterator<Item = Word> {
    let Description { shape, colour, size, texture, side } = *described;
    [
        Some(shape.map_or(Word::NoShape, Word::Shape)),
        Some(colour.map_or(Word::NoColour, Word::Colour)),
        size.map(Word::Size),
        texture.map(Word::Texture),
        side.map(Word::Side),
    ]
    .into_iter()
    .flatten()
}
