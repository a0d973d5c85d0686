//! A product with its bias and activation.

use rayon::prelude::*;

use super::{
    elementwise::{gelu, vectorized},
    product::{Matrix, Threads, filled},
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
