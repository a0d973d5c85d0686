//! The edges of the record contract, on real Apache Kafka.

use std::time::{Duration, Instant};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    producer::{BaseProducer, Producer},
};
use serde_json::{Value, json};

use crate::{
    broker::{PARTITIONS, image},
    kafka::{Kafka, Received, Sent, hand_over, receive, send},
    support::{Running, metric, page, program, repository},
};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn request(id: &str) -> Value {
    json!({"request_id": id, "text": "a ball", "image": {"base64": image("thumbnail.png")}})
}

fn json_record<'a>(key: Option<&'a str>, request: &Value) -> Sent<'a> {
    Sent { key, payload: Some(request.to_string().into_bytes()), headers: vec![] }
}

fn ids(verdicts: &[Received]) -> Vec<String> {
    let mut ids: Vec<String> = verdicts
        .iter()
        .filter(|verdict| verdict.payload.is_some())
        .map(|verdict| verdict.json()["request_id"].as_str().unwrap().to_owned())
        .collect();
    ids.sort();
    ids
}

#[test]
fn keys_that_are_missing_ids_that_come_twice_and_records_without_a_value_each_get_what_they_should() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let running = Running::start(&topics.settings(kafka.address(), "edges"));
    let records = [
        json_record(None, &request("no-key")),
        json_record(Some("k"), &request("twice")),
        json_record(Some("k"), &request("twice")),
        Sent { key: Some("forget-me"), headers: vec![("tenant", "t")], ..Sent::default() },
        Sent::default(),
        json_record(Some("k"), &request("last")),
    ];
    send(kafka.address(), &topics.name("requests"), &records);
    let verdicts = receive(kafka.address(), &topics.name("verdicts"), 5);
    assert_eq!(ids(&verdicts), ["last", "no-key", "twice", "twice"]);
    let of = |id: &str| verdicts.iter().find(|verdict| verdict.payload.is_some() && verdict.json()["request_id"] == id);
    assert_eq!(of("no-key").unwrap().key, None);
    let forgotten = verdicts.iter().find(|verdict| verdict.payload.is_none()).unwrap();
    assert_eq!((forgotten.key.as_deref(), forgotten.headers["tenant"].as_str()), (Some("forget-me"), "t"));
    receive(kafka.address(), &topics.name("dead-letters"), 0);
    assert_eq!(running.stop(), Some(0));

    // All is committed, the tombstones too: nothing comes again.
    let again = Running::start(&topics.settings(kafka.address(), "edges"));
    again.log_line("Partitions assigned");
    std::thread::sleep(Duration::from_secs(1));
    receive(kafka.address(), &topics.name("verdicts"), 5);
    assert_eq!(again.stop(), Some(0));
}

