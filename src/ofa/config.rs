//! `config.json` and `configuration.json`, read into exactly what changes the numbers.

use serde::Deserialize;
use serde_json::Value;

/// A configuration that this program cannot honour.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not the JSON it should be.
    #[error("{file}: {reason}")]
    Unreadable {
        /// The file's name.
        file: &'static str,
        /// What is wrong, with line and column.
        reason: String,
    },
    /// An option changes the numbers and is not supported.
    #[error("{file}: `{option}` is {value}: {reason}")]
    Unsupported {
        /// The file's name.
        file: &'static str,
        /// The option's name.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is supported instead.
        reason: String,
    },
}

const NETWORK_FILE: &str = "config.json";
const TASK_FILE: &str = "configuration.json";

fn unsupported(
    file: &'static str,
    option: &'static str,
    value: impl ToString,
    reason: impl Into<String>,
) -> ConfigError {
    ConfigError::Unsupported { file, option, value: value.to_string(), reason: reason.into() }
}

/// The network's shape, from `config.json`. Names and defaults are the reference's.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct NetworkConfig {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the transformer.
    pub d_model: usize,
    /// Encoder layers.
    pub encoder_layers: usize,
    /// Decoder layers.
    pub decoder_layers: usize,
    /// Heads of the encoder.
    pub encoder_attention_heads: usize,
    /// Heads of the decoder.
    pub decoder_attention_heads: usize,
    /// Hidden width of the encoder's feed-forward parts.
    pub encoder_ffn_dim: usize,
    /// Hidden width of the decoder's feed-forward parts.
    pub decoder_ffn_dim: usize,
    /// Text positions; the tables have two rows more, which are never used.
    pub max_position_embeddings: usize,
    /// Attention logits are scaled by `(head_dim * attn_scale_factor)^-1/2`.
    pub attn_scale_factor: f64,
    /// Half the range of relative token positions.
    pub token_bucket_size: usize,
    /// Largest grid of patches, per side.
    pub image_bucket_size: usize,
    /// Which ResNet: its blocks per layer.
    pub resnet_type: String,
    /// Blocks per layer, where they are not those of `resnet_type`. Not a published key: small test
    /// models use it.
    pub resnet_layers: Option<Vec<usize>>,
    /// Channels of the stem. Not a published key: small test models use it.
    pub resnet_base_planes: usize,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            vocab_size: 59457,
            d_model: 512,
            encoder_layers: 4,
            decoder_layers: 4,
            encoder_attention_heads: 8,
            decoder_attention_heads: 8,
            encoder_ffn_dim: 2048,
            decoder_ffn_dim: 2048,
            max_position_embeddings: 1024,
            attn_scale_factor: 2.0,
            token_bucket_size: 256,
            image_bucket_size: 42,
            resnet_type: "resnet101".to_owned(),
            resnet_layers: None,
            resnet_base_planes: 64,
        }
    }
}

/// Options of `config.json` whose other value would need code that is not here.
const FIXED_OPTIONS: [(&str, bool); 13] = [
    ("normformer", true),
    ("encoder_normalize_before", true),
    ("decoder_normalize_before", true),
    ("layernorm_embedding", true),
    ("patch_layernorm_embedding", true),
    ("add_type_embedding", true),
    ("share_decoder_input_output_embed", true),
    ("scale_embedding", false),
    ("entangle_position_embedding", false),
    ("interpolate_position", false),
    ("share_attn_bias", false),
    ("use_ofasys", false),
    ("use_gamma_feature", false),
];
const FIXED_TOKENS: [(&str, u64); 3] = [("bos_token_id", 0), ("pad_token_id", 1), ("eos_token_id", 2)];
const SIZE_MAX: usize = 1 << 20;
const LAYERS_MAX: usize = 256;

impl NetworkConfig {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// When it does not parse, or holds an option that changes the numbers and is not supported.
    pub fn from_json(json: &str) -> Result<Self, ConfigError> {
        let unreadable =
            |error: serde_json::Error| ConfigError::Unreadable { file: NETWORK_FILE, reason: error.to_string() };
        let raw: Value = serde_json::from_str(json).map_err(unreadable)?;
        let config: Self = serde_json::from_str(json).map_err(unreadable)?;
        for (option, supported) in FIXED_OPTIONS {
            let value = &raw[option];
            if !value.is_null() && value != supported {
                return Err(unsupported(NETWORK_FILE, option, value, format!("only {supported} is supported")));
            }
        }
        for (option, supported) in FIXED_TOKENS {
            if !raw[option].is_null() && raw[option] != supported {
                return Err(unsupported(NETWORK_FILE, option, &raw[option], format!("only {supported} is supported")));
            }
        }
        if !raw["activation_function"].is_null() && raw["activation_function"] != "gelu" {
            return Err(unsupported(
                NETWORK_FILE,
                "activation_function",
                &raw["activation_function"],
                "only \"gelu\" is supported",
            ));
        }
        config.checked()
    }

