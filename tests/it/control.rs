//! What operators change while the program runs, against running instances.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use ofa_stream::{
    admin::{Asked, AskedDefault, AskedPromotion, Client, ClientError},
    control::{Applied, Report},
    settings::Secret,
};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::{Value, json};

use crate::{
    broker::{CONTROL, DEAD_LETTERS, Outcome, VERDICTS, cluster, image, produce, read, reader},
    support::{Running, metric, page, repository, settings},
};

const TOKEN: &str = "write-token-of-a-test";
const READ_TOKEN: &str = "read-token-of-a-test";

/// Settings with everything that operators use, the experiment among them.
fn operated(bootstrap_servers: &str) -> String {
    let plain = settings(bootstrap_servers);
    let admin =
        format!("[admin]\nlisten = \"127.0.0.1:0\"\nwrite_token = \"{TOKEN}\"\nread_token = \"{READ_TOKEN}\"\n");
    plain
        // The mock cluster does not wake a fetch that waits; brokers do.
        .replace("control = \"off\"\n[kafka.options]\n", "[kafka.options]\n\"fetch.wait.max.ms\" = \"10\"\n")
        .replace("directory = \"off\"\nwatch_ms = 0", "directory = \"{folder}/control\"\nwatch_ms = 20")
        .replace("[admin]\nlisten = \"off\"\n", &admin)
}

/// A running instance, with its admin API.
struct Instance {
    running: Running,
    api: Client,
    metrics: String,
}

impl Instance {
    fn start(settings: &str) -> Self {
        Self::of(Running::start(settings))
    }

    fn of(running: Running) -> Self {
        let address = |message: &str| running.log_line(message)["address"].as_str().unwrap().to_owned();
        let metrics = address("Serving /metrics");
        let api = client(&address("Serving the admin API."), TOKEN);
        Self { running, api, metrics }
    }

    fn report(&self) -> Report {
        self.api.get("/v1/status").unwrap()
    }

    fn post(&self, path: &str) -> Result<Applied, ClientError> {
        self.api.post(path, &Asked { by: "ann".to_owned(), why: "a test".to_owned(), dry_run: false })
    }

    fn code(&self, method: &str, path: &str, body: &str) -> String {
        match self.api.send::<Value>(method, path, body.to_owned()).unwrap_err() {
            ClientError::Refused { code, .. } => code,
            error => panic!("{error}"),
        }
    }

    fn metric(&self, name: &str, labels: &str) -> f64 {
        metric(&page(&self.metrics, "/metrics"), name, labels)
    }

    /// How long it takes until it serves by this configuration.
    fn until_it_serves(&self, digest: &str) -> Duration {
        let begun = Instant::now();
        while self.report().config_digest != digest {
            assert!(begun.elapsed() < Duration::from_secs(30), "it does not follow: {:?}", self.report());
            std::thread::sleep(Duration::from_millis(1));
        }
        begun.elapsed()
    }
}

