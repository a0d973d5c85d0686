//! The settings file, looked at. Its content counts, not the notices of the system: editors, ConfigMaps and network
//! file systems each replace a file in their own way, and all of them change what can be read there.

use std::{fs, path::PathBuf};

/// Notices that a file has become another.
pub(super) struct FileWatch {
    path: PathBuf,
    known: String,
    /// What was seen last, where it is not yet known: a file that is still being written changes again.
    seen: Option<String>,
}

impl FileWatch {
    /// Watches a file whose content is known.
    pub(super) fn new(path: PathBuf, known: String) -> Self {
        Self { path, known, seen: None }
    }

    /// Looks; gives the content when it is another than the known one and has stayed the same since the last look. A
    /// file that cannot be read is between two contents.
    pub(super) fn look(&mut self) -> Option<String> {
        let text = fs::read_to_string(&self.path).ok().filter(|text| *text != self.known);
        let settled = text.is_some() && text == self.seen;
        self.seen.clone_from(&text);
        let text = text.filter(|_| settled)?;
        self.known.clone_from(&text);
        Some(text)
    }

    /// Reads the file now, whatever it was before.
    pub(super) fn read(&mut self) -> std::io::Result<String> {
        let text = fs::read_to_string(&self.path)?;
        self.known.clone_from(&text);
        self.seen = None;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

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
        assert_eq!(watch.look(), None);
        fs::write(&path, "half").unwrap();
        assert_eq!(watch.look(), None);
        fs::write(&path, "half of it, and the rest").unwrap();
        assert_eq!(watch.look(), None, "it has changed since");
        assert_eq!(watch.look().as_deref(), Some("half of it, and the rest"));
        assert_eq!(watch.look(), None);
        fs::write(&path, "b").unwrap();
        watch.look();
        fs::write(&path, "half of it, and the rest").unwrap();
        assert_eq!((watch.look(), watch.look()), (None, None), "it is what it was");
    }

    #[test]
    fn editors_that_rename_and_config_maps_that_swap_links_are_noticed() {
        let (folder, mut watch) = watched();
        let path = folder.path().join("pipeline.toml");
        fs::remove_file(&path).unwrap();
        assert_eq!((watch.look(), watch.look()), (None, None), "between two contents");
        fs::write(folder.path().join("new"), "renamed").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!((watch.look(), watch.look().as_deref()), (None, Some("renamed")));
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
            assert_eq!((watch.look(), watch.look().as_deref()), (None, Some(name)));
        }
    }
}
