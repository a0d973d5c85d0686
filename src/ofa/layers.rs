//! Linear layers and norms, taken from a checkpoint.

use std::sync::Arc;

use super::checkpoint::Checkpoint;
use crate::{
    kernels::{self, Activation, QuantizedProjection, Weight},
    weights::Precision,
};
use burn::{
    module::{Module, Param},
    nn::{LayerNorm, LayerNormConfig},
    tensor::{DType, Device, Tensor, activation::gelu},
};

const LAYER_NORM_EPSILON: f64 = 1e-5;

/// A product with a bias.
#[derive(Module, Debug)]
pub(super) struct Projection {
    weight: KeptWeight,
    bias: Param<Tensor<1>>,
    kernels: bool,
}

#[derive(Module, Debug)]
enum KeptWeight {
    /// `[inputs, outputs]`: products are slower on a transposed view of the published layout.
    Floats(Param<Tensor<2>>),
    Quantized(Quantized),
}

/// What burn does not know as a parameter: nothing but our own product reads it.
#[derive(Module, Debug)]
struct Quantized {
    #[module(skip)]
    weight: Arc<QuantizedProjection>,
}

impl Projection {
    pub(super) fn forward(&self, states: Tensor<3>) -> Tensor<3> {
        self.product(states, Activation::None)
    }

    /// The projection through the exact GELU.
    pub(super) fn forward_gelu(&self, states: Tensor<3>) -> Tensor<3> {
        self.product(states, Activation::Gelu)
    }

    fn product(&self, states: Tensor<3>, activation: Activation) -> Tensor<3> {
        let weight = match &self.weight {
            KeptWeight::Floats(weight) if !self.kernels => {
                let product = plain(states, weight.val(), self.bias.val());
                return match activation {
                    Activation::None => product,
                    Activation::Gelu => exact_gelu(product),
                };
            }
            KeptWeight::Floats(weight) => Weight::Floats(weight.val()),
            KeptWeight::Quantized(quantized) => Weight::Quantized(quantized.weight.clone()),
        };
        kernels::linear(states, weight, self.bias.val(), activation)
    }

    /// `[inputs, outputs]`, where it is not quantized.
    pub(super) fn exact_weight(&self) -> Option<Tensor<2>> {
        match &self.weight {
            KeptWeight::Floats(weight) => Some(weight.val()),
            KeptWeight::Quantized(_) => None,
        }
    }

    /// Width of what it reads.
    pub(super) fn inputs(&self) -> usize {
        match &self.weight {
            KeptWeight::Floats(weight) => weight.dims()[0],
            KeptWeight::Quantized(quantized) => quantized.weight.inputs(),
        }
    }

    /// `[outputs]`
    pub(super) fn bias(&self) -> Tensor<1> {
        self.bias.val()
    }
}

