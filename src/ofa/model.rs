//! The whole network: pixels and token ids in, answer probabilities out.

use burn::{
    module::{Module, Param},
    tensor::{DType, Device, Int, Tensor, TensorData, TensorReadError},
};

use super::{
    answers::AnswerTrie,
    checkpoint::{Checkpoint, CheckpointError, Wanted, on_device},
    config::{ConfigError, NetworkConfig},
    decoder::{Decoder, DecoderBias},
    encoder::{Encoder, EncoderBias, ImageBias},
    position::BiasCache,
};
use crate::weights::{Precision, Weights};

const PADDING: u32 = 1;
/// Rows of the position tables beyond `max_position_embeddings`.
const EXTRA_POSITIONS: usize = 2;

/// How a network is run; nothing here changes its answers, but for the rounding of half precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfaOptions {
    /// Of weights and states. Norms and the answers' logits have 32 bits always.
    pub precision: Precision,
    /// Whether our own CPU kernels are used in place of burn's operations; `flex` has them.
    pub kernels: bool,
    /// Text is padded to a multiple of this many tokens. Above one where every new shape costs the
    /// device a kernel, as on a GPU.
    pub token_multiple: usize,
    /// Bound of the position biases kept per shape.
    pub bias_cache_bytes: usize,
}

/// Images and the texts about them, for one forward pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Planar pixels of each image, `[3, side, side]`.
    pub images: Vec<Vec<f32>>,
    /// The texts; several may share an image.
    pub rows: Vec<Row>,
}

/// One text about one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Index of the image in the batch.
    pub image: usize,
    /// Source ids: beginning, prompt, end.
    pub source: Vec<u32>,
}

/// Encoder output of a batch, ready for the decoder.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// `[rows, patches + tokens, d_model]`
    pub states: Tensor<3>,
    /// Text positions, padding included.
    tokens: usize,
}

/// The parameters.
#[derive(Module, Debug)]
struct Network {
    /// `[vocabulary, d_model]`: both embeddings and the output projection.
    embedding: Param<Tensor<2>>,
    encoder: Encoder,
    decoder: Decoder,
}

impl Network {
    fn load(checkpoint: &mut Checkpoint, config: &NetworkConfig) -> Result<Self, ConfigError> {
        Ok(Self {
            embedding: Param::from_tensor(checkpoint.shared_embedding([config.vocab_size, config.d_model])),
            encoder: Encoder::load(checkpoint, config)?,
            decoder: Decoder::load(checkpoint, config),
        })
    }
}

/// Every tensor that a network of this configuration is made from.
///
/// # Errors
/// When the configuration is not supported.
pub fn wanted_tensors(config: &NetworkConfig) -> Result<Vec<Wanted>, ConfigError> {
    // The network's own loading is the only list of its tensors.
    let mut checkpoint = Checkpoint::blank(&Device::flex());
    Network::load(&mut checkpoint, config)?;
    Ok(checkpoint.wanted())
}

/// A loaded network with its answers. Not shared between threads: the thread that loads it runs it.
pub struct Ofa {
    network: Network,
    trie: AnswerTrie,
    side: usize,
    options: OfaOptions,
    device: Device,
    image_bias: ImageBias,
    encoder_biases: BiasCache<(usize, usize), EncoderBias>,
    decoder_biases: BiasCache<(usize, usize, usize), DecoderBias>,
    heads: usize,
    layers: usize,
    patches: usize,
    positions_max: usize,
}

impl Ofa {
    /// Builds the network from its weights, on a device, for square images of `side` pixels.
    ///
    /// # Errors
    /// When a tensor does not fit the configuration, or the configuration cannot hold the images.
    pub fn load(
        weights: Weights,
        config: &NetworkConfig,
        side: usize,
        trie: AnswerTrie,
        (device, options): (&Device, OfaOptions),
    ) -> Result<Self, LoadError> {
        let grid = config.grid(side)?;
        let mut checkpoint = Checkpoint::new(weights, device, options.precision, options.kernels);
        let network = Network::load(&mut checkpoint, config)?;
        checkpoint.finish()?;
        if let Some(&token) = trie.tokens().iter().find(|&&token| token as usize >= config.vocab_size) {
            return Err(LoadError::AnswerOutside { token, rows: config.vocab_size });
        }
        let image_bias = network.encoder.image_bias(grid);
        Ok(Self {
            image_bias,
            network,
            trie,
            side,
            options,
            device: device.clone(),
            encoder_biases: BiasCache::new(options.bias_cache_bytes / 2),
            decoder_biases: BiasCache::new(options.bias_cache_bytes / 2),
            heads: config.encoder_attention_heads.max(config.decoder_attention_heads),
            layers: config.encoder_layers.max(config.decoder_layers),
            patches: grid * grid,
            positions_max: config.max_position_embeddings + EXTRA_POSITIONS,
        })
    }

