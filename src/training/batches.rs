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
    vision::{Limits, Normalization, decode},
};

/// Examples by picture: what is said of one picture goes into one step, which then pays for looking at it once.
pub(super) struct Batches {
    pictures: Vec<About>,
    reader: Reader,
    preparer: Preparer,
    normalization: Normalization,
    limits: Limits,
}

/// A picture and what is said of it.
struct About {
    picture: Picture,
    name: String,
    /// Source ids and label of each text.
    texts: Vec<(Vec<u32>, Label)>,
}

/// What a step reads.
pub(super) struct Batch {
    /// Planar `[images, 3, side, side]`.
    pub(super) pixels: Vec<f32>,
    pub(super) rows: Vec<Row>,
    pub(super) labels: Vec<Label>,
}

impl Batches {
    pub(super) fn new(
        examples: &[Example],
        reader: Reader,
        preparer: Preparer,
        normalization: Normalization,
        limits: Limits,
    ) -> Self {
        let mut places = HashMap::new();
        let mut pictures: Vec<About> = Vec::new();
        for (index, example) in examples.iter().enumerate() {
            let place = *places.entry(&example.image).or_insert_with(|| {
                let name = example.request_id.clone().unwrap_or_else(|| format!("example {}", index + 1));
                pictures.push(About { picture: example.image.clone(), name, texts: Vec::new() });
                pictures.len() - 1
            });
            let source = preparer.source(&example.text, example.caption.as_deref());
            pictures[place].texts.push((source, example.label));
        }
        Self { pictures, reader, preparer, normalization, limits }
    }

    pub(super) fn examples(&self) -> usize {
        self.pictures.iter().map(|about| about.texts.len()).sum()
    }

    /// The batch of a step: in each round every picture comes once, in an order of its own.
    pub(super) fn of_step(&self, step: usize, size: usize, seed: u64) -> Result<Batch, TrainError> {
        let all = self.pictures.len();
        let chosen = (step * size..(step + 1) * size).map(|place| {
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
                order[at]
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
        let mut batch = Batch { pixels: Vec::new(), rows: Vec::new(), labels: Vec::new() };
        for (image, (index, pixels)) in chosen.iter().zip(pixels?).enumerate() {
            self.normalization.apply_to(&pixels, &mut batch.pixels);
            for (source, label) in &self.pictures[*index].texts {
                batch.rows.push(Row { image, source: source.clone() });
                batch.labels.push(*label);
            }
        }
        Ok(batch)
    }

    fn pixels(&self, about: &About) -> Result<Arc<[u8]>, TrainError> {
        let bytes = self.reader.bytes(&about.picture)?;
        let image = decode(&bytes, &self.limits)
            .map_err(|error| TrainError::Picture { example: about.name.clone(), reason: error.to_string() })?;
        Ok(self.preparer.pixels(&image))
    }
}
