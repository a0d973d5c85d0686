//! `report`: from topics and from files, the same.

use serde_json::{Value, json};

use crate::{
    broker::image,
    kafka::{Kafka, Sent, receive, send},
    support::{Running, program},
};

/// `report` with these arguments: its exit code and what it printed.
fn report(arguments: &[&str]) -> (Option<i32>, String) {
    let output = program().arg("report").args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn a_report_of_the_topics_is_that_of_their_files_bit_for_bit() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let settings = topics
        .settings(kafka.address(), "report")
        .replace("traffic_ratio = 1.0\n", "traffic_ratio = 1.0\nshadow = [\"ofa_base\"]\n");
    let running = Running::start(&settings);
    let request = |number: usize| {
        let text = format!("picture {number}");
        let request =
            json!({"request_id": format!("r-{number}"), "text": text, "image": {"base64": image("thumbnail.png")}});
        Sent { key: Some("k"), payload: Some(request.to_string().into_bytes()), headers: vec![] }
    };
    let records: Vec<Sent<'_>> = (0..200).map(request).collect();
    send(kafka.address(), &topics.name("requests"), &records);
    let verdicts = receive(kafka.address(), &topics.name("verdicts"), 200);
    assert_eq!(running.stop(), Some(0));

    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("pipeline.toml");
    std::fs::write(&config, &settings).unwrap();
    let config = config.to_str().unwrap();
    let of_topics = |more: &[&str]| report(&[&["--config", config][..], more].concat());
    let (code, printed) = of_topics(&["--format", "json"]);
    assert_eq!(code, Some(0), "{printed}");
    let summary: Value = serde_json::from_str(&printed).unwrap();
    let experiment = &summary["experiments"][0];
    let counted: u64 =
        experiment["variants"].as_array().unwrap().iter().map(|variant| variant["verdicts"].as_u64().unwrap()).sum();
    assert_eq!((experiment["experiment"].as_str(), counted), (Some("both"), 200));
    assert_eq!(summary["excluded"]["duplicates"], 0);
    assert!(summary["paired"][0]["pairs"].as_u64().unwrap() > 0, "shadows run where the device has time: {summary}");

    // Verdicts from a file, backwards and twice.
    let lines: Vec<String> = verdicts.iter().rev().chain(&verdicts).map(|verdict| verdict.json().to_string()).collect();
    let file = folder.path().join("verdicts.jsonl");
    std::fs::write(&file, lines.join("\n")).unwrap();
    let (code, printed) = report(&["--from-files", file.to_str().unwrap(), "--format", "json"]);
    assert_eq!(code, Some(0), "{printed}");
    let of_file: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(of_file["experiments"], summary["experiments"]);
    assert_eq!(of_file["excluded"]["duplicates"], 200);

    let (_, chinese) = of_topics(&["--lang", "zh"]);
    assert!(chinese.contains("人工复核率") && chinese.contains("控制组 control"), "{chinese}");
    let (_, csv) = of_topics(&["--format", "csv"]);
    assert_eq!(csv.lines().count(), 5, "{csv}");
    let (_, later) = of_topics(&["--since", "2100-01-01T00:00:00Z"]);
    assert!(later.contains("No verdict is of an experiment"), "{later}");
    let (_, recent) = of_topics(&["--since", "1d", "--format", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&recent).unwrap(), summary);
}

#[test]
fn a_report_says_what_it_cannot_read() {
    let (code, error) = report(&[]);
    assert_eq!(code, Some(1));
    assert!(error.contains("--bootstrap-servers") && error.contains("--from-files"), "{error}");
    let (code, error) = report(&["--from-files", "no.jsonl"]);
    assert!(code == Some(1) && error.contains("no.jsonl"), "{error}");
    let (code, printed) = report(&["--from-files", "README.md"]);
    assert!(code == Some(0) && printed.contains("unreadable"), "{printed}");
    let (code, error) = report(&["--from-files", "README.md", "--experiment", "e"]);
    assert!(code == Some(1) && error.contains("no verdict is of experiment `e`"), "{error}");
}
