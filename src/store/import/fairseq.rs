//! Checkpoints of OFA's own release: names of their own, and the settings of the training run inside.

use std::path::Path;

use serde_json::{Value as Json, json};

use super::{
    ImportError, bpe,
    source::{ANSWER_FILE, DEFAULT_ANSWERS, DEFAULT_TASK},
};
use crate::{
    ofa::SHARED_EMBEDDING,
    store::Texts,
    weights::{Value, Weights},
};

/// The published name of a tensor.
pub(super) fn published_name(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    let renamed = parts.iter().map(|part| match *part {
        "attn_ln" | "self_attn_ln" => "self_attn_mid_layer_norm",
        "cross_attn_ln" => "cross_attn_mid_layer_norm",
        "encoder_attn" => "cross_attn",
        "encoder_attn_layer_norm" => "cross_attn_layer_norm",
        "ffn_layernorm" => "ffn_layer_norm",
        part => part,
    });
    renamed.collect::<Vec<_>>().join(".")
}

/// A setting of the training run that must have one value, because no other is implemented; the value
/// that counts where it is not written, or none where it must be written.
const FIXED: [(&str, bool, Option<bool>); 15] = [
    ("scale_attn", true, None),
    ("scale_fc", true, None),
    ("scale_heads", true, None),
    ("scale_resids", false, Some(false)),
    ("encoder_normalize_before", true, None),
    ("decoder_normalize_before", true, None),
    ("layernorm_embedding", true, None),
    ("patch_layernorm_embedding", true, None),
    ("add_type_embedding", true, Some(true)),
    ("disable_entangle", true, None),
    ("entangle_position_embedding", false, Some(false)),
    ("no_scale_embedding", true, Some(true)),
    ("share_all_embeddings", true, Some(true)),
    ("share_decoder_input_output_embed", true, Some(true)),
    // Synchronized batch norm has another epsilon there.
    ("sync_bn", false, Some(false)),
];

/// Where each number of `config.json` stands in the settings.
const SIZES: [(&str, &str); 11] = [
    ("d_model", "encoder_embed_dim"),
    ("encoder_layers", "encoder_layers"),
    ("decoder_layers", "decoder_layers"),
    ("encoder_attention_heads", "encoder_attention_heads"),
    ("decoder_attention_heads", "decoder_attention_heads"),
    ("encoder_ffn_dim", "encoder_ffn_embed_dim"),
    ("decoder_ffn_dim", "decoder_ffn_embed_dim"),
    ("max_position_embeddings", "max_source_positions"),
    ("attn_scale_factor", "attn_scale_factor"),
    ("token_bucket_size", "token_bucket_size"),
    ("image_bucket_size", "image_bucket_size"),
];

/// The settings of a run, in the two places where versions of fairseq keep them.
struct Settings<'s> {
    path: &'s Path,
    /// `cfg.model` and `cfg.task`, or `args` for both.
    parts: Vec<Value>,
}

impl Settings<'_> {
    fn get(&self, option: &str) -> Option<Value> {
        self.parts.iter().find_map(|part| part.get(option)).filter(|value| !matches!(value, Value::None))
    }

    fn refuse(&self, option: &str, value: impl std::fmt::Display, reason: impl Into<String>) -> ImportError {
        let path = self.path.to_owned();
        ImportError::Settings { path, option: option.to_owned(), value: value.to_string(), reason: reason.into() }
    }

    fn number(&self, option: &str) -> Result<Json, ImportError> {
        let number = self.get(option).and_then(|value| value.number());
        let number = number.ok_or_else(|| self.refuse(option, "nothing", "a number is needed"))?;
        Ok(if number.fract() == 0.0 && number.abs() < 1e9 { json!(number as i64) } else { json!(number) })
    }

    fn fixed(&self, (option, supported, default): (&str, bool, Option<bool>)) -> Result<(), ImportError> {
        match self.get(option).and_then(|value| value.truth()).or(default) {
            Some(value) if value == supported => Ok(()),
            Some(value) => Err(self.refuse(option, value, format!("only {supported} is supported"))),
            None => Err(self.refuse(option, "nothing", format!("it must be written, and {supported}"))),
        }
    }
}

