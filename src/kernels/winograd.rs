//! 3×3 convolutions by Winograd's F(4×4, 3×3): a quarter of the multiplications, for sums before and after.
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), section 4.3. Of each 6×6 patch
//! d of an image, V = Bᵀ·d·B; of each filter g, U = G·g·Gᵀ, once; the 4×4 results are Aᵀ·(U ⊙ V)·A, summed over
//! the inputs, which is 36 matrix products.

use rayon::prelude::*;

use super::{
    convolution::{Filter, Images},
    elementwise::vectorized,
    product::{Matrix, Shared, Threads, Tile},
};

/// Side of what a tile reads, and of what it gives.
const PATCH: usize = 6;
const SIDE: usize = 4;
/// Products per tile.
pub const TILES: usize = PATCH * PATCH;

/// Tiles in a block: their sums for 64 inputs are half a megabyte, within a core's second cache.
const BLOCK_MAX: usize = 64;
const BLOCK_MIN: usize = 16;

/// Filters that are prepared together, one in each lane of a vector.
const LANES: usize = 16;

/// A filter `[outputs, inputs, 3, 3]` as `[36, outputs, inputs]`. Computed in 64 bits.
pub fn prepared(weight: &[f32], outputs: usize, inputs: usize) -> Vec<f32> {
    const G: [[f64; 3]; PATCH] = [
        [1.0 / 4.0, 0.0, 0.0],
        [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
        [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
        [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
        [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
        [0.0, 0.0, 1.0],
    ];
    let filters = outputs * inputs;
    assert_eq!(weight.len(), filters * 9, "a 3×3 filter for every input and output");
    let mut prepared = vec![0.0; TILES * filters];
    for (block, filter) in weight.chunks(LANES * 9).enumerate() {
        let (first, count) = (block * LANES, filter.len() / 9);
        vectorized(
            #[inline(always)]
            || {
                let mut g = [[0.0_f64; LANES]; 9];
                for (lane, filter) in filter.chunks_exact(9).enumerate() {
                    for (value, lanes) in filter.iter().zip(&mut g) {
                        lanes[lane] = f64::from(*value);
                    }
                }
                for (row, down) in G.iter().enumerate() {
                    // Row `row` of G·g, then times Gᵀ.
                    let mut half = [[0.0_f64; LANES]; 3];
                    for (column, half) in half.iter_mut().enumerate() {
                        for lane in 0..LANES {
                            half[lane] = down[0] * g[column][lane]
                                + down[1] * g[3 + column][lane]
                                + down[2] * g[6 + column][lane];
                        }
                    }
                    for (column, across) in G.iter().enumerate() {
                        let mut lanes = [0.0_f32; LANES];
                        for lane in 0..LANES {
                            let sum = half[0][lane] * across[0] + half[1][lane] * across[1] + half[2][lane] * across[2];
                            lanes[lane] = sum as f32;
                        }
                        let start = (row * PATCH + column) * filters + first;
                        prepared[start..start + count].copy_from_slice(&lanes[..count]);
                    }
                }
            },
        );
    }
    prepared
}

/// How an image is divided.
struct Grid {
    /// Tiles in a row of tiles.
    across: usize,
    /// Columns of a line with the deinterleaved values of one row of patches.
    quarter: usize,
}

#[derive(Default)]
struct Scratch {
    /// `[36, inputs, block]`
    sums: Vec<f32>,
    /// `[36, outputs, block]`
    products: Vec<f32>,
    /// Six lines of an image row each, and four quarters of one.
    lines: Vec<f32>,
}

pub(super) fn run(images: &Images<'_>, weight: &[f32], filter: &Filter<'_>, shared: &Shared<'_>) {
    let (inputs, outputs) = (images.inputs, filter.bias.len());
    let area = images.height * images.width;
    let count = shared.len() / (outputs * area).max(1);
    let across = images.width.div_ceil(SIDE);
    let tiles = across * images.height.div_ceil(SIDE);
    let share = (count * tiles).div_ceil(rayon::current_num_threads().max(1));
    let block = share.clamp(BLOCK_MIN, BLOCK_MAX).next_multiple_of(BLOCK_MIN);
    let grid = Grid { across, quarter: across + 1 };
    let blocks = tiles.div_ceil(block);
    (0..count * blocks).into_par_iter().for_each_init(Scratch::default, |scratch, index| {
        let (image, first) = (index / blocks, index % blocks * block);
        let here = first..(first + block).min(tiles);
        scratch.sums.resize(TILES * inputs * block, 0.0);
        scratch.products.resize(TILES * outputs * block, 0.0);
        scratch.lines.resize((PATCH + 1) * grid.quarter * SIDE, 0.0);
        for input in 0..inputs {
            let plane = &images.values[(image * inputs + input) * area..][..area];
            let sums = &mut scratch.sums[input * block..];
            patches(plane, images, &grid, here.clone(), inputs * block, sums, &mut scratch.lines);
        }
        for product in 0..TILES {
            let lhs =
                Matrix { values: weight, start: product * outputs * inputs, row_stride: inputs, column_stride: 1 };
            let rhs =
                Matrix { values: &scratch.sums, start: product * inputs * block, row_stride: block, column_stride: 1 };
            let to = &mut scratch.products[product * outputs * block..][..outputs * block];
            Tile::of(to, [outputs, block]).product(lhs, rhs, inputs, 1.0, false, Threads::One);
        }
        for output in 0..outputs {
            let products = &scratch.products[output * block..];
            let start = (image * outputs + output) * area;
            let finish = Finish { bias: filter.bias[output], relu: filter.geometry.relu };
            results(products, outputs * block, images, &grid, here.clone(), &finish, |y, x, values| {
                // SAFETY: tiles do not overlap, and each belongs to one block.
                #[allow(unsafe_code, reason = "every block writes tiles of its own")]
                let mut row = unsafe { shared.tile(start + y * images.width + x, [1, values.len()], values.len()) };
                row.write(0, values);
            });
        }
    });
}

/// Runs of tiles that lie in one row of tiles: its number, the first tile's place in it, and in the block.
fn runs(grid: &Grid, tiles: std::ops::Range<usize>) -> impl Iterator<Item = (usize, std::ops::Range<usize>, usize)> {
    let (across, first) = (grid.across, tiles.start);
    let mut at = tiles.start;
    std::iter::from_fn(move || {
        (at < tiles.end).then(|| {
            let (row, column) = (at / across, at % across);
            let length = (across - column).min(tiles.end - at);
            let run = (row, column..column + length, at - first);
            at += length;
            run
        })
    })
}

/// Bᵀ·d·B of one input's patches; product p of tile t goes to `sums[p * stride + t]`.
fn patches(
    plane: &[f32],
    images: &Images<'_>,
    grid: &Grid,
    tiles: std::ops::Range<usize>,
    stride: usize,
    sums: &mut [f32],
    lines: &mut [f32],
) {
    let width = grid.quarter * SIDE;
    let (lines, quarters) = lines.split_at_mut(PATCH * width);
    for (row, columns, at) in runs(grid, tiles) {
        // Values from one left of the first tile on: line i holds row i of Bᵀ·d for every column.
        let begin = columns.start * SIDE;
        let length = (columns.len() * SIDE + 2).next_multiple_of(SIDE);
        vertical(plane, images, row * SIDE, [begin, length], width, lines);
        for (line, values) in lines.chunks_exact(width).enumerate() {
            let quarter = length / SIDE;
            vectorized(
                #[inline(always)]
                || {
                    let (q0, rest) = quarters.split_at_mut(quarter);
                    let (q1, rest) = rest.split_at_mut(quarter);
                    let (q2, rest) = rest.split_at_mut(quarter);
                    let q3 = &mut rest[..quarter];
                    for (step, four) in values[..length].chunks_exact(SIDE).enumerate() {
                        (q0[step], q1[step], q2[step], q3[step]) = (four[0], four[1], four[2], four[3]);
                    }
                    horizontal([q0, q1, q2, q3], columns.len(), stride, &mut sums[line * PATCH * stride + at..]);
                },
            );
        }
    }
}

/// Bᵀ·d along the columns: six rows of the image in, six lines out, zeros outside of the image.
fn vertical(
    plane: &[f32],
    images: &Images<'_>,
    top: usize,
    [begin, length]: [usize; 2],
    width: usize,
    lines: &mut [f32],
) {
    // The row above the tile is one up, the column before it one left.
    let inside = images.width - begin.saturating_sub(1).min(images.width);
    let shift = usize::from(begin == 0);
    let take = inside.min(length - shift);
    lines.fill(0.0);
    let (l0, rest) = lines.split_at_mut(width);
    let (l1, rest) = rest.split_at_mut(width);
    let (l2, rest) = rest.split_at_mut(width);
    let (l3, rest) = rest.split_at_mut(width);
    let (l4, l5) = rest.split_at_mut(width);
    let zeros = [];
    let source: [&[f32]; PATCH] = std::array::from_fn(|row| match (top + row).checked_sub(1) {
        Some(y) if y < images.height => &plane[y * images.width + begin.saturating_sub(1)..][..take],
        _ => zeros.as_slice(),
    });
    vectorized(
        #[inline(always)]
        || {
            // One source row at a time: those outside of the image are empty and add nothing.
            let add = |line: &mut [f32], factor: f32, row: usize| {
                for (value, source) in line[shift..].iter_mut().zip(source[row]) {
                    *value += factor * source;
                }
            };
            for (row, factor) in [(0, 4.0), (2, -5.0), (4, 1.0)] {
                add(l0, factor, row);
            }
            for (row, factor) in [(1, -4.0), (2, -4.0), (3, 1.0), (4, 1.0)] {
                add(l1, factor, row);
            }
            for (row, factor) in [(1, 4.0), (2, -4.0), (3, -1.0), (4, 1.0)] {
                add(l2, factor, row);
            }
            for (row, factor) in [(1, -2.0), (2, -1.0), (3, 2.0), (4, 1.0)] {
                add(l3, factor, row);
            }
            for (row, factor) in [(1, 2.0), (2, -1.0), (3, -2.0), (4, 1.0)] {
                add(l4, factor, row);
            }
            for (row, factor) in [(1, 4.0), (3, -5.0), (5, 1.0)] {
                add(l5, factor, row);
            }
        },
    );
}

/// The same along the rows, from a line's values at 4t, 4t + 1, 4t + 2 and 4t + 3.
#[inline(always)]
fn horizontal([q0, q1, q2, q3]: [&[f32]; SIDE], tiles: usize, stride: usize, sums: &mut [f32]) {
    let (s0, rest) = sums.split_at_mut(stride);
    let (s1, rest) = rest.split_at_mut(stride);
    let (s2, rest) = rest.split_at_mut(stride);
    let (s3, rest) = rest.split_at_mut(stride);
    let (s4, s5) = rest.split_at_mut(stride);
    let (s0, s1, s2) = (&mut s0[..tiles], &mut s1[..tiles], &mut s2[..tiles]);
    let (s3, s4, s5) = (&mut s3[..tiles], &mut s4[..tiles], &mut s5[..tiles]);
    let (d0, d1, d2, d3) = (&q0[..tiles], &q1[..tiles], &q2[..tiles], &q3[..tiles]);
    let (d4, d5) = (&q0[1..=tiles], &q1[1..=tiles]);
    for t in 0..tiles {
        s0[t] = 4.0 * d0[t] - 5.0 * d2[t] + d4[t];
        s1[t] = d4[t] + d3[t] - 4.0 * (d1[t] + d2[t]);
        s2[t] = d4[t] - d3[t] + 4.0 * (d1[t] - d2[t]);
        s3[t] = d4[t] - d2[t] + 2.0 * (d3[t] - d1[t]);
        s4[t] = d4[t] - d2[t] - 2.0 * (d3[t] - d1[t]);
        s5[t] = 4.0 * d1[t] - 5.0 * d3[t] + d5[t];
    }
}

struct Finish {
    bias: f32,
    relu: bool,
}

/// Aᵀ·m·A of one output's products, given row by row: `write` takes a row, its first column and its values.
fn results(
    products: &[f32],
    stride: usize,
    images: &Images<'_>,
    grid: &Grid,
    tiles: std::ops::Range<usize>,
    finish: &Finish,
    mut write: impl FnMut(usize, usize, &[f32]),
) {
    for (row, columns, at) in runs(grid, tiles) {
        let length = columns.len();
        let mut rows = [[0.0_f32; BLOCK_MAX * SIDE]; SIDE];
        vectorized(
            #[inline(always)]
            || {
                let mut halves = [[[0.0_f32; BLOCK_MAX]; SIDE]; PATCH];
                for (line, half) in halves.iter_mut().enumerate() {
                    let product = |column: usize| &products[(line * PATCH + column) * stride + at..][..length];
                    let m: [&[f32]; PATCH] = std::array::from_fn(product);
                    let [h0, h1, h2, h3] = half;
                    for t in 0..length {
                        let (near, apart) = (m[1][t] + m[2][t], m[1][t] - m[2][t]);
                        let (far, across) = (m[3][t] + m[4][t], m[3][t] - m[4][t]);
                        h0[t] = m[0][t] + near + far;
                        h1[t] = apart + 2.0 * across;
                        h2[t] = near + 4.0 * far;
                        h3[t] = apart + 8.0 * across + m[5][t];
                    }
                }
                let floor = if finish.relu { 0.0 } else { f32::NEG_INFINITY };
                let end = |value: f32| {
                    let value = value + finish.bias;
                    if value < floor { floor } else { value }
                };
                let [r0, r1, r2, r3] = &mut rows;
                for column in 0..SIDE {
                    let m: [&[f32; BLOCK_MAX]; PATCH] = std::array::from_fn(|line| &halves[line][column]);
                    for t in 0..length {
                        let (near, apart) = (m[1][t] + m[2][t], m[1][t] - m[2][t]);
                        let (far, across) = (m[3][t] + m[4][t], m[3][t] - m[4][t]);
                        r0[t * SIDE + column] = end(m[0][t] + near + far);
                        r1[t * SIDE + column] = end(apart + 2.0 * across);
                        r2[t * SIDE + column] = end(near + 4.0 * far);
                        r3[t * SIDE + column] = end(apart + 8.0 * across + m[5][t]);
                    }
                }
            },
        );
        let (x, y) = (columns.start * SIDE, row * SIDE);
        let wide = (length * SIDE).min(images.width - x);
        for (down, values) in rows.iter().enumerate().take(images.height.saturating_sub(y)) {
            write(y + down, x, &values[..wide]);
        }
    }
}
