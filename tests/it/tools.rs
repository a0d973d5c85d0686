//! The commands that people run next to an instance, with what producers and operators write.

use std::{
    fs::{self, File, OpenOptions},
    process::{Command, Stdio},
    time::Duration,
};

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::Message,
};
use serde_json::{Value, json};

use crate::{
    broker::{PARTITIONS, REQUESTS, cluster, image},
    instance::Instance,
    kafka::{Kafka, Sent, receive, send},
    support::{Running, program, settings},
};

/// Keys and values of the requests topic.
fn published(address: &str, count: usize) -> Vec<(Option<String>, Value)> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", address).set("group.id", "outside").create().unwrap();
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(REQUESTS, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&all).unwrap();
    let mut records = Vec::new();
    while records.len() < count {
        let message = consumer.poll(Duration::from_secs(30)).expect("a record within 30 s").unwrap();
        let key = message.key().map(|key| String::from_utf8_lossy(key).into_owned());
        records.push((key, serde_json::from_slice(message.payload().unwrap()).unwrap()));
    }
    assert!(consumer.poll(Duration::from_millis(500)).is_none(), "a record too many");
    records
}

fn request(id: &str, more: Value) -> Value {
    let mut request = json!({"request_id": id, "text": "a ball", "image": {"base64": image("thumbnail.png")}});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    request
}