#[test]
fn an_image_with_headers_is_judged_as_the_same_request_in_json() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let running = Running::start(&topics.settings(kafka.address(), "binary"));
    let mug = std::fs::read(repository("testdata/demo/mug.jpg")).unwrap();
    let written = json!({"request_id": "json", "text": ["a red mug", "a plate"], "image": {"base64": image("mug.jpg")},
        "attributes": {"user_role": "guest"}});
    let headers = vec![
        ("content-type", "image/jpeg"),
        ("ofa-request-id", "json"),
        ("ofa-text", "a red mug"),
        ("ofa-text", "a plate"),
        ("ofa-attributes", r#"{"user_role": "guest"}"#),
        ("traceparent", PARENT),
        ("tenant", "t"),
    ];
    let unnamed = vec![("content-type", "image/jpeg"), ("ofa-text", "a red mug")];
    let wrong = vec![("content-type", "image/jpeg")];
    let records = [
        json_record(Some("k"), &written),
        Sent { key: Some("k"), payload: Some(mug.clone()), headers },
        Sent { key: Some("k"), payload: Some(mug.clone()), headers: unnamed },
        Sent { key: Some("k"), payload: Some(mug.clone()), headers: wrong },
    ];
    send(kafka.address(), &topics.name("requests"), &records);
    let verdicts = receive(kafka.address(), &topics.name("verdicts"), 3);
    let lasting = |verdict: &Received| {
        let mut json = verdict.json();
        for passing in [
            "timestamp",
            "source",
            "requested_at",
            "age_ms",
            "latency_ms",
            "timings_ms",
            "answers",
            "confidence",
            "scores",
        ] {
            json.as_object_mut().unwrap().remove(passing);
        }
        json
    };
    assert_eq!(lasting(&verdicts[0]), lasting(&verdicts[1]), "the same verdict");
    let headers = &verdicts[1].headers;
    assert_eq!((headers["tenant"].as_str(), headers["content-type"].as_str()), ("t", "application/json"));
    assert!(!headers.contains_key("ofa-text"));
    let span = &headers["traceparent"];
    assert!(span.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && !span.contains("b7ad6b7169203331"), "{span}");
    assert_eq!(verdicts[2].json()["request_id"], format!("{}-0-2", topics.name("requests")));
    let letters = receive(kafka.address(), &topics.name("dead-letters"), 1);
    assert_eq!((letters[0].headers["ofa-error-code"].as_str(), &letters[0].payload), ("missing_field", &Some(mug)));
    assert_eq!(letters[0].headers["content-type"], "image/jpeg", "whoever repairs it has all that came");
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn what_a_producer_aborts_is_never_judged_and_its_gaps_hold_nothing_up() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let running = Running::start(&topics.settings(kafka.address(), "gaps"));
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.address()).set("transactional.id", topics.name("upstream"));
    let upstream: BaseProducer = config.create().unwrap();
    upstream.init_transactions(Duration::from_secs(30)).unwrap();
    for round in 0..6 {
        upstream.begin_transaction().unwrap();
        let request = json_record(Some("k"), &request(&format!("r-{round}")));
        hand_over(&upstream, &topics.name("requests"), &[request]);
        match round % 2 {
            0 => upstream.commit_transaction(Duration::from_secs(30)).unwrap(),
            _ => {
                upstream.flush(Duration::from_secs(30)).unwrap();
                upstream.abort_transaction(Duration::from_secs(30)).unwrap();
            }
        }
    }
    let verdicts = receive(kafka.address(), &topics.name("verdicts"), 3);
    assert_eq!(ids(&verdicts), ["r-0", "r-2", "r-4"]);
    assert_eq!(running.stop(), Some(0));
}

/// What a partition of the requests holds now, as a consumer of its own finds it.
fn held(kafka: &Kafka, topic: &str) -> Vec<String> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.address()).set("group.id", "outside").set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut all = TopicPartitionList::new();
    all.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&all).unwrap();
    let mut held = Vec::new();
    loop {
        match consumer.poll(Duration::from_secs(30)) {
            Some(Ok(message)) => {
                let request: Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
                held.push(request["request_id"].as_str().unwrap().to_owned());
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return held,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_gaps_that_compaction_leaves_hold_nothing_up() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let requests = topics.name("compacted");
    let compaction = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "100"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("max.compaction.lag.ms", "100"),
    ];
    kafka.create(&requests, PARTITIONS, &compaction);
    // Of each even key only the last of four requests is kept, and the odd keys never come again: gaps lie at the beginning and between.
    for round in 0..4 {
        for key in 0..10 {
            let id = format!("r-{round}-{key}");
            let key = format!("k-{}", if key % 2 == 0 { key } else { 10 * round + key });
            send(kafka.address(), &requests, &[json_record(Some(&key), &request(&id))]);
        }
    }
    // The last segment is never compacted.
    std::thread::sleep(Duration::from_millis(300));
    send(kafka.address(), &requests, &[json_record(Some("last"), &request("last"))]);
    let begun = Instant::now();
    let kept = loop {
        let kept = held(kafka, &requests);
        if kept.len() == 26 {
            break kept;
        }
        assert!(begun.elapsed() < Duration::from_secs(90), "{} of 41 are left: compaction has not come", kept.len());
        std::thread::sleep(Duration::from_millis(500));
    };

    let settings = topics.settings(kafka.address(), "compacted");
    let settings = settings.replace(&format!("\"{}\"", topics.name("requests")), &format!("\"{requests}\""));
    let running = Running::start(&settings);
    let verdicts = receive(kafka.address(), &topics.name("verdicts"), kept.len());
    let mut kept = kept;
    kept.sort();
    assert_eq!(ids(&verdicts), kept);
    assert_eq!(running.stop(), Some(0));
    let again = Running::start(&settings);
    // What comes behind all of them shows that none of them came again.
    send(kafka.address(), &requests, &[json_record(Some("after"), &request("after"))]);
    kept.push("after".to_owned());
    kept.sort();
    assert_eq!(ids(&receive(kafka.address(), &topics.name("verdicts"), kept.len())), kept);
    assert_eq!(again.stop(), Some(0));
}

#[test]
fn requests_that_are_deleted_before_they_are_read_are_told_of_and_hold_nothing_up() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let (settings, requests) = (topics.settings(kafka.address(), "late"), topics.name("requests"));
    let publish = |numbers: std::ops::Range<usize>| {
        let written: Vec<Value> = numbers.map(|number| request(&format!("r-{number}"))).collect();
        let records: Vec<Sent<'_>> = written.iter().map(|request| json_record(Some("k"), request)).collect();
        send(kafka.address(), &requests, &records);
    };
    publish(0..3);
    let running = Running::start(&settings);
    receive(kafka.address(), &topics.name("verdicts"), 3);
    assert_eq!(running.stop(), Some(0));

    publish(3..9);
    kafka.delete_before(&requests, 6);
    let late = Running::start(&settings);
    let pages = late.log_line("Serving /metrics")["address"].as_str().unwrap().to_owned();
    let verdicts = receive(kafka.address(), &topics.name("verdicts"), 6);
    assert_eq!(ids(&verdicts), ["r-0", "r-1", "r-2", "r-6", "r-7", "r-8"]);
    assert_eq!(metric(&page(&pages, "/metrics"), "ofa_offset_resets_total", ""), 1.0);
    let (code, told) = late.stop_and_hear();
    assert_eq!(code, Some(0), "{told}");
    let line = told.lines().find(|line| line.contains("were not in the log any more")).unwrap();
    assert!(line.contains(&requests) && line.contains("offset 3"), "it says where and from which offset: {line}");
}

