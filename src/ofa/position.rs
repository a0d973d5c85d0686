//! Positions act in OFA only through attention: an absolute bias from projected position embeddings,
//! and relative biases from learned tables. Both depend on shapes and weights alone, so they are
//! computed once per shape and kept.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

/// Added to logits that must not count. Large enough that the softmax gives exactly zero, small enough
/// that a sum of two is finite in half precision.
const MASKED: f32 = -3e4;

/// Row of the token table for a relative position, query minus key. Near positions have a row each;
/// beyond half the range they share rows by logarithm, computed in 32 bits as the reference does.
/// The 1023 is fixed there, whatever the number of positions.
pub(super) fn token_bucket(relative: i64, bucket_size: usize) -> i64 {
    let middle = (bucket_size / 2) as i64;
    let magnitude = if relative.abs() < middle { middle - 1 } else { relative.abs() };
    let offset = if magnitude <= middle {
        relative
    } else {
        let share = (magnitude as f32 / middle as f32).ln() / (1023.0_f64 / middle as f64).ln() as f32;
        relative.signum() * ((share * (middle - 1) as f32).ceil() as i64 + middle)
    };
    offset + bucket_size as i64 - 1
}

/// Row of the image table for a query and a key patch, both as (row, column).
pub(super) fn image_bucket(query: (usize, usize), key: (usize, usize), bucket_size: usize) -> i64 {
    let span = 2 * bucket_size - 1;
    let rows = query.0 + bucket_size - 1 - key.0;
    let columns = query.1 + bucket_size - 1 - key.1;
    (rows * span + columns) as i64
}

/// A relative bias `[1, heads, length, length]` from a table `[buckets, heads]`.
pub(super) fn relative_bias(table: Tensor<2>, length: usize, bucket: impl Fn(usize, usize) -> i64) -> Tensor<4> {
    let [_, heads] = table.dims();
    let buckets = (0..length * length).map(|at| bucket(at / length, at % length)).collect();
    let device = table.device();
    table.select(0, indices(buckets, &device)).reshape([length, length, heads]).permute([2, 0, 1]).unsqueeze()
}

/// Indices as a tensor, to select rows by.
pub(super) fn indices(values: Vec<i64>, device: &Device) -> Tensor<1, Int> {
    let length = values.len();
    Tensor::from_data(TensorData::new(values, [length]), device)
}

/// `[rows, 1, 1, columns]`: zero for the first columns of each row, otherwise [`MASKED`].
pub(super) fn mask_behind(visible: &[usize], columns: usize, (device, dtype): (&Device, DType)) -> Tensor<4> {
    let values: Vec<f32> =
        visible.iter().flat_map(|&seen| (0..columns).map(move |at| if at < seen { 0.0 } else { MASKED })).collect();
    Tensor::from_data(TensorData::new(values, [visible.len(), 1, 1, columns]), (device, dtype))
}

/// `[1, 1, rows, columns]`: zero where `keep` says so, otherwise [`MASKED`].
pub(super) fn mask(
    [rows, columns]: [usize; 2],
    (device, dtype): (&Device, DType),
    keep: impl Fn(usize, usize) -> bool,
) -> Tensor<4> {
    let values: Vec<f32> =
        (0..rows * columns).map(|at| if keep(at / columns, at % columns) { 0.0 } else { MASKED }).collect();
    Tensor::from_data(TensorData::new(values, [1, 1, rows, columns]), (device, dtype))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_buckets_agree_with_the_reference() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../testdata/golden/unit/token_buckets.json")).unwrap();
        for (size, row) in golden["buckets"].as_object().unwrap() {
            for (index, expected) in row.as_array().unwrap().iter().enumerate() {
                let relative = index as i64 - 1023;
                assert_eq!(
                    token_bucket(relative, size.parse().unwrap()),
                    expected.as_i64().unwrap(),
                    "T={size} r={relative}"
                );
            }
        }
    }

    #[test]
    fn image_buckets_agree_with_the_reference() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../testdata/golden/unit/image_buckets.json")).unwrap();
        for (size, rows) in golden.as_object().unwrap() {
            // One entry is a sample of the full size, of other form.
            let Ok(size) = size.parse::<usize>() else { continue };
            let at = |id: usize| ((id - 1) / size, (id - 1) % size);
            // Row and column zero belong to position id 0, which no patch has.
            for (query, row) in rows.as_array().unwrap().iter().enumerate().skip(1) {
                for (key, expected) in row.as_array().unwrap().iter().enumerate().skip(1) {
                    assert_eq!(
                        image_bucket(at(query), at(key), size),
                        expected.as_i64().unwrap(),
                        "B={size} {query} {key}"
                    );
                }
            }
        }
    }
}
