//! Requests that fail, on real Apache Kafka: tried again, refused, put back; and what stops a flood of them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    broker::image,
    kafka::{Kafka, Sent, Topics, receive, send},
    support::{Running, metric, page, program, repository, until},
};

fn by_path(id: &str, path: &str) -> Sent<'static> {
    let request = json!({"request_id": id, "text": "a mug", "image": {"path": path}});
    Sent { key: Some("k"), payload: Some(request.to_string().into_bytes()), headers: vec![("tenant", "t")] }
}

#[test]
fn a_request_whose_image_comes_late_is_answered_and_one_whose_image_never_comes_is_refused_in_the_end() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let images = tempfile::tempdir().unwrap();
    let retries = format!("retries = [{{ topic = \"{}\", delay_ms = 4000 }}]\n[kafka.options]", topics.name("retry"));
    let settings = topics.settings(kafka.address(), "retries").replace("[kafka.options]", &retries)
        + &format!("[images]\npath_root = \"{}\"\n", images.path().display());
    let running = Running::start(&settings);
    running.log_line("Partitions assigned");
    send(kafka.address(), &topics.name("requests"), &[by_path("late", "late.jpg"), by_path("never", "never.jpg")]);
    let sent = Instant::now();
    running.log_line("Is tried again later.");
    std::fs::copy(repository("testdata/demo/mug.jpg"), images.path().join("late.jpg")).unwrap();
    let verdicts = receive(kafka.address(), &topics.name("verdicts"), 1);
    assert_eq!(verdicts[0].json()["request_id"], "late");
    assert!(sent.elapsed() > Duration::from_secs(4), "it was tried again before its time: {:?}", sent.elapsed());
    let letters = receive(kafka.address(), &topics.name("dead-letters"), 1);
    let headers = &letters[0].headers;
    assert_eq!((headers["ofa-error-code"].as_str(), headers["ofa-attempts"].as_str()), ("image_file_unreadable", "2"));
    assert_eq!(headers["__connect.errors.topic"], topics.name("requests"), "where it was published first");
    assert_eq!(headers["__connect.errors.offset"], "1");
    assert_eq!(headers["tenant"], "t");
    assert!(
        headers.keys().all(|name| !name.starts_with("ofa-retry") && !name.starts_with("ofa-origin")),
        "{headers:?}"
    );
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn records_that_wait_in_a_retry_topic_are_its_lag() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let images = tempfile::tempdir().unwrap();
    let retries = format!("retries = [{{ topic = \"{}\", delay_ms = 60_000 }}]\n[kafka.options]", topics.name("retry"));
    let settings = topics.settings(kafka.address(), "lag").replace("[kafka.options]", &retries)
        + &format!("[images]\npath_root = \"{}\"\n", images.path().display());
    let running = Running::start(&settings);
    let pages = running.log_line("Serving /metrics")["address"].as_str().unwrap().to_owned();
    running.log_line("Partitions assigned");
    for number in 0..5 {
        send(kafka.address(), &topics.name("requests"), &[by_path(&format!("r-{number}"), "none.jpg")]);
    }
    let waiting = receive(kafka.address(), &topics.name("retry"), 5);
    assert_eq!(waiting.len(), 5);
    until("a lag of five records", || {
        let lag = metric(&page(&pages, "/metrics"), "ofa_consumer_lag_records", "kind=\"retry\"");
        (lag == 5.0).then_some(())
    });
    assert_eq!(running.stop(), Some(0));
}

fn dead_letters(topics: &Topics, address: &str, arguments: &[&str]) -> (bool, String) {
    let settings = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(settings.path(), topics.settings(address, "operator")).unwrap();
    let output = program().arg("dead-letters").args(arguments).arg("--config").arg(settings.path()).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), printed)
}

