//! `Threads`: a few threads for blocking jobs, which exist only while there are jobs.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::sys::signal::block_all;

pub(crate) type ThreadJob = Box<dyn FnOnce() + Send>;

/// Threads that run jobs in order of arrival, a limited number at a time. The others wait.
pub(crate) struct Threads {
    name: &'static str,
    most: usize,
    state: Mutex<ThreadsState>,
}

struct ThreadsState {
    waiting: VecDeque<ThreadJob>,
    /// Number of threads; each is busy.
    threads: usize,
}

impl Threads {
    pub(crate) const fn new(name: &'static str, most: usize) -> Self {
        Self {
            name,
            most,
            state: Mutex::new(ThreadsState { waiting: VecDeque::new(), threads: 0 }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, ThreadsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of unfinished jobs.
    pub(crate) fn unfinished(&self) -> usize {
        let state = self.lock();
        state.threads + state.waiting.len()
    }

    /// Runs the job on a thread, as soon as one is free.
    ///
    /// # Errors
    ///
    /// Returns the job if there is no thread and none can be started.
    pub(crate) fn run(&'static self, job: ThreadJob) -> Result<(), (ThreadJob, io::Error)> {
        let mut state = self.lock();
        if state.threads < self.most {
            // It waits for the lock.
            match thread::Builder::new().name(self.name.to_owned()).spawn(|| self.work()) {
                Ok(_) => state.threads += 1,
                Err(error) if state.threads == 0 => return Err((job, error)),
                Err(_) => {}
            }
        }
        state.waiting.push_back(job);
        Ok(())
    }

    fn work(&self) {
        // Signals are for the thread that runs the master.
        let _ = block_all();
        while let Some(job) = self.next() {
            // The job reports its own outcome.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }

    fn next(&self) -> Option<ThreadJob> {
        let mut state = self.lock();
        let job = state.waiting.pop_front();
        if job.is_none() {
            state.threads -= 1;
        }
        job
    }
}
