//! The same network, learning.

use burn::{
    module::{Module, ModuleVisitor, Param, ParamId},
    optim::{GradientsParams, ModuleOptimizer},
    tensor::Tensor,
};

use super::{
    checkpoint::Origin,
    model::{Network, Ofa, Row},
};
use crate::ofa::RunError;

/// A published tensor: its name, its shape, and its values in row-major order.
pub type Published = (String, Vec<usize>, Vec<f32>);

/// What a network that learns makes of a batch.
pub struct LearnedLogits {
    /// `[rows, answers]`, in the answers' order.
    pub answers: Tensor<2>,
    /// Of each next token of the rows that were asked for as captions, one row after the other, `[tokens, vocabulary]`.
    pub captions: Option<Tensor<2>>,
}

/// A network that cannot be trained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrainingError {
    /// One logit for each answer is what training compares with the labels.
    #[error(
        "its answers have several tokens; training needs yes, no and maybe to be one token each: a vocabulary that is learned needs more `merges`"
    )]
    LongAnswers,
}

impl Ofa {
    /// Makes a network that was loaded with [`trains`](super::OfaOptions::trains) keep account of what its answers depend on.
    ///
    /// # Errors
    /// When its answers cannot be trained.
    pub fn into_training(mut self) -> Result<Self, TrainingError> {
        if self.trie().reads().count() != 1 || self.trie().tokens().len() != self.trie().answers() {
            return Err(TrainingError::LongAnswers);
        }
        self.network = self.network.train();
        Ok(self)
    }

    /// Takes over what another has learned so far, to be asked: batch norm goes by its running statistics.
    pub fn take_over(&mut self, learned: &Self) {
        self.network = learned.network.valid();
        self.refresh();
    }

    /// Parameters of the network.
    pub fn parameters(&self) -> usize {
        self.network.num_params()
    }

    /// What the network makes of rows about planar pixels `[images, 3, side, side]`, and of some of these rows as captions.
    ///
    /// # Errors
    /// When the device fails.
    pub fn learned_logits(
        &mut self,
        pixels: Vec<f32>,
        rows: &[Row],
        captions: &[usize],
    ) -> Result<LearnedLogits, RunError> {
        // Position biases are part of what is learned, and depend on parameters that the last step has changed.
        self.refresh();
        let images = self.image_tokens(self.feature_map(pixels, None)?);
        let encoded = self.encode(images.clone(), rows, None)?;
        let logits = self.logits(&encoded, rows, None)?;
        // From the order of tokens to that of answers.
        let columns = self.trie().columns().into_iter().map(|column| column as i64).collect();
        let answers = logits.select(1, self.indices(columns));
        let captions: Vec<&Row> = captions.iter().filter_map(|index| rows.get(*index)).collect();
        let captions = if captions.is_empty() { None } else { Some(self.caption_logits(images, &captions)?) };
        Ok(LearnedLogits { answers, captions })
    }

    /// Logits of the token that follows each token of texts, their ends included, `[tokens of all texts, vocabulary]`; the
    /// decoder reads a text's beginning and the encoder the image alone, as the reference describes images.
    fn caption_logits(&mut self, images: Tensor<3>, texts: &[&Row]) -> Result<Tensor<2>, RunError> {
        // What the encoder makes of an image without a text is the same for all texts about it. All are equally long, and what
        // learns pads to no multiple, so there is no padding to hide.
        let bare = |image: usize| {
            let source = texts.iter().find(|text| text.image == image).map(|text| text.source.as_slice());
            let ends = source.and_then(|source| Some(vec![*source.first()?, *source.last()?]));
            Row { image, source: ends.unwrap_or_default() }
        };
        let mut shown: Vec<usize> = texts.iter().map(|text| text.image).collect();
        shown.sort_unstable();
        shown.dedup();
        let bare: Vec<Row> = shown.iter().copied().map(bare).collect();
        let encoded = self.encode(images, &bare, None)?;
        let places = texts.iter().filter_map(|text| shown.binary_search(&text.image).ok()).map(|place| place as i64);
        let states = encoded.states.select(0, self.indices(places.collect()));

        let inputs: Vec<&[u32]> =
            texts.iter().map(|text| text.source.split_last().map_or(&[][..], |(_, rest)| rest)).collect();
        let tokens = inputs.iter().map(|input| input.len()).max().unwrap_or_default();
        let embedded = self.embed(&inputs, tokens);
        let bias = self.decoder_bias(tokens, states.dims()[1] - self.patches());
        let states = self.network.decoder.forward(embedded, &states, &bias.own, &bias.cross, None, None)?;
        let read = |(text, input): (usize, &&[u32])| {
            (0..input.len()).map(move |at| (text * tokens + at) as i64).collect::<Vec<_>>()
        };
        let read = inputs.iter().enumerate().flat_map(read).collect();
        let states =
            states.reshape([texts.len() * tokens, self.network.embedding.dims()[1]]).select(0, self.indices(read));
        Ok(states.matmul(self.network.embedding.val().transpose()))
    }

    /// Takes one step against the gradient of a loss that was computed with this network.
    pub fn learn(&mut self, optimizer: &mut ModuleOptimizer, learning_rate: f64, loss: &Tensor<1>) {
        let gradients = GradientsParams::from_grads(loss.backward(), &self.network);
        self.network = optimizer.step(learning_rate, self.network.clone(), gradients);
    }

    /// The gradient of a loss for each published tensor.
    pub fn gradients(&self, loss: &Tensor<1>) -> Vec<Published> {
        let gradients = GradientsParams::from_grads(loss.backward(), &self.network);
        let mut taken = Taken { origins: &self.origins, of: Of::Gradients(&gradients), published: Vec::new() };
        self.network.visit(&mut taken);
        taken.published
    }

    /// All parameters, as they are published.
    pub fn published(&self) -> Vec<Published> {
        // Without the account, running statistics of all threads are settled.
        let settled: Network = self.network.valid();
        let mut taken = Taken { origins: &self.origins, of: Of::Values, published: Vec::new() };
        settled.visit(&mut taken);
        taken.published
    }
}

struct Taken<'n> {
    origins: &'n [Origin],
    of: Of<'n>,
    published: Vec<Published>,
}

enum Of<'n> {
    Values,
    Gradients(&'n GradientsParams),
}

impl ModuleVisitor for Taken<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(origin) = self.origins.get(index(param.id)) else { return };
        let values = match self.of {
            Of::Values => Some(param.val()),
            Of::Gradients(gradients) => gradients.get(param.id),
        };
        let Some(values) = values else { return };
        let mut shape = values.dims().to_vec();
        let Ok(mut values) = values.try_into_vec_as::<f32>() else { return };
        if let ([inputs, outputs], true) = (shape.as_slice(), origin.transposed) {
            let (inputs, outputs) = (*inputs, *outputs);
            values = (0..outputs * inputs).map(|at| values[at % inputs * outputs + at / inputs]).collect();
            shape = vec![outputs, inputs];
        }
        // Those that were put one behind the other are equally long.
        shape[0] /= origin.names.len();
        let each = values.len() / origin.names.len();
        for (name, values) in origin.names.iter().zip(values.chunks_exact(each)) {
            self.published.push((name.clone(), shape.clone(), values.to_vec()));
        }
    }
}

fn index(id: ParamId) -> usize {
    usize::try_from(id.val()).unwrap_or(usize::MAX)
}
