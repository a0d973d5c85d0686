//! Data sets as files.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::{Component, Path, PathBuf},
};

use super::{Example, Picture};
use crate::message::decode_base64;

/// A data set that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Disk {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A line is no example.
    #[error("{}:{line}: {reason}; a line is {EXPECTED}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// There is nothing in it.
    #[error("{} has no examples", .0.display())]
    Empty(PathBuf),
}

const EXPECTED: &str =
    r#"{"image": {"path": "images/1.png"} or {"base64": "…"}, "text": "…", "label": "yes", "no" or "maybe"}"#;

fn disk(path: &Path) -> impl FnOnce(io::Error) -> DatasetError {
    let path = path.to_owned();
    move |source| DatasetError::Disk { path, source }
}

/// Reads all examples of a file of JSON lines.
///
/// # Errors
/// Naming the line that is no example, and when there is none at all.
pub fn read(path: &Path) -> Result<Vec<Example>, DatasetError> {
    let lines = BufReader::new(File::open(path).map_err(disk(path))?).lines();
    let mut examples = Vec::new();
    for (index, line) in lines.enumerate() {
        let line = line.map_err(disk(path))?;
        if line.trim().is_empty() {
            continue;
        }
        let refuse = |reason: String| DatasetError::Line { path: path.to_owned(), line: index + 1, reason };
        let example: Example = serde_json::from_str(&line).map_err(|error| refuse(error.to_string()))?;
        if let Picture::Path(image) = &example.image
            && !Path::new(image).components().all(|part| matches!(part, Component::Normal(_)))
        {
            return Err(refuse(format!("`{image}` is no path below the folder of the data set")));
        }
        // Now, where the line is known, and not in the middle of a training.
        if let Picture::Base64(text) = &example.image
            && let Err(error) = decode_base64(text)
        {
            return Err(refuse(format!("`image.base64` is no base64: {error}")));
        }
        examples.push(example);
    }
    if examples.is_empty() { Err(DatasetError::Empty(path.to_owned())) } else { Ok(examples) }
}

/// Reads the pictures of a data set.
#[derive(Clone, Debug)]
pub struct Reader {
    folder: PathBuf,
}

impl Reader {
    /// Pictures below this folder.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The encoded bytes of an example's picture.
    ///
    /// # Errors
    /// When there is no such file, or it is no base64.
    pub fn bytes(&self, picture: &Picture) -> Result<Vec<u8>, DatasetError> {
        match picture {
            Picture::Path(name) => {
                let path = self.folder.join(name);
                fs::read(&path).map_err(disk(&path))
            }
            Picture::Base64(text) => decode_base64(text)
                .map_err(|error| disk(&self.folder)(io::Error::new(io::ErrorKind::InvalidData, error))),
        }
    }
}

/// Writes a data set: pictures below `images/`, and a file of lines for each split.
#[derive(Debug)]
pub struct Writer {
    folder: PathBuf,
    lines: BufWriter<File>,
    path: PathBuf,
}

impl Writer {
    /// Begins a split of this name.
    ///
    /// # Errors
    /// When the folder or file cannot be made.
    pub fn create(folder: &Path, split: &str) -> Result<Self, DatasetError> {
        let images = folder.join("images");
        fs::create_dir_all(&images).map_err(disk(&images))?;
        let path = folder.join(format!("{split}.jsonl"));
        let lines = BufWriter::new(File::create(&path).map_err(disk(&path))?);
        Ok(Self { folder: folder.to_owned(), lines, path })
    }

    /// Writes a picture, and says where examples find it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn picture(&self, name: &str, bytes: &[u8]) -> Result<Picture, DatasetError> {
        let name = format!("images/{name}");
        let path = self.folder.join(&name);
        fs::write(&path, bytes).map_err(disk(&path))?;
        Ok(Picture::Path(name))
    }

    /// Writes an example.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn example(&mut self, example: &Example) -> Result<(), DatasetError> {
        serde_json::to_writer(&mut self.lines, example)
            .map_err(io::Error::from)
            .and_then(|()| self.lines.write_all(b"\n"))
            .map_err(disk(&self.path))
    }

    /// Ends the split.
    ///
    /// # Errors
    /// When what was written does not reach the disk.
    pub fn finish(mut self) -> Result<(), DatasetError> {
        self.lines.flush().map_err(disk(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Label;

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::create(folder.path(), "train").unwrap();
        let image = writer.picture("1.png", b"bytes").unwrap();
        let example = Example {
            request_id: None,
            image: image.clone(),
            text: "a red circle".to_owned(),
            caption: None,
            description: None,
            explanation: None,
            label: Label::Maybe,
            kind: Some("colour".to_owned()),
        };
        writer.example(&example).unwrap();
        writer.finish().unwrap();
        assert_eq!(read(&folder.path().join("train.jsonl")).unwrap(), [example]);
        assert_eq!(Reader::new(folder.path()).bytes(&image).unwrap(), b"bytes");
    }

    #[test]
    fn reviewed_verdicts_are_examples_once_they_name_their_picture_and_label() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reviewed.jsonl");
        fs::write(
            &path,
            "{\"request_id\":\"r\",\"text\":\"a mug\",\"image\":{\"base64\":\"YQ\"},\"label\":\"no\",\"confidence\":0.4}\n\n",
        )
        .unwrap();
        let examples = read(&path).unwrap();
        assert_eq!(examples[0].label, Label::No);
        assert_eq!(Reader::new(folder.path()).bytes(&examples[0].image).unwrap(), b"a");
    }

    #[test]
    fn a_bad_line_is_named_with_what_a_line_should_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.jsonl");
        let good = "{\"image\":{\"path\":\"a.png\"},\"text\":\"a\",\"label\":\"yes\"}\n";
        for (bad, reason) in [
            (good.replace("yes", "perhaps"), "perhaps"),
            (good.replace("a.png", "../a.png"), "below the folder"),
            (good.replace("\"path\":\"a.png\"", "\"base64\":\"a*b\""), "base64"),
            ("{}\n".to_owned(), "image"),
        ] {
            fs::write(&path, format!("{good}{bad}")).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(
                error.contains("train.jsonl:2") && error.contains(reason) && error.contains("a line is"),
                "{error}"
            );
        }
        fs::write(&path, "").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("no examples"));
    }
}
