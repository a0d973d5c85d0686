//! Bytes to the floats that the network was trained on.

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

    /// Appends the planar floats `[3, height, width]`, red first, of RGB bytes `[height, width, 3]`.
    pub fn apply_to(&self, rgb: &[u8], planes: &mut Vec<f32>) {
        planes.reserve(rgb.len());
        for (channel, table) in self.table.iter().enumerate() {
            planes.extend(rgb.iter().skip(channel).step_by(3).map(|&byte| table[usize::from(byte)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_are_red_green_blue_and_between_minus_one_and_one() {
        let mut planes = Vec::new();
        Normalization::half().apply_to(&[0, 255, 51, 255, 0, 204], &mut planes);
        let expected = [-1.0, 1.0, 1.0, -1.0, -0.6, 0.6];
        assert!(planes.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{planes:?}");
    }
}
