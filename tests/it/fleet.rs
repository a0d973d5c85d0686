//! Several instances of one group that operators change.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use ofa_stream::{
    admin::{ChangeRequest, Client, ClientError, Conditions},
    control::{Applied, InstanceStatus, Outcome, Report},
};
use serde_json::Value;

use crate::{
    broker::{self, cluster, produce_to, read},
    control::{copy, requests},
    instance::{Instance, operated},
    kafka::Kafka,
    offered::committed_reader,
    support::{Running, program, repository},
};

/// Instances that take requests, started beside one another.
fn running<const N: usize>(settings: [impl AsRef<str>; N]) -> [Instance; N] {
    let instances = settings.map(|settings| Instance::start(settings.as_ref()));
    instances.iter().for_each(|instance| drop(instance.running.log_line("Taking requests.")));
    instances
}

#[test]
fn one_command_switches_every_instance_and_those_that_come_later_and_after_a_restart() {
    let cluster = cluster();
    let settings = operated(&cluster.bootstrap_servers());
    let [one, two] = running([&settings, &settings]);
    let paused = one.post("/v1/experiments/both/pause").unwrap();
    two.until_it_serves(&paused.config_digest);
    let promoted: Applied = two.api.post("/v1/experiments/both/promote/treatment", &ChangeRequest::default()).unwrap();
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
    // It tells the cluster what it has, with the next number.
    assert_eq!(report.config_digest, paused.config_digest);
    assert!((3..=4).contains(&report.revision), "{}", report.revision);
    assert_eq!(report.experiments[0].position, "paused");
    let fresh = Instance::start(&operated(&other.bootstrap_servers()));
    fresh.until_it_serves(&paused.config_digest);
    let audit: Vec<Value> = again.api.get("/v1/audit").unwrap();
    let actions: Vec<&str> = audit.iter().map(|line| line["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["rollback", "promote both treatment", "pause both"]);
    assert_eq!((audit[2]["by"].as_str(), audit[2]["why"].as_str()), (Some("ann"), Some("a test")));
}

#[test]
fn commands_to_several_instances_at_the_same_moment_are_all_followed_by_all() {
    const INSTANCES: usize = 4;
    let cluster = cluster();
    let experiment = |number: usize| {
        format!(
            "\n[[experiments]]\nname = \"e{number}\"\ntraffic_ratio = 0.0\n\
             variants = [{{ name = \"v\", model_version = \"ofa_base\", weight = 1 }}]\n"
        )
    };
    let experiments: String = (0..INSTANCES).map(experiment).collect();
    let settings = operated(&cluster.bootstrap_servers()) + &experiments;
    let instances = running([settings.as_str(); INSTANCES]);
    for round in 0..8 {
        let (verb, position) = [("pause", "paused"), ("resume", "running")][round % 2];
        std::thread::scope(|scope| {
            for (number, instance) in instances.iter().enumerate() {
                let (api, path) = (&instance.api, format!("/v1/experiments/e{number}/{verb}"));
                scope.spawn(move || api.post::<Applied>(&path, &ChangeRequest::default()).unwrap());
            }
        });
        // Each command was answered, so all of them are there, everywhere, as soon as everybody has read so far.
        let begun = Instant::now();
        let agree = || {
            let reports: Vec<Report> = instances.iter().map(Instance::report).collect();
            let made = |report: &Report| {
                report.behind.is_none()
                    && report.config_digest == reports[0].config_digest
                    && report.experiments.iter().filter(|it| it.name != "both").all(|it| it.position == position)
            };
            reports.iter().all(made)
        };
        while !agree() {
            let seen: Vec<Report> = instances.iter().map(Instance::report).collect();
            assert!(begun.elapsed() < Duration::from_secs(10), "round {round}: {seen:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    let met: usize = instances.iter().map(|instance| instance.running.logged("lost_race")).sum();
    assert!(met > 0, "they came one after the other, which shows nothing");
}

#[test]
fn an_instance_that_lacks_what_the_group_serves_by_starts_by_its_own_file_and_catches_up() {
    let cluster = cluster();
    let settings = operated(&cluster.bootstrap_servers());
    let [one, two] = running([&settings, &settings]);
    let models = tempfile::tempdir().unwrap();
    for version in ["ofa_base", "ofa_small"] {
        copy(&repository("models").join(version), &models.path().join(version));
    }
    let paused = one.post("/v1/experiments/both/pause").unwrap();
    let file = std::fs::read_to_string(one.running.folder().join("pipeline.toml")).unwrap();
    let elsewhere = format!("[model_versions]\ndirectory = \"{}\"\n", models.path().display());
    let other = file.replace("[model_versions]\n", &elsewhere).replace("traffic_ratio = 1.0", "traffic_ratio = 0.5");
    let applied: Applied = one.api.send("PUT", "/v1/config", other).unwrap();
    two.until_it_serves(&applied.config_digest);
    let folder = two.running.stop_and_keep();
    drop(models);
    let two = Instance::of(Running::start_in(folder, &settings));
    two.running.log_line("Taking requests.");
    let report = two.report();
    assert_eq!(report.config_digest, paused.config_digest, "its own file, and what was paused stays so");
    assert!(report.behind.unwrap().contains("ofa_base"));
    assert_eq!(two.metric("ofa_config_behind", ""), 1.0);
    // It serves by what is gone back to already; that it is the group's word is still to be heard.
    assert_eq!(one.post("/v1/rollback").unwrap().config_digest, paused.config_digest);
    let begun = Instant::now();
    while two.report().behind.is_some() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", two.report());
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(two.report().config_digest, paused.config_digest);
}

#[test]
fn a_settings_file_that_becomes_what_was_applied_is_followed_again_also_after_a_restart() {
    let cluster = cluster();
    let settings = operated(&cluster.bootstrap_servers());
    let [one, two] = running([&settings, &settings]);
    let file = |instance: &Instance| std::fs::read_to_string(instance.running.folder().join("pipeline.toml")).unwrap();
    let share = |text: &str, share: &str| text.replace("traffic_ratio = 1.0", &format!("traffic_ratio = {share}"));
    let first = file(&one);
    let applied: Applied = one.api.send("PUT", "/v1/config", share(&first, "0.5")).unwrap();
    two.until_it_serves(&applied.config_digest);
    // The deploy makes it the file's word, and goes on from there.
    one.running.write_settings(&share(&first, "0.5"));
    let begun = Instant::now();
    while one.report().source != "file" {
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", one.report());
        std::thread::sleep(Duration::from_millis(5));
    }
    let one = Instance::of(Running::start_in(one.running.stop_and_keep(), &share(&settings, "0.5")));
    one.running.log_line("Taking requests.");
    assert_eq!((one.report().source.as_str(), one.report().config_digest), ("file", applied.config_digest.clone()));
    one.running.write_settings(&share(&first, "0.25"));
    let begun = Instant::now();
    while one.report().config_digest == applied.config_digest {
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", one.report());
        std::thread::sleep(Duration::from_millis(5));
    }
    // Another that has not seen the deploy yet changes something else: that does not undo it here.
    two.post("/v1/experiments/both/pause").unwrap();
    let begun = Instant::now();
    let followed = |report: Report| (report.experiments[0].position.clone(), report.experiments[0].traffic_ratio);
    while followed(one.report()) != ("paused".to_owned(), 0.25) {
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", one.report());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(followed(two.report()), ("paused".to_owned(), 0.5));
}

#[test]
fn a_command_whose_record_is_late_is_not_refused_and_a_retry_is_not_made_twice() {
    let Some(kafka) = Kafka::start(&["--brokers", "1"]) else { return };
    let topics = kafka.topics();
    let [one, two] = running(["one", "two"].map(|name| topics.operated(kafka.address(), name)));
    let first = one.post("/v1/default/ofa_small").unwrap();
    two.until_it_serves(&first.config_digest);

    kafka.tell("pause all");
    let conditions = Conditions { id: Some("a-retried-command".to_owned()), if_match: None };
    let pause = |instance: &Instance| {
        let path = "/v1/experiments/both/pause";
        instance.api.send_if::<Applied>("POST", path, "{}".to_owned(), &conditions)
    };
    let unknown = pause(&one).unwrap_err();
    kafka.tell("resume all");
    assert!(unknown.is_unknown(false), "{unknown}");

    // Whether the brokers have taken the record or not: with the same id it is carried out once.
    let begun = Instant::now();
    while let Err(error) = pause(&two) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{error}");
    }
    // A retry that finds the change accepted may be answered before it is served.
    let paused = loop {
        let report = two.report();
        if report.sync == "in_sync" && report.experiments[0].position == "paused" {
            break report;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{report:?}");
    };
    one.until_it_serves(&paused.config_digest);
    assert_eq!(one.report().experiments[0].position, "paused");
    let again = pause(&one).unwrap();
    assert_eq!((again.outcome, again.revision), (Outcome::Repeated, one.report().revision));
    let back = two.post("/v1/rollback").unwrap();
    assert_eq!(back.config_digest, first.config_digest, "one rollback undoes it");
}

#[test]
fn of_two_rollbacks_that_expect_the_same_one_is_made() {
    let cluster = cluster();
    let settings = operated(&cluster.bootstrap_servers());
    let [one, two] = running([&settings, &settings]);
    let base = one.report().config_digest;
    let paused = one.post("/v1/experiments/both/pause").unwrap();
    let small = one.post("/v1/default/ofa_small").unwrap();
    two.until_it_serves(&small.config_digest);

    let rollback = |api: &Client, etag: String| {
        let conditions = Conditions { if_match: Some(etag), id: None };
        api.send_if::<Applied>("POST", "/v1/rollback", String::new(), &conditions)
    };
    let etags = [one.report().etag, two.report().etag];
    let answers = std::thread::scope(|scope| {
        let both = [(&one.api, etags[0].clone()), (&two.api, etags[1].clone())];
        let both = both.map(|(api, etag)| scope.spawn(move || rollback(api, etag)));
        both.map(|answer| answer.join().unwrap())
    });
    let made = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(made, 1, "{answers:?}");
    let refused = answers.into_iter().find_map(Result::err).unwrap();
    assert!(matches!(&refused, ClientError::Refused { code, .. } if code == "conflict"), "{refused}");
    // A second later, from a page that was not reloaded.
    let late = rollback(&two.api, etags[1].clone()).unwrap_err();
    assert!(matches!(&late, ClientError::Refused { code, .. } if code == "conflict"), "{late}");
    one.until_it_serves(&paused.config_digest);
    two.until_it_serves(&paused.config_digest);
    assert_ne!(base, paused.config_digest);
}

#[test]
fn a_change_lists_the_instances_that_serve_it_and_configurations_are_found_by_digest() {
    let cluster = cluster();
    let settings = operated(&cluster.bootstrap_servers());
    let named = |name: &str| settings.replace("[kafka.options]", &format!("instance_id = \"{name}\"\n[kafka.options]"));
    let [one, two] = running([named("one"), named("two")]);
    let instances = |instance: &Instance| instance.api.get::<Vec<InstanceStatus>>("/v1/instances").unwrap();
    let begun = Instant::now();
    while [&one, &two].iter().any(|instance| instances(instance).len() < 2) {
        assert!(begun.elapsed() < Duration::from_secs(10), "they do not hear of each other");
        std::thread::sleep(Duration::from_millis(5));
    }
    let before = one.report();
    let paused = one.post("/v1/experiments/both/pause").unwrap();
    let listed: Vec<(&str, u64, &str)> =
        paused.instances.iter().map(|it| (it.instance.as_str(), it.revision, it.sync.as_str())).collect();
    assert_eq!(listed, [("one", 1, "in_sync"), ("two", 1, "in_sync")]);
    assert_eq!(two.report().config_digest, paused.config_digest, "the answer came after the other had switched");

    let run = |instance: &Instance, arguments: &[&str]| {
        let config = instance.running.folder().join("pipeline.toml");
        let mut command = program();
        command.args(arguments).arg("--config").arg(config).args(["--admin", instance.api.address()]);
        let output = command.output().unwrap();
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    };
    let all = run(&two, &["status", "--all"]);
    assert!(all.matches("in sync").count() == 2 && all.contains("one") && all.contains("two"), "{all}");

    let digits = |digest: &str| digest.trim_start_matches("sha256:")[..12].to_owned();
    let (first, now) = (digits(&before.config_digest), digits(&paused.config_digest));
    let list = run(&one, &["config", "list"]);
    assert!(list.contains(&first) && list.contains(&now), "{list}");
    let shown = run(&one, &["config", "show", &first]);
    assert!(
        shown.contains("# settings: file") && shown.contains("name = \"both\"") && !shown.contains("token"),
        "{shown}"
    );
    let diff = run(&one, &["config", "diff", &first, &now]);
    assert!(diff.contains("+#") && diff.contains("paused"), "{diff}");
    assert!(run(&one, &["config", "show", "ffffff"]).contains("there is no configuration"), "an unknown digest");

    // One that is killed does not hold commands up for long, and one that stops leaves the list.
    two.running.kill();
    let begun = Instant::now();
    let resumed = one.post("/v1/experiments/both/resume").unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let behind: Vec<&str> =
        resumed.instances.iter().filter(|it| it.revision < 2).map(|it| it.instance.as_str()).collect();
    assert_eq!(behind, ["two"]);
    let [three] = running([named("three")]);
    three.running.stop();
    let begun = Instant::now();
    loop {
        let listed = instances(&one);
        if listed.iter().all(|it| it.instance != "three") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{listed:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_hundred_switches_under_load_lose_double_and_fail_no_request() {
    const SWITCHES: usize = 100;
    let Some(kafka) = Kafka::shared() else { return };
    let (topics, servers) = (kafka.topics(), kafka.address());
    let [one, two] = running(["one", "two"].map(|name| topics.operated(servers, name)));
    let (consumer, mut outcomes) = (committed_reader(servers, &topics), Vec::new());
    let requests_topic = topics.name("requests");
    let verdict = |outcome: &broker::Outcome| -> Value { serde_json::from_slice(&outcome.payload).unwrap() };

    produce_to(servers, &requests_topic, &requests("warm", 20));
    read(&consumer, &mut outcomes, |outcomes| outcomes.len() == 20);

    let (over, produced) = (AtomicBool::new(false), AtomicUsize::new(20));
    let (mut times, mut answers) = (Vec::new(), Vec::new());
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
            let path = ["/v1/experiments/both/pause", "/v1/rollback"][switch % 2];
            // Each is asked in turn, and both follow.
            let (asked, other) = if switch / 2 % 2 == 0 { (&one, &two) } else { (&two, &one) };
            let begun = Instant::now();
            let api = &asked.api;
            let command = scope.spawn(move || api.post::<Applied>(path, &ChangeRequest::default()).unwrap());
            // Asking the instances would take the time of the thread that switches.
            other.running.log_line("Configuration switched.");
            asked.running.log_line("Configuration switched.");
            times.push(begun.elapsed());
            let applied = command.join().unwrap();
            answers.push(begun.elapsed());
            other.until_it_serves(&applied.config_digest);
            std::thread::sleep(Duration::from_millis(80));
        }
        over.store(true, Ordering::Release);
    });

    let produced = produced.load(Ordering::Acquire);
    read(&consumer, &mut outcomes, |outcomes| outcomes.len() >= produced);
    // One that came twice may come late.
    let silence = Instant::now();
    read(&consumer, &mut outcomes, |_| silence.elapsed() > Duration::from_secs(2));
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
    for (what, mut times) in [("both serve", times), ("answered", answers)] {
        times.sort();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        let (p50, p99, longest) = (at(0.5), at(0.99), at(1.0));
        eprintln!(
            "{SWITCHES} switches over two instances, {produced} requests, until {what}: p50 {p50:.1} ms, p99 {p99:.1} ms, longest {longest:.1} ms"
        );
    }
}

#[test]
fn a_control_topic_that_forgets_is_warned_of() {
    let Some(kafka) = Kafka::shared() else { return };
    let (topics, servers) = (kafka.topics(), kafka.address());
    let forgets = topics.name("forgets");
    kafka.create(&forgets, 1, &[("cleanup.policy", "delete")]);
    let settings = topics.operated(servers, "one");
    let told_until_it_takes_requests = |settings: &str| {
        let (running, begun, mut told) = (Running::start(settings), Instant::now(), String::new());
        while !told.contains("Taking requests.") {
            assert!(begun.elapsed() < Duration::from_secs(60), "{told}");
            told += &running.said();
            std::thread::sleep(Duration::from_millis(20));
        }
        told
    };
    let warning = "The control topic is not compacted";
    let told = told_until_it_takes_requests(&settings.replace(&topics.name("control"), &forgets));
    assert!(told.contains(warning) && told.contains(&forgets), "{told}");
    let told = told_until_it_takes_requests(&settings);
    assert!(!told.contains(warning), "{told}");
}
