//! The description of the API, made from the types that it takes and gives.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Value, json};

use super::{ChangeRequest, Refusal};
use crate::control::{Applied, Report};

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
        "/v1/config": {
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
