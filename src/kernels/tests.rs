//! Every kernel against burn's own operation, on shapes with remainders everywhere.

use std::sync::Arc;

use burn::tensor::{
    Device, Int, Tensor, TensorData,
    activation::{gelu as burns_gelu, relu},
    module::{conv2d, max_pool2d},
    ops::{ConvOptions, MaxPoolOptions},
};

use super::*;

fn random<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

/// No failure even where every test must run: nobody can install a CPU, and what it does not have it refuses.
#[allow(clippy::disallowed_macros, reason = "for people who read what tests print")]
pub(super) fn skipped() {
    eprintln!("\n*** SKIPPED: this CPU has no such products of 8 bits ***\n");
}

fn floats<const D: usize, Q>(weight: &Tensor<D>) -> Weight<D, Q> {
    Weight::Floats(weight.clone())
}

/// The largest difference, relative to the largest value.
fn furthest<const D: usize>(got: Tensor<D>, expected: Tensor<D>) -> f32 {
    assert_eq!(got.dims(), expected.dims());
    let largest: f32 = expected.clone().abs().max().into_scalar();
    let off: f32 = (got - expected).abs().max().into_scalar();
    off / largest
}

#[test]
fn convolutions_agree_with_burns_own() {
    // Images, inputs, outputs, height, width, kernel, stride.
    let shapes = [
        [1, 3, 8, 30, 30, 7, 2],
        [2, 5, 7, 13, 17, 3, 2],
        [1, 16, 24, 9, 11, 1, 1],
        [3, 4, 6, 10, 7, 1, 2],
        [1, 4, 4, 1, 1, 3, 1],
        [2, 3, 5, 4, 4, 3, 1],
        [1, 7, 9, 5, 6, 3, 1],
        [2, 17, 19, 30, 30, 3, 1],
        [1, 64, 64, 60, 61, 3, 1],
        [1, 8, 8, 2, 300, 3, 1],
        // Tiles of the stem that begin in the last column of a row, and images smaller than its filter.
        [1, 3, 64, 78, 78, 7, 2],
        [1, 3, 64, 1, 2, 7, 2],
        [1, 3, 4, 2, 1, 7, 1],
    ];
    for (seed, [count, inputs, outputs, height, width, kernel, stride]) in shapes.into_iter().enumerate() {
        let seed = seed as u64 * 4 + 1;
        let images = random([count, inputs, height, width], seed);
        let weight = random([outputs, inputs, kernel, kernel], seed + 1);
        let bias = random([outputs], seed + 2);
        let options = ConvOptions::new([stride; 2], [kernel / 2; 2], [1, 1], 1);
        let plain = conv2d(images.clone(), weight.clone(), Some(bias.clone()), options);
        let around = random(plain.dims(), seed + 3);
        for rectified in [false, true] {
            let geometry = Geometry { kernel, stride, relu: rectified, winograd: false };
            let end = |tensor: Tensor<4>| if rectified { relu(tensor) } else { tensor };
            let expected = end(plain.clone() + around.clone());
            let got = convolution(images.clone(), floats(&weight), bias.clone(), Some(around.clone()), geometry);
            assert!(furthest(got, expected) < 1e-5, "{kernel} {stride} {height}x{width}, with something around");
            let expected = end(plain.clone());
            let got = convolution(images.clone(), floats(&weight), bias.clone(), None, geometry);
            assert!(furthest(got, expected.clone()) < 1e-5, "{kernel} {stride} {height}x{width}");
            if kernel == 3 && stride == 1 {
                let values: Vec<f32> = weight.clone().try_into_vec_as().unwrap();
                let prepared =
                    TensorData::new(winograd_weights(&values, outputs, inputs), [WINOGRAD_TILES, outputs, inputs, 1]);
                let prepared = Tensor::from_data(prepared, &Device::flex());
                let geometry = Geometry { winograd: true, ..geometry };
                let off = furthest(
                    convolution(images.clone(), Weight::Floats(prepared), bias.clone(), None, geometry),
                    expected,
                );
                assert!(off < 2e-5, "Winograd {inputs}->{outputs} {height}x{width}: {off}");
            }
        }
    }
}

