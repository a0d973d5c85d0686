//! CPU kernels for what burn's own CPU device does slowly on OFA's shapes. The room of unsafe code.
//!
//! * [`Kernels`]: the operations, as an extension of burn's backend; `flex` runs them.
//! * `convolution`, `winograd`, `pool`, `attention`, `linear`: one operation each, on plain slices.
//! * `product`: matrix products into parts of a shared result.
//! * `elementwise`: exponential, GELU and sums that the compiler can vectorize.
//!
//! The network calls these where it runs on `flex`, and burn's own operations elsewhere; both are held to the
//! same golden outputs.

mod attention;
mod convolution;
mod elementwise;
mod linear;
mod pool;
mod product;
mod winograd;

#[cfg(test)]
mod tests;

use burn::{
    backend::{Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor},
    tensor::{DType, Shape, Tensor, TensorData},
};
use burn_flex::FlexTensor;

pub use convolution::Geometry;
pub(crate) use elementwise::vectorized;
pub use linear::Activation;
pub use winograd::{TILES as WINOGRAD_TILES, prepared as winograd_weights};

/// Operations with kernels of their own. All tensors hold 32-bit floats.
#[backend_extension(Flex)]
pub trait Kernels: Backend {
    /// See [`convolution()`].
    fn convolution(
        images: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        geometry: Geometry,
    ) -> FloatTensor<Self>;

    /// See [`convolution()`], with something around it.
    fn convolution_around(
        images: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        around: FloatTensor<Self>,
        geometry: Geometry,
    ) -> FloatTensor<Self>;

    /// See [`attention()`].
    fn attention(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        scale: f32,
    ) -> FloatTensor<Self>;

    /// See [`attention_by_position()`].
    #[allow(clippy::too_many_arguments, reason = "an extension takes tensors one by one")]
    fn attention_by_position(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        absolute: FloatTensor<Self>,
        relative: FloatTensor<Self>,
        right: FloatTensor<Self>,
        left: FloatTensor<Self>,
        corner: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        sequence: Sequence,
    ) -> FloatTensor<Self>;

    /// See [`max_pool()`].
    fn max_pool(images: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`linear()`].
    fn linear(
        states: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self>;
}

/// A convolution with its bias, what goes around it, and ReLU, in one pass over the result:
/// `[images, inputs, height, width]` to `[images, outputs, height / stride, width / stride]`, sides rounded
/// up.
///
/// `weight` is `[outputs, inputs, kernel, kernel]`, or for a [`Geometry`] that says so what
/// [`winograd_weights`] makes of it, `[36, outputs, inputs, 1]`. `around` has the result's shape.
pub fn convolution(
    images: Tensor<4>,
    weight: Tensor<4>,
    bias: Tensor<1>,
    around: Option<Tensor<4>>,
    geometry: Geometry,
) -> Tensor<4> {
    let (images, weight, bias) = (images.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(match around.map(Tensor::into_dispatch) {
        Some(around) => <Dispatch as Kernels>::convolution_around(images, weight, bias, around, geometry),
        None => <Dispatch as Kernels>::convolution(images, weight, bias, geometry),
    })
}

/// The largest of every 3×3 neighbourhood, two apart: `[images, channels, height, width]` to sides half as long,
/// rounded up.
pub fn max_pool(images: Tensor<4>) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as Kernels>::max_pool(images.into_dispatch()))
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
pub fn linear(states: Tensor<3>, weight: Tensor<2>, bias: Tensor<1>, activation: Activation) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as Kernels>::linear(
        states.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        activation,
    ))
}

impl Kernels for Flex {
    fn convolution(images: FlexTensor, weight: FlexTensor, bias: FlexTensor, geometry: Geometry) -> FlexTensor {
        convolved(&images, &weight, &bias, None, geometry)
    }

    fn convolution_around(
        images: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        around: FlexTensor,
        geometry: Geometry,
    ) -> FlexTensor {
        convolved(&images, &weight, &bias, Some(&around), geometry)
    }

    fn attention(
        queries: FlexTensor,
        keys: FlexTensor,
        values: FlexTensor,
        bias: FlexTensor,
        gain: FlexTensor,
        scale: f32,
    ) -> FlexTensor {
        let bias = bias.to_contiguous();
        let (from, to) = (sides::<3>(&queries)[1], sides::<3>(&keys)[1]);
        let [biases, heads, _, _] = sides(&bias);
        assert!(biases == 1 || biases == sides::<3>(&queries)[0], "one bias, or one per row of the batch");
        assert_eq!(sides(&bias), [biases, heads, from, to], "the bias's shape");
        let bias = attention::Bias::Whole { values: floats(&bias), biases };
        attended([&queries, &keys, &values], heads, &bias, &gain, scale)
    }

