//! The same network, learning.

use std::ops::Range;

use burn::{
    module::{Module, ModuleVisitor, Param, ParamId},
    optim::{GradientsParams, ModuleOptimizer},
    tensor::Tensor,
};

use super::{
    checkpoint::Origin,
    encoder::Visible,
    model::{Encoded, Network, Ofa, Row},
};
use crate::ofa::RunError;

/// A published tensor: its name, its shape, and its values in row-major order.
pub type Published = (String, Vec<usize>, Vec<f32>);

/// What a network that learns makes of a batch.
pub struct LearnedAnswers {
    /// Logits `[rows, answers]`, in the answers' order.
    pub answers: Tensor<2>,
    /// Logits of each token of the explanations, one after the other, `[tokens, vocabulary]`; none where there are none.
    pub explanations: Option<Tensor<2>>,
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

    /// Tokens of planar pixels `[images, 3, side, side]`, as [`learned_answers`](Self::learned_answers) and
    /// [`learned_captions`](Self::learned_captions) look at them: `[images, patches, d_model]`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn learned_images(&mut self, pixels: Vec<f32>) -> Result<Tensor<3>, RunError> {
        // Position biases are part of what is learned, and depend on parameters that the last step has changed.
        self.refresh();
        Ok(self.image_tokens(self.feature_map(pixels, None)?))
    }

    /// What the network answers to rows about these images, and how it goes on behind their answers where `explained` says why they
    /// are right: for each row the number of the right answer and the tokens of its explanation, none where nobody has said why.
    ///
    /// # Errors
    /// When the device fails.
    pub fn learned_answers(
        &mut self,
        images: Tensor<3>,
        rows: &[Row],
        explained: &[(usize, &[u32])],
    ) -> Result<LearnedAnswers, RunError> {
        let encoded = self.encode(images, rows, None)?;
        // From the order of tokens to that of answers.
        let columns = self.trie().columns();
        if explained.iter().all(|(_, explanation)| explanation.is_empty()) {
            let logits = self.logits(&encoded, rows, None)?;
            let columns = self.indices(columns.into_iter().map(|column| column as i64).collect());
            return Ok(LearnedAnswers { answers: logits.select(1, columns), explanations: None });
        }
        let answers: Vec<u32> = columns.into_iter().map(|column| self.trie().tokens()[column]).collect();
        let (mut told, mut at_answers, mut behind) = (Vec::new(), Vec::new(), Vec::new());
        for (row, (answer, explanation)) in rows.iter().zip(explained) {
            // As when it serves, the decoder's prompt is the source without its end.
            let prompt = &row.source[..row.source.len() - 1];
            let last = prompt.len() - 1;
            at_answers.push(last..last + 1);
            behind.push(last + 1..last + 1 + explanation.len());
            let begun = explanation.split_last().map_or(&[][..], |(_, begun)| begun);
            told.push([prompt, &[answers[*answer]], begun].concat());
        }
        let told: Vec<&[u32]> = told.iter().map(Vec::as_slice).collect();
        let states = self.told(&encoded, &told)?;
        let answers = self.indices(answers.into_iter().map(i64::from).collect());
        let answers = self.network.embedding.val().select(0, answers);
        let at_answers = self.states_at(&states, &at_answers).matmul(answers.transpose());
        let behind = self.states_at(&states, &behind).matmul(self.network.embedding.val().transpose());
        Ok(LearnedAnswers { answers: at_answers, explanations: Some(behind) })
    }

    /// Logits of the token that follows each token of texts, their ends included, one text after the other,
    /// `[tokens of all texts, vocabulary]`; the decoder reads a text's beginning and the encoder the image alone, as the reference
    /// describes images.
    ///
    /// # Errors
    /// When the device fails.
    pub fn learned_captions(&mut self, images: Tensor<3>, texts: &[Row]) -> Result<Tensor<2>, RunError> {
        // What the encoder makes of an image without a text is the same for all texts about it: beginning and end alone.
        let ends = texts.first().and_then(|text| Some(vec![*text.source.first()?, *text.source.last()?]));
        let nothing = ends.unwrap_or_default();
        let bare: Vec<Row> = (0..images.dims()[0]).map(|image| Row { image, source: nothing.clone() }).collect();
        let seen = self.encode(images, &bare, None)?;
        let states = seen.states.select(0, self.indices(texts.iter().map(|text| text.image as i64).collect()));
        let visible = Visible { rows: vec![seen.visible.sequence; texts.len()], ..seen.visible };
        let told: Vec<&[u32]> = texts.iter().filter_map(|text| Some(text.source.split_last()?.1)).collect();
        let states = self.told(&Encoded { states, visible }, &told)?;
        let all: Vec<Range<usize>> = told.iter().map(|told| 0..told.len()).collect();
        Ok(self.states_at(&states, &all).matmul(self.network.embedding.val().transpose()))
    }

    /// Decoder states `[rows, tokens, d_model]` of what each row is told, one token after the other.
    fn told(&mut self, encoded: &Encoded, told: &[&[u32]]) -> Result<Tensor<3>, RunError> {
        let tokens = told.iter().map(|told| told.len()).max().unwrap_or_default();
        let embedded = self.embed(told, tokens);
        let bias = self.decoder_bias(tokens, encoded.visible.sequence - self.patches());
        let cross = encoded.without_padding(&bias.cross);
        self.network.decoder.forward(embedded, &encoded.states, &bias.own, &cross, None, None)
    }

    /// Some states of each row, `[tokens, d_model]`, one row after the other.
    fn states_at(&self, states: &Tensor<3>, places: &[Range<usize>]) -> Tensor<2> {
        let [rows, tokens, width] = states.dims();
        let flat = places.iter().enumerate().flat_map(|(row, places)| places.clone().map(move |at| row * tokens + at));
        let flat = self.indices(flat.map(|at| at as i64).collect());
        states.clone().reshape([rows * tokens, width]).select(0, flat)
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
