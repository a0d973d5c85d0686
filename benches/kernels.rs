//! Our CPU kernels beside burn's own operations on the same tensors, on the shapes of OFA's tiny and base sizes
//! at 480x480.
//!
//! cargo bench --bench kernels

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark ends where it cannot go on")]

use std::sync::Arc;

use burn::tensor::{
    Device, Tensor, TensorData,
    activation::{gelu, relu},
    module::{attention, conv2d},
    ops::{AttentionModuleOptions, ConvOptions},
};
use divan::{Bencher, black_box, counter::ItemsCount};
use ofa_stream::kernels::{
    self, Activation, Geometry, QuantizedFilter, QuantizedProjection, WINOGRAD_TILES, Weight, winograd_weights,
};

fn main() {
    divan::main();
}

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| ((i * 7919) % 2003) as f32 / 1000.0 - 1.0).collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

/// Inputs, outputs, side, kernel, stride.
const CONVOLUTIONS: [[usize; 5]; 9] = [
    [3, 64, 480, 7, 2],
    [64, 64, 120, 1, 1],
    [64, 64, 120, 3, 1],
    [64, 256, 120, 1, 1],
    [256, 64, 120, 1, 1],
    [128, 128, 120, 3, 2],
    [128, 128, 60, 3, 1],
    [256, 256, 30, 3, 1],
    [1024, 256, 30, 1, 1],
];

/// Operations of the plain algorithm, so that rates compare.
fn flop([inputs, outputs, side, kernel, stride]: [usize; 5]) -> ItemsCount {
    ItemsCount::new(2 * inputs * outputs * (side / stride).pow(2) * kernel * kernel)
}

#[divan::bench(args = CONVOLUTIONS, sample_count = 30, sample_size = 1)]
fn convolution_ours(bencher: Bencher<'_, '_>, shape: [usize; 5]) {
    let [inputs, outputs, side, kernel, stride] = shape;
    let (images, bias) = (random([1, inputs, side, side]), random([outputs]));
    let winograd = kernel == 3 && stride == 1;
    let weight = random([outputs, inputs, kernel, kernel]);
    let weight = match winograd {
        true => {
            let values = winograd_weights(&weight.try_into_vec_as().unwrap(), outputs, inputs);
            Tensor::from_data(TensorData::new(values, [WINOGRAD_TILES, outputs, inputs, 1]), &Device::flex())
        }
        false => weight,
    };
    let geometry = Geometry { kernel, stride, relu: true, winograd };
    bencher.counter(flop(shape)).bench_local(|| {
        black_box(kernels::convolution(images.clone(), Weight::Floats(weight.clone()), bias.clone(), None, geometry))
    });
}

/// Also of the shapes that a network keeps in 32 bits, for Winograd's algorithm.
#[divan::bench(args = CONVOLUTIONS, sample_count = 30, sample_size = 1)]
fn convolution_ours_in_8_bits(bencher: Bencher<'_, '_>, shape: [usize; 5]) {
    let [inputs, outputs, side, kernel, stride] = shape;
    let (images, bias) = (random([1, inputs, side, side]), random([outputs]));
    let depth = inputs * kernel * kernel;
    let weight = random([outputs, depth]).try_into_vec_as::<f32>().unwrap();
    let Some(filter) = QuantizedFilter::new(&weight, depth).map(Arc::new) else {
        return;
    };
    let geometry = Geometry { kernel, stride, relu: true, winograd: false };
    bencher.counter(flop(shape)).bench_local(|| {
        let filter = Weight::Quantized(filter.clone());
        black_box(kernels::convolution(images.clone(), filter, bias.clone(), None, geometry))
    });
}

#[divan::bench(args = CONVOLUTIONS, sample_count = 30, sample_size = 1)]
fn convolution_of_burn(bencher: Bencher<'_, '_>, shape: [usize; 5]) {
    let [inputs, outputs, side, kernel, stride] = shape;
    let (images, bias) = (random([1, inputs, side, side]), random([outputs]));
    let weight = random([outputs, inputs, kernel, kernel]);
    let options = || ConvOptions::new([stride; 2], [kernel / 2; 2], [1, 1], 1);
    bencher
        .counter(flop(shape))
        .bench_local(|| black_box(relu(conv2d(images.clone(), weight.clone(), Some(bias.clone()), options()))));
}