/// `produce` with a file of these lines: its exit code and what it printed on stderr.
fn produce(address: &str, lines: &[Value], more: &[&str]) -> (Option<i32>, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(file.path(), text).unwrap();
    let mut command = program();
    command.arg("produce").arg(file.path()).args(["--bootstrap-servers", address]).args(more);
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn produce_takes_numbers_as_keys_and_refuses_a_line_without_one() {
    let cluster = cluster();
    let address = cluster.bootstrap_servers();
    let by = |id: &str, user: Value| request(id, json!({"attributes": {"user_id": user}}));
    let lines = [by("a", json!(42)), by("b", json!("42")), by("c", json!(-7)), by("d", json!(true))];
    let (code, error) = produce(&address, &lines, &["--key", "user_id"]);
    let records = published(&address, 4);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    let mut keys: Vec<(&str, Option<&str>)> =
        records.iter().map(|(key, value)| (value["request_id"].as_str().unwrap(), key.as_deref())).collect();
    keys.sort_unstable();
    assert_eq!(keys, [("a", Some("42")), ("b", Some("42")), ("c", Some("-7")), ("d", Some("true"))]);

    for (user, words) in [(json!(1.5), "is no whole number"), (json!(""), "is missing or empty")] {
        let (code, error) = produce(&address, &[by("e", json!(1)), by("f", user)], &["--key", "user_id"]);
        assert_eq!(code, Some(1));
        assert!(error.contains("line 2") && error.contains(words), "{error}");
    }
}

#[test]
fn produce_names_the_line_that_is_too_large() {
    let cluster = cluster();
    let address = cluster.bootstrap_servers();
    let large = request("large", json!({"pad": "a".repeat(17 << 20)}));
    let lines = [request("a", json!({})), large, request("b", json!({}))];
    let (code, error) = produce(&address, &lines, &["--unchecked"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("line 2") && error.contains("1 requests were published before"), "{error}");
    assert_eq!(published(&address, 1)[0].1["request_id"], "a");
}

/// What a terminal would obey, or what looks like a row of its own.
fn raw(printed: &str) -> Vec<char> {
    let is_raw = |letter: &char| (letter.is_control() && *letter != '\n') || *letter == '\u{202e}';
    let mut raw: Vec<char> = printed.chars().filter(is_raw).collect();
    let looks_like_a_row = |line: &str| line.trim_start().starts_with("0:9 ") || line.trim_start().starts_with("row");
    raw.extend(printed.lines().filter(|line| looks_like_a_row(line)).map(|_| '\n'));
    raw
}

#[test]
fn control_characters_of_producers_never_reach_the_terminal() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let address = kafka.address();
    let settings =
        topics.settings(address, "terminal").replace("[model_versions]\n", "[model_versions]\nallow_forced = true\n");
    let running = Running::start(&settings);
    let forced = |id: &str, version: &str| request(id, json!({ "model_version": version })).to_string().into_bytes();
    let records = [
        Sent {
            key: Some("\u{1b}]0;owned\u{7}"),
            payload: Some(forced("a", "\u{1b}[2J\u{1b}[31mall good")),
            headers: vec![("x\rfake", "v\u{1b}[2Jw")],
        },
        Sent { key: Some("k"), payload: Some(forced("b", "nl\n 0:9   fake")), headers: vec![] },
        Sent { key: Some("k"), payload: Some(forced("c", "\u{9b}31m \u{202e} bidi")), headers: vec![] },
    ];
    send(address, &topics.name("requests"), &records);
    let letters = receive(address, &topics.name("dead-letters"), 3);

    let file = running.folder().join("pipeline.toml");
    let shows = letters.iter().map(|letter| vec!["show", letter.place.as_str()]);
    for arguments in shows.chain([vec!["list"]]) {
        let output = program().arg("dead-letters").args(&arguments).arg("--config").arg(&file).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && printed.lines().count() > 1, "{arguments:?}: {printed}");
        assert!(raw(&printed).is_empty(), "{arguments:?}: {printed}");
    }
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn control_characters_of_operators_never_reach_the_terminal() {
    let cluster = cluster();
    let instance = Instance::start(&crate::instance::operated(&cluster.bootstrap_servers()));
    instance.running.log_line("Taking requests.");
    let config = instance.running.folder().join("pipeline.toml");
    let run = |arguments: &[&str]| {
        let mut command = program();
        command.args(arguments).arg("--config").arg(&config).args(["--admin", instance.api.address()]);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    run(&["pause", "both", "--why", "\u{1b}[2Jx\nrow", "--by", "b\u{1b}]0;own\u{7}"]);
    for command in ["audit", "status"] {
        let (code, printed) = run(&[command]);
        assert_eq!(code, Some(0), "{printed}");
        assert!(raw(&printed).is_empty(), "{command}: {printed}");
    }
    assert_eq!(instance.running.stop(), Some(0));
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pipeline.toml");
    fs::write(&file, settings("embedded")).unwrap();
    for more in [&["--json"][..], &[]] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = program();
        command.args(["explain", "--key", "a", "--config"]).arg(&file).args(more);
        let output = command.stdout(Stdio::from(full)).stderr(Stdio::piped()).spawn().unwrap().wait_with_output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn settings_from_a_pipe_are_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (file, pipe) = (folder.path().join("pipeline.toml"), folder.path().join("pipe"));
    fs::write(&file, settings("embedded")).unwrap();
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [pipe.as_path(), "/dev/stdin".as_ref()] {
        // Standard input is a pipe that holds the settings.
        let mut cat = Command::new("cat").arg(&file).stdout(Stdio::piped()).spawn().unwrap();
        let mut command = program();
        command.args(["run", "--embedded", "--config"]).arg(path).stdin(cat.stdout.take().unwrap());
        let output = command.output().unwrap();
        cat.wait().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{error}");
        assert!(error.contains("cannot be read again"), "{error}");
    }
}

#[test]
fn the_reason_of_an_end_is_a_line_of_the_json_log() {
    let folder = tempfile::tempdir().unwrap();
    let (file, log) = (folder.path().join("pipeline.toml"), folder.path().join("log"));
    fs::write(&file, settings("127.0.0.1:9")).unwrap();
    let mut command = program();
    command.args(["run", "--config"]).arg(&file).stderr(File::create(&log).unwrap());
    assert_eq!(command.status().unwrap().code(), Some(1));
    let text = fs::read_to_string(&log).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap_or(Value::Null)).collect();
    let last = lines.last().unwrap();
    assert!(last["level"] == "ERROR" && last.to_string().contains("127.0.0.1:9"), "{text}");
    assert!(lines.iter().all(Value::is_object), "{text}");
}
