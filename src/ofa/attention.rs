//! Multi-head attention with an additive position bias and a learned gain per head.

use burn::{
    module::{Module, Param},
    tensor::{Device, Int, Tensor, activation::softmax, module::attention, ops::AttentionModuleOptions},
};

use super::{
    checkpoint::Checkpoint,
    layers::{Projection, exact_linears, linear, linears, split_heads},
    position::indices,
};
use crate::kernels::{self, Positions, Sequence};

/// What all attention ends with.
#[derive(Module, Debug)]
struct Core {
    output: Projection,
    /// `[heads]`, multiplied to each head's output (NormFormer).
    gain: Param<Tensor<1>>,
    scale: f64,
    kernels: bool,
}

/// Attention of states `[batch, tokens, d_model]` to themselves.
#[derive(Module, Debug)]
pub(super) struct SelfAttention {
    /// Queries, keys and values in one product.
    inputs: Projection,
    core: Core,
}

/// Attention of states `[batch, from, d_model]` to others `[batch, to, d_model]`.
#[derive(Module, Debug)]
pub(super) struct CrossAttention {
    query: Projection,
    /// Keys and values in one product.
    others: Projection,
    core: Core,
    absorb: bool,
}

impl SelfAttention {
    pub(super) fn load(checkpoint: &mut Checkpoint, prefix: &str, d_model: usize, heads: usize, scale: f64) -> Self {
        let parts = ["q_proj", "k_proj", "v_proj"].map(|part| format!("{prefix}.{part}"));
        Self {
            inputs: linears(checkpoint, &parts, d_model, d_model),
            core: Core::load(checkpoint, prefix, d_model, heads, scale),
        }
    }

    /// `bias` `[batch or 1, heads, tokens, tokens]` is added to the scaled logits.
    pub(super) fn forward(&self, states: Tensor<3>, bias: Tensor<4>) -> Tensor<3> {
        let [queries, keys, values] = self.split(states);
        self.core.forward(queries, keys, values, bias)
    }

    /// As [`Self::forward`], but for the rows that `only` names, and with a bias `[batch, heads, rows, tokens]` for
    /// these.
    pub(super) fn forward_of(&self, states: Tensor<3>, only: &Selection, bias: Tensor<4>) -> Tensor<3> {
        let [queries, keys, values] = self.split(states);
        self.core.forward(only.rows_of(queries), keys, values, bias)
    }

    /// By our own kernel, for patches of an image with tokens behind them.
    pub(super) fn among(&self, states: Tensor<3>, positions: &Positions, sequence: Sequence) -> Tensor<3> {
        let attended = kernels::attention_by_position(self.split(states), positions, self.core.gain.val(), sequence);
        self.core.output.forward(attended)
    }

    fn split(&self, states: Tensor<3>) -> [Tensor<3>; 3] {
        let [_, _, width] = states.dims();
        let all = self.inputs.forward(states);
        [0, 1, 2].map(|index| all.clone().slice_dim(2, index * width..(index + 1) * width))
    }
}

/// The rows of a batch `[batch, tokens, …]` that are asked for, equally many of each.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    /// `[batch * rows]`: `batch row * tokens + token`.
    flat: Tensor<1, Int>,
    /// `[batch * rows]`: the token alone.
    token: Tensor<1, Int>,
    rows: usize,
}

impl Selection {
    /// The tokens that are asked for, per row of a batch of `tokens` tokens each; none where they are not equally
    /// many of each.
    pub(super) fn new(asked: &[Vec<usize>], tokens: usize, device: &Device) -> Option<Self> {
        let rows = asked.first().map_or(0, Vec::len);
        if rows == 0 || asked.iter().any(|of_row| of_row.len() != rows) {
            return None;
        }
        let token = || asked.iter().flatten().map(|&token| token as i64);
        let flat = token().enumerate().map(|(at, token)| (at / rows * tokens) as i64 + token).collect();
        Some(Self { flat: indices(flat, device), token: indices(token().collect(), device), rows })
    }

    /// `[batch, tokens, width]` to `[batch, rows, width]`.
    pub(super) fn rows_of(&self, states: Tensor<3>) -> Tensor<3> {
        let [batch, _, width] = states.dims();
        states.reshape([-1, width as i32]).select(0, self.flat.clone()).reshape([batch, self.rows, width])
    }

    /// A bias `[1 or batch, heads, tokens, to]` to `[batch, heads, rows, to]`.
    pub(super) fn queries_of(&self, bias: Tensor<4>) -> Tensor<4> {
        let [biases, heads, tokens, to] = bias.dims();
        let chosen = match biases {
            1 => bias.reshape([heads, tokens, to]).select(1, self.token.clone()),
            // Batch row and token side by side, as the flat numbers count them.
            _ => bias.swap_dims(0, 1).reshape([heads, biases * tokens, to]).select(1, self.flat.clone()),
        };
        chosen.reshape([heads as i32, -1, self.rows as i32, to as i32]).swap_dims(0, 1)
    }
}

