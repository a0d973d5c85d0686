//! A fetcher against a server on loopback that lies in every way.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::Mutex,
};

use super::*;

/// Serves each connection with one answer, and keeps what it was asked.
struct Liar {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Liar {
    fn new(answer: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = asked.clone();
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (heard, answer) = (heard.clone(), answer.clone());
                thread::spawn(move || serve(stream, &heard, answer.as_ref()));
            }
        });
        Self { address, asked }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.address.port())
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    fn options(&self) -> FetchOptions {
        FetchOptions {
            hosts: vec!["127.0.0.1".to_owned(), "localhost".to_owned()],
            schemes: vec!["http".to_owned()],
            ports: vec![self.address.port()],
            networks: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
            redirects_max: 0,
            timeout: Duration::from_millis(500),
            concurrent_max: 4,
        }
    }
}

fn serve(mut stream: TcpStream, heard: &Mutex<Vec<String>>, answer: &(impl Fn(&str, &mut TcpStream) + ?Sized)) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    heard.lock().unwrap().push(path.clone());
    answer(&path, &mut stream);
}

fn fixed(text: &'static str) -> Liar {
    Liar::new(move |_, stream| {
        stream.write_all(text.as_bytes()).ok();
    })
}

fn fetch(liar: &Liar) -> Result<Vec<u8>, FetchError> {
    Fetcher::new(liar.options()).fetch(&liar.url("/a.png"), 10)
}

#[test]
fn a_good_answer_is_read_and_a_long_one_is_cut_at_one_byte_too_many() {
    let good = fixed("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(fetch(&good).as_deref(), Ok(&b"abc"[..]));
    let endless = Liar::new(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok();
        while stream.write_all(&[1; 1000]).is_ok() {}
    });
    assert_eq!(fetch(&endless).map(|bytes| bytes.len()), Ok(11));
    let claims = fixed("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nabc");
    assert_eq!(fetch(&claims).map(|bytes| bytes.len()), Ok(11));
    let chunks = fixed("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n14\r\naaaaaaaaaaaaaaaaaaaa\r\n0\r\n\r\n");
    assert_eq!(fetch(&chunks).map(|bytes| bytes.len()), Ok(11));
}

#[test]
fn every_way_to_fail_has_its_blame() {
    let slow = |_: &str, stream: &mut TcpStream| {
        for _ in 0..100 {
            stream.write_all(b"H").ok();
            thread::sleep(Duration::from_millis(50));
        }
    };
    let drips = |_: &str, stream: &mut TcpStream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n").ok();
        for _ in 0..100 {
            thread::sleep(Duration::from_millis(200));
            if stream.write_all(b"x").is_err() {
                return;
            }
        }
    };
    let cases = [
        (fixed("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), Blame::Moment),
        (fixed("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"), Blame::Moment),
        (fixed("HTTP/1.1 429 Slower\r\nContent-Length: 0\r\n\r\n"), Blame::Moment),
        (fixed("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"), Blame::Request),
        (fixed("HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n"), Blame::Request),
        (fixed("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut"), Blame::Moment),
        (fixed("SSH-2.0-OpenSSH\r\n\r\n"), Blame::Moment),
        (fixed(""), Blame::Moment),
        (Liar::new(slow), Blame::Moment),
        (Liar::new(drips), Blame::Moment),
        (fixed("HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n"), Blame::Refused),
        (fixed("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n"), Blame::Refused),
    ];
    for (index, (liar, blame)) in cases.iter().enumerate() {
        let begun = Instant::now();
        let error = fetch(liar).unwrap_err();
        assert_eq!(error.blame, *blame, "{index}: {error}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{index}: bounded by its time");
    }
}

#[test]
fn an_endless_head_is_refused() {
    let head = Liar::new(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n").ok();
        while stream.write_all(b"X-Padding: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n").is_ok() {}
    });
    assert_eq!(fetch(&head).unwrap_err().blame, Blame::Moment);
}

