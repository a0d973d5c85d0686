//! Files that are read within a time. A share that hangs keeps the thread that reads, for which there is no remedy but to count
//! such threads: the pipeline's own threads go on.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crossbeam_channel::bounded;

use super::{Blame, FetchError, read_beneath};

/// Reads files below a folder.
#[derive(Clone, Debug)]
pub struct Files {
    reading: Arc<AtomicUsize>,
}

impl Default for Files {
    fn default() -> Self {
        Self { reading: Arc::new(AtomicUsize::new(0)) }
    }
}

/// How files are read.
#[derive(Clone, Debug)]
pub(super) struct Within {
    pub(super) timeout: Duration,
    pub(super) threads_max: usize,
}

/// One thread that reads, counted until it ends.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Files {
    /// Threads that read now, those that hang among them.
    pub fn reading(&self) -> usize {
        self.reading.load(Ordering::Acquire)
    }

    /// Reads a file below `root` as [`read_beneath`] does, within `timeout`. At most `threads_max` threads read at a time.
    ///
    /// # Errors
    /// As [`read_beneath`]; and when the time is over, or all threads hang.
    pub fn read(
        &self,
        root: &Path,
        path: &str,
        bytes_max: usize,
        timeout: Duration,
        threads_max: usize,
    ) -> Result<Vec<u8>, FetchError> {
        let (root, path) = (root.to_owned(), path.to_owned());
        self.within(&Within { timeout, threads_max }, move || read_beneath(&root, &path, bytes_max))
    }

    /// Runs `read` on a thread, and waits for it.
    pub(super) fn within(
        &self,
        within: &Within,
        read: impl FnOnce() -> Result<Vec<u8>, FetchError> + Send + 'static,
    ) -> Result<Vec<u8>, FetchError> {
        let counted = self.count(within.threads_max)?;
        let (sender, answer) = bounded(1);
        let reader = thread::Builder::new().name("read-file".to_owned()).spawn(move || {
            let _counted = counted;
            // The receiver has gone where the time was over.
            sender.send(read()).ok();
        });
        reader.map_err(|error| FetchError::new(Blame::Machine, format!("no thread to read it: {error}")))?;
        answer.recv_timeout(within.timeout).unwrap_or_else(|_| {
            let reason =
                format!("it could not be read within {} ms, `images.read_timeout_ms`", within.timeout.as_millis());
            Err(FetchError::new(Blame::Moment, reason))
        })
    }

    fn count(&self, threads_max: usize) -> Result<Counted, FetchError> {
        let before = self.reading.fetch_add(1, Ordering::AcqRel);
        let counted = Counted(self.reading.clone());
        if before < threads_max {
            Ok(counted)
        } else {
            let reason = format!("{threads_max} threads read files and do not come back, `images.read_threads_max`");
            Err(FetchError::new(Blame::Machine, reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_that_hangs_ends_for_its_caller_and_only_so_many_may_hang() {
        let files = Files::default();
        let within = Within { timeout: Duration::from_millis(20), threads_max: 2 };
        let (release, hang) = bounded::<()>(0);
        for expected in [Blame::Moment, Blame::Moment, Blame::Machine] {
            let hang = hang.clone();
            let read = files.within(&within, move || {
                hang.recv().ok();
                Ok(Vec::new())
            });
            assert_eq!(read.unwrap_err().blame, expected);
        }
        assert_eq!(files.reading(), 2);
        drop(release);
        while files.reading() > 0 {
            thread::yield_now();
        }
        assert_eq!(files.within(&within, || Ok(vec![1])), Ok(vec![1]));
    }
}
