//! A file below a folder. A writer below the folder may swap files for links at any time, so nothing is looked at by
//! name and then opened by name again: the file is opened once, and what was opened is looked at.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Component, Path},
};

use rustix::{
    fs::{FileType, Mode, OFlags, fstat, open, openat},
    io::Errno,
};

use super::{Blame, FetchError};

/// A pipe or a device must not hold the thread: `NONBLOCK` opens a pipe without a writer.
const READING: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::CLOEXEC);

/// Reads a file below `root`, at most `bytes_max` bytes and one, by which the caller sees that it is longer.
///
/// # Errors
/// When the path leads out or to no ordinary file, the file is not there, or the machine cannot read it now.
pub fn read_beneath(root: &Path, path: &str, bytes_max: usize) -> Result<Vec<u8>, FetchError> {
    check(path)?;
    let folder = open(root, FOLDER, Mode::empty()).map_err(|error| {
        FetchError::new(Blame::Machine, format!("its root folder cannot be opened: {}", io::Error::from(error)))
    })?;
    let file = open_beneath(folder.as_fd(), path).map_err(blame)?;
    let kind = fstat(&file).map_err(blame)?;
    if FileType::from_raw_mode(kind.st_mode) != FileType::RegularFile {
        return Err(FetchError::new(Blame::Refused, "it leads to no ordinary file"));
    }
    let mut bytes = Vec::new();
    let limit = (bytes_max as u64).saturating_add(1);
    File::from(file).take(limit).read_to_end(&mut bytes).map_err(|error| match Errno::from_io_error(&error) {
        Some(error) => blame(error),
        None => FetchError::new(Blame::Machine, error.to_string()),
    })?;
    Ok(bytes)
}

