//! Log files that somebody moves away while workers without privileges write to them, as logrotate
//! does: every line is in one of the files, once.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use release_tests::{
    Backend, Daemon, Program, Running, can_inject, control, eventually, on_every_backend,
};

const ROTATIONS: usize = 10;

/// A daemon whose workers write all the time, to the files `out` and `err`.
fn writers(backend: Backend) -> (Running, Daemon) {
    let program = Program::probe(backend, "write").args([
        "--workers",
        "3",
        "--background",
        "--output",
        "out",
        "--error",
        "err",
    ]);
    launched(program)
}

fn launched(program: Program) -> (Running, Daemon) {
    let mut launcher = program.start();
    assert_eq!(launcher.wait().code(), Some(0), "{}", launcher.stderr());
    let daemon = Daemon::named_in(&launcher.path("lock"));
    (launcher, daemon)
}

/// Moves a file away, as logrotate does.
fn move_away(running: &Running, name: &str, to: usize) -> PathBuf {
    let moved = running.path(&format!("{name}.{to}"));
    fs::rename(running.path(name), &moved).expect("the file is moved");
    moved
}

/// The processes and the numbers that they have written, in the order of the file.
fn lines(path: &Path) -> Vec<(i32, u64)> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let numbers = text.lines().filter_map(|line| {
        let (pid, number) = line.strip_prefix("line ")?.split_once(' ')?;
        Some((pid.parse().ok()?, number.parse().ok()?))
    });
    numbers.collect()
}

fn writes_to(pid: i32, path: &Path) -> bool {
    lines(path).iter().any(|(writer, _)| *writer == pid)
}

/// All lines of all files in their order, which no process has left out or repeated.
fn nothing_is_lost(files: impl Iterator<Item = PathBuf>) {
    let mut next = HashMap::new();
    for path in files {
        let text = fs::read_to_string(&path).expect("a file");
        assert!(text.is_empty() || text.ends_with('\n'), "{path:?} ends in a line");
        for (pid, number) in lines(&path) {
            let expected: &mut u64 = next.entry(pid).or_default();
            assert_eq!(number, *expected, "of process {pid} in {path:?}");
            *expected += 1;
        }
    }
    assert!(next.len() >= 3 && next.values().all(|lines| *lines > 0), "{next:?}");
}

on_every_backend! {
    fn no_line_is_lost_when_the_files_are_moved(backend: Backend) {
        let (launcher, daemon) = writers(backend);
        for rotation in 0..ROTATIONS {
            let moved = ["out", "err"].map(|name| move_away(&launcher, name, rotation));
            daemon.process().signal(Signal::SIGUSR1);
            for name in ["out", "err"] {
                eventually("all workers write to the new file", || {
                    daemon.workers().iter().all(|worker| writes_to(worker.0, &launcher.path(name)))
                });
            }
            let sizes = || moved.each_ref().map(|path| path.metadata().expect("a file").len());
            let before = sizes();
            // One that comes up meanwhile was started with the old files, or with the new ones.
            assert_eq!(control(&launcher.control(), "restart 1"), "ok");
            assert_eq!(sizes(), before, "somebody writes to a file that was moved away");
        }
        daemon.stop();
        for name in ["out", "err"] {
            let moved = (0..ROTATIONS).map(|number| launcher.path(&format!("{name}.{number}")));
            nothing_is_lost(moved.chain([launcher.path(name)]));
        }
        let log = fs::read_to_string(launcher.path("err.1")).expect("a file");
        assert!(log.contains("the log files were opened again"), "{log}");
    }

    fn a_worker_that_comes_up_meanwhile_gets_the_new_files(backend: Backend) {
        if !can_inject("a worker that comes up slowly") {
            return;
        }
        // -D: the program that is started, and waited for, is the launcher and not the tracer.
        let slowly = ["strace", "-D", "-f", "-qq", "-o", "trace", "-e", "trace=execve", "-e"];
        let slowly = [&slowly[..], &["inject=execve:delay_enter=500ms"]].concat();
        let program = Program::under(&slowly, backend, "probe").as_master("write");
        let (launcher, daemon) = launched(program.args(["--background", "--output", "out"]));
        std::thread::scope(|scope| {
            let restart = scope.spawn(|| control(&launcher.control(), "restart 0"));
            eventually("a second process is on its way", || daemon.workers().len() == 2);
            move_away(&launcher, "out", 0);
            assert_eq!(control(&launcher.control(), "reopen"), "ok");
            assert_eq!(restart.join().expect("it is asked"), "ok");
        });
        eventually("the first process has gone", || daemon.workers().len() == 1);
        let worker = daemon.workers()[0].0;
        eventually("it writes to the new file", || writes_to(worker, &launcher.path("out")));
        daemon.stop();
    }

    fn a_file_that_cannot_be_opened_changes_nothing(backend: Backend) {
        let (launcher, daemon) = writers(backend);
        let moved = move_away(&launcher, "err", 0);
        fs::create_dir(launcher.path("err")).expect("a directory");
        let why = control(&launcher.control(), "reopen");
        let path = launcher.path("err").to_string_lossy().into_owned();
        assert_eq!(why, format!("cannot open the log file {path}: Is a directory (os error 21)"));
        daemon.process().signal(Signal::SIGUSR1);
        eventually("the reason is in the old log", || {
            let log = fs::read_to_string(&moved).unwrap_or_default();
            log.contains("the log goes on where it was") && log.contains(&path)
        });
        let before = lines(&moved).len();
        eventually("the workers go on", || lines(&moved).len() > before + 10);
        daemon.stop();
        assert!(launcher.path("err").is_dir());
        nothing_is_lost([moved].into_iter());
    }

    fn a_master_without_log_files_says_so(backend: Backend) {
        let mut probe = Program::probe(backend, "serve").start();
        probe.await_ready(1);
        let why = control(&probe.control(), "reopen");
        assert!(why.starts_with("there are no log files to open again"), "{why}");
        // Ignored, as ever: it would be the end of the process.
        probe.signal(Signal::SIGUSR1);
        probe.await_ready(1);
        assert_eq!(probe.stop(), 0);
    }

    fn ones_own_program_is_a_daemon_without_workers(backend: Backend) {
        // A terminal that the launcher is attached to, and the daemon must not be.
        let terminal = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
        let program = Program::under(&["python3", "-c", terminal], backend, "daemon");
        let (launcher, daemon) = launched(program.args(["lock", "log"]));
        let log = launcher.path("log");
        let says = |text: &str| fs::read_to_string(&log).is_ok_and(|log| log.contains(text));
        eventually("it works", || says("up\n"));
        assert_eq!(daemon.process().stat()[3], 0, "it has a terminal");
        let moved = move_away(&launcher, "log", 0);
        daemon.process().signal(Signal::SIGUSR1);
        eventually("it goes on in the new file", || says("still there\n"));
        daemon.process().signal(Signal::SIGTERM);
        eventually("it has saved", || says("saving\nsaved\n"));
        daemon.stop();
        assert!(!launcher.path("lock").exists(), "the pid file is left");
        assert!(fs::read_to_string(moved).is_ok_and(|log| log.starts_with("up\n")));
    }
}
