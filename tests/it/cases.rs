//! Inputs that failed once, and what is right. `testdata/README.md` says where they come from.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use ofa_stream::vision::{self, Limits};
use serde_json::Value;

use crate::support::{program, repository};

const LIMITS: Limits = Limits { bytes_max: 10 << 20, pixels_max: 40_000_000, decode_bytes_max: 512 << 20 };

fn pictures() -> Vec<PathBuf> {
    let root = repository("testdata/cases/pictures");
    let folders = fs::read_dir(root).unwrap().map(|folder| folder.unwrap().path());
    let files = folders.flat_map(|folder| fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()));
    let is_picture =
        |path: &PathBuf| path.extension().is_some_and(|kind| ["jpg", "png", "webp"].map(Some).contains(&kind.to_str()));
    let mut pictures: Vec<PathBuf> = files.filter(is_picture).collect();
    pictures.sort();
    pictures
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

#[test]
fn every_picture_has_the_references_pixels_or_is_refused() {
    let mut compared = 0;
    for path in pictures().iter().filter(|path| !name(path).ends_with(".right.png")) {
        let right = path.with_file_name(format!("{}.right.png", name(path)));
        if !right.exists() {
            continue;
        }
        let right = image::open(&right).unwrap().into_rgb8();
        let bytes = fs::read(path).unwrap();
        // The reference shows grey where data are missing; a verdict on that would be wrong.
        if name(path) == "ends-early.jpg" {
            assert_eq!(vision::decode(&bytes, &LIMITS).unwrap_err().code(), "image_undecodable");
            continue;
        }
        let image = vision::decode(&bytes, &LIMITS).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!((image.width, image.height), right.dimensions(), "{}", path.display());
        let header = vision::probe(&bytes, &LIMITS).unwrap();
        assert_eq!((header.width, header.height), right.dimensions(), "{}", path.display());
        assert!(image.data == right.into_raw(), "{} has other pixels", path.display());
        compared += 1;
    }
    assert!(compared >= 40, "only {compared} pictures were compared");
}

#[test]
fn pictures_whose_data_lack_a_part_are_refused() {
    for path in pictures().iter().filter(|path| name(path).starts_with("refused-") && name(path).ends_with(".jpg")) {
        let error = vision::decode(&fs::read(path).unwrap(), &LIMITS).unwrap_err();
        assert_eq!(error.code(), "image_undecodable", "{}", path.display());
    }
}

/// The most memory that `predict` had while it judged a picture, in bytes.
fn peak(picture: &Path) -> u64 {
    let mut command = program();
    command.args(["predict", "--text", "a red circle", "--version", "ofa_small", "--image"]).arg(picture);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak = peak.max(kilobytes.unwrap_or_default() << 10);
        std::thread::sleep(Duration::from_millis(1));
    }
    peak
}

