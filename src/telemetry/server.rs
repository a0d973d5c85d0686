//! `/metrics`, `/healthz` and `/readyz`.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;

use super::logging;
use crate::http::{Door, HttpLimits, serve_connections};

/// What the health pages ask.
pub struct Probes {
    /// Why the process should be started again, if so.
    pub not_alive: Box<dyn Fn() -> Option<String> + Send + Sync>,
    /// Why it does not answer all requests now, if so.
    pub not_ready: Box<dyn Fn() -> Option<String> + Send + Sync>,
}

/// Histograms collect their samples until they are rendered or kept up; nobody may ever scrape.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

struct Pages {
    metrics: PrometheusHandle,
    probes: Probes,
}

/// Binds the address and gives back where it is and the server, to be awaited.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    metrics: PrometheusHandle,
    probes: Probes,
    limits: HttpLimits,
) -> io::Result<(SocketAddr, impl Future<Output = io::Result<()>> + Send)> {
    let pages = Arc::new(Pages { metrics: metrics.clone(), probes });
    let router = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(show_health))
        .route("/readyz", get(show_readiness))
        .with_state(pages);
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    Ok((bound, async move {
        let mut upkeep = tokio::time::interval(UPKEEP_INTERVAL);
        let mut pages = std::pin::pin!(serve_connections(listener, router, limits, Door::default()));
        loop {
            tokio::select! {
                served = &mut pages => return served,
                _ = upkeep.tick() => {
                    metrics.run_upkeep();
                    super::log_lines_dropped(logging::lines_dropped());
                }
            }
        }
    }))
}

async fn show_metrics(State(pages): State<Arc<Pages>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], pages.metrics.render())
}

async fn show_health(State(pages): State<Arc<Pages>>) -> impl IntoResponse {
    answer("alive", (pages.probes.not_alive)())
}

async fn show_readiness(State(pages): State<Arc<Pages>>) -> impl IntoResponse {
    answer("ready", (pages.probes.not_ready)().map(|reason| format!("not ready: {reason}")))
}

fn answer(good: &str, problem: Option<String>) -> impl IntoResponse {
    match problem {
        None => (StatusCode::OK, format!("{good}\n")),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
    }
}