fn plain(states: Tensor<3>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<3> {
    // One product of all tokens: of a product of each row of the batch, learning would sum as many gradients of the weights.
    let [batch, tokens, inputs] = states.dims();
    let product = states.reshape([batch * tokens, inputs]).matmul(weight);
    (product + bias.unsqueeze()).reshape([batch as i32, tokens as i32, -1])
}

/// The exact GELU, on `flex` by our own loops: burn takes the error function of one value after the other there, which was two fifths
/// of a step of training. For states that are to be learned from the slope is a constant, so that their gradient is the product with
/// it, and the rest brings the value.
fn exact_gelu(states: Tensor<3>) -> Tensor<3> {
    if states.device().inner() != Device::flex() {
        return gelu(states);
    }
    if !states.is_autodiff() {
        return kernels::gelu(states);
    }
    let values = states.clone().inner();
    let slope = kernels::gelu_slope(values.clone());
    let rest = kernels::gelu(values.clone()) - values * slope.clone();
    states * slope.autodiff() + rest.autodiff()
}

/// `prefix.weight` and `prefix.bias`.
pub(super) fn linear(checkpoint: &mut Checkpoint, prefix: &str, inputs: usize, outputs: usize) -> Projection {
    linears(checkpoint, &[prefix.to_owned()], inputs, outputs)
}

/// As [`linear`], never quantized: for what is computed once and kept.
pub(super) fn exact_linear(checkpoint: &mut Checkpoint, prefix: &str, inputs: usize, outputs: usize) -> Projection {
    exact_linears(checkpoint, &[prefix.to_owned()], inputs, outputs)
}

/// Several projections of the same states as one, their outputs beside each other.
pub(super) fn linears(checkpoint: &mut Checkpoint, prefixes: &[String], inputs: usize, outputs: usize) -> Projection {
    if !checkpoint.quantizes() {
        return exact_linears(checkpoint, prefixes, inputs, outputs);
    }
    let (weight, bias) = rows_of(checkpoint, prefixes, inputs, outputs);
    let weight = QuantizedProjection::new(&weight, inputs);
    checkpoint.count_quantized(weight.bytes());
    let bias = checkpoint.put(bias, [outputs * prefixes.len()]);
    Projection {
        weight: KeptWeight::Quantized(Quantized { weight: Arc::new(weight) }),
        bias: Param::from_tensor(bias),
        kernels: true,
    }
}

/// As [`linears`], never quantized.
pub(super) fn exact_linears(
    checkpoint: &mut Checkpoint,
    prefixes: &[String],
    inputs: usize,
    outputs: usize,
) -> Projection {
    let (weight, bias) = rows_of(checkpoint, prefixes, inputs, outputs);
    let outputs = outputs * prefixes.len();
    let weight = checkpoint.put(transposed(&weight, inputs), [inputs, outputs]);
    let bias = checkpoint.put(bias, [outputs]);
    let names = |part: &str| prefixes.iter().map(|prefix| format!("{prefix}.{part}")).collect();
    Projection {
        weight: KeptWeight::Floats(checkpoint.made_from(weight, names("weight"), true)),
        bias: checkpoint.made_from(bias, names("bias"), false),
        kernels: checkpoint.kernels(),
    }
}

/// Weights, a row for each output, and biases, of several projections one behind the other.
fn rows_of(checkpoint: &mut Checkpoint, prefixes: &[String], inputs: usize, outputs: usize) -> (Vec<f32>, Vec<f32>) {
    let (mut weight, mut bias) = (Vec::new(), Vec::new());
    for prefix in prefixes {
        joined(&mut weight, checkpoint.values(&format!("{prefix}.weight"), &[outputs, inputs]));
        joined(&mut bias, checkpoint.values(&format!("{prefix}.bias"), &[outputs]));
    }
    (weight, bias)
}

/// The first values are kept where they are: most projections stand alone, and some are large.
fn joined(whole: &mut Vec<f32>, part: Vec<f32>) {
    match whole.is_empty() {
        true => *whole = part,
        false => whole.extend(part),
    }
}

/// Rows become columns, a square at a time: column by column, every value would cost a cache line. On one
/// thread, because the others verify digests and load other versions at the same time, and a pool that waits
/// for its slowest thread at every tensor would wait for them.
fn transposed(rows: &[f32], width: usize) -> Vec<f32> {
    const SIDE: usize = 16;
    let height = rows.len() / width;
    let mut columns = vec![0.0; rows.len()];
    for (strip, columns) in columns.chunks_mut((SIDE * height).max(1)).enumerate() {
        let left = strip * SIDE;
        for top in (0..height).step_by(SIDE) {
            let rows = &rows[top * width..height.min(top + SIDE) * width];
            for (column, values) in columns.chunks_exact_mut(height).enumerate() {
                for (row, value) in values[top..height.min(top + SIDE)].iter_mut().enumerate() {
                    *value = rows[row * width + left + column];
                }
            }
        }
    }
    columns
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
        let name = format!("{prefix}.{name}");
        let values = checkpoint.values(&name, &[width]);
        let values = checkpoint.put_as(values, [width], Precision::F32);
        checkpoint.made_from(values, vec![name], false)
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
