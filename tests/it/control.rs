//! What operators change while the program runs, against running instances.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use ofa_stream::{
    admin::ChangeRequest,
    control::{Applied, Report},
};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::{Value, json};

use crate::{
    broker::{CONTROL, Outcome, VERDICTS, cluster, image, produce, read, reader},
    instance::{Instance, operated},
    support::{Running, repository},
};

pub(crate) fn requests(prefix: &str, count: usize) -> Vec<(String, Vec<u8>)> {
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
        assert!(refused["reason"].as_str().unwrap().contains(words), "{refused}");
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

#[test]
fn a_settings_file_that_was_cut_short_is_warned_of_with_what_is_missing() {
    let cluster = cluster();
    let instance = Instance::start(&operated(&cluster.bootstrap_servers()));
    instance.running.log_line("Taking requests.");
    let folder = instance.running.folder().to_str().unwrap().to_owned();
    let whole = operated(&cluster.bootstrap_servers()).replace("{folder}", &folder);
    let (before, rest) = whole.split_once("[[experiments]]").unwrap();
    let after = rest.split_once("[telemetry]").unwrap().1;
    instance.running.write_settings(&format!("{before}[telemetry]{after}"));
    instance.running.log_line("Configuration switched.");
    let warned = instance.running.log_line("lacks what the one before had");
    assert_eq!((warned["level"].as_str(), warned["gone"].as_str()), (Some("WARN"), Some("experiment `both`")));

    let audit: Value = instance.api.get("/v1/audit").unwrap();
    let last = &audit.as_array().unwrap()[0];
    assert_eq!(last["gone"], json!({"experiment": ["both"]}), "{audit}");
    assert_eq!(instance.running.stop(), Some(0));
}

pub(crate) fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
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
    instance.running.log_line("file_waits");
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
    let small: Applied = instance.api.post("/v1/default/ofa_small", &ChangeRequest::default()).unwrap();
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
fn unreadable_control_records() {
    let cluster = cluster();
    let servers = cluster.bootstrap_servers();
    let settings = operated(&servers);
    let write = |payload: &str| {
        let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &servers).create().unwrap();
        let send = |key: &str, payload: &str| {
            let record = BaseRecord::to(CONTROL).key(key).payload(payload);
            producer.send(record).map_err(|(error, _)| error).unwrap();
        };
        send("ofa-stream", payload);
        send("another-group", "whatever");
        producer.flush(Duration::from_secs(10)).unwrap();
    };

    // Garbage carries no revision: it blocks nothing.
    write("{");
    let instance = Instance::start(&settings);
    instance.running.log_line("Taking requests.");
    let digest = instance.report().config_digest;
    assert_eq!(instance.report().behind, None);
    let paused = instance.post("/v1/experiments/both/pause").unwrap();
    write("{");
    instance.running.log_line("unreadable_record");
    instance.running.log_line("republished");
    assert_eq!(instance.report().config_digest, paused.config_digest);

    // A newer record blocks commands that would undo it.
    let newer = instance.report().revision + 5;
    write(&format!(r#"{{"revision": {newer}}}"#));
    let logged = instance.running.log_line("This instance cannot serve what the group accepted.");
    assert!(logged["reason"].as_str().unwrap().contains("of `moderation.control`"), "{logged}");
    assert_eq!(instance.metric("ofa_config_refused_total", "unreadable"), 1.0);
    assert!(instance.report().behind.unwrap().contains("missing field `current`"));
    assert_eq!(instance.code("POST", "/v1/rollback", ""), "unknown_state");
    assert_eq!(instance.report().config_digest, paused.config_digest);
    let force = ChangeRequest { force: true, ..ChangeRequest::default() };
    let back: Applied = instance.api.post("/v1/rollback", &force).unwrap();
    assert_eq!((back.config_digest.as_str(), back.revision), (digest.as_str(), newer + 1));
    let audit: Value = instance.api.get("/v1/audit").unwrap();
    assert_eq!((&audit[0]["action"], &audit[0]["forced"]), (&json!("rollback"), &json!(true)));

    // A state that this instance cannot serve: it goes on as before, and says so.
    let newer = newer + 5;
    write(&format!(r#"{{"revision": {newer}, "current": {{"overrides": {{"default": "ofa_huge"}}}}}}"#));
    instance.running.log_line("This instance cannot serve what the group accepted.");
    let report = instance.report();
    assert!(report.behind.unwrap().contains("ofa_huge"));
    assert_eq!((report.config_digest, report.revision, report.sync.as_str()), (digest, newer, "out_of_sync"));
    assert_eq!(instance.metric("ofa_config_behind", ""), 1.0);
    let good: Applied = instance.api.post("/v1/default/ofa_small", &ChangeRequest::default()).unwrap();
    assert_eq!(good.revision, newer + 1);
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
