//! Bytes to the floats that the network was trained on.

use super::RgbImage;

/// Mean and deviation per channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalization {
    /// The float of every byte, per channel; computed once because there are only 256.
    table: [[f32; 256]; 3],
}

impl Normalization {
    /// Mean and deviation 0.5 in every channel: bytes to -1..1.
    pub fn half() -> Self {
        Self::new([0.5; 3], [0.5; 3])
    }

    /// ImageNet's mean and deviation, for models whose configuration asks for them.
    pub fn imagenet() -> Self {
        Self::new([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    }

    fn new(mean: [f32; 3], deviation: [f32; 3]) -> Self {
        let table = std::array::from_fn(|channel| {
            std::array::from_fn(|byte| (byte as f32 / 255.0 - mean[channel]) / deviation[channel])
        });
        Self { table }
    }

    /// Planar floats `[3, height, width]`, red first.
    pub fn apply(&self, image: &RgbImage) -> Vec<f32> {
        let mut planes = Vec::with_capacity(image.data.len());
        for (channel, table) in self.table.iter().enumerate() {
            planes.extend(image.data.iter().skip(channel).step_by(3).map(|&byte| table[usize::from(byte)]));
        }
        planes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_are_red_green_blue_and_between_minus_one_and_one() {
        let image = RgbImage { width: 2, height: 1, data: vec![0, 255, 51, 255, 0, 204] };
        let planes = Normalization::half().apply(&image);
        let expected = [-1.0, 1.0, 1.0, -1.0, -0.6, 0.6];
        assert!(planes.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{planes:?}");
    }
}
