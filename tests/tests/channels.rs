//! Calls between workers: reloads, upgrades, deaths and hostile callers lose none of others.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use nix::sys::signal::Signal;
use release_tests::{
    DEADLINE, Installed, Process, Program, Running, control, eventually, free_port,
    on_every_backend,
};

/// A client of a front end, which makes the calls that its lines ask for.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    fn send(&mut self, line: &str) -> io::Result<()> {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes())
    }

    fn receive(&mut self) -> io::Result<String> {
        let mut answer = String::new();
        match self.0.read_line(&mut answer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(answer.trim().to_owned()),
        }
    }

    fn ask(&mut self, line: &str) -> io::Result<String> {
        self.send(line)?;
        self.receive()
    }
}

/// The answer to a line, on a connection of its own.
fn ask(address: SocketAddr, line: &str) -> String {
    Client::connect(address).and_then(|mut client| client.ask(line)).expect("an answer")
}

fn started(program: Program, offenders: usize) -> (Running, SocketAddr) {
    let address = free_port();
    let running = program.args([address.to_string(), offenders.to_string()]).start();
    running.await_ready(5 + offenders);
    (running, address)
}

fn tell(running: &Running, words: &str) {
    assert_eq!(control(&running.control(), words), "ok", "{}", running.stderr());
}

/// The processes of a group.
fn of_group(running: &Running, group: &str) -> Vec<Process> {
    let role = format!(": worker {group} ");
    let workers = running.workers().into_iter();
    workers.filter(|worker| worker.command_line().contains(&role)).collect()
}

/// The worker behind the front ends that is not restarted.
fn second(running: &Running) -> Process {
    let back = of_group(running, "back").into_iter();
    let mut its = back.filter(|worker| worker.command_line().ends_with("id=1"));
    its.next().expect("a second worker")
}

/// Lets clients make a call after the other while something changes, on connections that a reload may
/// close between two calls. Returns how often each answer came.
fn under_load(
    address: SocketAddr,
    line: &str,
    change: impl FnOnce(&AtomicU64),
) -> HashMap<String, u64> {
    let (is_over, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let call = || {
        let mut answers = HashMap::<_, u64>::new();
        let mut client = Client::connect(address).expect("a connection");
        while !is_over.load(Ordering::Relaxed) {
            let answer = client.ask(line).expect("an answer");
            *answers.entry(answer).or_default() += 1;
            asked.fetch_add(1, Ordering::Relaxed);
            if asked.load(Ordering::Relaxed).is_multiple_of(8) {
                client = Client::connect(address).expect("a connection");
            }
        }
        answers
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(call)).collect();
        change(&asked);
        is_over.store(true, Ordering::Relaxed);
        let mut all = HashMap::<_, u64>::new();
        for answers in clients.into_iter().map(|client| client.join().expect("answers")) {
            answers
                .into_iter()
                .for_each(|(answer, count)| *all.entry(answer).or_default() += count);
        }
        all
    })
}

fn goes_on(asked: &AtomicU64) {
    let before = asked.load(Ordering::Relaxed);
    eventually("the clients go on", || asked.load(Ordering::Relaxed) > before + 20);
}

