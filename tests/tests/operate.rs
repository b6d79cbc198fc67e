//! What operators ask of a service: the last words of a worker, signals to workers, events, and a program
//! that runs at each of them.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use release_core::{DeathReport, EventBatch, EventKind, ServiceEvent};
use release_tests::{
    Backend, Program, Running, control, eventually, free_port, is_alive, is_root, on_every_backend,
    try_control,
};

/// Workers that are a line of the shell, in a program of each backend.
fn shell(backend: Backend, options: &[&str], line: &str) -> Running {
    let program = Program::new(backend, "commands").args(["--control", "control"]).args(options);
    let running = program.args(["--", "sh", "-c", line]).start();
    eventually("it answers", || try_control(&running.control(), "status").is_ok());
    running
}

fn deaths(running: &Running) -> Vec<DeathReport> {
    serde_json::from_str(&control(&running.control(), "history")).expect("a history")
}

/// Waits for the first deaths, and returns them.
#[track_caller]
fn first_deaths(running: &Running, count: usize) -> Vec<DeathReport> {
    eventually("so many workers have died", || deaths(running).len() >= count);
    deaths(running)
}

/// The events in a file with one on each line.
fn events(path: &Path) -> Vec<ServiceEvent> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn kinds(path: &Path) -> Vec<EventKind> {
    events(path).into_iter().map(|event| event.event).collect()
}

/// More than is kept, with a line that is too long and control characters, and then the end.
const LAST_WORDS: &str = "seq 1000 >&2; head -c 60000 /dev/zero | tr '\\0' x >&2; echo >&2; \
                          printf '\\033[2J\\\\ <b>\\tlast' >&2; exit 3";

#[track_caller]
fn are_last_words(death: &DeathReport) {
    let lines = &death.last_lines;
    assert_eq!((&*death.exit, lines.len()), ("exit status 3", 8), "{death:?}");
    assert_eq!((&*lines[0], &*lines[5]), ("995", "1000"), "{lines:?}");
    assert_eq!(lines[6], "x".repeat(512));
    assert_eq!(lines[7], "\\u{1b}[2J\\ <b>\tlast");
}