/// Heads of 64, tokens.
const ATTENTIONS: [[usize; 2]; 2] = [[4, 928], [12, 928]];

#[divan::bench(args = ATTENTIONS, sample_count = 30, sample_size = 1)]
fn attention_ours(bencher: Bencher<'_, '_>, [heads, tokens]: [usize; 2]) {
    let states = random([1, tokens, heads * 64]);
    let (bias, gain) = (random([1, heads, tokens, tokens]), random([heads]));
    bencher.counter(ItemsCount::new(4 * heads * 64 * tokens * tokens)).bench_local(|| {
        let [q, k, v] = [0; 3].map(|_| states.clone());
        black_box(kernels::attention(q, k, v, bias.clone(), gain.clone(), 0.1))
    });
}

#[divan::bench(args = ATTENTIONS, sample_count = 30, sample_size = 1)]
fn attention_of_burn(bencher: Bencher<'_, '_>, [heads, tokens]: [usize; 2]) {
    let states = random([1, tokens, heads * 64]);
    let (bias, gain) = (random([1, heads, tokens, tokens]), random([heads]));
    bencher.counter(ItemsCount::new(4 * heads * 64 * tokens * tokens)).bench_local(|| {
        let [q, k, v] = [0; 3].map(|_| states.clone().reshape([1, tokens, heads, 64]).swap_dims(1, 2));
        let options = AttentionModuleOptions { scale: Some(0.1), softcap: None, is_causal: false };
        let attended = attention(q, k, v, None, Some(bias.clone()), options) * gain.clone().reshape([1, heads, 1, 1]);
        black_box(attended.swap_dims(1, 2).reshape([1, tokens, heads * 64]))
    });
}

/// Tokens, inputs, outputs; the wider ones through GELU.
const PROJECTIONS: [[usize; 3]; 4] = [[928, 256, 1024], [928, 768, 768], [928, 768, 3072], [928, 3072, 768]];

#[divan::bench(args = PROJECTIONS, sample_count = 30, sample_size = 1)]
fn linear_ours(bencher: Bencher<'_, '_>, [tokens, inputs, outputs]: [usize; 3]) {
    let (states, weight, bias) = (random([1, tokens, inputs]), random([inputs, outputs]), random([outputs]));
    let activation = if outputs > inputs { Activation::Gelu } else { Activation::None };
    bencher.counter(ItemsCount::new(2 * tokens * inputs * outputs)).bench_local(|| {
        black_box(kernels::linear(states.clone(), Weight::Floats(weight.clone()), bias.clone(), activation))
    });
}

#[divan::bench(args = PROJECTIONS, sample_count = 30, sample_size = 1)]
fn linear_ours_in_8_bits(bencher: Bencher<'_, '_>, [tokens, inputs, outputs]: [usize; 3]) {
    if !kernels::has_integer_products() {
        return;
    }
    let (states, weight, bias) = (random([1, tokens, inputs]), random([outputs, inputs]), random([outputs]));
    let weight = Arc::new(QuantizedProjection::new(&weight.try_into_vec_as::<f32>().unwrap(), inputs));
    let activation = if outputs > inputs { Activation::Gelu } else { Activation::None };
    bencher.counter(ItemsCount::new(2 * tokens * inputs * outputs)).bench_local(|| {
        black_box(kernels::linear(states.clone(), Weight::Quantized(weight.clone()), bias.clone(), activation))
    });
}

#[divan::bench(args = PROJECTIONS, sample_count = 30, sample_size = 1)]
fn linear_of_burn(bencher: Bencher<'_, '_>, [tokens, inputs, outputs]: [usize; 3]) {
    let (states, weight, bias) = (random([1, tokens, inputs]), random([inputs, outputs]), random([outputs]));
    bencher.counter(ItemsCount::new(2 * tokens * inputs * outputs)).bench_local(|| {
        let result = states.clone().matmul(weight.clone().unsqueeze()) + bias.clone().unsqueeze();
        black_box(if outputs > inputs { gelu(result) } else { result })
    });
}
