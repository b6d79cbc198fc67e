//! One history, from the start of a service to its end.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use release_tests::{Answer, Footprint, eventually, try_http_get, zombies};

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
        let shared = Shared::default();
        self.put_in_order(&service, &shared);
        let before = Footprint::of(service.running.process());
        let killed = AtomicUsize::new(0);
        let seen = self.cross(&service, &shared, &killed);
        self.put_in_order(&service, &shared);
        self.judge(&seen, killed.load(Ordering::Relaxed), &service, &shared);
        before.has_no_more_descriptors();
        eventually("no child is left over", || {
            let running = &service.running;
            running.workers().len() == 2 && zombies(running.pid()).is_empty()
        });
        let mut running = service.running;
        assert_eq!(running.stop(), 0, "{}\n{}", shared.log(), running.stderr());
        assert!(running.processes().is_empty(), "{:?}", running.processes());
        assert!(!running.control().exists());
    }

    fn operator<'a>(&self, name: char, service: &'a Service, shared: &'a Shared) -> Operator<'a> {
        let random = Random::new(self.seed, u64::from(name));
        Operator { name, service, shared, mood: self.mood, random }
    }

    /// The orders, the load and the mishaps at one time.
    fn cross(&self, service: &Service, shared: &Shared, killed: &AtomicUsize) -> Seen {
        let (is_served, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            let clients = [(); CLIENTS].map(|()| scope.spawn(|| ask(service, &is_served)));
            let random = Random::new(self.seed, 0);
            let nature = Nature { service, mood: self.mood, random, is_over: &is_over, killed };
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
        let say = || format!("seed {}\n{}\n{}", self.seed, shared.log(), service.running.stderr());
        service.write_settings(WORKERS);
        // A reload by a signal may be under way, and the file may change the number.
        assert_eq!(service.ask("reload"), "ok", "{}", say());
        assert_eq!(service.ask("reload"), "ok", "{}", say());
        eventually("the number follows the file", || {
            service.ask(&format!("scale {WORKERS}")) == "ok"
                && service.status().is_calm()
                && service.status().workers == 2
        });
    }

    #[track_caller]
    fn judge(&self, (answers, failures): &Seen, killed: usize, service: &Service, shared: &Shared) {
        let say = || {
            let (seed, log) = (self.seed, shared.log());
            format!(
                "seed {seed}, {killed} killed\n{failures:?}\n{log}\n{}",
                service.running.stderr()
            )
        };
        assert!(!answers.is_empty(), "{}", say());
        // What a killed worker had in hand: one request of each client at most.
        assert!(failures.len() <= killed * CLIENTS, "{}", say());
        if let Subject::Service(_) = self.subject {
            let numbers: HashSet<_> = answers.iter().map(|answer| answer.seq).collect();
            assert_eq!(numbers.len(), answers.len(), "every number once; {}", say());
        }
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