on_every_backend! {
    fn the_history_has_the_last_words_of_a_worker(backend: Backend) {
        let mut running = shell(backend, &["--ready", "0", "--events", "events"], LAST_WORDS);
        let first = first_deaths(&running, 1);
        are_last_words(&first[0]);
        assert_eq!(first[0].killed_by, None);
        let path = running.path("events");
        eventually("the event is there", || kinds(&path).contains(&EventKind::WorkerDied));
        let events = events(&path);
        let died = events.iter().find(|event| event.event == EventKind::WorkerDied);
        let died = died.expect("the event");
        assert_eq!((died.pid, &died.last_lines), (Some(first[0].pid), &first[0].last_lines));
        assert_eq!((died.restarted, died.group.as_deref()), (Some(true), Some("any")));
        assert_eq!(events[0].event, EventKind::Starting);
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn a_signal_reaches_the_workers_that_are_meant(backend: Backend) {
        let line = "trap 'echo one >> got' USR1; touch ready; while :; do sleep 0.05; done";
        let mut running = shell(backend, &["--ready", "notify", "--ready-timeout", "60000"], line);
        let got = running.path("got");
        eventually("it could handle one", || running.path("ready").exists());
        let tell = |command: &str| control(&running.control(), command);
        // It is not ready, so it gets nothing.
        let refused = "error: no worker that is ready is meant by `all`";
        assert_eq!(tell("signal all USR1"), refused);
        assert_eq!(running.stop(), 0, "{}", running.stderr());
        assert!(!got.exists());

        let mut running = shell(backend, &["--ready", "100", "--workers", "2"], line);
        running.await_ready(2);
        let before: Vec<_> = running.workers().iter().map(|worker| worker.0).collect();
        let got = running.path("got");
        let signals = || fs::read_to_string(&got).unwrap_or_default().lines().count();
        let tell = |command: &str| control(&running.control(), command);
        assert_eq!(tell("signal all SIGUSR1"), "ok");
        eventually("both have it", || signals() == 2);
        assert_eq!(tell("signal any USR1"), "ok");
        eventually("both have it again", || signals() == 4);
        assert_eq!(tell("signal 1 USR1"), "ok");
        eventually("one has it", || signals() == 5);
        for (command, why) in [
            ("signal 7 USR1", "no worker that is ready is meant by `7`"),
            ("signal nobody USR1", "no worker that is ready is meant by `nobody`"),
            ("signal all KILL", "error: KILL ends or stops a worker: `restart ID` replaces one"),
            ("signal all 9", "error: `9` is no signal for workers"),
        ] {
            let answer = tell(command);
            assert!(answer.contains(why), "{command}: {answer}");
        }
        let after: Vec<_> = running.workers().iter().map(|worker| worker.0).collect();
        assert_eq!((after, signals()), (before, 5));
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }
}

/// Accepts nothing before the file `go` is there.
const LATE: &str = "import socket, os, time
listener = socket.socket(fileno=3)
listener.setblocking(True)
while not os.path.exists('go'): time.sleep(0.02)
while True: listener.accept()[0].close()
";

/// Connections that nobody has accepted yet.
fn crowd(address: SocketAddr) -> Vec<TcpStream> {
    (0..5).map(|_| TcpStream::connect(address).expect("a connection")).collect()
}

on_every_backend! {
    fn the_history_has_where_a_worker_hung(backend: Backend) {
        let line = "echo hello; systemd-notify --ready; exec sleep 1000";
        let mut running = shell(backend, &["--ready", "notify", "--heartbeat", "2000"], line);
        running.await_ready(1);
        let pid = running.workers()[0].0;
        eventually("it is killed", || !deaths(&running).is_empty());
        let death = deaths(&running).remove(0);
        assert_eq!((death.pid, death.killed.is_some()), (pid, true), "{death:?}");
        let [said, thread] = &death.last_lines[..] else { panic!("{death:?}") };
        assert_eq!(said, "hello");
        assert!(thread.starts_with(&format!("thread {pid} (sleep): sleeping")), "{thread}");
        assert!(!geteuid().is_root() || thread.contains(", system call "), "{thread}");
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn a_pool_grows_while_connections_wait_and_shrinks_again(backend: Backend) {
        let address = free_port();
        let listen = address.to_string();
        let options = ["--ready", "0", "--listen", &listen, "--workers", "1", "--grow-to", "3"];
        let program = Program::new(backend, "commands").args(["--control", "control"]);
        let program = program.args(options).args(["--events", "events", "--", "python3", "-c", LATE]);
        let mut running = program.start();
        running.await_ready(1);
        let waiting = crowd(address);
        running.await_ready(3);
        let path = running.path("events");
        let sizes = || {
            let resized = |event: &ServiceEvent| event.event == EventKind::Resized;
            let all = events(&path).into_iter().filter(resized);
            all.filter_map(|event| event.count).collect::<Vec<_>>()
        };
        // Many wait, so it grows at once; then by twice as many.
        eventually("it is reported", || sizes() == [2, 3]);
        let metrics = control(&running.control(), "metrics");
        assert!(metrics.contains("release_workers_limit{group=\"any\"} 3\n"), "{metrics}");
        fs::write(running.path("go"), "").expect("a file");
        drop(waiting);
        eventually("it shrinks, one by one", || sizes().starts_with(&[2, 3, 2]));
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }
}

#[test]
fn the_status_says_how_far_a_pool_grows() {
    let listen = format!("tcp://{}", free_port());
    let options = ["--ready", "0", "--listen", &listen, "--workers", "1", "--max-workers", "4"];
    let mut running = Program::manager_of_shell(&options, "exec sleep 1000").start();
    running.await_ready(1);
    let (code, table, error) = running.ctl(&["status"]);
    assert_eq!(code, Some(0), "{error}");
    let first = table.lines().next().unwrap_or_default();
    assert!(first.ends_with("1 of 1 workers ready, at most 4"), "{table}");
    assert_eq!(running.stop(), 0, "{}", running.stderr());
}

#[test]
fn a_pool_that_cannot_grow_is_refused_at_the_start() {
    for (options, why) in [
        (&["--workers", "3", "--max-workers", "2"][..], "it cannot grow from 3 to 2 workers"),
        (&["--max-workers", "2", "--listen", "unix://socket"], "with a TCP listener only"),
        (&["--max-workers", "2"], "with a TCP listener only"),
    ] {
        let program = Program::manager_of_shell(options, "exec sleep 1000");
        let (code, said) = program.run();
        assert!(code == 1 && said.contains(why), "{said}");
    }
}

#[test]
fn last_words_are_shown_and_kept_over_an_upgrade() {
    let line = format!("test -e twice && exec sleep 1000; touch twice; {LAST_WORDS}");
    let mut running = Program::manager_of_shell(&["--ready", "0"], &line).start();
    eventually("it answers", || try_control(&running.control(), "ping").is_ok());
    are_last_words(&first_deaths(&running, 1)[0]);
    assert_eq!(control(&running.control(), "upgrade"), "ok");
    let (code, table, said) = running.ctl(&["history"]);
    assert_eq!((code, &*said), (Some(0), ""));
    assert!(table.contains("exit status 3") && table.contains("\n    | 1000\n"), "{table}");
    assert!(table.ends_with("    | \\u{1b}[2J\\ <b>\tlast\n"), "{table}");
    let (_, json, _) = running.ctl(&["history", "--json"]);
    are_last_words(&serde_json::from_str(json.trim()).expect("JSON"));
    assert_eq!(running.stop(), 0, "{}", running.stderr());
}

#[test]
fn a_kill_by_somebody_else_is_told_from_one_by_the_master() {
    let mut running = Program::manager_of_shell(&["--ready", "0"], "exec sleep 1000").start();
    running.await_ready(1);
    kill(Pid::from_raw(running.workers()[0].0), Signal::SIGKILL).expect("it is there");
    let death = &first_deaths(&running, 1)[0];
    assert_eq!((&*death.exit, &death.killed), ("signal 9 (SIGKILL)", &None));
    let killer = death.killed_by.as_deref().unwrap_or_default();
    assert!(killer.starts_with("another process"), "{killer}");
    let (_, table, _) = running.ctl(&["history"]);
    assert!(table.contains(&format!("signal 9 (SIGKILL) by {killer}")), "{table}");
    assert_eq!(running.stop(), 0, "{}", running.stderr());
}

/// A control group with little memory, which is removed at the end.
struct Cramped(PathBuf);

impl Cramped {
    fn new() -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let made = groups.lines().find_map(|line| {
            let (_, group) = line.split_once(':')?;
            let (controllers, path) = group.split_once(':')?;
            let (root, limit) = match controllers {
                "" => ("/sys/fs/cgroup", "memory.max"),
                _ if controllers.split(',').any(|name| name == "memory") => {
                    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
                }
                _ => return None,
            };
            let name = format!("release-test-{}", std::process::id());
            let path = Path::new(root).join(path.trim_start_matches('/')).join(name);
            fs::create_dir(&path).ok()?;
            let made = Self(path);
            fs::write(made.0.join(limit), "67108864").ok()?;
            Some(made)
        });
        if made.is_none() {
            eprintln!("skipped: a control group with a limit of memory needs rights");
        }
        made
    }
}

impl Drop for Cramped {
    fn drop(&mut self) {
        // It is empty once the last process has been reaped.
        eventually("the control group is removed", || fs::remove_dir(&self.0).is_ok());
    }
}

#[test]
fn a_worker_that_the_kernel_kills_for_its_memory_is_told() {
    let Some(group) = Cramped::new() else { return };
    let join = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.0.display());
    let program = Program::release_under(&["sh", "-c", &join, "sh"]);
    let program = program.args(["run", "--control", "control", "--ready", "0"]);
    let line = "echo hungry >&2; exec tail /dev/zero";
    let mut running = program.args(["--", "sh", "-c", line]).start();
    eventually("it answers", || try_control(&running.control(), "ping").is_ok());
    let death = &first_deaths(&running, 1)[0];
    assert_eq!(death.killed_by.as_deref(), Some("the kernel, out of memory"), "{death:?}");
    assert_eq!(death.last_lines, ["hungry"]);
    let metrics = control(&running.control(), "metrics");
    assert!(metrics.contains("cause=\"out_of_memory\""), "{metrics}");
    assert_eq!(running.stop(), 0, "{}", running.stderr());
}

