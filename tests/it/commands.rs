//! The commands, as people run them.

use std::process::Output;

use ofa_stream::weights::Precision;
use serde_json::Value;

use crate::support::{imported, json, program, repository};

fn run(arguments: &[&str]) -> Output {
    program().args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn printed(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn predict_gives_the_reference_answer_on_every_cpu_device() {
    let case = &json(&repository("testdata/golden/dev/expected.json"))["cases"][1];
    let (models, _) = imported(&repository("testdata/golden/dev"), Precision::F32);
    for device in ["flex", "ndarray"] {
        let prediction = printed(&run(&[
            "predict",
            "--image",
            "testdata/golden/dev/images/02_rgb.png",
            "--text",
            case["text"].as_str().unwrap(),
            "--models-dir",
            models.path().to_str().unwrap(),
            "--version",
            "v",
            "--device",
            device,
            "--json",
        ]));
        assert_eq!(prediction["result"], case["label"]);
        let off = prediction["confidence"].as_f64().unwrap() - case["score"].as_f64().unwrap();
        assert!(off.abs() < 2e-4, "{device}: {off}");
        assert_eq!(prediction["backend"], device);
    }
}

#[test]
fn predict_says_what_is_wrong_with_what_it_was_given() {
    let image = "testdata/demo/mug.jpg";
    let cases: [(&[&str], &str); 5] = [
        (&["--image", "no.jpg", "--text", "a"], "no.jpg"),
        (&["--image", "README.md", "--text", "a"], "neither JPEG, PNG nor WebP"),
        (&["--image", image, "--text", "a", "--version", "ofa_huge"], "ofa_base, ofa_large, ofa_small"),
        (&["--image", image, "--text", "a", "--models-dir", "models"], "ofa_base, ofa_large, ofa_small"),
        (&["--image", image, "--text", "a", "--models-dir", "testdata", "--version", "demo"], "manifest.toml"),
    ];
    for (arguments, words) in cases {
        let output = run(&[&["predict"], arguments].concat());
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(words), "{}", text(&output.stderr));
    }
}

#[test]
fn check_accepts_the_shipped_settings_and_refuses_bad_ones_with_78() {
    let checked = printed(&run(&["check", "--json"]));
    assert_eq!(checked["versions"].as_array().unwrap().len(), 3);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.toml");
    std::fs::write(&file, "[kafka]\ngrup_id = 'x'\n").unwrap();
    let folder_missing = folder.path().join("missing.toml");
    std::fs::write(&folder_missing, "[model_versions]\ndefault = 'none'\n[model_versions.versions.none]\n").unwrap();
    let output = run(&["check", "--config", folder_missing.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78), "{}", text(&output.stderr));
    for command in ["check", "run", "demo"] {
        let output = run(&[command, "--config", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(78), "{command}");
        assert!(text(&output.stderr).contains("bad.toml:2: `kafka.grup_id`"), "{}", text(&output.stderr));
    }
}

#[test]
fn the_environment_overrides_the_file() {
    let output =
        program().args(["check", "--settings-only"]).env("OFA_STREAM__PIPELINE__DECODE_THREADS", "0").output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("decode_threads"), "{}", text(&output.stderr));
}

#[test]
fn the_settings_that_compose_overrides_exist() {
    let compose = std::fs::read_to_string(repository("compose.yaml")).unwrap();
    let overrides: Vec<(&str, &str)> = compose
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("OFA_STREAM__"))
        .filter_map(|line| line.split_once(": "))
        .collect();
    assert!(overrides.len() >= 3);
    let output = program().args(["check", "--settings-only"]).envs(overrides).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn a_text_and_a_caption_may_begin_with_a_hyphen() {
    let predict = |more: &[&str]| {
        let image = ["predict", "--image", "testdata/demo/mug.jpg", "--models-dir", "models", "--version", "ofa_small"];
        run(&[&image, more].concat())
    };
    assert_eq!(printed(&predict(&["--text", "- a mug", "--json"]))["text_preview"], "- a mug");

    // The caption is read as one, and then has no place in this version's prompt.
    let refused = predict(&["--text", "a mug", "--caption", "-x"]);
    let reason = text(&refused.stderr);
    assert!(!refused.status.success() && reason.contains("caption"), "{reason}");
}

#[test]
fn explain_shows_every_step_to_the_decision() {
    let output = run(&["explain", "--key", "customer-7", "--attr", "user_role=admin", "--image-size", "640x480"]);
    insta::assert_snapshot!(text(&output.stdout));
    let explained = printed(&run(&["explain", "--key", "customer-7", "--json"]));
    assert_eq!(explained["reason"], "experiment");
    assert_eq!(explained["assignment"]["propensity"], 0.5);
}

#[test]
fn a_simulation_shows_the_shares_and_what_would_move() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let settings = |weights: [u32; 3]| {
        let variants: Vec<String> = ["a", "b", "c"]
            .iter()
            .zip(weights)
            .map(|(name, weight)| format!("{{ name = '{name}', model_version = '{name}', weight = {weight} }}"))
            .collect();
        let variants = variants.join(", ");
        format!(
            "[model_versions]\ndefault = 'a'\n[model_versions.versions]\na = {{}}\nb = {{}}\nc = {{}}\n[[experiments]]\n\
             name = 'e'\ntraffic_ratio = 1.0\nunit = 'user_id'\nassignment = 'rendezvous'\nvariants = [{variants}]\n"
        )
    };
    let (before, after) = (file("before.toml", &settings([1, 1, 1])), file("after.toml", &settings([4, 3, 3])));
    let simulate =
        |more: &[&str]| run(&[&["explain", "--config", &before, "--against", &after, "--simulate"], more].concat());
    let simulated = printed(&simulate(&["50000", "--json"]));
    let shares: Vec<f64> =
        simulated["versions"].as_array().unwrap().iter().map(|version| version["share"].as_f64().unwrap()).collect();
    assert!(shares.len() == 3 && shares.iter().all(|share| (share - 1.0 / 3.0).abs() < 0.01), "{shares:?}");
    let moved = simulated["against"]["moved"]["share"].as_f64().unwrap();
    assert!((moved - 0.0667).abs() < 0.005, "{moved}");
    let moves = simulated["against"]["moves"].as_array().unwrap();
    assert!(moves.iter().all(|it| it["name"].as_str().unwrap().ends_with("→ a")), "{moves:?}");

    let keys = file("keys.txt", "ann\nbob\n\n{\"request_id\": \"r\", \"attributes\": {\"user_id\": \"ann\"}}\nlast\n");
    insta::assert_snapshot!(text(&simulate(&["3", "--keys", &keys]).stdout));
    let broken = file("broken.txt", "ann\n{\"request_id\": 7}\n");
    let refused = simulate(&["3", "--keys", &broken]);
    assert!(text(&refused.stderr).contains("broken.txt:2: request_id: invalid type"), "{}", text(&refused.stderr));
}

