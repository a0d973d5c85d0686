//! Attention with a bias, a block of queries at a time, so that its logits stay in the cache between the
//! product that makes them, the softmax, and the product that uses them.

use rayon::prelude::*;

use super::{
    elementwise::{exponentials, vectorized},
    product::{Matrix, Shared, Threads, Tile, filled},
};

/// Sides of the tensors.
pub(super) struct Shape {
    pub(super) batch: usize,
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) width: usize,
    pub(super) heads: usize,
}

/// What is added to the scaled logits.
pub(super) enum Bias<'b> {
    /// `[biases, heads, from, to]`; one bias is shared by the whole batch.
    Whole { values: &'b [f32], biases: usize },
    /// By position, for patches of an image with the tokens of a text behind them.
    Positions(Positions<'b>),
}

/// The parts of a bias by position: see [`super::Positions`].
pub(super) struct Positions<'b> {
    pub(super) absolute: &'b [f32],
    pub(super) relative: &'b [f32],
    pub(super) right: &'b [f32],
    pub(super) left: &'b [f32],
    pub(super) corner: &'b [f32],
    /// Patches in a row of the image.
    pub(super) grid: usize,
    /// Tokens of the text.
    pub(super) tokens: usize,
    /// Keys that count, per row of the batch; those behind them are padding.
    pub(super) seen: &'b [usize],
}

impl Bias<'_> {
    /// Keys that count for a row of the batch.
    fn seen(&self, row: usize, to: usize) -> usize {
        match self {
            Self::Whole { .. } => to,
            Self::Positions(positions) => positions.seen[row],
        }
    }

    /// Writes what is added to the logits of one query.
    fn write(&self, shape: &Shape, [row, head, query]: [usize; 3], logits: &mut [f32]) {
        match self {
            Self::Whole { values, biases } => {
                let first = (((row % biases) * shape.heads + head) * shape.from + query) * shape.to;
                logits.copy_from_slice(&values[first..][..logits.len()]);
            }
            Self::Positions(positions) => positions.write(head, query, logits),
        }
    }
}

impl Positions<'_> {
    fn write(&self, head: usize, query: usize, logits: &mut [f32]) {
        let Self { grid, tokens, .. } = *self;
        let (patches, span) = (grid * grid, 2 * grid - 1);
        let (image, text) = logits.split_at_mut(patches);
        if query >= patches {
            let row = head * tokens + query - patches;
            image.copy_from_slice(&self.left[row * patches..][..patches]);
            text.copy_from_slice(&self.corner[row * tokens..][..text.len()]);
            return;
        }
        text.copy_from_slice(&self.right[(head * patches + query) * tokens..][..text.len()]);
        let absolute = &self.absolute[(head * patches + query) * patches..][..patches];
        let (down, across) = (query / grid, query % grid);
        // From a key in the first row and column on; keys of one row lie side by side.
        let table = &self.relative[head * span * span + (grid - 1 - down) * span + grid - 1 - across..];
        vectorized(
            #[inline(always)]
            || {
                let rows = image.chunks_exact_mut(grid).zip(absolute.chunks_exact(grid));
                for ((logits, absolute), relative) in rows.zip(table.chunks(span)) {
                    for ((logit, absolute), relative) in logits.iter_mut().zip(absolute).zip(relative) {
                        *logit = absolute + relative;
                    }
                }
            },
        );
    }
}

/// Rows `[batch, tokens, width]` somewhere in a tensor's memory.
#[derive(Clone, Copy)]
pub(super) struct Rows<'t> {
    pub(super) values: &'t [f32],
    pub(super) start: usize,
    pub(super) batch: usize,
    pub(super) row: usize,
}

/// Queries in a block: its logits for a thousand keys are 400 kB, within a core's second cache.
const QUERIES: usize = 96;

/// `[batch, from, width]`.
#[allow(unsafe_code, reason = "every block writes queries of its own, and together they are all")]
pub(super) fn run(
    shape: &Shape,
    [queries, keys, values]: [Rows<'_>; 3],
    bias: &Bias<'_>,
    gain: &[f32],
    scale: f32,
) -> Vec<f32> {
    let Shape { batch, from, to, width, heads } = *shape;
    let head_width = width / heads;
    let blocks = from.div_ceil(QUERIES);
    let part = |rows: Rows<'_>, row: usize, head: usize, first: usize| {
        rows.start + row * rows.batch + first * rows.row + head * head_width
    };
    // Once per head rather than once per block: a product wants the keys' values side by side.
    let mut transposed = vec![0.0; batch * heads * head_width * to];
    transposed.par_chunks_mut(head_width * to).enumerate().for_each(|(index, transposed)| {
        let start = part(keys, index / heads, index % heads, 0);
        for key in 0..to {
            for (at, value) in keys.values[start + key * keys.row..][..head_width].iter().enumerate() {
                transposed[at * to + key] = *value;
            }
        }
    });
    let attend = |shared: &Shared<'_>| {
        (0..batch * heads * blocks).into_par_iter().for_each_init(
            || vec![0.0; QUERIES * to],
            |logits, index| {
                let (row, head, first) = (index / (heads * blocks), index / blocks % heads, index % blocks * QUERIES);
                let count = QUERIES.min(from - first);
                let seen = bias.seen(row, to);
                let logits = &mut logits[..count * seen];
                for (query, logits) in logits.chunks_exact_mut(seen).enumerate() {
                    bias.write(shape, [row, head, first + query], logits);
                }
                let lhs = Matrix {
                    values: queries.values,
                    start: part(queries, row, head, first),
                    row_stride: queries.row,
                    column_stride: 1,
                };
                let start = (row * heads + head) * head_width * to;
                let rhs = Matrix { values: &transposed, start, row_stride: to, column_stride: 1 };
                Tile::of(logits, [count, seen]).product(lhs, rhs, head_width, scale, true, Threads::One);
                let mut sums = [0.0; QUERIES];
                vectorized(
                    #[inline(always)]
                    || {
                        for (row, sum) in logits.chunks_exact_mut(seen).zip(&mut sums) {
                            *sum = exponentials(row);
                        }
                    },
                );
                let lhs = Matrix { values: logits, start: 0, row_stride: seen, column_stride: 1 };
                let rhs = Matrix {
                    values: values.values,
                    start: part(values, row, head, 0),
                    row_stride: values.row,
                    column_stride: 1,
                };
                // SAFETY: batch row, head and block are this index's alone.
                let mut tile = unsafe {
                    shared.tile((row * from + first) * width + head * head_width, [count, head_width], width)
                };
                tile.product(lhs, rhs, seen, 1.0, false, Threads::One);
                for (query, sum) in sums[..count].iter().enumerate() {
                    let factor = gain[head] / sum;
                    tile.row(query).iter_mut().for_each(|value| *value *= factor);
                }
            },
        );
    };
    // SAFETY: every batch row, head and query is in one block, whose product writes all of its tile.
    unsafe { filled(batch * from * width, attend) }
}
