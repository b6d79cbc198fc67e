//! What nobody orders: processes die, hang and stand still.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use release_tests::Process;

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
    pub(crate) mood: Mood,
    pub(crate) random: Random,
    pub(crate) is_over: &'a AtomicBool,
    pub(crate) killed: &'a AtomicUsize,
}

impl Nature<'_> {
    pub(crate) fn run(mut self) {
        while !self.is_over.load(Ordering::Relaxed) {
            self.pause(400);
            match (self.mood, self.random.below(3)) {
                (Mood::Calm, _) => {}
                (Mood::Deadly, 0) => self.kill(),
                (_, 1) => self.hold(self.service.running.process()),
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

    fn kill(&mut self) {
        if let Some(child) = self.any_child() {
            self.killed.fetch_add(1, Ordering::Relaxed);
            child.signal(Signal::SIGKILL);
        }
    }

    fn hold(&mut self, process: Process) {
        process.signal(Signal::SIGSTOP);
        self.pause(300);
        process.signal(Signal::SIGCONT);
    }
}
