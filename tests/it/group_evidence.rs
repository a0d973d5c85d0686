//! What instances of a group do upon evidence: guards, ramps and snapshots.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    evidence::{caught_up, with_evidence},
    instance::Instance,
    kafka::{Kafka, Sent, send},
};

#[test]
fn a_guard_pauses_an_experiment_once_for_the_group_and_a_person_resumes_it() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    // One version sends everything to people, the other nothing.
    let guarded = |name: &str| {
        with_evidence(&topics.operated(kafka.address(), name)).replace(
            "[telemetry]\n",
            "[[experiments.guards]]\nmetric = \"review_rate\"\ncontrol = \"treatment\"\nmargin = 0.05\n\
             [decision.versions.ofa_base]\napprove_confidence = 1.0\nreject_confidence = 1.0\n\
             [decision.versions.ofa_small]\napprove_confidence = 0.0\nreject_confidence = 0.0\n[telemetry]\n",
        )
    };
    let instances = ["one", "two", "three"].map(|name| Instance::start(&guarded(name)));
    let requests = different_requests(0..400);
    send(kafka.address(), &topics.name("requests"), &requests);

    let begun = Instant::now();
    let is_paused =
        |instance: &Instance| instance.report().experiments.iter().all(|experiment| experiment.position == "paused");
    while !instances.iter().all(is_paused) {
        let evidence: Value = instances[0].api.get("/v1/evidence").unwrap();
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", evidence["guards"]);
        std::thread::sleep(Duration::from_millis(20));
    }
    let report: Value = instances[0].api.get("/v1/evidence").unwrap();
    let guard = &report["guards"][0];
    assert_eq!((&guard["state"], &guard["action"]), (&json!("harm"), &json!("pause")), "{guard}");

    // Time for the others to act, if they did.
    std::thread::sleep(Duration::from_secs(8));
    let group = topics.group();
    let count_pauses = || {
        let all = receive_all(kafka.address(), &topics.name("control"));
        let of_guard = |record: &&(String, String)| record.0 == group && record.1.contains("guard:review_rate");
        all.iter().filter(of_guard).count()
    };
    assert_eq!(count_pauses(), 1, "one record of three instances");
    let audit: Value = instances[1].api.get("/v1/audit?limit=5").unwrap();
    assert!(audit.to_string().contains("difference"), "the reason has the evidence: {audit}");

    instances[2].post("/v1/experiments/both/resume").unwrap();
    send(kafka.address(), &topics.name("requests"), &requests);
    std::thread::sleep(Duration::from_secs(3));
    assert!(!is_paused(&instances[2]), "a guard does not overrule a person");
    assert_eq!(count_pauses(), 1);
}

/// Requests whose pictures differ, so that each is new evidence: bytes behind the end of a PNG
/// change nothing else.
fn different_requests(numbers: std::ops::Range<usize>) -> Vec<Sent<'static>> {
    let png = std::fs::read(crate::support::repository("testdata/demo/sticker-01.png")).unwrap();
    let request = |number: usize| {
        let picture = ofa_stream::message::encode_base64(&[png.as_slice(), &number.to_le_bytes()].concat());
        let id = format!("r-{number}");
        let body = json!({"request_id": id, "text": "a red circle", "image": {"base64": picture}});
        Sent { key: Some("k"), payload: Some(body.to_string().into_bytes()), headers: vec![] }
    };
    numbers.map(request).collect()
}

/// Keys and values of all records of a topic with one partition.
fn receive_all(address: &str, topic: &str) -> Vec<(String, String)> {
    use rdkafka::{
        ClientConfig, Message as _, Offset, TopicPartitionList,
        consumer::{BaseConsumer, Consumer as _},
        error::KafkaError,
    };
    let reader: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", address)
        .set("group.id", "test")
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    reader.assign(&list).unwrap();
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    let mut all = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(30) {
        match reader.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => all.push((text(message.key()), text(message.payload()))),
            Some(Err(KafkaError::PartitionEOF(_))) => return all,
            _ => {}
        }
    }
    panic!("the topic has no end");
}

