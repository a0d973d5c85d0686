//! What operators change while the program runs, against running instances.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use ofa_stream::{
    admin::Asked,
    control::{Applied, Report},
};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::{Value, json};

use crate::{
    broker::{CONTROL, Outcome, VERDICTS, cluster, image, produce, produce_to, read, reader},
    instance::{Instance, operated},
    kafka::Kafka,
    offered::committed_reader,
    support::{Running, repository},
};

fn requests(prefix: &str, count: usize) -> Vec<(String, Vec<u8>)> {
    let image = image("thumbnail.png");
    let request = |number: usize| {
        let id = format!("{prefix}-{number}");
        let request = json!({"request_id": id, "text": "a red shoe", "image": {"base64": image}});
        (id, request.to_string().into_bytes())
    };
    (0..count).map(request).collect()
}

fn verdict(outcome: &Outcome) -> Value {
    assert_eq!(outcome.topic, VERDICTS, "{}", String::from_utf8_lossy(&outcome.payload));
    serde_json::from_slice(&outcome.payload).unwrap()
}

#[test]
fn a_changed_file_is_taken_over_and_one_that_cannot_work_changes_nothing() {
    let cluster = cluster();
    let servers = cluster.bootstrap_servers();
    let instance = Instance::start(&operated(&servers));
    instance.running.log_line("Taking requests.");
    let (consumer, mut outcomes) = (reader(&servers), Vec::new());
    let mut answered_by = |prefix: &str| {
        produce(&servers, &requests(prefix, 5));
        let before = outcomes.len();
        read(&consumer, &mut outcomes, |outcomes| outcomes.len() == before + 5);
        outcomes[before..].iter().map(verdict).collect::<Vec<_>>()
    };
    let digests = |verdicts: &[Value]| -> BTreeSet<String> {
        verdicts.iter().map(|verdict| verdict["route"]["config_digest"].as_str().unwrap().to_owned()).collect()
    };
    let folder = instance.running.folder().to_str().unwrap().to_owned();
    let file = operated(&servers).replace("{folder}", &folder);
    let first = instance.report().config_digest;
    assert_eq!(digests(&answered_by("first")), BTreeSet::from([first.clone()]));

    // Noticed without a signal.
    let small = file
        .replace("default = \"ofa_base\"", "default = \"ofa_small\"")
        .replace("traffic_ratio = 1.0", "traffic_ratio = 0.0");
    instance.running.write_settings(&small);
    let switched = instance.running.log_line("Configuration switched.");
    assert_eq!(switched["previous_digest"], json!(first));
    let second = instance.report().config_digest;
    let verdicts = answered_by("second");
    assert_eq!(digests(&verdicts), BTreeSet::from([second.clone()]));
    assert!(verdicts.iter().all(|verdict| verdict["model_version"] == "ofa_small"));

    // A model that is not what was imported, a typo in a condition, a group that cannot change.
    let models = instance.running.folder().join("models");
    copy(&repository("models/ofa_small"), &models.join("ofa_small"));
    copy(&repository("models/ofa_base"), &models.join("ofa_base"));
    let weights = models.join("ofa_base/weights.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let corrupt =
        file.replace("[model_versions]\n", &format!("[model_versions]\ndirectory = \"{}\"\n", models.display()));
    let typo = format!("{small}\n[[routing_rules]]\ncondition = \"text_lenght < 3\"\nversion = \"ofa_base\"\n");
    let group = small.replace("[kafka]\n", "[kafka]\ngroup_id = \"another\"\n");
    for (text, code, words) in
        [(&corrupt, "version", "ofa_base"), (&typo, "settings", "text_lenght"), (&group, "fixed_setting", "[kafka]")]
    {
        instance.running.write_settings(text);
        let refused = instance.running.log_line("A change is refused");
        assert_eq!(refused["code"], code);
        assert!(refused["error"].as_str().unwrap().contains(words), "{refused}");
        assert_eq!(instance.metric("ofa_config_refused_total", code), 1.0);
    }
    assert_eq!(digests(&answered_by("third")), BTreeSet::from([second.clone()]));
    assert_eq!(instance.report().versions.len(), 2, "what was loaded for nothing is let go");

    // A signal asks again, and a rollback goes back to what the file was.
    assert!(instance.report().file_refused.unwrap().contains("[kafka]"));
    instance.running.change_settings(&small);
    let begun = Instant::now();
    while instance.report().file_refused.is_some() {
        assert!(begun.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(5));
    }
    let back = instance.post("/v1/rollback").unwrap();
    assert_eq!((back.config_digest, back.previous_digest), (first.clone(), second));
    assert_eq!(digests(&answered_by("fourth")), BTreeSet::from([first]));
    assert_eq!(instance.running.stop(), Some(0));
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn one_command_switches_every_instance_and_those_that_come_later_and_after_a_restart() {
    let cluster = cluster();
    let settings = operated(&cluster.bootstrap_servers());
    let (one, two) = (Instance::start(&settings), Instance::start(&settings));
    one.running.log_line("Taking requests.");
    two.running.log_line("Taking requests.");
    let paused = one.post("/v1/experiments/both/pause").unwrap();
    two.until_it_serves(&paused.config_digest);
    let promoted: Applied = two.api.post("/v1/experiments/both/promote/treatment", &Asked::default()).unwrap();
    assert_eq!(promoted.revision, 2, "it builds upon what the other instance did");
    one.until_it_serves(&promoted.config_digest);
    assert_eq!(one.report().experiments[0].position, "promoted treatment");

    let late = Instance::start(&settings);
    late.running.log_line("Taking requests.");
    assert_eq!((late.report().config_digest, late.report().revision), (promoted.config_digest.clone(), 2));
    let back = late.post("/v1/rollback").unwrap();
    assert_eq!(back.config_digest, paused.config_digest);
    one.until_it_serves(&back.config_digest);

    // Alone with its state file, on a cluster that has forgotten everything.
    let folder = one.running.stop_and_keep();
    let other = crate::broker::cluster();
    let again = Instance::of(Running::start_in(folder, &operated(&other.bootstrap_servers())));
    again.running.log_line("Taking requests.");
    let report = again.report();
    assert_eq!((report.config_digest, report.revision), (paused.config_digest, 3));
    assert_eq!(report.experiments[0].position, "paused");
    let audit: Vec<Value> = again.api.get("/v1/audit").unwrap();
    let actions: Vec<&str> = audit.iter().map(|line| line["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["rollback", "promote both treatment", "pause both"]);
    assert_eq!((audit[2]["by"].as_str(), audit[2]["why"].as_str()), (Some("ann"), Some("a test")));
}

#[test]
fn neither_a_broken_file_nor_a_folder_that_is_gone_stands_in_the_way_of_a_command() {
    let cluster = cluster();
    let folder = tempfile::tempdir().unwrap();
    for version in ["ofa_base", "ofa_small"] {
        copy(&repository("models").join(version), &folder.path().join("models").join(version));
    }
    let settings = operated(&cluster.bootstrap_servers())
        .replace("[model_versions]\n", "[model_versions]\ndirectory = \"{folder}/models\"\n");
    let instance = Instance::of(Running::start_in(folder, &settings));
    instance.running.log_line("Taking requests.");
    let file = std::fs::read_to_string(instance.running.folder().join("pipeline.toml")).unwrap();
    let first = instance.report().config_digest;
    let half = file.replace("traffic_ratio = 1.0", "traffic_ratio = 0.5");
    let applied: Applied = instance.api.send("PUT", "/v1/config", half.clone()).unwrap();
    // It waits: other settings are in force.
    instance.running.write_settings("[kafka");
    instance.running.log_line("The settings file changed, and other settings are in force");
    std::fs::remove_dir_all(instance.running.folder().join("models")).unwrap();
    let paused = instance.post("/v1/experiments/both/pause").unwrap();
    assert_ne!(paused.config_digest, applied.config_digest);
    assert_eq!(instance.post("/v1/rollback").unwrap().config_digest, applied.config_digest);
    assert_eq!(instance.post("/v1/rollback").unwrap().config_digest, first, "the file as it was");
    assert_eq!(instance.code("DELETE", "/v1/config", ""), "settings", "the file as it is");
    assert_eq!(instance.code("PUT", "/v1/config", &half), "version", "settings are about folders too");
    assert_eq!(instance.report().config_digest, first);
}

#[test]
fn a_file_that_is_refused_is_told_and_tried_again_when_it_may_fit() {
    let cluster = cluster();
    let instance = Instance::start(&operated(&cluster.bootstrap_servers()));
    instance.running.log_line("Taking requests.");
    let file = std::fs::read_to_string(instance.running.folder().join("pipeline.toml")).unwrap();
    let small: Applied = instance.api.post("/v1/default/ofa_small", &Asked::default()).unwrap();
    let without = file.replace("[model_versions.versions.ofa_small]\nanswer_cache_bytes = 0\n", "");
    let without = without.replace("ofa_small", "ofa_base").replace("weight = 3.0", "weight = 2.0");
    instance.running.write_settings(&without);
    instance.running.log_line("A change is refused");
    let report = instance.report();
    assert!(report.file_refused.unwrap().contains("ofa_small") && report.behind.is_none());
    assert_eq!(report.config_digest, small.config_digest);
    let cleared: Applied = instance.api.send("DELETE", "/v1/overrides", String::new()).unwrap();
    instance.running.log_line("Configuration switched.");
    let followed = instance.running.log_line("Configuration switched.");
    assert_eq!(followed["action"], "settings file");
    let report = instance.report();
    assert!(report.file_refused.is_none() && report.config_digest != cleared.config_digest);
}

#[test]
fn commands_to_two_instances_at_the_same_moment_are_both_followed_by_both() {
    let cluster = cluster();
    let settings = operated(&cluster.bootstrap_servers());
    let (one, two) = (Instance::start(&settings), Instance::start(&settings));
    one.running.log_line("Taking requests.");
    two.running.log_line("Taking requests.");
    for round in 0..12 {
        let (verb, position) = [("pause", "paused"), ("resume", "running")][round % 2];
        let default = ["ofa_small", "ofa_base"][round / 2 % 2];
        std::thread::scope(|scope| {
            let (first, second, path) = (&one.api, &two.api, format!("/v1/experiments/both/{verb}"));
            scope.spawn(move || first.post::<Applied>(&path, &Asked::default()).unwrap());
            scope.spawn(move || second.post::<Applied>(&format!("/v1/default/{default}"), &Asked::default()).unwrap());
        });
        let begun = Instant::now();
        let agree = || {
            let reports = [one.report(), two.report()];
            let as_asked = |report: &Report| {
                report.experiments[0].position == position && report.default == default && report.behind.is_none()
            };
            reports.iter().all(as_asked) && reports[0].config_digest == reports[1].config_digest
        };
        while !agree() {
            let seen = || (one.report(), two.report());
            assert!(begun.elapsed() < Duration::from_secs(10), "round {round}: {:?}", seen());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    let met = [&one, &two].map(|instance| instance.running.logged("came at the same time; both are made"));
    eprintln!("of 12 pairs of commands, {} met", met.iter().sum::<usize>());
}

#[test]
fn a_hundred_switches_under_load_lose_double_and_fail_no_request() {
    const SWITCHES: usize = 100;
    let Some(kafka) = Kafka::shared() else { return };
    let (topics, servers) = (kafka.topics(), kafka.address());
    let [one, two] = ["one", "two"].map(|name| Instance::start(&topics.operated(servers, name)));
    one.running.log_line("Taking requests.");
    two.running.log_line("Taking requests.");
    let (consumer, mut outcomes) = (committed_reader(servers, &topics), Vec::new());
    let requests_topic = topics.name("requests");
    let verdict = |outcome: &Outcome| -> Value { serde_json::from_slice(&outcome.payload).unwrap() };
    produce_to(servers, &requests_topic, &requests("warm", 20));
    read(&consumer, &mut outcomes, |outcomes| outcomes.len() == 20);
    let (over, produced) = (AtomicBool::new(false), AtomicUsize::new(20));
    let mut times = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0.. {
                if over.load(Ordering::Acquire) {
                    return;
                }
                // More than two instances on two cores can answer at once, so that something is always in flight.
                produce_to(servers, &requests_topic, &requests(&format!("round-{round}"), 10));
                produced.fetch_add(10, Ordering::AcqRel);
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        for switch in 0..SWITCHES {
            let path = ["pause", "resume"][switch % 2];
            let begun = Instant::now();
            let applied = one.post(&format!("/v1/experiments/both/{path}")).unwrap();
            two.until_it_serves(&applied.config_digest);
            times.push(begun.elapsed());
            std::thread::sleep(Duration::from_millis(80));
        }
        over.store(true, Ordering::Release);
    });
    let produced = produced.load(Ordering::Acquire);
    read(&consumer, &mut outcomes, |outcomes| outcomes.len() >= produced);
    let ids: BTreeSet<String> =
        outcomes.iter().map(|it| verdict(it)["request_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!((ids.len(), outcomes.len()), (produced, produced));
    // Each was answered as its configuration says: nobody but the default while the experiment is paused.
    let mut reasons: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for verdict in outcomes.iter().map(verdict) {
        let text = |name: &str| verdict["route"][name].as_str().unwrap().to_owned();
        reasons.entry(text("config_digest")).or_default().insert(text("reason"));
    }
    assert_eq!(reasons.len(), 2, "both configurations answered");
    assert!(reasons.values().all(|reasons| reasons.len() == 1), "{reasons:?}");
    assert!(outcomes.iter().all(|outcome| outcome.topic == topics.name("verdicts")));
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    eprintln!(
        "{SWITCHES} switches over two instances, {produced} requests: p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

#[test]
fn a_control_record_that_nobody_can_read_is_counted_and_changes_nothing() {
    let cluster = cluster();
    let servers = cluster.bootstrap_servers();
    let settings = operated(&servers);
    let write = |payload: &str| {
        let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &servers).create().unwrap();
        producer.send(BaseRecord::to(CONTROL).key("ofa-stream").payload(payload)).map_err(|(error, _)| error).unwrap();
        producer
            .send(BaseRecord::to(CONTROL).key("another-group").payload("whatever"))
            .map_err(|(error, _)| error)
            .unwrap();
        producer.flush(Duration::from_secs(10)).unwrap();
    };
    write("{");
    let instance = Instance::start(&settings);
    instance.running.log_line("Taking requests.");
    let Report { config_digest: digest, behind, .. } = instance.report();
    assert!(behind.unwrap().contains("offset 0 of `moderation.control`"));
    write(r#"{"revision": 1}"#);
    let refused = instance.running.log_line("A change is refused");
    assert!(refused["error"].as_str().unwrap().contains("offset 2 of `moderation.control`"), "{refused}");
    assert_eq!(instance.metric("ofa_config_refused_total", "unreadable"), 1.0);
    // It may say anything: what is asked for here would undo it.
    assert!(instance.report().behind.unwrap().contains("offset 2"));
    assert_eq!(instance.code("POST", "/v1/experiments/both/pause", ""), "unknown_state");
    assert_eq!(instance.report().config_digest, digest);

    // A state that cannot be served here: this instance stays as it is, and says so.
    write(r#"{"revision": 5, "current": {"overrides": {"default": "ofa_huge"}}}"#);
    instance.running.log_line("A change is refused");
    let report = instance.report();
    assert!(report.behind.unwrap().contains("ofa_huge"));
    assert_eq!((report.config_digest.as_str(), report.revision), (digest.as_str(), 5));
    assert_eq!(instance.metric("ofa_config_behind", ""), 1.0);
    let good: Applied = instance.api.post("/v1/default/ofa_small", &Asked::default()).unwrap();
    assert_eq!(good.revision, 6);
    assert_eq!((instance.report().behind, instance.metric("ofa_config_behind", "")), (None, 0.0));
}

#[test]
fn a_version_that_no_route_names_is_kept_warm_and_then_unloaded() {
    let cluster = cluster();
    let settings =
        operated(&cluster.bootstrap_servers()).replace("[model_versions]\n", "[model_versions]\nkeep_warm_ms = 1500\n");
    let instance = Instance::start(&settings);
    instance.running.log_line("Taking requests.");
    let named = |report: &Report| -> Vec<(String, bool)> {
        report.versions.iter().map(|version| (version.name.clone(), version.named)).collect()
    };
    let (base, small) = ("ofa_base".to_owned(), "ofa_small".to_owned());
    instance.post("/v1/experiments/both/pause").unwrap();
    assert_eq!(named(&instance.report()), [(base.clone(), true), (small.clone(), false)], "kept warm");
    instance.post("/v1/rollback").unwrap();
    assert_eq!(named(&instance.report()), [(base.clone(), true), (small.clone(), true)]);
    instance.post("/v1/experiments/both/pause").unwrap();
    let unloaded = instance.running.log_line("Version unloaded");
    assert_eq!(unloaded["version"], "ofa_small");
    assert_eq!(named(&instance.report()), [(base, true)]);
    instance.post("/v1/experiments/both/resume").unwrap();
    assert!(instance.report().versions.iter().any(|version| version.name == small && version.state == "ready"));
}
