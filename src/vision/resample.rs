//! Pillow's bicubic resampling of 8-bit images, reproduced bit for bit.
//!
//! Source: the reference resizes with `PIL.Image.BICUBIC` up to Pillow 12, horizontal pass first.
//! A resampler that is merely close moves the network's input by a grey level here and there, and
//! with it every number that the golden sets judge.

use super::RgbImage;

/// Fractional bits of the integer weights: 32 minus 8 for the sample minus 2 of head room.
const PRECISION_BITS: u32 = 22;
const SUPPORT: f64 = 2.0;
const CHANNELS: usize = 3;

/// Squashes the image to `width` x `height`, without keeping its aspect.
pub fn resize(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    match (image.width == width, image.height == height) {
        (true, true) => image.clone(),
        (false, true) => across(image, width),
        (true, false) => down(image, height),
        (false, false) => down(&across(image, width), height),
    }
}

fn across(image: &RgbImage, width: u32) -> RgbImage {
    let taps = Taps::all(image.width, width);
    let mut data = Vec::with_capacity(width as usize * image.height as usize * CHANNELS);
    for row in image.data.chunks_exact(image.width as usize * CHANNELS) {
        for tap in &taps {
            let samples = row[tap.first * CHANNELS..].chunks_exact(CHANNELS);
            data.extend(weighted(samples, &tap.weights));
        }
    }
    RgbImage { width, height: image.height, data }
}

fn down(image: &RgbImage, height: u32) -> RgbImage {
    let stride = image.width as usize * CHANNELS;
    let mut data = Vec::with_capacity(stride * height as usize);
    for tap in &Taps::all(image.height, height) {
        for column in 0..image.width as usize {
            let samples = image.data[tap.first * stride..].chunks_exact(stride).map(|row| &row[column * CHANNELS..]);
            data.extend(weighted(samples, &tap.weights));
        }
    }
    RgbImage { width: image.width, height, data }
}

fn weighted<'s>(samples: impl Iterator<Item = &'s [u8]>, weights: &[i32]) -> [u8; CHANNELS] {
    let mut sums = [1 << (PRECISION_BITS - 1); CHANNELS];
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

    proptest::proptest! {
        #[test]
        fn every_size_gives_exactly_the_pixels_asked_for(w in 1u32..40, h in 1u32..40, to_w in 1u32..40, to_h in 1u32..40) {
            let out = resize(&noise(w, h), to_w, to_h);
            proptest::prop_assert_eq!(out.data.len(), (to_w * to_h * 3) as usize);
        }
    }
}