fn client(address: &str, token: &str) -> Client {
    Client::new(&format!("http://{address}"), Secret::new(token.to_owned()))
}

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
    instance.running.change_settings(&small);
    instance.running.log_line("Configuration switched.");
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
    let promoted: Applied = two
        .api
        .post(
            "/v1/experiments/both/promote",
            &AskedPromotion { variant: "treatment".to_owned(), asked: Asked::default() },
        )
        .unwrap();
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
fn a_hundred_switches_under_load_lose_double_and_fail_no_request() {
    const SWITCHES: usize = 100;
    let cluster = cluster();
    let servers = cluster.bootstrap_servers();
    let settings = operated(&servers);
    let (one, two) = (Instance::start(&settings), Instance::start(&settings));
    one.running.log_line("Taking requests.");
    two.running.log_line("Taking requests.");
    let (consumer, mut outcomes) = (reader(&servers), Vec::new());
    produce(&servers, &requests("warm", 20));
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
                produce(&servers, &requests(&format!("round-{round}"), 10));
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
    assert!(outcomes.iter().all(|outcome| outcome.topic != DEAD_LETTERS));
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
fn the_admin_api_lets_in_who_may_and_refuses_by_code() {
    let cluster = cluster();
    let instance = Instance::start(&operated(&cluster.bootstrap_servers()));
    instance.running.log_line("Taking requests.");
    let digest = instance.report().config_digest;
    let address = page_address(&instance);
    let refused = |client: &Client, method: &str, path: &str| match client.send::<Value>(method, path, String::new()) {
        Err(ClientError::Refused { code, .. }) => code,
        other => panic!("{other:?}"),
    };
    for path in ["/v1/status", "/v1/rollback", "/v1/openapi.json", "/"] {
        assert_eq!(refused(&client(&address, "another-token-entirely"), "GET", path), "unauthorized");
    }
    let reading = client(&address, READ_TOKEN);
    reading.get::<Report>("/v1/status").unwrap();
    for (method, path) in [("POST", "/v1/rollback"), ("PUT", "/v1/config"), ("DELETE", "/v1/config")] {
        assert_eq!(refused(&reading, method, path), "forbidden");
    }
    let large = "#".repeat(2 << 20);
    let cases = [
        ("GET", "/v1/nothing", "", "no_such_address"),
        ("POST", "/v1/rollback", "", "no_history"),
        ("POST", "/v1/rollback", "{", "bad_request"),
        ("POST", "/v1/default", "{}", "bad_request"),
        ("POST", "/v1/default", r#"{"version": "ofa_huge"}"#, "unknown_name"),
        ("POST", "/v1/experiments/other/pause", "", "unknown_name"),
        ("POST", "/v1/experiments/both/promote", r#"{"variant": "third"}"#, "unknown_name"),
        ("PUT", "/v1/config", "[kafka", "settings"),
        ("PUT", "/v1/config", "[admin]\nwrite_token = 'x'", "secret"),
        ("PUT", "/v1/config", "[kafka.options]\nsasl_password = 'x'", "secret"),
    ];
    for (method, path, body, code) in cases {
        assert_eq!(instance.code(method, path, body), code, "{method} {path} {body}");
    }
    // Larger than settings allow; the server says so before the API does, in its own words.
    assert!(matches!(instance.api.send::<Value>("PUT", "/v1/config", large), Err(ClientError::Strange { .. })));
    assert_eq!(instance.report().config_digest, digest, "nothing changed");

    let asked = Asked { dry_run: true, ..Asked::default() };
    let tried: Applied =
        instance.api.post("/v1/default", &AskedDefault { version: "ofa_small".to_owned(), asked }).unwrap();
    assert!(tried.dry_run && tried.config_digest != digest && tried.revision == 0);
    assert_eq!(instance.report().config_digest, digest, "it was only tried");

    // Every address of the description is answered, with more than "no such address" or "no such method".
    let document: Value = instance.api.get("/v1/openapi.json").unwrap();
    let mut addresses = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let path = path.replace("{name}", "nobody");
            let answer = instance.api.send::<Value>(&method.to_uppercase(), &path, String::new());
            let known = match &answer {
                Ok(_) => true,
                Err(ClientError::Refused { code, .. }) => code != "no_such_address",
                Err(_) => false,
            };
            assert!(known, "{method} {path}: {answer:?}");
            addresses += 1;
        }
    }
    assert!(addresses >= 11, "{addresses}");
}

fn page_address(instance: &Instance) -> String {
    instance.api.address().trim_start_matches("http://").to_owned()
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
    let digest = instance.report().config_digest;
    write(r#"{"revision": 1}"#);
    let refused = instance.running.log_line("A change is not followed");
    assert!(refused["error"].as_str().unwrap().contains("offset 2 of `moderation.control`"), "{refused}");
    assert_eq!(instance.metric("ofa_config_refused_total", "unreadable"), 2.0);

    // A state that cannot be served here: this instance stays as it is, and says so.
    write(r#"{"revision": 5, "current": {"overrides": {"default": "ofa_huge"}}}"#);
    instance.running.log_line("A change is refused");
    let report = instance.report();
    assert!(report.behind.unwrap().contains("ofa_huge"));
    assert_eq!((report.config_digest.as_str(), report.revision), (digest.as_str(), 5));
    assert_eq!(instance.metric("ofa_config_behind", ""), 1.0);
    let version = AskedDefault { version: "ofa_small".to_owned(), asked: Asked::default() };
    let good: Applied = instance.api.post("/v1/default", &version).unwrap();
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