/// Each of two numbers is rounded by half of a 127th of the largest at most, and errors of many products cancel out.
#[test]
fn products_of_8_bits_are_near_those_of_32() {
    if !has_integer_products() {
        return skipped();
    }
    // The last two are deeper than the 1024 numbers that `rten-gemm` multiplies at a time.
    for (seed, [batch, tokens, inputs, outputs]) in [
        [1, 1, 1, 1],
        [2, 5, 7, 3],
        [1, 33, 64, 48],
        [3, 40, 96, 288],
        [1, 70, 768, 130],
        [1, 33, 1027, 48],
        [1, 5, 3072, 40],
    ]
    .into_iter()
    .enumerate()
    {
        let seed = seed as u64 * 3 + 50;
        let (states, rows, bias) =
            (random([batch, tokens, inputs], seed), random([outputs, inputs], seed + 1), random([outputs], seed + 2));
        let weight = Arc::new(QuantizedProjection::new(&rows.clone().try_into_vec_as::<f32>().unwrap(), inputs));
        // Around nought, above and below it: nought is rounded to the middle, to 0 and to 255.
        for (shift, activation) in
            [(0.0, Activation::None), (0.0, Activation::Gelu), (3.0, Activation::None), (-3.0, Activation::None)]
        {
            let states = states.clone() + shift;
            let exact = linear(states.clone(), Weight::Floats(rows.clone().transpose()), bias.clone(), activation);
            let got = linear(states, Weight::Quantized(weight.clone()), bias.clone(), activation);
            let off = furthest(got, exact);
            assert!(off < 2e-2, "{inputs} to {outputs}, by {shift}: {off}");
        }
    }
    for (seed, [count, inputs, outputs, height, width, kernel, stride]) in [
        [1, 3, 8, 30, 30, 7, 2],
        [2, 5, 7, 13, 17, 3, 2],
        [3, 16, 24, 9, 11, 1, 1],
        [1, 64, 64, 60, 61, 1, 1],
        [2, 17, 19, 30, 30, 3, 1],
    ]
    .into_iter()
    .enumerate()
    {
        let seed = seed as u64 * 4 + 80;
        let (images, weight) =
            (random([count, inputs, height, width], seed), random([outputs, inputs, kernel, kernel], seed + 1));
        let bias = random([outputs], seed + 2);
        let rows = weight.clone().try_into_vec_as::<f32>().unwrap();
        let Some(filter) = QuantizedFilter::new(&rows, inputs * kernel * kernel).map(Arc::new) else {
            return skipped();
        };
        let geometry = Geometry { kernel, stride, relu: true, winograd: false };
        let plain = convolution(images.clone(), floats(&weight), bias.clone(), None, geometry);
        let around = random(plain.dims(), seed + 3);
        for images in [images.clone(), relu(images.clone()), images.clone() + 3.0, images - 3.0] {
            for around in [None, Some(around.clone())] {
                let exact = convolution(images.clone(), floats(&weight), bias.clone(), around.clone(), geometry);
                let got =
                    convolution(images.clone(), Weight::Quantized(filter.clone()), bias.clone(), around, geometry);
                let off = furthest(got, exact);
                assert!(off < 2e-2, "{kernel} {stride} {height}x{width}: {off}");
            }
        }
    }
}

/// A request is judged as if it were alone, whatever else is in its batch.
#[test]
fn a_row_in_8_bits_depends_on_itself_alone_and_one_that_is_no_number_stays_none() {
    if !has_integer_products() {
        return skipped();
    }
    let (states, rows, bias) = (random([1, 3, 40], 1), random([16, 40], 2), random([16], 3));
    let weight = Arc::new(QuantizedProjection::new(&rows.try_into_vec_as::<f32>().unwrap(), 40));
    let product = |states: Tensor<3>| -> Vec<f32> {
        let weight = Weight::Quantized(weight.clone());
        linear(states, weight, bias.clone(), Activation::Gelu).try_into_vec_as().unwrap()
    };
    let alone = product(states.clone().slice_dim(1, 0..1));
    for disturbance in [1e6, f32::NAN, f32::INFINITY] {
        let mut values: Vec<f32> = states.clone().try_into_vec_as().unwrap();
        values[40 + 7] = disturbance;
        let got = product(Tensor::from_data(TensorData::new(values, [1, 3, 40]), &Device::flex()));
        assert_eq!(got[..16], alone, "beside {disturbance}");
        assert_eq!(got[16..32].iter().all(|value| value.is_nan()), !disturbance.is_finite(), "{disturbance}");
    }
    // An image is one tile here, and the other image another.
    let Some(filter) = QuantizedFilter::new(&random([4, 3], 4).try_into_vec_as::<f32>().unwrap(), 3).map(Arc::new)
    else {
        return skipped();
    };
    let geometry = Geometry { kernel: 1, stride: 1, relu: true, winograd: false };
    let mut values: Vec<f32> = random([2, 3, 2, 2], 5).try_into_vec_as().unwrap();
    values[14] = f32::NAN;
    let images = Tensor::from_data(TensorData::new(values, [2, 3, 2, 2]), &Device::flex());
    let result: Vec<f32> =
        convolution(images, Weight::Quantized(filter), random([4], 6), None, geometry).try_into_vec_as().unwrap();
    assert!(result[..16].iter().all(|value| value.is_finite()) && result[16..].iter().all(|value| value.is_nan()));
}

