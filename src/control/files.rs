//! The folder in which an instance keeps what operators changed: `state.json`, `audit.jsonl`, `token`.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{ControlError, State};
use crate::settings::Secret;

/// The file with the token of the admin API.
pub const TOKEN: &str = "token";
const STATE: &str = "state.json";
const AUDIT: &str = "audit.jsonl";
const LOCK: &str = "lock";
/// Larger than this, the audit log is put aside under another name, and the one before it forgotten.
const AUDIT_BYTES_MAX: u64 = 10 << 20;
const TOKEN_BYTES: usize = 24;

/// The folder, open to its owner alone.
#[derive(Clone, Debug)]
pub struct Files {
    folder: PathBuf,
    /// Keeps other instances out for as long as this lives: two would take each other's changes for their own.
    _lock: Arc<File>,
}

/// What the state file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) state: State,
    /// What counted of the control topic, as it was read: `state` may differ by what is known here alone.
    #[serde(default)]
    pub(super) agreed: Option<State>,
    /// Whether a record with the number of `state` could not be read, and `state` is older.
    #[serde(default)]
    pub(super) unread: bool,
    /// The settings file that served, to notice that it was changed while the program was down.
    pub(super) file: String,
    /// The group that it is the state of.
    #[serde(default)]
    pub(super) group: String,
    /// The control topic whose numbers the state has; empty where there was none.
    #[serde(default)]
    pub(super) topic: String,
    /// Whether the file has become what was applied, so that it is followed again.
    #[serde(default)]
    pub(super) reverted: bool,
    /// The applied settings that the file has become, and then something else, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) overtaken: Option<String>,
}

impl Files {
    /// Opens the folder; makes it where it is not there.
    ///
    /// # Errors
    /// When it cannot be written to.
    pub fn open(folder: &Path) -> Result<Self, ControlError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        let opened = made.and_then(|()| {
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(folder.join(LOCK))
        });
        let lock = opened.map_err(|error| {
            let remedy = "`control.directory` must be a folder that can be written to, or \"off\"";
            refuse(folder, format!("{error}: {remedy}"))
        })?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { folder: folder.to_owned(), _lock: Arc::new(lock) }),
            Err(TryLockError::WouldBlock) => Err(ControlError::InUse(folder.display().to_string())),
            Err(TryLockError::Error(error)) => Err(refuse(folder, error)),
        }
    }

    /// What was saved; nothing at the first start.
    ///
    /// # Errors
    /// When it cannot be read, because starting without it would undo what an operator did; and when it is another group's.
    pub(super) fn load(&self, group: &str) -> Result<Option<Saved>, ControlError> {
        let json = match fs::read(self.folder.join(STATE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| self.refuse(STATE, error))?,
        };
        let remedy = "remove it to start with the settings file alone";
        let saved: Saved =
            serde_json::from_slice(&json).map_err(|error| self.refuse(STATE, format!("{error}; {remedy}")))?;
        if !saved.group.is_empty() && saved.group != group {
            let reason = format!("it is the state of the group `{}`, and this is `{group}`; {remedy}", saved.group);
            return Err(self.refuse(STATE, reason));
        }
        Ok(Some(saved))
    }

    /// Saves, so that whatever happens meanwhile the old or the new is there.
    pub(super) fn save(&self, saved: &Saved) -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".state").tempfile_in(&self.folder)?;
        file.write_all(&serde_json::to_vec(saved)?)?;
        file.as_file().sync_all()?;
        file.persist(self.folder.join(STATE)).map(drop).map_err(|error| error.error)
    }

    /// Adds a line to the audit log.
    pub(super) fn audit(&self, line: &impl Serialize) -> io::Result<()> {
        let path = self.folder.join(AUDIT);
        if fs::metadata(&path).is_ok_and(|file| file.len() > AUDIT_BYTES_MAX) {
            fs::rename(&path, path.with_extension("1.jsonl"))?;
        }
        let mut file = OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(&path)?;
        let mut json = Vec::new();
        // A line that a full disk has torn must not take this one along.
        if ends_within_a_line(&file)? {
            json.push(b'\n');
        }
        json.extend(serde_json::to_vec(line)?);
        json.push(b'\n');
        // In one piece, so that a line is there whole or not at all.
        file.write_all(&json)
    }

    /// The last lines of the audit log, the latest first.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn audited(&self, lines_max: usize) -> Result<Vec<serde_json::Value>, ControlError> {
        let current = self.folder.join(AUDIT);
        let mut lines = Vec::new();
        // Right after the file was put aside the last lines are in the other one.
        for path in [current.clone(), current.with_extension("1.jsonl")] {
            let bytes = match fs::read(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                read => read.map_err(|error| self.refuse(AUDIT, error))?,
            };
            let text = String::from_utf8_lossy(&bytes);
            let newest_first = text.lines().rev().filter_map(|line| serde_json::from_str(line).ok());
            lines.extend(newest_first.take(lines_max - lines.len()));
            if lines.len() >= lines_max {
                break;
            }
        }
        Ok(lines)
    }

    /// The token of the admin API: the one that is there, or a new one that only the owner can read.
    ///
    /// # Errors
    /// When it can be neither read nor made.
    pub fn token(&self) -> Result<Secret, ControlError> {
        let path = self.folder.join(TOKEN);
        match fs::read_to_string(&path) {
            Ok(text) if text.trim().len() >= TOKEN_BYTES => return Ok(Secret::new(text.trim().to_owned())),
            // A full disk has left it so.
            Ok(text) if text.is_empty() => {}
            Ok(_) => return Err(self.refuse(TOKEN, "it is too short; remove it to have another one made")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(self.refuse(TOKEN, error)),
        }
        let mut bytes = [0; TOKEN_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| self.refuse(TOKEN, error))?;
        let token = hex::encode(bytes);
        self.write_token(&token).map_err(|error| self.refuse(TOKEN, format!("it cannot be written: {error}")))?;
        Ok(Secret::new(token))
    }

    /// Writes the token to a temporary file and renames it, so that no reader sees a part of it. Only its owner may read it.
    fn write_token(&self, token: &str) -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".token").tempfile_in(&self.folder)?;
        writeln!(file, "{token}")?;
        file.as_file().sync_all()?;
        file.persist(self.folder.join(TOKEN)).map(drop).map_err(|error| error.error)
    }

    fn refuse(&self, file: &str, reason: impl std::fmt::Display) -> ControlError {
        refuse(&self.folder.join(file), reason)
    }
}