    fn checked(self) -> Result<Self, ConfigError> {
        // Far beyond the largest published size, and small enough that no product of them overflows.
        let sizes = [
            ("vocab_size", self.vocab_size, SIZE_MAX),
            ("d_model", self.d_model, 1 << 14),
            ("encoder_layers", self.encoder_layers, LAYERS_MAX),
            ("decoder_layers", self.decoder_layers, LAYERS_MAX),
            ("encoder_attention_heads", self.encoder_attention_heads, 1 << 10),
            ("decoder_attention_heads", self.decoder_attention_heads, 1 << 10),
            ("encoder_ffn_dim", self.encoder_ffn_dim, 1 << 16),
            ("decoder_ffn_dim", self.decoder_ffn_dim, 1 << 16),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 16),
            ("token_bucket_size", self.token_bucket_size, 1 << 16),
            ("image_bucket_size", self.image_bucket_size, 1 << 10),
            ("resnet_base_planes", self.resnet_base_planes, 1 << 10),
        ];
        for (option, value, high) in sizes {
            if value == 0 || value > high {
                return Err(unsupported(NETWORK_FILE, option, value, format!("it must lie between 1 and {high}")));
            }
        }
        for (option, heads) in [
            ("encoder_attention_heads", self.encoder_attention_heads),
            ("decoder_attention_heads", self.decoder_attention_heads),
        ] {
            if !self.d_model.is_multiple_of(heads) {
                return Err(unsupported(
                    NETWORK_FILE,
                    option,
                    heads,
                    format!("it must divide d_model {}", self.d_model),
                ));
            }
        }
        if !(self.attn_scale_factor.is_finite() && self.attn_scale_factor > 0.0) {
            return Err(unsupported(NETWORK_FILE, "attn_scale_factor", self.attn_scale_factor, "it must be above 0"));
        }
        self.blocks()?;
        Ok(self)
    }

    /// Patches per side of a square image of `side` pixels: each of the ResNet's four halvings rounds up.
    ///
    /// # Errors
    /// When there are no positions for so many.
    pub fn grid(&self, side: usize) -> Result<usize, ConfigError> {
        let grid = (0..4).fold(side, |side, _| side.div_ceil(2));
        match grid <= self.image_bucket_size {
            true => Ok(grid),
            false => Err(unsupported(
                TASK_FILE,
                "model.patch_image_size",
                side,
                format!(
                    "it gives {grid} patches per side, image_bucket_size {} has positions for fewer",
                    self.image_bucket_size
                ),
            )),
        }
    }

    /// Bottleneck blocks of the three ResNet layers.
    ///
    /// # Errors
    /// When the type is unknown or the extension key does not hold three counts.
    pub fn blocks(&self) -> Result<[usize; 3], ConfigError> {
        if let Some(layers) = &self.resnet_layers {
            return <[usize; 3]>::try_from(layers.as_slice())
                .ok()
                .filter(|blocks| blocks.iter().all(|&count| (1..=LAYERS_MAX).contains(&count)))
                .ok_or_else(|| {
                    unsupported(NETWORK_FILE, "resnet_layers", format!("{layers:?}"), "three counts above 0 are needed")
                });
        }
        match self.resnet_type.as_str() {
            "resnet18" => Ok([2, 2, 2]),
            "resnet34" | "resnet50" => Ok([3, 4, 6]),
            "resnet101" => Ok([3, 4, 23]),
            "resnet152" => Ok([3, 8, 36]),
            other => Err(unsupported(
                NETWORK_FILE,
                "resnet_type",
                format!("{other:?}"),
                "resnet18, resnet34, resnet50, resnet101 and resnet152 are supported",
            )),
        }
    }
}

/// The task's settings, from the `model` section of `configuration.json`. Defaults are the
/// reference's.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct TaskConfig {
    /// Side of the square image the network reads, in pixels.
    pub patch_image_size: u32,
    /// Words of each text and tokens of the finished prompt.
    pub max_src_length: usize,
    /// Whether pixels are normalized with ImageNet's mean and deviation rather than 0.5.
    pub imagenet_default_mean_and_std: bool,
    /// A prompt template in place of the trained ones.
    pub prompt: Option<String>,
    /// Name of the answer file.
    pub answer2label: String,
    gen_type: String,
    prompt_type: String,
    language: String,
    multimodal_type: String,
}

impl Default for TaskConfig {
    fn default() -> Self {
        Self {
            patch_image_size: 480,
            max_src_length: 256,
            imagenet_default_mean_and_std: false,
            prompt: None,
            answer2label: String::new(),
            gen_type: "generation".to_owned(),
            prompt_type: "none".to_owned(),
            language: "en".to_owned(),
            multimodal_type: "default".to_owned(),
        }
    }
}

