//! What a machine runs short of, and a clock that is wrong: neither costs a good request.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    process::Command,
};

use serde_json::json;

use crate::{
    broker::{PARTITIONS, image},
    kafka::{Kafka, Sent, receive, send},
    support::{Running, metric, page, repository, skip, until},
};

fn record(id: &str, image: serde_json::Value) -> Sent<'static> {
    let request = json!({"request_id": id, "text": "a mug", "image": image});
    Sent { key: Some("k"), payload: Some(request.to_string().into_bytes()), headers: vec![] }
}

/// Sets how many files a process may open; those that are open stay.
fn limit_descriptors(process: u32, max: usize) {
    let limit = format!("--nofile={max}:");
    let status = Command::new("prlimit").args(["--pid", &process.to_string(), &limit]).status().unwrap();
    assert!(status.success(), "prlimit");
}

fn descriptors(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

fn is_open(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    match stream.read(&mut [0; 64]) {
        Ok(read) => read > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

#[test]
fn connections_that_never_finish_a_request_do_not_take_the_descriptors_of_the_process() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let short = "[telemetry]\nconnection_timeout_ms = 1000\n";
    let settings = topics.settings(kafka.address(), "idle").replace("[telemetry]\n", short);
    let running = Running::start(&settings);
    let pages = running.log_line("Serving /metrics")["address"].as_str().unwrap().to_owned();
    running.log_line("Partitions assigned");
    limit_descriptors(running.process(), 256);
    let mut idle: Vec<TcpStream> = (0..300)
        .map(|_| {
            let mut stream = TcpStream::connect(&pages).unwrap();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nA: ").ok();
            stream
        })
        .collect();
    assert!(descriptors(running.process()) < 250, "{}", descriptors(running.process()));
    assert!(page(&pages, "/healthz").starts_with("HTTP/1.1 200"), "idle connections do not block it");
    send(kafka.address(), &topics.name("requests"), &[record("r", json!({"base64": image("thumbnail.png")}))]);
    receive(kafka.address(), &topics.name("verdicts"), 1);
    until("the end of idle connections", || (!idle.iter_mut().any(is_open)).then_some(()));
    assert!(page(&pages, "/healthz").starts_with("HTTP/1.1 200"));
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn requests_wait_while_the_process_has_no_descriptor_for_their_images() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let root = repository("testdata/demo");
    let settings =
        topics.settings(kafka.address(), "short") + &format!("[images]\npath_root = \"{}\"\n", root.display());
    let running = Running::start(&settings);
    let pages = running.log_line("Serving /metrics")["address"].as_str().unwrap().to_owned();
    let send = |records: &[Sent<'_>]| send(kafka.address(), &topics.name("requests"), records);
    // From then on its connections to brokers are there.
    send(&[record("first", json!({"path": "mug.jpg"}))]);
    receive(kafka.address(), &topics.name("verdicts"), 1);

    limit_descriptors(running.process(), 8);
    let records: Vec<Sent<'_>> =
        (0..20).map(|number| record(&format!("r-{number}"), json!({"path": "mug.jpg"}))).collect();
    send(&records);
    let warned = running.log_line("cannot read an image");
    assert!(warned.to_string().contains("Too many open files"), "{warned}");
    receive(kafka.address(), &topics.name("dead-letters"), 0);
    limit_descriptors(running.process(), 1024);
    receive(kafka.address(), &topics.name("verdicts"), 21);
    let metrics = page(&pages, "/metrics");
    assert!(metric(&metrics, "ofa_tried_in_place_total", "") >= 1.0, "{metrics}");
    assert_eq!(metric(&metrics, "ofa_dead_letters_total", ""), 0.0);
    assert_eq!(running.stop(), Some(0));
}

/// Brokers of Kafka 3.6 and later refuse records that are more than an hour ahead.
#[test]
fn a_clock_that_is_hours_ahead_is_named_and_costs_no_request() {
    let Some(kafka) = Kafka::shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("skew.so");
    let source = repository("testdata/clock/skew.c");
    let built =
        Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl").status();
    if !built.is_ok_and(|status| status.success()) {
        skip("no C compiler builds testdata/clock/skew.c");
        return;
    }
    let topics = kafka.topics();
    // The brokers date the dead letters, so that they would take them.
    let letters = topics.name("dated-letters");
    kafka.create(&letters, PARTITIONS, &[("message.timestamp.type", "LogAppendTime")]);
    let settings = topics.settings(kafka.address(), "ahead").replace(&topics.name("dead-letters"), &letters);
    let records: Vec<Sent<'_>> =
        (0..20).map(|number| record(&format!("r-{number}"), json!({"base64": image("thumbnail.png")}))).collect();
    send(kafka.address(), &topics.name("requests"), &records);
    let ahead = Running::start_as(folder, &settings, |command| {
        command.env("LD_PRELOAD", &library).env("SKEW_SECONDS", "7200");
    });
    let (code, log) = ahead.wait();
    assert_eq!(code, Some(1));
    let named = log.lines().filter(|line| line.contains("the clocks of this machine and of the brokers differ"));
    assert!(named.count() >= 1, "{log}");
    receive(kafka.address(), &letters, 0);

    let right = Running::start(&settings);
    receive(kafka.address(), &topics.name("verdicts"), 20);
    assert_eq!(right.stop(), Some(0));
}
