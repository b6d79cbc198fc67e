//! The end of a history, which comes in the middle of something.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use release_tests::{ControlClient, Running};

use super::logs::Logs;
use super::operator::Shared;
use super::random::Random;
use super::subject::Service;

/// What the service is asked for when it is told to stop.
const ORDERS: [&str; 5] = ["reload", "upgrade", "scale 5", "restart 0", "reopen"];

/// How it is told.
#[derive(Clone, Copy, Debug)]
enum Way {
    Signal(Signal),
    /// As some managers send it: the same request.
    Twice(Signal),
    Command,
}

const WAYS: [Way; 5] = [
    Way::Signal(Signal::SIGTERM),
    Way::Twice(Signal::SIGTERM),
    Way::Signal(Signal::SIGINT),
    Way::Twice(Signal::SIGINT),
    Way::Command,
];

/// One that has been accepted already, and asks for this: it must be answered.
fn ask(service: &Service, order: &str) -> ControlClient {
    let mut client = ControlClient::connect(&service.running.control()).expect("a connection");
    assert_eq!(client.ask("ping").expect("an answer"), "pong");
    client.send(order.as_bytes()).expect("it is sent");
    client
}

fn answer(mut client: ControlClient) -> String {
    let answer = client.receive().map(|bytes| String::from_utf8(bytes).expect("text"));
    answer.unwrap_or_else(|error| format!("no answer: {error}"))
}

#[derive(Debug)]
pub(crate) struct End {
    way: Way,
    orders: [&'static str; 2],
    pause: Duration,
    /// What must not be there afterwards.
    sockets: Vec<PathBuf>,
}

impl End {
    pub(crate) fn new(seed: u64, service: &Service) -> Self {
        let mut random = Random::new(seed, 1);
        let orders = [(); 2].map(|()| random.one_of(&ORDERS).expect("an order"));
        let way = random.one_of(&WAYS).expect("a way");
        let pause = Duration::from_millis(random.below(200));
        Self { way, orders, pause, sockets: service.sockets() }
    }

    /// Stops the service, whose files are still there.
    pub(crate) fn come(&self, service: Service, shared: &Shared) -> Running {
        let clients = self.orders.map(|order| ask(&service, order));
        thread::sleep(self.pause);
        let running = &service.running;
        match self.way {
            Way::Signal(signal) => running.signal(signal),
            Way::Twice(signal) => (0..2).for_each(|_| running.signal(signal)),
            Way::Command => assert_eq!(answer(ask(&service, "stop")), "ok"),
        }
        let answers = clients.map(answer);
        let mut running = service.running;
        let status = running.wait();
        let say = || format!("{self:?}\n{answers:?}\n{}", shared.logs.text(&running));
        assert_eq!(status.code(), Some(0), "{}", say());
        let are_answered = answers.iter().all(|it| it == "ok" || it.starts_with("error: "));
        assert!(are_answered, "{}", say());
        let reopened = self.orders.iter().zip(&answers);
        let reopened = reopened.filter(|(order, answer)| **order == "reopen" && *answer == "ok");
        shared.reopened.fetch_add(reopened.count(), Ordering::SeqCst);
        self.nothing_is_left(&running, &shared.logs);
        running
    }

    fn nothing_is_left(&self, running: &Running, logs: &Logs) {
        let processes = running.processes().into_iter();
        let processes: Vec<_> =
            processes.map(|it| (it, it.command_line(), it.status("State"))).collect();
        assert!(processes.is_empty(), "{processes:?} {self:?}\n{}", logs.text(running));
        let left: Vec<_> = self.sockets.iter().filter(|path| path.exists()).collect();
        assert!(left.is_empty(), "{left:?}");
        let known = ["settings", "stderr", "behave", "worker.py", "out", "err"];
        for entry in std::fs::read_dir(running.path(".")).expect("its directory") {
            let name = entry.expect("an entry").file_name().into_string().expect("a name");
            let is_known =
                known.contains(&name.trim_end_matches(|it: char| it == '.' || it.is_ascii_digit()));
            assert!(is_known, "{name} is left over");
        }
    }
}
