//! The encoder: image patches and text tokens in one sequence, patches first.

use burn::{
    module::{Module, Param},
    tensor::{Int, Tensor},
};

use super::{
    attention::SelfAttention,
    checkpoint::Checkpoint,
    config::{ConfigError, NetworkConfig},
    layers::{Norm, Projection, layer_norm, linear, split_heads},
    position::{image_bucket, mask, relative_bias, token_bucket},
    resnet::ResNet,
};

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

/// What attention adds for positions, for one text length.
#[derive(Clone, Debug)]
pub(super) struct EncoderBias {
    /// Per layer, `[1, heads, sequence, sequence]`, padding masked.
    pub(super) layers: Vec<Tensor<4>>,
    /// `[sequence, d_model]`: the normalized position embeddings, which the decoder's cross attention
    /// reads.
    pub(super) positions: Tensor<2>,
}

impl Encoder {
    pub(super) fn load(checkpoint: &mut Checkpoint, config: &NetworkConfig) -> Result<Self, ConfigError> {
        let d_model = config.d_model;
        Ok(Self {
            resnet: ResNet::load(checkpoint, config)?,
            image_projection: linear(checkpoint, "encoder.image_proj", ResNet::channels(config), d_model),
            type_embedding: Param::from_tensor(checkpoint.tensor("encoder.type_embedding.weight", [2, d_model])),
            text_norm: layer_norm(checkpoint, "encoder.layernorm_embedding", d_model),
            patch_norm: layer_norm(checkpoint, "encoder.patch_layernorm_embedding", d_model),
            positions: EncoderPositions::load(checkpoint, config),
            layers: (0..config.encoder_layers).map(|index| EncoderLayer::load(checkpoint, config, index)).collect(),
            norm: layer_norm(checkpoint, "encoder.layer_norm", d_model),
        })
    }