/// Whether the last line of a file has no end.
fn ends_within_a_line(file: &File) -> io::Result<bool> {
    let Some(last) = file.metadata()?.len().checked_sub(1) else { return Ok(false) };
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    Ok(byte != *b"\n")
}

fn refuse(place: &Path, reason: impl std::fmt::Display) -> ControlError {
    ControlError::Unreadable { place: place.display().to_string(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_saved_is_loaded_again_and_what_is_broken_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::open(&folder.path().join("inner")).unwrap();
        assert_eq!(files.load("group").unwrap(), None);
        let state = State { revision: 7, ..State::default() };
        let saved = Saved { state, file: "text".to_owned(), group: "group".to_owned(), ..Saved::default() };
        files.save(&saved).unwrap();
        let another = files.load("another").unwrap_err().to_string();
        assert!(another.contains("`group`") && another.contains("remove it"), "{another}");
        assert_eq!(files.load("group").unwrap(), Some(saved));
        fs::write(folder.path().join("inner/state.json"), "{").unwrap();
        let error = files.load("group").unwrap_err().to_string();
        assert!(error.contains("state.json") && error.contains("remove it"), "{error}");
    }

    #[test]
    fn a_token_is_made_once_for_the_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::open(folder.path()).unwrap();
        let token = files.token().unwrap();
        assert_eq!(token.reveal().len(), 48);
        assert_eq!(files.token().unwrap(), token);
        let mode = fs::metadata(folder.path().join(TOKEN)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(Files::open(other.path()).unwrap().token().unwrap(), token);
        fs::write(folder.path().join(TOKEN), "short").unwrap();
        assert!(files.token().is_err());
        fs::write(folder.path().join(TOKEN), "").unwrap();
        assert_eq!(files.token().unwrap().reveal().len(), 48, "one that a full disk left empty is made again");
    }

    #[test]
    fn a_torn_line_of_the_audit_log_costs_that_line() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::open(folder.path()).unwrap();
        files.audit(&1).unwrap();
        let mut file = OpenOptions::new().append(true).open(folder.path().join(AUDIT)).unwrap();
        file.write_all(b"{\"number\":").unwrap();
        files.audit(&2).unwrap();
        files.audit(&3).unwrap();
        assert_eq!(files.audited(9).unwrap(), [3, 2, 1].map(|number| serde_json::json!(number)));
    }

    #[test]
    fn the_audit_log_gives_its_last_lines_first_and_stays_within_its_bound() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::open(folder.path()).unwrap();
        assert_eq!(files.audited(5).unwrap().len(), 0);
        (0..9).for_each(|number| files.audit(&serde_json::json!({ "number": number })).unwrap());
        let numbers: Vec<i64> = files.audited(3).unwrap().iter().map(|line| line["number"].as_i64().unwrap()).collect();
        assert_eq!(numbers, [8, 7, 6]);
        files.audit(&"x".repeat(AUDIT_BYTES_MAX as usize)).unwrap();
        files.audit(&1).unwrap();
        assert_eq!(files.audited(1).unwrap(), [serde_json::json!(1)]);
        assert_eq!(files.audited(3).unwrap()[2]["number"], 8, "those that were put aside follow");
        assert!(folder.path().join("audit.1.jsonl").exists());
    }

    #[test]
    fn a_folder_is_one_instance_s_for_as_long_as_it_runs() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::open(folder.path()).unwrap();
        let error = Files::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("another instance"), "{error}");
        drop(files.clone());
        assert!(Files::open(folder.path()).is_err(), "while one of them lives");
        drop(files);
        Files::open(folder.path()).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Files::open(&file.join("inner")).unwrap_err().to_string();
        assert!(error.contains("control.directory"), "{error}");
    }
}
