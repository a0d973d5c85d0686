//! What hangs, or fails by this machine, is named on the health pages, and a stop still ends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::channel,
    },
    time::Duration,
};

use ofa_stream::{
    engine::{Answer, Engine, Judge, PassError, Prepared},
    message::Scores,
    ofa::Interrupt,
    pipeline::{Pipeline, connection, engine_options, engine_specs},
    routing::Overrides,
    settings::Plan,
    store::Thoroughness,
};
use serde_json::json;

use crate::{
    broker::image,
    kafka::{Kafka, Sent, receive, send},
    support::{Running, metric, page, repository, until},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Answers nothing until it is released.
struct Hanging(Arc<AtomicBool>);

impl Judge for Hanging {
    fn attempt(&mut self, batch: &[&Prepared], _: Option<&Interrupt>) -> Result<Vec<Answer>, PassError> {
        while !self.0.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let scores = Scores { yes: 0.5, maybe: 0.3, no: 0.2 };
        Ok(batch.iter().map(|request| Ok(vec![scores; request.sources.len()])).collect())
    }
}

#[test]
fn a_forward_pass_that_hangs_is_named_and_does_not_hold_up_a_stop() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    const BOUNDS: &str = "[pipeline]\nstalled_after_ms = 300\ndead_after_ms = 600\ndrain_timeout_ms = 500\n";
    let text =
        topics.settings(kafka.address(), "hangs").replace("[kafka]", "[kafka]\npublish_timeout_ms = 5_000") + BOUNDS;
    let plan = Plan::from_text("pipeline.toml".as_ref(), text, &Overrides::default()).unwrap();
    let released = Arc::new(AtomicBool::new(false));
    let release = released.clone();
    let engine = Engine::start_with(&engine_specs(&plan, Thoroughness::Sizes), engine_options(&plan), move |_, _| {
        Ok(Hanging(released.clone()))
    })
    .unwrap();
    let pipeline = Pipeline::start(&plan, &connection(&plan, None), engine).unwrap();
    let (monitor, stop, stop_max) = (pipeline.monitor(), pipeline.stopper(), pipeline.stop_max());
    until("being ready", || monitor.not_ready().is_none().then_some(()));

    let request = json!({"request_id": "r", "text": "a ball", "image": {"base64": image("thumbnail.png")}});
    let record = Sent { key: Some("k"), payload: Some(request.to_string().into_bytes()), headers: vec![] };
    send(kafka.address(), &topics.name("requests"), &[record]);
    let named = until("the reason on /readyz", || monitor.not_ready());
    assert!(named.contains("forward pass of version") || named.contains("in flight"), "{named}");
    until("the forward pass on /readyz", || monitor.not_ready().filter(|reason| reason.contains("forward pass")));
    let ended = until("the reason on /healthz", || monitor.not_alive());
    assert!(ended.contains("forward pass"), "{ended}");

    stop();
    let (sender, joined) = channel();
    std::thread::spawn(move || sender.send(pipeline.join()).ok());
    // Beyond its bound the program ends the process; a pass cannot be ended otherwise.
    let in_time = joined.recv_timeout(stop_max);
    release.store(true, Ordering::Release);
    let unanswered = in_time.unwrap_or_else(|_| joined.recv_timeout(PATIENCE).unwrap()).unwrap();
    assert!(unanswered <= 1, "{unanswered} requests are to be read again");
}

#[test]
fn a_folder_of_images_that_is_away_is_named_and_costs_no_request() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = kafka.topics();
    let images = tempfile::tempdir().unwrap();
    let (root, away) = (images.path().join("root"), images.path().join("away"));
    std::fs::create_dir(&root).unwrap();
    std::fs::copy(repository("testdata/demo/mug.jpg"), root.join("mug.jpg")).unwrap();
    let settings =
        topics.settings(kafka.address(), "away") + &format!("[images]\npath_root = \"{}\"\n", root.display());
    let running = Running::start(&settings);
    let pages = running.log_line("Serving /metrics")["address"].as_str().unwrap().to_owned();
    running.log_line("Partitions assigned");

    std::fs::rename(&root, &away).unwrap();
    let request = json!({"request_id": "r", "text": "a mug", "image": {"path": "mug.jpg"}});
    let record = Sent { key: Some("k"), payload: Some(request.to_string().into_bytes()), headers: vec![] };
    send(kafka.address(), &topics.name("requests"), &[record]);
    let named = until("the reason on /readyz", || {
        let shown = page(&pages, "/readyz");
        shown.contains("this machine cannot read images").then_some(shown)
    });
    assert!(named.starts_with("HTTP/1.1 503"), "{named}");

    std::fs::rename(&away, &root).unwrap();
    let verdicts = receive(kafka.address(), &topics.name("verdicts"), 1);
    assert_eq!(verdicts[0].json()["request_id"], "r");
    let metrics = page(&pages, "/metrics");
    assert!(metric(&metrics, "ofa_tried_in_place_total", "") >= 1.0, "{metrics}");
    assert_eq!(metric(&metrics, "ofa_dead_letters_total", ""), 0.0);
    until("being ready again", || page(&pages, "/readyz").starts_with("HTTP/1.1 200").then_some(()));
    assert_eq!(running.stop(), Some(0));
}
