//! Multi-head attention with an additive position bias and a learned gain per head.

use burn::{
    module::{Module, Param},
    tensor::{Tensor, module::attention, ops::AttentionModuleOptions},
};

use super::{
    checkpoint::Checkpoint,
    layers::{Projection, linear, linears, split_heads},
};
use crate::kernels;

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
        let [_, _, width] = states.dims();
        let all = self.inputs.forward(states);
        let part = |index: usize| all.clone().slice_dim(2, index * width..(index + 1) * width);
        self.core.forward(part(0), part(1), part(2), bias)
    }
}

impl CrossAttention {
    pub(super) fn load(checkpoint: &mut Checkpoint, prefix: &str, d_model: usize, heads: usize, scale: f64) -> Self {
        let parts = ["k_proj", "v_proj"].map(|part| format!("{prefix}.{part}"));
        Self {
            query: linear(checkpoint, &format!("{prefix}.q_proj"), d_model, d_model),
            others: linears(checkpoint, &parts, d_model, d_model),
            core: Core::load(checkpoint, prefix, d_model, heads, scale),
        }
    }

    /// `bias` `[batch or 1, heads, from, to]` is added to the scaled logits.
    pub(super) fn forward(&self, states: Tensor<3>, others: Tensor<3>, bias: Tensor<4>) -> Tensor<3> {
        let [_, _, width] = states.dims();
        let both = self.others.forward(others);
        let (keys, values) = (both.clone().slice_dim(2, 0..width), both.slice_dim(2, width..2 * width));
        self.core.forward(self.query.forward(states), keys, values, bias)
    }
}

impl Core {
    fn load(checkpoint: &mut Checkpoint, prefix: &str, d_model: usize, heads: usize, scale: f64) -> Self {
        Self {
            output: linear(checkpoint, &format!("{prefix}.out_proj"), d_model, d_model),
            gain: Param::from_tensor(checkpoint.tensor(&format!("{prefix}.c_attn"), [heads])),
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
