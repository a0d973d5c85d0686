//! The settings file, looked at. Its content counts, not the notices of the system: editors, ConfigMaps and network
//! file systems each replace a file in their own way, and all of them change what can be read there.

use std::{fs, path::PathBuf};

/// Notices that a file has become another.
pub(super) struct FileWatch {
    path: PathBuf,
    known: String,
    /// What was seen last, where it is not yet known: a file that is still being written changes again.
    seen: Option<String>,
    /// Looks in a row at which it could not be read.
    blind: u32,
}

/// What a look at the file shows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing that is not known.
    Same,
    /// Another content, which has stayed the same since the last look.
    Another(String),
    /// It cannot be read for so long that nobody is just replacing it; told once.
    Unreadable(String),
}

/// An editor or a ConfigMap has replaced a file by then.
const BLIND_MAX: u32 = 10;

impl FileWatch {
    /// Watches a file whose content is known.
    pub(super) fn new(path: PathBuf, known: String) -> Self {
        Self { path, known, seen: None, blind: 0 }
    }

    /// Looks. A file that cannot be read is between two contents, unless it stays so.
    pub(super) fn look(&mut self) -> Look {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) => {
                self.seen = None;
                self.blind = self.blind.saturating_add(1);
                return match self.blind == BLIND_MAX {
                    true => Look::Unreadable(error.to_string()),
                    false => Look::Same,
                };
            }
        };
        // Whoever was told that it cannot be read is told what it says, though that be known.
        let was_told = self.blind >= BLIND_MAX;
        let is_new = text != self.known || was_told;
        if is_new && self.seen.as_ref() == Some(&text) {
            (self.seen, self.blind) = (None, 0);
            self.known.clone_from(&text);
            return Look::Another(text);
        }
        if !was_told {
            self.blind = 0;
        }
        self.seen = Some(text).filter(|_| is_new);
        Look::Same
    }

    /// Reads the file now, whatever it was before.
    pub(super) fn read(&mut self) -> std::io::Result<String> {
        // Whoever is told that it cannot be read is told what it says, once it can.
        let text = fs::read_to_string(&self.path).inspect_err(|_| self.blind = self.blind.max(BLIND_MAX))?;
        self.known.clone_from(&text);
        (self.seen, self.blind) = (None, 0);
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn another(text: &str) -> Look {
        Look::Another(text.to_owned())
    }

    fn watched() -> (tempfile::TempDir, FileWatch) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipeline.toml");
        fs::write(&path, "a").unwrap();
        (folder, FileWatch::new(path, "a".to_owned()))
    }

    #[test]
    fn a_change_is_told_once_when_it_has_settled() {
        let (folder, mut watch) = watched();
        let path = folder.path().join("pipeline.toml");
        assert_eq!(watch.look(), Look::Same);
        fs::write(&path, "half").unwrap();
        assert_eq!(watch.look(), Look::Same);
        fs::write(&path, "half of it, and the rest").unwrap();
        assert_eq!(watch.look(), Look::Same, "it has changed since");
        assert_eq!(watch.look(), another("half of it, and the rest"));
        assert_eq!(watch.look(), Look::Same);
        fs::write(&path, "b").unwrap();
        watch.look();
        fs::write(&path, "half of it, and the rest").unwrap();
        assert_eq!((watch.look(), watch.look()), (Look::Same, Look::Same), "it is what it was");
    }

    #[test]
    fn editors_that_rename_and_config_maps_that_swap_links_are_noticed() {
        let (folder, mut watch) = watched();
        let path = folder.path().join("pipeline.toml");
        fs::remove_file(&path).unwrap();
        assert_eq!((watch.look(), watch.look()), (Look::Same, Look::Same), "between two contents");
        fs::write(folder.path().join("new"), "renamed").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!((watch.look(), watch.look()), (Look::Same, another("renamed")));
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
            assert_eq!((watch.look(), watch.look()), (Look::Same, another(name)));
        }
    }

    #[test]
    fn a_file_that_stays_away_is_told_once_and_told_again_when_it_is_back_whatever_it_says() {
        let (folder, mut watch) = watched();
        let path = folder.path().join("pipeline.toml");
        fs::remove_file(&path).unwrap();
        let mut looks: Vec<Look> = (0..30).map(|_| watch.look()).collect();
        looks.retain(|look| *look != Look::Same);
        assert!(matches!(&looks[..], [Look::Unreadable(_)]), "{looks:?}");
        fs::write(&path, "a").unwrap();
        assert_eq!((watch.look(), watch.look(), watch.look()), (Look::Same, another("a"), Look::Same));
    }
}
