//! The contract is generated from the types, and what `deploy/` names exists.

use std::{fs, path::Path, time::Duration};

use ofa_stream::{
    evidence::Summary,
    message::{DeadLetterHeaders, Request, Review, SCHEMA_VERSION, Verdict},
    routing::Overrides,
    settings::Plan,
};
use schemars::{JsonSchema, schema_for};

use crate::support::repository;

/// Set it to write the schemas anew instead of comparing them.
const UPDATE: &str = "OFA_STREAM_UPDATE_SCHEMAS";

fn compare(path: &Path, schema: &serde_json::Value) {
    let text = serde_json::to_string_pretty(schema).unwrap() + "\n";
    if std::env::var_os(UPDATE).is_some() {
        fs::write(path, &text).unwrap();
    }
    let stored = fs::read_to_string(path).unwrap_or_default();
    assert!(
        stored == text,
        "{} is not what the types say; run the tests once with {UPDATE}=1 and look at the change",
        path.display()
    );
}

/// The schema of a type, with the version of the contract in its id.
fn schema<T: JsonSchema>(name: &str) -> serde_json::Value {
    let mut schema = serde_json::to_value(schema_for!(T)).unwrap();
    schema["$id"] = format!("urn:ofa-stream:{name}:{SCHEMA_VERSION}").into();
    schema
}

/// As [`schema`], with an example that `read` understands.
fn schema_with_example<T: JsonSchema>(name: &str, read: impl FnOnce(&[u8]) -> Result<(), String>) -> serde_json::Value {
    let example = fs::read(repository("testdata/contract").join(format!("{name}.json"))).unwrap();
    read(&example).unwrap_or_else(|error| panic!("the example of {name}: {error}"));
    let mut schema = schema::<T>(name);
    schema["examples"] = serde_json::Value::Array(vec![serde_json::from_slice(&example).unwrap()]);
    schema
}

#[test]
fn the_schemas_are_those_of_the_types() {
    let bounds = Plan::read(&repository("pipeline.toml")).unwrap().limits.request;
    let request = schema_with_example::<Request>("request", |json| {
        Request::from_json(json, &bounds).map(drop).map_err(|error| error.to_string())
    });
    let verdict = schema_with_example::<Verdict>("verdict", |json| {
        serde_json::from_slice::<Verdict>(json).map(drop).map_err(|error| error.to_string())
    });
    compare(&repository("schemas/request.schema.json"), &request);
    compare(&repository("schemas/verdict.schema.json"), &verdict);
    let review = schema_with_example::<Review>("review", |json| {
        Review::from_bytes(json).map(drop).map_err(|error| error.to_string())
    });
    compare(&repository("schemas/review.schema.json"), &review);
    compare(&repository("schemas/report.schema.json"), &schema::<Summary>("report"));
    compare(&repository("schemas/openapi.json"), &ofa_stream::admin::openapi());
    compare(
        &repository("schemas/dead-letter-headers.schema.json"),
        &schema::<DeadLetterHeaders>("dead-letter-headers"),
    );
}

#[test]
fn every_metric_that_the_dashboard_and_the_alerts_name_exists() {
    let files = [
        "src/telemetry/metrics.rs",
        "src/telemetry/passes.rs",
        "src/telemetry/control.rs",
        "src/telemetry/delivery.rs",
        "src/telemetry/evidence.rs",
    ];
    let source = files.map(|file| fs::read_to_string(repository(file)).unwrap()).concat();
    let mut named = 0;
    for file in ["deploy/grafana/dashboards/ofa-stream.json", "deploy/prometheus/alerts.yaml"] {
        let text = fs::read_to_string(repository(file)).unwrap();
        for name in text
            .split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'))
            .filter(|word| word.starts_with("ofa_") && word.len() > 6)
        {
            let metric =
                ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
            assert!(source.contains(&format!("\"{metric}\"")), "{file} names {name}, which the program does not have");
            named += 1;
        }
    }
    assert!(named > 10, "only {named} metrics were seen");
}

#[test]
fn the_settings_in_the_kubernetes_example_are_good() {
    let example = fs::read_to_string(repository("deploy/kubernetes.yaml")).unwrap();
    let (_, after) = example.split_once("pipeline.toml: |\n").unwrap();
    let settings: Vec<&str> = after.lines().map_while(|line| line.strip_prefix("    ")).collect();
    let plan = Plan::from_text("pipeline.toml".as_ref(), settings.join("\n"), &Overrides::default()).unwrap();
    assert_eq!(plan.kafka.bootstrap_servers.as_deref(), Some("kafka:9092"));
    // Probes and Prometheus come from outside, and a stop may take as long as the pod is given.
    assert!(!plan.telemetry.listen.unwrap().ip().is_loopback());
    let grace = example.split_once("terminationGracePeriodSeconds: ").unwrap().1.lines().next().unwrap();
    let longest = plan.pipeline.drain_timeout + plan.kafka.publish_timeout;
    assert!(Duration::from_secs(grace.parse().unwrap()) > longest, "{grace} s, and a stop may take {longest:?}");
}