#[test]
fn attention_by_position_agrees_with_the_whole_bias_and_leaves_padding_out() {
    for (seed, [batch, grid, tokens, heads, head_width]) in
        [[1, 1, 1, 1, 3], [2, 3, 5, 2, 7], [3, 4, 9, 3, 16], [1, 10, 13, 2, 8]].into_iter().enumerate()
    {
        let seed = seed as u64 * 20;
        let (patches, width, span) = (grid * grid, heads * head_width, 2 * grid - 1);
        let sequence = patches + tokens;
        let inputs = [1, 2, 3].map(|part| random([batch, sequence, width], seed + part));
        let gain = random([heads], seed + 4);
        let positions = Positions {
            absolute: random([heads, patches, patches], seed + 5),
            relative: random([heads, span * span], seed + 6),
            right: random([heads, patches, tokens], seed + 7),
            left: random([heads, tokens, patches], seed + 8),
            corner: random([heads, tokens, tokens], seed + 9),
        };
        // Put together, one patch after the other.
        let distance = |query: usize, key: usize| {
            let side = |at: fn(usize, usize) -> usize| at(key, grid) + grid - 1 - at(query, grid);
            (side(|patch, grid| patch / grid) * span + side(|patch, grid| patch % grid)) as i32
        };
        let distances: Vec<i32> = (0..patches * patches).map(|at| distance(at / patches, at % patches)).collect();
        let distances = Tensor::<1, Int>::from_data(TensorData::new(distances, [patches * patches]), &Device::flex());
        let relative = positions.relative.clone().select(1, distances).reshape([heads, patches, patches]);
        let upper = Tensor::cat(vec![positions.absolute.clone() + relative, positions.right.clone()], 2);
        let lower = Tensor::cat(vec![positions.left.clone(), positions.corner.clone()], 2);
        let whole: Tensor<4> = Tensor::cat(vec![upper, lower], 1).unsqueeze();
        let seen: Vec<usize> = (0..batch).map(|row| sequence - row % tokens).collect();
        let padding: Vec<f32> =
            seen.iter().flat_map(|&seen| (0..sequence).map(move |at| if at < seen { 0.0 } else { -1e9 })).collect();
        let padding = Tensor::<4>::from_data(TensorData::new(padding, [batch, 1, 1, sequence]), &Device::flex());
        let [queries, keys, values] = inputs.clone();
        let expected = attention(queries, keys, values, whole + padding, gain.clone(), 0.3);
        let got = attention_by_position(inputs, &positions, gain, Sequence { grid, seen, scale: 0.3 });
        let off = furthest(got, expected);
        assert!(off < 1e-5, "{batch} {grid} {tokens}: {off}");
    }
}

#[test]
fn attention_agrees_with_its_definition_also_on_slices_of_a_wider_product() {
    for (seed, [batch, biases, heads, from, to, head]) in
        [[1, 1, 2, 5, 7, 8], [2, 1, 3, 97, 130, 16], [2, 2, 4, 200, 200, 64]].into_iter().enumerate()
    {
        let seed = seed as u64 * 7 + 100;
        let width = heads * head;
        let queries = random([batch, from, width], seed);
        let both = random([batch, to, 2 * width], seed + 1);
        let (keys, values) = (both.clone().slice_dim(2, 0..width), both.slice_dim(2, width..2 * width));
        let bias = random([biases, heads, from, to], seed + 2);
        let gain = random([heads], seed + 3);
        let split = |states: Tensor<3>| {
            let [batch, tokens, _] = states.dims();
            states.reshape([batch, tokens, heads, head]).swap_dims(1, 2)
        };
        let logits = split(queries.clone()).matmul(split(keys.clone()).transpose()) * 0.3 + bias.clone();
        let expected = burn::tensor::activation::softmax(logits, 3).matmul(split(values.clone()))
            * gain.clone().reshape([1, heads, 1, 1]);
        let expected = expected.swap_dims(1, 2).reshape([batch, from, width]);
        let off = furthest(attention(queries, keys, values, bias, gain, 0.3), expected);
        assert!(off < 1e-5, "{batch} {from} {to}: {off}");
    }
}

