//! From every published format to a version, with the reference's figures; never half of one.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use ofa_stream::{
    engine::{ImageId, Judge, Model, ModelOptions, Prepared},
    message::Device,
    ofa::{NetworkConfig, wanted_tensors},
    store::{ImportOptions, Inventory, Thoroughness, VersionFolder, Watch, import},
    weights::{Precision, Weights, Writer},
};
use safetensors::Dtype;

use crate::{
    formats::{
        Python, altered, copy_texts, fairseq, fairseq_with, folder, golden_tensors, left, state, write_legacy_torch,
        write_safetensors, write_shards, write_torch,
    },
    golden::a_version_agrees_with_the_reference,
    refusals::refusal,
    support::{import_into, json, repository},
};

fn agrees(checkpoint: &Path) {
    let models = tempfile::tempdir().unwrap();
    import_into(models.path(), checkpoint, |_| {}).unwrap_or_else(|error| panic!("{error}"));
    let version = models.path().join("v");
    a_version_agrees_with_the_reference("dev", models, &version);
}

#[test]
fn every_layout_of_a_folder_gives_the_reference_figures() {
    let tensors = golden_tensors();
    type Write<'t> = Box<dyn Fn(&Path) + 't>;
    let layouts: [(&str, Write<'_>); 5] = [
        ("safetensors", Box::new(|path| write_safetensors(&path.join("model.safetensors"), &tensors))),
        ("sharded safetensors", Box::new(|path| write_shards(path, "safetensors", &tensors, write_safetensors))),
        ("torch", Box::new(|path| write_torch(&path.join("pytorch_model.bin"), &tensors, &state(&tensors)))),
        (
            "sharded torch",
            Box::new(|path| {
                write_shards(path, "bin", &tensors, |path, part| write_torch(path, part, &state(part)));
            }),
        ),
        (
            "legacy torch",
            Box::new(|path| write_legacy_torch(&path.join("pytorch_model.bin"), &tensors, &state(&tensors))),
        ),
    ];
    for (name, write) in layouts {
        println!("{name}");
        agrees(folder(|path| write(path)).path());
    }
}

#[test]
fn fairseq_files_give_the_reference_figures() {
    for nested in [true, false] {
        agrees(fairseq(&[], nested).path());
    }
    // The file itself, and the vocabulary in the other layout, from another folder.
    let checkpoint = fairseq(&[], true);
    let tokenizer = tempfile::tempdir().unwrap();
    copy_texts(tokenizer.path());
    for name in ["dict.txt", "encoder.json", "vocab.bpe"] {
        fs::remove_file(checkpoint.path().join(name)).unwrap();
    }
    let file = checkpoint.path().join("snli_ve_base_best.pt");
    let models = tempfile::tempdir().unwrap();
    let manifest =
        import_into(models.path(), &file, |options| options.tokenizer = Some(tokenizer.path().to_owned())).unwrap();
    assert_eq!((manifest.source.layout.as_str(), manifest.source.name.as_str()), ("fairseq", "snli_ve_base_best.pt"));
    let version = models.path().join("v");
    a_version_agrees_with_the_reference("dev", models, &version);
    let error = refusal(&checkpoint);
    assert!(error.contains("--tokenizer") && error.contains("utils/BPE"), "{error}");
}

#[test]
fn paths_that_other_pythons_and_systems_pickle_are_data() {
    let classes = [
        ("pathlib", "PosixPath"),
        ("pathlib._local", "PosixPath"),
        ("pathlib", "WindowsPath"),
        ("pathlib", "PureWindowsPath"),
    ];
    for (module, name) in classes {
        let path = Python::Call(module, name, "checkpoints/run-1".to_owned());
        let checkpoint = fairseq(&[("save_dir", path)], true);
        let models = tempfile::tempdir().unwrap();
        import_into(models.path(), checkpoint.path(), |_| {})
            .unwrap_or_else(|error| panic!("{module}.{name}: {error}"));
    }
    // As Python itself wrote them, without tensors: both get as far as their settings.
    for file in ["python-3.11.pt", "python-3.13.pt"] {
        let checkpoint = repository("testdata/cases/checkpoints").join(file);
        let tokenizer = Some(repository("testdata/golden/dev"));
        let models = tempfile::tempdir().unwrap();
        let error = import_into(models.path(), &checkpoint, |options| options.tokenizer = tokenizer).unwrap_err();
        assert!(error.contains("vocab_size"), "{file}: {error}");
    }
}

#[test]
fn the_answers_of_a_training_run_are_those_that_are_served_in_their_order() {
    let models = tempfile::tempdir().unwrap();
    let checkpoint = fairseq_with(&[], true, r#"{"maybe": 0, "yes": 1, "no": 2}"#);
    import_into(models.path(), checkpoint.path(), |_| {}).unwrap();
    let version = VersionFolder::open(&models.path().join("v"), Thoroughness::Hashes).unwrap();
    let labels: Vec<&str> = version.definition.labels.iter().map(|label| label.as_str()).collect();
    assert_eq!(labels, ["maybe", "yes", "no"]);
    let foreign = fairseq_with(&[], true, r#"{"entailed": 0, "no": 1, "maybe": 2}"#);
    assert!(refusal(&foreign).contains("answer `entailed` is none of yes, no and maybe"), "{}", refusal(&foreign));
}

#[test]
fn files_that_pytorch_itself_wrote_are_read() {
    // Made by scripts/make-torch-files with PyTorch 2.4.1.
    for name in ["zip.pt", "legacy.pt", "protocol4.pt"] {
        let weights = Weights::open(&[repository("testdata/torch").join(name)]).unwrap();
        let floats = |name: &str| {
            let (_, tensor) = weights.iter().find(|(found, _)| *found == name).unwrap();
            (tensor.shape().to_vec(), tensor.floats().unwrap())
        };
        assert_eq!(floats("single"), (vec![2, 3], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), "{name}");
        assert_eq!(floats("half"), (vec![3], vec![0.5, -1.0, 2.0]), "{name}");
        assert_eq!(floats("brain"), (vec![2], vec![1.0, -2.0]), "{name}");
        assert_eq!(floats("transposed"), (vec![3, 2], vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0]), "{name}");
        let model = weights.extras().unwrap().get("cfg").unwrap().get("model").unwrap();
        assert_eq!(model.get("encoder_layers").unwrap().number(), Some(6.0), "{name}");
        assert_eq!(model.get("scale_attn").unwrap().truth(), Some(true), "{name}");
    }
}

#[test]
fn half_and_brain_floats_are_read_on_every_cpu_device_and_half_is_written() {
    let convert = |dtype: Dtype, narrow: fn(f32) -> [u8; 2]| {
        altered(|tensors| {
            for (found, _, bytes) in tensors.values_mut().filter(|(found, ..)| *found == Dtype::F32) {
                let values = bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap()));
                *bytes = values.flat_map(narrow).collect();
                *found = dtype;
            }
        })
    };
    let half = convert(Dtype::F16, |value| burn::tensor::f16::from_f32(value).to_le_bytes());
    let brain = convert(Dtype::BF16, |value| burn::tensor::bf16::from_f32(value).to_le_bytes());
    for (checkpoint, tolerance) in [(&half, 2e-3), (&brain, 2e-2)] {
        for dtype in [Precision::F32, Precision::F16] {
            let models = tempfile::tempdir().unwrap();
            let manifest = import_into(models.path(), checkpoint.path(), |options| options.dtype = dtype).unwrap();
            assert_eq!(manifest.dtype, dtype);
            let off = crate::golden::furthest_probability("dev", models);
            assert!(off < tolerance, "{dtype}: {off}");
        }
    }
}

