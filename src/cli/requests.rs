//! Requests from a folder of images or from JSON lines, for `produce` and `demo`.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use super::{CliError, failed};
use crate::{
    fetch::read_beneath,
    message::{Outgoing, Request, RequestBounds, encode_base64},
};

/// A picture that is read into a request; no service takes a larger one.
const IMAGE_BYTES_MAX: usize = 1 << 28;
/// A line or a text file.
const LINE_BYTES_MAX: u64 = 1 << 28;
/// The mark that Windows tools write before UTF-8.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// How requests are made from files.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    /// The topic they are for.
    pub(super) topic: &'a str,
    /// The field that becomes the record key: `request_id`, or an attribute's name.
    pub(super) key: &'a str,
    /// Whether a line that is no request ends the reading, with its number.
    pub(super) checked: bool,
}

/// A request from a file.
pub(super) struct FromFile {
    /// The file, and its line in a file of lines.
    pub(super) place: String,
    pub(super) record: Outgoing,
}

type Requests<'a> = Box<dyn Iterator<Item = Result<FromFile, CliError>> + 'a>;

/// Reads a folder or a file of JSON lines, one request at a time.
pub(super) fn read<'a>(path: &'a Path, reading: Reading<'a>) -> Result<Requests<'a>, CliError> {
    if path.is_dir() { folder(path, reading) } else { lines(path, reading) }
}

/// Every image with a text file of the same name beside it.
fn folder<'a>(path: &'a Path, reading: Reading<'a>) -> Result<Requests<'a>, CliError> {
    let entries = fs::read_dir(path).map_err(|error| at(path, error))?;
    let is_image = |path: &PathBuf| {
        path.extension().is_some_and(|extension| {
            ["jpg", "jpeg", "png", "webp"].iter().any(|known| extension.eq_ignore_ascii_case(known))
        })
    };
    let mut images: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).filter(is_image).collect();
    images.sort();
    if images.is_empty() {
        return Err(failed(format!("{} holds no JPEG, PNG or WebP files", path.display())));
    }
    Ok(Box::new(images.into_iter().map(move |image| {
        let words = image.with_extension("txt");
        let text = fs::read_to_string(&words).map_err(|error| {
            failed(format!("{}: {error}; every image needs its text in a .txt file of the same name", words.display()))
        })?;
        let text = text.trim_start_matches(BYTE_ORDER_MARK).trim_end();
        let name = image.file_stem().unwrap_or_default().to_string_lossy();
        let bytes = fs::read(&image).map_err(|error| at(&image, error))?;
        let request = json!({"request_id": name, "text": text, "image": {"base64": encode_base64(&bytes)}});
        let record = record(&request, request.to_string().into_bytes(), reading)?;
        Ok(FromFile { place: image.display().to_string(), record })
    })))
}

/// One request per line; an `image.path` that leads to a file below the folder of the file of lines is
/// replaced by the image itself, because the consumer may be on another machine.
fn lines<'a>(path: &'a Path, reading: Reading<'a>) -> Result<Requests<'a>, CliError> {
    let file = File::open(path).map_err(|error| at(path, error))?;
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let numbered = Lines(BufReader::new(file)).enumerate();
    Ok(Box::new(numbered.filter_map(move |(index, line)| {
        let place = format!("{} line {}", path.display(), index + 1);
        let line = match line {
            Ok(line) => line,
            Err(error) => return Some(Err(failed(format!("{place}: {error}")))),
        };
        let line = match index {
            0 => line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line),
            _ => &line,
        };
        if line.trim_ascii().is_empty() && reading.checked {
            return None;
        }
        Some(match one_line(line, &folder, reading) {
            Ok(record) => Ok(FromFile { place, record }),
            Err(error) => Err(failed(format!("{place}: {error}"))),
        })
    })))
}

/// Lines of bytes, each within a bound.
struct Lines(BufReader<File>);

impl Iterator for Lines {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Vec::new();
        match (&mut self.0).take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Err(error) => Some(Err(error)),
            Ok(0) => None,
            Ok(_) if line.len() as u64 >= LINE_BYTES_MAX => Some(Err(io::Error::other("the line is too long"))),
            Ok(_) => {
                line.pop_if(|last| *last == b'\n');
                Some(Ok(line))
            }
        }
    }
}

fn one_line(line: &[u8], folder: &Path, reading: Reading<'_>) -> Result<Outgoing, CliError> {
    if reading.checked {
        Request::from_json(line, &RequestBounds::NONE).map_err(failed)?;
    }
    let Ok(mut request) = serde_json::from_slice::<Value>(line) else {
        return record(&Value::Null, line.to_vec(), reading);
    };
    let is_inlined = match request.get_mut("image").and_then(Value::as_object_mut) {
        Some(image) => inline(image, folder, reading)?,
        None => false,
    };
    // A line that stays as it is keeps its bytes: writing it again would round its long numbers.
    let payload = if is_inlined { request.to_string().into_bytes() } else { line.to_vec() };
    record(&request, payload, reading)
}

/// Replaces the path of an image by the image. An unchecked line whose file is not there, or not below the folder, stays as it is.
fn inline(image: &mut Map<String, Value>, folder: &Path, reading: Reading<'_>) -> Result<bool, CliError> {
    let Some(path) = image.get("path").and_then(Value::as_str) else { return Ok(false) };
    match read_beneath(folder, path, IMAGE_BYTES_MAX) {
        Ok(bytes) => {
            image.remove("path");
            image.insert("base64".to_owned(), Value::String(encode_base64(&bytes)));
            Ok(true)
        }
        Err(_) if !reading.checked => Ok(false),
        Err(error) => {
            let reason = error.reason.replace("`images.path_root`", "the folder of the file of lines");
            Err(failed(format!("`image.path` {path:?}: {reason}")))
        }
    }
}

/// The record of a request. A key that was asked for and is not there is an error: without it a record has no order.
fn record(request: &Value, payload: Vec<u8>, reading: Reading<'_>) -> Result<Outgoing, CliError> {
    let value = match reading.key {
        "request_id" => &request["request_id"],
        attribute => &request["attributes"][attribute.strip_prefix("attributes.").unwrap_or(attribute)],
    };
    let key = match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        // As units have them: 42 and "42" are the same.
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ if !reading.checked => None,
        Value::Number(_) => return Err(failed(format!("`{}` is no whole number: it cannot be the key", reading.key))),
        _ => return Err(failed(format!("`{}`, which is to be the key, is missing or empty", reading.key))),
    };
    let key = key.map(String::into_bytes);
    Ok(Outgoing { topic: reading.topic.to_owned(), key, payload: Some(payload), headers: Vec::new() })
}

fn at(path: &Path, error: io::Error) -> CliError {
    failed(format!("{}: {error}", path.display()))
}
