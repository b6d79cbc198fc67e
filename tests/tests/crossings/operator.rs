//! Somebody who gives orders, and believes the answers only as far as they are true.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::sys::signal::Signal;

use super::nature::Mood;
use super::random::Random;
use super::subject::{Service, Status};

/// What the operators of a history share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Counts the orders that change the number of workers.
    sizes: AtomicU64,
    /// A signal that may change it was sent: nobody is told when.
    is_signalled: AtomicBool,
    /// Held by an operator who has changed a file that must be put back.
    file: Mutex<()>,
    /// The orders and their answers, for the report of a failure.
    log: Mutex<Vec<String>>,
}

/// An operator of a history.
#[derive(Debug)]
pub(crate) struct Operator<'a> {
    pub(crate) name: char,
    pub(crate) service: &'a Service,
    pub(crate) shared: &'a Shared,
    pub(crate) mood: Mood,
    pub(crate) random: Random,
}

/// Reasons for a refusal that are no fault in a history in which no process dies.
const FAIR: [&str; 4] = [
    "another change of the size came after it",
    "unknown worker",
    "there is no worker",
    // The other operator has put a wrong file or a broken version there.
    "settings",
];

impl Shared {
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("the log").join("\n")
    }

    fn note(&self, text: String) {
        self.log.lock().expect("the log").push(text);
    }
}

impl Operator<'_> {
    pub(crate) fn run(mut self, orders: usize) {
        for _ in 0..orders {
            match self.random.below(10) {
                0 | 1 => self.reload(),
                2 => self.upgrade(),
                3 => self.broken_upgrade(),
                4 | 5 => self.scale(),
                6 => self.restart(),
                7 => self.change_file(),
                8 => self.wrong_file(),
                _ => self.signal(),
            }
        }
    }

    fn ask(&self, order: &str) -> String {
        let answer = self.service.ask(order);
        self.shared.note(format!("{}: {order}: {answer}", self.name));
        answer
    }

    /// Whether the order was carried out; a refusal needs a reason that the history gives.
    #[track_caller]
    fn is_ok(&self, answer: &str) -> bool {
        let is_fair = self.mood == Mood::Deadly || FAIR.iter().any(|fair| answer.contains(fair));
        let is_refused = answer.starts_with("error: ") && is_fair;
        self.check(answer == "ok" || is_refused, answer);
        answer == "ok"
    }

    #[track_caller]
    fn check(&self, is_so: bool, what: impl std::fmt::Display) {
        assert!(
            is_so,
            "{}: {what}\norders:\n{}\nlog:\n{}",
            self.name,
            self.shared.log(),
            self.service.running.stderr()
        );
    }

    /// No process serves that has served before.
    #[track_caller]
    fn all_are_new(&self, before: &Status) {
        let after = self.service.status();
        let old: Vec<_> = after.processes().intersection(&before.processes()).copied().collect();
        self.check(old.is_empty(), format!("{old:?} still serve; before: {before}; now: {after}"));
        let is_later = after.generation > before.generation;
        self.check(is_later, format!("not a new generation; before: {before}; now: {after}"));
    }

    fn reload(&mut self) {
        let before = self.service.status();
        if self.is_ok(&self.ask("reload")) {
            self.all_are_new(&before);
        }
    }

    fn upgrade(&mut self) {
        // The other one waits with a broken version.
        let shared = self.shared;
        let _file = shared.file.lock().expect("the files");
        self.service.install();
        let before = self.service.status();
        if self.is_ok(&self.ask("upgrade")) {
            self.all_are_new(&before);
            self.check(self.service.is_installed(), "the master runs the old version");
        }
    }

    fn broken_upgrade(&mut self) {
        let shared = self.shared;
        let _file = shared.file.lock().expect("the files");
        self.service.install_broken();
        let answer = self.ask("upgrade");
        self.check(answer.starts_with("error: "), &answer);
        self.service.install();
    }

    fn scale(&mut self) {
        let size = 1 + self.random.below(5);
        self.scale_to(size);
    }

    /// Gives this number of workers, and looks whether it is so while nobody else changes it.
    pub(crate) fn scale_to(&mut self, size: u64) {
        let mine = self.shared.sizes.fetch_add(1, Ordering::SeqCst) + 1;
        let is_ok = self.is_ok(&self.ask(&format!("scale {size}")));
        let status = self.service.status();
        let is_alone = self.shared.sizes.load(Ordering::SeqCst) == mine
            && !self.shared.is_signalled.load(Ordering::SeqCst);
        if is_ok && is_alone {
            let is_so = u64::try_from(status.workers) == Ok(size);
            self.check(is_so, format!("scale {size} was answered ok: {status}"));
            let are_ready = status.ready.len() == status.workers || self.mood == Mood::Deadly;
            self.check(are_ready, format!("scale {size} was answered ok: {status}"));
        }
    }

    fn restart(&mut self) {
        let before = self.service.status();
        let ids: Vec<_> = before.ready.iter().map(|(id, ..)| *id).collect();
        let Some(id) = self.random.one_of(&ids) else { return };
        if self.is_ok(&self.ask(&format!("restart {id}"))) {
            let after = self.service.status();
            let is_other = after.process_of(id) != before.process_of(id);
            self.check(is_other, format!("restart {id} was answered ok: {before}; now: {after}"));
        }
    }

    fn change_file(&mut self) {
        let shared = self.shared;
        let _file = shared.file.lock().expect("the files");
        let size = 1 + self.random.below(4);
        self.shared.sizes.fetch_add(1, Ordering::SeqCst);
        self.service.write_settings(size);
        self.reload();
        self.shared.sizes.fetch_add(1, Ordering::SeqCst);
    }

    fn wrong_file(&mut self) {
        let shared = self.shared;
        let _file = shared.file.lock().expect("the files");
        self.service.write_nonsense();
        let answer = self.ask("reload");
        self.check(answer.starts_with("error: "), &answer);
        let size = 1 + self.random.below(4);
        self.shared.sizes.fetch_add(1, Ordering::SeqCst);
        self.service.write_settings(size);
    }

    fn signal(&mut self) {
        let all = [Signal::SIGHUP, Signal::SIGUSR2, Signal::SIGTTIN, Signal::SIGTTOU];
        let signal = self.random.one_of(&all).expect("a signal");
        self.shared.is_signalled.fetch_or(signal != Signal::SIGUSR2, Ordering::SeqCst);
        self.shared.note(format!("{}: {signal}", self.name));
        self.service.running.signal(signal);
    }
}
