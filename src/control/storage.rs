//! The folder in which an instance keeps its state: `state.json`, `audit.jsonl`, `token`, `lock`.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Serialize;

use super::{ControlError, Memory, state_file};

/// The file with the token of the admin API.
pub const TOKEN: &str = "token";
const STATE: &str = "state.json";
const AUDIT: &str = "audit.jsonl";
const LOCK: &str = "lock";
/// At this size the audit log is renamed to `audit.1.jsonl`, which replaces the one before.
const AUDIT_BYTES_MAX: u64 = 10 << 20;
const TOKEN_BYTES: usize = 24;

/// The folder, open to its owner alone.
#[derive(Clone, Debug)]
pub struct Storage {
    folder: PathBuf,
    /// Keeps other instances out while this lives. Two would overwrite each other's state.
    _lock: Arc<File>,
}

impl Storage {
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

    /// The saved memory; none at the first start.
    ///
    /// # Errors
    /// When it cannot be read, because a start without it would undo what an operator did; and when it
    /// belongs to another group.
    pub(super) fn load(&self, group: &str) -> Result<Option<Memory>, ControlError> {
        let json = match fs::read(self.folder.join(STATE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| self.refuse(STATE, error))?,
        };
        let remedy = "remove it to start with the settings file alone";
        let memory = state_file::read(&json).map_err(|error| self.refuse(STATE, format!("{error}; {remedy}")))?;
        if !memory.group.is_empty() && memory.group != group {
            let reason = format!("it is the state of the group `{}`, and this is `{group}`; {remedy}", memory.group);
            return Err(self.refuse(STATE, reason));
        }
        Ok(Some(memory))
    }

    /// Saves the memory. After a crash the old or the new file is there, never a part. Without a control topic this is the only copy,
    /// so it must also survive a loss of power right now.
    pub(super) fn save(&self, memory: &Memory) -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".state").tempfile_in(&self.folder)?;
        file.write_all(&state_file::write(memory))?;
        file.as_file().sync_all()?;
        file.persist(self.folder.join(STATE)).map_err(|error| error.error)?;
        if memory.topic.is_empty() {
            File::open(&self.folder)?.sync_all()?;
        }
        Ok(())
    }

    /// Adds a line to the audit log.
    pub(super) fn audit(&self, line: &impl Serialize) -> io::Result<()> {
        let path = self.folder.join(AUDIT);
        if fs::metadata(&path).is_ok_and(|file| file.len() > AUDIT_BYTES_MAX) {
            fs::rename(&path, path.with_extension("1.jsonl"))?;
        }
        let mut file = OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(&path)?;
        let mut json = Vec::new();
        // A full disk may have torn the last line. This one must not be joined to it.
        if ends_within_a_line(&file)? {
            json.push(b'\n');
        }
        json.extend(serde_json::to_vec(line)?);
        json.push(b'\n');
        // One write, so that a line is complete or absent.
        file.write_all(&json)
    }

    /// The last lines of the audit log, the latest first.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn audited(&self, lines_max: usize) -> Result<Vec<serde_json::Value>, ControlError> {
        let current = self.folder.join(AUDIT);
        let mut lines = Vec::new();
        // Right after the rename the last lines are in the other file.
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

    /// The file with the token of the admin API. Makes one that only its owner can read, if there is none.
    ///
    /// # Errors
    /// When it can be neither read nor made.
    pub fn token(&self) -> Result<PathBuf, ControlError> {
        let path = self.folder.join(TOKEN);
        match fs::read_to_string(&path) {
            Ok(text) if text.trim().len() >= TOKEN_BYTES => return Ok(path),
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
        Ok(path)
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
    use crate::control::GroupState;

    #[test]
    fn a_saved_state_is_loaded_and_a_broken_one_refused() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::open(&folder.path().join("inner")).unwrap();
        assert_eq!(storage.load("group").unwrap(), None);
        let accepted = GroupState { revision: 7, ..GroupState::default() };
        let saved = Memory { accepted, group: "group".to_owned(), ..Memory::of_file("a = 1") };
        storage.save(&saved).unwrap();
        let another = storage.load("another").unwrap_err().to_string();
        assert!(another.contains("`group`") && another.contains("remove it"), "{another}");
        assert_eq!(storage.load("group").unwrap(), Some(saved));
        fs::write(folder.path().join("inner/state.json"), "{").unwrap();
        let error = storage.load("group").unwrap_err().to_string();
        assert!(error.contains("state.json") && error.contains("remove it"), "{error}");
    }

    #[test]
    fn a_token_is_made_once_for_the_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::open(folder.path()).unwrap();
        let token = || fs::read_to_string(storage.token().unwrap()).unwrap().trim().to_owned();
        let first = token();
        assert_eq!((first.len(), token()), (48, first.clone()));
        let mode = fs::metadata(folder.path().join(TOKEN)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let other = tempfile::tempdir().unwrap();
        let other = fs::read_to_string(Storage::open(other.path()).unwrap().token().unwrap()).unwrap();
        assert_ne!(other.trim(), first);
        fs::write(folder.path().join(TOKEN), "short").unwrap();
        assert!(storage.token().is_err());
        fs::write(folder.path().join(TOKEN), "").unwrap();
        assert_eq!(token().len(), 48, "one that a full disk left empty is made again");
    }

    #[test]
    fn a_torn_line_of_the_audit_log_costs_that_line() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::open(folder.path()).unwrap();
        storage.audit(&1).unwrap();
        let mut file = OpenOptions::new().append(true).open(folder.path().join(AUDIT)).unwrap();
        file.write_all(b"{\"number\":").unwrap();
        storage.audit(&2).unwrap();
        storage.audit(&3).unwrap();
        assert_eq!(storage.audited(9).unwrap(), [3, 2, 1].map(|number| serde_json::json!(number)));
    }

    #[test]
    fn the_audit_log_gives_its_last_lines_first_and_stays_within_its_bound() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::open(folder.path()).unwrap();
        assert_eq!(storage.audited(5).unwrap().len(), 0);
        (0..9).for_each(|number| storage.audit(&serde_json::json!({ "number": number })).unwrap());
        let numbers: Vec<i64> =
            storage.audited(3).unwrap().iter().map(|line| line["number"].as_i64().unwrap()).collect();
        assert_eq!(numbers, [8, 7, 6]);
        storage.audit(&"x".repeat(AUDIT_BYTES_MAX as usize)).unwrap();
        storage.audit(&1).unwrap();
        assert_eq!(storage.audited(1).unwrap(), [serde_json::json!(1)]);
        assert_eq!(storage.audited(3).unwrap()[2]["number"], 8, "those that were put aside follow");
        assert!(folder.path().join("audit.1.jsonl").exists());
    }

    #[test]
    fn a_folder_belongs_to_one_running_instance() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::open(folder.path()).unwrap();
        let error = Storage::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("another instance"), "{error}");
        drop(storage.clone());
        assert!(Storage::open(folder.path()).is_err(), "while one of them lives");
        drop(storage);
        Storage::open(folder.path()).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Storage::open(&file.join("inner")).unwrap_err().to_string();
        assert!(error.contains("control.directory"), "{error}");
    }
}