    /// The ResNet alone: `[images, 3, side, side]` to `[images, channels, grid, grid]`.
    pub(super) fn feature_map(&self, images: Tensor<4>) -> Tensor<4> {
        self.resnet.forward(images)
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

    /// Encoder output `[rows, patches + tokens, d_model]`. `bias` holds one bias per layer,
    /// `[rows or 1, heads, sequence, sequence]`.
    pub(super) fn forward(&self, image_tokens: Tensor<3>, text_tokens: Tensor<3>, bias: &[Tensor<4>]) -> Tensor<3> {
        let sequence = Tensor::cat(vec![image_tokens, text_tokens], 1);
        let states =
            self.layers.iter().zip(bias).fold(sequence, |states, (layer, bias)| layer.forward(states, bias.clone()));
        self.norm.forward(states)
    }

    /// The bias of image patches among themselves, per layer; it never changes for one grid.
    pub(super) fn image_bias(&self, grid: usize) -> ImageBias {
        self.positions.image_bias(grid)
    }

    /// The whole bias for `tokens` text positions, of which the first `length` are not padding.
    pub(super) fn bias(&self, image: &ImageBias, tokens: usize, length: usize) -> EncoderBias {
        self.positions.bias(image, tokens, length)
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
    /// Per layer, `[1, heads, patches, patches]`.
    layers: Vec<Tensor<4>>,
}

impl EncoderPositions {
    fn load(checkpoint: &mut Checkpoint, config: &NetworkConfig) -> Self {
        let NetworkConfig { d_model, encoder_attention_heads: heads, image_bucket_size, token_bucket_size, .. } =
            *config;
        let mut tables = |name: &str, rows: usize| {
            let names = (0..config.encoder_layers).map(|index| format!("encoder.{name}.{index}.weight"));
            names.map(|name| Param::from_tensor(checkpoint.tensor(&name, [rows, heads]))).collect()
        };
        let token_tables = tables("token_rel_pos_table_list", 2 * token_bucket_size - 1);
        let image_tables = tables("image_rel_pos_table_list", (2 * image_bucket_size - 1).pow(2) + 3);
        let mut table = |name: &str, rows: usize| {
            Param::from_tensor(checkpoint.tensor(&format!("encoder.{name}.weight"), [rows, d_model]))
        };
        Self {
            text: table("embed_positions", config.max_position_embeddings + 2),
            image: table("embed_image_positions", image_bucket_size.pow(2) + 1),
            text_norm: layer_norm(checkpoint, "encoder.pos_ln", d_model),
            image_norm: layer_norm(checkpoint, "encoder.image_pos_ln", d_model),
            query: linear(checkpoint, "encoder.pos_q_linear", d_model, d_model),
            key: linear(checkpoint, "encoder.pos_k_linear", d_model, d_model),
            token_tables,
            image_tables,
            heads,
            scale: attention_scale(config, heads),
            token_bucket_size,
            image_bucket_size,
        }
    }

    fn image_bias(&self, grid: usize) -> ImageBias {
        let table = self.image.val();
        let ids: Vec<i64> =
            (0..grid * grid).map(|at| (at / grid * self.image_bucket_size + at % grid + 1) as i64).collect();
        let ids: Tensor<1, Int> = Tensor::from_data(burn::tensor::TensorData::new(ids, [grid * grid]), &table.device());
        let positions = self.image_norm.forward(table.select(0, ids));
        let (query, key) = self.projected(positions.clone());
        let absolute = query.clone().matmul(key.clone().transpose());
        let at = |patch: usize| (patch / grid, patch % grid);
        let bucket = |query, key| image_bucket(at(query), at(key), self.image_bucket_size);
        let relative = |table: &Param<Tensor<2>>| relative_bias(table.val(), grid * grid, bucket);
        let layers = self.image_tables.iter().map(|table| absolute.clone() + relative(table)).collect();
        ImageBias { positions, query, key, layers }
    }

    fn bias(&self, image: &ImageBias, tokens: usize, length: usize) -> EncoderBias {
        let text = self.text_norm.forward(self.text.val().slice_dim(0, 0..tokens));
        let (query, key) = self.projected(text.clone());
        let image_to_text = image.query.clone().matmul(key.clone().transpose());
        let text_to_image = query.clone().matmul(image.key.clone().transpose());
        let text_to_text = query.matmul(key.transpose());
        let bucket = |query: usize, key: usize| token_bucket(query as i64 - key as i64, self.token_bucket_size);
        let [patches, _] = image.positions.dims();
        let sequence = patches + tokens;
        let place = (&image.positions.device(), image.positions.dtype());
        let padding = (length < tokens).then(|| mask([1, sequence], place, |_, column| column < patches + length));
        let layers = self.token_tables.iter().zip(&image.layers).map(|(table, image_to_image)| {
            let text_to_text = text_to_text.clone() + relative_bias(table.val(), tokens, bucket);
            let upper = Tensor::cat(vec![image_to_image.clone(), image_to_text.clone()], 3);
            let lower = Tensor::cat(vec![text_to_image.clone(), text_to_text], 3);
            let whole = Tensor::cat(vec![upper, lower], 2);
            match &padding {
                Some(padding) => whole + padding.clone(),
                None => whole,
            }
        });
        EncoderBias { layers: layers.collect(), positions: Tensor::cat(vec![image.positions.clone(), text], 0) }
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

    fn forward(&self, states: Tensor<3>, bias: Tensor<4>) -> Tensor<3> {
        let normed = self.attention_norm.forward(states.clone());
        let attended = self.attention.forward(normed, bias);
        self.feed_forward.forward(states + self.attention_out_norm.forward(attended))
    }
}

/// `(head_dim * attn_scale_factor)^-1/2`, for content and position alike.
pub(super) fn attention_scale(config: &NetworkConfig, heads: usize) -> f64 {
    ((config.d_model / heads) as f64 * config.attn_scale_factor).powf(-0.5)
}