    fn attention_by_position(
        queries: FlexTensor,
        keys: FlexTensor,
        values: FlexTensor,
        absolute: FlexTensor,
        relative: FlexTensor,
        right: FlexTensor,
        left: FlexTensor,
        corner: FlexTensor,
        gain: FlexTensor,
        Sequence { grid, seen, scale }: Sequence,
    ) -> FlexTensor {
        let parts = [&absolute, &relative, &right, &left, &corner].map(FlexTensor::to_contiguous);
        let [absolute, relative, right, left, corner] = &parts;
        let ([batch, sequence, _], [heads, patches, tokens]) = (sides(&queries), sides(right));
        assert!(grid > 0 && patches == grid * grid && sequence == patches + tokens, "patches, and tokens behind them");
        assert_eq!(sides(absolute), [heads, patches, patches], "the shape of the absolute bias");
        assert_eq!(sides(relative), [heads, (2 * grid - 1).pow(2)], "the shape of the relative bias");
        assert_eq!(sides(left), [heads, tokens, patches], "the shape of the bias from tokens to patches");
        assert_eq!(sides(corner), [heads, tokens, tokens], "the shape of the bias among tokens");
        let within = seen.iter().all(|seen| (patches..=sequence).contains(seen));
        assert!(seen.len() == batch && within, "positions that count, for every row of the batch");
        let bias = attention::Bias::Positions(attention::Positions {
            absolute: floats(absolute),
            relative: floats(relative),
            right: floats(right),
            left: floats(left),
            corner: floats(corner),
            grid,
            tokens,
            seen: &seen,
        });
        attended([&queries, &keys, &values], heads, &bias, &gain, scale)
    }

    fn max_pool(images: FlexTensor) -> FlexTensor {
        let images = images.to_contiguous();
        let [count, channels, height, width] = sides(&images);
        assert!(height > 0 && width > 0, "sides above 0");
        let result = pool::run(floats(&images), [height, width]);
        tensor(result, [count, channels, height.div_ceil(2), width.div_ceil(2)])
    }

    fn linear(states: FlexTensor, weight: FlexTensor, bias: FlexTensor, activation: Activation) -> FlexTensor {
        let (states, weight, bias) = (states.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
        let [batch, tokens, inputs] = sides(&states);
        let outputs = bias.layout().num_elements();
        assert!(inputs > 0 && outputs > 0, "sides above 0");
        assert_eq!(sides(&weight), [inputs, outputs], "the weight's shape");
        let result = linear::run(floats(&states), inputs, floats(&weight), floats(&bias), activation);
        tensor(result, [batch, tokens, outputs])
    }
}

fn attended(
    inputs: [&FlexTensor; 3],
    heads: usize,
    bias: &attention::Bias<'_>,
    gain: &FlexTensor,
    scale: f32,
) -> FlexTensor {
    let gain = gain.to_contiguous();
    let [[batch, from, width], keys, values] = inputs.map(sides);
    let to = keys[1];
    // What the kernel leaves to itself without looking again rests on these.
    assert!(to > 0 && heads > 0 && width > 0 && width.is_multiple_of(heads), "sides above 0, whole heads");
    assert!(keys == [batch, to, width] && values == keys, "shape of keys and values");
    assert_eq!(sides(&gain), [heads], "the gain's shape");
    let shape = attention::Shape { batch, from, to, width, heads };
    let rows = inputs.map(|tensor| {
        let strides = tensor.layout().strides();
        // Slices of a wider product, such as queries, keys and values made at once, are read in place.
        assert!(strides[2] == 1 && strides.iter().all(|stride| *stride >= 0), "rows lie in order");
        attention::Rows {
            values: tensor.storage(),
            start: tensor.layout().start_offset(),
            batch: strides[0] as usize,
            row: strides[1] as usize,
        }
    });
    tensor(attention::run(&shape, rows, bias, floats(&gain), scale), [batch, from, width])
}

fn convolved(
    images: &FlexTensor,
    weight: &FlexTensor,
    bias: &FlexTensor,
    around: Option<&FlexTensor>,
    geometry: Geometry,
) -> FlexTensor {
    let (images, weight, bias) = (images.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
    let around = around.map(FlexTensor::to_contiguous);
    let [count, inputs, height, width] = sides(&images);
    let outputs = bias.layout().num_elements();
    // What the kernels leave to each other without looking again rests on these.
    let Geometry { kernel, stride, winograd, .. } = geometry;
    assert!(kernel % 2 == 1 && stride > 0, "an odd filter, moved by at least one");
    assert!([inputs, outputs, height, width].iter().all(|side| *side > 0), "sides above 0");
    match winograd {
        true => {
            assert!((kernel, stride) == (3, 1) && around.is_none(), "what Winograd's algorithm is for");
            assert_eq!(sides(&weight), [WINOGRAD_TILES, outputs, inputs, 1], "the weight's shape");
        }
        false => assert_eq!(sides(&weight), [outputs, inputs, kernel, kernel], "the weight's shape"),
    }
    let [below, right] = [height, width].map(|side| side.div_ceil(stride));
    if let Some(around) = &around {
        assert_eq!(sides(around), [count, outputs, below, right], "the shape of what goes around");
    }
    let input = convolution::Images { values: floats(&images), inputs, height, width };
    let filter = convolution::Filter { weight: floats(&weight), bias: floats(&bias), geometry };
    let result = convolution::run(&input, &filter, around.as_ref().map(floats));
    tensor(result, [count, outputs, below, right])
}

fn sides<const D: usize>(tensor: &FlexTensor) -> [usize; D] {
    tensor.layout().shape().dims()
}

/// All values of a contiguous tensor.
fn floats(tensor: &FlexTensor) -> &[f32] {
    assert_eq!(tensor.dtype(), DType::F32, "kernels work on 32-bit floats");
    let start = tensor.layout().start_offset();
    &tensor.storage()[start..start + tensor.layout().num_elements()]
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, Shape::from(shape)))
}
