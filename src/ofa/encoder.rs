//! The encoder: image patches and text tokens in one sequence, patches first.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};

use super::{
    attention::SelfAttention,
    checkpoint::Checkpoint,
    config::{ConfigError, NetworkConfig},
    interrupt::{Interrupt, RunError},
    layers::{Norm, Projection, exact_linear, layer_norm, linear, split_heads},
    position::{image_bucket, indices, mask_behind, relative_bias, token_bucket},
    resnet::ResNet,
};
use crate::kernels::{Positions, Sequence};

/// ResNet, embeddings, positions and layers of the encoder.
#[derive(Module, Debug)]
pub(super) struct Encoder {
    resnet: ResNet,
    image_projection: Projection,
    /// `[2, d_model]`: text, image.
    type_embedding: Param<Tensor<2>>,
    text_norm: Norm,
    patch_norm: Norm,
    positions: EncoderPositions,
    layers: Vec<EncoderLayer>,
    norm: Norm,
}

#[derive(Module, Debug)]
struct EncoderPositions {
    /// `[positions, d_model]`
    text: Param<Tensor<2>>,
    text_norm: Norm,
    /// `[bucket * bucket + 1, d_model]`
    image: Param<Tensor<2>>,
    image_norm: Norm,
    query: Projection,
    key: Projection,
    /// Per layer, `[2 * token_bucket - 1, heads]`.
    token_tables: Vec<Param<Tensor<2>>>,
    /// Per layer, `[(2 * image_bucket - 1)^2 + 3, heads]`.
    image_tables: Vec<Param<Tensor<2>>>,
    heads: usize,
    scale: f64,
    token_bucket_size: usize,
    image_bucket_size: usize,
    kernels: bool,
}

#[derive(Module, Debug)]
struct EncoderLayer {
    attention: SelfAttention,
    attention_norm: Norm,
    attention_out_norm: Norm,
    feed_forward: FeedForward,
}

/// `x + fc2(norm(gelu(fc1(norm(x)))))`, the part that encoder and decoder layers share.
#[derive(Module, Debug)]
pub(super) struct FeedForward {
    norm: Norm,
    expand: Projection,
    hidden_norm: Norm,
    contract: Projection,
}

impl FeedForward {
    pub(super) fn load(checkpoint: &mut Checkpoint, prefix: &str, d_model: usize, hidden: usize) -> Self {
        Self {
            norm: layer_norm(checkpoint, &format!("{prefix}.final_layer_norm"), d_model),
            expand: linear(checkpoint, &format!("{prefix}.fc1"), d_model, hidden),
            hidden_norm: layer_norm(checkpoint, &format!("{prefix}.ffn_layer_norm"), hidden),
            contract: linear(checkpoint, &format!("{prefix}.fc2"), hidden, d_model),
        }
    }

    pub(super) fn forward(&self, states: Tensor<3>) -> Tensor<3> {
        let hidden = self.expand.forward_gelu(self.norm.forward(states.clone()));
        states + self.contract.forward(self.hidden_norm.forward(hidden))
    }
}

/// What attention adds for positions, for one number of text positions.
#[derive(Clone, Debug)]
pub(super) struct EncoderBias {
    layers: Vec<LayerBias>,
    /// `[sequence, d_model]`: the normalized position embeddings, which the decoder's cross attention
    /// reads.
    pub(super) positions: Tensor<2>,
}

#[derive(Clone, Debug)]
enum LayerBias {
    /// `[1, heads, sequence, sequence]`
    Whole(Box<Tensor<4>>),
    /// For our own kernel.
    Parts(Box<Positions>),
}

/// Which positions of a batch's sequences are padding.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Visible {
    /// Positions of each row that are not, patches included.
    pub(super) rows: Vec<usize>,
    /// All positions.
    pub(super) sequence: usize,
}

impl Visible {
    /// `[rows, 1, 1, sequence]` to be added to logits; none without padding.
    pub(super) fn mask(&self, like: &Tensor<4>) -> Option<Tensor<4>> {
        let padded = self.rows.iter().any(|visible| *visible < self.sequence);
        padded.then(|| mask_behind(&self.rows, self.sequence, (&like.device(), like.dtype())))
    }
}

