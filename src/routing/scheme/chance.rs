//! What tests of independence need.

use std::collections::BTreeMap;

/// As kafka's Java client hashes keys; units that are keys must not be split as partitions are.
pub(in crate::routing) fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ data.len() as u32;
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = u32::from_le_bytes(chunk.try_into().unwrap()).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = chunks.remainder();
    for (index, byte) in rest.iter().enumerate() {
        hash ^= u32::from(*byte) << (8 * index);
    }
    if !rest.is_empty() {
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// Pearson's statistic for independence of two ways to divide the same units.
pub(in crate::routing) fn chi_square(pairs: impl Iterator<Item = (usize, usize)>) -> f64 {
    let mut cells: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    for pair in pairs {
        *cells.entry(pair).or_default() += 1.0;
    }
    let margin = |of: fn(&(usize, usize)) -> usize| {
        let mut sums: BTreeMap<usize, f64> = BTreeMap::new();
        cells.iter().for_each(|(pair, count)| *sums.entry(of(pair)).or_default() += count);
        sums
    };
    let (rows, columns, total) = (margin(|pair| pair.0), margin(|pair| pair.1), cells.values().sum::<f64>());
    let mut statistic = 0.0;
    for (row, row_sum) in &rows {
        for (column, column_sum) in &columns {
            let expected = row_sum * column_sum / total;
            statistic += (cells.get(&(*row, *column)).unwrap_or(&0.0) - expected).powi(2) / expected;
        }
    }
    statistic
}
