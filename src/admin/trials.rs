//! Trials: a request on some versions, its route, and simulations. Nothing is published.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    body::Bytes,
    extract::{Query, State},
    http::StatusCode,
    response::Response,
};
use serde::{Deserialize, Serialize};

use super::{
    answer::{json, refused, unreadable},
    api::Api,
};
use crate::pipeline::{SimulationRequest, TrialError};

/// Trials at a time: each holds a decoded picture.
pub(super) const TRIALS_MAX: usize = 2;
/// Versions of one trial.
const TRIAL_VERSIONS_MAX: usize = 8;

/// The versions of a trial, separated by commas.
#[derive(Deserialize)]
pub(super) struct TrialQuery {
    #[serde(default)]
    versions: String,
}

/// Sets a flag when the caller goes away.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// `POST /v1/predict`.
pub(super) async fn predict(
    State(api): State<Api>,
    Query(TrialQuery { versions }): Query<TrialQuery>,
    body: Bytes,
) -> Response {
    let versions = versions.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
    let versions: Vec<String> = versions.collect();
    if versions.len() > TRIAL_VERSIONS_MAX {
        let message = format!("`versions` names {} versions, at most {TRIAL_VERSIONS_MAX}", versions.len());
        return refused(StatusCode::BAD_REQUEST, "bad_request", &message);
    }
    let cancel = CancelOnDrop(Arc::new(AtomicBool::new(false)));
    let (switcher, cancelled) = (api.switcher.clone(), cancel.0.clone());
    trial(&api, move || switcher.try_request(&body, &versions, &cancelled)).await
}

/// `POST /v1/explain`.
pub(super) async fn explain(State(api): State<Api>, body: Bytes) -> Response {
    let switcher = api.switcher.clone();
    trial(&api, move || switcher.explain_request(&body)).await
}

/// `POST /v1/simulate`.
pub(super) async fn simulate(State(api): State<Api>, body: Bytes) -> Response {
    let request: SimulationRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return unreadable(&error),
    };
    let cancel = CancelOnDrop(Arc::new(AtomicBool::new(false)));
    let (switcher, cancelled) = (api.switcher.clone(), cancel.0.clone());
    trial(&api, move || switcher.simulate(&request, &cancelled)).await
}

/// Runs a trial on a thread that may wait, not more than [`TRIALS_MAX`] at a time.
async fn trial<T: Serialize + Send + 'static>(
    api: &Api,
    run: impl FnOnce() -> Result<T, TrialError> + Send + 'static,
) -> Response {
    let Ok(permit) = api.trials.clone().try_acquire_owned() else {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "busy", "other trials run: try again");
    };
    let done = tokio::task::spawn_blocking(move || {
        let done = run();
        drop(permit);
        done
    });
    match done.await {
        Ok(Ok(answer)) => json(StatusCode::OK, &answer),
        Ok(Err(error)) => {
            let status = match &error {
                TrialError::UnknownVersion { .. } => StatusCode::NOT_FOUND,
                TrialError::Busy(_) | TrialError::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
                TrialError::Failure(_) | TrialError::Settings(_) | TrialError::Url => StatusCode::UNPROCESSABLE_ENTITY,
            };
            refused(status, error.code(), &error.to_string())
        }
        Err(error) => refused(StatusCode::INTERNAL_SERVER_ERROR, "internal_defect", &error.to_string()),
    }
}
