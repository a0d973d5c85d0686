//! The whole network: pixels and token ids in, answer probabilities out.

use burn::{
    module::{Module, Param},
    tensor::{DType, Device, Int, Tensor},
};

use super::{
    answers::AnswerTrie,
    attention::Selection,
    checkpoint::{Checkpoint, CheckpointError, Origin, SHARED_EMBEDDING, Wanted, on_device},
    config::{ConfigError, NetworkConfig},
    decoder::{Decoder, DecoderBias},
    encoder::{Encoder, EncoderBias, ImageBias, Visible},
    has_integer_products,
    interrupt::{Interrupt, RunError},
    position::indices,
    shape_cache::ShapeCache,
};
use crate::weights::{Arithmetic, Weights};

const PADDING: u32 = 1;
/// Rows of the position tables beyond `max_position_embeddings`.
const EXTRA_POSITIONS: usize = 2;

/// How a network is run; nothing here changes its answers, but for the rounding of what it computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfaOptions {
    /// What it computes in.
    pub precision: Arithmetic,
    /// Whether our own CPU kernels are used in place of burn's operations; `flex` has them.
    pub kernels: bool,
    /// Whether cross attention goes round projecting every image token where that is less work. How much it is depends on
    /// the text's length, and each length is a shape of its own: on a GPU, kernels to be tuned.
    pub absorb: bool,
    /// Text is padded to a multiple of this many tokens. Above one where every new shape costs the
    /// device a kernel, as on a GPU.
    pub token_multiple: usize,
    /// Bound of the position biases kept per shape.
    pub bias_cache_bytes: usize,
    /// Whether batch norm stays apart from the convolutions, to be trained. Needs burn's own operations in full precision.
    pub trains: bool,
}

/// One text about one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Index of the image among those of the pass.
    pub image: usize,
    /// Source ids: beginning, prompt, end.
    pub source: Vec<u32>,
}

/// Encoder output of a batch, ready for the decoder.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// `[rows, patches + tokens, d_model]`
    pub states: Tensor<3>,
    /// Which of them are padding.
    pub(super) visible: Visible,
}

impl Encoded {
    /// A bias of cross attention that leaves padding out.
    pub(super) fn without_padding(&self, cross: &Tensor<4>) -> Tensor<4> {
        match self.visible.mask(cross) {
            Some(mask) => cross.clone() + mask,
            None => cross.clone(),
        }
    }
}

/// The parameters.
#[derive(Module, Debug)]
pub(super) struct Network {
    /// `[vocabulary, d_model]`: both embeddings and the output projection.
    pub(super) embedding: Param<Tensor<2>>,
    encoder: Encoder,
    pub(super) decoder: Decoder,
}

