//! What verdicts and dead letters say about where they come from and how they were decided.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    broker::{DEAD_LETTERS, Outcome, REQUESTS, VERDICTS, cluster, image, produce, read, reader},
    kafka::{Kafka, Sent, receive, send},
    support::{Running, program, settings},
};

fn request(id: &str, picture: &str) -> (String, Vec<u8>) {
    let request = json!({"request_id": id, "text": "a mug", "image": {"base64": picture}});
    (id.to_owned(), request.to_string().into_bytes())
}

fn verdict(outcome: &Outcome) -> Value {
    serde_json::from_slice(&outcome.payload).unwrap()
}

#[test]
fn verdicts_name_their_record_their_instance_and_the_probability_of_each_version() {
    let cluster = cluster();
    let servers = cluster.bootstrap_servers();
    let settings = settings(&servers).replace("control = \"off\"\n", "control = \"off\"\ninstance_id = \"one\"\n")
        + "[decision.versions.ofa_base]\napprove_confidence = 1.0\nreject_confidence = 1.0\n\
           [decision.versions.ofa_small]\napprove_confidence = 0.0\nreject_confidence = 0.0\n";
    let running = Running::start(&settings);
    running.log_line("Partitions assigned");
    let mug = image("mug.jpg");
    let requests: Vec<_> = (0..12).map(|number| request(&format!("r-{number}"), &mug)).collect();
    produce(&servers, &requests);
    let (consumer, mut outcomes) = (reader(&servers), Vec::new());
    read(&consumer, &mut outcomes, |outcomes| outcomes.len() == 12);

    let (mut decisions, mut places) = (Vec::new(), BTreeSet::new());
    for outcome in &outcomes {
        assert_eq!(outcome.topic, VERDICTS);
        let verdict = verdict(outcome);
        assert_eq!(verdict["source"]["topic"], REQUESTS);
        let place = (verdict["source"]["partition"].as_i64(), verdict["source"]["offset"].as_i64());
        assert!(places.insert(place), "{place:?} is the place of two requests");
        assert_eq!(verdict["instance"], "one");
        assert_eq!(verdict["route"]["probabilities"], json!({"ofa_base": 0.25, "ofa_small": 0.75}));
        assert!(verdict.get("replayed_from").is_none());
        let text = |name: &str| verdict[name].as_str().unwrap().to_owned();
        for (header, field) in [
            ("ofa-request-id", "request_id"),
            ("ofa-result", "result"),
            ("ofa-decision", "decision"),
            ("ofa-model-version", "model_version"),
            ("ofa-experiment", "ab_experiment"),
            ("ofa-ab-variant", "ab_variant"),
        ] {
            assert_eq!(outcome.headers[header], text(field), "{header}");
        }
        assert_eq!(outcome.headers["ofa-schema-version"], "2");
        // Thresholds of each version: one never decides by itself, the other always does, but for `maybe`.
        let by_itself = text("model_version") == "ofa_small" && text("result") != "maybe";
        assert_eq!(text("decision") != "review", by_itself, "{verdict}");
        decisions.push(text("model_version"));
    }
    decisions.sort();
    decisions.dedup();
    assert_eq!(decisions.len(), 2, "both versions answered");
}