on_every_backend! {
    fn the_example_resolves_names(backend: Backend) {
        let address = free_port();
        let mut running = Program::new(backend, "resolver").args([address.to_string()]).start();
        running.await_ready(4);
        let mut client = Client::connect(address).expect("a connection");
        assert_eq!(client.ask("127.0.0.9").expect("an answer"), "127.0.0.9");
        let unknown = client.ask("no name").expect("an answer");
        assert!(!unknown.is_empty() && unknown.parse::<std::net::IpAddr>().is_err(), "{unknown}");
        tell(&running, "reload");
        assert_eq!(ask(address, "127.0.0.9"), "127.0.0.9");
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn reloads_and_upgrades_lose_no_call(backend: Backend) {
        let installed = Installed::new(backend, "channels");
        let (mut running, address) = started(installed.program(), 0);
        let answers = under_load(address, "once echo x", |asked| {
            for turn in 0..10 {
                tell(&running, "reload");
                if turn % 3 == 1 {
                    installed.install(&backend.program("channels"));
                    tell(&running, "upgrade");
                }
                goes_on(asked);
            }
        });
        assert_eq!(answers.keys().collect::<Vec<_>>(), ["ok x"], "{}", running.stderr());
        eventually("the others have ended", || running.workers().len() == 5);
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn a_killed_worker_takes_no_idempotent_call_along(backend: Backend) {
        let (mut running, address) = started(Program::new(backend, "channels"), 0);
        let kill = |asked: &AtomicU64| {
            for _ in 0..6 {
                let killed = of_group(&running, "back")[0];
                killed.signal(Signal::SIGKILL);
                eventually("another one is there", || {
                    let now = of_group(&running, "back");
                    now.len() == 2 && !now.contains(&killed)
                });
                running.await_ready(5);
                goes_on(asked);
            }
        };
        let answers = under_load(address, "repeat sleep 1 x", kill);
        assert_eq!(answers.keys().collect::<Vec<_>>(), ["ok x"], "{}", running.stderr());
        let mut answers = under_load(address, "once sleep 1 x", kill);
        answers.remove("gone");
        assert_eq!(answers.keys().collect::<Vec<_>>(), ["ok x"], "{}", running.stderr());
        // A request that ends its worker ends three of them at most.
        assert_eq!(ask(address, "once die"), "gone");
        running.await_ready(5);
        assert_eq!(ask(address, "repeat die"), "gone");
        running.await_ready(5);
        assert_eq!(ask(address, "once echo x"), "ok x");
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn a_call_waits_for_a_worker_and_goes_to_those_with_little_work(backend: Backend) {
        let (mut running, address) = started(Program::new(backend, "channels"), 0);
        let mut busy = Client::connect(address).expect("a connection");
        let who = || ask(address, "once who");
        eventually("both are called", || who() != who());
        busy.send("once sleep 300 x").expect("a call");
        assert_eq!(ask(address, "within sleep 60000 x"), "timed out");
        assert_eq!(ask(address, "silent echo x"), "timed out");
        let refused = ask(address, "other echo x");
        assert!(refused.contains("call `Workers::channel_to` there"), "{refused}");
        assert!(ask(address, "long x").contains("too long"));
        assert!(ask(address, "once panic").contains("the handler panicked"));
        assert!(ask(address, "once unknown").contains("on purpose"));
        assert_eq!(busy.receive().expect("an answer"), "ok x");
        tell(&running, "scale back 0");
        assert_eq!(ask(address, "within echo x"), "timed out");
        let mut waiting = Client::connect(address).expect("a connection");
        waiting.send("once echo x").expect("a call");
        tell(&running, "scale back 1");
        assert_eq!(waiting.receive().expect("an answer"), "ok x");
        drop((busy, waiting));
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn calls_in_hand_end_before_the_service(backend: Backend) {
        let (mut running, address) = started(Program::new(backend, "channels"), 0);
        let mut clients: Vec<_> =
            (0..4).map(|_| Client::connect(address).expect("a connection")).collect();
        for client in &mut clients {
            // The second call begins when the service is stopping already.
            client.send("once sleep 200 x\nonce echo y").expect("calls");
        }
        let all_called = || ask(address, "once who");
        eventually("both are called", || all_called() != all_called());
        running.signal(Signal::SIGTERM);
        for client in &mut clients {
            let answers = [client.receive(), client.receive()].map(|it| it.expect("an answer"));
            assert_eq!(answers, ["ok x", "ok y"], "{}", running.stderr());
        }
        drop(clients);
        assert_eq!(running.wait().code(), Some(0), "{}", running.stderr());
    }

    fn a_hostile_caller_harms_its_own_channel(backend: Backend) {
        let (mut running, address) = started(Program::new(backend, "channels"), 1);
        let (back, master) = (second(&running), running.pid());
        for (attack, saw) in [
            ("calls others", "[true, true, true]"),
            ("garbage", "closed closed"),
            ("too long", "closed closed"),
            ("hello", "closed closed"),
            ("asks the library", "closed closed"),
            ("too many", "closed closed"),
            ("undecodable", "answer 11 answer 11"),
            ("panics", "answer 5 answer 5"),
            ("ends without end", "1000"),
        ] {
            assert_eq!(control(&running.control(), &format!("attack {attack}")), "sent 1");
            let expected = format!("{attack}: {saw}");
            let mut seen = String::new();
            eventually(&format!("{expected}, after {seen}; {}", running.stderr()), || {
                seen = control(&running.control(), "saw");
                seen.lines().any(|line| line == expected)
            });
            assert_eq!(ask(address, "once echo x"), "ok x", "after {attack}");
        }
        // It does not hear that workers leave.
        tell(&running, "restart 0");
        assert_eq!(ask(address, "once echo x"), "ok x");
        assert!(of_group(&running, "back").contains(&back), "it was not harmed");
        assert_eq!(running.pid(), master);
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn fifty_restarts_leave_no_descriptor(backend: Backend) {
        let (mut running, address) = started(Program::new(backend, "channels"), 0);
        assert_eq!(ask(address, "once echo x"), "ok x");
        let restart = |times: usize| {
            for _ in 0..times {
                tell(&running, "restart 0");
            }
        };
        // All has been used once.
        restart(2);
        let front = of_group(&running, "front");
        let processes: Vec<_> =
            front.into_iter().chain([running.process(), second(&running)]).collect();
        let counts = || processes.iter().map(|it| it.descriptors().len()).collect::<Vec<_>>();
        let both = |address| ask(address, "once who") != ask(address, "once who");
        eventually("both are called", || both(address));
        let mut before = counts();
        eventually("it is at rest", || std::mem::replace(&mut before, counts()) == before);
        restart(50);
        eventually(&format!("as many descriptors as before: {before:?}, {:?}", counts()), || {
            let now = counts();
            both(address) && now.iter().zip(&before).all(|(now, before)| now <= before)
        });
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }
}
