//! `/metrics`, `/healthz` and `/readyz`.

use std::{
    future::{Future, IntoFuture},
    io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;

/// What the health pages ask.
pub struct Probes {
    /// Whether the process works at all; a supervisor restarts it otherwise.
    pub live: Box<dyn Fn() -> bool + Send + Sync>,
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
        let mut pages = std::pin::pin!(axum::serve(listener, router).into_future());
        loop {
            tokio::select! {
                served = &mut pages => return served,
                _ = upkeep.tick() => metrics.run_upkeep(),
            }
        }
    }))
}

async fn show_metrics(State(pages): State<Arc<Pages>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], pages.metrics.render())
}

async fn show_health(State(pages): State<Arc<Pages>>) -> impl IntoResponse {
    told("alive", (!(pages.probes.live)()).then(|| "the poll loop is stuck".to_owned()))
}

async fn show_readiness(State(pages): State<Arc<Pages>>) -> impl IntoResponse {
    told("ready", (pages.probes.not_ready)().map(|reason| format!("not ready: {reason}")))
}

fn told(good: &str, problem: Option<String>) -> impl IntoResponse {
    match problem {
        None => (StatusCode::OK, format!("{good}\n")),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
    }
}