#[test]
fn dead_letters_belong_to_an_arm_where_the_request_came_so_far() {
    let cluster = cluster();
    let servers = cluster.bootstrap_servers();
    let running = Running::start(&settings(&servers));
    running.log_line("Partitions assigned");
    // The header of the second picture is whole, so it is routed, and its pixels are not.
    let mut png = std::fs::read(crate::support::repository("testdata/demo/sticker-01.png")).unwrap();
    let middle = png.len() / 2;
    png[middle..middle + 64].fill(0);
    let cut = ofa_stream::message::encode_base64(&png);
    produce(&servers, &[request("no-image", "AAAA"), request("cut", &cut), ("k".to_owned(), b"{".to_vec())]);
    let (consumer, mut outcomes) = (reader(&servers), Vec::new());
    read(&consumer, &mut outcomes, |outcomes| outcomes.len() == 3);
    assert!(outcomes.iter().all(|outcome| outcome.topic == DEAD_LETTERS));
    let header = |number: u64, name: &str| {
        let letter = outcomes.iter().find(|outcome| outcome.number == number).unwrap();
        letter.headers.get(name).cloned()
    };
    let names = ["ofa-error-request-id", "ofa-error-experiment", "ofa-error-variant", "ofa-error-version"];
    let of = |number: u64| names.map(|name| header(number, name));
    assert_eq!(of(0), [Some("no-image".to_owned()), None, None, None]);
    let [id, experiment, variant, version] = of(1);
    assert_eq!((id.as_deref(), experiment.as_deref()), (Some("cut"), Some("both")));
    assert!(variant.is_some() && version.is_some());
    assert_eq!(of(2), [None, None, None, None]);
    for number in 0..3 {
        assert!(header(number, "ofa-error-config-digest").unwrap().starts_with("sha256:"));
    }
}

#[test]
fn a_replayed_request_says_which_dead_letter_it_was() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let images = tempfile::tempdir().unwrap();
    let settings = topics.settings(kafka.address(), "replays")
        + &format!("[images]\npath_root = \"{}\"\n", images.path().display());
    let running = Running::start(&settings);
    running.log_line("Partitions assigned");
    let late = json!({"request_id": "late", "text": "a mug", "image": {"path": "late.jpg"}});
    let sent = Sent { key: Some("k"), payload: Some(late.to_string().into_bytes()), headers: vec![] };
    send(kafka.address(), &topics.name("requests"), &[sent]);
    let letter = receive(kafka.address(), &topics.name("dead-letters"), 1).remove(0);
    assert_eq!(letter.headers["ofa-error-request-id"], "late");

    std::fs::copy(crate::support::repository("testdata/demo/mug.jpg"), images.path().join("late.jpg")).unwrap();
    let config = running.folder().join("pipeline.toml");
    let replay =
        program().args(["dead-letters", "replay", "--all", "--yes", "--config"]).arg(&config).output().unwrap();
    assert!(replay.status.success(), "{}", String::from_utf8_lossy(&replay.stderr));
    let verdict = receive(kafka.address(), &topics.name("verdicts"), 1).remove(0).json();
    assert_eq!(verdict["replayed_from"], json!({"topic": topics.name("dead-letters"), "partition": 0, "offset": 0}));
    assert_eq!(verdict["request_id"], "late");

    let run = |arguments: &[&str]| {
        let output = program().args(arguments).arg("--config").arg(&config).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let table = run(&["verdicts", "tail"]);
    assert!(table.contains("late") && table.contains("both/"), "{table}");
    let tail = run(&["verdicts", "tail", "--json", "--experiment", "both", "--since", "1h"]);
    assert_eq!(serde_json::from_str::<Value>(tail.trim()).unwrap()["request_id"], "late");
    assert_eq!(run(&["verdicts", "tail", "--json", "--experiment", "other"]), "");
    let shown: Value = serde_json::from_str(&run(&["verdicts", "show", "late"])).unwrap();
    assert_eq!(shown.as_array().unwrap().len(), 2, "the verdict and the dead letter");
    assert_eq!(shown[1]["headers"]["ofa-error-code"], "image_file_unreadable");

    // The topics that a start needs, where they are missing.
    let elsewhere = running.folder().join("elsewhere.toml");
    let text =
        std::fs::read_to_string(&config).unwrap().replace(&topics.name("verdicts"), &topics.name("made-verdicts"));
    std::fs::write(&elsewhere, text).unwrap();
    let create = |arguments: &[&str]| {
        let output = program()
            .args(["topics", "create", "--partitions", "2", "--replication", "1", "--config"])
            .arg(&elsewhere)
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    };
    let dry = create(&[]);
    assert!(dry.contains("nothing was created") && dry.contains("--create --topic"), "{dry}");
    assert!(create(&["--yes"]).contains("made-verdicts: created"));
    assert!(create(&["--yes"]).contains("all topics exist"));
}
