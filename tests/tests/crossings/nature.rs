//! What nobody orders: processes die, hang and stand still.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use release_tests::{Process, eventually};

use super::journal::{Cause, Journal, NOBODY};
use super::random::Random;
use super::subject::Service;

/// The kinds of mishap in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Nothing happens: nothing may be lost and nothing may fail.
    Calm,
    /// Processes stand still for a moment: nothing may be lost.
    Slow,
    /// Workers are killed as well: what they had in hand is lost.
    Deadly,
}

/// Lets things happen until the operators have finished.
#[derive(Debug)]
pub(crate) struct Nature<'a> {
    pub(crate) service: &'a Service,
    pub(crate) journal: &'a Journal,
    pub(crate) mood: Mood,
    pub(crate) random: Random,
    pub(crate) is_over: &'a AtomicBool,
    pub(crate) killed: &'a AtomicUsize,
}

impl Nature<'_> {
    pub(crate) fn run(mut self) {
        while !self.is_over.load(Ordering::Relaxed) {
            self.pause(400);
            match (self.mood, self.random.below(6)) {
                (Mood::Calm, _) => {}
                (Mood::Deadly, 0) => self.kill(1),
                (Mood::Deadly, 1) => self.kill(2),
                (Mood::Deadly, 2) => self.kill_the_next(),
                (_, 3) => self.hold(self.service.running.process()),
                _ => {
                    if let Some(worker) = self.any_child() {
                        self.hold(worker);
                    }
                }
            }
        }
    }

    /// A part of the history, not a wait for something.
    fn pause(&mut self, most: u64) {
        std::thread::sleep(Duration::from_millis(1 + self.random.below(most)));
    }

    fn any_child(&mut self) -> Option<Process> {
        self.random.one_of(&self.service.running.workers())
    }

    /// Whatever they are at: some are starting, some finish, and one may be a trial of a new version.
    fn kill(&mut self, most: usize) {
        let mut victims: Vec<_> = (0..most).filter_map(|_| self.any_child()).collect();
        victims.dedup();
        self.kill_all(&victims);
    }

    /// One that has just been started.
    fn kill_the_next(&mut self) {
        let before = self.service.running.workers();
        let until = Instant::now() + Duration::from_millis(300);
        while Instant::now() < until {
            let now = self.service.running.workers();
            if let Some(new) = now.into_iter().find(|child| !before.contains(child)) {
                self.pause(60);
                return self.kill_all(&[new]);
            }
        }
    }

    fn kill_all(&mut self, victims: &[Process]) {
        let _going = self.journal.begin(Cause::Death, NOBODY);
        self.killed.fetch_add(victims.len(), Ordering::Relaxed);
        victims.iter().for_each(|victim| victim.signal(Signal::SIGKILL));
        eventually("the master knows", || {
            victims.iter().all(|victim| victim.status("State").is_none())
        });
    }

    fn hold(&mut self, process: Process) {
        process.signal(Signal::SIGSTOP);
        self.pause(300);
        process.signal(Signal::SIGCONT);
    }
}
