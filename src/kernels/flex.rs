//! The operations as an extension of burn's backend: shapes are looked at here, and kernels run on plain slices.

use std::sync::Arc;

use burn::{
    backend::{Backend, Flex, backend_extension, tensor::FloatTensor},
    tensor::{DType, Shape, TensorData},
};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::{
    attention,
    convolution::{self, Geometry, Weight},
    elementwise::{self, vectorized},
    linear::{self, Activation},
    operations::Sequence,
    pool,
    quantized::{QuantizedFilter, QuantizedProjection},
    winograd::TILES as WINOGRAD_TILES,
};

/// Operations with kernels of their own. All tensors hold 32-bit floats.
#[backend_extension(Flex)]
pub(super) trait Kernels: Backend {
    /// See [`convolution`](super::convolution()).
    fn convolution(
        images: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        geometry: Geometry,
    ) -> FloatTensor<Self>;

    /// With something around it.
    fn convolution_around(
        images: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        around: FloatTensor<Self>,
        geometry: Geometry,
    ) -> FloatTensor<Self>;

    /// With a weight of 8 bits.
    fn quantized_convolution(
        images: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        weight: Arc<QuantizedFilter>,
        geometry: Geometry,
    ) -> FloatTensor<Self>;

    /// With a weight of 8 bits, and something around it.
    fn quantized_convolution_around(
        images: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        around: FloatTensor<Self>,
        weight: Arc<QuantizedFilter>,
        geometry: Geometry,
    ) -> FloatTensor<Self>;

    /// See [`attention`](super::attention()).
    fn attention(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        scale: f32,
    ) -> FloatTensor<Self>;

    /// See [`attention_by_position`](super::attention_by_position()).
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

    /// See [`max_pool`](super::max_pool()).
    fn max_pool(images: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`gelu`](super::gelu()).
    fn gelu(states: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`gelu_slope`](super::gelu_slope()).
    fn gelu_slope(states: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`linear`](super::linear()).
    fn linear(
        states: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self>;

    /// With a weight of 8 bits.
    fn quantized_linear(
        states: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        weight: Arc<QuantizedProjection>,
        activation: Activation,
    ) -> FloatTensor<Self>;
}

impl Kernels for Flex {
    fn convolution(images: FlexTensor, weight: FlexTensor, bias: FlexTensor, geometry: Geometry) -> FlexTensor {
        convolved_with_floats(&images, &weight, &bias, None, geometry)
    }

    fn convolution_around(
        images: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        around: FlexTensor,
        geometry: Geometry,
    ) -> FlexTensor {
        convolved_with_floats(&images, &weight, &bias, Some(&around), geometry)
    }

    fn quantized_convolution(
        images: FlexTensor,
        bias: FlexTensor,
        weight: Arc<QuantizedFilter>,
        geometry: Geometry,
    ) -> FlexTensor {
        convolved(&images, Weight::Quantized(&weight), &bias, None, geometry)
    }

    fn quantized_convolution_around(
        images: FlexTensor,
        bias: FlexTensor,
        around: FlexTensor,
        weight: Arc<QuantizedFilter>,
        geometry: Geometry,
    ) -> FlexTensor {
        convolved(&images, Weight::Quantized(&weight), &bias, Some(&around), geometry)
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

    fn gelu(states: FlexTensor) -> FlexTensor {
        let states = states.to_contiguous();
        tensor(each(floats(&states), elementwise::gelu), sides::<3>(&states))
    }

    fn gelu_slope(states: FlexTensor) -> FlexTensor {
        let states = states.to_contiguous();
        tensor(each(floats(&states), elementwise::gelu_slope), sides::<3>(&states))
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

    fn quantized_linear(
        states: FlexTensor,
        bias: FlexTensor,
        weight: Arc<QuantizedProjection>,
        activation: Activation,
    ) -> FlexTensor {
        let (states, bias) = (states.to_contiguous(), bias.to_contiguous());
        let [batch, tokens, inputs] = sides(&states);
        let [outputs] = sides(&bias);
        assert!(inputs > 0 && outputs > 0, "sides above 0");
        assert_eq!([weight.inputs(), weight.outputs().len()], [inputs, outputs], "the weight's shape");
        let result = linear::quantized(floats(&states), &weight, floats(&bias), activation);
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

fn convolved_with_floats(
    images: &FlexTensor,
    weight: &FlexTensor,
    bias: &FlexTensor,
    around: Option<&FlexTensor>,
    geometry: Geometry,
) -> FlexTensor {
    let weight = weight.to_contiguous();
    let (inputs, outputs) = (sides::<4>(images)[1], bias.layout().num_elements());
    let Geometry { kernel, stride, winograd, .. } = geometry;
    match winograd {
        true => {
            assert!((kernel, stride) == (3, 1) && around.is_none(), "what Winograd's algorithm is for");
            assert_eq!(sides(&weight), [WINOGRAD_TILES, outputs, inputs, 1], "the weight's shape");
        }
        false => assert_eq!(sides(&weight), [outputs, inputs, kernel, kernel], "the weight's shape"),
    }
    convolved(images, Weight::Floats(floats(&weight)), bias, around, geometry)
}

fn convolved(
    images: &FlexTensor,
    weight: Weight<'_>,
    bias: &FlexTensor,
    around: Option<&FlexTensor>,
    geometry: Geometry,
) -> FlexTensor {
    let (images, bias) = (images.to_contiguous(), bias.to_contiguous());
    let around = around.map(FlexTensor::to_contiguous);
    let [count, inputs, height, width] = sides(&images);
    let outputs = bias.layout().num_elements();
    // What the kernels leave to each other without looking again rests on these.
    let Geometry { kernel, stride, winograd, .. } = geometry;
    assert!(kernel % 2 == 1 && stride > 0, "an odd filter, moved by at least one");
    assert!([inputs, outputs, height, width].iter().all(|side| *side > 0), "sides above 0");
    if let Weight::Quantized(weight) = weight {
        let shape = [weight.outputs().len(), weight.depth()];
        assert!(!winograd && shape == [outputs, inputs * kernel * kernel], "the weight's shape");
    }
    let [below, right] = [height, width].map(|side| side.div_ceil(stride));
    if let Some(around) = &around {
        assert_eq!(sides(around), [count, outputs, below, right], "the shape of what goes around");
    }
    let input = convolution::Images { values: floats(&images), inputs, height, width };
    let filter = convolution::Filter { weight, bias: floats(&bias), geometry };
    let result = convolution::run(&input, &filter, around.as_ref().map(floats));
    tensor(result, [count, outputs, below, right])
}

fn sides<const D: usize>(tensor: &FlexTensor) -> [usize; D] {
    tensor.layout().shape().dims()
}

/// What a function makes of each value.
fn each(values: &[f32], of: impl Fn(f32) -> f32 + Copy + Sync) -> Vec<f32> {
    const TOGETHER: usize = 1 << 14;
    let mut result = vec![0.0; values.len()];
    result.par_chunks_mut(TOGETHER).zip(values.par_chunks(TOGETHER)).for_each(|(result, values)| {
        vectorized(
            #[inline(always)]
            || result.iter_mut().zip(values).for_each(|(result, value)| *result = of(*value)),
        );
    });
    result
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
