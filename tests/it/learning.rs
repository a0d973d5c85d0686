//! A data set made up, a version trained on it from nothing and further, and measured.

use std::{
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use ofa_stream::dataset::{self, Blind};
use serde_json::Value;

use crate::support::program;

const RECIPE: &str = r#"
seed = 3
steps = 450
pictures = 16
learning_rate = 3e-3
warm_up = 20
validate_every = 150
merges = 200
captions = { first_steps = 150, first_pictures = 16 }
[network]
d_model = 48
encoder_layers = 2
decoder_layers = 1
encoder_attention_heads = 3
decoder_attention_heads = 3
encoder_ffn_dim = 96
decoder_ffn_dim = 96
max_position_embeddings = 64
token_bucket_size = 32
image_bucket_size = 8
resnet_layers = [1, 1, 1]
resnet_base_planes = 8
[task]
patch_image_size = 64
max_src_length = 40
prompt = " {}?"
"#;

fn told(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

fn synth(folder: &Path, count: u32, seed: u32) {
    let mut command = program();
    command
        .args(["synth", "--world", "small", "--count", &count.to_string(), "--seed", &seed.to_string(), "--out"])
        .arg(folder);
    told(command);
}

fn train(folder: &Path, recipe: &str, out: &str, more: &[&str]) -> Command {
    std::fs::write(folder.join("recipe.toml"), recipe).unwrap();
    let mut command = program();
    command.arg("train").arg("--data").arg(folder.join("data")).arg("--config").arg(folder.join("recipe.toml"));
    command.arg("--out").arg(folder.join(out)).args(["--device", "flex"]).args(more);
    command
}

fn eval(folder: &Path, versions: &[&str], split: &str) -> Value {
    let mut command = program();
    command.args(["eval", "--json", "--split", split, "--data"]).arg(folder.join("data"));
    command.arg("--models-dir").arg(folder.join("models"));
    versions.iter().for_each(|version| {
        command.args(["--version", version]);
    });
    command.arg("--picture").arg(folder.join("eval.svg")).arg("--answers").arg(folder.join("answers.jsonl"));
    serde_json::from_str(&told(command)).unwrap()
}

#[test]
fn a_version_trained_from_nothing_and_one_trained_further_beat_the_blind() {
    let folder = tempfile::tempdir().unwrap();
    synth(&folder.path().join("data"), 24_000, 5);
    told(train(folder.path(), RECIPE, "models/first", &[]));
    let further = RECIPE
        .split("[network]")
        .next()
        .unwrap()
        .replace("steps = 450", "steps = 90")
        .replace("first_steps = 150", "first_steps = 0");
    let from = folder.path().join("models/first");
    told(train(folder.path(), &further, "models/further", &["--from", from.to_str().unwrap()]));
    let evaluation = eval(folder.path(), &["first", "further"], "test");
    let accuracy = |index: usize, at: &str| evaluation["versions"][index]["overall"]["interval"][at].as_f64().unwrap();
    let split = |name: &str| dataset::read(&folder.path().join(format!("data/{name}.jsonl"))).unwrap();
    let blind = Blind::measure(&split("train"), &split("test"));
    let blind = blind.words.max(blind.picture).max(blind.constant);
    assert!(accuracy(0, "low") > blind + 0.02, "{blind}: {evaluation:#}");
    assert!(accuracy(1, "low") > blind + 0.02, "{blind}: {evaluation:#}");
    assert_eq!(evaluation["pairs"][0]["all"], evaluation["versions"][0]["overall"]["all"]);
    assert!(std::fs::read_to_string(folder.path().join("eval.svg")).unwrap().contains("further"));
    let answers = std::fs::read_to_string(folder.path().join("answers.jsonl")).unwrap();
    let answers: Vec<Value> = answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (index, version) in ["first", "further"].into_iter().enumerate() {
        let of_version = answers.iter().filter(|answer| answer["version"] == version);
        let right = of_version.clone().filter(|answer| answer["result"] == answer["label"]).count();
        let share = &evaluation["versions"][index]["overall"];
        assert_eq!(
            (Some(of_version.count() as u64), Some(right as u64)),
            (share["all"].as_u64(), share["right"].as_u64())
        );
    }
    // Fitted on the validation split, kept in the manifest, a part of the digest.
    let manifest = std::fs::read_to_string(from.join("manifest.toml")).unwrap();
    assert!(manifest.contains("\ntemperature = ") && manifest.contains("[trained]"), "{manifest}");
}

#[test]
fn training_that_was_interrupted_goes_on_and_comes_to_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    synth(&folder.path().join("data"), 2_400, 6);
    let recipe = RECIPE
        .replace("steps = 450", "steps = 24")
        .replace("first_steps = 150", "first_steps = 12")
        .replace("warm_up = 20", "warm_up = 4")
        .replace("validate_every = 150", "validate_every = 8");
    told(train(folder.path(), &recipe, "models/whole", &[]));
    let mut running = train(folder.path(), &recipe, "models/halved", &[]).spawn().unwrap();
    let (begun, history) = (Instant::now(), folder.path().join("models/.training-halved/history.json"));
    while !history.exists() {
        assert!(begun.elapsed() < Duration::from_secs(120), "nothing was kept");
        std::thread::sleep(Duration::from_millis(5));
    }
    running.kill().unwrap();
    running.wait().unwrap();
    let said = told(train(folder.path(), &recipe, "models/halved", &[]));
    assert!(said.contains("going on after step"), "{said}");
    let weights = |version: &str| std::fs::read(folder.path().join(version).join("weights.safetensors")).unwrap();
    assert!(weights("models/whole") == weights("models/halved"), "the weights differ");
    // Another recipe is not gone on with.
    let other = recipe.replace("seed = 3", "seed = 4");
    let refused = train(folder.path(), &other, "models/halved", &["--replace"]).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("--restart"), "{said}");
}

#[test]
fn a_stage_of_captions_without_anything_to_say_is_refused_and_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    synth(&data, 1_200, 7);
    let path = data.join("train.jsonl");
    let all = std::fs::read_to_string(&path).unwrap();
    let silent: String = all
        .lines()
        .map(|line| {
            let mut example: Value = serde_json::from_str(line).unwrap();
            example.as_object_mut().unwrap().remove("description");
            example["label"] = "no".into();
            format!("{example}\n")
        })
        .collect();
    std::fs::write(&path, silent).unwrap();
    let refused = train(folder.path(), RECIPE, "models/mute", &[]).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("`captions.first_steps`"), "{said}");
    assert!(
        !folder.path().join("models/.training-mute").exists(),
        "nothing is begun, and nothing that was begun is cleared"
    );
}
