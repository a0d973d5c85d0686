//! The network that learns: its tasks, their losses, and its steps.

use std::path::Path;

use burn::{
    grad_clipping::GradientClippingConfig,
    optim::{AdamWConfig, ModuleOptimizer},
    tensor::{Device as BurnDevice, Int, Tensor, TensorData, activation::log_softmax},
};

use super::{
    Recipe, TrainError, Workshop,
    batches::{Batch, Batches},
    disk,
    workshop::write,
};
use crate::{
    message::Label,
    ofa::{Ofa, OfaOptions, Row},
    store::Definition,
    weights::{Arithmetic, Weights},
};

/// Pictures of one pass over the validation split.
const VALIDATED: usize = 32;
const CACHE_BYTES: usize = 64 << 20;

/// A network that learns, and the one that is asked how far it is.
pub(super) struct Learner<'d> {
    pub(super) network: Ofa,
    asked: Ofa,
    optimizer: ModuleOptimizer,
    definition: &'d Definition,
    device: BurnDevice,
    label_smoothing: f64,
    /// Weight of the loss of captions.
    captions: f64,
    /// Weight of the loss of explanations.
    explanations: f64,
}

/// What a look at the validation split showed.
pub(super) struct Validated {
    /// Mean loss of an answer.
    pub(super) loss: f64,
    /// Mean loss of a token of captions.
    pub(super) caption_loss: Option<f64>,
    pub(super) accuracy: f64,
    pub(super) answers: Answers,
}

/// Log-probabilities of the answers, and which of them is right.
pub(super) type Answers = Vec<(Vec<f32>, usize)>;

impl<'d> Learner<'d> {
    pub(super) fn open(
        recipe: &Recipe,
        workshop: &Workshop,
        definition: &'d Definition,
        device: &BurnDevice,
        step: usize,
    ) -> Result<Self, TrainError> {
        let &Recipe { weight_decay, gradient_norm_max, label_smoothing, explanations, captions, .. } = recipe;
        let network = load(&workshop.last(step), definition, device)?.into_training()?;
        let asked = load(&workshop.last(step), definition, device)?;
        let mut optimizer = AdamWConfig::new()
            .with_weight_decay(weight_decay)
            .with_epsilon(1e-8)
            .with_grad_clipping(Some(GradientClippingConfig::Norm(gradient_norm_max)))
            .init();
        if step > 0 {
            let path = workshop.optimizer(step);
            optimizer = optimizer.load(&path).map_err(|error| disk(&path)(std::io::Error::other(error.to_string())))?;
        }
        let (device, captions) = (device.clone(), captions.weight);
        Ok(Self { network, asked, optimizer, definition, device, label_smoothing, captions, explanations })
    }

    /// The same, with other weights, to be asked.
    pub(super) fn reopen(self, weights: &Path) -> Result<Self, TrainError> {
        let network = load(weights, self.definition, &self.device)?.into_training()?;
        Ok(Self { network, ..self })
    }

    fn answer_of(&self, label: Label) -> usize {
        self.definition.labels.iter().position(|other| *other == label).unwrap_or_default()
    }

    /// One step; gives back the loss of its answers, or of captions where it does not judge.
    pub(super) fn step(&mut self, mut batch: Batch, rate: f64, judges: bool) -> Result<f64, TrainError> {
        let images = self.network.learned_images(std::mem::take(&mut batch.pixels))?;
        let said = match self.captions > 0.0 && !batch.captions.is_empty() {
            true => Some(caption_loss(&mut self.network, images.clone(), &batch.captions, &self.device)?),
            false => None,
        };
        let judged = match judges {
            true => Some(self.answer_loss(images, &batch)?),
            false => None,
        };
        let Some(shown) = judged.as_ref().map(|(answers, _)| answers).or(said.as_ref()) else { return Ok(0.0) };
        let shown = first(shown)?;
        let said = said.map(|loss| loss * self.captions);
        let (judged, explained) = judged.unzip();
        let explained = explained.flatten().map(|loss| loss * self.explanations);
        if let Some(loss) = [judged, said, explained].into_iter().flatten().reduce(|one, other| one + other) {
            self.network.learn(&mut self.optimizer, rate, &loss);
        }
        Ok(shown)
    }

