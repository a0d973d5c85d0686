//! Every tensor of a checkpoint is accounted for, and every file of a version folder.

use std::{collections::BTreeMap, fs, path::Path};

use ofa_stream::{
    engine::{Model, ModelOptions, VersionFolder},
    message::Device,
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::support::repository;

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A copy of the golden version whose tensors were changed.
fn altered(change: impl FnOnce(&mut Tensors)) -> tempfile::TempDir {
    let golden = repository("testdata/golden/dev");
    let copy = tempfile::tempdir().unwrap();
    for name in ["config.json", "configuration.json", "vocab.json", "merges.txt", "answer2label.json"] {
        fs::copy(golden.join(name), copy.path().join(name)).unwrap();
    }
    let bytes = fs::read(golden.join("model.safetensors")).unwrap();
    let whole = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Tensors = whole
        .iter()
        .map(|(name, view)| (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
        .collect();
    change(&mut tensors);
    let views: BTreeMap<&str, TensorView<'_>> = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap()))
        .collect();
    safetensors::serialize_to_file(&views, None, &copy.path().join("model.safetensors")).unwrap();
    copy
}

fn load(folder: &Path) -> Result<Model, String> {
    let version = VersionFolder::read(folder).map_err(|error| error.to_string())?;
    let options = ModelOptions { device: Device::Flex, bias_cache_bytes: 1 << 20 };
    Model::load(folder, &version, options).map_err(|error| error.to_string())
}

/// The error without the folder, which differs from run to run.
fn refusal(folder: &tempfile::TempDir) -> String {
    load(folder.path()).err().unwrap().replace(&folder.path().display().to_string(), "FOLDER")
}

fn floats(tensors: &Tensors, name: &str) -> Vec<f32> {
    tensors[name].2.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
}

#[test]
fn tensors_that_do_not_fit_are_named_all_at_once() {
    let folder = altered(|tensors| {
        tensors.remove("encoder.layers.1.fc1.bias").unwrap();
        tensors.get_mut("decoder.layer_norm.weight").unwrap().1 = vec![4, 8];
        tensors.get_mut("decoder.image_pos_ln.bias").unwrap().1 = vec![2, 16];
        let spare = tensors["encoder.image_proj.bias"].clone();
        tensors.insert("encoder.image_projection.bias".to_owned(), spare);
        let whole = tensors.get_mut("encoder.pos_ln.bias").unwrap();
        *whole = (Dtype::I32, whole.1.clone(), whole.2.clone());
        tensors.get_mut("encoder.pos_ln.weight").unwrap().2[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    insta::assert_snapshot!(refusal(&folder));
}

#[test]
fn buffers_that_follow_from_the_configuration_may_be_there() {
    let folder = altered(|tensors| {
        let buffer = (Dtype::I64, vec![2, 2], vec![0; 32]);
        for name in ["encoder.token_rp_bucket", "decoder.image_rp_bucket", "decoder.image_position_idx"] {
            tensors.insert(name.to_owned(), buffer.clone());
        }
        tensors.insert("encoder.embed_images.bn1.num_batches_tracked".to_owned(), (Dtype::I64, vec![], vec![0; 8]));
    });
    assert!(load(folder.path()).is_ok());
}

#[test]
fn names_that_the_reference_tolerates_are_read() {
    let folder = altered(|tensors| {
        let all = std::mem::take(tensors);
        tensors.extend(
            all.into_iter()
                .map(|(name, tensor)| (format!("model.{}", name.replace("pos_ln.weight", "pos_ln.gamma")), tensor)),
        );
    });
    assert!(load(folder.path()).is_ok());
    let folder = altered(|tensors| tensors.retain(|name, _| !name.starts_with("decoder.code_layernorm_embedding")));
    assert!(load(folder.path()).is_ok(), "a tensor that nothing reads may be absent");
}

#[test]
fn any_subset_of_the_shared_matrix_will_do_and_half_precision_too() {
    for names in
        [&["decoder.embed_tokens.weight"][..], &["decoder.output_projection.weight", "encoder.embed_tokens.weight"]]
    {
        let folder = altered(|tensors| {
            let shared = tensors.remove("encoder.embed_tokens.weight").unwrap();
            for name in names {
                tensors.insert((*name).to_owned(), shared.clone());
            }
        });
        assert!(load(folder.path()).is_ok(), "{names:?}");
    }
    let folder = altered(|tensors| {
        let names: Vec<String> =
            tensors.iter().filter(|(_, tensor)| tensor.0 == Dtype::F32).map(|(name, _)| name.clone()).collect();
        for name in names {
            let halves = floats(tensors, &name)
                .into_iter()
                .flat_map(|value| burn::tensor::f16::from_f32(value).to_le_bytes())
                .collect();
            let shape = tensors[&name].1.clone();
            tensors.insert(name, (Dtype::F16, shape, halves));
        }
    });
    assert!(load(folder.path()).is_ok());
}

#[test]
fn a_broken_folder_is_refused_by_the_name_of_the_file() {
    let cases: [(&str, Option<&str>); 6] = [
        ("config.json", Some("{")),
        ("configuration.json", None),
        ("vocab.json", Some(r#"{"<s>":0,"<pad>":1,"</s>":2,"<unk>":3}"#)),
        ("merges.txt", Some("#version: 0.2\na b c\n")),
        ("answer2label.json", Some(r#"{"no":0,"yes":1,"perhaps":2}"#)),
        ("model.safetensors", None),
    ];
    for (name, content) in cases {
        let folder = altered(|_| {});
        let path = folder.path().join(name);
        match content {
            Some(content) => fs::write(path, content).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        let error = load(folder.path()).err().unwrap();
        assert!(error.contains(name), "{name}: {error}");
    }
    let folder = altered(|_| {});
    fs::write(folder.path().join("model.safetensors"), b"\x08\0\0\0\0\0\0\0 not json").unwrap();
    assert!(load(folder.path()).err().unwrap().contains("model.safetensors"));
}