#[test]
fn redirects_are_followed_within_their_bound_and_each_is_checked() {
    let liar = Liar::new(|path, stream| {
        let answer = match path {
            "/twice" => "HTTP/1.1 302 F\r\nLocation: /once\r\nContent-Length: 0\r\n\r\n",
            "/once" => "HTTP/1.1 307 T\r\nLocation: /good\r\nContent-Length: 0\r\n\r\n",
            "/out" => "HTTP/1.1 302 F\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n",
            "/file" => "HTTP/1.1 302 F\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
            "/bare" => "HTTP/1.1 302 F\r\nLocation: //169.254.169.254/\r\nContent-Length: 0\r\n\r\n",
            "/ring" => "HTTP/1.1 302 F\r\nLocation: /ring\r\nContent-Length: 0\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood",
        };
        stream.write_all(answer.as_bytes()).ok();
    });
    let fetcher = Fetcher::new(FetchOptions { redirects_max: 2, ..liar.options() });
    assert_eq!(fetcher.fetch(&liar.url("/twice"), 10).as_deref(), Ok(&b"good"[..]));
    for path in ["/out", "/file", "/bare", "/ring"] {
        assert_eq!(fetcher.fetch(&liar.url(path), 10).unwrap_err().blame, Blame::Refused, "{path}");
    }
    assert_eq!(fetcher.fetching(), 0);
}

#[test]
fn a_url_is_refused_by_its_letters_before_anything_is_asked() {
    let liar = fixed("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc");
    let port = liar.address.port();
    let options =
        FetchOptions { hosts: vec!["cdn.example.com".to_owned(), "*.img.example.com".to_owned()], ..liar.options() };
    let fetcher = Fetcher::new(options);
    let refused = [
        format!("http://127.0.0.1:{port}/"),
        format!("http://cdn.example.com@127.0.0.1:{port}/"),
        format!("http://cdn.example.com:{port}@127.0.0.1/"),
        "ftp://cdn.example.com/".to_owned(),
        "https://cdn.example.com/".to_owned(),
        "http://cdn.example.com:22/".to_owned(),
        "http://cdn.example.com.evil.org/".to_owned(),
        "http://img.example.com/".to_owned(),
        "http://evilimg.example.com/".to_owned(),
        "http://.img.example.com/".to_owned(),
        "file:///etc/passwd".to_owned(),
        "/relative".to_owned(),
        "not a url".to_owned(),
        String::new(),
    ];
    for url in refused {
        assert_eq!(fetcher.fetch(&url, 10).unwrap_err().blame, Blame::Refused, "{url}");
    }
    let off = Fetcher::new(FetchOptions { hosts: Vec::new(), ..liar.options() });
    assert!(off.fetch(&liar.url("/"), 10).unwrap_err().reason.contains("images.fetch.hosts"));
    assert_eq!(liar.asked(), 0);
}

#[test]
fn a_host_with_any_special_address_is_refused_and_nothing_is_connected() {
    let liar = fixed("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc");
    let fetcher = Fetcher::new(FetchOptions { networks: Vec::new(), ..liar.options() });
    for host in ["127.0.0.1", "localhost"] {
        let error = fetcher.fetch(&format!("http://{host}:{}/", liar.address.port()), 10).unwrap_err();
        assert_eq!(error.blame, Blame::Refused, "{host}: {error}");
        assert!(!error.reason.contains("127.0.0.1"), "{error}");
    }
    assert_eq!(liar.asked(), 0);
    let resolver = CheckedResolver { networks: Vec::new(), resolving: Arc::default(), threads_max: 4 };
    let mixed: Vec<SocketAddr> = ["8.8.8.8:80", "10.0.0.1:80"].iter().map(|text| text.parse().unwrap()).collect();
    assert!(resolver.check(&mixed).is_err(), "one public address does not excuse a private one");
    assert_eq!(resolver.check(&mixed[..1]).unwrap(), mixed[0]);
}

#[test]
fn only_so_many_are_fetched_at_a_time() {
    let liar = Liar::new(|_, _| thread::sleep(Duration::from_secs(2)));
    let fetcher = Fetcher::new(FetchOptions { concurrent_max: 1, ..liar.options() });
    let (other, url) = (fetcher.clone(), liar.url("/"));
    let first = thread::spawn(move || other.fetch(&url, 10));
    while liar.asked() == 0 {
        thread::yield_now();
    }
    assert!(fetcher.fetch(&liar.url("/"), 10).unwrap_err().reason.contains("concurrent_max"));
    assert_eq!(first.join().unwrap().unwrap_err().blame, Blame::Moment);
}
