//! The routes that change the configuration.

use axum::{
    body::Bytes,
    extract::{Path, Query, State},
    http::StatusCode,
    response::Response,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    answer::{json, refused, unreadable, with_etag},
    api::Api,
    caller::Caller,
};
use crate::{
    control::{AuditInfo, Command, CommandRequest, ControlError},
    pipeline::SwitchError,
    routing::{ExperimentSpec, millionths},
};

/// What a change takes besides its address: who, why and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ChangeRequest {
    /// Who, for the audit log.
    pub by: String,
    /// Why, for the audit log.
    pub why: String,
    /// Prepare everything, and change nothing.
    pub dry_run: bool,
    /// Carry it out although a newer record of the control topic cannot be read. What that record
    /// changed is lost.
    pub force: bool,
}

pub(super) async fn apply(
    State(api): State<Api>,
    caller: Caller,
    Query(change): Query<ChangeRequest>,
    body: Bytes,
) -> Response {
    match String::from_utf8(body.to_vec()) {
        Ok(text) => carry_out(&api, Command::Apply { text }, change, caller).await,
        Err(_) => {
            refused(StatusCode::BAD_REQUEST, "bad_request", "the body is not UTF-8: send the text of the settings")
        }
    }
}

pub(super) async fn use_file(State(api): State<Api>, caller: Caller, Query(change): Query<ChangeRequest>) -> Response {
    carry_out(&api, Command::UseFile, change, caller).await
}

pub(super) async fn clear(State(api): State<Api>, caller: Caller, Query(change): Query<ChangeRequest>) -> Response {
    carry_out(&api, Command::Clear, change, caller).await
}

pub(super) async fn rollback(State(api): State<Api>, caller: Caller, body: Bytes) -> Response {
    post_command(&api, Command::Rollback, caller, &body).await
}

pub(super) async fn upgrade_format(State(api): State<Api>, caller: Caller, body: Bytes) -> Response {
    post_command(&api, Command::UpgradeFormat, caller, &body).await
}

pub(super) async fn set_default(
    State(api): State<Api>,
    Path(version): Path<String>,
    caller: Caller,
    body: Bytes,
) -> Response {
    post_command(&api, Command::SetDefault { version }, caller, &body).await
}

pub(super) async fn pause(
    State(api): State<Api>,
    Path(experiment): Path<String>,
    caller: Caller,
    body: Bytes,
) -> Response {
    post_command(&api, Command::Pause { experiment }, caller, &body).await
}

pub(super) async fn resume(
    State(api): State<Api>,
    Path(experiment): Path<String>,
    caller: Caller,
    body: Bytes,
) -> Response {
    post_command(&api, Command::Resume { experiment }, caller, &body).await
}

pub(super) async fn promote(
    State(api): State<Api>,
    Path((experiment, variant)): Path<(String, String)>,
    caller: Caller,
    body: Bytes,
) -> Response {
    post_command(&api, Command::Promote { experiment, variant }, caller, &body).await
}

/// The ramp takes no step from the share.
pub(super) async fn set_traffic(
    State(api): State<Api>,
    Path((experiment, share)): Path<(String, f64)>,
    caller: Caller,
    body: Bytes,
) -> Response {
    change_traffic(&api, experiment, share, true, caller, &body).await
}

/// The ramp goes on from the share.
pub(super) async fn ramp_from(
    State(api): State<Api>,
    Path((experiment, share)): Path<(String, f64)>,
    caller: Caller,
    body: Bytes,
) -> Response {
    change_traffic(&api, experiment, share, false, caller, &body).await
}

async fn change_traffic(
    api: &Api,
    experiment: String,
    share: f64,
    ramp_paused: bool,
    caller: Caller,
    body: &Bytes,
) -> Response {
    if !(0.0..=1.0).contains(&share) {
        return refused(StatusCode::BAD_REQUEST, "bad_request", "the share of units must lie between 0 and 1");
    }
    // A share is meant for the definition that the caller sees.
    let experiments = &api.switcher.serving().plan.table_spec.experiments;
    let found = experiments.iter().find(|spec| spec.name == experiment);
    let definition = found.map(ExperimentSpec::definition).unwrap_or_default();
    let millionths = millionths(share);
    let command = Command::SetTraffic { experiment, millionths, definition, from: None, ramp_paused };
    post_command(api, command, caller, body).await
}

async fn post_command(api: &Api, command: Command, caller: Caller, body: &Bytes) -> Response {
    match read(body) {
        Ok(change) => carry_out(api, command, change, caller).await,
        Err(error) => unreadable(&error),
    }
}

async fn carry_out(api: &Api, command: Command, change: ChangeRequest, caller: Caller) -> Response {
    let ChangeRequest { by, why, dry_run, force } = change;
    // The token says who it is; another name is a claim.
    let (by, claimed) = match caller.name {
        None => (by, String::new()),
        Some(name) if by == name => (name, String::new()),
        Some(name) => (name, by),
    };
    let mut request = CommandRequest::new(command, AuditInfo { by, claimed, why });
    (request.dry_run, request.force, request.if_match) = (dry_run, force, caller.if_match);
    if let Some(id) = caller.id {
        request.id = id;
    }
    match api.handle.command(request).await {
        Ok(applied) => with_etag(json(StatusCode::OK, &applied), &applied.etag),
        Err(error) => refusal(&error),
    }
}

/// A JSON body; an empty one is an empty object. An array would be read field by field, which no
/// caller means.
fn read(body: &Bytes) -> Result<ChangeRequest, serde_json::Error> {
    let fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(if body.is_empty() { b"{}" } else { body })?;
    serde_json::from_value(fields.into())
}

pub(super) fn refusal(error: &ControlError) -> Response {
    let status = match error {
        ControlError::Switch(SwitchError::Kafka(_)) => StatusCode::SERVICE_UNAVAILABLE,
        ControlError::Settings(_) | ControlError::Switch(_) => StatusCode::UNPROCESSABLE_ENTITY,
        ControlError::Unknown { .. } => StatusCode::NOT_FOUND,
        ControlError::NoHistory
        | ControlError::Superseded
        | ControlError::UnknownState(_)
        | ControlError::RevisionLimit => StatusCode::CONFLICT,
        ControlError::Conflict { .. } => StatusCode::PRECONDITION_FAILED,
        ControlError::OutcomeUnknown { .. } => StatusCode::GATEWAY_TIMEOUT,
        ControlError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        ControlError::Busy | ControlError::NotPublished(_) | ControlError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        ControlError::Unreadable { .. } | ControlError::InUse(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    refused(status, error.code(), &error.to_string())
}
