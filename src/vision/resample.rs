//! Pillow's bicubic resampling of 8-bit images, reproduced bit for bit.
//!
//! Source: the reference resizes with `PIL.Image.BICUBIC` up to Pillow 12, horizontal pass first.
//! A resampler that is merely close moves the network's input by a grey level here and there, and
//! with it every number that the golden sets judge.

use pulp::Arch;

use super::RgbImage;

/// Fractional bits of the integer weights: 32 minus 8 for the sample minus 2 of head room.
const PRECISION_BITS: u32 = 22;
const SUPPORT: f64 = 2.0;
const CHANNELS: usize = 3;

/// Pixels of a row that are weighted together: their samples fill whole vectors.
const STEP: usize = 8;

/// Squashes the image to `width` x `height`, without keeping its aspect.
pub fn resize(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    let across = |image: &RgbImage| {
        let data = Arch::new().dispatch(|| horizontal(image, &Taps::all(image.width, width)));
        RgbImage { width, height: image.height, data }
    };
    let down = |image: &RgbImage| {
        let data = Arch::new().dispatch(|| vertical(image, &Taps::all(image.height, height)));
        RgbImage { width: image.width, height, data }
    };
    match (image.width == width, image.height == height) {
        (true, true) => image.clone(),
        (false, true) => across(image),
        (true, false) => down(image),
        (false, false) => down(&across(image)),
    }
}

// Sums of whole numbers are the same in any order, so the loops below may take the one that the compiler can vectorize.

#[inline(always)]
fn horizontal(image: &RgbImage, taps: &[Taps]) -> Vec<u8> {
    // Each weight once for every channel, beside each other as the samples are.
    let weights: Vec<Vec<i32>> =
        taps.iter().map(|tap| tap.weights.iter().flat_map(|&weight| [weight; CHANNELS]).collect()).collect();
    let mut data = Vec::with_capacity(taps.len() * image.height as usize * CHANNELS);
    for row in image.data.chunks_exact(image.width as usize * CHANNELS) {
        for (tap, weights) in taps.iter().zip(&weights) {
            let samples = &row[tap.first * CHANNELS..][..weights.len()];
            let mut lanes = [0; STEP * CHANNELS];
            let (steps, step_weights) = (samples.chunks_exact(STEP * CHANNELS), weights.chunks_exact(STEP * CHANNELS));
            let rest = steps.remainder().iter().zip(step_weights.remainder());
            for (samples, weights) in steps.zip(step_weights) {
                for at in 0..STEP * CHANNELS {
                    lanes[at] += i32::from(samples[at]) * weights[at];
                }
            }
            let mut sums = [HALF; CHANNELS];
            for (at, lane) in lanes.iter().enumerate() {
                sums[at % CHANNELS] += lane;
            }
            for (at, (&sample, weight)) in rest.enumerate() {
                sums[at % CHANNELS] += i32::from(sample) * weight;
            }
            data.extend(sums.map(rounded));
        }
    }
    data
}

#[inline(always)]
fn vertical(image: &RgbImage, taps: &[Taps]) -> Vec<u8> {
    let stride = image.width as usize * CHANNELS;
    let mut data = Vec::with_capacity(stride * taps.len());
    let mut sums = vec![0; stride];
    for tap in taps {
        sums.fill(HALF);
        for (row, weight) in image.data[tap.first * stride..].chunks_exact(stride).zip(&tap.weights) {
            for (sum, &sample) in sums.iter_mut().zip(row) {
                *sum += i32::from(sample) * weight;
            }
        }
        data.extend(sums.iter().map(|&sum| rounded(sum)));
    }
    data
}

/// Half a grey level: what is cut off behind it is then rounded.
const HALF: i32 = 1 << (PRECISION_BITS - 1);

fn rounded(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
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

    /// As Pillow's sources have it: one sample after the other.
    fn plain(image: &RgbImage, width: u32, height: u32) -> RgbImage {
        fn weighted(samples: &[u8], step: usize, weights: &[i32]) -> u8 {
            rounded(
                samples.iter().step_by(step).zip(weights).fold(HALF, |sum, (&sample, w)| sum + i32::from(sample) * w),
            )
        }
        let (mut data, mut across) = (Vec::new(), image.clone());
        if image.width != width {
            for row in image.data.chunks_exact(image.width as usize * CHANNELS) {
                for tap in Taps::all(image.width, width) {
                    let channel =
                        |channel: usize| weighted(&row[tap.first * CHANNELS + channel..], CHANNELS, &tap.weights);
                    data.extend((0..CHANNELS).map(channel));
                }
            }
            across = RgbImage { width, height: image.height, data: std::mem::take(&mut data) };
        }
        if image.height == height {
            return across;
        }
        let stride = width as usize * CHANNELS;
        for tap in Taps::all(image.height, height) {
            let below = &across.data[tap.first * stride..];
            data.extend((0..stride).map(|column| weighted(&below[column..], stride, &tap.weights)));
        }
        RgbImage { width, height, data }
    }

    proptest::proptest! {
        #[test]
        fn whole_vectors_and_remainders_give_what_one_sample_after_the_other_gives(
            w in 1u32..90, h in 1u32..90, to_w in 1u32..30, to_h in 1u32..30,
        ) {
            let image = noise(w, h);
            proptest::prop_assert_eq!(resize(&image, to_w, to_h), plain(&image, to_w, to_h));
        }

        #[test]
        fn every_size_gives_exactly_the_pixels_asked_for(w in 1u32..40, h in 1u32..40, to_w in 1u32..40, to_h in 1u32..40) {
            let out = resize(&noise(w, h), to_w, to_h);
            proptest::prop_assert_eq!(out.data.len(), (to_w * to_h * 3) as usize);
        }
    }
}
