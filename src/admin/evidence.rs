//! Evidence: the figures of a report, how current they are, and what guards conclude.

use axum::{
    extract::{Query, State},
    http::StatusCode,
    response::Response,
};
use serde::Deserialize;

use super::answer::{json, refused};
use crate::{evidence::Criteria, evidence_store::Access};

/// How variants are compared.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct EvidenceQuery {
    control: Option<String>,
    alpha: f64,
    min_effect: f64,
    review_until_ms: Option<i64>,
}

impl Default for EvidenceQuery {
    fn default() -> Self {
        let Criteria { alpha, min_effect, review_until_ms } = Criteria::default();
        Self { control: None, alpha, min_effect, review_until_ms }
    }
}

/// `GET /v1/evidence`.
pub(super) async fn evidence(
    State(access): State<Option<Access>>,
    Query(EvidenceQuery { control, alpha, min_effect, review_until_ms }): Query<EvidenceQuery>,
) -> Response {
    let Some(access) = access else {
        let message = "`evidence.enabled` is false on this instance";
        return refused(StatusCode::NOT_FOUND, "evidence_off", message);
    };
    let is_share = |value: f64| value > 0.0 && value < 1.0;
    if !is_share(alpha) || !is_share(min_effect) {
        let message = "`alpha` and `min_effect` must lie between 0 and 1";
        return refused(StatusCode::BAD_REQUEST, "bad_request", message);
    }

    // Sums of many variants take milliseconds, and a write of the store may be waited for.
    let criteria = Criteria { alpha, min_effect, review_until_ms };
    let report = tokio::task::spawn_blocking(move || access.report(criteria, control.as_deref()));
    match report.await {
        Ok(report) => json(StatusCode::OK, &report),
        Err(error) => refused(StatusCode::INTERNAL_SERVER_ERROR, "internal_defect", &error.to_string()),
    }
}