    /// Side of the images, in pixels.
    pub fn side(&self) -> usize {
        self.side
    }

    /// The longest source, in tokens, for which there are positions in the encoder and, with an answer
    /// behind it, in the decoder.
    pub fn source_tokens_max(&self) -> usize {
        let answer = self.trie.paths().iter().map(Vec::len).max().unwrap_or_default();
        self.positions_max.min((self.positions_max + 1).saturating_sub(answer))
    }

    /// Memory of the weights and of the position biases held so far, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        let width = self.options.precision.bytes();
        let image = self.layers * self.heads * self.patches.pow(2) * width;
        let cached = self.encoder_biases.bytes() + self.decoder_biases.bytes();
        (self.network.num_params() * width + image + cached) as u64
    }

    /// Log-probabilities of the answers, `[rows][answers]`, in the answers' order.
    ///
    /// # Errors
    /// When the device fails while the result is read.
    pub fn answer(&mut self, batch: &Batch) -> Result<Vec<Vec<f32>>, TensorReadError> {
        let logits = self.branch_logits(batch)?;
        Ok(logits.iter().map(|row| self.trie.log_probabilities(row)).collect())
    }

    /// The logits that decide, `[rows][reads * tokens]`, as [`AnswerTrie::reads`] and
    /// [`AnswerTrie::tokens`] order them.
    ///
    /// # Errors
    /// When the device fails while the result is read.
    pub fn branch_logits(&mut self, batch: &Batch) -> Result<Vec<Vec<f32>>, TensorReadError> {
        if batch.rows.is_empty() {
            return Ok(Vec::new());
        }
        let features = self.feature_map(&batch.images);
        let encoded = self.encode(features, &batch.rows);
        self.decode(encoded, &batch.rows)
    }

    /// The ResNet's feature map `[images, channels, grid, grid]` of planar pixels `[3, side, side]`
    /// each.
    pub fn feature_map(&self, images: &[Vec<f32>]) -> Tensor<4> {
        let shape = [images.len(), 3, self.side, self.side];
        self.network.encoder.feature_map(on_device(images.concat(), shape, &self.device, self.options.precision))
    }

    /// Encodes each row's text together with its image.
    pub fn encode(&mut self, features: Tensor<4>, rows: &[Row]) -> Encoded {
        let image_tokens = self.network.encoder.image_tokens(features);
        let image_of_row: Vec<i64> = rows.iter().map(|row| row.image as i64).collect();
        let one_each = image_of_row.iter().enumerate().all(|(row, &image)| row as i64 == image);
        let image_tokens = match one_each && rows.len() == image_tokens.dims()[0] {
            true => image_tokens,
            false => image_tokens.select(0, self.indices(image_of_row)),
        };
        let tokens = self.padded(rows.iter().map(|row| row.source.len()).max().unwrap_or_default());
        let ids = rows.iter().map(|row| row.source.as_slice()).collect::<Vec<_>>();
        let text_tokens = self.network.encoder.text_tokens(self.embed(&ids, tokens));
        let biases: Vec<EncoderBias> = self.per_row(rows, |model, length| model.encoder_bias(tokens, length));
        let layers: Vec<Tensor<4>> = (0..biases[0].layers.len())
            .map(|layer| joined(biases.iter().map(|bias| bias.layers[layer].clone()).collect()))
            .collect();
        let states = self.network.encoder.forward(image_tokens, text_tokens, &layers);
        Encoded { states, tokens }
    }

    /// One decoder pass over each row's prompt, and the logits that decide, `[rows][reads * tokens]`.
    ///
    /// # Errors
    /// When the device fails while the result is read.
    pub fn decode(&mut self, encoded: Encoded, rows: &[Row]) -> Result<Vec<Vec<f32>>, TensorReadError> {
        let paths = self.trie.paths().to_vec();
        // The decoder's prompt is the source without its end.
        let prompts: Vec<&[u32]> = rows.iter().map(|row| &row.source[..row.source.len() - 1]).collect();
        let sequences: Vec<Vec<u32>> =
            prompts.iter().flat_map(|prompt| paths.iter().map(|path| [prompt, path.as_slice()].concat())).collect();
        let tokens = self.padded(sequences.iter().map(Vec::len).max().unwrap_or_default());
        let embedded = self.embed(&sequences.iter().map(Vec::as_slice).collect::<Vec<_>>(), tokens);
        let biases: Vec<DecoderBias> =
            self.per_row(rows, |model, length| model.decoder_bias(tokens, encoded.tokens, length));
        let cross = joined(biases.iter().map(|bias| bias.cross.clone()).collect());
        let own = biases[0].own.clone();
        let (encoded, cross) = match paths.len() {
            1 => (encoded.states, cross),
            paths => (
                repeat_rows(encoded.states, paths),
                if cross.dims()[0] > 1 { repeat_rows(cross, paths) } else { cross },
            ),
        };
        let states = self.network.decoder.forward(embedded, encoded, &own, &cross);
        let reads: Vec<i64> = prompts
            .iter()
            .enumerate()
            .flat_map(|(row, prompt)| {
                let first = row * paths.len();
                let before = prompt.len() - 1;
                self.trie.reads().map(move |(path, depth)| ((first + path) * tokens + before + depth) as i64)
            })
            .collect();
        let [_, _, width] = states.dims();
        let per_row = reads.len() / rows.len().max(1);
        if per_row == 0 {
            return Ok(vec![Vec::new(); rows.len()]);
        }
        let last = states.reshape([-1, width as i32]).select(0, self.indices(reads)).cast(DType::F32);
        let answers = self.indices(self.trie.tokens().iter().map(|&token| token.into()).collect());
        let answers = self.network.embedding.val().select(0, answers).cast(DType::F32);
        let logits: Vec<f32> = last.matmul(answers.transpose()).try_into_vec_as()?;
        Ok(logits.chunks_exact(per_row * self.trie.tokens().len()).map(<[f32]>::to_vec).collect())
    }

    /// The answers' trie.
    pub fn trie(&self) -> &AnswerTrie {
        &self.trie
    }

    fn padded(&self, tokens: usize) -> usize {
        tokens.next_multiple_of(self.options.token_multiple.max(1)).min(self.positions_max).max(tokens)
    }

    fn indices(&self, values: Vec<i64>) -> Tensor<1, Int> {
        let length = values.len();
        Tensor::from_data(TensorData::new(values, [length]), &self.device)
    }

    /// Embedded ids `[rows, tokens, d_model]`, padded on the right.
    fn embed(&self, rows: &[&[u32]], tokens: usize) -> Tensor<3> {
        let padded = |ids: &[u32]| {
            let fill = std::iter::repeat_n(PADDING, tokens - ids.len());
            ids.iter().copied().chain(fill).map(i64::from).collect::<Vec<_>>()
        };
        let ids = self.indices(rows.iter().flat_map(|ids| padded(ids)).collect());
        self.network.embedding.val().select(0, ids).reshape([rows.len() as i32, tokens as i32, -1])
    }

    /// One value for all rows where their texts are equally long, otherwise one per row.
    fn per_row<T>(&mut self, rows: &[Row], mut make: impl FnMut(&mut Self, usize) -> T) -> Vec<T> {
        let lengths: Vec<usize> = rows.iter().map(|row| row.source.len()).collect();
        match lengths.iter().all(|length| *length == lengths[0]) {
            true => vec![make(self, lengths[0])],
            false => lengths.into_iter().map(|length| make(self, length)).collect(),
        }
    }

    fn encoder_bias(&mut self, tokens: usize, length: usize) -> EncoderBias {
        let (network, image) = (&self.network, &self.image_bias);
        let bytes = self.layers * self.heads * (self.patches + tokens).pow(2) * self.options.precision.bytes();
        self.encoder_biases.get_or_make((tokens, length), || (network.encoder.bias(image, tokens, length), bytes))
    }

    fn decoder_bias(&mut self, tokens: usize, source_tokens: usize, source_length: usize) -> DecoderBias {
        let positions = self.encoder_bias(source_tokens, source_length).positions;
        let sequence = self.patches + source_tokens;
        let bytes = self.heads * tokens * (self.layers * tokens + sequence) * self.options.precision.bytes();
        let visible = self.patches + source_length;
        let network = &self.network;
        self.decoder_biases.get_or_make((tokens, source_tokens, source_length), || {
            (network.decoder.bias(tokens, &positions, visible), bytes)
        })
    }
}

/// A checkpoint and a configuration that do not make a network.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The tensors do not fit.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The configuration is not supported.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An answer's token lies outside the embedding.
    #[error("answer token {token} lies outside the embedding's {rows} rows")]
    AnswerOutside {
        /// The token.
        token: u32,
        /// Rows of the embedding.
        rows: usize,
    },
}

/// Biases of the rows as one tensor; a single one broadcasts over all rows.
fn joined(mut biases: Vec<Tensor<4>>) -> Tensor<4> {
    match biases.len() {
        1 => biases.remove(0),
        _ => Tensor::cat(biases, 0),
    }
}

/// Repeats every row `times` times, one after the other: `[rows, …]` to `[rows * times, …]`.
fn repeat_rows<const D: usize>(tensor: Tensor<D>, times: usize) -> Tensor<D> {
    let rows = tensor.dims()[0];
    let indices: Vec<i64> = (0..rows * times).map(|row| (row / times) as i64).collect();
    let indices: Tensor<1, Int> = Tensor::from_data(TensorData::new(indices, [rows * times]), &tensor.device());
    tensor.select(0, indices)
}