#[test]
fn the_demo_of_a_rollback_loses_nothing_and_ends_with_control() {
    let summary = printed(&run(&["demo", "--rollback", "--json"]));
    assert_eq!((summary["unanswered"].as_u64(), summary["failed_afterwards"].as_u64()), (Some(0), Some(0)));
    assert!(summary["failed"].as_u64().unwrap() > 0, "the treatment broke: {summary}");
    assert_eq!(summary["elsewhere_afterwards"].as_u64(), Some(0), "{summary}");
    assert!(summary["on_control_afterwards"].as_u64().unwrap() > 10, "{summary}");
}

#[test]
fn a_service_does_not_serve_a_broker_of_its_own_unless_it_is_told_to() {
    let output = run(&["run"]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{told}");
    assert!(told.contains("`kafka.bootstrap_servers`") && told.contains("run --embedded"), "{told}");
    let output = run(&["check", "--settings-only", "--kafka"]);
    assert!(text(&output.stderr).contains("there is no cluster to ask"), "{}", text(&output.stderr));
}

#[test]
fn an_error_about_a_setting_of_the_environment_names_the_variable() {
    let check = ["check", "--settings-only"];
    let output = program().env("OFA_STREAM__ROUTING_RULES", "[]").args(check).output().unwrap();
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{told}");
    assert!(told.contains("pipeline.toml: `routing_rules`:") && told.contains("`OFA_STREAM__ROUTING_RULES`"), "{told}");
    let output = program().env("OFA_STREAM__IMAGES__PIXELS_MAX", "many").args(check).output().unwrap();
    assert!(text(&output.stderr).contains("`OFA_STREAM__IMAGES__PIXELS_MAX`"), "{}", text(&output.stderr));
}

#[test]
fn produce_will_not_guess_where_an_embedded_broker_is() {
    let output = run(&["produce", "testdata/demo/requests.jsonl"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("--bootstrap-servers"), "{}", text(&output.stderr));
}

#[test]
fn the_demo_answers_every_request_and_shows_it() {
    let report = printed(&run(&["demo", "--json"]));
    assert_eq!(report["unanswered"], 0);
    let (verdicts, letters) = (report["verdicts"].as_array().unwrap(), report["dead_letters"].as_array().unwrap());
    assert_eq!(report["published"].as_u64().unwrap() as usize, verdicts.len() + letters.len());
    assert!(letters.len() >= 10, "the demo has requests that are bad on purpose");
    let reasons: std::collections::BTreeSet<&str> =
        verdicts.iter().map(|verdict| verdict["route"]["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons.into_iter().collect::<Vec<_>>(), ["default", "experiment", "forced", "rule"]);
}

#[test]
fn more_than_the_embedded_log_can_hold_passes_through_without_loss() {
    // 600 requests of 38 kB on average are 23 MB; the four partitions hold 20 MiB at most.
    let report = printed(&run(&["demo", "--json", "--requests", "600"]));
    assert_eq!((report["published"].as_u64(), report["unanswered"].as_u64()), (Some(600), Some(0)));
}

#[test]
fn help_names_every_command() {
    let output = run(&["--help"]);
    insta::assert_snapshot!(text(&output.stdout));
}