impl Network {
    fn load(checkpoint: &mut Checkpoint, config: &NetworkConfig) -> Result<Self, ConfigError> {
        Ok(Self {
            embedding: checkpoint.parameter(SHARED_EMBEDDING, [config.vocab_size, config.d_model]),
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
    pub(super) network: Network,
    /// Bytes of the weights that burn does not count among its parameters.
    quantized_bytes: usize,
    /// By the id of a parameter, which is an index.
    #[cfg_attr(not(feature = "train"), expect(dead_code, reason = "only training gives tensors back"))]
    pub(super) origins: Vec<Origin>,
    trie: AnswerTrie,
    side: usize,
    options: OfaOptions,
    device: Device,
    image_bias: ImageBias,
    /// By text positions.
    encoder_biases: ShapeCache<usize, EncoderBias>,
    /// By decoder and text positions.
    decoder_biases: ShapeCache<(usize, usize), DecoderBias>,
    grid: usize,
    heads: usize,
    d_model: usize,
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
        if options.precision == Arithmetic::Int8 && (options.trains || !options.kernels || !has_integer_products()) {
            return Err(LoadError::NoIntegerProducts);
        }
        let mut checkpoint = Checkpoint::new(weights, device, &options);
        let network = Network::load(&mut checkpoint, config)?;
        let quantized_bytes = checkpoint.quantized_bytes();
        let origins = checkpoint.finish()?;
        if let Some(&token) = trie.tokens().iter().find(|&&token| token as usize >= config.vocab_size) {
            return Err(LoadError::AnswerOutside { token, rows: config.vocab_size });
        }
        let image_bias = network.encoder.image_bias(grid);
        Ok(Self {
            image_bias,
            network,
            quantized_bytes,
            origins,
            trie,
            side,
            options,
            device: device.clone(),
            encoder_biases: ShapeCache::new(options.bias_cache_bytes / 2),
            decoder_biases: ShapeCache::new(options.bias_cache_bytes / 2),
            grid,
            heads: config.encoder_attention_heads.max(config.decoder_attention_heads),
            d_model: config.d_model,
            positions_max: config.max_position_embeddings + EXTRA_POSITIONS,
        })
    }

    /// How it is run.
    pub fn options(&self) -> &OfaOptions {
        &self.options
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

    /// Patches of an image, which come before the text in every sequence.
    pub fn patches(&self) -> usize {
        self.grid * self.grid
    }

    /// Memory of the weights and of the position biases held so far, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        let width = self.options.precision.states().bytes();
        let cached = self.encoder_biases.bytes() + self.decoder_biases.bytes();
        ((self.network.num_params() + self.image_bias.values()) * width + self.quantized_bytes) as u64 + cached
    }

    /// About what a pass holds at its widest, in bytes: for the ResNet four of the largest feature maps of each new
    /// image, then for each row its states, projections and hidden layer, and where the whole device's logits are kept,
    /// three copies of these.
    pub fn pass_bytes(&self, images: usize, rows: usize, tokens: usize) -> u64 {
        let maps = 4 * images * self.network.encoder.channels() * (self.side / 4).pow(2) / 4;
        let sequence = self.patches() + tokens;
        let logits = if self.options.kernels { 0 } else { 3 * self.heads * sequence };
        let states = rows * sequence * (12 * self.d_model + logits);
        (maps.max(states) * self.options.precision.states().bytes()) as u64
    }

    /// Log-probabilities of the answers, `[rows][answers]`, in the answers' order, about images given as
    /// [`Self::image_tokens`].
    ///
    /// # Errors
    /// When the device fails while the result is read, and when the pass was asked to give up.
    pub fn answer(
        &mut self,
        image_tokens: Tensor<3>,
        rows: &[Row],
        interrupt: Option<&Interrupt>,
    ) -> Result<Vec<Vec<f32>>, RunError> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let encoded = self.encode(image_tokens, rows, interrupt)?;
        let logits = self.decode(&encoded, rows, interrupt)?;
        Ok(logits.iter().map(|row| self.trie.log_probabilities(row)).collect())
    }

    /// The ResNet's feature map `[images, channels, grid, grid]` of planar pixels `[images, 3, side, side]`.
    ///
    /// # Errors
    /// When it was asked to give up.
    pub fn feature_map(&self, pixels: Vec<f32>, interrupt: Option<&Interrupt>) -> Result<Tensor<4>, RunError> {
        let shape = [pixels.len() / (3 * self.side * self.side), 3, self.side, self.side];
        let pixels = on_device(pixels, shape, &self.device, self.options.precision.states());
        self.network.encoder.feature_map(pixels, interrupt)
    }

    /// What the encoder reads of images, `[images, patches, d_model]`, made from their feature map. It depends on the
    /// image alone.
    pub fn image_tokens(&self, features: Tensor<4>) -> Tensor<3> {
        self.network.encoder.image_tokens(features)
    }

    /// Encodes each row's text together with its image.
    ///
    /// # Errors
    /// When it was asked to give up.
    pub fn encode(
        &mut self,
        image_tokens: Tensor<3>,
        rows: &[Row],
        interrupt: Option<&Interrupt>,
    ) -> Result<Encoded, RunError> {
        let one_each = rows.iter().enumerate().all(|(index, row)| row.image == index);
        let image_tokens = match one_each && rows.len() == image_tokens.dims()[0] {
            true => image_tokens,
            false => image_tokens.select(0, self.indices(rows.iter().map(|row| row.image as i64).collect())),
        };
        let tokens = self.padded(rows.iter().map(|row| row.source.len()).max().unwrap_or_default());
        let ids = rows.iter().map(|row| row.source.as_slice()).collect::<Vec<_>>();
        let text_tokens = self.network.encoder.text_tokens(self.embed(&ids, tokens));
        let patches = self.patches();
        let visible =
            Visible { rows: rows.iter().map(|row| patches + row.source.len()).collect(), sequence: patches + tokens };
        let bias = self.encoder_bias(tokens);
        let states = self.network.encoder.forward(image_tokens, text_tokens, &bias, &visible, interrupt)?;
        Ok(Encoded { states, visible })
    }

    /// One decoder pass over each row's prompt, and the logits that decide, `[rows][reads * tokens]`, as
    /// [`AnswerTrie::reads`] and [`AnswerTrie::tokens`] order them.
    ///
    /// # Errors
    /// When the device fails while the result is read, and when the pass was asked to give up.
    pub fn decode(
        &mut self,
        encoded: &Encoded,
        rows: &[Row],
        interrupt: Option<&Interrupt>,
    ) -> Result<Vec<Vec<f32>>, RunError> {
        let per_row = self.trie.reads().count() * self.trie.tokens().len();
        if per_row == 0 {
            return Ok(vec![Vec::new(); rows.len()]);
        }
        let logits: Vec<f32> = self.logits(encoded, rows, interrupt)?.try_into_vec_as()?;
        Ok(logits.chunks_exact(per_row).map(<[f32]>::to_vec).collect())
    }

    /// As [`Self::decode`], still on the device: `[rows * reads, tokens]`.
    pub(super) fn logits(
        &mut self,
        encoded: &Encoded,
        rows: &[Row],
        interrupt: Option<&Interrupt>,
    ) -> Result<Tensor<2>, RunError> {
        let paths = self.trie.paths().to_vec();
        // The decoder's prompt is the source without its end.
        let prompts: Vec<&[u32]> = rows.iter().map(|row| &row.source[..row.source.len() - 1]).collect();
        let sequences: Vec<Vec<u32>> =
            prompts.iter().flat_map(|prompt| paths.iter().map(|path| [prompt, path.as_slice()].concat())).collect();
        let tokens = self.padded(sequences.iter().map(Vec::len).max().unwrap_or_default());
        let embedded = self.embed(&sequences.iter().map(Vec::as_slice).collect::<Vec<_>>(), tokens);
        let bias = self.decoder_bias(tokens, encoded.visible.sequence - self.patches());
        let cross = encoded.without_padding(&bias.cross);
        let (states, cross) = match paths.len() {
            1 => (encoded.states.clone(), cross),
            paths => (
                repeat_rows(encoded.states.clone(), paths),
                if cross.dims()[0] > 1 { repeat_rows(cross, paths) } else { cross },
            ),
        };
        // The tokens of each sequence whose logits are read, in the order of the reads.
        let mut asked: Vec<Vec<usize>> = vec![Vec::new(); sequences.len()];
        for (row, prompt) in prompts.iter().enumerate() {
            for (path, depth) in self.trie.reads() {
                asked[row * paths.len() + path].push(prompt.len() - 1 + depth);
            }
        }
        let selection = Selection::new(&asked, tokens, &self.device);
        let decoder = &self.network.decoder;
        let states = decoder.forward(embedded, &states, &bias.own, &cross, selection.as_ref(), interrupt)?;
        let [_, length, width] = states.dims();
        // Where each read is now, sequence by sequence; several of one sequence follow each other.
        let mut taken = vec![0; sequences.len()];
        let mut reads = Vec::with_capacity(rows.len() * self.trie.reads().count());
        for row in 0..rows.len() {
            for (path, _) in self.trie.reads() {
                let sequence = row * paths.len() + path;
                let at = taken[sequence];
                taken[sequence] += 1;
                reads.push((sequence * length + if selection.is_some() { at } else { asked[sequence][at] }) as i64);
            }
        }
        let last = states.reshape([-1, width as i32]).select(0, self.indices(reads)).cast(DType::F32);
        let answers = self.indices(self.trie.tokens().iter().map(|&token| token.into()).collect());
        let answers = self.network.embedding.val().select(0, answers).cast(DType::F32);
        Ok(last.matmul(answers.transpose()))
    }

    /// Computes what depends on the length of a text alone, for texts of up to this many tokens.
    pub fn prepare_lengths(&mut self, tokens_max: usize) {
        let multiple = self.options.token_multiple.max(1);
        for tokens in (multiple..=tokens_max.min(self.positions_max)).step_by(multiple) {
            // The decoder reads one token less, which may be a length shorter, and an answer's beginning at most.
            for decoder in [tokens - multiple, tokens].into_iter().filter(|decoder| *decoder > 0) {
                self.decoder_bias(decoder, tokens);
            }
        }
    }

    /// The answers' trie.
    pub fn trie(&self) -> &AnswerTrie {
        &self.trie
    }

    /// Positions that a text of so many tokens takes, with its padding.
    pub fn padded(&self, tokens: usize) -> usize {
        tokens.next_multiple_of(self.options.token_multiple.max(1)).min(self.positions_max).max(tokens)
    }

    pub(super) fn indices(&self, values: Vec<i64>) -> Tensor<1, Int> {
        indices(values, &self.device)
    }

    /// Embedded ids `[rows, tokens, d_model]`, padded on the right.
    pub(super) fn embed(&self, rows: &[&[u32]], tokens: usize) -> Tensor<3> {
        let padded = |ids: &[u32]| {
            let fill = std::iter::repeat_n(PADDING, tokens - ids.len());
            ids.iter().copied().chain(fill).map(i64::from).collect::<Vec<_>>()
        };
        let ids = self.indices(rows.iter().flat_map(|ids| padded(ids)).collect());
        self.network.embedding.val().select(0, ids).reshape([rows.len() as i32, tokens as i32, -1])
    }

    /// Forgets what was computed from the parameters, because they have changed.
    #[cfg(feature = "train")]
    pub(super) fn refresh(&mut self) {
        self.image_bias = self.network.encoder.image_bias(self.grid);
        self.encoder_biases = ShapeCache::new(self.options.bias_cache_bytes / 2);
        self.decoder_biases = ShapeCache::new(self.options.bias_cache_bytes / 2);
    }

    fn encoder_bias(&mut self, tokens: usize) -> EncoderBias {
        let (network, image, width) = (&self.network, &self.image_bias, self.options.precision.states().bytes());
        self.encoder_biases.get_or_make(tokens, || {
            let bias = network.encoder.bias(image, tokens);
            let bytes = bias.values() * width;
            (bias, bytes)
        })
    }

    pub(super) fn decoder_bias(&mut self, tokens: usize, source_tokens: usize) -> DecoderBias {
        let positions = self.encoder_bias(source_tokens).positions;
        let (network, width) = (&self.network, self.options.precision.states().bytes());
        self.decoder_biases.get_or_make((tokens, source_tokens), || {
            let bias = network.decoder.bias(tokens, &positions);
            let bytes = bias.values() * width;
            (bias, bytes)
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
    /// 8 bits were asked for where nothing multiplies them, or nothing could be learned.
    #[error("weights of 8 bits are for our own kernels, on a CPU with dot products for them, and not for training")]
    NoIntegerProducts,
    /// An answer's token lies outside the embedding.
    #[error("answer token {token} lies outside the embedding's {rows} rows")]
    AnswerOutside {
        /// The token.
        token: u32,
        /// Rows of the embedding.
        rows: usize,
    },
}

/// Repeats every row `times` times, one after the other: `[rows, …]` to `[rows * times, …]`.
fn repeat_rows<const D: usize>(tensor: Tensor<D>, times: usize) -> Tensor<D> {
    let rows = tensor.dims()[0];
    let repeated = (0..rows * times).map(|row| (row / times) as i64).collect();
    let device = tensor.device();
    tensor.select(0, indices(repeated, &device))
}