/// The text files of a version, from the settings inside the checkpoint and the dictionary beside it.
pub(super) fn texts(path: &Path, weights: &Weights, tokenizer: Option<&Path>) -> Result<Texts, ImportError> {
    let beside = path.parent().unwrap_or(Path::new("."));
    let folder = tokenizer.unwrap_or(beside);
    let (vocabulary, merges) = bpe::read(folder).map_err(|source| ImportError::NoCheckpoint {
        path: folder.to_owned(),
        reason: format!(
            "{source}; a fairseq checkpoint needs its dictionary: name the folder with dict.txt, encoder.json and \
             vocab.bpe (utils/BPE in OFA's sources), or with vocab.json and merges.txt, by --tokenizer"
        ),
    })?;
    let settings = Settings { path, parts: weights.extras().map(parts).unwrap_or_default() };
    // The settings do not say how large the dictionary was; the matrix does.
    let embedding = weights.get(SHARED_EMBEDDING);
    let rows = embedding.and_then(|tensor| tensor.shape().first().copied()).unwrap_or_default();
    Ok(Texts {
        network: network(&settings, rows)?,
        task: task(&settings)?,
        vocabulary,
        merges,
        answers: (ANSWER_FILE.to_owned(), answers(&settings)?),
    })
}

fn parts(saved: &Value) -> Vec<Value> {
    let config = saved.get("cfg");
    let nested = ["model", "task"].iter().filter_map(|part| config.as_ref()?.get(part));
    nested.chain(saved.get("args")).filter(|part| part.fields().is_some()).collect()
}

fn network(settings: &Settings<'_>, rows: usize) -> Result<String, ImportError> {
    for option in FIXED {
        settings.fixed(option)?;
    }
    let text = |option: &str| settings.get(option).and_then(|value| value.text().map(str::to_owned));
    if let Some(activation) = text("activation_fn").filter(|activation| activation != "gelu") {
        return Err(settings.refuse("activation_fn", activation, "only gelu is supported"));
    }
    let resnet = text("resnet_type").ok_or_else(|| settings.refuse("resnet_type", "nothing", "a name is needed"))?;
    let mut network = serde_json::Map::new();
    network.insert("model_type".to_owned(), json!("ofa"));
    network.insert("vocab_size".to_owned(), json!(rows));
    network.insert("resnet_type".to_owned(), json!(resnet));
    for (name, option) in SIZES {
        network.insert(name.to_owned(), settings.number(option)?);
    }
    // Only small test models have these.
    if settings.get("resnet_base_planes").is_some() {
        network.insert("resnet_base_planes".to_owned(), settings.number("resnet_base_planes")?);
    }
    if let Some(Value::List(blocks)) = settings.get("resnet_layers") {
        let blocks: Vec<Option<f64>> = blocks.borrow().iter().map(Value::number).collect();
        network.insert("resnet_layers".to_owned(), blocks.iter().flatten().map(|count| *count as u64).collect());
    }
    Ok(pretty(&Json::Object(network)))
}

fn task(settings: &Settings<'_>) -> Result<String, ImportError> {
    let mut task: Json = serde_json::from_str(DEFAULT_TASK).unwrap_or_default();
    for option in ["patch_image_size", "max_src_length"] {
        if settings.get(option).is_some() {
            task["model"][option] = settings.number(option)?;
        }
    }
    if let Some(imagenet) = settings.get("imagenet_default_mean_and_std").and_then(|value| value.truth()) {
        task["model"]["imagenet_default_mean_and_std"] = json!(imagenet);
    }
    if let Some(prompt) = settings.get("prompt_type").and_then(|value| value.text().map(str::to_owned)) {
        task["model"]["prompt_type"] = json!(prompt);
    }
    Ok(pretty(&task))
}

fn answers(settings: &Settings<'_>) -> Result<String, ImportError> {
    match settings.get("ans2label_dict").and_then(|value| value.text().map(str::to_owned)) {
        Some(written) => match serde_json::from_str::<Json>(&written) {
            Ok(answers) => Ok(pretty(&answers)),
            Err(error) => Err(settings.refuse("ans2label_dict", written, error.to_string())),
        },
        None => Ok(DEFAULT_ANSWERS.to_owned()),
    }
}

fn pretty(json: &Json) -> String {
    format!("{json:#}\n")
}
