//! What the network calls, on tensors. All of them hold 32-bit floats.

use std::sync::Arc;

use burn::{backend::Dispatch, tensor::Tensor};

use super::{
    convolution::Geometry,
    flex::Kernels,
    linear::Activation,
    quantized::{QuantizedFilter, QuantizedProjection},
};

/// A weight, in one of two precisions. `Q` is what a quantized one is kept as.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "handed on, one at a time, and never kept")]
pub enum Weight<const D: usize, Q> {
    /// In 32 bits.
    Floats(Tensor<D>),
    /// In 8 bits.
    Quantized(Arc<Q>),
}

/// What a convolution multiplies with: `[outputs, inputs, kernel, kernel]`, or for a [`Geometry`] that says so what
/// [`winograd_weights`](super::winograd_weights) makes of it, `[36, outputs, inputs, 1]`.
pub type Filter = Weight<4, QuantizedFilter>;

/// What a projection multiplies with: `[inputs, outputs]`.
pub type ProjectionWeight = Weight<2, QuantizedProjection>;

/// A convolution with its bias, what goes around it, and ReLU, in one pass over the result:
/// `[images, inputs, height, width]` to `[images, outputs, height / stride, width / stride]`, sides rounded
/// up. `around` has the result's shape.
pub fn convolution(
    images: Tensor<4>,
    filter: Filter,
    bias: Tensor<1>,
    around: Option<Tensor<4>>,
    geometry: Geometry,
) -> Tensor<4> {
    let (images, bias, around) = (images.into_dispatch(), bias.into_dispatch(), around.map(Tensor::into_dispatch));
    Tensor::from_dispatch(match (filter, around) {
        (Weight::Floats(weight), None) => {
            <Dispatch as Kernels>::convolution(images, weight.into_dispatch(), bias, geometry)
        }
        (Weight::Floats(weight), Some(around)) => {
            <Dispatch as Kernels>::convolution_around(images, weight.into_dispatch(), bias, around, geometry)
        }
        (Weight::Quantized(weight), None) => {
            <Dispatch as Kernels>::quantized_convolution(images, bias, weight, geometry)
        }
        (Weight::Quantized(weight), Some(around)) => {
            <Dispatch as Kernels>::quantized_convolution_around(images, bias, around, weight, geometry)
        }
    })
}

/// The largest of every 3×3 neighbourhood, two apart: `[images, channels, height, width]` to sides half as long,
/// rounded up.
pub fn max_pool(images: Tensor<4>) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as Kernels>::max_pool(images.into_dispatch()))
}

/// x·Φ(x) of each value, the exact GELU.
pub fn gelu(states: Tensor<3>) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as Kernels>::gelu(states.into_dispatch()))
}

/// The slope of [`gelu`] at each value.
pub fn gelu_slope(states: Tensor<3>) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as Kernels>::gelu_slope(states.into_dispatch()))
}

/// Attention of `queries` `[batch, from, width]` to `keys` and `values` `[batch, to, width]`, whose heads lie
/// beside each other in the width. `bias` `[batch or 1, heads, from, to]` is added to the logits scaled by
/// `scale`; the output of each head is multiplied by its `gain` `[heads]`. Gives `[batch, from, width]`. Slices of a
/// wider tensor are read in place; values of a row must lie side by side.
pub fn attention(
    queries: Tensor<3>,
    keys: Tensor<3>,
    values: Tensor<3>,
    bias: Tensor<4>,
    gain: Tensor<1>,
    scale: f32,
) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as Kernels>::attention(
        queries.into_dispatch(),
        keys.into_dispatch(),
        values.into_dispatch(),
        bias.into_dispatch(),
        gain.into_dispatch(),
        scale,
    ))
}

/// What attention adds for the positions of an image's patches and of a text behind them, in the parts that
/// differ from each other. Put together it would be `[heads, patches + tokens, patches + tokens]` for every layer.
#[derive(Clone, Debug)]
pub struct Positions {
    /// Patch to patch, the same for every layer: `[heads, patches, patches]`.
    pub absolute: Tensor<3>,
    /// Patch to patch, by the distance from query to key, down and across, the most negative first:
    /// `[heads, (2 * grid - 1)^2]`.
    pub relative: Tensor<2>,
    /// Patch to token, the same for every layer: `[heads, patches, tokens]`.
    pub right: Tensor<3>,
    /// Token to patch, the same for every layer: `[heads, tokens, patches]`.
    pub left: Tensor<3>,
    /// Token to token: `[heads, tokens, tokens]`.
    pub corner: Tensor<3>,
}

/// The sequences of a batch: patches of square images, and behind them tokens of texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// Patches in a row of an image.
    pub grid: usize,
    /// Positions that count, per row of the batch; those behind them are padding.
    pub seen: Vec<usize>,
    /// What logits are multiplied by before the bias is added.
    pub scale: f32,
}

/// As [`attention()`], among states `[batch, patches + tokens, width]`, with a bias by position and without the
/// padding.
pub fn attention_by_position(
    [queries, keys, values]: [Tensor<3>; 3],
    positions: &Positions,
    gain: Tensor<1>,
    sequence: Sequence,
) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as Kernels>::attention_by_position(
        queries.into_dispatch(),
        keys.into_dispatch(),
        values.into_dispatch(),
        positions.absolute.clone().into_dispatch(),
        positions.relative.clone().into_dispatch(),
        positions.right.clone().into_dispatch(),
        positions.left.clone().into_dispatch(),
        positions.corner.clone().into_dispatch(),
        gain.into_dispatch(),
        sequence,
    ))
}

/// `states` `[batch, tokens, inputs]` times `weight` `[inputs, outputs]`, plus `bias` `[outputs]`, through an
/// activation: `[batch, tokens, outputs]`.
pub fn linear(states: Tensor<3>, weight: ProjectionWeight, bias: Tensor<1>, activation: Activation) -> Tensor<3> {
    let (states, bias) = (states.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(match weight {
        Weight::Floats(weight) => <Dispatch as Kernels>::linear(states, weight.into_dispatch(), bias, activation),
        Weight::Quantized(weight) => <Dispatch as Kernels>::quantized_linear(states, bias, weight, activation),
    })
}
