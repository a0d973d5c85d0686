//! Serves a router within bounds. A client may connect and send nothing. Without bounds such
//! connections take all file descriptors of the process, and with them its brokers, its settings
//! and its health page.
//!
//! At the bound, a new connection takes the place of the oldest one that waits for a request. So
//! idle connections, however many, block neither `/healthz` nor a rollback.

use std::{
    collections::BTreeMap,
    io,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

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
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
};

use super::Door;

/// Bounds of an HTTP server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// Connections at a time. One more takes the place of the oldest that waits for a request;
    /// where all are being answered, it is closed.
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
    let waiting = Arc::new(Waiting::default());
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
        let Some(permit) = permit(&permits, &waiting).await else { continue };
        let (router, door) = (router.clone(), door.clone());
        let place = Place { number: Arc::default(), waiting: waiting.clone() };
        // Before its task runs: the next connection may come sooner than that.
        let closed = place.wait();
        tokio::spawn(async move {
            tokio::select! {
                () = serve_one(stream, router, limits, door, place) => {}
                () = closed.notified() => tracing::debug!("An idle connection was closed for a new one."),
            }
            drop(permit);
        });
    }
}

/// How long an idle connection may take to close.
const CLOSE_WAIT: Duration = Duration::from_millis(100);

/// A permit for a connection, if need be that of the oldest one that waits for a request.
async fn permit(permits: &Arc<Semaphore>, waiting: &Waiting) -> Option<OwnedSemaphorePermit> {
    if let Ok(permit) = permits.clone().try_acquire_owned() {
        return Some(permit);
    }
    waiting.close_oldest().then_some(())?;
    tokio::time::timeout(CLOSE_WAIT, permits.clone().acquire_owned()).await.ok()?.ok()
}

/// Connections that wait for a request, the longest waiting first.
#[derive(Default)]
struct Waiting {
    connections: Mutex<BTreeMap<u64, Arc<Notify>>>,
    last: AtomicU64,
}

impl Waiting {
    /// True if there was one to close.
    fn close_oldest(&self) -> bool {
        let oldest = self.lock().pop_first();
        oldest.map(|(_, close)| close.notify_one()).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Notify>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a connection among those that wait.
#[derive(Clone)]
struct Place {
    number: Arc<AtomicU64>,
    waiting: Arc<Waiting>,
}

impl Place {
    /// The connection waits for a request from now on. Returns the signal that closes it.
    fn wait(&self) -> Arc<Notify> {
        let close = Arc::new(Notify::new());
        self.put_back(close.clone());
        close
    }

    /// The connection is being answered, so it is not closed. Returns its signal, for the time
    /// afterwards.
    fn take(&self) -> Option<Arc<Notify>> {
        self.waiting.lock().remove(&self.number.load(Ordering::Acquire))
    }

    /// The connection waits again, and has waited for the shortest time: its answer may still be on
    /// its way.
    fn put_back(&self, close: Arc<Notify>) {
        let number = self.waiting.last.fetch_add(1, Ordering::AcqRel);
        self.number.store(number, Ordering::Release);
        self.waiting.lock().insert(number, close);
    }
}

/// Removes the connection at its end.
struct RemoveOnDrop(Place);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        self.0.take();
    }
}

/// Serves the requests of one connection, one after the other. Each has the time-out for its head,
/// and once more for the rest.
async fn serve_one(stream: TcpStream, router: Router, limits: HttpLimits, door: Arc<Door>, place: Place) {
    let HttpLimits { timeout, answer_timeout, .. } = limits;
    let _remove = RemoveOnDrop(place.clone());
    let router = router.layer(middleware::from_fn(move |request: Request, next: Next| {
        let (door, place) = (door.clone(), place.clone());
        async move {
            let close = place.take();
            let mut response = match door.refusal(&request) {
                Some(refusal) => refusal,
                None => match tokio::time::timeout(answer_timeout, next.run(request)).await {
                    Ok(response) => response,
                    Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
                },
            };
            Door::finish(&mut response);
            close.into_iter().for_each(|close| place.put_back(close));
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

/// A connection is closed after so many time-outs, also if it is in use. Scrapers connect again.
const WHOLE_TIMEOUTS: u32 = 30;

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{SocketAddr, TcpStream},
        sync::atomic::AtomicBool,
        time::Instant,
    };

    use axum::routing::get;

    use super::*;

    /// Whether the request of a test is being answered.
    static NOTED: AtomicBool = AtomicBool::new(false);

    fn server(limits: HttpLimits) -> (tokio::runtime::Runtime, SocketAddr) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let router = Router::new()
            .route("/", get(|| async { "well" }))
            .route("/slow", get(|| async { tokio::time::sleep(Duration::from_secs(60)).await }))
            .route(
                "/noted",
                get(|| async {
                    NOTED.store(true, Ordering::Release);
                    tokio::time::sleep(Duration::from_secs(60)).await;
                }),
            );
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
    fn a_request_is_answered_at_once_however_many_connections_idle() {
        let timeout = Duration::from_secs(60);
        let (_runtime, address) = server(HttpLimits { connections_max: 8, timeout, answer_timeout: timeout });
        let slow = TcpStream::connect(address).unwrap();
        (&slow).write_all(GOOD.replace("GET /", "GET /noted").as_bytes()).unwrap();
        while !NOTED.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let idle: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
        for _ in 0..20 {
            let begun = Instant::now();
            assert!(ask(address, GOOD).ends_with("well"));
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        }
        // One that is being answered is never closed for another.
        slow.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let error = (&slow).read(&mut [0]).unwrap_err();
        assert!(matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{error}");
        drop(idle);
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
