//! One history, from the start of a service to its end.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use release_tests::{Answer, Footprint, Running, eventually, try_http_get, zombies};

use super::end::End;
use super::nature::{Mood, Nature};
use super::operator::{Operator, Shared};
use super::random::Random;
use super::subject::{Service, Subject};

/// How many clients ask all the time.
const CLIENTS: usize = 2;
/// How many orders each of the two operators gives.
const ORDERS: usize = 4;
/// The number of workers before and after.
const WORKERS: u64 = 2;
/// How much more memory the master may have afterwards.
const NOISE_KIB: u64 = 4 * 1024;

/// A history that its seed repeats, as far as processes can be repeated.
#[derive(Debug)]
pub(crate) struct History {
    subject: Subject,
    seed: u64,
    mood: Mood,
}

/// What the clients have seen.
type Seen = (Vec<Answer>, Vec<io::Error>);

impl History {
    pub(crate) fn new(subject: Subject, seed: u64) -> Self {
        let mood = match seed % 3 {
            0 => Mood::Calm,
            1 => Mood::Deadly,
            _ => Mood::Slow,
        };
        Self { subject, seed, mood }
    }

    pub(crate) fn run(&self) {
        eprintln!("{:?}: seed {}, {:?}", self.subject, self.seed, self.mood);
        let service = self.subject.start(WORKERS);
        let shared = Shared::new(WORKERS);
        self.put_in_order(&service, &shared);
        let before = Footprint::of(service.running.process());
        let killed = AtomicUsize::new(0);
        let seen = self.cross(&service, &shared, &killed);
        self.put_in_order(&service, &shared);
        self.judge(&seen, killed.load(Ordering::Relaxed), &service, &shared);
        eventually("no child is left over", || {
            let running = &service.running;
            running.workers().len() == 2 && zombies(running.pid()).is_empty()
        });
        before.has_no_more_of_a_kind();
        assert!(before.growth_kib() <= NOISE_KIB, "grown by {} KiB", before.growth_kib());
        let running = End::new(self.seed, &service).come(service, &shared);
        self.judge_logs(&seen, &running, &shared);
    }

    fn operator<'a>(&self, name: char, service: &'a Service, shared: &'a Shared) -> Operator<'a> {
        let random = Random::new(self.seed, u64::from(name));
        Operator { name, service, shared, random }
    }

    /// The orders, the load and the mishaps at one time.
    fn cross(&self, service: &Service, shared: &Shared, killed: &AtomicUsize) -> Seen {
        let (is_served, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            let clients = [(); CLIENTS].map(|()| scope.spawn(|| ask(service, &is_served)));
            let random = Random::new(self.seed, 0);
            let journal = &shared.journal;
            let nature =
                Nature { service, journal, mood: self.mood, random, is_over: &is_over, killed };
            let nature = scope.spawn(|| nature.run());
            let operators = ['a', 'b'].map(|name| {
                let operator = self.operator(name, service, shared);
                scope.spawn(move || operator.run(ORDERS))
            });
            // Whatever they find, the others must end before this is told.
            let ended = operators.map(thread::ScopedJoinHandle::join);
            is_over.store(true, Ordering::Relaxed);
            let nature = nature.join();
            is_served.store(true, Ordering::Relaxed);
            let (mut answers, mut failures) = Seen::default();
            for client in clients {
                let (answered, failed) = client.join().expect("a client");
                answers.extend(answered);
                failures.extend(failed);
            }
            for outcome in ended.into_iter().chain([nature]) {
                outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
            (answers, failures)
        })
    }

    /// An order that meets nothing else is carried out, whatever was before.
    #[track_caller]
    fn put_in_order(&self, service: &Service, shared: &Shared) {
        let say = || format!("seed {}\n{}\n{}", self.seed, shared.log(), service.log(&shared.logs));
        service.write_settings(WORKERS);
        // A reload by a signal may be under way, and the file may change the number.
        assert_eq!(service.ask("reload"), "ok", "{}", say());
        assert_eq!(service.ask("reload"), "ok", "{}", say());
        assert_eq!(service.ask("reopen"), "ok", "{}", say());
        shared.reopened.fetch_add(1, Ordering::SeqCst);
        eventually("the number follows the file", || {
            service.ask(&format!("scale {WORKERS}")) == "ok"
                && service.status(&shared.logs).is_calm()
                && service.status(&shared.logs).workers == 2
        });
    }

    #[track_caller]
    fn judge(&self, (answers, failures): &Seen, killed: usize, service: &Service, shared: &Shared) {
        let say = || {
            let (seed, log) = (self.seed, shared.log());
            let said = service.log(&shared.logs);
            format!("seed {seed}, {killed} killed\n{failures:?}\n{log}\n{said}")
        };
        assert!(!answers.is_empty(), "{}", say());
        // What a killed worker had in hand: one request of each client at most.
        assert!(failures.len() <= killed * CLIENTS, "{}", say());
        if let Subject::Service(_) = self.subject {
            let numbers: HashSet<_> = answers.iter().map(|answer| answer.seq).collect();
            assert_eq!(numbers.len(), answers.len(), "every number once; {}", say());
        }
    }

    /// Every answer is in the log files, once; and whoever has asked for it got other files.
    fn judge_logs(&self, (answers, failures): &Seen, running: &Running, shared: &Shared) {
        let say = || format!("seed {}\n{}\n{}", self.seed, shared.log(), shared.logs.text(running));
        let logged = shared.logs.answers(running);
        assert!(logged.values().all(|times| *times == 1), "once; {}", say());
        let missing: Vec<_> = answers.iter().filter(|it| !logged.contains_key(it)).collect();
        assert!(missing.is_empty(), "not in the log: {missing:?}; {}", say());
        // What was written, and not received.
        assert!(logged.len() - answers.len() <= failures.len(), "{}", say());
        let opened = shared.logs.text(running).matches("the log files were opened again").count();
        let told = shared.reopened.load(Ordering::SeqCst);
        let most = told + shared.unanswered.load(Ordering::SeqCst);
        assert!((told..=most).contains(&opened), "{opened} of {told} to {most}; {}", say());
    }
}

fn ask(service: &Service, is_over: &AtomicBool) -> Seen {
    let (mut answers, mut failures) = Seen::default();
    while !is_over.load(Ordering::Relaxed) {
        match try_http_get(service.address) {
            Ok(answer) => answers.push(answer),
            Err(error) => failures.push(error),
        }
    }
    (answers, failures)
}