impl CrossAttention {
    pub(super) fn load(checkpoint: &mut Checkpoint, prefix: &str, d_model: usize, heads: usize, scale: f64) -> Self {
        let parts = ["k_proj", "v_proj"].map(|part| format!("{prefix}.{part}"));
        let absorb = checkpoint.absorb();
        Self {
            query: linear(checkpoint, &format!("{prefix}.q_proj"), d_model, d_model),
            // Absorbed, its weight is multiplied with queries, head by head, and as such it is read.
            others: match absorb {
                true => exact_linears(checkpoint, &parts, d_model, d_model),
                false => linears(checkpoint, &parts, d_model, d_model),
            },
            core: Core::load(checkpoint, prefix, d_model, heads, scale),
            absorb,
        }
    }

    /// `bias` `[batch or 1, heads, from, to]` is added to the scaled logits.
    pub(super) fn forward(&self, states: Tensor<3>, others: &Tensor<3>, bias: Tensor<4>) -> Tensor<3> {
        let ([_, from, width], [_, heads, _, _]) = (states.dims(), bias.dims());
        let queries = self.query.forward(states);
        // What each way multiplies: both projections of all others, or every head's queries with all others, twice.
        if self.absorb
            && from * heads < width
            && let Some(weight) = self.others.exact_weight()
        {
            return self.absorbed(queries, others, weight, bias);
        }
        let both = self.others.forward(others.clone());
        let (keys, values) = (both.clone().slice_dim(2, 0..width), both.slice_dim(2, width..2 * width));
        self.core.forward(queries, keys, values, bias)
    }

    /// The same without projecting the others, of which there are many more than queries: with q a query of one head
    /// and e one of the others, q·(Wₖe + bₖ) = (Wₖᵀq)·e + q·bₖ, whose second part is the same for all others and falls
    /// out of the softmax; and Σp(Wᵥe + bᵥ) = Wᵥ(Σpe) + bᵥ, because the weights p sum to one.
    fn absorbed(&self, queries: Tensor<3>, others: &Tensor<3>, weight: Tensor<2>, bias: Tensor<4>) -> Tensor<3> {
        let ([batch, from, width], [_, to, _]) = (queries.dims(), others.dims());
        let [biases, heads, _, _] = bias.dims();
        // `[1, heads, d_model, head_dim]` each.
        let weight = weight.reshape([width, 2, heads, width / heads]);
        let part = |index: usize| weight.clone().slice_dim(1, index..index + 1).permute([1, 2, 0, 3]);
        let queries = split_heads(queries, heads).matmul(part(0).transpose()).reshape([batch, heads * from, width]);
        let logits = queries.matmul(others.clone().transpose()) * self.core.scale;
        let weights = softmax(logits + bias.reshape([biases, heads * from, to]), 2);
        let attended = weights.matmul(others.clone()).reshape([batch, heads, from, width]);
        let shift = self.others.bias().slice_dim(0, width..2 * width).reshape([1, heads, 1, width / heads]);
        let gain = self.core.gain.val().reshape([1, heads, 1, 1]);
        let attended = (attended.matmul(part(1)) + shift) * gain;
        self.core.output.forward(attended.swap_dims(1, 2).reshape([batch, from, width]))
    }
}

impl Core {
    fn load(checkpoint: &mut Checkpoint, prefix: &str, d_model: usize, heads: usize, scale: f64) -> Self {
        Self {
            output: linear(checkpoint, &format!("{prefix}.out_proj"), d_model, d_model),
            gain: checkpoint.parameter(&format!("{prefix}.c_attn"), [heads]),
            scale,
            kernels: checkpoint.kernels(),
        }
    }

    fn forward(&self, queries: Tensor<3>, keys: Tensor<3>, values: Tensor<3>, bias: Tensor<4>) -> Tensor<3> {
        let gain = self.gain.val();
        let attended = match self.kernels {
            true => kernels::attention(queries, keys, values, bias, gain, self.scale as f32),
            false => self.plain(queries, keys, values, bias, gain),
        };
        self.output.forward(attended)
    }

    fn plain(
        &self,
        queries: Tensor<3>,
        keys: Tensor<3>,
        values: Tensor<3>,
        bias: Tensor<4>,
        gain: Tensor<1>,
    ) -> Tensor<3> {
        let ([batch, from, width], [heads]) = (queries.dims(), gain.dims());
        let split = |states: Tensor<3>| split_heads(states, heads);
        let options = AttentionModuleOptions { scale: Some(self.scale), softcap: None, is_causal: false };
        let attended = attention(split(queries), split(keys), split(values), None, Some(bias), options);
        (attended * gain.reshape([1, heads, 1, 1])).swap_dims(1, 2).reshape([batch, from, width])
    }
}
