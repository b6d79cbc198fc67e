//! How a master stops, and what the death of a master leaves behind: nothing.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use release_tests::{
    AT_ONCE, Backend, ControlClient, HttpClient, Program, Running, control, eventually, http_get,
    is_alive, on_every_backend, open_to_all,
};

fn leaves_nothing(running: &Running) {
    assert!(!running.path("lock").exists(), "the lock file is left");
    assert!(!running.control().exists(), "the control socket is left");
    let left = running.processes();
    assert!(left.is_empty(), "left: {left:?}; log: {}", running.stderr());
}

/// How many descriptors the workers have: one more for each connection they have accepted.
fn open_in_workers(service: &Running) -> usize {
    let workers = service.workers().into_iter();
    workers.map(|worker| worker.descriptors().len()).sum()
}

/// Asks again until it has ended: what comes soon after the first signal is the same request.
fn insist(running: &mut Running) -> Option<i32> {
    eventually("it ends", || {
        let master = running.process();
        // A zombie takes signals, too.
        master.signal(Signal::SIGTERM);
        !is_alive(master.0)
    });
    running.wait().code()
}

on_every_backend! {
    fn a_worker_that_speaks_of_other_things_is_refused(backend: Backend) {
        let (place, hello) = open_to_all(backend, "hello");
        // By such a name it takes itself for its own worker.
        let worker = place.path().join("hello: worker of another");
        std::os::unix::fs::symlink(hello, &worker).expect("a link");
        let mut probe =
            Program::probe(backend, "serve").args(["--worker"]).args([&worker]).start();
        assert_eq!(probe.wait().code(), Some(1), "{}", probe.stderr());
        let log = probe.stderr();
        assert!(log.contains("the context is not a `()`"), "{log}");
        let last = log.lines().last().unwrap_or_default();
        assert!(last.contains("failed 5 times before it was ready: exit status 1"), "{log}");
        leaves_nothing(&probe);
    }

    fn a_worker_without_its_me_lives_until_it_is_told_to_stop(backend: Backend) {
        let mut probe = Program::probe(backend, "drops").start();
        probe.await_ready(1);
        let workers = probe.workers();
        control(&probe.control(), "status");
        assert_eq!(probe.workers(), workers);
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
        let log = probe.stderr();
        assert!(log.contains("has seen that it is to stop"), "{log}");
        assert!(!log.contains("restart"), "{log}");
    }

    fn a_worker_that_asks_other_things_is_refused(backend: Backend) {
        let probe = Program::probe(backend, "serve");
        std::fs::write(probe.path("group"), "confused").expect("a file");
        let mut probe = probe.start();
        assert_eq!(probe.wait().code(), Some(1), "{}", probe.stderr());
        let log = probe.stderr();
        let why = "master and worker differ in requests to the master";
        assert!(log.contains(why) && log.contains("Order"), "{log}");
        leaves_nothing(&probe);
    }

    fn a_worker_is_no_master(backend: Backend) {
        // A program that does not ask whether it is a worker would start itself for ever.
        let careless = Program::new(backend, "port-broker").with(|command| {
            command.args(["serve", "missing/ports", "--allow", "1:1"]);
            command.arg0("port-broker: worker ports id=0");
        });
        let (code, log) = careless.run();
        assert!(code == 1 && log.contains("`main` asks `is_worker()` first"), "{code}: {log}");
    }

    fn requests_in_flight_are_answered(backend: Backend) {
        let (mut service, address) = Running::service(backend, 1, &["--lock-file", "lock"]);
        let mut idle = HttpClient::connect(address).expect("a connection");
        idle.get().expect("an answer");
        let before = open_in_workers(&service);
        // The master cannot answer the worker yet, so that this request stays in its hands.
        service.signal(Signal::SIGSTOP);
        let mut in_hand = HttpClient::connect(address).expect("a connection");
        in_hand.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").expect("a request");
        let mut half = HttpClient::connect(address).expect("a connection");
        half.send(b"GET / HTTP/1.1\r\nHo").expect("half a request");
        eventually("both are accepted", || open_in_workers(&service) == before + 2);
        service.signal(Signal::SIGTERM);
        service.signal(Signal::SIGCONT);
        in_hand.receive().expect("the request in hand is answered");
        assert!(idle.is_closed(), "a connection without a request is closed");
        half.send(b"st: test\r\n\r\n").expect("the other half");
        half.receive().expect("the half request is answered when it is whole");
        assert_eq!(service.wait().code(), Some(0), "{}", service.stderr());
        leaves_nothing(&service);
    }

    fn a_worker_that_does_not_stop_is_killed(backend: Backend) {
        let mut probe = Program::probe(backend, "ignore-stop")
            .args(["--stop-deadline", "300"])
            .start();
        probe.await_ready(1);
        assert_eq!(probe.stop(), 3);
        let log = probe.stderr();
        assert!(log.contains("1 worker did not stop in time and was killed"), "{log}");
        leaves_nothing(&probe);
    }

    fn the_masters_main_task_has_its_time_to_finish(backend: Backend) {
        let mut probe = Program::probe(backend, "serve").args(["--main", "farewell"]).start();
        probe.await_ready(1);
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
        let farewell = std::fs::read_to_string(probe.path("farewell")).expect("it was written");
        assert_eq!(farewell, "true", "the lock was there until then");
        leaves_nothing(&probe);

        let mut probe = Program::probe(backend, "serve").args(["--main", "farewell-fails"]).start();
        probe.await_ready(1);
        assert_eq!(probe.stop(), 1, "{}", probe.stderr());
        leaves_nothing(&probe);

        // One that does not listen is not waited for.
        let mut probe = Program::probe(backend, "serve").args(["--main", "is-deaf"]).start();
        probe.await_ready(1);
        let asked = Instant::now();
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
        assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    }

    fn a_main_task_that_does_not_finish_is_cut_off(backend: Backend) {
        // Enough for the worker, on a busy machine too.
        let stays = ["--main", "stays", "--stop-deadline", "3000"];
        let mut probe = Program::probe(backend, "serve").args(stays).start();
        probe.await_ready(1);
        assert_eq!(probe.stop(), 3);
        let log = probe.stderr();
        assert!(log.contains("main task did not finish: it took too long"), "{log}");
        leaves_nothing(&probe);

        let mut probe = Program::probe(backend, "serve").args(["--main", "stays"]).start();
        probe.await_ready(1);
        probe.signal(Signal::SIGTERM);
        eventually("the worker has gone", || probe.workers().is_empty());
        assert_eq!(insist(&mut probe), Some(3));
        assert!(probe.stderr().contains("stopped at once"), "{}", probe.stderr());
        leaves_nothing(&probe);
    }

    fn a_later_signal_and_quit_stop_at_once(backend: Backend) {
        for signal in [Signal::SIGTERM, Signal::SIGQUIT] {
            let mut probe = Program::probe(backend, "ignore-stop")
                .args(["--stop-deadline", "60000"])
                .start();
            probe.await_ready(1);
            probe.signal(signal);
            let code = if signal == Signal::SIGQUIT { probe.wait().code() } else { insist(&mut probe) };
            assert_eq!(code, Some(3), "{}", probe.stderr());
            assert!(probe.stderr().contains("stopped at once"), "{}", probe.stderr());
            leaves_nothing(&probe);
        }
    }

    fn a_signal_that_comes_twice_is_one_request(backend: Backend) {
        let mut probe = Program::probe(backend, "ignore-stop")
            .args(["--stop-deadline", "300"])
            .start();
        probe.await_ready(1);
        // Both are there when the master goes on, whatever else the machine does.
        probe.signal(Signal::SIGSTOP);
        probe.signal(Signal::SIGTERM);
        probe.signal(Signal::SIGINT);
        probe.signal(Signal::SIGCONT);
        assert_eq!(probe.wait().code(), Some(3), "{}", probe.stderr());
        let log = probe.stderr();
        assert_eq!(log.matches("a signal arrived").count(), 2, "{log}");
        // The worker had all its time.
        assert!(!log.contains("stopped at once"), "{log}");
        assert!(log.contains("1 worker did not stop in time and was killed"), "{log}");
        leaves_nothing(&probe);
    }

    fn a_signal_after_a_stop_by_the_program_is_a_second_request(backend: Backend) {
        let start = |deadline: &str| {
            let probe = Program::probe(backend, "ignore-stop").args(["--stop-deadline", deadline]).start();
            probe.await_ready(1);
            probe
        };
        // At once it is the same request: the worker has all its time.
        let mut probe = start("1500");
        let mut asker = ControlClient::connect(&probe.control()).expect("a connection");
        probe.signal(Signal::SIGSTOP);
        asker.send(b"stop").expect("a request");
        probe.signal(Signal::SIGTERM);
        probe.signal(Signal::SIGCONT);
        assert_eq!(probe.wait().code(), Some(3), "{}", probe.stderr());
        assert!(!probe.stderr().contains("stopped at once"), "{}", probe.stderr());
        // Later it insists.
        let mut probe = start("60000");
        assert_eq!(control(&probe.control(), "stop"), "ok");
        assert_eq!(insist(&mut probe), Some(3));
        assert!(probe.stderr().contains("stopped at once"), "{}", probe.stderr());
        leaves_nothing(&probe);
    }

    fn ctrl_c_stops_in_order(backend: Backend) {
        let (mut service, address) = Running::service(backend, 2, &["--lock-file", "lock"]);
        http_get(address);
        let group = Pid::from_raw(-service.pid());
        kill(group, Signal::SIGINT).expect("the foreground group is signalled");
        assert_eq!(service.wait().code(), Some(0), "{}", service.stderr());
        leaves_nothing(&service);
    }

    fn no_worker_outlives_a_killed_master(backend: Backend) {
        for round in 0..30 {
            let mut service = Program::new(backend, "service")
                .listen(release_tests::free_port(), 4)
                .start();
            // In every state that a worker can be in: about to exec, dropping privileges, ready.
            let wanted = 1 + round % 4;
            while service.workers().len() < wanted && is_alive(service.pid()) {}
            service.signal(Signal::SIGKILL);
            service.wait();
            let killed = Instant::now();
            eventually("all its processes are gone", || service.processes().is_empty());
            assert!(killed.elapsed() < AT_ONCE, "{:?}", killed.elapsed());
        }
    }

    fn nor_does_one_that_listens_to_nobody(backend: Backend) {
        let mut probe = Program::probe(backend, "ignore-stop").args(["--workers", "3"]).start();
        probe.await_ready(3);
        probe.signal(Signal::SIGKILL);
        probe.wait();
        let killed = Instant::now();
        eventually("all its processes are gone", || probe.processes().is_empty());
        assert!(killed.elapsed() < AT_ONCE, "{:?}", killed.elapsed());
    }

    fn a_stop_during_the_start_leaves_nothing(backend: Backend) {
        for offset in 0..25 {
            let mut service = Program::new(backend, "service")
                .args(["--lock-file", "lock"])
                .listen(release_tests::free_port(), 2)
                .start();
            std::thread::sleep(Duration::from_millis(2 * offset));
            service.signal(Signal::SIGTERM);
            let status = service.wait();
            // Before the master catches signals it has nothing that it could leave behind.
            let early = status.signal() == Some(Signal::SIGTERM as i32);
            assert!(early || status.code() == Some(0), "{status}: {}", service.stderr());
            eventually("its processes are gone", || service.processes().is_empty());
            leaves_nothing(&service);
        }
    }

    fn what_a_launcher_did_to_signals_is_undone(backend: Backend) {
        let launcher = ["env", "--block-signal", "--ignore-signal=TERM,CHLD,HUP,INT,PIPE"];
        let (mut service, address) = Program::under(&launcher, backend, "service")
            .args(["--lock-file", "lock"])
            .serve(2);
        http_get(address);
        for process in service.processes() {
            assert_eq!(process.status("SigBlk").as_deref(), Some("0000000000000000"));
        }
        // PIPE only: Rust's own programs ignore it too.
        for thread in service.workers().into_iter().flat_map(|worker| worker.threads()) {
            assert_eq!(thread.status("SigIgn").as_deref(), Some("0000000000001000"));
        }
        service.workers()[0].signal(Signal::SIGKILL);
        eventually("the death is noticed", || service.stderr().contains("signal 9 (SIGKILL)"));
        service.await_ready(2);
        assert_eq!(service.stop(), 0, "{}", service.stderr());
        leaves_nothing(&service);
    }

    fn ten_thousand_signals_do_not_confuse_the_master(backend: Backend) {
        let (mut service, address) = Running::service(backend, 2, &["--lock-file", "lock"]);
        let master = service.process();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for signal in ["HUP", "CHLD", "USR1", "USR2", "PIPE"].iter().cycle().take(2_500) {
                        master.signal(format!("SIG{signal}").parse().expect("a signal"));
                    }
                });
            }
        });
        http_get(address);
        assert_eq!(service.stop(), 0, "{}", service.stderr());
        leaves_nothing(&service);
    }
}

/// The example's own rule, the same on every backend: half a request keeps a stop waiting, but not
/// as long as to make it fail.
#[test]
fn a_request_that_is_never_finished_is_not_waited_for() {
    let (mut service, address) = Running::service(Backend::Tokio, 1, &[]);
    let before = open_in_workers(&service);
    let mut half = HttpClient::connect(address).expect("a connection");
    half.send(b"GET / HTTP/1.1\r\nHo").expect("half a request");
    eventually("it is accepted", || open_in_workers(&service) == before + 1);
    assert_eq!(service.stop(), 0, "{}", service.stderr());
}