/// A hook in the directory of the program.
fn hook(program: &Program, script: &str) {
    let path = program.path("hook");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("it is written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a mode");
}

#[test]
fn a_program_runs_at_each_event() {
    let program = Program::release().args(["run", "--config", "run.conf"]);
    let text = "control = control\non-event = \"./hook\"\nready = 0\nworkers = 2\nenv = [\"COLOUR=red\"]\n\
                command = [\"sh\", \"-c\", \"echo first >&2; echo last >&2; exec sleep 1000\"]\n";
    fs::write(program.path("run.conf"), text).expect("a file");
    // A line at a time, and the argument says what the JSON says.
    hook(
        &program,
        "test \"$COLOUR\" = red || exit 1\n\
                    case $RELEASE_EVENT in *'\"event\":\"'$1'\"'*) printf '%s\\n' \"$RELEASE_EVENT\" >> events;; esac",
    );
    let mut running = program.start();
    running.await_ready(2);
    let path = running.path("events");
    eventually("the start was told", || kinds(&path).contains(&EventKind::Serving));
    assert_eq!(kinds(&path)[0], EventKind::Starting);
    let pid = running.workers()[0].0;
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is there");
    let dead = || events(&path).into_iter().find(|event| event.event == EventKind::WorkerDied);
    eventually("the death was told", || dead().is_some());
    let death = dead().expect("it is there");
    assert_eq!((death.pid, death.restarted), (Some(pid), Some(true)));
    assert_eq!(death.last_lines, ["first", "last"]);
    assert_eq!(control(&running.control(), "reload"), "ok");
    eventually("the reload was told", || kinds(&path).contains(&EventKind::Reloaded));
    assert_eq!(control(&running.control(), "upgrade"), "ok");
    eventually("the upgrade was told", || kinds(&path).contains(&EventKind::Upgraded));
    assert_eq!(running.stop(), 0, "{}", running.stderr());
    // Everything that happened during the stop, too.
    let all = kinds(&path);
    let stop = all.iter().rposition(|kind| *kind == EventKind::Stopping).expect("the stop");
    let died = all[stop..].iter().filter(|kind| **kind == EventKind::WorkerDied).count();
    assert_eq!(died, 2, "{all:?}");
}