impl Encoder {
    pub(super) fn load(checkpoint: &mut Checkpoint, config: &NetworkConfig) -> Result<Self, ConfigError> {
        let d_model = config.d_model;
        Ok(Self {
            resnet: ResNet::load(checkpoint, config)?,
            image_projection: linear(checkpoint, "encoder.image_proj", ResNet::channels(config), d_model),
            type_embedding: checkpoint.parameter("encoder.type_embedding.weight", [2, d_model]),
            text_norm: layer_norm(checkpoint, "encoder.layernorm_embedding", d_model),
            patch_norm: layer_norm(checkpoint, "encoder.patch_layernorm_embedding", d_model),
            positions: EncoderPositions::load(checkpoint, config),
            layers: (0..config.encoder_layers).map(|index| EncoderLayer::load(checkpoint, config, index)).collect(),
            norm: layer_norm(checkpoint, "encoder.layer_norm", d_model),
        })
    }

    /// The ResNet alone: `[images, 3, side, side]` to `[images, channels, grid, grid]`.
    pub(super) fn feature_map(&self, images: Tensor<4>, interrupt: Option<&Interrupt>) -> Result<Tensor<4>, RunError> {
        self.resnet.forward(images, interrupt)
    }

    /// Channels of the feature map.
    pub(super) fn channels(&self) -> usize {
        self.image_projection.inputs()
    }

    /// Image tokens `[images, patches, d_model]` of a feature map, row by row.
    pub(super) fn image_tokens(&self, features: Tensor<4>) -> Tensor<3> {
        let patches = features.flatten::<3>(2, 3).swap_dims(1, 2);
        self.patch_norm.forward(self.image_projection.forward(patches) + self.type_row(1))
    }

    /// Text tokens `[rows, tokens, d_model]` of embedded ids.
    pub(super) fn text_tokens(&self, embedded: Tensor<3>) -> Tensor<3> {
        self.text_norm.forward(embedded + self.type_row(0))
    }

    fn type_row(&self, row: usize) -> Tensor<3> {
        self.type_embedding.val().slice_dim(0, row..row + 1).unsqueeze()
    }

    /// Encoder output `[rows, patches + tokens, d_model]`; what it says of padding means nothing.
    pub(super) fn forward(
        &self,
        image_tokens: Tensor<3>,
        text_tokens: Tensor<3>,
        bias: &EncoderBias,
        visible: &Visible,
        interrupt: Option<&Interrupt>,
    ) -> Result<Tensor<3>, RunError> {
        let [_, patches, _] = image_tokens.dims();
        let sequence =
            Sequence { grid: patches.isqrt(), seen: visible.rows.clone(), scale: self.positions.scale as f32 };
        let mut states = Tensor::cat(vec![image_tokens, text_tokens], 1);
        let mut mask = None;
        for (layer, bias) in self.layers.iter().zip(&bias.layers) {
            Interrupt::check(interrupt)?;
            states = match bias {
                LayerBias::Parts(positions) => {
                    layer.forward(states, |attention, normed| attention.among(normed, positions, sequence.clone()))
                }
                LayerBias::Whole(bias) => {
                    let mask = mask.get_or_insert_with(|| visible.mask(bias)).clone();
                    let bias = Tensor::clone(bias);
                    let bias = match mask {
                        Some(mask) => bias + mask,
                        None => bias,
                    };
                    layer.forward(states, |attention, normed| attention.forward(normed, bias))
                }
            };
        }
        Ok(self.norm.forward(states))
    }

    /// The bias of image patches among themselves, per layer; it never changes for one grid.
    pub(super) fn image_bias(&self, grid: usize) -> ImageBias {
        self.positions.image_bias(grid)
    }

    /// The whole bias for `tokens` text positions.
    pub(super) fn bias(&self, image: &ImageBias, tokens: usize) -> EncoderBias {
        self.positions.bias(image, tokens)
    }
}

/// The part of the bias that depends on the grid alone.
#[derive(Clone, Debug)]
pub(super) struct ImageBias {
    /// `[patches, d_model]`
    positions: Tensor<2>,
    /// `[1, heads, patches, head_dim]`, scaled.
    query: Tensor<4>,
    /// `[1, heads, patches, head_dim]`
    key: Tensor<4>,
    layers: ImageLayers,
}

