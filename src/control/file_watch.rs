//! Polls the settings file. Its content decides, not file system events: editors, ConfigMaps and network file systems
//! replace a file in different ways.

use std::{fs, path::PathBuf};

/// Detects that a file has another content.
pub(super) struct FileWatch {
    path: PathBuf,
    known: String,
    /// The last content that differs from `known`. A file that is still being written changes again.
    seen: Option<String>,
    /// Consecutive polls at which it could not be read.
    failures: u32,
}

/// The result of a poll.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Poll {
    /// The known content.
    Same,
    /// Another content, the same at two polls.
    Another(String),
    /// It cannot be read for too long to be in the middle of a replacement. Returned once.
    Unreadable(String),
}

/// An editor or a ConfigMap has replaced the file by then.
const FAILURES_MAX: u32 = 10;

impl FileWatch {
    /// Watches a file whose content is known.
    pub(super) fn new(path: PathBuf, known: String) -> Self {
        Self { path, known, seen: None, failures: 0 }
    }

    /// Polls the file. A file that cannot be read may be in the middle of a replacement.
    pub(super) fn poll(&mut self) -> Poll {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) => {
                self.seen = None;
                self.failures = self.failures.saturating_add(1);
                return match self.failures == FAILURES_MAX {
                    true => Poll::Unreadable(error.to_string()),
                    false => Poll::Same,
                };
            }
        };
        // After `Unreadable`, the next content is reported even if it is the known one.
        let was_reported = self.failures >= FAILURES_MAX;
        let is_new = text != self.known || was_reported;
        if is_new && self.seen.as_ref() == Some(&text) {
            (self.seen, self.failures) = (None, 0);
            self.known.clone_from(&text);
            return Poll::Another(text);
        }
        if !was_reported {
            self.failures = 0;
        }
        self.seen = Some(text).filter(|_| is_new);
        Poll::Same
    }

    /// Reads the file now, whatever it was before.
    pub(super) fn read(&mut self) -> std::io::Result<String> {
        // After a failure the next content is reported, even if it is the known one.
        let text = fs::read_to_string(&self.path).inspect_err(|_| self.failures = self.failures.max(FAILURES_MAX))?;
        self.known.clone_from(&text);
        (self.seen, self.failures) = (None, 0);
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn another(text: &str) -> Poll {
        Poll::Another(text.to_owned())
    }

    fn watched() -> (tempfile::TempDir, FileWatch) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipeline.toml");
        fs::write(&path, "a").unwrap();
        (folder, FileWatch::new(path, "a".to_owned()))
    }

    #[test]
    fn a_change_is_reported_once_after_it_has_settled() {
        let (folder, mut watch) = watched();
        let path = folder.path().join("pipeline.toml");
        assert_eq!(watch.poll(), Poll::Same);
        fs::write(&path, "half").unwrap();
        assert_eq!(watch.poll(), Poll::Same);
        fs::write(&path, "half of it, and the rest").unwrap();
        assert_eq!(watch.poll(), Poll::Same, "it has changed since");
        assert_eq!(watch.poll(), another("half of it, and the rest"));
        assert_eq!(watch.poll(), Poll::Same);
        fs::write(&path, "b").unwrap();
        watch.poll();
        fs::write(&path, "half of it, and the rest").unwrap();
        assert_eq!((watch.poll(), watch.poll()), (Poll::Same, Poll::Same), "it is what it was");
    }

    #[test]
    fn editors_that_rename_and_config_maps_that_swap_links_are_noticed() {
        let (folder, mut watch) = watched();
        let path = folder.path().join("pipeline.toml");
        fs::remove_file(&path).unwrap();
        assert_eq!((watch.poll(), watch.poll()), (Poll::Same, Poll::Same), "between two contents");
        fs::write(folder.path().join("new"), "renamed").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!((watch.poll(), watch.poll()), (Poll::Same, another("renamed")));
        for (number, name) in ["..first", "..second"].into_iter().enumerate() {
            let data = folder.path().join(name);
            fs::create_dir(&data).unwrap();
            fs::write(data.join("pipeline.toml"), name).unwrap();
            let link = folder.path().join("..next");
            symlink(&data, &link).unwrap();
            fs::rename(&link, folder.path().join("..data")).unwrap();
            if number == 0 {
                fs::remove_file(&path).unwrap();
                symlink("..data/pipeline.toml", &path).unwrap();
            }
            assert_eq!((watch.poll(), watch.poll()), (Poll::Same, another(name)));
        }
    }

    #[test]
    fn a_missing_file_is_reported_once_and_again_when_it_is_back() {
        let (folder, mut watch) = watched();
        let path = folder.path().join("pipeline.toml");
        fs::remove_file(&path).unwrap();
        let mut polls: Vec<Poll> = (0..30).map(|_| watch.poll()).collect();
        polls.retain(|poll| *poll != Poll::Same);
        assert!(matches!(&polls[..], [Poll::Unreadable(_)]), "{polls:?}");
        fs::write(&path, "a").unwrap();
        assert_eq!((watch.poll(), watch.poll(), watch.poll()), (Poll::Same, another("a"), Poll::Same));
    }
}
