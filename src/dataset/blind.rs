//! How far one gets with the words alone, with them and a glance, or with the picture alone: a data set that gives its labels away so
//! measures nothing.

use std::collections::{BTreeSet, HashMap};

use super::{Example, Picture};
use crate::message::Label;

/// Accuracies of judges that are shown half of each example.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Blind {
    /// Naive Bayes over words and pairs of neighbouring words, learned from one split and measured on another.
    pub words: f64,
    /// The most that any judge can reach that gives one answer per picture.
    pub picture: f64,
    /// The share of the most frequent label.
    pub constant: f64,
}

const LABELS: [Label; 3] = [Label::Yes, Label::Maybe, Label::No];

impl Blind {
    /// Learns from some examples, and measures on others.
    pub fn measure(learned: &[Example], measured: &[Example]) -> Self {
        let mut of_picture: HashMap<&Picture, [usize; 3]> = HashMap::new();
        let mut all = [0; 3];
        for example in measured {
            let label = index(example.label);
            of_picture.entry(&example.image).or_default()[label] += 1;
            all[label] += 1;
        }
        let most = |counts: &[usize; 3]| counts.iter().copied().max().unwrap_or_default();
        let share = |right: usize| right as f64 / measured.len().max(1) as f64;
        Self {
            words: glance(learned.iter().zip(std::iter::repeat("")), measured.iter().zip(std::iter::repeat(""))),
            picture: share(of_picture.values().map(most).sum()),
            constant: share(most(&all)),
        }
    }
}

/// Accuracy of a judge who reads the words, and of the picture has caught something that is told beside each example: naive Bayes over
/// words and pairs of neighbouring words, each together with it.
pub fn glance<'e>(
    learned: impl Iterator<Item = (&'e Example, &'e str)>,
    measured: impl Iterator<Item = (&'e Example, &'e str)>,
) -> f64 {
    let words = Words::learn(learned);
    let (mut right, mut all) = (0_usize, 0_usize);
    for (example, seen) in measured {
        right += usize::from(words.guess(&example.text, seen) == example.label);
        all += 1;
    }
    right as f64 / all.max(1) as f64
}

fn index(label: Label) -> usize {
    LABELS.iter().position(|other| *other == label).unwrap_or_default()
}

struct Words {
    /// Texts of each label that have this word or pair.
    counts: HashMap<String, [f64; 3]>,
    texts: [f64; 3],
}

impl Words {
    fn learn<'e>(examples: impl Iterator<Item = (&'e Example, &'e str)>) -> Self {
        let (mut counts, mut texts) = (HashMap::<String, [f64; 3]>::new(), [0.0; 3]);
        for (example, seen) in examples {
            let label = index(example.label);
            texts[label] += 1.0;
            features(&example.text, seen).into_iter().for_each(|word| counts.entry(word).or_default()[label] += 1.0);
        }
        Self { counts, texts }
    }

    fn guess(&self, text: &str, seen: &str) -> Label {
        let features = features(text, seen);
        let score = |label: usize| {
            let seen = features.iter().filter_map(|word| self.counts.get(word));
            // Laplace's rule, so that a word never seen with a label does not rule it out.
            let log = |counts: &[f64; 3]| ((counts[label] + 1.0) / (self.texts[label] + 2.0)).ln();
            (self.texts[label] + 1.0).ln() + seen.map(log).sum::<f64>()
        };
        let best = (0..3).max_by(|one, other| score(*one).total_cmp(&score(*other)));
        LABELS[best.unwrap_or_default()]
    }
}

fn features(text: &str, seen: &str) -> BTreeSet<String> {
    let words: Vec<String> = text.to_lowercase().split_whitespace().map(str::to_owned).collect();
    let pairs = words.windows(2).map(|pair| pair.join(" "));
    pairs.chain(words.clone()).map(|feature| format!("{seen}|{feature}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(picture: usize, text: &str, label: Label) -> Example {
        Example {
            request_id: None,
            image: Picture::Path(picture.to_string()),
            text: text.to_owned(),
            caption: None,
            description: None,
            explanation: None,
            label,
            kind: None,
        }
    }

    #[test]
    fn words_and_pictures_that_give_the_label_away_are_found_out() {
        let given_away: Vec<Example> = (0..90)
            .map(|number| example(number, ["sure", "hidden", "wrong"][number % 3], LABELS[number % 3]))
            .collect();
        let blind = Blind::measure(&given_away, &given_away);
        assert_eq!((blind.words, blind.picture), (1.0, 1.0));
        let seen = |number: usize| ["left", "right"][number / 3 % 2];
        let turned: Vec<Example> = (0..90).map(|number| example(number, "a ball", LABELS[number / 3 % 2])).collect();
        let told = || turned.iter().enumerate().map(|(number, example)| (example, seen(number)));
        assert_eq!(glance(told(), told()), 1.0, "a glance gives it away");
        let fair: Vec<Example> = (0..90).map(|number| example(number / 3, "a ball", LABELS[number % 3])).collect();
        let blind = Blind::measure(&fair, &fair);
        for accuracy in [blind.words, blind.picture, blind.constant] {
            assert!((accuracy - 1.0 / 3.0).abs() < 1e-9, "{blind:?}");
        }
    }
}