#[test]
fn a_program_that_hangs_or_fails_holds_nothing_up() {
    let start = |script: &str| {
        let options = ["--ready", "0", "--stop-timeout", "2s", "--on-event", "./hook"];
        let program = Program::manager_of_shell(&options, "exec sleep 1000");
        hook(&program, script);
        let running = program.start();
        running.await_ready(1);
        running
    };
    let mut running = start("echo $$ > hanging; exec sleep 1000");
    let pid = running.path("hanging");
    let pid = || fs::read_to_string(&pid).unwrap_or_default().trim().parse().ok();
    eventually("it hangs", || pid().is_some());
    let pid: i32 = pid().expect("a number");
    for command in ["reload", "scale 2", "status"] {
        assert!(!control(&running.control(), command).starts_with("error"), "{command}");
    }
    assert!(is_alive(pid));
    assert_eq!(running.stop(), 0, "{}", running.stderr());
    assert!(!is_alive(pid), "it ends with the service");

    let mut running = start("exit 7");
    let fails = "--on-event: the program has failed event=\"starting\" exit=exit status 7";
    eventually("that is logged", || running.stderr().contains(fails));
    fs::remove_file(running.path("hook")).expect("it was there");
    assert_eq!(control(&running.control(), "reload"), "ok");
    eventually("that too", || running.stderr().contains("--on-event: the program was not started"));
    assert_eq!(running.stop(), 0, "{}", running.stderr());
}

/// However much time a stop may take, which this program would use up.
#[test]
fn a_stop_waits_for_the_program_of_events_for_a_moment() {
    let options = ["--ready", "0", "--stop-timeout", "1000s", "--on-event", "./hook"];
    for signal in [Signal::SIGTERM, Signal::SIGQUIT] {
        let program = Program::manager_of_shell(&options, "exec sleep 1000");
        hook(&program, "trap '' TERM; echo >> begun; sleep 1000; sleep 1000");
        let mut running = program.start();
        running.await_ready(1);
        eventually("it runs", || running.path("begun").exists());
        running.signal(signal);
        // It waits for less than it would for the hook.
        let status = running.wait();
        assert!(status.code().is_some(), "{signal}: {}", running.stderr());
    }
}

/// A follower that does something else when the last event comes.
#[test]
fn a_follower_that_is_busy_gets_the_last_event() {
    let line =
        "trap 'until [ -e go ]; do sleep 0.02; done; exit 0' TERM; while :; do sleep 0.02; done";
    let mut running = Program::manager_of_shell(&["--ready", "0"], line).start();
    running.await_ready(1);
    let socket = running.control();
    let mut next = 0;
    let mut ask = || {
        let text = control(&socket, &format!("events {next}"));
        let batch: EventBatch = serde_json::from_str(&text).expect(&text);
        next = batch.next;
        batch.events.into_iter().map(|event| event.event).collect::<Vec<_>>()
    };
    while !ask().contains(&EventKind::WorkerReady) {}
    running.signal(Signal::SIGTERM);
    while !ask().contains(&EventKind::Stopping) {}
    // Nobody waits for an event now.
    fs::write(running.path("go"), "").expect("a file");
    eventually("the end is near", || running.workers().is_empty());
    while !ask().contains(&EventKind::Finished) {}
    assert_eq!(running.wait().code(), Some(0));
}

