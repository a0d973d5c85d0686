//! A model hub on loopback that speaks the paths of ModelScope and Hugging Face, and misbehaves on demand.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use sha2::{Digest, Sha256};

/// What goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fault {
    /// The connection closes after this many bytes of a body, for that many bodies.
    Cut(usize, usize),
    /// Ranges are ignored: every answer is the whole file.
    NoRanges,
    /// A status, with `Retry-After: 0`, for that many requests of files.
    Status(u16, usize),
    /// The same for the list of files.
    ListStatus(u16),
    /// A file goes on behind its announced end.
    TooLong,
    /// A byte differs from what the digest was made of.
    WrongByte,
    /// The list names this file too.
    Lists(&'static str),
    /// The list is a page for people.
    NoList,
    /// The first bodies never come.
    Silent(usize),
    /// Every address is answered by a redirect to another on the same host.
    Redirects,
    /// Parts come without saying which part they are.
    NoContentRange,
}

/// One request as the hub saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) from: Option<usize>,
    pub(crate) authorization: Option<String>,
}

pub(crate) struct FakeHub {
    pub(crate) endpoint: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

struct State {
    files: BTreeMap<String, Vec<u8>>,
    faults: Mutex<Vec<Fault>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

pub(crate) const MODEL: &str = "iic/ofa_test";

impl FakeHub {
    /// Serves a folder as a model. Ends with the test's process.
    pub(crate) fn start(folder: &Path, faults: &[Fault]) -> Self {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let files = entries
            .filter(|path| path.is_file())
            .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap()))
            .collect();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let state = Arc::new(State { files, faults: Mutex::new(faults.to_vec()), seen: seen.clone() });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = state.clone();
                // A client that hangs up early is part of the game.
                std::thread::spawn(move || state.answer(&stream).ok());
            }
        });
        Self { endpoint, seen }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl State {
    fn answer(&self, stream: &TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream).lines();
        let path = lines.next().unwrap()?.split(' ').nth(1).unwrap().to_owned();
        let mut seen = Seen { path: path.clone(), from: None, authorization: None };
        for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap();
            match name.to_ascii_lowercase().as_str() {
                "range" => seen.from = value.strip_prefix("bytes=").unwrap().trim_end_matches('-').parse().ok(),
                "authorization" => seen.authorization = Some(value.to_owned()),
                _ => {}
            }
        }
        let from = seen.from;
        if self.faults.lock().unwrap().contains(&Fault::Redirects) && !path.starts_with("/moved") {
            self.seen.lock().unwrap().push(seen);
            return head(stream, 307, 0, &format!("Location: /moved{path}\r\n"));
        }
        let path = path.strip_prefix("/moved").unwrap_or(&path).to_owned();
        self.seen.lock().unwrap().push(seen);
        let modelscope = format!("/api/v1/models/{MODEL}/repo");
        if path == format!("{modelscope}/files?Revision=master&Recursive=false") {
            return self.list(stream, |files| {
                let files: Vec<String> = files
                    .iter()
                    .map(|(name, size, sha256)| {
                        format!(
                            r#"{{"Name":"{name}","Path":"{name}","Size":{size},"Sha256":"{sha256}","Type":"blob","Mode":"33188"}}"#
                        )
                    })
                    .collect();
                format!(
                    r#"{{"Code":200,"Data":{{"Files":[{{"Name":"sub","Path":"sub","Size":0,"Type":"tree"}},{}]}},"Success":true}}"#,
                    files.join(",")
                )
            });
        }
        if path == format!("/api/models/{MODEL}/tree/main") {
            return self.list(stream, |files| {
                let files: Vec<String> = files
                    .iter()
                    .map(|(name, size, sha256)| match *size > 10_000 {
                        true => format!(
                            r#"{{"type":"file","oid":"x","size":{size},"lfs":{{"oid":"{sha256}","size":{size},"pointerSize":134}},"path":"{name}"}}"#
                        ),
                        false => format!(r#"{{"type":"file","oid":"x","size":{size},"path":"{name}"}}"#),
                    })
                    .collect();
                format!(r#"[{{"type":"directory","oid":"x","size":0,"path":"sub"}},{}]"#, files.join(","))
            });
        }
        let file = path
            .strip_prefix(&format!("{modelscope}?Revision=master&FilePath="))
            .or_else(|| path.strip_prefix(&format!("/{MODEL}/resolve/main/")));
        match file.and_then(|name| self.files.get(name)) {
            Some(content) => self.give(stream, content, from),
            None => head(stream, 404, 0, ""),
        }
    }

    fn list(&self, mut stream: &TcpStream, json: impl Fn(&[(String, usize, String)]) -> String) -> std::io::Result<()> {
        let mut files: Vec<(String, usize, String)> = self
            .files
            .iter()
            .map(|(name, content)| (name.clone(), content.len(), hex::encode(Sha256::digest(content))))
            .collect();
        for fault in self.faults.lock().unwrap().iter() {
            match fault {
                Fault::ListStatus(status) => return head(stream, *status, 0, ""),
                Fault::NoList => {
                    head(stream, 200, 15, "")?;
                    return stream.write_all(b"<html>hi</html>");
                }
                Fault::Lists(name) => files.push(((*name).to_owned(), 3, String::new())),
                _ => {}
            }
        }
        let body = json(&files);
        head(stream, 200, body.len(), "")?;
        stream.write_all(body.as_bytes())
    }

    fn give(&self, mut stream: &TcpStream, content: &[u8], from: Option<usize>) -> std::io::Result<()> {
        let mut content = content.to_vec();
        let mut from = from.unwrap_or(0);
        let mut cut = usize::MAX;
        let mut silent = false;
        for fault in self.faults.lock().unwrap().iter_mut() {
            match fault {
                Fault::Status(status, left) if *left > 0 => {
                    *left -= 1;
                    return head(stream, *status, 0, "Retry-After: 0\r\n");
                }
                Fault::Silent(left) if *left > 0 => {
                    *left -= 1;
                    silent = true;
                }
                Fault::Cut(after, left) if *left > 0 && content.len() > *after => {
                    *left -= 1;
                    cut = *after;
                }
                Fault::NoRanges => from = 0,
                Fault::TooLong if content.len() > 10_000 => content.extend([0; 100]),
                Fault::WrongByte if content.len() > 10_000 => content[5_000] ^= 1,
                _ => {}
            }
        }
        if silent {
            head(stream, 200, content.len(), "")?;
            std::thread::sleep(Duration::from_secs(30));
            return Ok(());
        }
        let body = &content[from.min(content.len())..];
        match from {
            0 => head(stream, 200, body.len(), "")?,
            _ if self.faults.lock().unwrap().contains(&Fault::NoContentRange) => head(stream, 206, body.len(), "")?,
            from => {
                let range = format!("Content-Range: bytes {from}-{}/{}\r\n", content.len() - 1, content.len());
                head(stream, 206, body.len(), &range)?;
            }
        }
        stream.write_all(&body[..cut.min(body.len())])
    }
}

fn head(mut stream: &TcpStream, status: u16, length: usize, more: &str) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status} It\r\nContent-Length: {length}\r\nConnection: close\r\n{more}\r\n")
}
