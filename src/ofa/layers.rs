//! Linear layers and norms, taken from a checkpoint.

use burn::{
    module::{Module, Param},
    nn::{LayerNorm, LayerNormConfig, Linear},
    tensor::{DType, Tensor},
};

use super::checkpoint::Checkpoint;
use crate::weights::Precision;

const LAYER_NORM_EPSILON: f64 = 1e-5;

/// `prefix.weight` `[outputs, inputs]` and `prefix.bias` `[outputs]`. The weight is used as a transposed
/// view: products read it as quickly, and loading need not move it.
pub(super) fn linear(checkpoint: &mut Checkpoint, prefix: &str, inputs: usize, outputs: usize) -> Linear {
    let weight = checkpoint.tensor(&format!("{prefix}.weight"), [outputs, inputs]).transpose();
    let bias = checkpoint.tensor(&format!("{prefix}.bias"), [outputs]);
    Linear { weight: Param::from_tensor(weight), bias: Some(Param::from_tensor(bias)) }
}

/// A layer norm that works in 32 bits whatever the states have: the squares of half-precision states
/// can exceed what half precision holds.
#[derive(Module, Debug)]
pub(super) struct Norm {
    norm: LayerNorm,
}

impl Norm {
    pub(super) fn forward<const D: usize>(&self, states: Tensor<D>) -> Tensor<D> {
        match states.dtype() {
            DType::F32 => self.norm.forward(states),
            narrow => self.norm.forward(states.cast(DType::F32)).cast(narrow),
        }
    }
}

/// `prefix.weight` and `prefix.bias`, both `[width]`.
pub(super) fn layer_norm(checkpoint: &mut Checkpoint, prefix: &str, width: usize) -> Norm {
    let mut norm = LayerNormConfig::new(width).with_epsilon(LAYER_NORM_EPSILON).init(checkpoint.device());
    let mut part = |name: &str| {
        let values = checkpoint.values(&format!("{prefix}.{name}"), &[width]);
        Param::from_tensor(checkpoint.put_as(values, [width], Precision::F32))
    };
    norm.gamma = part("weight");
    norm.beta = Some(part("bias"));
    Norm { norm }
}

/// `[batch, tokens, heads * head_dim]` to `[batch, heads, tokens, head_dim]`.
pub(super) fn split_heads(states: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, tokens, width] = states.dims();
    states.reshape([batch, tokens, heads, width / heads]).swap_dims(1, 2)
}
