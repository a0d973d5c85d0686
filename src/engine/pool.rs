//! Threads for forward passes on a CPU, a pool for each version that is loaded.

use std::sync::{Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// Pools of versions that are gone, kept for the next ones: every new thread would bring a heap of its own, and leave it
/// behind. There are at most as many as there were versions loaded at the same time.
static IDLE: Mutex<Vec<ThreadPool>> = Mutex::new(Vec::new());

/// A pool that is one version's alone for as long as it is loaded.
pub(super) struct Pool(Option<ThreadPool>);

impl Pool {
    /// A pool of so many threads; none for zero, and passes then run on the thread that asks.
    pub(super) fn new(threads: usize) -> Result<Self, ThreadPoolBuildError> {
        if threads == 0 {
            return Ok(Self(None));
        }
        let idle = {
            let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
            let found = idle.iter().position(|pool| pool.current_num_threads() == threads);
            found.map(|found| idle.swap_remove(found))
        };
        let start =
            || ThreadPoolBuilder::new().num_threads(threads).thread_name(|index| format!("pass-{index}")).build();
        Ok(Self(Some(idle.map_or_else(start, Ok)?)))
    }

    /// Runs on the pool's threads.
    pub(super) fn run<R: Send>(&self, run: impl FnOnce() -> R + Send) -> R {
        match &self.0 {
            Some(pool) => pool.install(run),
            None => run(),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(pool) = self.0.take() {
            IDLE.lock().unwrap_or_else(PoisonError::into_inner).push(pool);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_has_its_threads_and_the_next_version_gets_it() {
        // A size that no other test asks for.
        let names = || {
            let pool = Pool::new(3).unwrap();
            let threads = pool.run(rayon::current_num_threads);
            (threads, pool.run(|| std::thread::current().name().map(str::to_owned)), pool)
        };
        let (threads, name, first) = names();
        assert!(threads == 3 && name.is_some_and(|name| name.starts_with("pass-")));
        drop(first);
        let (_, _, second) = names();
        assert!(!IDLE.lock().unwrap().iter().any(|pool| pool.current_num_threads() == 3), "it was taken again");
        drop(second);
        assert_eq!(Pool::new(0).unwrap().run(|| 7), 7);
    }
}
