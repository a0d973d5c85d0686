//! Examples as the network reads them, in an order that the seed decides.

use std::{collections::HashMap, sync::Arc};

use fastrand::Rng;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};

use super::TrainError;
use crate::{
    dataset::{Example, Picture, Reader},
    engine::Preparer,
    message::Label,
    ofa::Row,
    text::Tokenizer,
    vision::{Limits, Normalization, decode},
};

/// Whether somebody who sees the example's picture alone can say something of it.
pub(super) fn has_caption(example: &Example) -> bool {
    example.label == Label::Yes || example.description.as_deref().is_some_and(|text| !is_blank(text))
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

/// Examples by picture: what is said of one picture goes into one step, which then pays for looking at it once.
pub(super) struct Batches {
    pictures: Vec<About>,
    /// Which of them have captions.
    captioned: Vec<usize>,
    reader: Reader,
    preparer: Preparer,
    normalization: Normalization,
    limits: Limits,
}

/// A picture and what is said of it.
struct About {
    picture: Picture,
    name: String,
    texts: Vec<Text>,
    /// What is to be said of it.
    description: Option<Vec<u32>>,
}

/// What is said of a picture.
struct Text {
    source: Vec<u32>,
    label: Label,
    /// What is to be said behind its answer; nothing where nobody has said why.
    explanation: Vec<u32>,
}

/// Which pictures a step may read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Among {
    /// Every one.
    All,
    /// Those with captions.
    Captioned,
}

/// What a step reads.
#[derive(Default)]
pub(super) struct Batch {
    /// Planar `[images, 3, side, side]`.
    pub(super) pixels: Vec<f32>,
    pub(super) rows: Vec<Row>,
    pub(super) labels: Vec<Label>,
    /// Why the labels are right: what is to be said behind them.
    pub(super) explanations: Vec<Vec<u32>>,
    /// What can be said of the images by who sees them alone.
    pub(super) captions: Vec<Row>,
}

impl About {
    /// What can be said of it by who sees it alone: its description, or what it entails.
    fn captions(&self) -> impl Iterator<Item = &Vec<u32>> {
        let entailed = self.texts.iter().filter(|text| text.label == Label::Yes).map(|text| &text.source);
        self.description.iter().chain(entailed.filter(|_| self.description.is_none()))
    }
}

impl Batches {
    /// Reads the examples' texts for a network with so many text positions.
    ///
    /// # Errors
    /// Naming the example that is too long for it.
    pub(super) fn new(
        examples: &[Example],
        reader: Reader,
        preparer: Preparer,
        normalization: Normalization,
        (limits, positions): (Limits, usize),
    ) -> Result<Self, TrainError> {
        let mut places = HashMap::new();
        let mut pictures: Vec<About> = Vec::new();
        for (index, example) in examples.iter().enumerate() {
            let place = *places.entry(&example.image).or_insert_with(|| {
                let name = example.request_id.clone().unwrap_or_else(|| format!("example {}", index + 1));
                pictures.push(About { picture: example.image.clone(), name, texts: Vec::new(), description: None });
                pictures.len() - 1
            });
            let about = &mut pictures[place];
            let source = preparer.source(&example.text, example.caption.as_deref());
            if source.len() > positions {
                let reason = format!(
                    "its text is {} tokens, and the network has positions for {positions}: lower `max_src_length`",
                    source.len()
                );
                return Err(TrainError::Example { example: about.name.clone(), reason });
            }
            let said = |text: &Option<String>, room: usize| {
                let text = text.as_deref().filter(|text| !is_blank(text))?;
                let mut ids = preparer.said(text);
                ids.truncate(room);
                Some(ids)
            };
            // The decoder reads the text without its end, the answer, and the explanation without its last token.
            let explanation = said(&example.explanation, positions + 1 - source.len()).unwrap_or_default();
            if about.description.is_none() {
                let description = said(&example.description, positions);
                about.description = description.map(|description| [vec![Tokenizer::BEGIN], description].concat());
            }
            about.texts.push(Text { source, label: example.label, explanation });
        }
        let captioned = (0..pictures.len()).filter(|index| pictures[*index].captions().next().is_some()).collect();
        Ok(Self { pictures, captioned, reader, preparer, normalization, limits })
    }

    /// Tokens of each text, of its explanation and of its picture's description.
    #[cfg(test)]
    pub(super) fn texts(&self) -> Vec<(usize, usize, usize)> {
        let of = |about: &About| {
            let described = about.description.as_ref().map_or(0, Vec::len);
            about
                .texts
                .iter()
                .map(move |text| (text.source.len(), text.explanation.len(), described))
                .collect::<Vec<_>>()
        };
        self.pictures.iter().flat_map(of).collect()
    }

    pub(super) fn examples(&self) -> usize {
        self.pictures.iter().map(|about| about.texts.len()).sum()
    }

    /// The batch of so many pictures that follow `passed` ones: in each round every picture comes once, in an order of its own.
    pub(super) fn after(&self, passed: usize, size: usize, seed: u64, among: Among) -> Result<Batch, TrainError> {
        let all = match among {
            Among::All => self.pictures.len(),
            Among::Captioned => self.captioned.len(),
        };
        let picture = |place: usize| if among == Among::All { place } else { self.captioned[place] };
        let chosen = (passed..passed + size).map(|place| {
            let (round, at) = (place / all, place % all);
            (round as u64, at)
        });
        let mut orders: HashMap<u64, Vec<usize>> = HashMap::new();
        let chosen: Vec<usize> = chosen
            .map(|(round, at)| {
                let order = orders.entry(round).or_insert_with(|| {
                    let mut order: Vec<usize> = (0..all).collect();
                    Rng::with_seed(seed.wrapping_add(round.wrapping_mul(0x9e37_79b9_7f4a_7c15))).shuffle(&mut order);
                    order
                });
                picture(order[at])
            })
            .collect();
        self.batch(&chosen)
    }

    /// All examples in their own order, so many pictures at a time.
    pub(super) fn in_order(&self, size: usize) -> impl Iterator<Item = Result<Batch, TrainError>> {
        let all: Vec<usize> = (0..self.pictures.len()).collect();
        let chunks: Vec<Vec<usize>> = all.chunks(size.max(1)).map(<[usize]>::to_vec).collect();
        chunks.into_iter().map(|chunk| self.batch(&chunk))
    }

    fn batch(&self, chosen: &[usize]) -> Result<Batch, TrainError> {
        let pixels: Result<Vec<Arc<[u8]>>, TrainError> =
            chosen.par_iter().map(|index| self.pixels(&self.pictures[*index])).collect();
        let mut batch = Batch::default();
        for (image, (index, pixels)) in chosen.iter().zip(pixels?).enumerate() {
            self.normalization.apply_to(&pixels, &mut batch.pixels);
            let about = &self.pictures[*index];
            batch.captions.extend(about.captions().map(|source| Row { image, source: source.clone() }));
            for text in &about.texts {
                batch.rows.push(Row { image, source: text.source.clone() });
                batch.labels.push(text.label);
                batch.explanations.push(text.explanation.clone());
            }
        }
        Ok(batch)
    }

    fn pixels(&self, about: &About) -> Result<Arc<[u8]>, TrainError> {
        let bytes = self.reader.bytes(&about.picture)?;
        let image = decode(&bytes, &self.limits)
            .map_err(|error| TrainError::Example { example: about.name.clone(), reason: error.to_string() })?;
        Ok(self.preparer.pixels(&image))
    }
}
