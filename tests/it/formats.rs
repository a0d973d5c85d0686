//! Checkpoints in every format that people have, made from a golden one.
//!
//! The pickles are written after Python's own: what `torch.save` gives for the same tensors was compared
//! with `pickletools` by hand, and `real_torch_files_are_read` reads some that PyTorch itself wrote.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::Path,
};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use tempfile::TempDir;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use crate::support::repository;

/// Type, shape and bytes by name.
pub(crate) type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// The text files of a published folder.
pub(crate) const TEXTS: [&str; 5] =
    ["config.json", "configuration.json", "vocab.json", "merges.txt", "answer2label.json"];

/// The tensors of the golden set `dev`.
pub(crate) fn golden_tensors() -> Tensors {
    let bytes = fs::read(repository("testdata/golden/dev/model.safetensors")).unwrap();
    let whole = SafeTensors::deserialize(&bytes).unwrap();
    whole
        .iter()
        .map(|(name, view)| (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
        .collect()
}

/// Copies the text files of the golden set `dev`.
pub(crate) fn copy_texts(folder: &Path) {
    for name in TEXTS {
        fs::copy(repository("testdata/golden/dev").join(name), folder.join(name)).unwrap();
    }
}

pub(crate) fn write_safetensors(path: &Path, tensors: &Tensors) {
    let views: BTreeMap<&str, TensorView<'_>> = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap()))
        .collect();
    safetensors::serialize_to_file(&views, None, path).unwrap();
}

/// Divides tensors over two files and writes the index over them.
pub(crate) fn write_shards(folder: &Path, ending: &str, tensors: &Tensors, write: impl Fn(&Path, &Tensors)) {
    let mut map = serde_json::Map::new();
    let stem = if ending == "safetensors" { "model" } else { "pytorch_model" };
    for shard in 0..2 {
        let name = format!("{stem}-0000{}-of-00002.{ending}", shard + 1);
        let part: Tensors = tensors
            .iter()
            .enumerate()
            .filter(|(index, _)| index % 2 == shard)
            .map(|(_, (name, tensor))| (name.clone(), tensor.clone()))
            .collect();
        map.extend(part.keys().map(|tensor| (tensor.clone(), name.clone().into())));
        write(&folder.join(&name), &part);
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map});
    fs::write(folder.join(format!("{stem}.{ending}.index.json")), index.to_string()).unwrap();
}

/// A Python value, as far as checkpoints have them.
pub(crate) enum Python<'t> {
    None,
    Bool(bool),
    Int(i32),
    Float(f64),
    Text(String),
    List(Vec<Python<'t>>),
    Dict(Vec<(String, Python<'t>)>),
    Namespace(Vec<(String, Python<'t>)>),
    /// Key of the storage, and the tensor.
    Tensor(String, &'t (Dtype, Vec<usize>, Vec<u8>)),
    /// A call of a function with one text.
    Call(&'static str, &'static str, String),
}

impl Python<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::None => out.push(b'N'),
            Self::Bool(truth) => out.push(if *truth { 0x88 } else { 0x89 }),
            Self::Int(number) => {
                out.push(b'J');
                out.extend(number.to_le_bytes());
            }
            Self::Float(number) => {
                out.push(b'G');
                out.extend(number.to_be_bytes());
            }
            Self::Text(text) => {
                out.push(b'X');
                out.extend((text.len() as u32).to_le_bytes());
                out.extend(text.as_bytes());
            }
            Self::List(items) => {
                out.extend(b"](");
                items.iter().for_each(|item| item.write(out));
                out.push(b'e');
            }
            Self::Dict(pairs) => {
                out.extend(b"}(");
                write_pairs(pairs, out);
                out.push(b'u');
            }
            Self::Namespace(pairs) => {
                out.extend(b"cargparse\nNamespace\n)\x81}(");
                write_pairs(pairs, out);
                out.extend(b"ub");
            }
            Self::Tensor(key, (dtype, shape, bytes)) => {
                let (storage, width) = match dtype {
                    Dtype::F32 => ("FloatStorage", 4),
                    Dtype::F16 => ("HalfStorage", 2),
                    Dtype::BF16 => ("BFloat16Storage", 2),
                    Dtype::I64 => ("LongStorage", 8),
                    other => panic!("no storage for {other:?}"),
                };
                out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
                Self::Text("storage".to_owned()).write(out);
                out.extend(format!("ctorch\n{storage}\n").bytes());
                Self::Text(key.clone()).write(out);
                Self::Text("cpu".to_owned()).write(out);
                Self::Int((bytes.len() / width) as i32).write(out);
                out.extend(b"tQ");
                Self::Int(0).write(out);
                let mut strides = vec![1; shape.len()];
                for axis in (0..shape.len().saturating_sub(1)).rev() {
                    strides[axis] = strides[axis + 1] * shape[axis + 1];
                }
                for sides in [shape, &strides] {
                    out.push(b'(');
                    sides.iter().for_each(|side| Self::Int(*side as i32).write(out));
                    out.push(b't');
                }
                out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
            }
            Self::Call(module, name, argument) => {
                out.extend(format!("c{module}\n{name}\n").bytes());
                Self::Text(argument.clone()).write(out);
                out.extend(b"\x85R");
            }
        }
    }

    fn pickled(&self) -> Vec<u8> {
        let mut out = b"\x80\x02".to_vec();
        self.write(&mut out);
        out.push(b'.');
        out
    }
}

fn write_pairs(pairs: &[(String, Python<'_>)], out: &mut Vec<u8>) {
    for (key, value) in pairs {
        Python::Text(key.clone()).write(out);
        value.write(out);
    }
}

/// A state dictionary; storages are numbered in the order of the names.
pub(crate) fn state(tensors: &Tensors) -> Python<'_> {
    let numbered = tensors.iter().enumerate();
    Python::Dict(
        numbered.map(|(key, (name, tensor))| (name.clone(), Python::Tensor(key.to_string(), tensor))).collect(),
    )
}

/// What `torch.save` writes since PyTorch 1.6: an archive of stored entries.
pub(crate) fn write_torch(path: &Path, tensors: &Tensors, saved: &Python<'_>) {
    let mut archive = ZipWriter::new(File::create(path).unwrap());
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut entry = |name: String, bytes: &[u8]| {
        archive.start_file(name, options).unwrap();
        archive.write_all(bytes).unwrap();
    };
    entry("archive/data.pkl".to_owned(), &saved.pickled());
    entry("archive/byteorder".to_owned(), b"little");
    for (key, (_, _, bytes)) in tensors.values().enumerate() {
        entry(format!("archive/data/{key}"), bytes);
    }
    entry("archive/version".to_owned(), b"3\n");
    archive.finish().unwrap();
}

/// What it wrote before: pickles one after the other, then the storages.
pub(crate) fn write_legacy_torch(path: &Path, tensors: &Tensors, saved: &Python<'_>) {
    let mut out = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.".to_vec();
    let system = [("protocol_version", Python::Int(1001)), ("little_endian", Python::Bool(true))];
    out.extend(Python::Dict(system.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()).pickled());
    out.extend(saved.pickled());
    // The list of keys, and then each storage behind its number of values.
    out.extend(b"\x80\x02](");
    (0..tensors.len()).for_each(|key| Python::Text(key.to_string()).write(&mut out));
    out.extend(b"e.");
    for (dtype, _, bytes) in tensors.values() {
        let width = dtype.bitsize() / 8;
        out.extend(((bytes.len() / width) as u64).to_le_bytes());
        out.extend(bytes);
    }
    fs::write(path, out).unwrap();
}

/// The names that OFA's own release has for the golden tensors.
pub(crate) fn fairseq_tensors(tensors: &Tensors) -> Tensors {
    let renamed = |name: &str| {
        let middle = if name.starts_with("encoder.layers") { "attn_ln" } else { "self_attn_ln" };
        name.replace("self_attn_mid_layer_norm", middle)
            .replace("cross_attn_mid_layer_norm", "cross_attn_ln")
            .replace("cross_attn_layer_norm", "encoder_attn_layer_norm")
            .replace(".cross_attn.", ".encoder_attn.")
            .replace("ffn_layer_norm", "ffn_layernorm")
    };
    let mut renamed: Tensors = tensors.iter().map(|(name, tensor)| (renamed(name), tensor.clone())).collect();
    for part in ["encoder", "decoder"] {
        renamed.insert(format!("{part}.version"), (Dtype::F32, vec![1], 3.0_f32.to_le_bytes().to_vec()));
        let shared = renamed["encoder.embed_tokens.weight"].clone();
        renamed.insert("decoder.output_projection.weight".to_owned(), shared);
    }
    renamed
}

/// The settings of a training run, as fairseq saves them beside the parameters.
pub(crate) fn fairseq_settings<'t>(change: &[(&str, Python<'t>)]) -> Vec<(String, Python<'t>)> {
    let config: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(repository("testdata/golden/dev/config.json")).unwrap()).unwrap();
    let number = |name: &str| Python::Int(config[name].as_i64().unwrap() as i32);
    let blocks = config["resnet_layers"].as_array().unwrap();
    let blocks = blocks.iter().map(|count| Python::Int(count.as_i64().unwrap() as i32)).collect();
    let mut settings = vec![
        ("_name", Python::Text("ofa_tiny".to_owned())),
        ("encoder_embed_dim", number("d_model")),
        ("encoder_layers", number("encoder_layers")),
        ("decoder_layers", number("decoder_layers")),
        ("encoder_attention_heads", number("encoder_attention_heads")),
        ("decoder_attention_heads", number("decoder_attention_heads")),
        ("encoder_ffn_embed_dim", number("encoder_ffn_dim")),
        ("decoder_ffn_embed_dim", number("decoder_ffn_dim")),
        ("max_source_positions", number("max_position_embeddings")),
        ("attn_scale_factor", Python::Float(2.0)),
        ("token_bucket_size", number("token_bucket_size")),
        ("image_bucket_size", number("image_bucket_size")),
        ("resnet_type", Python::Text("resnet18".to_owned())),
        ("resnet_base_planes", number("resnet_base_planes")),
        ("resnet_layers", Python::List(blocks)),
        ("activation_fn", Python::Text("gelu".to_owned())),
        ("dropout", Python::Float(0.1)),
        ("encoder_layerdrop", Python::None),
        ("scale_resids", Python::Bool(false)),
    ];
    for flag in [
        "scale_attn",
        "scale_fc",
        "scale_heads",
        "encoder_normalize_before",
        "decoder_normalize_before",
        "layernorm_embedding",
        "patch_layernorm_embedding",
        "add_type_embedding",
        "disable_entangle",
    ] {
        settings.push((flag, Python::Bool(true)));
    }
    let mut settings: Vec<(String, Python<'t>)> =
        settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    for (name, value) in change {
        settings.retain(|(existing, _)| existing != name);
        let value = match value {
            Python::Bool(truth) => Python::Bool(*truth),
            Python::Int(number) => Python::Int(*number),
            Python::Text(text) => Python::Text(text.clone()),
            Python::Call(module, name, argument) => Python::Call(module, name, argument.clone()),
            _ => continue,
        };
        settings.push(((*name).to_owned(), value));
    }
    settings
}

/// The dictionary of fairseq, from which the golden vocabulary follows: GPT-2's ids shuffled.
pub(crate) fn write_fairseq_dictionary(folder: &Path) {
    let vocabulary: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&fs::read_to_string(repository("testdata/golden/dev/vocab.json")).unwrap()).unwrap();
    let mut tokens: Vec<(u64, &String)> = vocabulary.iter().map(|(token, id)| (id.as_u64().unwrap(), token)).collect();
    tokens.sort_unstable();
    let special = |token: &str| ["<s>", "<pad>", "</s>", "<unk>", "<mask>"].contains(&token);
    let mut encoder = serde_json::Map::new();
    let mut lines = String::new();
    for (id, token) in tokens.into_iter().filter(|(_, token)| !special(token)) {
        if token.starts_with("madeupword") {
            lines.push_str(&format!("{token} 0\n"));
        } else {
            let gpt2 = (id * 7919) % 100_003;
            encoder.insert(token.clone(), gpt2.into());
            lines.push_str(&format!("{gpt2} {}\n", 1_000_000 - id));
        }
    }
    fs::write(folder.join("dict.txt"), lines).unwrap();
    fs::write(folder.join("encoder.json"), serde_json::to_string(&encoder).unwrap()).unwrap();
    fs::copy(repository("testdata/golden/dev/merges.txt"), folder.join("vocab.bpe")).unwrap();
}