#[test]
fn a_record_that_its_topic_finds_too_large_leaves_with_less_in_it_and_holds_nothing_up() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let running = Running::start(&topics.settings(kafka.address(), "large"));
    // Random, so that compression does not make it small: as a request it just fits, as a dead letter no more.
    let mut noise = vec![0_u8; 1_048_350];
    let mut state = 1_u32;
    noise.iter_mut().for_each(|byte| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    });
    let large = Sent { key: Some("large"), payload: Some(noise.clone()), headers: vec![("tenant", "t")] };
    let records = [large, json_record(Some("k"), &request("behind"))];
    send(kafka.address(), &topics.name("requests"), &records);
    let letters = receive(kafka.address(), &topics.name("dead-letters"), 1);
    let headers = &letters[0].headers;
    assert_eq!(headers["ofa-payload-omitted"], noise.len().to_string());
    assert_eq!((headers["ofa-error-code"].as_str(), headers["tenant"].as_str()), ("malformed_json", "t"));
    assert_eq!(letters[0].payload.as_ref().map_or(0, Vec::len), 0);
    assert_eq!(ids(&receive(kafka.address(), &topics.name("verdicts"), 1)), ["behind"]);
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn a_start_refuses_topics_that_take_less_than_the_requests_do() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    kafka.create(&topics.name("wide"), 1, &[("max.message.bytes", "2000000")]);
    let settings = topics.settings(kafka.address(), "limits");
    let wide = settings.replace(&format!("\"{}\"", topics.name("requests")), &format!("\"{}\"", topics.name("wide")));
    let (code, told) = Running::start(&wide).wait();
    assert_eq!(code, Some(1));
    assert!(told.contains("`max.message.bytes` of topic") && told.contains("2000000"), "{told}");
    for (settings, code, expected) in
        [(&wide, 1, "`max.message.bytes` of topic"), (&settings, 0, "and so are the topics on")]
    {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pipeline.toml");
        std::fs::write(&file, settings).unwrap();
        let output = program().args(["check", "--kafka", "--settings-only", "--config"]).arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.code() == Some(code) && said.contains(expected), "{said}");
    }
    let small =
        settings.replace("control = \"off\"\n[kafka.o", "control = \"off\"\nrecord_bytes_max = 100_000\n[kafka.o");
    let (code, told) = Running::start(&small).wait();
    assert_eq!(code, Some(1));
    assert!(told.contains("`kafka.record_bytes_max` is 100000 bytes"), "{told}");
}