#[test]
fn dead_letters_are_listed_shown_repaired_and_put_back() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let address = kafka.address();
    let running = Running::start(&topics.settings(address, "letters"));
    let good = json!({"request_id": "r", "text": "a ball", "image": {"base64": image("thumbnail.png")}}).to_string();
    let records = [
        Sent { key: Some("a"), payload: Some(b"{oops".to_vec()), headers: vec![("tenant", "t")] },
        by_path("path", "x.jpg"),
    ];
    send(address, &topics.name("requests"), &records);
    let letters = receive(address, &topics.name("dead-letters"), 2);
    let broken = letters.iter().find(|letter| letter.headers["ofa-error-code"] == "malformed_json").unwrap();

    let (good_end, listed) = dead_letters(&topics, address, &["list", "--json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap_or_else(|error| panic!("{error}: {listed}"));
    assert!(good_end);
    assert_eq!(listed["codes"], json!({"image_path_refused": 1, "malformed_json": 1}));
    let (_, table) = dead_letters(&topics, address, &["list", "--code", "malformed_json"]);
    assert!(table.contains("1 dead letters in") && table.contains("is not JSON"), "{table}");
    for (since, count) in [("2020-01-01T00:00:00Z", 2), ("2100-01-01T00:00:00Z", 0)] {
        let (_, table) = dead_letters(&topics, address, &["list", "--since", since]);
        assert!(table.contains(&format!("{count} dead letters in")), "since {since}: {table}");
    }
    let (_, shown) = dead_letters(&topics, address, &["show", &broken.place]);
    assert!(shown.contains("tenant") && !shown.contains("oops"), "a value is a user's own: {shown}");
    let (_, missing) = dead_letters(&topics, address, &["show", "0:999"]);
    assert!(missing.contains("there is no dead letter there"), "{missing}");
    let (_, unsaid) = dead_letters(&topics, address, &["replay"]);
    assert!(unsaid.contains("say which"), "{unsaid}");

    let repaired = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(repaired.path(), &good).unwrap();
    let replay = ["replay", &broken.place, "--value", repaired.path().to_str().unwrap()];
    let (_, dry) = dead_letters(&topics, address, &replay);
    assert!(dry.contains("1 would go back"), "{dry}");
    receive(address, &topics.name("verdicts"), 0);
    let (good_end, done) = dead_letters(&topics, address, &[&replay[..], &["--yes"]].concat());
    assert!(good_end && done.contains("1 went back"), "{done}");
    let verdicts = receive(address, &topics.name("verdicts"), 1);
    assert_eq!((verdicts[0].key.as_deref(), verdicts[0].headers["tenant"].as_str()), (Some("a"), "t"));
    assert_eq!(verdicts[0].json()["request_id"], "r");
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn a_flood_of_failures_stops_reading_until_somebody_changes_something() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let settings = topics.settings(kafka.address(), "breaker")
        + "[pipeline]\nrecords_in_flight_max = 10\n[breaker]\nrun_max = 20\npause_ms = 0\n";
    let running = Running::start(&settings);
    let pages = running.log_line("Serving /metrics")["address"].as_str().unwrap().to_owned();
    running.log_line("Partitions assigned");
    let bad: Vec<Sent<'_>> =
        (0..300).map(|_| Sent { key: Some("k"), payload: Some(b"{".to_vec()), headers: vec![] }).collect();
    send(kafka.address(), &topics.name("requests"), &bad);
    running.log_line("Too many dead letters");
    std::thread::sleep(Duration::from_secs(2));
    let ready = page(&pages, "/readyz");
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("breaker"), "{ready}");
    let refused = metric(&page(&pages, "/metrics"), "ofa_dead_letters_total", "");
    assert!((20.0..=40.0).contains(&refused), "{refused} dead letters: those that were on their way, and no more");

    running.change_settings(&(settings + "[decision]\napprove_confidence = 0.7\n"));
    running.log_line("Too many dead letters");
    let later = metric(&page(&pages, "/metrics"), "ofa_dead_letters_total", "");
    assert!(later > refused, "it tried again");
    assert_eq!(running.stop(), Some(0));
}