#[derive(Deserialize)]
struct TaskFile {
    #[serde(default)]
    task: Option<String>,
    model: TaskConfig,
}

impl TaskConfig {
    /// Reads `configuration.json`.
    ///
    /// # Errors
    /// When it does not parse, or asks for another way of scoring than the closed answer set.
    pub fn from_json(json: &str) -> Result<Self, ConfigError> {
        let file: TaskFile = serde_json::from_str(json)
            .map_err(|error| ConfigError::Unreadable { file: TASK_FILE, reason: error.to_string() })?;
        let refuse =
            |option, value: &str, reason: &str| Err(unsupported(TASK_FILE, option, format!("{value:?}"), reason));
        let config = file.model;
        if let Some(task) = file.task.filter(|task| task != "visual-entailment") {
            return refuse("task", &task, "only \"visual-entailment\" is supported");
        }
        for (option, value, supported) in [
            ("model.gen_type", &config.gen_type, "traverse"),
            ("model.prompt_type", &config.prompt_type, "prev_output"),
            ("model.language", &config.language, "en"),
            ("model.multimodal_type", &config.multimodal_type, "default"),
        ] {
            if value != supported {
                return refuse(option, value, &format!("only {supported:?} is supported"));
            }
        }
        if config.answer2label.is_empty()
            || config.answer2label.contains(['/', '\\'])
            || config.answer2label.starts_with('.')
        {
            return refuse("model.answer2label", &config.answer2label, "it must name a file of the version folder");
        }
        if !(1..=4096).contains(&config.patch_image_size) {
            let value = config.patch_image_size.to_string();
            return refuse("model.patch_image_size", &value, "it must lie between 1 and 4096");
        }
        if config.max_src_length == 0 || config.max_src_length > SIZE_MAX {
            let value = config.max_src_length.to_string();
            return refuse("model.max_src_length", &value, "it must lie between 1 and 1048576");
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_rounds_up_at_every_halving_and_has_positions() {
        let config = NetworkConfig::default();
        for (side, grid) in [(480, 30), (96, 6), (100, 7), (128, 8), (16, 1)] {
            assert_eq!(config.grid(side).unwrap(), grid, "{side}");
        }
        assert!(config.grid(768).unwrap_err().to_string().contains("48 patches per side"));
    }

    #[test]
    fn published_sizes_are_read() {
        let config = NetworkConfig::from_json(include_str!("../../testdata/golden/dev/config.json")).unwrap();
        assert_eq!((config.d_model, config.blocks().unwrap()), (32, [1, 2, 1]));
        let task = TaskConfig::from_json(include_str!("../../testdata/golden/dev/configuration.json")).unwrap();
        assert_eq!((task.patch_image_size, task.max_src_length), (96, 80));
    }

    #[test]
    fn options_that_would_change_the_numbers_are_refused_by_name() {
        for json in [
            r#"{"use_ofasys": true}"#,
            r#"{"normformer": false}"#,
            r#"{"scale_embedding": true}"#,
            r#"{"entangle_position_embedding": true}"#,
            r#"{"activation_function": "relu"}"#,
            r#"{"pad_token_id": 5}"#,
            r#"{"resnet_type": "resnet200"}"#,
            r#"{"encoder_attention_heads": 7}"#,
            r#"{"d_model": 0}"#,
        ] {
            let error = NetworkConfig::from_json(json).unwrap_err().to_string();
            let option = json.split('"').nth(1).unwrap();
            assert!(error.contains(option), "{json}: {error}");
        }
    }

    #[test]
    fn tasks_that_are_scored_otherwise_are_refused_by_name() {
        let model = r#""gen_type":"traverse","prompt_type":"prev_output","answer2label":"a.json""#;
        assert!(TaskConfig::from_json(&format!(r#"{{"model":{{{model}}}}}"#)).is_ok());
        for (json, option) in [
            (r#"{"model":{"answer2label":"a.json"}}"#.to_owned(), "gen_type"),
            (format!(r#"{{"task":"captioning","model":{{{model}}}}}"#), "task"),
            (format!(r#"{{"model":{{{model},"language":"zh"}}}}"#), "language"),
            (format!(r#"{{"model":{{{}}}}}"#, model.replace("a.json", "../a.json")), "answer2label"),
            (format!(r#"{{"model":{{{model},"patch_image_size":0}}}}"#), "patch_image_size"),
            (format!(r#"{{"model":{{{}}}}}"#, model.replace("prev_output", "none")), "prompt_type"),
        ] {
            let error = TaskConfig::from_json(&json).unwrap_err().to_string();
            assert!(error.contains(option), "{json}: {error}");
        }
    }
}
