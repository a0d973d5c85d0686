//! Convolutions as products, a tile of the result at a time, with bias, shortcut and ReLU while the tile is
//! in the cache.

use rayon::prelude::*;

use super::{
    dot_product,
    elementwise::{range, vectorized, wider},
    product::{Matrix, Shared, Threads, filled},
    quantized::{QuantizedFilter, Rounding, WORD},
    winograd,
};

/// What a convolution does beside multiplying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Side of the square filter, an odd number.
    pub kernel: usize,
    /// Step in both directions. The padding is half the filter's side.
    pub stride: usize,
    /// Whether negative results become zero.
    pub relu: bool,
    /// Whether the weight was prepared for Winograd's algorithm: for a side of 3, a step of 1, and nothing
    /// around the result.
    pub winograd: bool,
}

/// Images `[count, inputs, height, width]`.
pub(super) struct Images<'i> {
    pub(super) values: &'i [f32],
    pub(super) inputs: usize,
    pub(super) height: usize,
    pub(super) width: usize,
}

/// A filter and what follows it.
pub(super) struct Filter<'f> {
    pub(super) weight: Weight<'f>,
    pub(super) bias: &'f [f32],
    pub(super) geometry: Geometry,
}

/// What images are multiplied with.
#[derive(Clone, Copy)]
pub(super) enum Weight<'f> {
    /// `[outputs, inputs * kernel²]`, or what Winograd's algorithm wants of it.
    Floats(&'f [f32]),
    Quantized(&'f QuantizedFilter),
}

/// Values of a tile's result: with a few inputs' worth of columns they stay within a core's second cache.
const TILE_VALUES: usize = 64 << 10;
const COLUMNS_MIN: usize = 64;
const COLUMNS_MAX: usize = 1024;

/// `[count, outputs, height / stride, width / stride]`.
#[allow(unsafe_code, reason = "every image and column of the result is written by one index")]
pub(super) fn run(images: &Images<'_>, filter: &Filter<'_>, around: Option<&[f32]>) -> Vec<f32> {
    let area: usize = [images.height, images.width].map(|side| side.div_ceil(filter.geometry.stride)).iter().product();
    let count = images.values.len() / (images.inputs * images.height * images.width).max(1);
    // SAFETY: both ways give every value of every image to exactly one tile, and write all of it.
    unsafe {
        filled(count * filter.bias.len() * area, |shared| match filter.weight {
            Weight::Floats(weight) if filter.geometry.winograd => winograd::run(images, weight, filter, shared),
            _ => products(images, filter, around, shared),
        })
    }
}

fn products(images: &Images<'_>, filter: &Filter<'_>, around: Option<&[f32]>, shared: &Shared<'_>) {
    let Geometry { kernel, stride, relu, .. } = filter.geometry;
    let outputs = filter.bias.len();
    let [below, right] = [images.height, images.width].map(|side| side.div_ceil(stride));
    let (area, depth) = (below * right, images.inputs * kernel * kernel);
    let columns = (TILE_VALUES / outputs.max(depth)).clamp(COLUMNS_MIN, COLUMNS_MAX).next_multiple_of(LANES);
    let tiles = area.div_ceil(columns);
    let count = shared.len() / (outputs * area).max(1);
    (0..count * tiles).into_par_iter().for_each_init(<(Vec<f32>, Rounded)>::default, |(patches, rounded), index| {
        let (image, first) = (index / tiles, index % tiles * columns);
        let columns = columns.min(area - first);
        let start = image * outputs * area + first;
        // SAFETY: image and columns are this index's alone.
        #[allow(unsafe_code, reason = "every index writes columns of its own")]
        let mut tile = unsafe { shared.tile(start, [outputs, columns], area) };
        let rhs = if kernel == 1 && stride == 1 {
            // The image is the matrix already.
            let start = image * images.inputs * area + first;
            Matrix { values: images.values, start, row_stride: area, column_stride: 1 }
        } else {
            patches.resize(depth * columns, 0.0);
            gather(images, image, filter.geometry, [first, columns, right], patches);
            Matrix { values: patches, start: 0, row_stride: columns, column_stride: 1 }
        };
        let around = |output: usize| around.map(|around| &around[start + output * area..][..columns]);
        match filter.weight {
            Weight::Floats(weight) => {
                let lhs = Matrix { values: weight, start: 0, row_stride: depth, column_stride: 1 };
                tile.product(lhs, rhs, depth, 1.0, false, Threads::One);
                for output in 0..outputs {
                    finish(tile.row(output), filter.bias[output], around(output), relu);
                }
            }
            Weight::Quantized(weight) => {
                rounded.multiply(weight, &rhs, columns);
                for (output, (scale, whole)) in weight.outputs().enumerate() {
                    let row = rounded.row(output, scale, whole);
                    finish(row, filter.bias[output], around(output), relu);
                    tile.write(output, row);
                }
            }
        }
    });
}

/// The patches of a tile in 8 bits, and what their product comes to.
#[derive(Default)]
struct Rounded {
    columns: usize,
    rounding: Rounding,
    words: Vec<u32>,
    sums: Vec<i32>,
    row: Vec<f32>,
}

impl Rounded {
    /// Multiplies a weight with patches `[depth, columns]`, rounded over the range of all of them.
    fn multiply(&mut self, weight: &QuantizedFilter, patches: &Matrix<'_>, columns: usize) {
        let (depth, padded) = (weight.depth(), columns.next_multiple_of(dot_product::LANES));
        self.columns = columns;
        self.words.resize(depth.div_ceil(WORD) * padded, 0);
        self.rounding = vectorized(
            // Loops and no iterators of closures: these would be functions of their own, compiled for the oldest CPU.
            #[inline(always)]
            || {
                let mut limits = [0.0; 2];
                for at in 0..depth {
                    limits = wider(limits, range(patches.row(at, columns)));
                }
                let rounding = Rounding::between(limits);
                let mut group = 0;
                for words in self.words.chunks_exact_mut(padded) {
                    let mut rows = [None; WORD];
                    for (at, slot) in rows.iter_mut().enumerate() {
                        if group + at < depth {
                            *slot = Some(patches.row(group + at, columns));
                        }
                    }
                    rounding.words(rows, &mut words[..columns]);
                    group += WORD;
                }
                rounding
            },
        );
        self.sums.resize(weight.outputs().len() * padded, 0);
        weight.products(&self.words, padded, &mut self.sums);
    }

    /// A row of the product, given its scale and the sum of its whole weights.
    fn row(&mut self, output: usize, scale: f32, whole: i32) -> &mut [f32] {
        let Rounding { scale: of_patches, zero } = self.rounding;
        let (scale, nought) = (scale * of_patches, i32::from(zero) * whole);
        self.row.resize(self.columns, 0.0);
        let sums = &self.sums[output * self.columns.next_multiple_of(dot_product::LANES)..][..self.columns];
        vectorized(
            #[inline(always)]
            || self.row.iter_mut().zip(sums).for_each(|(value, sum)| *value = (sum - nought) as f32 * scale),
        );
        &mut self.row
    }
}

const LANES: usize = 16;

/// Adds bias and shortcut, and ends with ReLU.
fn finish(row: &mut [f32], bias: f32, around: Option<&[f32]>, relu: bool) {
    vectorized(
        #[inline(always)]
        || {
            let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
            match around {
                // Written so that a value that is no number stays none.
                Some(around) => row.iter_mut().zip(around).for_each(|(value, around)| {
                    let sum = *value + bias + around;
                    *value = if sum < floor { floor } else { sum };
                }),
                None => row.iter_mut().for_each(|value| {
                    let sum = *value + bias;
                    *value = if sum < floor { floor } else { sum };
                }),
            }
        },
    );
}

/// The values under the filter for each of some positions of the result, `[inputs * kernel², columns]`.
fn gather(images: &Images<'_>, image: usize, geometry: Geometry, [first, columns, right]: [usize; 3], to: &mut [f32]) {
    let Geometry { kernel, stride, .. } = geometry;
    let (height, width, padding) = (images.height as isize, images.width as isize, (kernel / 2) as isize);
    let area = images.height * images.width;
    for (row, to) in to.chunks_exact_mut(columns).enumerate() {
        let (input, down, across) = (row / (kernel * kernel), row / kernel % kernel, row % kernel);
        let plane = &images.values[(image * images.inputs + input) * area..][..area];
        let mut at = 0;
        while at < columns {
            // One row of the result, or the part of it that lies in these columns.
            let (y, x) = ((first + at) / right, (first + at) % right);
            let length = (right - x).min(columns - at);
            let to = &mut to[at..at + length];
            at += length;
            let source_y = (y * stride + down) as isize - padding;
            if source_y < 0 || source_y >= height {
                to.fill(0.0);
                continue;
            }
            let source = &plane[source_y as usize * images.width..][..images.width];
            // Zeros where the filter hangs over the left or right edge, values between.
            let begin = (x * stride + across) as isize - padding;
            let before = (begin.min(0).unsigned_abs().div_ceil(stride)).min(length);
            let inside = (width - begin).max(0).unsigned_abs().div_ceil(stride).min(length);
            if before >= inside {
                to.fill(0.0);
                continue;
            }
            to[..before].fill(0.0);
            to[inside..].fill(0.0);
            let from = (begin + (before * stride) as isize).unsigned_abs();
            match stride {
                1 => to[before..inside].copy_from_slice(&source[from..from + inside - before]),
                2 => vectorized(
                    #[inline(always)]
                    || every_second(&source[from..], &mut to[before..inside]),
                ),
                _ => {
                    for (value, source) in to[before..inside].iter_mut().zip(source[from..].iter().step_by(stride)) {
                        *value = *source;
                    }
                }
            }
        }
    }
}

/// What a step of two leaves, in whole vectors.
#[inline(always)]
fn every_second(values: &[f32], to: &mut [f32]) {
    let (pairs, rest) = values.as_chunks::<2>();
    for (to, pair) in to.iter_mut().zip(pairs) {
        *to = pair[0];
    }
    // The last of a row may have nothing behind it.
    if let Some(last) = to.get_mut(pairs.len()) {
        *last = rest[0];
    }
}
