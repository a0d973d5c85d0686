//! Multi-head attention with an additive position bias and a learned gain per head.

use burn::{
    module::{Module, Param},
    nn::Linear,
    tensor::{Tensor, module::attention, ops::AttentionModuleOptions},
};

use super::{
    checkpoint::Checkpoint,
    layers::{linear, split_heads},
};

/// Attention over `[batch, tokens, d_model]`.
#[derive(Module, Debug)]
pub(super) struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    /// `[heads]`, multiplied to each head's output (NormFormer).
    gain: Param<Tensor<1>>,
    scale: f64,
}

impl Attention {
    pub(super) fn load(checkpoint: &mut Checkpoint, prefix: &str, d_model: usize, heads: usize, scale: f64) -> Self {
        let mut projection = |name: &str| linear(checkpoint, &format!("{prefix}.{name}"), d_model, d_model);
        Self {
            query: projection("q_proj"),
            key: projection("k_proj"),
            value: projection("v_proj"),
            output: projection("out_proj"),
            gain: Param::from_tensor(checkpoint.tensor(&format!("{prefix}.c_attn"), [heads])),
            scale,
        }
    }

    /// `queries` `[batch, from, d_model]` attend to `keys` `[batch, to, d_model]`; `bias`
    /// `[batch or 1, heads, from, to]` is added to the scaled logits.
    pub(super) fn forward(&self, queries: Tensor<3>, keys: Tensor<3>, bias: Tensor<4>) -> Tensor<3> {
        let [batch, from, width] = queries.dims();
        let gain = self.gain.val();
        let [heads] = gain.dims();
        let query = split_heads(self.query.forward(queries), heads);
        let key = split_heads(self.key.forward(keys.clone()), heads);
        let value = split_heads(self.value.forward(keys), heads);
        let options = AttentionModuleOptions { scale: Some(self.scale), softcap: None, is_causal: false };
        let attended = attention(query, key, value, None, Some(bias), options) * gain.reshape([1, heads, 1, 1]);
        self.output.forward(attended.swap_dims(1, 2).reshape([batch, from, width]))
    }
}