    /// The loss of answers, and of their explanations where there are some.
    fn answer_loss(&mut self, images: Tensor<3>, batch: &Batch) -> Result<(Tensor<1>, Option<Tensor<1>>), TrainError> {
        let Batch { rows, labels, explanations, .. } = batch;
        let kept = if self.explanations > 0.0 { usize::MAX } else { 0 };
        let explained: Vec<(usize, &[u32])> = labels
            .iter()
            .zip(explanations)
            .map(|(label, why)| (self.answer_of(*label), &why[..why.len().min(kept)]))
            .collect();
        let learned = self.network.learned_answers(images, rows, &explained)?;
        let [_, answers] = learned.answers.dims();
        // Of the smoothed share every answer gets the same (Szegedy et al., 2016).
        let others = self.label_smoothing / answers as f64;
        let mut targets = vec![others as f32; rows.len() * answers];
        for (row, label) in labels.iter().enumerate() {
            targets[row * answers + self.answer_of(*label)] += 1.0 - self.label_smoothing as f32;
        }
        let targets = Tensor::<2>::from_data(TensorData::new(targets, [rows.len(), answers]), &self.device);
        let loss = (log_softmax(learned.answers, 1) * targets).sum() / -(rows.len() as f64);
        let next = explained.iter().flat_map(|(_, explanation)| *explanation);
        let explained = learned.explanations.map(|logits| token_loss(logits, next, &self.device));
        Ok((loss, explained))
    }

    pub(super) fn validate(&mut self, batches: &Batches) -> Result<Validated, TrainError> {
        self.asked.take_over(&self.network);
        let (mut answers, mut loss, mut right) = (Answers::new(), 0.0, 0);
        let (mut caption_loss_sum, mut tokens) = (0.0, 0);
        for batch in batches.in_order(VALIDATED) {
            let batch = batch?;
            let images = self.asked.image_tokens(self.asked.feature_map(batch.pixels, None)?);
            if self.captions > 0.0 && !batch.captions.is_empty() {
                let loss = caption_loss(&mut self.asked, images.clone(), &batch.captions, &self.device)?;
                let said = batch.captions.iter().map(|row| row.source.len() - 1).sum::<usize>();
                caption_loss_sum += first(&loss)? * said as f64;
                tokens += said;
            }
            let scores = self.asked.answer(images, &batch.rows, None)?;
            for (scores, label) in scores.into_iter().zip(batch.labels) {
                let correct = self.answer_of(label);
                loss -= f64::from(scores[correct]);
                right += usize::from((0..scores.len()).all(|other| scores[other] <= scores[correct]));
                answers.push((scores, correct));
            }
        }
        let all = answers.len().max(1) as f64;
        let caption_loss = (tokens > 0).then(|| caption_loss_sum / tokens as f64);
        Ok(Validated { loss: loss / all, caption_loss, accuracy: right as f64 / all, answers })
    }

    pub(super) fn keep(&self, workshop: &Workshop, step: usize, is_best: bool) -> Result<(), TrainError> {
        let weights = self.network.published();
        if is_best {
            workshop.keep_best(&weights)?;
        }
        workshop.keep_last(step, &weights)?;
        write(&workshop.optimizer(step), |path| self.optimizer.save(path).map_err(std::io::Error::other))
    }
}

/// Mean loss of a token of captions.
fn caption_loss(
    network: &mut Ofa,
    images: Tensor<3>,
    captions: &[Row],
    device: &BurnDevice,
) -> Result<Tensor<1>, TrainError> {
    let logits = network.learned_captions(images, captions)?;
    Ok(token_loss(logits, captions.iter().flat_map(|row| row.source.iter().skip(1)), device))
}

/// Mean loss of tokens, given the logits `[tokens, vocabulary]` of what precedes each.
fn token_loss<'t>(logits: Tensor<2>, next: impl Iterator<Item = &'t u32>, device: &BurnDevice) -> Tensor<1> {
    let next: Vec<i64> = next.map(|id| i64::from(*id)).collect();
    let shape = [next.len(), 1];
    let next = Tensor::<2, Int>::from_data(TensorData::new(next, shape), device);
    -log_softmax(logits, 1).gather(1, next).mean()
}

fn first(loss: &Tensor<1>) -> Result<f64, TrainError> {
    let value = loss.clone().try_into_vec_as::<f32>().map_err(crate::ofa::RunError::from)?;
    Ok(value.first().copied().map_or(f64::NAN, f64::from))
}

fn options() -> OfaOptions {
    OfaOptions {
        precision: Arithmetic::F32,
        kernels: false,
        absorb: false,
        token_multiple: 1,
        bias_cache_bytes: CACHE_BYTES,
        trains: true,
    }
}

fn load(weights: &Path, definition: &Definition, device: &BurnDevice) -> Result<Ofa, TrainError> {
    let side = definition.task.patch_image_size as usize;
    let weights = Weights::open(&[weights])?;
    Ok(Ofa::load(weights, &definition.network, side, definition.trie.clone(), (device, options()))?)
}
