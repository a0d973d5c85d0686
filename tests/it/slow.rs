//! Inference that takes longer than the group has patience with a silent member.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
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
};

struct Slow {
    judged: Arc<AtomicUsize>,
    length: Duration,
}

impl Judge for Slow {
    fn attempt(&mut self, batch: &[&Prepared], _: Option<&Interrupt>) -> Result<Vec<Answer>, PassError> {
        std::thread::sleep(self.length);
        self.judged.fetch_add(batch.len(), Ordering::Relaxed);
        let scores = Scores { yes: 0.5, maybe: 0.3, no: 0.2 };
        Ok(batch.iter().map(|request| Ok(vec![scores; request.sources.len()])).collect())
    }
}

#[test]
fn an_instance_whose_inference_is_slower_than_the_groups_patience_is_not_thrown_out() {
    let Some(kafka) = Kafka::shared() else { return };
    const PATIENCE: Duration = Duration::from_secs(4);
    /// Two versions share them, on one device: three passes or four, and all may wait for the last to keep their order.
    const REQUESTS: usize = 4;
    let topics = kafka.topics();
    let text = topics.settings(kafka.address(), "slow").replace(
        "\"session.timeout.ms\" = \"6000\"",
        "\"session.timeout.ms\" = \"4000\"\n\"heartbeat.interval.ms\" = \"500\"\n\"max.poll.interval.ms\" = \"4000\"",
    );
    let plan = Plan::from_text("pipeline.toml".as_ref(), text, &Overrides::default()).unwrap();
    let judged = Arc::new(AtomicUsize::new(0));
    let counting = judged.clone();
    let engine = Engine::start_with(&engine_specs(&plan, Thoroughness::Sizes), engine_options(&plan), move |_, _| {
        Ok(Slow { judged: counting.clone(), length: 2 * PATIENCE })
    })
    .unwrap();
    let pipeline = Pipeline::start(&plan, &connection(&plan, None), engine).unwrap();
    let request = |number: usize| {
        let id = format!("r-{number}");
        json!({"request_id": id, "text": "a ball", "image": {"base64": image("thumbnail.png")}}).to_string()
    };
    let requests: Vec<Sent<'_>> = (0..REQUESTS)
        .map(|number| Sent { key: Some("k"), payload: Some(request(number).into_bytes()), headers: vec![] })
        .collect();
    send(kafka.address(), &topics.name("requests"), &requests);
    receive(kafka.address(), &topics.name("verdicts"), REQUESTS);
    // Whoever is thrown out has its requests judged once more.
    assert_eq!(judged.load(Ordering::Relaxed), REQUESTS);
    pipeline.stopper()();
    assert_eq!(pipeline.join().unwrap(), 0);
    println!(
        "passes of {:?} under max.poll.interval.ms of {PATIENCE:?}: {REQUESTS} requests, each judged once",
        2 * PATIENCE
    );
}