#[derive(Clone, Debug)]
enum ImageLayers {
    /// Per layer, `[1, heads, patches, patches]`.
    Whole(Vec<Tensor<4>>),
    /// `[heads, patches, patches]` for all layers, and per layer `[heads, (2 * grid - 1)^2]`.
    Parts(Box<Tensor<3>>, Vec<Tensor<2>>),
}

impl ImageBias {
    /// Values that it holds.
    pub(super) fn values(&self) -> usize {
        let of_layers = match &self.layers {
            ImageLayers::Whole(layers) => layers.iter().map(|bias| bias.shape().num_elements()).sum(),
            ImageLayers::Parts(absolute, relative) => {
                let relative: usize = relative.iter().map(|table| table.shape().num_elements()).sum();
                absolute.shape().num_elements() + relative
            }
        };
        of_layers + 3 * self.positions.shape().num_elements()
    }
}

impl EncoderBias {
    /// Values that it holds beside those of the image's bias.
    pub(super) fn values(&self) -> usize {
        let of_layer = |bias: &LayerBias| match bias {
            LayerBias::Whole(bias) => bias.shape().num_elements(),
            LayerBias::Parts(positions) => positions.corner.shape().num_elements(),
        };
        let shared = match self.layers.first() {
            // Two tensors, which all layers share.
            Some(LayerBias::Parts(positions)) => 2 * positions.right.shape().num_elements(),
            _ => 0,
        };
        self.layers.iter().map(of_layer).sum::<usize>() + shared + self.positions.shape().num_elements()
    }
}

impl EncoderPositions {
    fn load(checkpoint: &mut Checkpoint, config: &NetworkConfig) -> Self {
        let NetworkConfig { d_model, encoder_attention_heads: heads, image_bucket_size, token_bucket_size, .. } =
            *config;
        let mut tables = |name: &str, rows: usize| {
            let names = (0..config.encoder_layers).map(|index| format!("encoder.{name}.{index}.weight"));
            names.map(|name| checkpoint.parameter(&name, [rows, heads])).collect()
        };
        let token_tables = tables("token_rel_pos_table_list", 2 * token_bucket_size - 1);
        let image_tables = tables("image_rel_pos_table_list", (2 * image_bucket_size - 1).pow(2) + 3);
        let mut table =
            |name: &str, rows: usize| checkpoint.parameter(&format!("encoder.{name}.weight"), [rows, d_model]);
        Self {
            text: table("embed_positions", config.max_position_embeddings + 2),
            image: table("embed_image_positions", image_bucket_size.pow(2) + 1),
            text_norm: layer_norm(checkpoint, "encoder.pos_ln", d_model),
            image_norm: layer_norm(checkpoint, "encoder.image_pos_ln", d_model),
            query: exact_linear(checkpoint, "encoder.pos_q_linear", d_model, d_model),
            key: exact_linear(checkpoint, "encoder.pos_k_linear", d_model, d_model),
            token_tables,
            image_tables,
            heads,
            scale: attention_scale(config, heads),
            token_bucket_size,
            image_bucket_size,
            kernels: checkpoint.kernels(),
        }
    }

    fn image_bias(&self, grid: usize) -> ImageBias {
        let table = self.image.val();
        let ids: Vec<i64> =
            (0..grid * grid).map(|at| (at / grid * self.image_bucket_size + at % grid + 1) as i64).collect();
        let positions = self.image_norm.forward(table.clone().select(0, indices(ids, &table.device())));
        let (query, key) = self.projected(positions.clone());
        let absolute = query.clone().matmul(key.clone().transpose());
        let layers = match self.kernels {
            true => {
                let relative = self.image_tables.iter().map(|table| self.by_distance(&table.val(), grid));
                ImageLayers::Parts(Box::new(absolute.squeeze_dim(0)), relative.collect())
            }
            false => {
                let at = |patch: usize| (patch / grid, patch % grid);
                let bucket = |query, key| image_bucket(at(query), at(key), self.image_bucket_size);
                let relative = |table: &Param<Tensor<2>>| relative_bias(table.val(), grid * grid, bucket);
                ImageLayers::Whole(self.image_tables.iter().map(|table| absolute.clone() + relative(table)).collect())
            }
        };
        ImageBias { positions, query, key, layers }
    }