#[test]
fn names_that_the_reference_tolerates_are_read() {
    let prefixed = altered(|tensors| {
        let all = std::mem::take(tensors);
        let renamed = |name: String| format!("model.{}", name.replace("pos_ln.weight", "pos_ln.gamma"));
        tensors.extend(all.into_iter().map(|(name, tensor)| (renamed(name), tensor)));
    });
    agrees(prefixed.path());
    let unused = altered(|tensors| tensors.retain(|name, _| !name.starts_with("decoder.code_layernorm_embedding")));
    agrees(unused.path());
    let buffers = altered(|tensors| {
        let buffer = (Dtype::I64, vec![2, 2], vec![0; 32]);
        for name in ["encoder.token_rp_bucket", "decoder.image_rp_bucket", "decoder.image_position_idx"] {
            tensors.insert(name.to_owned(), buffer.clone());
        }
        tensors.insert("encoder.embed_images.bn1.num_batches_tracked".to_owned(), (Dtype::I64, vec![], vec![0; 8]));
    });
    agrees(buffers.path());
    for names in
        [&["decoder.embed_tokens.weight"][..], &["decoder.output_projection.weight", "encoder.embed_tokens.weight"]]
    {
        let shared = altered(|tensors| {
            let shared = tensors.remove("encoder.embed_tokens.weight").unwrap();
            tensors.extend(names.iter().map(|name| ((*name).to_owned(), shared.clone())));
        });
        agrees(shared.path());
    }
}

