//! What meets foreign bytes, one function each, for `fuzz/` and for the replay of its seeds and findings on stable Rust. None may
//! panic, and none may hold more memory than its bounds allow.

use std::{fs::File, io::Write, sync::Arc};

use crate::{
    control::wire,
    message::{Record, Request, RequestBounds},
    routing::{Overrides, condition::Condition},
    settings::Plan,
    store,
    text::Tokenizer,
    vision::{self, Limits},
    weights::{self, Weights},
};

/// Pictures may be small here, so that many are tried.
const LIMITS: Limits = Limits { bytes_max: 1 << 20, pixels_max: 1 << 18, decode_bytes_max: 1 << 26 };

const BOUNDS: RequestBounds = RequestBounds {
    texts_max: 8,
    text_characters_max: 2_000,
    attributes_max: 64,
    attribute_bytes_max: 1_024,
    nesting_max: 32,
    headers_max: 64,
};

/// A picture: its header, its pixels, and a smaller one of them.
///
/// # Panics
/// Where the header and the pixels disagree.
pub fn picture(bytes: &[u8]) {
    let Ok(header) = vision::probe(bytes, &LIMITS) else { return };
    let Ok(image) = vision::decode(bytes, &LIMITS) else { return };
    assert_eq!((header.width, header.height), (image.width, image.height), "the header has another size");
    assert_eq!(image.data.len(), 3 * image.width as usize * image.height as usize, "bytes are missing");
    vision::resize(&image, 16, 16);
}

/// The JSON of a request. What is read of it is read again from what it is written as.
///
/// # Panics
/// Where the second reading gives something else.
pub fn request(bytes: &[u8]) {
    let Ok(request) = Request::from_json(bytes, &BOUNDS) else { return };
    let Ok(written) = serde_json::to_vec(&request) else { return };
    let again = Request::from_json(&written, &BOUNDS);
    // Numbers that are no numbers are written as null.
    if request.attributes.is_empty() {
        assert_eq!(again.ok().as_ref(), Some(&request), "it reads otherwise");
    }
}

/// A record whose value is an image, with headers of these bytes: lines of `name: value`.
pub fn headers(bytes: &[u8]) {
    let line = |line: &[u8]| {
        let (name, value) = line.split_once_at(b':');
        (String::from_utf8_lossy(name).into_owned(), value.map(<[u8]>::to_vec))
    };
    let mut headers = vec![("content-type".to_owned(), Some(b"image/png".to_vec()))];
    headers.extend(bytes.split(|byte| *byte == b'\n').map(line));
    let record = Record { payload: Some(vec![1]), headers, ..Record::default() };
    Request::from_record(&record, &BOUNDS).ok();
    crate::message::carried(&record);
    crate::message::Origin::of(&record);
    crate::message::retry_due_ms(&record);
}

trait SplitOnce {
    fn split_once_at(&self, byte: u8) -> (&[u8], Option<&[u8]>);
}

impl SplitOnce for [u8] {
    fn split_once_at(&self, wanted: u8) -> (&[u8], Option<&[u8]>) {
        match self.iter().position(|byte| *byte == wanted) {
            Some(at) => (&self[..at], Some(&self[at + 1..])),
            None => (self, None),
        }
    }
}

/// The condition of a rule.
pub fn condition(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        Condition::parse(text).ok();
    }
}

/// A settings file.
pub fn settings(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        Plan::from_text("pipeline.toml".as_ref(), text.to_owned(), &Overrides::default()).ok();
    }
}

/// A record of the control topic. What is read is written and read again.
///
/// # Panics
/// Where the second reading gives something else.
pub fn control_record(bytes: &[u8]) {
    let Ok((state, format)) = wire::read(bytes) else { return };
    let copy = wire::read(&wire::write(&state, format));
    assert_eq!(copy.ok(), Some((state, format)), "its copy differs");
}

/// A pickle of a checkpoint.
pub fn pickle(bytes: &[u8]) {
    weights::look_through_pickle(bytes);
}

/// A safetensors file.
pub fn safetensors(bytes: &[u8]) {
    let Ok(mut file) = tempfile::tempfile() else { return };
    if file.write_all(bytes).is_err() {
        return;
    }
    let file: Arc<File> = Arc::new(file);
    let Ok(weights) = Weights::of_safetensors("fuzzed.safetensors".as_ref(), &file) else { return };
    weights.iter().for_each(|(_, tensor)| drop(tensor.floats()));
}

/// `vocab.json`, a line of `---`, and `merges.txt`.
pub fn tokenizer(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (vocabulary, merges) = text.split_once("\n---\n").unwrap_or((text, ""));
    if let Ok(tokenizer) = Tokenizer::new(vocabulary, merges) {
        tokenizer.encode("a red circle, <pad> and ümlauts");
    }
}

/// A hub's list of files.
pub fn listing(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        store::read_listings(text);
    }
}

/// An entry point.
pub type Target = fn(&[u8]);

/// Every entry point, by the name of its target and of its folders of seeds and findings.
pub const TARGETS: [(&str, Target); 10] = [
    ("picture", picture),
    ("request", request),
    ("headers", headers),
    ("condition", condition),
    ("settings", settings),
    ("control_record", control_record),
    ("pickle", pickle),
    ("safetensors", safetensors),
    ("tokenizer", tokenizer),
    ("listing", listing),
];

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn every_seed_and_every_finding_is_taken_or_refused() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (name, target) in TARGETS {
            let mut replayed = 0;
            for kind in ["seeds", "findings"] {
                let folder = root.join("fuzz").join(kind).join(name);
                let files = fs::read_dir(folder).into_iter().flatten().map(|file| file.unwrap().path());
                for file in files {
                    target(&fs::read(&file).unwrap());
                    replayed += 1;
                }
            }
            assert!(replayed > 0, "{name} has no seeds");
        }
        // The pictures of the cases are seeds too.
        let cases = fs::read_dir(root.join("testdata/cases/pictures")).unwrap();
        for file in cases.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap()) {
            picture(&fs::read(file.unwrap().path()).unwrap());
        }
    }
}