    /// A table of relative positions `[buckets, heads]` by distance from query to key, down and across:
    /// `[heads, (2 * grid - 1)^2]`.
    fn by_distance(&self, table: &Tensor<2>, grid: usize) -> Tensor<2> {
        let span = 2 * grid - 1;
        let side = |step: usize| if step < grid { (grid - 1 - step, 0) } else { (0, step + 1 - grid) };
        let buckets = (0..span * span).map(|at| {
            let (rows, columns) = (side(at / span), side(at % span));
            image_bucket((rows.0, columns.0), (rows.1, columns.1), self.image_bucket_size)
        });
        table.clone().select(0, indices(buckets.collect(), &table.device())).transpose()
    }

    fn bias(&self, image: &ImageBias, tokens: usize) -> EncoderBias {
        let text = self.text_norm.forward(self.text.val().slice_dim(0, 0..tokens));
        let (query, key) = self.projected(text.clone());
        let image_to_text = image.query.clone().matmul(key.clone().transpose());
        let text_to_image = query.clone().matmul(image.key.clone().transpose());
        let text_to_text = query.matmul(key.transpose());
        let bucket = |query: usize, key: usize| token_bucket(query as i64 - key as i64, self.token_bucket_size);
        let corners = self.token_tables.iter().map(|table| {
            let corner: Tensor<4> = text_to_text.clone() + relative_bias(table.val(), tokens, bucket);
            corner
        });
        let layers = match &image.layers {
            ImageLayers::Whole(layers) => {
                let whole = layers.iter().zip(corners).map(|(image_to_image, corner)| {
                    let upper = Tensor::cat(vec![image_to_image.clone(), image_to_text.clone()], 3);
                    let lower = Tensor::cat(vec![text_to_image.clone(), corner], 3);
                    LayerBias::Whole(Box::new(Tensor::cat(vec![upper, lower], 2)))
                });
                whole.collect()
            }
            ImageLayers::Parts(absolute, relative) => {
                let right: Tensor<3> = image_to_text.squeeze_dim(0);
                let left: Tensor<3> = text_to_image.squeeze_dim(0);
                let parts = relative.iter().zip(corners).map(|(relative, corner)| {
                    LayerBias::Parts(Box::new(Positions {
                        absolute: (**absolute).clone(),
                        relative: relative.clone(),
                        right: right.clone(),
                        left: left.clone(),
                        corner: corner.squeeze_dim(0),
                    }))
                });
                parts.collect()
            }
        };
        EncoderBias { layers, positions: Tensor::cat(vec![image.positions.clone(), text], 0) }
    }

    /// Query (scaled) and key `[1, heads, length, head_dim]` of position embeddings.
    fn projected(&self, positions: Tensor<2>) -> (Tensor<4>, Tensor<4>) {
        let positions = positions.unsqueeze();
        let query = self.query.forward(positions.clone()) * self.scale;
        (split_heads(query, self.heads), split_heads(self.key.forward(positions), self.heads))
    }
}

impl EncoderLayer {
    fn load(checkpoint: &mut Checkpoint, config: &NetworkConfig, index: usize) -> Self {
        let NetworkConfig { d_model, encoder_attention_heads: heads, .. } = *config;
        let prefix = format!("encoder.layers.{index}");
        let scale = attention_scale(config, heads);
        Self {
            attention: SelfAttention::load(checkpoint, &format!("{prefix}.self_attn"), d_model, heads, scale),
            attention_norm: layer_norm(checkpoint, &format!("{prefix}.self_attn_layer_norm"), d_model),
            attention_out_norm: layer_norm(checkpoint, &format!("{prefix}.self_attn_mid_layer_norm"), d_model),
            feed_forward: FeedForward::load(checkpoint, &prefix, d_model, config.encoder_ffn_dim),
        }
    }

    fn forward(&self, states: Tensor<3>, attend: impl FnOnce(&SelfAttention, Tensor<3>) -> Tensor<3>) -> Tensor<3> {
        let attended = attend(&self.attention, self.attention_norm.forward(states.clone()));
        self.feed_forward.forward(states + self.attention_out_norm.forward(attended))
    }
}

/// `(head_dim * attn_scale_factor)^-1/2`, for content and position alike.
pub(super) fn attention_scale(config: &NetworkConfig, heads: usize) -> f64 {
    ((config.d_model / heads) as f64 * config.attn_scale_factor).powf(-0.5)
}