/// Refuses a path by its letters alone, so that the answer says nothing about which files there are.
fn check(path: &str) -> Result<(), FetchError> {
    let refuse = |reason: &str| Err(FetchError::new(Blame::Refused, reason));
    if path.is_empty() {
        return refuse("it is empty");
    }
    if path.contains('\0') {
        return refuse("it holds a NUL character");
    }
    let leads_out = |part: Component<'_>| !matches!(part, Component::Normal(_) | Component::CurDir);
    if Path::new(path).components().any(leads_out) {
        return refuse("it must be relative to `images.path_root`, without `..`");
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn open_beneath(folder: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    use rustix::fs::{ResolveFlags, openat2};

    const TRIES: usize = 8;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 0;
    loop {
        match openat2(folder, path, READING, Mode::empty(), resolve) {
            // Something on the way was renamed meanwhile; somebody may do that all the time.
            Err(Errno::AGAIN) if tries < TRIES => tries += 1,
            // An old kernel, or a sandbox that does not know the call.
            Err(Errno::NOSYS | Errno::PERM) => return open_parts(folder, path),
            opened => return opened,
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn open_beneath(folder: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    open_parts(folder, path)
}

/// Opens a path part by part, and follows no link.
fn open_parts(folder: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    let mut parts = Path::new(path).components().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    let mut name = parts.next().ok_or(Errno::ISDIR)?;
    let mut opened: Option<OwnedFd> = None;
    loop {
        let here = opened.as_ref().map_or(folder, OwnedFd::as_fd);
        let Some(next) = parts.next() else {
            return openat(here, name, READING | OFlags::NOFOLLOW, Mode::empty());
        };
        opened = Some(openat(here, name, FOLDER | OFlags::NOFOLLOW, Mode::empty())?);
        name = next;
    }
}

/// What an error of the system says, and about whom.
fn blame(error: Errno) -> FetchError {
    let words = io::Error::from(error).to_string();
    match error {
        Errno::NOENT => FetchError::new(Blame::Moment, words),
        // openat2's word for a path that leads out.
        Errno::XDEV => FetchError::new(Blame::Refused, "it leads out of `images.path_root`"),
        // A pipe or a socket, opened for reading.
        Errno::NXIO | Errno::OPNOTSUPP => FetchError::new(Blame::Refused, "it leads to no ordinary file"),
        Errno::ISDIR => FetchError::new(Blame::Refused, "it leads to no ordinary file"),
        Errno::LOOP => {
            FetchError::new(Blame::Refused, "it leads through too many links, or a link that is not followed")
        }
        Errno::NAMETOOLONG | Errno::NOTDIR | Errno::INVAL | Errno::ACCESS | Errno::PERM => {
            FetchError::new(Blame::Request, words)
        }
        // Descriptors, memory, disks and shares: time helps, and the record is as good as any.
        _ => FetchError::new(Blame::Machine, words),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::symlink,
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use super::*;

    fn folders() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("a")).unwrap();
        fs::write(root.join("a/in.png"), b"inside").unwrap();
        fs::write(folder.path().join("out.png"), b"outside").unwrap();
        (folder, root)
    }

    #[test]
    fn files_and_links_below_the_root_are_read() {
        let (_folder, root) = folders();
        symlink("a/in.png", root.join("link")).unwrap();
        for path in ["a/in.png", "./a/in.png", "a//in.png", "link"] {
            assert_eq!(read_beneath(&root, path, 100).as_deref(), Ok(&b"inside"[..]), "{path}");
        }
        assert_eq!(read_beneath(&root, "a/in.png", 3).unwrap().len(), 4, "one more, by which the limit is seen");
    }

    #[test]
    fn what_leads_out_has_one_answer_whether_or_not_it_is_there() {
        let (folder, root) = folders();
        symlink("../out.png", root.join("link-there")).unwrap();
        symlink("../nothing.png", root.join("link-nowhere")).unwrap();
        symlink(folder.path().join("out.png"), root.join("link-absolute")).unwrap();
        symlink("..", root.join("a/up")).unwrap();
        let there = folder.path().join("out.png");
        let paths = [
            "../out.png",
            "../nothing.png",
            "a/../../out.png",
            "a/up/../out.png",
            there.to_str().unwrap(),
            "/nothing",
            "link-there",
            "link-nowhere",
            "link-absolute",
            "a/up/../../out.png",
            "a\0b",
            "",
            "..",
        ];
        for path in paths {
            let error = read_beneath(&root, path, 100).unwrap_err();
            assert_eq!(error.blame, Blame::Refused, "{path}: {error}");
        }
    }

    #[test]
    fn only_ordinary_files_are_read_and_a_pipe_holds_nothing_up() {
        let (_folder, root) = folders();
        rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        for path in ["pipe", "a", "socket"] {
            assert_eq!(read_beneath(&root, path, 100).unwrap_err().blame, Blame::Refused, "{path}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_yet_and_one_that_never_can_be_differ() {
        let (_folder, root) = folders();
        let long = "x".repeat(5_000);
        symlink("ring", root.join("ring")).unwrap();
        for (path, blame) in [
            ("nothing.png", Blame::Moment),
            ("b/nothing.png", Blame::Moment),
            ("a/in.png/x", Blame::Request),
            (long.as_str(), Blame::Request),
            ("ring", Blame::Refused),
        ] {
            assert_eq!(read_beneath(&root, path, 100).unwrap_err().blame, blame, "{path}");
        }
        assert_eq!(read_beneath(&root.join("gone"), "x", 100).unwrap_err().blame, Blame::Machine);
    }

    #[test]
    fn a_file_that_is_swapped_for_a_link_all_the_time_never_leads_out() {
        let (_folder, root) = folders();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    fs::write(root.join("new"), b"inside").unwrap();
                    fs::rename(root.join("new"), root.join("swap")).unwrap();
                    symlink("../out.png", root.join("new")).unwrap();
                    fs::rename(root.join("new"), root.join("swap")).unwrap();
                }
            });
            let root = &root;
            for part_by_part in [false, true] {
                for _ in 0..2_000 {
                    let read = if part_by_part {
                        let folder = open(root, FOLDER, Mode::empty()).unwrap();
                        let file = open_parts(folder.as_fd(), "swap");
                        file.ok().and_then(|file| {
                            let mut bytes = Vec::new();
                            File::from(file).read_to_end(&mut bytes).ok().map(|_| bytes)
                        })
                    } else {
                        read_beneath(root, "swap", 100).ok()
                    };
                    assert!(read.is_none_or(|bytes| bytes != b"outside"));
                }
            }
            over.store(true, Ordering::Relaxed);
        });
    }
}
