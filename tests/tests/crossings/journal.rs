//! What was going on, and when: whoever refuses an order must have a reason that was there.

use std::sync::Mutex;
use std::time::Instant;

/// What keeps an order from being carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Somebody gives the group another size.
    Resize,
    /// The file of settings is wrong.
    WrongFile,
    /// An upgrade is under way.
    Upgrade,
    /// Log files cannot be opened.
    Obstacle,
    /// A process was killed, and the master may not know it yet.
    Death,
}

/// What an order may be refused with, and why.
const FAIR: [(&str, Cause); 8] = [
    ("another change of the size came after it", Cause::Resize),
    ("there is no worker ", Cause::Resize),
    ("the worker was scaled away", Cause::Resize),
    ("/settings:1:11: `workers`: expected ", Cause::WrongFile),
    ("the master is being upgraded; ask again", Cause::Upgrade),
    // Its new version was installed during an upgrade that a signal had requested.
    ("was replaced while it was tried: ask again", Cause::Upgrade),
    ("cannot open the log file", Cause::Obstacle),
    ("SIGKILL", Cause::Death),
];

/// Somebody to whom nothing is answered: signals, and nature.
pub(crate) const NOBODY: char = '-';

#[derive(Debug)]
struct Entry {
    cause: Cause,
    by: char,
    until: Option<Instant>,
}

/// All that was going on in a history.
#[derive(Debug, Default)]
pub(crate) struct Journal(Mutex<Vec<Entry>>);

/// Goes on until it is dropped.
#[derive(Debug)]
pub(crate) struct Going<'a> {
    journal: &'a Journal,
    number: usize,
}

impl Journal {
    pub(crate) fn begin(&self, cause: Cause, by: char) -> Going<'_> {
        let mut entries = self.0.lock().expect("the journal");
        entries.push(Entry { cause, by, until: None });
        Going { journal: self, number: entries.len() - 1 }
    }

    /// A signal was sent: it is not known when it has been obeyed.
    pub(crate) fn goes_on(&self, cause: Cause) {
        std::mem::forget(self.begin(cause, NOBODY));
    }

    /// Whether it was going on since then, and not by the one who asks.
    pub(crate) fn was(&self, cause: Cause, by: char, since: Instant) -> bool {
        let entries = self.0.lock().expect("the journal");
        entries.iter().any(|entry| {
            let is_over = entry.until.is_some_and(|until| until < since);
            entry.cause == cause && entry.by != by && !is_over
        })
    }

    /// Whether an order that was given then may be refused in these words.
    pub(crate) fn is_fair(&self, words: &str, by: char, since: Instant) -> bool {
        let mut named = FAIR.iter().filter(|(fair, _)| words.contains(fair));
        words.starts_with("error: ") && named.any(|(_, cause)| self.was(*cause, by, since))
    }
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        let mut entries = self.journal.0.lock().expect("the journal");
        entries[self.number].until = Some(Instant::now());
    }
}