#[test]
fn a_topic_that_is_gone_stops_it_after_a_time_and_when_it_is_back_nothing_is_missing() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let settings = topics.settings(kafka.address(), "gone");
    let settings =
        settings.replace("control = \"off\"\n[kafka.o", "control = \"off\"\npublish_timeout_ms = 8_000\n[kafka.o");
    let running = Running::start(&settings);
    send(kafka.address(), &topics.name("requests"), &[json_record(Some("k"), &request("before"))]);
    receive(kafka.address(), &topics.name("verdicts"), 1);
    kafka.delete(&topics.name("verdicts"));
    send(kafka.address(), &topics.name("requests"), &[json_record(Some("k"), &request("meanwhile"))]);
    let (code, told) = running.wait();
    assert_eq!(code, Some(1));
    assert!(told.contains(&topics.name("verdicts")) && told.contains("`kafka.publish_timeout_ms`"), "{told}");

    kafka.create(&topics.name("verdicts"), PARTITIONS, &[]);
    let again = Running::start(&settings);
    let verdicts = receive(kafka.address(), &topics.name("verdicts"), 1);
    assert_eq!(ids(&verdicts), ["meanwhile"]);
    assert_eq!(again.stop(), Some(0));
}

/// What the group committed last is undecided while members that come change who owns what: librdkafka takes that for nothing, and
/// reads from the beginning.
#[test]
fn a_partition_whose_offset_is_undecided_when_it_is_taken_over_is_not_read_from_its_beginning() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let requests: Vec<Value> = (0..20).map(|number| request(&format!("r-{number:02}"))).collect();
    let records: Vec<Sent<'_>> = requests.iter().map(|request| json_record(Some("k"), request)).collect();
    send(kafka.address(), &topics.name("requests"), &records);
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.address()).set("group.id", topics.group());
    let reader: BaseConsumer = config.create().unwrap();
    let before: BaseProducer = config.set("transactional.id", topics.name("before")).create().unwrap();
    before.init_transactions(Duration::from_secs(30)).unwrap();
    before.begin_transaction().unwrap();
    let mut half = TopicPartitionList::new();
    half.add_partition_offset(&topics.name("requests"), 0, Offset::Offset(10)).unwrap();
    before.send_offsets_to_transaction(&half, &reader.group_metadata().unwrap(), Duration::from_secs(30)).unwrap();

    let settings = topics.settings(kafka.address(), "off");
    let settings = settings
        .replace("control = \"off\"\n[kafka.o", "control = \"off\"\ngroup_protocol = \"consumer\"\n[kafka.o")
        .replace("\"session.timeout.ms\" = \"6000\"\n", "");
    let instances = [(); 3].map(|()| {
        let running = Running::start(&settings);
        running.log_line("Taking requests");
        std::thread::sleep(Duration::from_secs(2));
        running
    });
    receive(kafka.address(), &topics.name("verdicts"), 0);
    before.commit_transaction(Duration::from_secs(30)).unwrap();
    let verdicts = receive(kafka.address(), &topics.name("verdicts"), 10);
    assert_eq!(ids(&verdicts), (10..20).map(|number| format!("r-{number}")).collect::<Vec<_>>());
    for running in instances {
        let (code, told) = running.stop_and_hear();
        let noticed = ["not what was read supposes", "where the group stands is not known"];
        let noticed = told.lines().filter(|line| noticed.iter().any(|words| line.contains(words))).count();
        println!("reading that began too early was noticed {noticed} times");
        assert_eq!(code, Some(0), "{told}");
    }
}

#[test]
fn an_instance_that_its_group_does_not_let_in_says_so_and_is_not_ready() {
    let Some(kafka) = Kafka::start(&[]) else { return };
    let topics = kafka.topics();
    let settings = topics.settings(kafka.address(), "outside");
    let running =
        Running::start(&settings.replace("[kafka]\n", "[kafka]\npublish_timeout_ms = 2000\nrebalance_drain_ms = 0\n"));
    let pages = running.log_line("Serving /metrics")["address"].as_str().unwrap().to_owned();
    running.log_line("Partitions assigned");
    assert!(page(&pages, "/readyz").starts_with("HTTP/1.1 200"));
    // For longer than its session, so that the client takes itself for thrown out.
    kafka.tell("pause all");
    running.log_line("does not let this member in");
    let told = page(&pages, "/readyz");
    assert!(told.starts_with("HTTP/1.1 503") && told.contains("without a place in the consumer group"), "{told}");
    assert!(page(&pages, "/metrics").contains("ofa_group_member 0"));
    kafka.tell("resume all");
    running.log_line("let this member in again");
    assert!(page(&pages, "/readyz").starts_with("HTTP/1.1 200"));
    assert_eq!(running.stop(), Some(0));
}
