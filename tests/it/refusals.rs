//! Whatever may be wrong with a checkpoint costs one clear error, and leaves nothing behind.

use std::{fs, path::Path};

use ofa_stream::{store::ImportOptions, weights::Precision};
use safetensors::Dtype;
use tempfile::TempDir;

use crate::{
    formats::{
        Python, Tensors, altered, fairseq, folder, golden_tensors, left, state, write_legacy_torch, write_safetensors,
        write_shards, write_torch,
    },
    support::import_into,
};

/// The error of an import, without the folder, which differs from run to run; and nothing is left.
pub(crate) fn refusal(checkpoint: &TempDir) -> String {
    refusal_of(checkpoint.path(), |_| {}).replace(&checkpoint.path().display().to_string(), "FOLDER")
}

fn refusal_of(path: &Path, change: impl FnOnce(&mut ImportOptions)) -> String {
    let models = tempfile::tempdir().unwrap();
    let error = import_into(models.path(), path, change).unwrap_err();
    assert_eq!(left(models.path()), Vec::<String>::new(), "{error}");
    error
}

/// A path of the folder, and what stands there instead; without it, the file is removed.
type Change = (&'static str, Option<&'static str>);

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
fn a_pickle_that_asks_for_code_is_refused_by_name() {
    let tensors = golden_tensors();
    for write in [write_torch, write_legacy_torch] {
        let Python::Dict(mut saved) = state(&tensors) else { unreachable!() };
        saved.push(("hook".to_owned(), Python::Call("posix", "system", "touch hacked".to_owned())));
        let checkpoint = folder(|path| write(&path.join("pytorch_model.bin"), &tensors, &Python::Dict(saved)));
        let error = refusal(&checkpoint);
        assert!(error.contains("names `posix.system`") && error.contains("pytorch_model.bin"), "{error}");
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
    // An archive of PyTorch's first year that is also four little pickles: only the crate would see the rest.
    let polyglot = folder(|path| {
        let mut bytes = b"N.N.N.N.".to_vec();
        bytes.resize(257, 0);
        bytes.extend(b"ustar\x0000");
        bytes.resize(2048, 0);
        fs::write(path.join("pytorch_model.bin"), bytes).unwrap();
    });
    assert!(refusal(&polyglot).contains("neither of the two formats"), "{}", refusal(&polyglot));
    for name in ["../up", ".hidden", "a/b", "", "a b"] {
        assert!(name.parse::<ofa_stream::message::VersionName>().is_err(), "{name:?}");
    }
}

#[test]
fn a_broken_text_file_is_refused_by_its_name() {
    let cases: [(Change, &str); 11] = [
        (("config.json", Some(r#"{"d_model": 1048576}"#)), "`d_model` is 1048576: it must lie between"),
        (("config.json", Some(r#"{"vocab_size": 9772, "image_bucket_size": 2}"#)), "it gives 6 patches per side"),
        (("config.json", Some("{")), "config.json: EOF"),
        (("config.json", Some(r#"{"d_model": 32, "share_attn_bias": true}"#)), "`share_attn_bias` is true"),
        (("configuration.json", Some("[]")), "configuration.json"),
        (("vocab.json", None), "vocab.json"),
        (("vocab.json", Some(r#"{"<s>":0,"<pad>":1,"</s>":2,"<unk>":3}"#)), "the two files are not of one model"),
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
    let small = altered(|_| {});
    fs::write(small.path().join("vocab.json"), r#"{"<s>":0,"<pad>":1,"</s>":2,"<unk>":3}"#).unwrap();
    fs::write(small.path().join("merges.txt"), "#version: 0.2\n").unwrap();
    assert!(refusal(&small).contains("the 9772 rows of vocab_size need 580"), "{}", refusal(&small));
    for answers in ["manifest.toml", "vocab.json", ".answers.json"] {
        let checkpoint = altered(|_| {});
        let task = fs::read_to_string(checkpoint.path().join("configuration.json")).unwrap();
        let task = task.replace("answer2label.json", answers);
        fs::write(checkpoint.path().join("configuration.json"), task).unwrap();
        if answers != "vocab.json" {
            fs::copy(checkpoint.path().join("answer2label.json"), checkpoint.path().join(answers)).unwrap();
        }
        let error = refusal(&checkpoint);
        assert!(error.contains("configuration.json") || error.contains("answer"), "{answers}: {error}");
    }
    let disagrees = altered(|_| {});
    let config = fs::read_to_string(disagrees.path().join("config.json")).unwrap();
    fs::write(disagrees.path().join("config.json"), config.replace("\"d_model\": 32", "\"d_model\": 64")).unwrap();
    insta::assert_snapshot!(refusal(&disagrees));
}

#[test]
fn merges_that_are_not_those_of_the_vocabulary_are_refused() {
    const POINTER: &str =
        "version https://git-lfs.github.com/spec/v1\noid sha256:0123456789abcdef0123456789abcdef\nsize 9\n";
    let whole = fs::read_to_string(altered(|_| {}).path().join("merges.txt")).unwrap();
    let cut: String = whole.lines().take(whole.lines().count() / 2).map(|line| format!("{line}\n")).collect();
    let first_line_gone = whole.split_once('\n').unwrap().1.to_owned();
    let cases = [
        (String::new(), "no merge makes"),
        ("#version: 0.2\n".to_owned(), "no merge makes"),
        (cut, "no merge makes"),
        (first_line_gone, "no merge makes"),
        ("#version: 0.2\n\u{120} zz\nqq ww\n".to_owned(), "line 2"),
        (POINTER.to_owned(), "Git LFS"),
        ("<!DOCTYPE html>\n<html><body>404</body></html>\n".to_owned(), "HTML"),
    ];
    for (merges, words) in cases {
        let checkpoint = altered(|_| {});
        fs::write(checkpoint.path().join("merges.txt"), &merges).unwrap();
        let error = refusal(&checkpoint);
        assert!(error.contains("merges.txt") && error.contains(words), "{words}: {error}");
    }
}

#[test]
fn files_that_are_not_what_their_names_say_are_named_for_what_they_are() {
    const POINTER: &str =
        "version https://git-lfs.github.com/spec/v1\noid sha256:0123456789abcdef0123456789abcdef\nsize 9\n";
    for name in ["model.safetensors", "vocab.json", "config.json"] {
        for (content, words) in [(POINTER, "Git LFS"), ("<!DOCTYPE html><title>Sign in</title>", "HTML")] {
            let checkpoint = altered(|_| {});
            fs::write(checkpoint.path().join(name), content).unwrap();
            let error = refusal(&checkpoint);
            assert!(error.contains(name) && error.contains(words), "{name}: {error}");
        }
    }
}

#[test]
fn a_single_file_of_weights_next_to_an_index_is_refused_because_one_may_be_stale() {
    let tensors = golden_tensors();
    for (ending, write) in [("safetensors", "model.safetensors"), ("bin", "pytorch_model.bin")] {
        let checkpoint = folder(|path| {
            write_shards(path, "safetensors", &tensors, write_safetensors);
            match ending {
                "bin" => write_torch(&path.join(write), &tensors, &state(&tensors)),
                _ => write_safetensors(&path.join(write), &tensors),
            }
        });
        let error = refusal(&checkpoint);
        assert!(error.contains(write) && error.contains("model.safetensors.index.json"), "{error}");
    }
}

#[test]
fn a_file_that_is_cut_off_is_refused_wherever_it_is_cut() {
    let tensors = golden_tensors();
    type Write = fn(&Path, &Tensors);
    let writers: [(&str, Write); 3] = [
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
    let cases: [(&str, Python<'static>, &str); 7] = [
        ("no_scale_embedding", Python::Bool(false), "no_scale_embedding = false: only true"),
        ("share_all_embeddings", Python::Bool(false), "share_all_embeddings = false: only true"),
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
fn a_folder_without_a_task_is_taken_as_the_scripts_of_ofa_run_it() {
    let checkpoint = altered(|_| {});
    for name in ["configuration.json", "answer2label.json"] {
        fs::remove_file(checkpoint.path().join(name)).unwrap();
    }
    // The small golden network has no positions for pictures of that size.
    assert!(refusal(&checkpoint).contains("`model.patch_image_size` is 480"), "{}", refusal(&checkpoint));
}
