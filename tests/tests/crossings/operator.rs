//! Somebody who gives orders, and believes the answers only as far as they are true.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use nix::sys::signal::Signal;
use release_tests::eventually;

use super::journal::{Cause, Journal};
use super::logs::Logs;
use super::random::Random;
use super::subject::{Service, Status};

/// What the operators of a history share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) journal: Journal,
    pub(crate) logs: Logs,
    /// How often the log files were opened again: told so, and not told.
    pub(crate) reopened: AtomicUsize,
    pub(crate) unanswered: AtomicUsize,
    /// Held by an operator who has changed a file that must be put back; the numbers of workers that
    /// have been in it.
    file: Mutex<HashSet<u64>>,
    /// Held by the one who keeps log files from being opened.
    obstacle: Mutex<()>,
    /// The orders and their answers, for the report of a failure.
    log: Mutex<Vec<String>>,
}

/// An operator of a history.
#[derive(Debug)]
pub(crate) struct Operator<'a> {
    pub(crate) name: char,
    pub(crate) service: &'a Service,
    pub(crate) shared: &'a Shared,
    pub(crate) random: Random,
}

impl Shared {
    /// The file has this number of workers.
    pub(crate) fn new(workers: u64) -> Self {
        Self { file: Mutex::new(HashSet::from([workers])), ..Self::default() }
    }

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
            match self.random.below(15) {
                0 | 1 => {
                    self.reload();
                }
                2 => self.upgrade(),
                3 => self.broken_upgrade(),
                4 | 5 => self.scale(),
                6 => self.restart(),
                7 => self.change_file(),
                8 => self.wrong_file(),
                9 | 10 => self.move_logs(),
                11 => self.obstruct_logs(),
                12 => self.signal_upgrade(),
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
    fn has_done(&self, order: &str) -> bool {
        let since = Instant::now();
        let answer = self.ask(order);
        let is_ok = answer == "ok";
        let is_fair = self.shared.journal.is_fair(&answer, self.name, since);
        self.check(is_ok || is_fair, format!("{order}: {answer}"));
        is_ok
    }

    /// One that cannot be carried out.
    #[track_caller]
    fn is_refused(&self, order: &str) {
        let answer = self.ask(order);
        self.check(answer.starts_with("error: "), format!("{order}: {answer}"));
    }

    #[track_caller]
    fn check(&self, is_so: bool, what: impl std::fmt::Display) {
        assert!(
            is_so,
            "{}: {what}\norders:\n{}\nlog:\n{}",
            self.name,
            self.shared.log(),
            self.service.log(&self.shared.logs)
        );
    }

    /// No process serves that has served before.
    #[track_caller]
    fn all_are_new(&self, before: &Status) {
        let after = self.service.status(&self.shared.logs);
        let old: Vec<_> = after.processes().intersection(&before.processes()).copied().collect();
        self.check(old.is_empty(), format!("{old:?} still serve; before: {before}; now: {after}"));
        let is_later = after.generation > before.generation;
        self.check(is_later, format!("not a new generation; before: {before}; now: {after}"));
    }

    /// So many workers are ready, unless somebody has changed that since then.
    #[track_caller]
    fn are_as_many(&self, size: u64, since: Instant) {
        let status = self.service.status(&self.shared.logs);
        if self.shared.journal.was(Cause::Resize, self.name, since) {
            return;
        }
        let is_so = u64::try_from(status.workers) == Ok(size);
        self.check(is_so, format!("not {size} workers: {status}"));
        let has_died = self.shared.journal.was(Cause::Death, self.name, since);
        let are_ready = status.ready.len() == status.workers || has_died;
        self.check(are_ready, format!("not {size} are ready: {status}"));
    }

    fn reload(&mut self) -> bool {
        let before = self.service.status(&self.shared.logs);
        let is_done = self.has_done("reload");
        if is_done {
            self.all_are_new(&before);
        }
        is_done
    }

    fn upgrade(&mut self) {
        // The other one waits with a broken version.
        let shared = self.shared;
        let _file = shared.file.lock().expect("the files");
        let _upgrading = shared.journal.begin(Cause::Upgrade, self.name);
        self.service.install();
        let before = self.service.status(&self.shared.logs);
        if self.has_done("upgrade") {
            self.all_are_new(&before);
            self.check(self.service.is_installed(), "the master runs the old version");
        }
    }

    fn broken_upgrade(&mut self) {
        let shared = self.shared;
        let _file = shared.file.lock().expect("the files");
        let _upgrading = shared.journal.begin(Cause::Upgrade, self.name);
        self.service.install_broken();
        self.is_refused("upgrade");
        self.service.install();
    }

    /// Nobody is told of what a signal has led to.
    fn signal_upgrade(&mut self) {
        let shared = self.shared;
        let _file = shared.file.lock().expect("the files");
        let _upgrading = shared.journal.begin(Cause::Upgrade, self.name);
        self.service.install();
        let since = Instant::now();
        self.send(Signal::SIGUSR2);
        let has_failed = || {
            let causes = [Cause::Death, Cause::Obstacle];
            causes.iter().any(|cause| shared.journal.was(*cause, self.name, since))
        };
        eventually("the new version is the master", || self.service.is_installed() || has_failed());
        if !self.service.is_installed() {
            // It may still be under way when the next order is given.
            shared.journal.goes_on(Cause::Upgrade);
        }
    }

    fn scale(&mut self) {
        let size = 1 + self.random.below(5);
        self.scale_to(size);
    }

    fn scale_to(&mut self, size: u64) {
        let since = Instant::now();
        let _resizing = self.shared.journal.begin(Cause::Resize, self.name);
        if self.has_done(&format!("scale {size}")) {
            self.are_as_many(size, since);
        }
    }

    fn restart(&mut self) {
        let before = self.service.status(&self.shared.logs);
        let ids: Vec<_> = before.ready.iter().map(|(id, ..)| *id).collect();
        let Some(id) = self.random.one_of(&ids) else { return };
        if self.has_done(&format!("restart {id}")) {
            let after = self.service.status(&self.shared.logs);
            let is_other = after.process_of(id) != before.process_of(id);
            self.check(is_other, format!("restart {id} was answered ok: {before}; now: {after}"));
        }
    }

    fn change_file(&mut self) {
        let shared = self.shared;
        let mut written = shared.file.lock().expect("the files");
        let _resizing = shared.journal.begin(Cause::Resize, self.name);
        let size = 1 + self.random.below(5);
        self.service.write_settings(size);
        let since = Instant::now();
        if !self.reload() {
            // Some other reload may change the number later.
            shared.journal.goes_on(Cause::Resize);
        } else if written.insert(size) {
            // One that was there before may have been in force, and says nothing then.
            self.are_as_many(size, since);
        }
    }

    fn wrong_file(&mut self) {
        let shared = self.shared;
        let _file = shared.file.lock().expect("the files");
        let _wrong = shared.journal.begin(Cause::WrongFile, self.name);
        let before = self.service.write_nonsense();
        self.is_refused("reload");
        self.service.write(&before);
    }

    /// As logrotate does.
    fn move_logs(&mut self) {
        let away = self.shared.logs.move_away(&self.service.running);
        if self.random.below(3) == 0 {
            self.shared.unanswered.fetch_add(1, Ordering::SeqCst);
            self.send(Signal::SIGUSR1);
            let out = self.service.running.path("out");
            eventually("the file is there again", || out.exists());
        } else if self.has_done("reopen") {
            self.shared.reopened.fetch_add(1, Ordering::SeqCst);
            self.shared.logs.are_done(away);
        }
    }

    fn obstruct_logs(&mut self) {
        let shared = self.shared;
        let _obstacle = shared.obstacle.lock().expect("the files");
        let going = shared.journal.begin(Cause::Obstacle, self.name);
        shared.logs.obstruct(&self.service.running);
        self.is_refused("reopen");
        Logs::clear(&self.service.running);
        drop(going);
        self.move_logs();
    }

    fn signal(&mut self) {
        let all = [Signal::SIGHUP, Signal::SIGTTIN, Signal::SIGTTOU];
        let signal = self.random.one_of(&all).expect("a signal");
        if signal != Signal::SIGHUP {
            self.shared.journal.goes_on(Cause::Resize);
        }
        self.send(signal);
    }

    fn send(&self, signal: Signal) {
        self.shared.note(format!("{}: {signal}", self.name));
        self.service.running.signal(signal);
    }
}