#[test]
fn the_program_of_events_runs_as_the_account_of_the_workers() {
    if !is_root("another account") {
        return;
    }
    let options = ["--ready", "0", "--user", "nobody", "--on-event", "./hook"];
    let program = Program::manager_of_shell(&options, "exec sleep 1000");
    let set_mode = |path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
    };
    fs::create_dir(program.path("open")).expect("a directory");
    set_mode(program.path("open"), 0o777);
    set_mode(program.path(""), 0o755);
    hook(&program, "id -u > open/who; id -G > open/groups");
    let mut running = program.start();
    let read = |name| fs::read_to_string(running.path("open").join(name)).unwrap_or_default();
    eventually("it has run", || !read("groups").is_empty());
    assert_ne!(read("who").trim(), geteuid().to_string());
    assert!(!read("groups").split_whitespace().any(|group| group == "0"), "{}", read("groups"));
    assert_eq!(running.stop(), 0, "{}", running.stderr());
}

#[test]
fn log_files_are_rotated_and_no_line_is_lost() {
    // Each process counts from 1 to 3000, slowly enough for several rotations.
    let line = "for i in $(seq 30); do seq -f 'line %.0f' $((i*100-99)) $((i*100)); sleep 0.1; done; \
                echo end >> ended; exec sleep 1000";
    let options = ["--ready", "0", "--workers", "2", "--out", "log", "--err", "log"];
    let options = [&options[..], &["--rotate", "5K", "--rotate-keep", "1000"]].concat();
    let mut running = Program::manager_of_shell(&options, line).start();
    let ended = running.path("ended");
    let ends = || fs::read_to_string(&ended).unwrap_or_default().lines().count();
    eventually("both have written everything", || ends() == 2);
    assert_eq!(running.stop(), 0);
    let numbered = |number: u32| running.path(&format!("log.{number}"));
    let count = (1..).take_while(|number| numbered(*number).exists()).count();
    assert!(count >= 2, "{count} rotations");
    assert!(!running.path("log.next").exists());
    let earlier = (1..=1000).rev().map(numbered).filter(|path| path.exists());
    let all = earlier.chain([running.path("log")]).map(|path| {
        let text = fs::read_to_string(path).expect("a log file");
        assert!(text.is_empty() || text.ends_with('\n'), "a line is split");
        text
    });
    let all: String = all.collect();
    for worker in ["[0 ", "[1 "] {
        let lines = all.lines().filter(|line| line.starts_with(worker) && line.contains("] line "));
        let numbers = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u32>().ok());
        assert_eq!(numbers.collect::<Vec<_>>(), (1..=3000).collect::<Vec<_>>(), "{worker}");
    }
}

#[test]
fn a_rotation_that_is_not_possible_is_said() {
    for (options, why) in [
        (&["--rotate", "1M"][..], "there are no log files to rotate"),
        (&["--rotate-keep", "3"], "`--rotate-keep` is for files that are rotated"),
        (&["--rotate", "1M", "--out", "x", "--err", "x.1"], "would replace"),
        (&["--rotate", "1M", "--out", "./a/../x", "--pid-file", "x.next"], "would replace"),
        (&["--config", "rotated"], "would replace"),
    ] {
        let program = Program::manager_of_shell(options, "exec sleep 1000");
        let text = "out = \"x.5\" err = \"x\" rotate = 1MiB rotate-keep = 5\n";
        fs::write(program.path("rotated"), text).expect("a file");
        fs::create_dir(program.path("a")).expect("a directory");
        let (code, said) = program.run();
        assert!(code == 1 && said.contains(why), "{said}");
    }
    let options = ["--ready", "0", "--out", "log", "--err", "log", "--rotate", "100"];
    let program = Program::manager_of_shell(&options, "echo $(seq 100); exec sleep 1000");
    // The new file cannot have this name.
    fs::create_dir(program.path("log.next")).expect("a directory");
    let mut running = program.start();
    let log = running.path("log");
    let text = || fs::read_to_string(&log).unwrap_or_default();
    eventually("the reason is in the log", || text().contains("cannot rotate the log file"));
    assert!(!running.path("log.1").exists());
    fs::remove_dir(running.path("log.next")).expect("a directory");
    eventually("it is rotated as soon as that is possible", || running.path("log.1").exists());
    let earlier = fs::read_to_string(running.path("log.1")).expect("a log file");
    assert_eq!(earlier.matches("cannot rotate the log file").count(), 1, "{earlier}");
    assert_eq!(running.stop(), 0);
}
