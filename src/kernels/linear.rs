//! A product with its bias and activation.

use rayon::prelude::*;

use super::{
    elementwise::{gelu, range, vectorized},
    product::{Matrix, Shared, Threads, filled},
    quantized::{QuantizedProjection, Rounding},
};

/// What follows a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// The exact GELU.
    Gelu,
}

/// Rows that one thread takes at a time.
const ROWS: usize = 16;

/// `activation(states · weight + bias)`, for states `[rows, inputs]` and a weight `[inputs, outputs]`.
#[allow(unsafe_code, reason = "the product writes the whole result")]
pub(super) fn run(states: &[f32], inputs: usize, weight: &[f32], bias: &[f32], activation: Activation) -> Vec<f32> {
    let outputs = bias.len();
    let rows = states.len() / inputs.max(1);
    let lhs = Matrix { values: states, start: 0, row_stride: inputs, column_stride: 1 };
    let rhs = Matrix { values: weight, start: 0, row_stride: outputs, column_stride: 1 };
    // SAFETY: one tile, which is the whole result, and a product writes every value of its tile.
    let mut result = unsafe {
        filled(rows * outputs, |shared| {
            shared.tile(0, [rows, outputs], outputs).product(lhs, rhs, inputs, 1.0, false, Threads::All);
        })
    };
    result.par_chunks_mut(ROWS * outputs).for_each(|rows| {
        vectorized(
            #[inline(always)]
            || {
                for row in rows.chunks_exact_mut(outputs) {
                    match activation {
                        Activation::None => row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias),
                        Activation::Gelu => {
                            row.iter_mut().zip(bias).for_each(|(value, bias)| *value = gelu(*value + bias));
                        }
                    }
                }
            },
        );
    });
    result
}

/// Rows of a quantized product that one thread takes at a time: some tiles of what `rten-gemm` keeps in registers.
const QUANTIZED_ROWS: usize = 32;

/// As [`run`], with a quantized weight. Each row of the states is rounded over its own range, so that no other request of a
/// batch changes what comes of it.
#[allow(unsafe_code, reason = "every row is in one block, and all values of a block are written")]
pub(super) fn quantized(
    states: &[f32],
    weight: &QuantizedProjection,
    bias: &[f32],
    activation: Activation,
) -> Vec<f32> {
    let rows = states.len() / weight.inputs();
    // SAFETY: every row is in one block, and all values of a block are written.
    unsafe { filled(rows * bias.len(), |shared| blocks(states, weight, bias, activation, shared)) }
}

fn blocks(states: &[f32], weight: &QuantizedProjection, bias: &[f32], activation: Activation, shared: &Shared<'_>) {
    let (inputs, outputs) = (weight.inputs(), bias.len());
    let blocks = states.par_chunks(QUANTIZED_ROWS * inputs).enumerate();
    blocks.for_each_init(Scratch::default, |scratch, (block, states)| {
        let rows = states.len() / inputs;
        scratch.round(states, inputs);
        scratch.sums.resize(rows * outputs, 0);
        weight.products(&scratch.whole, &mut scratch.sums);
        // SAFETY: these rows are this index's alone.
        #[allow(unsafe_code, reason = "every block writes rows of its own")]
        let mut tile = unsafe { shared.tile(block * QUANTIZED_ROWS * outputs, [rows, outputs], outputs) };
        scratch.finished.resize(outputs, 0.0);
        for (row, (sums, rounding)) in scratch.sums.chunks_exact(outputs).zip(&scratch.roundings).enumerate() {
            vectorized(
                #[inline(always)]
                || {
                    let (scale, zero) = (rounding.scale, i32::from(rounding.zero));
                    let values = sums.iter().zip(weight.outputs()).zip(bias);
                    let values = values
                        .map(|((sum, (factor, whole)), bias)| (sum - zero * whole) as f32 * (scale * factor) + bias);
                    let finished = scratch.finished.iter_mut().zip(values);
                    match activation {
                        Activation::None => finished.for_each(|(to, value)| *to = value),
                        Activation::Gelu => finished.for_each(|(to, value)| *to = gelu(value)),
                    }
                },
            );
            tile.write(row, &scratch.finished);
        }
    });
}

/// What a thread keeps between blocks.
#[derive(Default)]
struct Scratch {
    whole: Vec<u8>,
    roundings: Vec<Rounding>,
    sums: Vec<i32>,
    finished: Vec<f32>,
}

impl Scratch {
    /// Rounds states `[rows, inputs]`.
    fn round(&mut self, states: &[f32], inputs: usize) {
        self.whole.resize(states.len(), 0);
        self.roundings.clear();
        for (row, whole) in states.chunks_exact(inputs).zip(self.whole.chunks_exact_mut(inputs)) {
            self.roundings.push(vectorized(
                #[inline(always)]
                || {
                    let rounding = Rounding::between(range(row));
                    rounding.bytes(row, whole);
                    rounding
                },
            ));
        }
    }
}
