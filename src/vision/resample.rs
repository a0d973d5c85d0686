//! Pillow's bicubic resampling of 8-bit images, reproduced bit for bit.
//!
//! Source: the reference resizes with `PIL.Image.BICUBIC` up to Pillow 12, horizontal pass first.
//! A resampler that is merely close moves the network's input by a grey level here and there, and
//! with it every number that the golden sets judge.

use super::RgbImage;
use crate::kernels::vectorized;

/// Fractional bits of the integer weights: 32 minus 8 for the sample minus 2 of head room.
const PRECISION_BITS: u32 = 22;
const SUPPORT: f64 = 2.0;
const CHANNELS: usize = 3;
/// Sums that are made side by side: as many as the widest registers hold.
const LANES: usize = 16;
/// Columns that are put side by side before the next row's: few enough to stay in the first cache.
const TILE: usize = 64;

/// Squashes the image to `width` x `height`, without keeping its aspect.
pub fn resize(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    match (image.width == width, image.height == height) {
        (true, true) => image.clone(),
        (false, true) => across(image, width),
        (true, false) => down(image, height),
        (false, false) => down(&across(image, width), height),
    }
}

/// Whole rows at a time, [`LANES`] of them side by side: within one row neighbouring outputs begin at distances that no
/// vector instruction takes.
fn across(image: &RgbImage, width: u32) -> RgbImage {
    let taps = Taps::all(image.width, width);
    let (from, to) = (image.width as usize * CHANNELS, width as usize * CHANNELS);
    let mut data = vec![0; to * image.height as usize];
    let mut columns = vec![[0; LANES]; from];
    for (rows, out) in image.data.chunks(from * LANES).zip(data.chunks_mut(to * LANES)) {
        for (tile, columns) in columns.chunks_mut(TILE).enumerate() {
            for (lane, row) in rows.chunks_exact(from).enumerate() {
                for (column, &sample) in columns.iter_mut().zip(&row[tile * TILE..]) {
                    column[lane] = sample;
                }
            }
        }
        vectorized(
            #[inline(always)]
            || {
                for (output, tap) in taps.iter().enumerate() {
                    for channel in 0..CHANNELS {
                        let samples = columns[tap.first * CHANNELS + channel..].iter().step_by(CHANNELS);
                        let sums = weighted(samples, &tap.weights);
                        for (row, sum) in out.chunks_exact_mut(to).zip(sums) {
                            row[output * CHANNELS + channel] = sum;
                        }
                    }
                }
            },
        );
    }
    RgbImage { width, height: image.height, data }
}

fn down(image: &RgbImage, height: u32) -> RgbImage {
    let stride = image.width as usize * CHANNELS;
    let mut data = vec![0; stride * height as usize];
    for (out, tap) in data.chunks_exact_mut(stride).zip(&Taps::all(image.height, height)) {
        let rows = &image.data[tap.first * stride..];
        vectorized(
            #[inline(always)]
            || {
                let mut chunks = out.chunks_exact_mut(LANES);
                for (number, chunk) in chunks.by_ref().enumerate() {
                    let samples = rows.chunks_exact(stride).filter_map(|row| row[number * LANES..].first_chunk());
                    chunk.copy_from_slice(&weighted::<LANES>(samples, &tap.weights));
                }
                let rest = stride - stride % LANES;
                for (column, value) in chunks.into_remainder().iter_mut().enumerate() {
                    let samples = rows.chunks_exact(stride).filter_map(|row| row[rest + column..].first_chunk());
                    [*value] = weighted(samples, &tap.weights);
                }
            },
        );
    }
    RgbImage { width: image.width, height, data }
}

#[inline(always)]
fn weighted<'s, const N: usize>(samples: impl Iterator<Item = &'s [u8; N]>, weights: &[i32]) -> [u8; N] {
    let mut sums = [1 << (PRECISION_BITS - 1); N];
    for (sample, weight) in samples.zip(weights) {
        for (sum, &value) in sums.iter_mut().zip(sample) {
            *sum += i32::from(value) * weight;
        }
    }
    sums.map(|sum| (sum >> PRECISION_BITS).clamp(0, 255) as u8)
}

/// The source samples of one output sample, and their integer weights.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

impl Taps {
    fn all(from: u32, to: u32) -> Vec<Self> {
        let scale = f64::from(from) / f64::from(to);
        let filter_scale = scale.max(1.0);
        let support = SUPPORT * filter_scale;
        (0..to)
            .map(|output| {
                let center = (f64::from(output) + 0.5) * scale;
                let first = (center - support + 0.5).max(0.0) as usize;
                let end = ((center + support + 0.5) as usize).min(from as usize);
                let cubics: Vec<f64> =
                    (first..end).map(|x| cubic((x as f64 - center + 0.5) * (1.0 / filter_scale))).collect();
                let sum: f64 = cubics.iter().sum();
                let weights = cubics.iter().map(|weight| fixed_point(weight / sum)).collect();
                Self { first, weights }
            })
            .collect()
    }
}

fn fixed_point(weight: f64) -> i32 {
    let scaled = weight * f64::from(1 << PRECISION_BITS);
    (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}

/// The cubic convolution kernel with a = -0.5 (Keys 1981), in Pillow's order of operations.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(width: u32, height: u32) -> RgbImage {
        let data = (0..width * height * 3).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        RgbImage { width, height, data }
    }

    #[test]
    fn a_size_that_is_already_right_is_left_alone() {
        let image = noise(7, 5);
        assert_eq!(resize(&image, 7, 5), image);
    }

    #[test]
    fn a_plain_image_stays_plain_at_every_size() {
        let image = RgbImage { width: 13, height: 4, data: [9, 99, 199].repeat(13 * 4) };
        for (width, height) in [(1, 1), (5, 9), (96, 96), (13, 40)] {
            assert_eq!(resize(&image, width, height).data, [9, 99, 199].repeat((width * height) as usize));
        }
    }

    /// One sample after the other, as the formula stands.
    fn plainly_across(image: &RgbImage, width: u32) -> RgbImage {
        let mut data = Vec::new();
        for row in image.data.chunks_exact(image.width as usize * CHANNELS) {
            for tap in Taps::all(image.width, width) {
                data.extend((0..CHANNELS).map(|channel| {
                    let samples = row[tap.first * CHANNELS + channel..].iter().step_by(CHANNELS);
                    let sum: i32 = samples.zip(&tap.weights).map(|(value, weight)| i32::from(*value) * weight).sum();
                    ((sum + (1 << (PRECISION_BITS - 1))) >> PRECISION_BITS).clamp(0, 255) as u8
                }));
            }
        }
        RgbImage { width, height: image.height, data }
    }

    fn transposed(image: &RgbImage) -> RgbImage {
        let pixel = |x: u32, y: u32| image.data[((y * image.width + x) * 3) as usize..].iter().take(CHANNELS).copied();
        let data = (0..image.width).flat_map(|x| (0..image.height).flat_map(move |y| pixel(x, y))).collect();
        RgbImage { width: image.height, height: image.width, data }
    }

    proptest::proptest! {
        #[test]
        fn samples_side_by_side_are_those_of_the_formula(w in 1u32..90, h in 1u32..40, to_w in 1u32..70, to_h in 1u32..40) {
            let image = noise(w, h);
            proptest::prop_assert_eq!(across(&image, to_w), plainly_across(&image, to_w));
            proptest::prop_assert_eq!(down(&image, to_h), transposed(&plainly_across(&transposed(&image), to_h)));
        }
    }
}
