//! From every published format to a served version; and whatever may be wrong with one costs one clear
//! error, and leaves nothing behind.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use ofa_stream::{
    ofa::{NetworkConfig, wanted_tensors},
    store::{ImportOptions, Inventory, Thoroughness, VersionFolder, Watch, import},
    weights::{Precision, Weights},
};
use safetensors::Dtype;
use tempfile::TempDir;

use crate::{
    formats::{
        Python, Tensors, copy_texts, fairseq_settings, fairseq_tensors, golden_tensors, state,
        write_fairseq_dictionary, write_legacy_torch, write_safetensors, write_shards, write_torch,
    },
    golden::a_version_agrees_with_the_reference,
    support::{import_into, json, repository},
};

/// A published folder whose weights this writes.
fn folder(write: impl FnOnce(&Path)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy_texts(folder.path());
    write(folder.path());
    folder
}

/// A published folder with changed tensors.
fn altered(change: impl FnOnce(&mut Tensors)) -> TempDir {
    let mut tensors = golden_tensors();
    change(&mut tensors);
    folder(|path| write_safetensors(&path.join("model.safetensors"), &tensors))
}

fn fairseq(change: &[(&str, Python<'static>)], nested: bool) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tensors = fairseq_tensors(&golden_tensors());
    let settings = fairseq_settings(change);
    let task = [("patch_image_size", Python::Int(96)), ("max_src_length", Python::Int(80))];
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

/// The error of an import, without the folder, which differs from run to run; and nothing is left.
fn refusal(checkpoint: &TempDir) -> String {
    refusal_of(checkpoint.path(), |_| {}).replace(&checkpoint.path().display().to_string(), "FOLDER")
}

fn refusal_of(path: &Path, change: impl FnOnce(&mut ImportOptions)) -> String {
    let models = tempfile::tempdir().unwrap();
    let error = import_into(models.path(), path, change).unwrap_err();
    assert_eq!(left(models.path()), Vec::<String>::new(), "{error}");
    error
}

/// What a folder of versions holds but its lock.
fn left(models: &Path) -> Vec<String> {
    let entries = fs::read_dir(models).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != ".lock").collect()
}

fn agrees(checkpoint: &Path) {
    let models = tempfile::tempdir().unwrap();
    import_into(models.path(), checkpoint, |_| {}).unwrap_or_else(|error| panic!("{error}"));
    let version = models.path().join("v");
    a_version_agrees_with_the_reference("dev", models, &version);
}

#[test]
fn every_layout_of_a_folder_gives_the_reference_figures() {
    let tensors = golden_tensors();
    let layouts: [(&str, Box<dyn Fn(&Path)>); 5] = [
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
fn tensors_that_do_not_fit_are_named_all_at_once() {
    let checkpoint = altered(|tensors| {
        tensors.remove("encoder.layers.1.fc1.bias").unwrap();
        tensors.get_mut("decoder.layer_norm.weight").unwrap().1 = vec![4, 8];
        tensors.get_mut("decoder.image_pos_ln.bias").unwrap().1 = vec![2, 16];
        let spare = tensors["encoder.image_proj.bias"].clone();
        tensors.insert("encoder.image_projection.bias".to_owned(), spare);
    });
    insta::assert_snapshot!(refusal(&checkpoint));
}

#[test]
fn values_that_are_no_weights_are_refused_by_the_tensors_name() {
    let set = |name: &'static str, bytes: [u8; 4]| {
        move |tensors: &mut Tensors| tensors.get_mut(name).unwrap().2[..4].copy_from_slice(&bytes)
    };
    let not_a_number = altered(set("encoder.pos_ln.weight", f32::NAN.to_le_bytes()));
    assert!(refusal(&not_a_number).contains("encoder.pos_ln.weight holds a value that is not finite"));
    let integers = altered(|tensors| tensors.get_mut("encoder.pos_ln.bias").unwrap().0 = Dtype::I32);
    assert!(refusal(&integers).contains("encoder.pos_ln.bias holds I32, expected F32, F16 or BF16"));
    let large = altered(set("encoder.pos_ln.weight", 1e6_f32.to_le_bytes()));
    let error = refusal_of(large.path(), |options| options.dtype = Precision::F16);
    assert!(error.contains("encoder.pos_ln.weight") && error.contains("--dtype f32"), "{error}");
}

#[test]
fn a_pickle_that_asks_for_code_is_refused_by_name_and_nothing_runs() {
    let witness = tempfile::tempdir().unwrap();
    let touched = witness.path().join("touched");
    let tensors = golden_tensors();
    for write in [write_torch, write_legacy_torch] {
        let Python::Dict(mut saved) = state(&tensors) else { unreachable!() };
        saved.push(("hook".to_owned(), Python::Call("posix", "system", format!("touch {}", touched.display()))));
        let checkpoint = folder(|path| write(&path.join("pytorch_model.bin"), &tensors, &Python::Dict(saved)));
        let error = refusal(&checkpoint);
        assert!(error.contains("asks for `posix.system`") && error.contains("pytorch_model.bin"), "{error}");
        assert!(!touched.exists());
    }
}

#[test]
fn names_that_point_elsewhere_are_refused() {
    let outside = folder(|path| {
        let index = r#"{"weight_map": {"encoder.pos_ln.bias": "../../etc/passwd"}}"#;
        fs::write(path.join("model.safetensors.index.json"), index).unwrap();
    });
    assert!(refusal(&outside).contains("`../../etc/passwd` is no file of this folder"));
    let answers = altered(|_| {});
    let task = fs::read_to_string(answers.path().join("configuration.json")).unwrap();
    let task = task.replace("answer2label.json", "../answer2label.json");
    fs::write(answers.path().join("configuration.json"), task).unwrap();
    assert!(refusal(&answers).contains("it must name a file of the version folder"));
    let archive = folder(|path| {
        let mut archive = zip::ZipWriter::new(fs::File::create(path.join("pytorch_model.bin")).unwrap());
        archive.start_file("archive/../../evil/data.pkl", zip::write::SimpleFileOptions::default()).unwrap();
        archive.finish().unwrap();
    });
    assert!(refusal(&archive).contains("points outside of it"), "{}", refusal(&archive));
    for name in ["../up", ".hidden", "a/b", "", "a b"] {
        assert!(name.parse::<ofa_stream::message::VersionName>().is_err(), "{name:?}");
    }
}

/// A path of the folder, and what stands there instead; without it, the file is removed.
type Change = (&'static str, Option<&'static str>);

#[test]
fn a_broken_text_file_is_refused_by_its_name() {
    let cases: [(Change, &str); 9] = [
        (("config.json", Some("{")), "config.json: EOF"),
        (("config.json", Some(r#"{"d_model": 32, "share_attn_bias": true}"#)), "`share_attn_bias` is true"),
        (("configuration.json", Some("[]")), "configuration.json"),
        (("vocab.json", None), "vocab.json"),
        (("vocab.json", Some(r#"{"<s>":0,"<pad>":1,"</s>":2,"<unk>":3}"#)), "the 9772 rows of vocab_size need 580"),
        (("merges.txt", Some("#version: 0.2\na b c\n")), "merges.txt line 2"),
        (("answer2label.json", Some(r#"{"no":0,"yes":1,"perhaps":2}"#)), "answer `perhaps`"),
        (("answer2label.json", Some(r#"{"no":0,"yes":1}"#)), "it must name yes, no and maybe"),
        (("model.safetensors", None), "it has neither model.safetensors"),
    ];
    for ((name, content), words) in cases {
        let checkpoint = altered(|_| {});
        let path = checkpoint.path().join(name);
        match content {
            Some(content) => fs::write(path, content).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        let error = refusal(&checkpoint);
        assert!(error.contains(words), "{name}: {error}");
    }
    let disagrees = altered(|_| {});
    let config = fs::read_to_string(disagrees.path().join("config.json")).unwrap();
    fs::write(disagrees.path().join("config.json"), config.replace("\"d_model\": 32", "\"d_model\": 64")).unwrap();
    insta::assert_snapshot!(refusal(&disagrees));
}

#[test]
fn a_file_that_is_cut_off_is_refused_wherever_it_is_cut() {
    let tensors = golden_tensors();
    let writers: [(&str, fn(&Path, &Tensors)); 3] = [
        ("model.safetensors", write_safetensors),
        ("pytorch_model.bin", |path, tensors| write_torch(path, tensors, &state(tensors))),
        ("pytorch_model.bin", |path, tensors| write_legacy_torch(path, tensors, &state(tensors))),
    ];
    for (name, write) in writers {
        let checkpoint = folder(|path| write(&path.join(name), &tensors));
        let whole = fs::read(checkpoint.path().join(name)).unwrap();
        for length in [0, 3, 100, 10_000, whole.len() / 2, whole.len() - 1] {
            fs::write(checkpoint.path().join(name), &whole[..length]).unwrap();
            let error = refusal(&checkpoint);
            assert!(error.contains(name), "{length} bytes: {error}");
        }
    }
}

#[test]
fn settings_of_a_training_run_that_are_not_implemented_are_refused() {
    let cases: [(&str, Python<'static>, &str); 5] = [
        ("scale_resids", Python::Bool(true), "scale_resids = true: only false"),
        ("disable_entangle", Python::Bool(false), "disable_entangle = false: only true"),
        ("sync_bn", Python::Bool(true), "sync_bn = true: only false"),
        ("activation_fn", Python::Text("relu".to_owned()), "activation_fn = relu: only gelu"),
        ("encoder_layers", Python::Int(3), "encoder.layers.2."),
    ];
    for (option, value, words) in cases {
        let error = refusal(&fairseq(&[(option, value)], true));
        assert!(error.contains(words), "{option}: {error}");
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
fn a_folder_without_a_task_is_served_as_the_scripts_of_ofa_do() {
    let checkpoint = altered(|_| {});
    for name in ["configuration.json", "answer2label.json"] {
        fs::remove_file(checkpoint.path().join(name)).unwrap();
    }
    let models = tempfile::tempdir().unwrap();
    import_into(models.path(), checkpoint.path(), |_| {}).unwrap();
    let version = VersionFolder::open(&models.path().join("v"), Thoroughness::Hashes).unwrap();
    assert_eq!((version.definition.task.patch_image_size, version.definition.task.max_src_length), (480, 80));
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
    };
    let progress = |done: u64, total: u64| cancelled.store(done > total / 2, Ordering::Relaxed);
    let error = import(&golden, &options, Watch { progress: &progress, cancelled: &cancelled }).unwrap_err();
    assert!(error.to_string().contains("cancelled"), "{error}");
    assert_eq!(left(models.path()), ["v"]);
    let inventory = Inventory::open(models.path()).unwrap();
    assert_eq!(inventory.entry(&"v".parse().unwrap()).unwrap().manifest, first);
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
