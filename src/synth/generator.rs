//! Examples, one picture after the other.

use fastrand::Rng;

use super::{Balance, Kind, Scene, Statement, World, describe, explain, paint, phrase};
use crate::{message::Label, vision::RgbImage};

/// What examples are for. Splits share no scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Split {
    /// To learn from.
    Train,
    /// To choose by: the best checkpoint, the temperature.
    Validation,
    /// To measure on.
    Test,
    /// To measure on combinations of shape and colour that the others never show or name.
    Unseen,
}

impl Split {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Train, Self::Validation, Self::Test, Self::Unseen];

    /// Its name, and that of its file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
            Self::Unseen => "unseen",
        }
    }
}

/// A picture with what is said of it.
#[derive(Clone, Debug)]
pub struct Picture {
    /// What it shows.
    pub scene: Scene,
    /// The picture.
    pub image: RgbImage,
    /// All that it shows, in words.
    pub description: String,
    /// As many of each label.
    pub said: Vec<Said>,
}

/// Something said of a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    /// What is said.
    pub statement: Statement,
    /// In these words.
    pub text: String,
    /// Where that lies of which it speaks.
    pub explanation: String,
    /// Whether the picture entails it.
    pub label: Label,
}

/// Makes pictures with statements; the same seed and split make the same ones.
#[derive(Debug)]
pub struct Generator {
    world: World,
    chance: Rng,
    /// Of the descriptions' words, which nothing else depends on.
    words: Rng,
    split: Split,
    balance: Balance,
    /// Statements of each label per picture.
    per_label: usize,
}

/// Statements looked at for each that is taken.
const TRIES: usize = 100;

impl Generator {
    /// Makes pictures of a world for a split, each with three times `per_label` statements.
    pub fn new(world: World, seed: u64, split: Split, per_label: usize) -> Self {
        // Far apart, so that neighbouring seeds do not share pictures between their splits.
        let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ ((split as u64 + 1) << 56);
        let words = Rng::with_seed(mixed ^ 1);
        Self { world, chance: Rng::with_seed(mixed), words, split, balance: Balance::default(), per_label }
    }

    /// The statements about a scene, in an order by chance; none where there are not enough of each label. What was found
    /// until then stays counted, which only makes those that follow a little different.
    fn said(&mut self, scene: &Scene) -> Option<Vec<(Statement, Label)>> {
        let mut said: Vec<(Statement, Label)> = Vec::new();
        for _ in 0..self.per_label {
            for label in [Label::Yes, Label::Maybe, Label::No] {
                let kinds = self.balance.scarcest(label);
                let found = kinds.into_iter().find_map(|kind| self.candidate(scene, kind, label, &said))?;
                self.balance.take(&found, label);
                said.push((found, label));
            }
        }
        self.chance.shuffle(&mut said);
        Some(said)
    }

    /// Of some statements of a kind that have this label, the one whose words need it most.
    fn candidate(&mut self, scene: &Scene, kind: Kind, label: Label, said: &[(Statement, Label)]) -> Option<Statement> {
        let mut best: Option<(f64, Statement)> = None;
        for _ in 0..TRIES {
            let statement = Statement::random(self.world, &mut self.chance, kind, scene);
            let is_fitting = statement.is_unseen(self.world) == (self.split == Split::Unseen);
            let holds = statement.holds(scene).map(as_label);
            if !is_fitting || holds != Ok(label) || said.iter().any(|(other, _)| *other == statement) {
                continue;
            }
            let surplus = self.balance.surplus(&statement, label);
            if best.is_none_or(|(least, _)| surplus < least) {
                best = Some((surplus, statement));
            }
        }
        best.map(|(_, statement)| statement)
    }
}

fn as_label(holds: Option<bool>) -> Label {
    match holds {
        Some(true) => Label::Yes,
        Some(false) => Label::No,
        None => Label::Maybe,
    }
}

impl Iterator for Generator {
    type Item = Picture;

    /// There is always another.
    fn next(&mut self) -> Option<Picture> {
        loop {
            let scene = Scene::random(self.world, &mut self.chance, self.split == Split::Unseen);
            let Some(said) = self.said(&scene) else { continue };
            let said = said
                .into_iter()
                .map(|(statement, label)| Said {
                    statement,
                    text: phrase(&statement, &mut self.chance),
                    explanation: explain(&statement, &scene),
                    label,
                })
                .collect();
            let image = paint(&scene, &mut self.chance);
            let description = describe(&scene, &mut self.words);
            return Some(Picture { scene, image, description, said });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sha2::{Digest as _, Sha256};

    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_pictures_and_splits_make_others() {
        let some = |seed, split| {
            let pictures = Generator::new(World::Large, seed, split, 2).take(5);
            pictures.map(|picture| (picture.image.data, picture.said)).collect::<Vec<_>>()
        };
        assert_eq!(some(1, Split::Train), some(1, Split::Train));
        assert_ne!(some(1, Split::Train), some(2, Split::Train));
        assert_ne!(some(1, Split::Train), some(1, Split::Test));
    }

    /// What versions learned from, the shipped ones first from the small world and then from the large one: other words for the same seed, and nobody can make them again.
    #[test]
    fn a_seed_says_what_it_said_when_the_shipped_versions_were_trained() {
        for (world, digest) in [
            (World::Small, "8adff83a3a4b37d8b64f96db0d66ea05d8d50f7ea985c925a7bebc4be6ea3c44"),
            (World::Large, "6356c0f5e15af58ede4eab759dca9a42c01edeb7acc8736f03527c01ccafba6d"),
        ] {
            let mut hash = Sha256::new();
            for picture in Generator::new(world, 1, Split::Train, 2).take(50) {
                for Said { text, explanation, label, .. } in picture.said {
                    hash.update(format!("{text}\t{}\t{}\t{explanation}\n", label.as_str(), picture.description));
                }
            }
            assert_eq!(hex::encode(hash.finalize()), digest, "{world:?}");
        }
    }

    #[test]
    fn every_picture_has_as_many_statements_of_each_label_and_each_says_the_truth() {
        for split in Split::ALL {
            for picture in Generator::new(World::Large, 3, split, 2).take(100) {
                for label in [Label::Yes, Label::Maybe, Label::No] {
                    assert_eq!(picture.said.iter().filter(|said| said.label == label).count(), 2);
                }
                for said in &picture.said {
                    assert_eq!(said.statement.holds(&picture.scene).map(as_label), Ok(said.label), "{said:?}");
                    assert_eq!(said.statement.is_unseen(World::Large), split == Split::Unseen);
                }
            }
        }
    }

    /// What one who reads the words alone makes of them: for each kind the label most frequent with each word.
    #[test]
    fn kinds_and_words_come_equally_often_with_each_label() {
        let mut counts: BTreeMap<(String, String), [f64; 3]> = BTreeMap::new();
        for picture in Generator::new(World::Large, 4, Split::Train, 2).take(2_000) {
            for said in picture.said {
                let label =
                    [Label::Yes, Label::Maybe, Label::No].iter().position(|label| *label == said.label).unwrap();
                for described in said.statement.descriptions() {
                    let word = format!("{:?} {:?}", described.shape, described.colour);
                    counts.entry((said.statement.kind().as_str().to_owned(), word)).or_default()[label] += 1.0;
                }
            }
        }
        let (mut all, mut guessed) = (0.0, 0.0);
        for counts in counts.values() {
            all += counts.iter().sum::<f64>();
            guessed += counts.iter().copied().fold(0.0, f64::max);
        }
        assert!(guessed / all < 0.40, "{guessed} of {all}");
    }
}