/// Waits until a condition of the evidence of an instance holds.
fn until(instance: &Instance, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let evidence: Value = instance.api.get("/v1/evidence").unwrap();
        if holds(&evidence) {
            return evidence;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {} {}", evidence["ramps"], evidence["guards"]);
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_ramp_takes_each_step_once_for_the_group_and_a_person_takes_it_back() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let ramped = |name: &str| {
        let settings = with_evidence(&topics.operated(kafka.address(), name));
        let share = "traffic_ratio = 1.0\n";
        assert!(settings.contains(share));
        settings
            .replace(
                share,
                "traffic_ratio = 0.3\nramp = [0.3, 0.6, 1.0]\nramp_step_ms = 1_000\nramp_step_verdicts = 5\n",
            )
            .replace(
                "[telemetry]\n",
                "[[experiments.guards]]\nmetric = \"dead_letter_rate\"\nmargin = 0.5\n[telemetry]\n",
            )
    };
    let instances = ["one", "two", "three"].map(|name| Instance::start(&ramped(name)));
    let share = |instance: &Instance| instance.report().experiments[0].traffic_ratio;
    until(&instances[0], "a ramp waits for evidence", |evidence| {
        evidence["ramps"][0]["waits_for"].as_str().is_some_and(|it| it.contains("no verdicts"))
    });
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(share(&instances[0]), 0.3, "time alone is no safety");

    let mut sent = 0;
    let mut send_more = || {
        send(kafka.address(), &topics.name("requests"), &different_requests(sent..sent + 200));
        sent += 200;
    };
    for share in [0.6, 1.0] {
        send_more();
        for instance in &instances {
            until(instance, "the next step", |evidence| evidence["ramps"][0]["traffic_ratio"] == share);
        }
    }
    let evidence = until(&instances[0], "the end", |evidence| evidence["ramps"][0]["next"].is_null());
    assert_eq!(evidence["ramps"][0]["waits_for"], Value::Null);
    let group = topics.group();
    let steps = || -> Vec<f64> {
        let all = receive_all(kafka.address(), &topics.name("control"));
        let of_group = all.into_iter().filter(|(key, value)| key == group && value.contains("ramp:both"));
        let share = |value: String| {
            let record: Value = serde_json::from_str(&value).unwrap();
            let traffic = &record["current"]["overrides"]["traffic"]["both"];
            traffic["millionths"].as_f64().unwrap() / 1e6
        };
        of_group.map(|(_, value)| share(value)).collect()
    };
    assert_eq!(steps(), [0.6, 1.0], "a record for each step, of three instances");

    instances[1].post("/v1/experiments/both/traffic/0.3").unwrap();
    until(&instances[0], "the ramp waits for a person", |evidence| {
        evidence["ramps"][0]["waits_for"].as_str().is_some_and(|it| it.contains("a person"))
    });
    send_more();
    // Time for each instance to act in its turn, if it did.
    std::thread::sleep(Duration::from_secs(9));
    assert_eq!(instances.each_ref().map(share), [0.3; 3]);
    assert_eq!(steps(), [0.6, 1.0]);

    instances[2].post("/v1/experiments/both/ramp/0.3").unwrap();
    until(&instances[0], "new verdicts in this step", |evidence| {
        evidence["ramps"][0]["waits_for"].as_str().is_some_and(|it| it.contains("verdicts"))
    });
    send_more();
    until(&instances[1], "the ramp goes on", |evidence| evidence["ramps"][0]["traffic_ratio"] == 0.6);
    assert_eq!(instances[1].code("POST", "/v1/experiments/both/traffic/1.5", ""), "bad_request");
    assert_eq!(instances[1].code("POST", "/v1/experiments/none/traffic/0.5", ""), "unknown_name");
}

#[test]
fn a_new_instance_begins_with_a_snapshot_where_retention_has_cut_the_topics() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    kafka.create(&topics.name("evidence"), 1, &[("cleanup.policy", "compact")]);
    let of = |name: &str| {
        let settings = with_evidence(&topics.operated(kafka.address(), name));
        let evidence = format!("evidence = \"{}\"\n", topics.name("evidence"));
        assert!(settings.contains("[kafka.options]\n"), "{settings}");
        settings
            .replace("[kafka.options]\n", &format!("{evidence}[kafka.options]\n"))
            .replace("commit_ms = 50", "commit_ms = 50\nsnapshot_ms = 300")
    };
    let first = Instance::start(&of("one"));
    send(kafka.address(), &topics.name("requests"), &different_requests(0..100));
    let before = caught_up(&first.api, 100);
    let written = || first.metric("ofa_evidence_snapshots_total", "result=\"written\"");
    let (begun, seen) = (Instant::now(), written());
    while written() < seen + 2.0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "no snapshot was written");
        std::thread::sleep(Duration::from_millis(50));
    }

    for topic in ["requests", "verdicts"] {
        kafka.delete_all(&topics.name(topic));
    }
    let second = Instance::start(&of("two"));
    let after = caught_up(&second.api, 0);
    assert_eq!(after["experiments"], before["experiments"]);
    assert_eq!(after["progress"]["records"], 0, "there was nothing to read");

    send(kafka.address(), &topics.name("requests"), &different_requests(100..160));
    let reports = [&first, &second].map(|instance| {
        until(instance, "60 more verdicts", |evidence| {
            let variants = evidence["experiments"][0]["variants"].as_array().unwrap().iter();
            variants.filter_map(|variant| variant["verdicts"].as_u64()).sum::<u64>() == 160
        })
    });
    assert_eq!(reports[0]["experiments"], reports[1]["experiments"]);
}