#[test]
fn decoding_holds_no_more_than_its_header_tells_the_budget() {
    let plain = peak(&repository("testdata/demo/sticker-01.png"));
    let mut measured = 0;
    for path in pictures() {
        let is_large = name(&path).starts_with("large-")
            || ["rgba16.png", "prog1.jpg", "iccp.png", "profile.png", "profile-190mib.png"].contains(&name(&path))
            || name(&path).contains("huffman")
            || (path.to_str().unwrap().contains("11-decode-memory") && !name(&path).contains("small"));
        if !is_large {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let header = vision::probe(&bytes, &LIMITS).unwrap();
        // The file itself is read, and copied once without its metadata.
        let planned = header.decoding_bytes + 2 * bytes.len() as u64;
        let held = peak(&path).saturating_sub(plain);
        // What else the process does differs by some megabytes from run to run.
        const NOISE: u64 = 12 << 20;
        let (held_mib, planned_mib) = (held >> 20, planned >> 20);
        println!(
            "{:32} {:5}x{:<5} held {held_mib:4} MiB of {planned_mib:4} planned",
            name(&path),
            header.width,
            header.height
        );
        assert!(held <= planned + NOISE, "{}: {held_mib} MiB, planned {planned_mib}", path.display());
        measured += 1;
    }
    assert!(measured >= 12, "only {measured} pictures were measured");
}

/// The verdicts and dead letters of a demo over a file of requests: request id to decision, or to the letter's code.
fn decided(requests: &Path) -> Vec<(String, Value)> {
    let output = program().args(["demo", "--json", "--source"]).arg(requests).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let all = |kind: &str| report[kind].as_array().unwrap().clone();
    let named = |value: Value| (value["request_id"].as_str().unwrap().to_owned(), value);
    all("verdicts").into_iter().chain(all("dead_letters")).map(named).collect()
}

/// Requests about one picture, as lines of a file beside it.
fn requests(lines: &[Value]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(repository("testdata/cases/picture.png"), folder.path().join("picture.png")).unwrap();
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let path = folder.path().join("requests.jsonl");
    fs::write(&path, text).unwrap();
    (folder, path)
}

fn about(id: &str, version: &str, more: Value) -> Value {
    let mut request = serde_json::json!({"request_id": id, "model_version": version, "image": {"path": "picture.png"}});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    request
}

#[test]
fn what_a_version_does_not_read_is_never_approved() {
    let (circle, filler) = ("there is a red circle", " picture".repeat(120));
    let lines: Vec<Value> = ["ofa_large", "ofa_small", "ofa_base"]
        .iter()
        .flat_map(|version| {
            let text = |id: &str, text: String| {
                about(&format!("{version} {id}"), version, serde_json::json!({ "text": text }))
            };
            [
                text("short", circle.to_owned()),
                text("long", format!("{circle}{filler}")),
                text("long, and more", format!("{circle}{filler} and a green square")),
                text("words", format!("{circle}{}", "!".repeat(300))),
                text("chinese", "红色的圆".to_owned()),
                about(&format!("{version} caption"), version, serde_json::json!({"text": "asdf", "caption": circle})),
                about(&format!("{version} no caption"), version, serde_json::json!({"text": circle, "caption": ""})),
                text("empty", "!!!".to_owned()),
            ]
        })
        .collect();
    let (_folder, path) = requests(&lines);
    let decided = decided(&path);
    assert_eq!(decided.len(), lines.len());
    for (id, outcome) in decided {
        let (decision, reason) = (&outcome["decision"], &outcome["decision_reason"]);
        match id.split_once(' ').unwrap().1 {
            "short" => {
                assert!(decision != "reject" && outcome["text_truncated"] == false, "{id}: {outcome}");
                assert!(outcome["text_tokens"].as_u64().unwrap() > 5, "{id}: {outcome}");
            }
            "chinese" => assert_eq!((decision, reason), (&"review".into(), &"foreign_script".into()), "{id}"),
            "caption" | "empty" => assert_eq!(outcome["code"], "invalid_field", "{id}: {outcome}"),
            "no caption" => assert_eq!(outcome["text_truncated"], false, "{id}: an empty caption is none"),
            _ => {
                assert_eq!(outcome["text_truncated"], true, "{id}: {outcome}");
                assert_eq!((decision, reason), (&"review".into(), &"text_truncated".into()), "{id}");
            }
        }
    }
}

#[test]
fn the_order_of_several_texts_changes_no_decision() {
    let texts = [["there is a red circle", "a picture"], ["asdf", "there is a yellow circle"]];
    let lines: Vec<Value> = texts
        .iter()
        .enumerate()
        .flat_map(|(number, [a, b])| {
            [("forth", [a, b]), ("back", [b, a])].map(|(way, texts)| {
                about(&format!("{number} {way}"), "ofa_large", serde_json::json!({ "text": texts }))
            })
        })
        .collect();
    let (_folder, path) = requests(&lines);
    let decided: std::collections::BTreeMap<String, Value> = decided(&path).into_iter().collect();
    for number in 0..texts.len() {
        let [forth, back] = ["forth", "back"].map(|way| &decided[&format!("{number} {way}")]);
        for field in ["decision", "result", "confidence", "text_preview"] {
            assert_eq!(forth[field], back[field], "{number} {field}");
        }
    }
}
