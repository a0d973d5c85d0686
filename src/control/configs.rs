//! The configurations that this instance served, by digest: verdicts name a digest, and people ask later
//! what it was.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ControlError, Memory, command};
use crate::routing::Overrides;

/// A configuration that was served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServedConfig {
    /// SHA-256 of the configuration, as verdicts carry it.
    pub config_digest: String,
    /// When this instance first served it, RFC 3339.
    pub first_served_at: String,
    /// `file` or `applied`.
    pub source: String,
    /// The settings, without local sections.
    pub text: String,
    /// Changes of operators on top of them.
    #[schemars(with = "serde_json::Value")]
    pub overrides: Overrides,
}

/// One line of the list of configurations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigListing {
    /// SHA-256 of the configuration.
    pub config_digest: String,
    /// When this instance last began to serve it, RFC 3339.
    pub last_served_at: String,
}

/// The folder of configurations, with a bound.
#[derive(Clone, Debug)]
pub struct ConfigStore {
    folder: PathBuf,
    entries_max: usize,
}

/// Characters of a digest that a caller must give at least.
const PREFIX_MIN: usize = 4;
const ENDING: &str = "json";

impl ConfigStore {
    /// The folder `configs` in the folder of an instance.
    pub fn new(control_directory: &Path, entries_max: usize) -> Self {
        Self { folder: control_directory.join("configs"), entries_max }
    }

    /// Keeps what is served now, and drops the configurations that were served longest ago.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub(super) fn remember(&self, config_digest: &str, memory: &Memory) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let path = self.folder.join(format!("{}.{ENDING}", hexadecimal(config_digest)));
        if path.exists() {
            // Its time of change is when it was served last.
            return fs::File::options().write(true).open(&path)?.set_modified(SystemTime::now());
        }
        let desired = memory.desired();
        let config = ServedConfig {
            config_digest: config_digest.to_owned(),
            first_served_at: command::now(),
            source: if desired.config.is_some() { "applied" } else { "file" }.to_owned(),
            text: desired.config.unwrap_or_else(|| memory.file.followed.clone()),
            overrides: desired.overrides,
        };
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        serde_json::to_writer(&mut file, &config)?;
        file.persist(&path).map_err(|error| error.error)?;

        let mut entries = self.entries()?;
        while entries.len() > self.entries_max {
            let (_, oldest) = entries.remove(0);
            fs::remove_file(oldest)?;
        }
        Ok(())
    }

    /// The configurations, the latest first.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn list(&self) -> Result<Vec<ConfigListing>, ControlError> {
        let entries = self.entries().map_err(|error| self.unreadable(&error))?;
        let listing = |(served, path): &(SystemTime, PathBuf)| {
            let at = jiff::Timestamp::try_from(*served).ok()?;
            let digest = path.file_stem()?.to_str()?;
            Some(ConfigListing { config_digest: format!("sha256:{digest}"), last_served_at: format!("{at:.3}") })
        };
        Ok(entries.iter().rev().filter_map(listing).collect())
    }

    /// The configuration whose digest begins so.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn find(&self, digest: &str) -> Result<ServedConfig, ControlError> {
        let wanted = hexadecimal(digest);
        let entries = self.entries().map_err(|error| self.unreadable(&error))?;
        let fits = |path: &PathBuf| {
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            wanted.len() >= PREFIX_MIN && name.starts_with(&wanted)
        };
        let found: Vec<&PathBuf> = entries.iter().map(|(_, path)| path).filter(|path| fits(path)).collect();
        let [path] = found.as_slice() else {
            let known = self.list()?.into_iter().take(8).map(|listing| listing.config_digest).collect();
            return Err(ControlError::Unknown { kind: "configuration", name: digest.to_owned(), known });
        };
        let json = fs::read(path).map_err(|error| self.unreadable(&error))?;
        serde_json::from_slice(&json).map_err(|error| self.unreadable(&error.into()))
    }

    /// The files, those that were served longest ago first.
    fn entries(&self) -> io::Result<Vec<(SystemTime, PathBuf)>> {
        let folder = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            folder => folder?,
        };
        let mut entries = Vec::new();
        for entry in folder {
            let path = entry?.path();
            if path.extension().is_some_and(|ending| ending == ENDING) {
                entries.push((fs::metadata(&path)?.modified()?, path));
            }
        }
        entries.sort();
        Ok(entries)
    }

    fn unreadable(&self, error: &io::Error) -> ControlError {
        ControlError::Unreadable { place: self.folder.display().to_string(), reason: error.to_string() }
    }
}

/// The digits of a digest. Anything else in it would be a path.
fn hexadecimal(digest: &str) -> String {
    let digits = digest.strip_prefix("sha256:").unwrap_or(digest).chars();
    digits.filter(char::is_ascii_hexdigit).map(|digit| digit.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_found_by_the_beginning_of_their_digest_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let store = ConfigStore::new(folder.path(), 3);
        assert_eq!(store.list().unwrap(), []);
        for number in 0..5 {
            let memory = Memory::of_file(&format!("number = {number}"));
            store.remember(&format!("sha256:{number}abcdef"), &memory).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let digests: Vec<String> = store.list().unwrap().into_iter().map(|listing| listing.config_digest).collect();
        assert_eq!(digests, ["sha256:4abcdef", "sha256:3abcdef", "sha256:2abcdef"]);
        assert_eq!(store.find("3abc").unwrap().text, "number = 3\n");
        assert_eq!(store.find("sha256:4abcdef").unwrap().source, "file");
        // One that is served again is the latest.
        store.remember("sha256:2abcdef", &Memory::of_file("x = 1")).unwrap();
        assert_eq!(store.list().unwrap()[0].config_digest, "sha256:2abcdef");
        assert_eq!(store.find("2abc").unwrap().text, "number = 2\n", "the first text stays");
        for wrong in ["", "3", "ffff", "../../token", "0abcdef"] {
            assert_eq!(store.find(wrong).unwrap_err().code(), "unknown_name", "{wrong}");
        }
    }
}