/// A published folder whose weights this writes.
pub(crate) fn folder(write: impl FnOnce(&Path)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy_texts(folder.path());
    write(folder.path());
    folder
}

/// A published folder with changed tensors.
pub(crate) fn altered(change: impl FnOnce(&mut Tensors)) -> TempDir {
    let mut tensors = golden_tensors();
    change(&mut tensors);
    folder(|path| write_safetensors(&path.join("model.safetensors"), &tensors))
}

/// A checkpoint of OFA's own release with changed settings; newer files nest them, older ones do not.
pub(crate) fn fairseq(change: &[(&str, Python<'static>)], nested: bool) -> TempDir {
    fairseq_with(change, nested, r#"{"no": 0, "yes": 1, "maybe": 2}"#)
}

/// The same with answers of its own.
pub(crate) fn fairseq_with(change: &[(&str, Python<'static>)], nested: bool, answers: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tensors = fairseq_tensors(&golden_tensors());
    let settings = fairseq_settings(change);
    let task = [
        ("patch_image_size", Python::Int(96)),
        ("max_src_length", Python::Int(80)),
        ("ans2label_dict", Python::Text(answers.to_owned())),
    ];
    let task = task.into_iter().map(|(name, value)| (name.to_owned(), value));
    let saved = if nested {
        let config = [("model", Python::Namespace(settings)), ("task", Python::Dict(task.collect()))];
        let config = config.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        vec![("args", Python::None), ("cfg", Python::Dict(config)), ("model", state(&tensors))]
    } else {
        let all = settings.into_iter().chain(task).collect();
        vec![("args", Python::Namespace(all)), ("model", state(&tensors))]
    };
    let saved = Python::Dict(saved.into_iter().map(|(name, value)| (name.to_owned(), value)).collect());
    write_torch(&folder.path().join("snli_ve_base_best.pt"), &tensors, &saved);
    write_fairseq_dictionary(folder.path());
    folder
}

/// What a folder of versions holds but its lock.
pub(crate) fn left(models: &Path) -> Vec<String> {
    let entries = fs::read_dir(models).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != ".lock").collect()
}
