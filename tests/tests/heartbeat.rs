//! Workers that hang, and what master and worker tell each other of themselves.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use release_tests::{Process, Program, control, eventually, on_all_backends_at_once};

on_all_backends_at_once! {
    fn a_worker_that_blocks_its_executor_is_replaced(backend: Backend) {
        let probe = Program::probe(backend, "block").args(["--heartbeat", "2000"]).start();
        eventually("it blocks", || probe.stderr().contains("blocks"));
        let Process(pid) = probe.workers()[0];
        probe.tell("serve");
        let reason = "reason=hung: no answer to the heartbeat for 2.0s";
        let line = format!("killed worker=0 pid={pid} {reason}");
        eventually("it is killed", || probe.stderr().contains(&line));
        // Before that, the log has where it hung.
        let log = probe.stderr();
        let thread = format!("it hangs: thread {pid} (");
        let place = log.find(&thread).unwrap_or_else(|| panic!("no {thread}: {log}"));
        assert!(Some(place) < log.find(&line), "{log}");
        let told = log[place..].lines().next().unwrap_or_default();
        assert!(["running", "sleeping", "disk sleep"].iter().any(|it| told.contains(it)), "{told}");
        let may_know_more = nix::unistd::geteuid().is_root() && !told.contains("running");
        assert!(!may_know_more || told.contains("system call "), "{told}");
        probe.await_ready(1);
        // Once, and the one that serves is left alone.
        thread::sleep(Duration::from_millis(3500));
        assert_eq!(probe.stderr().matches("reason=hung").count(), 1, "{}", probe.stderr());
    }

    fn a_worker_with_a_stuck_unit_is_replaced(backend: Backend) {
        let mut probe = Program::probe(backend, "stuck").args(["--heartbeat", "2000"]).start();
        probe.await_ready(1);
        probe.tell("works");
        let reason = "reason=hung: a unit of work was not finished after ";
        eventually("it is killed", || probe.stderr().contains(reason));
        probe.await_ready(1);
        // Many units, none of them old.
        thread::sleep(Duration::from_millis(3500));
        assert_eq!(probe.stderr().matches("reason=hung").count(), 1, "{}", probe.stderr());
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
    }

    fn a_command_that_is_silent_is_replaced(backend: Backend) {
        let line = "test \"$WATCHDOG_PID\" = $$ || exit 1; systemd-notify --ready --status=$$; \
            while ! test -e quiet; do systemd-notify WATCHDOG=1; sleep 0.1; done; exec sleep 1000";
        let mut master = Program::new(backend, "commands")
            .args(["--control", "control", "--ready", "notify", "--heartbeat", "4000"])
            .args(["--", "sh", "-c", line])
            .start();
        master.await_ready(1);
        let Process(pid) = master.workers()[0];
        let status = format!("\"ready\" {pid}");
        eventually("it says how it is", || control(&master.control(), "status") == status);
        thread::sleep(Duration::from_millis(4500));
        assert!(!master.stderr().contains("killed"), "{}", master.stderr());
        std::fs::write(master.path("quiet"), "").expect("a file");
        let reason = "reason=hung: no answer to the heartbeat for 4.0s";
        let line = format!("killed worker=0 pid={pid} {reason}");
        eventually("it is killed", || master.stderr().contains(&line));
        std::fs::remove_file(master.path("quiet")).expect("a file");
        master.await_ready(1);
        assert_eq!(master.stop(), 0, "{}", master.stderr());
    }

    fn a_worker_may_take_its_time_to_start(backend: Backend) {
        let args = ["--heartbeat", "1500"];
        let mut probe = Program::probe(backend, "starts-slowly").args(args).start();
        probe.await_ready(1);
        thread::sleep(Duration::from_millis(3500));
        assert!(!probe.stderr().contains("killed"), "{}", probe.stderr());
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
    }

    fn a_master_that_was_stopped_itself_accuses_nobody(backend: Backend) {
        let mut probe = Program::probe(backend, "works")
            .args(["--heartbeat", "2000", "--workers", "3"])
            .start();
        probe.await_ready(3);
        for _ in 0..3 {
            probe.signal(Signal::SIGSTOP);
            thread::sleep(Duration::from_millis(3000));
            probe.signal(Signal::SIGCONT);
            probe.await_ready(3);
        }
        thread::sleep(Duration::from_millis(3000));
        assert!(!probe.stderr().contains("killed"), "{}", probe.stderr());
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
    }

    fn workers_that_were_stopped_themselves_are_left_alone(backend: Backend) {
        let mut probe = Program::probe(backend, "works")
            .args(["--heartbeat", "2000", "--workers", "3"])
            .start();
        probe.await_ready(3);
        let workers = probe.workers();
        for _ in 0..2 {
            // With their master, as a whole machine is.
            for process in workers.iter().chain([&probe.process()]) {
                process.signal(Signal::SIGSTOP);
            }
            thread::sleep(Duration::from_millis(2600));
            for process in [&probe.process()].into_iter().chain(&workers) {
                process.signal(Signal::SIGCONT);
            }
            thread::sleep(Duration::from_millis(500));
        }
        assert!(!probe.stderr().contains("killed"), "{}", probe.stderr());
        assert_eq!(probe.workers(), workers);
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
    }

    fn what_is_asked_over_frames_needs_call_mode(backend: Backend) {
        for option in ["--heartbeat", "--max-requests"] {
            let (code, log) = Program::probe(backend, "").args(["--plain", option, "1000"]).run();
            assert_eq!(code, 1, "{log}");
            let reason = "worker group `probe`: a heartbeat and a limit of requests need call mode";
            assert!(log.contains(reason), "{log}");
        }
    }

    fn both_sides_must_have_the_same_limits(backend: Backend) {
        let (code, log) = Program::probe(backend, "serve").args(["--frame-limit", "4096"]).run();
        assert_eq!(code, 1, "{log}");
        let reason = "master and worker differ in `frame_limit`: the master has 4096 \
                      (`Workers::frame_limit`), this worker 16777216 (`Worker::frame_limit`)";
        assert!(log.contains(reason), "{log}");
    }

    fn a_worker_knows_its_generation(backend: Backend) {
        let mut probe = Program::probe(backend, "serve").start();
        probe.await_ready(1);
        assert!(probe.stderr().contains("begins worker=0 configuration=\"first\" generation=1"), "{}", probe.stderr());
        assert_eq!(control(&probe.control(), "reload"), "ok");
        assert!(probe.stderr().contains("begins worker=0 configuration=\"first\" generation=2"));
        assert_eq!(probe.stop(), 0);
    }
}
