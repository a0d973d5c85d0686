//! The description of the API, made from the types that it takes and gives.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{ChangeRequest, Refusal};
use crate::{
    control::{Applied, ConfigInForce, ConfigListing, InstanceStatus, Report, ServedConfig},
    evidence_store::EvidenceReport,
    message::{Request, Verdict},
    pipeline::SimulationRequest,
    routing::Shares,
};

/// The OpenAPI document, `schemas/openapi.json`.
pub fn document() -> Value {
    let mut types = SchemaSettings::openapi3().into_generator();
    let mut paths = reads(&mut types);
    paths.extend(trials(&mut types));
    merge(&mut paths, changes(&mut types));

    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "ofa-stream admin API",
            "version": "1",
            "description": "Changes the configuration of a running group of instances. Every change reaches all of them."
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": types.take_definitions(true)
        }
    })
}

/// Operations by address and method.
type Paths = Map<String, Value>;

/// Adds operations; an address may have some already.
fn merge(paths: &mut Paths, others: Paths) {
    for (path, methods) in others {
        let known = paths.entry(path).or_insert_with(|| json!({}));
        if let (Some(known), Value::Object(methods)) = (known.as_object_mut(), methods) {
            known.extend(methods);
        }
    }
}

fn paths<const N: usize>(operations: [(&str, &str, Value); N]) -> Paths {
    let mut all = Paths::new();
    for (method, path, operation) in operations {
        merge(&mut all, Paths::from_iter([(path.to_owned(), json!({ method: operation }))]));
    }
    all
}

/// Operations that read.
fn reads(types: &mut SchemaGenerator) -> Paths {
    let mut read = |summary: &str, parameters: &[Value], answer: fn(&mut SchemaGenerator) -> Value| {
        let answer = answer(types);
        operation(types, summary, None, parameters, Some(answer))
    };
    let digest = [parameter("digest", "path", "The digest, or at least 4 digits of its beginning.")];
    let evidence = evidence_parameters();
    let limit = [parameter("limit", "query", "Lines, at most 1000; 100 where it is not given.")];

    paths([
        (
            "get",
            "/v1/status",
            read("What is in force on this instance", &[], |types| {
                returns::<Report>(types, "What is in force on this instance.")
            }),
        ),
        (
            "get",
            "/v1/instances",
            read("The instances of the group, and which are behind", &[], |types| {
                returns::<Vec<InstanceStatus>>(types, "The instances, by name.")
            }),
        ),
        (
            "get",
            "/v1/config",
            read("The settings in force on this instance", &[], |types| {
                returns::<ConfigInForce>(types, "The settings without local sections, and overrides.")
            }),
        ),
        (
            "get",
            "/v1/configs",
            read("The configurations that this instance served", &[], |types| {
                returns::<Vec<ConfigListing>>(types, "Digests, the latest first.")
            }),
        ),
        (
            "get",
            "/v1/configs/{digest}",
            read("A configuration that was served", &digest, |types| {
                returns::<ServedConfig>(types, "The configuration.")
            }),
        ),
        (
            "get",
            "/v1/audit",
            read("The audit log of this instance", &limit, |_| {
                let lines = json!({"type": "array", "items": {"type": "object"}});
                described("Changes and refusals with who, when and why, the latest first.", &lines)
            }),
        ),
        (
            "get",
            "/v1/evidence",
            read("The comparison of variants, how current it is, and what guards conclude", &evidence, |types| {
                returns::<EvidenceReport>(types, "As `ofa-stream report --format json`, with progress and guards.")
            }),
        ),
        ("get", "/v1/openapi.json", read("This document", &[], |_| json!({"description": "This document."}))),
    ])
}

/// How variants are compared.
fn evidence_parameters() -> [Value; 4] {
    [
        parameter("control", "query", "The control's variant; `control`, or the first by name, where it is not given."),
        parameter("alpha", "query", "The rate of false findings over all metrics; 0.05 where it is not given."),
        parameter(
            "min_effect",
            "query",
            "The smallest difference of a share that matters; 0.01 where it is not given.",
        ),
        parameter(
            "review_until_ms",
            "query",
            "Later verdicts do not count in rates of misjudgement, in milliseconds since 1970.",
        ),
    ]
}

