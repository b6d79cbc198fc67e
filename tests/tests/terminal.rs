//! On a terminal: colours, a terminal that stands still, and one that belongs to somebody else just now.

use nix::sys::signal::Signal;
use release_tests::{
    Program, Running, Terminal, control, eventually, on_every_backend, try_control,
};

/// `release run` with one worker that says a line every 50 ms.
fn talks(launcher: &[&str]) -> Program {
    let line = "while :; do echo tick; sleep 0.05; done";
    let options = ["run", "--control", "control", "--ready", "0", "--", "sh", "-c", line];
    Program::release_under(launcher).args(options)
}

fn is_served(running: &Running) {
    eventually("it answers", || try_control(&running.control(), "ping").is_ok());
}

fn stop(mut running: Running) {
    assert_eq!(running.stop(), 0);
}

#[test]
fn a_terminal_has_colours_and_its_keys_stop_it() {
    let mut terminal = Terminal::new();
    let options = ["run", "--control", "control", "--ready", "0", "--", "sleep", "1000"];
    let mut running = terminal.start(Program::release_under(&["setsid", "--ctty"]).args(options));
    terminal.shows("all workers are ready");
    let text = terminal.text();
    assert!(text.contains("\x1b[32m INFO\x1b[0m"), "colours: {text:?}");
    assert!(!text.contains("panicked") && !text.contains("ANSI"), "{text}");
    terminal.type_in("\x03");
    assert_eq!(running.wait().code(), Some(0), "{}", terminal.text());
}

#[test]
fn colours_are_where_they_are_wanted() {
    for (name, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let mut terminal = Terminal::new();
        let program = talks(&["env", &format!("{name}={value}")]);
        let running = terminal.start(program);
        terminal.shows("tick");
        terminal.shows("all workers are ready");
        assert!(!terminal.text().contains('\x1b'), "{name}: {}", terminal.text());
        stop(running);
    }
}

#[test]
fn a_terminal_that_stands_still_holds_nothing_up() {
    let mut terminal = Terminal::new();
    let line = "echo begins; i=0; while [ $i -lt 4000 ]; do i=$((i+1)); \
                echo \"number $i of a line that is longer than most\"; done; echo ends; sleep 1000";
    let options = ["run", "--control", "control", "--ready", "0", "--", "sh", "-c", line];
    let running = terminal.start(Program::release_under(&["setsid", "--ctty"]).args(options));
    terminal.type_in("\x13");
    is_served(&running);
    assert_eq!(control(&running.control(), "scale 2"), "ok");
    terminal.type_in("\x11");
    eventually("everything is printed", || terminal.text().matches("] ends").count() == 2);
    let text = terminal.text();
    assert_eq!(text.matches("] number 4000 of").count(), 2, "{text}");
    assert!(!text.contains("lines are lost"), "{text}");
    stop(running);
}

#[test]
fn a_stopped_terminal_does_not_delay_the_end() {
    let mut terminal = Terminal::new();
    let running = terminal.start(talks(&["setsid", "--ctty"]));
    terminal.shows("tick");
    terminal.type_in("\x13");
    assert_eq!(control(&running.control(), "reload"), "ok");
    stop(running);
}

/// A shell with job control, on a terminal where writers of the background are stopped.
fn in_background(script: &str) -> (Terminal, Running) {
    let terminal = Terminal::new();
    let script = format!("set -m; stty tostop; {script} while :; do sleep 0.05; done");
    let launcher = ["setsid", "--ctty", "bash", "-c", &script, "bash"];
    let running = terminal.start(talks(&launcher));
    (terminal, running)
}

#[test]
fn who_writes_from_the_background_is_neither_stopped_nor_asked_for_less() {
    let (mut terminal, running) = in_background("\"$@\" &");
    is_served(&running);
    assert_eq!(control(&running.control(), "scale 3"), "ok");
    assert_eq!(control(&running.control(), "reload"), "ok");
    terminal.shows("[2 ");
    terminal.shows("tick");
    let status = control(&running.control(), "status");
    assert_eq!(status.matches("\"ready\"").count(), 3, "{status}");
    assert!(!terminal.text().contains("SIGTTOU"), "{}", terminal.text());
    assert_eq!(control(&running.control(), "stop"), "ok");
    eventually("it has ended", || try_control(&running.control(), "ping").is_err());
}

#[test]
fn who_reads_the_terminal_beside_it_asks_for_nothing() {
    // In one process group, which the kernel tells that one of it may not read.
    let (mut terminal, running) = in_background(
        "{ set +m; \"$@\" & while ! test -S control; do sleep 0.05; done; exec cat; } &",
    );
    running.await_ready(1);
    let reads = || running.processes().into_iter().find(|one| one.command_line() == "cat");
    eventually("the reader is stopped", || {
        reads().and_then(|one| one.status("State")).is_some_and(|state| state.starts_with('T'))
    });
    let status = control(&running.control(), "status");
    assert_eq!(status.matches("\"ready\"").count(), 1, "{status}");
    assert!(!terminal.text().contains("SIGTTIN"), "{}", terminal.text());
    assert_eq!(control(&running.control(), "stop"), "ok");
    reads().expect("the reader").signal(Signal::SIGKILL);
}

on_every_backend! {
    fn nothing_that_a_worker_prints_commands_the_terminal(backend: Backend) {
        let mut terminal = Terminal::new();
        let mut running = terminal.start(Program::probe(backend, "forge"));
        terminal.shows("\\u{1b}[2Jover");
        terminal.shows("second\\u{1b}[31m");
        terminal.shows("all workers are ready");
        let text = terminal.text();
        assert!(text.lines().any(|line| line.trim_end() == "    second\\u{1b}[31m"), "{text}");
        assert!(text.contains("\x1b[32m INFO\x1b[0m") && !text.contains("\x1b[2J"), "{text:?}");
        assert_eq!(running.stop(), 0, "{text}");
    }
}
