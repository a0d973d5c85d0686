//! The description of the API, made from the types that it takes and gives.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Value, json};

use super::{ChangeRequest, Refusal};
use crate::{
    control::{Applied, ConfigInForce, ConfigListing, InstanceStatus, Report, ServedConfig},
    message::{Request, Verdict},
    pipeline::SimulationRequest,
    routing::Shares,
};

/// The OpenAPI document, `schemas/openapi.json`.
pub fn document() -> Value {
    let mut types = SchemaSettings::openapi3().into_generator();
    let report = returns::<Report>(&mut types, "What is in force on this instance.");
    let audited = json!({
        "description": "Changes and refusals with who, when and why, the latest first.",
        "content": {"application/json": {"schema": {"type": "array", "items": {"type": "object"}}}}
    });
    let text = json!({"required": true, "content": {"text/plain": {"schema": {"type": "string"}}}});
    let asked = takes::<ChangeRequest>(&mut types);
    let status = operation(&mut types, "What is in force on this instance", None, &[], Some(report));
    let conditions = [
        parameter("If-Match", "header", "The ETag of `/v1/status` that must be in force; otherwise 412."),
        parameter("Idempotency-Key", "header", "The id of the change: a retry with it is not carried out twice."),
    ];
    let request = takes::<Request>(&mut types);
    let answer = returns::<Vec<Verdict>>(&mut types, "A verdict of each version.");
    let versions =
        [parameter("versions", "query", "Versions, separated by commas; without it, the one that it is routed to.")];
    let summary = "Try a request on some versions: nothing is published";
    let predict = operation(&mut types, summary, Some(&request), &versions, Some(answer));
    let answer = json!({"description": "The route, and everything that was tried.",
        "content": {"application/json": {"schema": {"type": "object"}}}});
    let explain = operation(&mut types, "Explain the route of a request", Some(&request), &[], Some(answer));
    let asked_shares = takes::<SimulationRequest>(&mut types);
    let answer = returns::<Shares>(&mut types, "Shares of versions and arms, and what would move.");
    let summary = "Route made-up units, by what is in force and by other settings";
    let simulate = operation(&mut types, summary, Some(&asked_shares), &[], Some(answer));
    let answer = returns::<Vec<InstanceStatus>>(&mut types, "The instances, by name.");
    let instances = operation(&mut types, "The instances of the group, and which are behind", None, &[], Some(answer));
    let answer = returns::<ConfigInForce>(&mut types, "The settings without local sections, and overrides.");
    let config = operation(&mut types, "The settings in force on this instance", None, &[], Some(answer));
    let answer = returns::<Vec<ConfigListing>>(&mut types, "Digests, the latest first.");
    let configs = operation(&mut types, "The configurations that this instance served", None, &[], Some(answer));
    let answer = returns::<ServedConfig>(&mut types, "The configuration.");
    let digest = [parameter("digest", "path", "The digest, or at least 4 digits of its beginning.")];
    let config_by_digest = operation(&mut types, "A configuration that was served", None, &digest, Some(answer));
    let changing = |types: &mut SchemaGenerator, summary: &str, body: Option<&Value>, parameters: &[Value]| {
        operation(types, summary, body, &[parameters, &conditions].concat(), None)
    };
    let from_query = [
        parameter("by", "query", "Who, for the audit log."),
        parameter("why", "query", "Why, for the audit log."),
        parameter("dry_run", "query", "`true` prepares everything and changes nothing."),
        parameter("force", "query", "`true` carries it out although a newer record cannot be read."),
    ];
    let experiment = parameter("name", "path", "The experiment.");
    let name = [experiment.clone()];
    let version = [parameter("version", "path", "The version.")];
    let name_and_variant = [experiment, parameter("variant", "path", "The variant that won.")];
    let paths = json!({
        "/v1/status": {"get": status},
        "/v1/predict": {"post": predict},
        "/v1/explain": {"post": explain},
        "/v1/simulate": {"post": simulate},
        "/v1/instances": {"get": instances},
        "/v1/configs": {"get": configs},
        "/v1/configs/{digest}": {"get": config_by_digest},
        "/v1/config": {
            "get": config,
            "put": changing(&mut types, "Serve by these settings instead of the file's", Some(&text), &from_query),
            "delete": changing(&mut types, "Serve by the settings file again", None, &from_query)
        },
        "/v1/overrides": {
            "delete": changing(&mut types, "Remove all overrides", None, &from_query)
        },
        "/v1/rollback": {
            "post": changing(&mut types, "Go back to the configuration before the last change", Some(&asked), &[])
        },
        "/v1/default/{version}": {
            "post": changing(&mut types, "Override the default version", Some(&asked), &version)
        },
        "/v1/experiments/{name}/pause": {
            "post": changing(&mut types, "Pause an experiment: it takes no requests", Some(&asked), &name)
        },
        "/v1/experiments/{name}/resume": {
            "post": changing(&mut types, "Let an experiment run, whatever settings say", Some(&asked), &name)
        },
        "/v1/experiments/{name}/promote/{variant}": {
            "post": changing(&mut types, "Let the version of one variant answer all", Some(&asked), &name_and_variant)
        },
        "/v1/record-format": {
            "post": changing(&mut types, "Write control records in the newest format", Some(&asked), &[])
        },
        "/v1/audit": {
            "get": operation(
                &mut types,
                "The audit log of this instance",
                None,
                &[parameter("limit", "query", "Lines, at most 1000; 100 where it is not given.")],
                Some(audited),
            )
        },
        "/v1/openapi.json": {
            "get": operation(&mut types, "This document", None, &[], Some(json!({"description": "This document."})))
        }
    });
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
