//! How large a network is, what it costs to run, and so where it should.

use crate::ofa::{NetworkConfig, Wanted};

/// The size of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    name: &'static str,
    parameters: u64,
}

/// Width, encoder and decoder layers, and ResNet of the published sizes.
const PUBLISHED: [(&str, usize, usize, usize, [usize; 3]); 5] = [
    ("tiny", 256, 4, 4, [3, 4, 6]),
    ("medium", 512, 4, 4, [3, 4, 23]),
    ("base", 768, 6, 6, [3, 4, 23]),
    ("large", 1024, 12, 12, [3, 8, 36]),
    ("huge", 1280, 24, 12, [3, 8, 36]),
];

/// Tensors that training keeps count in; they are no parameters.
const STATISTICS: [&str; 2] = [".running_mean", ".running_var"];

impl Architecture {
    /// The size of the network that is made from these tensors.
    pub fn new(config: &NetworkConfig, wanted: &[Wanted]) -> Self {
        let found = PUBLISHED.iter().find(|(_, width, encoder, decoder, blocks)| {
            (*width, *encoder, *decoder) == (config.d_model, config.encoder_layers, config.decoder_layers)
                && config.blocks().is_ok_and(|found| found == *blocks)
        });
        let parameters = wanted.iter().filter(|tensor| !STATISTICS.iter().any(|end| tensor.name.ends_with(end)));
        Self {
            name: found.map_or("custom", |(name, ..)| name),
            parameters: parameters.map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum(),
        }
    }

    /// `tiny`, `medium`, `base`, `large`, `huge`, or `custom`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Parameters, the shared matrix counted once.
    pub fn parameters(&self) -> u64 {
        self.parameters
    }
}

/// What one request costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Footprint {
    /// Memory of weights, position biases and the largest states, in 32-bit floats, for one request on
    /// `flex`, whose 3×3 filters are kept as Winograd's algorithm wants them, four times as large.
    pub memory_bytes: u64,
    /// Operations, a multiplication and an addition counted as two.
    pub flop: f64,
}

/// Text of a usual prompt.
const TOKENS: usize = 28;
const BYTES: usize = 4;
const EXPANSION: usize = 4;
/// States of the ResNet's first layer that are alive at once, in units of the stem's output.
const STEM_STATES: usize = 6;

/// A request of more operations than this takes a CPU's two cores longer than half a second.
const CPU_FLOP_MAX: f64 = 120e9;

impl Footprint {
    /// What a request of one picture of `side` pixels and one usual text costs.
    pub fn of(config: &NetworkConfig, parameters: u64, side: usize) -> Self {
        let grid = (0..4).fold(side, |side, _| side.div_ceil(2));
        let sequence = grid * grid + TOKENS;
        let patches = grid * grid;
        // One for all layers, and per layer a table of distances; what a text adds is small beside them.
        let tables = config.encoder_layers * (2 * grid).saturating_sub(1).pow(2);
        let biases = config.encoder_attention_heads * (patches.pow(2) + tables + 2 * patches * TOKENS) * BYTES;
        let stem = STEM_STATES * (side / 2).pow(2) * config.resnet_base_planes * BYTES;
        let hidden = 3 * sequence * config.encoder_ffn_dim * BYTES;
        let layer = |tokens: usize, keys: usize, ffn: usize| {
            let (tokens, keys, width, ffn) = (tokens as f64, keys as f64, config.d_model as f64, ffn as f64);
            2.0 * (2.0 * (tokens + keys) * width * width + 2.0 * tokens * keys * width + 2.0 * tokens * width * ffn)
        };
        let encoder = config.encoder_layers as f64 * layer(sequence, sequence, config.encoder_ffn_dim);
        let cross = layer(TOKENS, sequence, 0);
        let decoder = config.decoder_layers as f64 * (layer(TOKENS, TOKENS, config.decoder_ffn_dim) + cross);
        Self {
            memory_bytes: parameters * BYTES as u64 + (biases + stem.max(hidden) + winograd_bytes(config)) as u64,
            flop: resnet_flop(config, side) + encoder + decoder,
        }
    }

    /// The device that answers in a fraction of a second.
    pub fn suits(&self) -> &'static str {
        if self.flop <= CPU_FLOP_MAX { "flex or wgpu" } else { "wgpu" }
    }
}

/// What the prepared 3×3 filters hold more than the published ones; those with a stride are not prepared.
fn winograd_bytes(config: &NetworkConfig) -> usize {
    let layers = config.blocks().unwrap_or_default().into_iter().enumerate();
    let filters = layers.map(|(layer, count)| {
        let planes = config.resnet_base_planes << layer;
        (count - usize::from(layer > 0)) * planes * planes
    });
    (36 - 9) * filters.sum::<usize>() * BYTES
}

/// Stem, and per bottleneck a narrowing, a 3×3 and a widening convolution.
fn resnet_flop(config: &NetworkConfig, side: usize) -> f64 {
    let Ok(blocks) = config.blocks() else { return 0.0 };
    let base = config.resnet_base_planes;
    let stem = (side / 2).pow(2) * base * 3 * 49;
    let mut products = stem as f64;
    let (mut inputs, mut area) = (base, (side / 4).pow(2));
    for (index, count) in blocks.into_iter().enumerate() {
        let planes = base << index;
        let before = area;
        if index > 0 {
            area /= 4;
        }
        let first = before * inputs * planes + area * planes * (9 * planes + EXPANSION * planes + EXPANSION * inputs);
        let other = area * planes * (2 * EXPANSION * planes + 9 * planes);
        products += first as f64 + (count - 1) as f64 * other as f64;
        inputs = planes * EXPANSION;
    }
    2.0 * products
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ofa::wanted_tensors;

    #[test]
    fn published_sizes_have_the_parameters_and_operations_they_are_known_for() {
        // Parameters as the reference counts them; operations of one pass with one decoder row.
        let known = [
            ("tiny", 33_488_336, 43.0),
            ("medium", 92_892_000, 104.0),
            ("base", 182_238_536, 184.0),
            ("large", 472_977_152, 491.0),
            ("huge", 929_486_848, 1180.0),
        ];
        for (size, parameters, gigaflop) in known {
            let json = std::fs::read_to_string(format!("testdata/golden/real_shapes/config_{size}.json")).unwrap();
            let config = NetworkConfig::from_json(&json).unwrap();
            let architecture = Architecture::new(&config, &wanted_tensors(&config).unwrap());
            assert_eq!((architecture.name(), architecture.parameters()), (size, parameters));
            let footprint = Footprint::of(&config, parameters, 480);
            let off = footprint.flop / 1e9 / gigaflop;
            assert!((0.85..1.15).contains(&off), "{size}: {} GFLOP", footprint.flop / 1e9);
        }
    }
}
