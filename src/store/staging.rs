//! A folder beside the versions, in which a new one grows until it is whole.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use crate::message::VersionName;

/// Disk trouble on the way to a version folder.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// A file or folder cannot be made, written or moved.
    #[error("{}: {source}", path.display())]
    Disk {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is such a version already.
    #[error("{} is there already: choose another name, or add --replace", .0.display())]
    Exists(PathBuf),
    /// Another process is changing the same folder of versions.
    #[error("another process is changing {} right now: try again when it has finished", .0.display())]
    Busy(PathBuf),
    /// The user asked to stop.
    #[error("cancelled; no version was changed")]
    Cancelled,
}

pub(super) fn disk(path: &Path) -> impl FnOnce(io::Error) -> StagingError {
    let path = path.to_owned();
    move |source| StagingError::Disk { path, source }
}

/// Long work as those outside see it: how far it is, and whether it should stop.
#[derive(Clone, Copy)]
pub struct Watch<'w> {
    /// Called with the bytes done and the bytes there are.
    pub progress: &'w (dyn Fn(u64, u64) + Sync),
    /// Set to stop.
    pub cancelled: &'w AtomicBool,
}

impl Watch<'_> {
    pub(super) fn check(&self) -> Result<(), StagingError> {
        match self.cancelled.load(Ordering::Relaxed) {
            true => Err(StagingError::Cancelled),
            false => Ok(()),
        }
    }
}

const LOCK: &str = ".lock";

/// Taken by whoever changes a folder of versions; given back when dropped, and by the system when its
/// process dies.
pub(super) struct ModelsLock(#[expect(dead_code, reason = "held for its lock")] File);

impl ModelsLock {
    pub(super) fn take(models: &Path) -> Result<Self, StagingError> {
        fs::create_dir_all(models).map_err(disk(models))?;
        Ok(Self(locked(&models.join(LOCK), models)?))
    }
}

/// Takes a lock file; `what` is what it guards.
pub(super) fn locked(path: &Path, what: &Path) -> Result<File, StagingError> {
    let file = File::create(path).map_err(disk(path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StagingError::Busy(what.to_owned())),
        Err(TryLockError::Error(error)) => Err(disk(path)(error)),
    }
}

/// The growing folder; removed when dropped.
pub(super) struct Staging {
    folder: PathBuf,
    target: PathBuf,
    replace: bool,
    _lock: ModelsLock,
}

impl Staging {
    /// Makes the folder for a version of `models`, and clears up what a killed process may have left.
    pub(super) fn new(models: &Path, name: &VersionName, replace: bool) -> Result<Self, StagingError> {
        let target = models.join(name.as_str());
        let lock = ModelsLock::take(models)?;
        clear_up(models)?;
        if !replace && target.exists() {
            return Err(StagingError::Exists(target));
        }
        let folder = models.join(format!("{IMPORTING}{name}"));
        fs::create_dir(&folder).map_err(disk(&folder))?;
        Ok(Self { folder, target, replace, _lock: lock })
    }

    /// Where files are put.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Moves the folder to its place. A version that is replaced is moved aside before and removed
    /// after; a process killed between the two moves leaves it aside, where the next import finds it.
    pub(super) fn publish(self) -> Result<PathBuf, StagingError> {
        sync(&self.folder)?;
        let aside = self.target.with_file_name(format!("{REPLACED}{}", file_name(&self.target)));
        if self.target.exists() {
            if !self.replace {
                return Err(StagingError::Exists(self.target.clone()));
            }
            fs::rename(&self.target, &aside).map_err(disk(&self.target))?;
        }
        if let Err(error) = fs::rename(&self.folder, &self.target) {
            // The old one goes back; where even that fails, the next import puts it there.
            fs::rename(&aside, &self.target).ok();
            return Err(disk(&self.target)(error));
        }
        // The new version is in its place: what fails from here on is put right by the next import.
        if let Some(models) = self.target.parent() {
            sync(models).ok();
        }
        remove_all(&aside).ok();
        Ok(self.target.clone())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After publishing there is nothing left here, and the lock keeps others from making it anew.
        fs::remove_dir_all(&self.folder).ok();
    }
}

const IMPORTING: &str = ".importing-";
const REPLACED: &str = ".replaced-";
const REMOVED: &str = ".removed-";

/// Brings a folder of versions to where a killed process would have brought it: a version that was moved
/// aside goes back where its place is empty, and whatever else was begun is removed. Needs the lock.
fn clear_up(models: &Path) -> Result<(), StagingError> {
    for entry in fs::read_dir(models).map_err(disk(models))? {
        let path = entry.map_err(disk(models))?.path();
        let name = file_name(&path);
        let place = name.strip_prefix(REPLACED).map(|version| models.join(version));
        match place {
            Some(place) if !place.exists() => fs::rename(&path, &place).map_err(disk(&place))?,
            Some(_) => remove_all(&path)?,
            None if name.starts_with(IMPORTING) || name.starts_with(REMOVED) => remove_all(&path)?,
            None => {}
        }
    }
    Ok(())
}

/// Writes a file that is on the disk when this returns.
pub(super) fn write_synced(path: &Path, content: &[u8]) -> Result<(), StagingError> {
    let written = File::create(path).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    written.map_err(disk(path))
}

/// Removes a version so that nobody sees half of it: renamed first, then deleted.
pub(super) fn remove(version: &Path) -> Result<(), StagingError> {
    let _lock = ModelsLock::take(version.parent().unwrap_or(Path::new(".")))?;
    let aside = version.with_file_name(format!("{REMOVED}{}", file_name(version)));
    remove_all(&aside)?;
    fs::rename(version, &aside).map_err(disk(version))?;
    remove_all(&aside)
}

fn remove_all(folder: &Path) -> Result<(), StagingError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk(folder)(error)),
        _ => Ok(()),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A renamed folder is on the disk only when the folder around it is.
fn sync(folder: &Path) -> Result<(), StagingError> {
    File::open(folder).and_then(|opened| opened.sync_all()).map_err(disk(folder))
}