/// Operations that try something and change nothing.
fn trials(types: &mut SchemaGenerator) -> Paths {
    let request = takes::<Request>(types);
    let summary = "Try a request on some versions: nothing is published";
    let named = "Versions, separated by commas; without it, the one that it is routed to.";
    let versions = [parameter("versions", "query", named)];
    let answer = returns::<Vec<Verdict>>(types, "A verdict of each version.");
    let predict = operation(types, summary, Some(&request), &versions, Some(answer));

    let answer = described("The route, and everything that was tried.", &json!({"type": "object"}));
    let explain = operation(types, "Explain the route of a request", Some(&request), &[], Some(answer));

    let units = takes::<SimulationRequest>(types);
    let summary = "Route made-up units, by what is in force and by other settings";
    let answer = returns::<Shares>(types, "Shares of versions and arms, and what would move.");
    let simulate = operation(types, summary, Some(&units), &[], Some(answer));

    paths([("post", "/v1/predict", predict), ("post", "/v1/explain", explain), ("post", "/v1/simulate", simulate)])
}

/// Operations that change the configuration.
fn changes(types: &mut SchemaGenerator) -> Paths {
    let text = json!({"required": true, "content": {"text/plain": {"schema": {"type": "string"}}}});
    let body = takes::<ChangeRequest>(types);
    let conditions = [
        parameter("If-Match", "header", "The ETag of `/v1/status` that must be in force; otherwise 412."),
        parameter("Idempotency-Key", "header", "The id of the change: a retry with it is not carried out twice."),
    ];
    let in_query = [
        parameter("by", "query", "Who, for the audit log."),
        parameter("why", "query", "Why, for the audit log."),
        parameter("dry_run", "query", "`true` prepares everything and changes nothing."),
        parameter("force", "query", "`true` carries it out although a newer record cannot be read."),
    ];
    let name = parameter("name", "path", "The experiment.");
    let variant = parameter("variant", "path", "The variant that won.");
    let version = parameter("version", "path", "The version.");
    let mut change = |summary: &str, body: Option<&Value>, parameters: &[Value]| {
        operation(types, summary, body, &[parameters, &conditions].concat(), None)
    };

    let (pause, resume) =
        ("Pause an experiment: it takes no requests", "Let an experiment run, also if settings pause it");
    let promote = "Let the version of one variant answer all";
    let traffic = "Let an experiment take another share of the units; its ramp takes no step from there";
    let ramp = "Let an experiment take another share of the units; its ramp goes on from there";
    let share = parameter("share", "path", "The share, 0 to 1.");
    let experiment = [name.clone()];
    paths([
        ("put", "/v1/config", change("Serve by these settings instead of the file's", Some(&text), &in_query)),
        ("delete", "/v1/config", change("Serve by the settings file again", None, &in_query)),
        ("delete", "/v1/overrides", change("Remove all overrides", None, &in_query)),
        ("post", "/v1/rollback", change("Go back to the configuration before the last change", Some(&body), &[])),
        ("post", "/v1/default/{version}", change("Override the default version", Some(&body), &[version])),
        ("post", "/v1/experiments/{name}/pause", change(pause, Some(&body), &experiment)),
        ("post", "/v1/experiments/{name}/resume", change(resume, Some(&body), &experiment)),
        ("post", "/v1/experiments/{name}/promote/{variant}", change(promote, Some(&body), &[name.clone(), variant])),
        (
            "post",
            "/v1/experiments/{name}/traffic/{share}",
            change(traffic, Some(&body), &[name.clone(), share.clone()]),
        ),
        ("post", "/v1/experiments/{name}/ramp/{share}", change(ramp, Some(&body), &[name, share])),
        ("post", "/v1/record-format", change("Write control records in the newest format", Some(&body), &[])),
    ])
}

/// An answer with a schema of its own.
fn described(description: &str, schema: &Value) -> Value {
    json!({"description": description, "content": {"application/json": {"schema": schema}}})
}

fn operation(
    types: &mut SchemaGenerator,
    summary: &str,
    body: Option<&Value>,
    parameters: &[Value],
    success: Option<Value>,
) -> Value {
    let success = success.unwrap_or_else(|| returns::<Applied>(types, "What the change did."));
    let refusal = returns::<Refusal>(types, "Refused, and nothing changed.");
    let mut operation = json!({"summary": summary, "responses": {"200": success, "default": refusal}});
    if let Some(body) = body {
        operation["requestBody"] = body.clone();
    }
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    operation
}

fn parameter(name: &str, place: &str, description: &str) -> Value {
    json!({
        "name": name, "in": place, "required": place == "path", "description": description,
        "schema": {"type": "string"}
    })
}

fn takes<T: JsonSchema>(types: &mut SchemaGenerator) -> Value {
    json!({"content": {"application/json": {"schema": types.subschema_for::<T>()}}})
}

fn returns<T: JsonSchema>(types: &mut SchemaGenerator, description: &str) -> Value {
    json!({"description": description, "content": {"application/json": {"schema": types.subschema_for::<T>()}}})
}
