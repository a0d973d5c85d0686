//! Linear layers and norms, taken from a checkpoint.

use burn::{
    module::Param,
    nn::{LayerNorm, LayerNormConfig, Linear},
    tensor::Tensor,
};

use super::checkpoint::{Checkpoint, on_device};

const LAYER_NORM_EPSILON: f64 = 1e-5;

/// `prefix.weight` `[outputs, inputs]` and `prefix.bias` `[outputs]`.
pub(super) fn linear(checkpoint: &mut Checkpoint, prefix: &str, inputs: usize, outputs: usize) -> Linear {
    let rows = checkpoint.values(&format!("{prefix}.weight"), &[outputs, inputs]);
    let mut columns = vec![0.0; rows.len()];
    for (output, row) in rows.chunks_exact(inputs).enumerate() {
        for (input, value) in row.iter().enumerate() {
            columns[input * outputs + output] = *value;
        }
    }
    let weight = on_device(columns, [inputs, outputs], checkpoint.device());
    let bias = checkpoint.tensor(&format!("{prefix}.bias"), [outputs]);
    Linear { weight: Param::from_tensor(weight), bias: Some(Param::from_tensor(bias)) }
}

/// `prefix.weight` and `prefix.bias`, both `[width]`.
pub(super) fn layer_norm(checkpoint: &mut Checkpoint, prefix: &str, width: usize) -> LayerNorm {
    let mut norm = LayerNormConfig::new(width).with_epsilon(LAYER_NORM_EPSILON).init(checkpoint.device());
    norm.gamma = Param::from_tensor(checkpoint.tensor(&format!("{prefix}.weight"), [width]));
    norm.beta = Some(Param::from_tensor(checkpoint.tensor(&format!("{prefix}.bias"), [width])));
    norm
}

/// `[batch, tokens, heads * head_dim]` to `[batch, heads, tokens, head_dim]`.
pub(super) fn split_heads(states: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, tokens, width] = states.dims();
    states.reshape([batch, tokens, heads, width / heads]).swap_dims(1, 2)
}
