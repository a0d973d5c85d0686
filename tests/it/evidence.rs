//! Evidence that instances keep: exact over kills, current, and acted upon once.

use std::{
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use ofa_stream::admin::Client;
use serde_json::{Value, json};

use crate::{
    broker::image,
    instance::{Instance, READ_TOKEN, client},
    kafka::{Kafka, Sent, receive, send},
    support::program,
};

/// Settings of a test with evidence in the folder of the instance.
pub(crate) fn with_evidence(settings: &str) -> String {
    settings.replace(
        "[evidence]\nenabled = false\n",
        "[evidence]\ndirectory = \"{folder}/evidence\"\ncommit_ms = 50\n\
         [[evidence.segments]]\nname = \"length\"\nfield = \"text_length\"\nbounds = [10]\n",
    )
}

/// The evidence of an instance, once it has counted so many records and has no more to read.
pub(crate) fn caught_up(api: &Client, records: u64) -> Value {
    let begun = Instant::now();
    loop {
        let report: Value = api.get("/v1/evidence").unwrap();
        let progress = &report["progress"];
        if progress["caught_up"] == true && progress["records"].as_u64() >= Some(records) {
            return report;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{report}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The report that is computed from the topics.
fn recomputed(config: &std::path::Path) -> Value {
    let output = program().args(["report", "--format", "json", "--config"]).arg(config).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

pub(crate) fn request(number: usize, text: &str) -> Sent<'static> {
    let request =
        json!({"request_id": format!("r-{number}"), "text": text, "image": {"base64": image("thumbnail.png")}});
    Sent { key: Some("k"), payload: Some(request.to_string().into_bytes()), headers: vec![] }
}

#[test]
fn the_evidence_of_an_instance_is_that_of_the_topics_bit_for_bit() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let settings = with_evidence(&topics.operated(kafka.address(), "one"));
    let instance = Instance::start(&settings);
    let mut records: Vec<Sent<'_>> =
        (0..150).map(|number| request(number, if number % 3 == 0 { "a mug" } else { "a longer text" })).collect();
    // A request that comes twice, one that cannot be read, and one that fails after it was routed.
    records.push(request(7, "a mug"));
    records.push(Sent { key: None, payload: Some(b"{".to_vec()), headers: vec![] });
    let mut cut = std::fs::read(crate::support::repository("testdata/demo/sticker-01.png")).unwrap();
    let middle = cut.len() / 2;
    cut[middle..middle + 64].fill(0);
    let cut = ofa_stream::message::encode_base64(&cut);
    let cut = json!({"request_id": "cut", "text": "a mug", "image": {"base64": cut}});
    records.push(Sent { key: None, payload: Some(cut.to_string().into_bytes()), headers: vec![] });
    send(kafka.address(), &topics.name("requests"), &records);

    let report = caught_up(&instance.api, 153);
    let mut summary = report.clone();
    let fields = summary.as_object_mut().unwrap();
    fields.remove("progress");
    fields.remove("guards");
    fields.remove("ramps");
    assert_eq!(summary, recomputed(&instance.running.folder().join("pipeline.toml")));

    let experiment = &report["experiments"][0];
    let of = |field: &str| -> u64 {
        experiment["variants"].as_array().unwrap().iter().map(|variant| variant[field].as_u64().unwrap()).sum()
    };
    assert_eq!((of("verdicts"), of("dead_letters")), (150, 1));
    assert_eq!(report["excluded"]["duplicates"], 1);
    let values: Vec<&str> =
        experiment["segments"].as_array().unwrap().iter().map(|segment| segment["value"].as_str().unwrap()).collect();
    assert_eq!(values, ["<10", ">=10"]);
    assert!(!experiment["hours"].as_array().unwrap().is_empty());

    // It goes on where it was, and reads nothing twice.
    let folder = instance.running.stop_and_keep();
    let again = Instance::of(crate::support::Running::start_in(folder, &settings));
    let report = caught_up(&again.api, 0);
    assert_eq!(report["excluded"]["duplicates"], 1);
    assert_eq!(report["progress"]["records"], 0);
    assert_eq!(report["experiments"], summary["experiments"]);
    assert!(again.metric("ofa_evidence_behind_seconds", "") < 1.0);
}

/// A verdict as the topic holds it.
pub(crate) fn verdict(number: usize) -> Vec<u8> {
    let variant = if number.is_multiple_of(2) { "control" } else { "treatment" };
    let label = ["no", "maybe", "yes"][number * 7919 % 3];
    json!({
        "request_id": (number - number % 7).to_string(), "timestamp": "2026-11-30T12:00:00.000Z", "result": label,
        "confidence": 0.9, "scores": {"yes": 0.05, "maybe": 0.05, "no": 0.9}, "decision": "reject",
        "is_manual_review": false, "model_version": variant, "model_digest": "sha256:0", "backend": "flex",
        "precision": "f32", "ab_experiment": "e", "ab_variant": variant, "ab_role": "live",
        "route": {"reason": "experiment", "rule": null, "config_digest": "sha256:1"},
        "ab": {
            "definition": "d", "unit": "request_id", "scheme": "m3v1", "epoch": 1, "propensity": 0.5, "layer": "default",
        },
        "image_hash": (number % 50).to_string(), "text_preview": "", "text_length": 1, "image_width": 1,
        "image_height": 1, "latency_ms": 2.0,
        "timings_ms": {"fetch": 0.0, "decode": 0.0, "queue": 0.0, "inference": 1.0},
    })
    .to_string()
    .into_bytes()
}

/// A process that only reads evidence.
struct EvidenceProcess(Child);

impl EvidenceProcess {
    fn start(config: &std::path::Path, once: bool) -> Self {
        let mut command = program();
        command.args(["evidence", "--config"]).arg(config).stdout(Stdio::null()).stderr(Stdio::null());
        if once {
            command.arg("--once");
        }
        Self(command.spawn().unwrap())
    }
}

impl Drop for EvidenceProcess {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

const KILLS: usize = 50;

#[test]
fn evidence_is_exact_whenever_the_process_is_killed() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("pipeline.toml");
    let settings = with_evidence(&topics.settings(kafka.address(), "alone"))
        .replace("commit_ms = 50", "commit_ms = 10\ncommit_records_max = 40")
        .replace("{folder}", folder.path().to_str().unwrap());
    std::fs::write(&config, &settings).unwrap();

    let mut chance = fastrand::Rng::with_seed(41);
    for kill in 0..KILLS {
        let records: Vec<Sent<'_>> = (0..150)
            .map(|number| Sent { key: None, payload: Some(verdict(kill * 150 + number)), headers: vec![] })
            .collect();
        let process = EvidenceProcess::start(&config, false);
        send(kafka.address(), &topics.name("verdicts"), &records);
        std::thread::sleep(Duration::from_millis(chance.u64(50..600)));
        drop(process);
    }

    let mut last = EvidenceProcess::start(&config, true);
    assert!(last.0.wait().unwrap().success());
    // The store that was killed, and the topics, by way of an instance that serves it.
    let served = settings.replace(
        "[admin]\nlisten = \"off\"\n",
        &format!(
            "[admin]\nlisten = \"127.0.0.1:0\"\nread_token = \"{READ_TOKEN}\"\nwrite_token = \"{READ_TOKEN}-w\"\n"
        ),
    );
    let running = crate::support::Running::start_in(folder, &served);
    let address = running.log_line("Serving the admin API.")["address"].as_str().unwrap().to_owned();
    let mut report = caught_up(&client(&address, READ_TOKEN), 0);
    let fields = report.as_object_mut().unwrap();
    assert_eq!(fields["progress"]["records"], 0, "all were counted before");
    fields.remove("progress");
    fields.remove("guards");
    fields.remove("ramps");
    let right = recomputed(&running.folder().join("pipeline.toml"));
    assert_eq!(report, right);
    let counted: u64 = right["experiments"][0]["variants"]
        .as_array()
        .unwrap()
        .iter()
        .map(|variant| variant["verdicts"].as_u64().unwrap())
        .sum();
    let duplicates = right["excluded"]["duplicates"].as_u64().unwrap();
    assert_eq!(counted + duplicates, 150 * KILLS as u64, "{right}");
}

#[test]
fn reports_of_a_running_instance_have_every_format() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let instance = Instance::start(&with_evidence(&topics.operated(kafka.address(), "one")));
    let records: Vec<Sent<'_>> = (0..60).map(|number| request(number, "a mug")).collect();
    send(kafka.address(), &topics.name("requests"), &records);
    receive(kafka.address(), &topics.name("verdicts"), 60);
    caught_up(&instance.api, 60);

    let token = instance.running.folder().join("token");
    std::fs::write(&token, READ_TOKEN).unwrap();
    let admin = format!("http://{}", instance.api.address().trim_start_matches("http://"));
    let live = |more: &[&str]| {
        let arguments = ["report", "--live", "--admin", &admin, "--token-file", token.to_str().unwrap()];
        let config = instance.running.folder().join("pipeline.toml");
        let output = program().args(arguments).arg("--config").arg(config).args(more).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(live(&[]).contains("Evidence is current."));
    assert!(live(&["--lang", "zh"]).contains("证据是最新的。"));
    let page = live(&["--format", "html"]);
    assert!(page.starts_with("<!DOCTYPE html>") && page.trim_end().ends_with("</html>"), "{page}");
    assert!(!page.contains("<script") && !page.contains("http"), "it asks nothing of others");
    let json: Value = serde_json::from_str(&live(&["--format", "json"])).unwrap();
    assert_eq!(json["progress"]["caught_up"], true);
}

#[test]
fn labels_by_people_come_from_tasks_and_count_by_their_probability() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let reviews = topics.name("reviews");
    kafka.create(&reviews, 2, &[]);
    let settings = with_evidence(&topics.operated(kafka.address(), "one"))
        .replace("[kafka.options]\n", &format!("reviews = \"{reviews}\"\n[kafka.options]\n"))
        + "[review]\naudit_share = 0.5\n[decision]\napprove_confidence = 0.0\nreject_confidence = 0.0\n";
    let instance = Instance::start(&settings);
    let picture = ofa_stream::message::encode_base64(
        &std::fs::read(crate::support::repository("testdata/demo/sticker-01.png")).unwrap(),
    );
    let requests: Vec<Sent<'_>> = (0..120)
        .map(|number| {
            let id = format!("r-{number}");
            let body = json!({"request_id": id, "text": "a red circle", "image": {"base64": picture}});
            Sent { key: None, payload: Some(body.to_string().into_bytes()), headers: vec![] }
        })
        .collect();
    send(kafka.address(), &topics.name("requests"), &requests);
    receive(kafka.address(), &topics.name("verdicts"), 120);

    let config = instance.running.folder().join("pipeline.toml");
    let reviewing = |arguments: &[&str]| {
        let output = program().arg("reviews").args(arguments).arg("--config").arg(&config).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let tasks: Vec<Value> = serde_json::from_str(&reviewing(&["export"])).unwrap();
    assert!((35..85).contains(&tasks.len()), "{} of 120 at a share of a half", tasks.len());
    let first = &tasks[0]["data"];
    assert!(first["image"].as_str().unwrap().starts_with("data:image/png;base64,iVBO"), "{first}");
    assert_eq!((&first["review_probability"], &first["result"]), (&json!(0.5), &Value::Null));

    // A person fills in the table: half of the answers are called wrong.
    let table = reviewing(&["export", "--format", "csv"]);
    let mut number = 0;
    let filled: Vec<String> = table
        .lines()
        .map(|line| {
            number += 1;
            let label = if number % 2 == 0 { "yes" } else { "no" };
            line.replace(",0.5,,,", &format!(",0.5,{label},ann,2026-12-01T08:00:00Z"))
        })
        .collect();
    let answers = instance.running.folder().join("answers.csv");
    std::fs::write(&answers, filled.join("\n")).unwrap();
    let answers = answers.to_str().unwrap();
    assert!(reviewing(&["import", answers, "--dry-run"]).contains("nothing was published"));
    assert!(reviewing(&["import", answers]).contains(&format!("{} reviews published", tasks.len())));

    let report = caught_up(&instance.api, 120 + tasks.len() as u64);
    assert_eq!(report["reviews"]["answers"], tasks.len());
    assert_eq!(report["reviews"]["unmatched"], 0);
    let metrics = report["experiments"][0]["comparisons"][0]["metrics"].as_array().unwrap();
    let misjudged = metrics.iter().find(|compared| compared["metric"] == "misjudged").unwrap();
    for arm in ["control", "treatment"] {
        let rate = misjudged[arm].as_f64().unwrap();
        assert!((0.2..0.8).contains(&rate), "{misjudged}");
    }
    assert_eq!(reviewing(&["export", "--format", "csv"]).lines().count(), 1, "answered requests are left out");

    let mut summary = report.clone();
    let fields = summary.as_object_mut().unwrap();
    fields.remove("progress");
    fields.remove("guards");
    fields.remove("ramps");
    assert_eq!(summary, recomputed(&config));
}
