//! Requests from a folder of images or from JSON lines, for `produce` and `demo`.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::{CliError, failed};
use crate::message::{Outgoing, Request};

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

type Requests<'a> = Box<dyn Iterator<Item = Result<Outgoing, CliError>> + 'a>;

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
        let name = image.file_stem().unwrap_or_default().to_string_lossy();
        let request = json!({"request_id": name, "text": text.trim_end(), "image": {"base64": encoded(&image)?}});
        Ok(record(&request, request.to_string().into_bytes(), reading))
    })))
}

/// One request per line; an `image.path` that leads to a file, seen from the file of lines, is
/// replaced by the image itself, because the consumer may be on another machine.
fn lines<'a>(path: &'a Path, reading: Reading<'a>) -> Result<Requests<'a>, CliError> {
    let file = File::open(path).map_err(|error| at(path, error))?;
    let beside = path.parent().unwrap_or(Path::new("")).to_owned();
    let numbered = BufReader::new(file).split(b'\n').enumerate();
    Ok(Box::new(numbered.filter_map(move |(index, line)| {
        let line = match line {
            Ok(line) => line,
            Err(error) => return Some(Err(at(path, error))),
        };
        if line.trim_ascii().is_empty() && reading.checked {
            return None;
        }
        let made = one_line(&line, &beside, reading);
        Some(made.map_err(|error| failed(format!("{} line {}: {error}", path.display(), index + 1))))
    })))
}

fn one_line(line: &[u8], beside: &Path, reading: Reading<'_>) -> Result<Outgoing, CliError> {
    let Ok(mut request) = serde_json::from_slice::<Value>(line) else {
        let malformed = Request::from_json(line).err();
        return match (reading.checked, malformed) {
            (true, Some(error)) => Err(failed(error)),
            _ => Ok(record(&Value::Null, line.to_vec(), reading)),
        };
    };
    if let Some(image) = request.get_mut("image").and_then(Value::as_object_mut) {
        inline(image, beside)?;
    }
    let payload = request.to_string().into_bytes();
    if reading.checked {
        Request::from_json(&payload).map_err(failed)?;
    }
    Ok(record(&request, payload, reading))
}

fn inline(image: &mut Map<String, Value>, beside: &Path) -> Result<(), CliError> {
    let Some(path) = image.get("path").and_then(Value::as_str).map(|path| beside.join(path)) else { return Ok(()) };
    if path.is_file() {
        image.remove("path");
        image.insert("base64".to_owned(), Value::String(encoded(&path)?));
    }
    Ok(())
}

fn record(request: &Value, payload: Vec<u8>, reading: Reading<'_>) -> Outgoing {
    let key = match reading.key {
        "request_id" => &request["request_id"],
        attribute => &request["attributes"][attribute.strip_prefix("attributes.").unwrap_or(attribute)],
    };
    let key = key.as_str().map(|key| key.as_bytes().to_vec());
    Outgoing { topic: reading.topic.to_owned(), key, payload: Some(payload), headers: Vec::new() }
}

fn encoded(path: &Path) -> Result<String, CliError> {
    Ok(STANDARD.encode(fs::read(path).map_err(|error| at(path, error))?))
}

fn at(path: &Path, error: io::Error) -> CliError {
    failed(format!("{}: {error}", path.display()))
}
