//! The decoder: one causal pass over the prompt, crossed with the encoder's output.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};

use super::{
    attention::{CrossAttention, Selection, SelfAttention},
    checkpoint::Checkpoint,
    config::NetworkConfig,
    encoder::{FeedForward, attention_scale},
    interrupt::{Interrupt, RunError},
    layers::{Norm, Projection, exact_linear, layer_norm, split_heads},
    position::{mask, relative_bias, token_bucket},
};

/// Embedding norm, positions and layers of the decoder.
#[derive(Module, Debug)]
pub(super) struct Decoder {
    embedding_norm: Norm,
    positions: DecoderPositions,
    layers: Vec<DecoderLayer>,
    norm: Norm,
}

#[derive(Module, Debug)]
struct DecoderPositions {
    /// `[positions, d_model]`
    text: Param<Tensor<2>>,
    text_norm: Norm,
    self_query: Projection,
    self_key: Projection,
    cross_query: Projection,
    cross_key: Projection,
    /// Per layer, `[2 * token_bucket - 1, heads]`.
    token_tables: Vec<Param<Tensor<2>>>,
    heads: usize,
    scale: f64,
    token_bucket_size: usize,
}

#[derive(Module, Debug)]
struct DecoderLayer {
    attention: SelfAttention,
    attention_norm: Norm,
    attention_out_norm: Norm,
    cross_attention: CrossAttention,
    cross_attention_norm: Norm,
    cross_attention_out_norm: Norm,
    feed_forward: FeedForward,
}

/// What attention adds for positions, for one pair of lengths.
#[derive(Clone, Debug)]
pub(super) struct DecoderBias {
    /// Per layer, `[1, heads, tokens, tokens]`, later tokens masked.
    pub(super) own: Vec<Tensor<4>>,
    /// `[1, heads, tokens, sequence]`, the same for all layers.
    pub(super) cross: Tensor<4>,
}

impl DecoderBias {
    /// Values that it holds.
    pub(super) fn values(&self) -> usize {
        let own: usize = self.own.iter().map(|bias| bias.shape().num_elements()).sum();
        own + self.cross.shape().num_elements()
    }
}

impl Decoder {
    pub(super) fn load(checkpoint: &mut Checkpoint, config: &NetworkConfig) -> Self {
        let d_model = config.d_model;
        let decoder = Self {
            embedding_norm: layer_norm(checkpoint, "decoder.layernorm_embedding", d_model),
            positions: DecoderPositions::load(checkpoint, config),
            layers: (0..config.decoder_layers).map(|index| DecoderLayer::load(checkpoint, config, index)).collect(),
            norm: layer_norm(checkpoint, "decoder.layer_norm", d_model),
        };
        skip_unused(checkpoint, config);
        decoder
    }

    /// Decoder states of embedded ids `[rows, tokens, d_model]`, crossed with `encoded` `[rows, sequence, d_model]`:
    /// `[rows, tokens, d_model]`, or of those tokens alone that are `asked` for. `cross` is added to the logits of the
    /// crossing, `[rows or 1, heads, tokens, sequence]`.
    pub(super) fn forward(
        &self,
        embedded: Tensor<3>,
        encoded: &Tensor<3>,
        own: &[Tensor<4>],
        cross: &Tensor<4>,
        asked: Option<&Selection>,
        interrupt: Option<&Interrupt>,
    ) -> Result<Tensor<3>, RunError> {
        let mut states = self.embedding_norm.forward(embedded);
        let last = self.layers.len().saturating_sub(1);
        for (index, (layer, own)) in self.layers.iter().zip(own).enumerate() {
            Interrupt::check(interrupt)?;
            // What the last layer says of the other tokens nobody reads.
            let only = asked.filter(|_| index == last);
            states = layer.forward(states, encoded, own.clone(), cross.clone(), only);
        }
        Ok(self.norm.forward(states))
    }

    /// The bias for `tokens` positions, against encoder positions `[sequence, d_model]`.
    pub(super) fn bias(&self, tokens: usize, encoder_positions: &Tensor<2>) -> DecoderBias {
        self.positions.bias(tokens, encoder_positions)
    }
}

/// Parts of a published decoder that only image generation uses: where they are there they must fit
/// the configuration, and nothing reads them.
fn skip_unused(checkpoint: &mut Checkpoint, config: &NetworkConfig) {
    let NetworkConfig { d_model, image_bucket_size, decoder_attention_heads: heads, .. } = *config;
    for norm in ["image_pos_ln", "code_layernorm_embedding"] {
        for part in ["weight", "bias"] {
            checkpoint.skip(&format!("decoder.{norm}.{part}"), &[d_model]);
        }
    }
    checkpoint.skip("decoder.embed_image_positions.weight", &[image_bucket_size.pow(2) + 1, d_model]);
    for index in 0..config.decoder_layers {
        let rows = (2 * image_bucket_size - 1).pow(2) + 3;
        checkpoint.skip(&format!("decoder.image_rel_pos_table_list.{index}.weight"), &[rows, heads]);
    }
}