#[test]
fn an_import_never_shows_half_of_a_version() {
    let models = tempfile::tempdir().unwrap();
    let golden = repository("testdata/golden/dev");
    let first = import_into(models.path(), &golden, |_| {}).unwrap();
    assert!(import_into(models.path(), &golden, |_| {}).unwrap_err().contains("--replace"));
    // Cancelled in the middle, with a version to be replaced: that one stays.
    let cancelled = AtomicBool::new(false);
    let options = ImportOptions {
        models: models.path().to_owned(),
        name: "v".parse().unwrap(),
        dtype: Precision::F16,
        tokenizer: None,
        replace: true,
        pulled: None,
        temperature: 1.0,
        trained: None,
        languages: Vec::new(),
    };
    let progress = |done: u64, total: u64| cancelled.store(done > total / 2, Ordering::Relaxed);
    let error = import(&golden, &options, Watch { progress: &progress, cancelled: &cancelled }).unwrap_err();
    assert!(error.to_string().contains("cancelled"), "{error}");
    assert_eq!(left(models.path()), ["v"]);
    let inventory = Inventory::open(models.path()).unwrap();
    assert_eq!(inventory.entry(&"v".parse().unwrap()).unwrap().manifest, first);
    // Killed between the two moves of a replacement: the old one comes back, whatever is imported next.
    fs::rename(models.path().join("v"), models.path().join(".replaced-v")).unwrap();
    import_into(models.path(), &golden, |options| options.name = "other".parse().unwrap()).unwrap();
    assert_eq!(Inventory::open(models.path()).unwrap().names().len(), 2);
    Inventory::open(models.path()).unwrap().verify(&"v".parse().unwrap()).unwrap();
    Inventory::open(models.path()).unwrap().remove(&"other".parse().unwrap()).unwrap();
    // What a killed process left is cleared away, and the new version takes the old one's place.
    fs::create_dir(models.path().join(".importing-v")).unwrap();
    fs::write(models.path().join(".importing-v/weights.safetensors"), "half").unwrap();
    let second = import_into(models.path(), &golden, |options| {
        options.replace = true;
        options.dtype = Precision::F16;
    });
    assert_ne!(second.unwrap().digest(), first.digest());
    assert_eq!(left(models.path()), ["v"]);
    assert_eq!(Inventory::open(models.path()).unwrap().names().len(), 1);
}

#[test]
fn the_same_checkpoint_gives_the_same_digest_in_every_format() {
    let tensors = golden_tensors();
    let torch = folder(|path| write_torch(&path.join("pytorch_model.bin"), &tensors, &state(&tensors)));
    let digests: Vec<String> = [repository("testdata/golden/dev"), torch.path().to_owned()]
        .iter()
        .map(|checkpoint: &PathBuf| {
            let models = tempfile::tempdir().unwrap();
            import_into(models.path(), checkpoint, |_| {}).unwrap().digest()
        })
        .collect();
    assert_eq!(digests[0], digests[1]);
}