#[test]
fn every_side_that_a_configuration_may_ask_for_is_gathered() {
    let (weight, bias) = (random([64, 3, 7, 7], 1), random([64], 2));
    let geometry = Geometry { kernel: 7, stride: 2, relu: false, winograd: false };
    for side in (1..=200).chain([478, 482]) {
        let images = random([1, 3, side, side], side as u64);
        let result = convolution(images, floats(&weight), bias.clone(), None, geometry);
        assert_eq!(result.dims(), [1, 64, side.div_ceil(2), side.div_ceil(2)]);
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused_before_anything_is_read() {
    let refused = |run: &dyn Fn()| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).expect_err("went through");
    };
    let image = || random([1, 3, 8, 8], 1);
    let plain = Geometry { kernel: 3, stride: 1, relu: false, winograd: false };
    for (weight, geometry) in [
        ([2, 3, 1, 1], plain),
        ([36, 2, 3, 1], Geometry { winograd: true, stride: 2, ..plain }),
        ([2, 3, 2, 2], Geometry { kernel: 2, ..plain }),
    ] {
        refused(&|| drop(convolution(image(), floats(&random(weight, 2)), random([2], 3), None, geometry)));
    }
    let states = |tokens, width| random([1, tokens, width], 4);
    for (width, heads, to, from) in [(10, 3, 4, 4), (12, 3, 5, 4), (12, 3, 4, 5)] {
        let bias = random([1, heads, from, to], 5);
        refused(&|| {
            let (q, k, v) = (states(4, width), states(4, width), states(4, width));
            drop(attention(q, k, v, bias.clone(), random([heads], 6), 1.0));
        });
    }
    refused(&|| drop(linear(states(4, 6), floats(&random([4, 6], 7)), random([5], 8), Activation::None)));
}

#[test]
fn pooling_agrees_with_burns_own() {
    for shape in [[1, 2, 1, 1], [2, 3, 7, 10], [1, 5, 240, 33]] {
        let images = random(shape, 5);
        let options = MaxPoolOptions::new([3, 3]).with_stride([2, 2]).with_padding([1, 1]);
        assert_eq!(furthest(max_pool(images.clone()), max_pool2d(images, options)), 0.0, "{shape:?}");
    }
}

#[test]
fn gelu_agrees_with_burns_own() {
    let states = random([2, 37, 291], 6) * 4.0;
    assert!(furthest(gelu(states.clone()), burns_gelu(states)) < 1e-6);
}

#[test]
fn linear_agrees_with_a_product() {
    for (batch, tokens, inputs, outputs) in [(1, 1, 3, 5), (2, 31, 40, 24), (1, 130, 64, 256)] {
        let states = random([batch, tokens, inputs], 7);
        let (weight, bias) = (random([inputs, outputs], 8), random([outputs], 9));
        let expected = states.clone().matmul(weight.clone().unsqueeze()) + bias.clone().unsqueeze();
        let got = linear(states.clone(), floats(&weight), bias.clone(), Activation::None);
        assert!(furthest(got, expected.clone()) < 1e-5);
        assert!(furthest(linear(states, floats(&weight), bias, Activation::Gelu), burns_gelu(expected)) < 1e-5);
    }
}

#[test]
fn what_is_no_number_stays_none() {
    let nan = Tensor::<3>::from_data(TensorData::new(vec![f32::NAN; 64], [1, 4, 16]), &Device::flex());
    let bias = Tensor::zeros([1, 2, 4, 4], &Device::flex());
    let gain = Tensor::ones([2], &Device::flex());
    let attended: Vec<f32> = attention(nan.clone(), nan.clone(), nan, bias, gain, 1.0).try_into_vec_as().unwrap();
    assert!(attended.iter().all(|value| value.is_nan()));
    let image = Tensor::<4>::from_data(TensorData::new(vec![f32::NAN; 64], [1, 1, 8, 8]), &Device::flex());
    let geometry = Geometry { kernel: 1, stride: 1, relu: true, winograd: false };
    let ones = (Tensor::ones([1, 1, 1, 1], &Device::flex()), Tensor::zeros([1], &Device::flex()));
    let result: Vec<f32> =
        convolution(image, Weight::Floats(ones.0), ones.1, None, geometry).try_into_vec_as().unwrap();
    assert!(result.iter().all(|value| value.is_nan()), "ReLU must not hide it");
}
