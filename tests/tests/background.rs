//! Daemons: what the launcher says, and what the daemon has left behind.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::signal::Signal;
use release_tests::{
    Backend, Daemon, Program, Running, control, eventually, free_port, http_get, on_every_backend,
};

/// `service --background` with relative paths: the daemon leaves the directory they mean.
fn service(launcher: &[&str], backend: Backend) -> (Program, std::net::SocketAddr) {
    let address = free_port();
    let program = Program::under(launcher, backend, "service")
        .args(["--background", "--lock-file", "lock"])
        .listen(address, 2);
    (program, address)
}

const DIRECTLY: [&str; 1] = ["env"];

fn launched(program: Program) -> (Running, Daemon) {
    let mut launcher = program.start();
    assert_eq!(launcher.wait().code(), Some(0), "{}", launcher.stderr());
    let daemon = Daemon::named_in(&launcher.path("lock"));
    (launcher, daemon)
}

on_every_backend! {
    fn status_0_means_that_it_serves(backend: Backend) {
        for _ in 0..20 {
            let (program, address) = service(&DIRECTLY, backend);
            let (launcher, daemon) = launched(program);
            http_get(address);
            assert_eq!(control(&launcher.control(), "ping"), "pong");
            daemon.stop();
            assert!(!launcher.path("lock").exists() && !launcher.control().exists());
        }
    }

    fn a_failed_start_is_told(backend: Backend) {
        let taken = TcpListener::bind(free_port()).expect("an address");
        let taken = taken.local_addr().expect("its address").to_string();
        let (program, _) = service(&DIRECTLY, backend);
        let (launcher, daemon) = launched(program);
        let (lock, pid) = (launcher.path("lock"), daemon.process().0.to_string());
        let long = "x".repeat(108);
        let failures = [
            (vec!["--listen", &taken], "Address already in use"),
            (vec!["--lock-file", lock.to_str().expect("a path")], pid.as_str()),
            (vec!["--lock-file", "missing/lock"], "No such file or directory"),
            (vec!["--control", &long], "the system allows 107"),
            (vec!["--control", "missing/control"], "No such file or directory"),
            (vec!["--user", "no-such-user"], "there is no user `no-such-user`"),
        ];
        for (options, why) in failures {
            if why.contains("user") && !release_tests::is_root("looking up the account") {
                continue;
            }
            let address = free_port().to_string();
            let program = Program::new(backend, "service").args(["--background"]);
            let program = match options[0] {
                "--listen" => program,
                _ => program.args(["--listen", &address]),
            };
            let (code, said) = program.args(&options).run();
            assert_eq!(code, 1, "{options:?}: {said}");
            let last = said.lines().last().unwrap_or_default();
            assert!(last.starts_with("service-") && last.contains(why), "{options:?}: {said}");
        }
        daemon.stop();
    }

    fn workers_that_cannot_start_are_told(backend: Backend) {
        let (code, said) = Program::probe(backend, "exit 3").args(["--background"]).run();
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("failed 5 times before it was ready: exit status 3"), "{said}");
    }

    fn nothing_of_the_launcher_is_left(backend: Backend) {
        let leaks = "exec \"$@\" 3</etc/passwd 7</dev/null 50</ 250>>/dev/null";
        let (program, _) = service(&["bash", "-c", leaks, "bash"], backend);
        let (launcher, daemon) = launched(program);
        let master = daemon.process();
        assert_eq!(master.link("cwd").as_deref(), Some("/"));
        assert_eq!(master.status("Umask").as_deref(), Some("0022"));
        for process in daemon.workers().into_iter().chain([master]) {
            let descriptors = process.descriptors();
            for (number, target) in &descriptors[..3] {
                // What workers write goes to their master.
                let is_of_worker = process != master && *number > 0 && target.starts_with("pipe:");
                assert!(target == "/dev/null" || is_of_worker, "{number}: {target}");
            }
            let lock = launcher.path("lock").to_string_lossy().into_owned();
            for (number, target) in &descriptors[3..] {
                let kinds = ["socket:", "anon_inode:", "pipe:", "/memfd:release-"];
                let own = kinds.iter().any(|kind| target.starts_with(kind));
                assert!(own || (*target == lock && process == master), "{number}: {target}");
                assert!(process.is_close_on_exec(*number), "{number}: {target}");
            }
        }
        let [parent, group, session, terminal] = master.stat()[..4] else { panic!("a stat line") };
        let (pid, launcher) = (i64::from(master.0), i64::from(launcher.pid()));
        assert!(session != pid && session != launcher && group != launcher && parent != launcher);
        assert_eq!(terminal, 0, "it has a terminal");
        assert_eq!(session, group, "the session that the daemon's own parent has begun");
        daemon.stop();
    }

    fn a_shell_that_reads_its_output_goes_on(backend: Backend) {
        let script = "output=$(\"$@\" 2>&1); code=$?; sleep 0; exit $code";
        let (program, address) = service(&["bash", "-c", script, "bash"], backend);
        let (_launcher, daemon) = launched(program);
        http_get(address);
        daemon.stop();
    }

    fn a_launcher_that_is_killed_does_not_matter(backend: Backend) {
        let mut launcher = Program::probe(backend, "silent")
            .args(["--background", "--ready-timeout", "200"])
            .start();
        let lock = launcher.path("lock");
        eventually("the daemon has begun", || {
            fs::read_to_string(&lock).is_ok_and(|text| text.ends_with('\n'))
        });
        launcher.signal(Signal::SIGKILL);
        launcher.wait();
        launcher.tell("serve");
        let daemon = Daemon::named_in(&lock);
        launcher.await_ready(1);
        daemon.stop();
        assert!(!lock.exists());
    }

    fn a_function_becomes_a_daemon(backend: Backend) {
        let daemon = |word: &str| {
            Program::new(backend, "probe")
                .args(["daemon", "--umask", "027", "--directory", "sub", "--word", word])
                .args(["--output", "out", "--error", "err"])
        };
        let program = daemon("");
        fs::create_dir(program.path("sub")).expect("a directory");
        let mut launcher = program.start();
        assert_eq!(launcher.wait().code(), Some(0), "{}", launcher.stderr());
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        assert!(read(&launcher.path("out")).ends_with("made true\n"));
        assert_eq!(read(&launcher.path("err")), "an error\n");
        let mode = |name: &str| launcher.path(name).metadata().expect("a file").mode() & 0o777;
        assert_eq!(mode("sub/made"), 0o640, "made in its directory, under its mask");
        assert_eq!(mode("out"), 0o640);

        for (word, why) in [("fail", "on purpose"), ("silent", "ended before it was ready")] {
            let program = daemon(word);
            fs::create_dir(program.path("sub")).expect("a directory");
            let (code, said) = program.run();
            assert_eq!(code, 1, "{said}");
            assert!(said.contains(why), "{said}");
        }
        let (code, said) = daemon("").run();
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("cannot use sub as working directory: No such file"), "{said}");
    }

    fn a_process_with_threads_refuses(backend: Backend) {
        let daemon = Program::new(backend, "probe").args(["daemon", "--thread"]);
        let master = Program::probe(backend, "").args(["--background", "--thread"]);
        for program in [daemon, master] {
            let (code, said) = program.run();
            assert_eq!(code, 1, "{said}");
            assert!(said.contains("has 2 threads and cannot fork safely"), "{said}");
        }
    }
}
