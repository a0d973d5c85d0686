//! Products of numbers of 8 bits by AVX-512's dot products of four, for convolutions: what is packed into words of four on its
//! way from the image is multiplied as it lies. `rten-gemm` packs such a side byte by byte, which took as long as it saved.

#![allow(unsafe_code, reason = "vector instructions, and pointers into what was checked before")]

/// Numbers of 32 bits in a vector; columns come in multiples of it.
pub(super) const LANES: usize = 16;

/// Whether this CPU has them.
pub(super) fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("avx512f") && std::is_x86_feature_detected!("avx512vnni");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// `sums[row, column] = Σ weights[row, word] · patches[word, column]`, where a word holds four numbers and its product is the sum
/// of theirs: weights with a sign `[rows, depth]`, patches without one `[depth, columns]`, sums `[rows, columns]`.
///
/// # Panics
/// Where sides do not fit, and where [`available`] says no.
pub(super) fn product(weights: &[u32], patches: &[u32], [rows, depth, columns]: [usize; 3], sums: &mut [i32]) {
    assert!(available(), "a CPU with dot products");
    assert!(columns.is_multiple_of(LANES), "whole vectors");
    let sides = [(rows, depth, weights.len()), (depth, columns, patches.len()), (rows, columns, sums.len())];
    assert!(sides.iter().all(|(one, other, len)| one.checked_mul(*other) == Some(*len)), "sides that fit each other");
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the CPU has the instructions, and the sides fit, as was just checked.
    unsafe {
        x86::product(weights, patches, [rows, depth, columns], sums);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m512i, _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_storeu_si512,
    };

    use super::LANES;

    /// Rows and vectors of columns whose sums fit into the registers, with room for a word of each column.
    const ROWS: usize = 8;
    const VECTORS: usize = 3;

    /// # Safety
    /// As in [`super::product`].
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) unsafe fn product(
        weights: &[u32],
        patches: &[u32],
        [rows, depth, columns]: [usize; 3],
        sums: &mut [i32],
    ) {
        for column in (0..columns).step_by(VECTORS * LANES) {
            let vectors = (columns - column).min(VECTORS * LANES) / LANES;
            let mut row = 0;
            while row < rows {
                // SAFETY: rows from `row` on and vectors from `column` on lie within what the caller checked.
                row += unsafe {
                    let from = (weights.as_ptr().add(row * depth), patches.as_ptr().add(column));
                    let to = sums.as_mut_ptr().add(row * columns + column);
                    match (rows - row >= ROWS, vectors) {
                        (true, 3) => tile::<ROWS, 3>(from, depth, columns, to),
                        (true, 2) => tile::<ROWS, 2>(from, depth, columns, to),
                        (true, _) => tile::<ROWS, 1>(from, depth, columns, to),
                        (false, 3) => tile::<1, 3>(from, depth, columns, to),
                        (false, 2) => tile::<1, 2>(from, depth, columns, to),
                        (false, _) => tile::<1, 1>(from, depth, columns, to),
                    }
                };
            }
        }
    }

    /// A tile of the sums, kept in registers until it is whole. Gives back its rows.
    ///
    /// # Safety
    /// `R` rows of `depth` words of weights, `depth` rows of `V` vectors of patches and `R` rows of `V` vectors of sums must be
    /// there, rows of the latter two `columns` apart.
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn tile<const R: usize, const V: usize>(
        (weights, patches): (*const u32, *const u32),
        depth: usize,
        columns: usize,
        sums: *mut i32,
    ) -> usize {
        let mut tile: [[__m512i; V]; R] = [[_mm512_setzero_si512(); V]; R];
        for word in 0..depth {
            // SAFETY: as the caller promises.
            let four: [__m512i; V] = std::array::from_fn(|vector| unsafe {
                _mm512_loadu_si512(patches.add(word * columns + vector * LANES).cast())
            });
            for (row, sums) in tile.iter_mut().enumerate() {
                // SAFETY: as the caller promises.
                let weight = _mm512_set1_epi32(unsafe { *weights.add(row * depth + word) }.cast_signed());
                for (sum, four) in sums.iter_mut().zip(four) {
                    *sum = _mm512_dpbusd_epi32(*sum, four, weight);
                }
            }
        }
        for (row, values) in tile.iter().enumerate() {
            for (vector, values) in values.iter().enumerate() {
                // SAFETY: as the caller promises.
                unsafe { _mm512_storeu_si512(sums.add(row * columns + vector * LANES).cast(), *values) };
            }
        }
        R
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_exact_whatever_the_sides_are() {
        if !available() {
            return super::super::tests::skipped();
        }
        for (rows, depth, columns) in [(1, 1, 16), (8, 5, 48), (9, 16, 64), (23, 37, 80), (16, 3, 112)] {
            let some = |count: usize, step: u32| (0..count as u32).map(|at| at.wrapping_mul(step)).collect::<Vec<_>>();
            let (weights, patches) = (some(rows * depth, 2_654_435_761), some(depth * columns, 2_246_822_519));
            let mut sums = vec![0; rows * columns];
            product(&weights, &patches, [rows, depth, columns], &mut sums);
            for (at, sum) in sums.into_iter().enumerate() {
                let words = (0..depth).flat_map(|word| {
                    let weight = weights[at / columns * depth + word].to_le_bytes().map(u8::cast_signed);
                    weight.into_iter().zip(patches[word * columns + at % columns].to_le_bytes())
                });
                let exact: i32 = words.map(|(weight, patch)| i32::from(weight) * i32::from(patch)).sum();
                assert_eq!(sum, exact, "{rows} {depth} {columns}: {at}");
            }
        }
    }
}