/// A vocabulary of the published size whose answers are one token each, and the merges that make them.
fn write_published_texts(folder: &Path, config: &str) {
    let merges = ["Ġ y", "Ġy e", "Ġye s", "Ġ n", "Ġn o", "Ġ m", "Ġm a", "Ġma y", "Ġmay b", "Ġmayb e"];
    let mut vocabulary = serde_json::Map::new();
    let special = ["<s>", "<pad>", "</s>", "<unk>", "Ġ"].map(str::to_owned).into_iter();
    let bytes = (b'!'..=b'~').map(|byte| char::from(byte).to_string());
    let merged = merges.iter().map(|merge| merge.replace(' ', ""));
    let fillers = (0..).map(|index| format!("madeupword{index}"));
    for (id, token) in special.chain(bytes).chain(merged).chain(fillers).take(50_265).enumerate() {
        vocabulary.insert(token, id.into());
    }
    fs::write(folder.join("vocab.json"), serde_json::to_string(&vocabulary).unwrap()).unwrap();
    fs::write(folder.join("merges.txt"), format!("#version: 0.2\n{}\n", merges.join("\n"))).unwrap();
    fs::write(folder.join("config.json"), config).unwrap();
}

#[test]
fn a_whole_checkpoint_of_the_tiny_size_is_imported_loaded_and_answers() {
    let config = fs::read_to_string(repository("testdata/golden/real_shapes/config_tiny.json")).unwrap();
    let wanted = wanted_tensors(&NetworkConfig::from_json(&config).unwrap()).unwrap();
    let checkpoint = tempfile::tempdir().unwrap();
    write_published_texts(checkpoint.path(), &config);
    let shapes = wanted.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice()));
    let mut writer = Writer::create(&checkpoint.path().join("model.safetensors"), Precision::F32, shapes).unwrap();
    for tensor in &wanted {
        let around =
            if tensor.name.ends_with("running_var") || tensor.name.ends_with("norm.weight") { 1.0 } else { 0.0 };
        let values: Vec<f32> =
            (0..tensor.shape.iter().product()).map(|i: usize| around + (i % 997) as f32 / 9970.0 - 0.05).collect();
        writer.write(&values).unwrap();
    }
    writer.finish().unwrap();
    let models = tempfile::tempdir().unwrap();
    let manifest = import_into(models.path(), checkpoint.path(), |_| {}).unwrap();
    assert_eq!((manifest.architecture.as_str(), manifest.parameters), ("tiny", 33_488_336));
    let version = VersionFolder::open(&models.path().join("v"), Thoroughness::Hashes).unwrap();
    let mut model = Model::load(&version, ModelOptions::on(Device::Flex)).unwrap();
    let sources = vec![version.definition.prompter.source_ids("a red mug", None)];
    let scores = model
        .judge(&[&Prepared { image: ImageId::of(b"grey"), pixels: vec![153; 3 * 480 * 480].into(), sources }])
        .remove(0)
        .unwrap()[0];
    assert!((scores.yes + scores.maybe + scores.no - 1.0).abs() < 1e-5, "{scores:?}");
}

#[test]
fn every_published_size_asks_for_exactly_the_tensors_that_are_published() {
    for size in ["tiny", "medium", "base", "large"] {
        let folder = repository("testdata/golden/real_shapes");
        let config = fs::read_to_string(folder.join(format!("config_{size}.json"))).unwrap();
        let wanted = wanted_tensors(&NetworkConfig::from_json(&config).unwrap()).unwrap();
        let mut wanted: Vec<(String, Vec<usize>)> =
            wanted.into_iter().map(|wanted| (wanted.name, wanted.shape)).collect();
        let listed = json(&folder.join(format!("{size}.json")));
        let mut published: Vec<(String, Vec<usize>)> = listed
            .as_array()
            .unwrap()
            .iter()
            .filter(|tensor| tensor["dtype"] != "int64")
            .map(|tensor| {
                let shape = tensor["shape"].as_array().unwrap().iter().map(|side| side.as_u64().unwrap() as usize);
                (tensor["name"].as_str().unwrap().to_owned(), shape.collect())
            })
            // Two more names of the shared matrix.
            .filter(|(name, _)| name != "decoder.embed_tokens.weight" && name != "decoder.output_projection.weight")
            .collect();
        wanted.sort();
        published.sort();
        assert_eq!(wanted, published, "{size}");
    }
}