impl DecoderPositions {
    fn load(checkpoint: &mut Checkpoint, config: &NetworkConfig) -> Self {
        let NetworkConfig { d_model, decoder_attention_heads: heads, token_bucket_size, .. } = *config;
        let table_names =
            (0..config.decoder_layers).map(|index| format!("decoder.token_rel_pos_table_list.{index}.weight"));
        let tables = table_names.map(|name| checkpoint.parameter(&name, [2 * token_bucket_size - 1, heads]));
        let token_tables = tables.collect();
        let positions = config.max_position_embeddings + 2;
        let mut projection = |name: &str| exact_linear(checkpoint, &format!("decoder.{name}"), d_model, d_model);
        Self {
            self_query: projection("self_pos_q_linear"),
            self_key: projection("self_pos_k_linear"),
            cross_query: projection("cross_pos_q_linear"),
            cross_key: projection("cross_pos_k_linear"),
            text: checkpoint.parameter("decoder.embed_positions.weight", [positions, d_model]),
            text_norm: layer_norm(checkpoint, "decoder.pos_ln", d_model),
            token_tables,
            heads,
            scale: attention_scale(config, heads),
            token_bucket_size,
        }
    }

    fn bias(&self, tokens: usize, encoder_positions: &Tensor<2>) -> DecoderBias {
        let text = self.text_norm.forward(self.text.val().slice_dim(0, 0..tokens)).unsqueeze::<3>();
        let between = |query: &Projection, key: &Projection, keys: Tensor<3>| {
            let query = split_heads(query.forward(text.clone()) * self.scale, self.heads);
            query.matmul(split_heads(key.forward(keys), self.heads).transpose())
        };
        let device = text.device();
        let place = (&device, text.dtype());
        let later = mask([tokens, tokens], place, |row, column| column <= row);
        let absolute = between(&self.self_query, &self.self_key, text.clone()) + later;
        let bucket = |query: usize, key: usize| token_bucket(query as i64 - key as i64, self.token_bucket_size);
        let relative = |table: &Param<Tensor<2>>| relative_bias(table.val(), tokens, bucket);
        let own = self.token_tables.iter().map(|table| absolute.clone() + relative(table)).collect();
        let cross = between(&self.cross_query, &self.cross_key, encoder_positions.clone().unsqueeze());
        DecoderBias { own, cross }
    }
}

impl DecoderLayer {
    fn load(checkpoint: &mut Checkpoint, config: &NetworkConfig, index: usize) -> Self {
        let NetworkConfig { d_model, decoder_attention_heads: heads, .. } = *config;
        let prefix = format!("decoder.layers.{index}");
        let scale = attention_scale(config, heads);
        Self {
            attention: SelfAttention::load(checkpoint, &format!("{prefix}.self_attn"), d_model, heads, scale),
            attention_norm: layer_norm(checkpoint, &format!("{prefix}.self_attn_layer_norm"), d_model),
            attention_out_norm: layer_norm(checkpoint, &format!("{prefix}.self_attn_mid_layer_norm"), d_model),
            cross_attention: CrossAttention::load(checkpoint, &format!("{prefix}.cross_attn"), d_model, heads, scale),
            cross_attention_norm: layer_norm(checkpoint, &format!("{prefix}.cross_attn_layer_norm"), d_model),
            cross_attention_out_norm: layer_norm(checkpoint, &format!("{prefix}.cross_attn_mid_layer_norm"), d_model),
            feed_forward: FeedForward::load(checkpoint, &prefix, d_model, config.decoder_ffn_dim),
        }
    }

    fn forward(
        &self,
        states: Tensor<3>,
        encoded: &Tensor<3>,
        own: Tensor<4>,
        cross: Tensor<4>,
        only: Option<&Selection>,
    ) -> Tensor<3> {
        let normed = self.attention_norm.forward(states.clone());
        let (states, attended, cross) = match only {
            None => (states, self.attention.forward(normed, own), cross),
            Some(only) => {
                let attended = self.attention.forward_of(normed, only, only.queries_of(own));
                (only.rows_of(states), attended, only.queries_of(cross))
            }
        };
        let states = states + self.attention_out_norm.forward(attended);
        let normed = self.cross_attention_norm.forward(states.clone());
        let attended = self.cross_attention.forward(normed, encoded, cross);
        self.feed_forward.forward(states + self.cross_attention_out_norm.forward(attended))
    }
}
