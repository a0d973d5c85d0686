//! Serves a router within bounds. A client may connect and send nothing. Without bounds such connections take all file
//! descriptors of the process, and with them its brokers, its settings and its health page.

use std::{io, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    http::StatusCode,
    middleware::{self, Next},
    response::IntoResponse,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use super::Door;

/// Bounds of an HTTP server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// Connections at a time; one more is closed at once.
    pub connections_max: usize,
    /// How long a connection may take for the head of a request, and how long it may idle.
    pub timeout: Duration,
    /// How long a request may take from its head to its answer, its body included.
    pub answer_timeout: Duration,
}

/// Waited before the next connection where the system gives none, for want of descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;

/// Serves connections for ever.
///
/// # Errors
/// Never; the type is that of a server.
pub async fn serve_connections(
    listener: TcpListener,
    router: Router,
    limits: HttpLimits,
    door: Door,
) -> io::Result<()> {
    let door = Arc::new(door);
    let permits = Arc::new(Semaphore::new(limits.connections_max));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "A connection was not accepted.");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Closed rather than kept waiting: its descriptor would count as well.
        let Ok(permit) = permits.clone().try_acquire_owned() else { continue };
        let (router, door) = (router.clone(), door.clone());
        tokio::spawn(async move {
            serve_one(stream, router, limits, door).await;
            drop(permit);
        });
    }
}

/// Serves the requests of one connection, one after the other. Each has the time-out for its head, and once more for the rest.
async fn serve_one(stream: TcpStream, router: Router, limits: HttpLimits, door: Arc<Door>) {
    let HttpLimits { timeout, answer_timeout, .. } = limits;
    let router = router.layer(middleware::from_fn(move |request: Request, next: Next| {
        let door = door.clone();
        async move {
            let mut response = match door.refusal(&request) {
                Some(refusal) => refusal,
                None => match tokio::time::timeout(answer_timeout, next.run(request)).await {
                    Ok(response) => response,
                    Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
                },
            };
            Door::finish(&mut response);
            response
        }
    }));
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(timeout);
    server.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    // An answer that its client does not read has no other end.
    let whole = tokio::time::timeout(WHOLE_TIMEOUTS * timeout + answer_timeout, connection.as_mut());
    if let Ok(Err(error)) = whole.await {
        tracing::debug!(%error, "A connection ended early.");
    }
}

/// A connection that lives longer than so many time-outs is closed, whatever it does: scrapers connect again.
const WHOLE_TIMEOUTS: u32 = 30;

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{SocketAddr, TcpStream},
        time::Instant,
    };

    use axum::routing::get;

    use super::*;

    fn server(limits: HttpLimits) -> (tokio::runtime::Runtime, SocketAddr) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let router = Router::new()
            .route("/", get(|| async { "well" }))
            .route("/slow", get(|| async { tokio::time::sleep(Duration::from_secs(60)).await }));
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(serve_connections(listener, router, limits, Door::default()));
        (runtime, address)
    }

    fn ask(address: SocketAddr, text: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(text.as_bytes()).ok();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok();
        answer
    }

    const GOOD: &str = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

    #[test]
    fn connections_that_never_finish_a_request_are_closed_and_take_no_more_than_their_bound() {
        let limits = HttpLimits {
            connections_max: 8,
            timeout: Duration::from_millis(300),
            answer_timeout: Duration::from_millis(300),
        };
        let (_runtime, address) = server(limits);
        assert!(ask(address, GOOD).ends_with("well"));
        let begun = Instant::now();
        let mut idle: Vec<TcpStream> = (0..100)
            .map(|number| {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.write_all(&b"GET / HTTP/1.1\r\nHost: "[..number % 22]).ok();
                stream
            })
            .collect();
        for stream in &mut idle {
            // The end of the stream, or an error: it is closed.
            stream.read_to_end(&mut Vec::new()).ok();
        }
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert!(ask(address, GOOD).ends_with("well"));
    }

    #[test]
    fn an_answer_that_takes_too_long_is_given_up_and_a_head_that_is_too_large_refused() {
        let limits = HttpLimits {
            connections_max: 8,
            timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_millis(200),
        };
        let (_runtime, address) = server(limits);
        assert!(ask(address, &GOOD.replace("GET /", "GET /slow")).starts_with("HTTP/1.1 408"));
        let large = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Large: {}\r\n\r\n", "x".repeat(30_000));
        assert!(!ask(address, &large).starts_with("HTTP/1.1 200"));
    }
}
