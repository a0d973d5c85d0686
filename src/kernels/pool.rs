//! Pooling by the largest value.

use rayon::prelude::*;

use super::elementwise::vectorized;

/// For every plane `[height, width]`: the largest value of each 3×3 neighbourhood, two apart.
pub(super) fn run(planes: &[f32], [height, width]: [usize; 2]) -> Vec<f32> {
    let (below, right) = (height.div_ceil(2), width.div_ceil(2));
    let mut result = vec![0.0; planes.len() / (height * width).max(1) * below * right];
    result.par_chunks_mut(below * right).zip(planes.par_chunks(height * width)).for_each_init(
        || vec![0.0; width],
        |column, (result, plane)| {
            vectorized(
                #[inline(always)]
                || {
                    for (y, result) in result.chunks_exact_mut(right).enumerate() {
                        let row = |y: usize| &plane[y * width..][..width];
                        column.copy_from_slice(row(2 * y));
                        for other in [(2 * y).checked_sub(1), Some(2 * y + 1).filter(|y| *y < height)] {
                            let Some(other) = other else { continue };
                            for (most, value) in column.iter_mut().zip(row(other)) {
                                *most = larger(*most, *value);
                            }
                        }
                        for (x, value) in result.iter_mut().enumerate() {
                            let left = column[(2 * x).saturating_sub(1)];
                            let beyond = column[(2 * x + 1).min(width - 1)];
                            *value = larger(larger(left, column[2 * x]), beyond);
                        }
                    }
                },
            );
        },
    );
    result
}

/// What is no number wins, so that it is not hidden.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}
