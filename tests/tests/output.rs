//! What workers write: nothing of it is lost while somebody reads, and nobody waits for a reader but the
//! worker that writes.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, PipeReader, Read};
use std::process::Stdio;
use std::thread;

use nix::sys::signal::Signal;
use release_tests::{Daemon, Program, Running, control, eventually, on_every_backend, try_control};

/// What the process has written to of its memory, in KiB: how much of its executable it has read
/// depends on the build.
fn written_kib(running: &Running) -> u64 {
    let text = fs::read_to_string(running.process().path("smaps_rollup")).expect("its memory");
    let lines = text.lines().filter(|line| line.starts_with("Private_Dirty"));
    lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
}

/// `release run` whose standard output is a pipe.
fn piped(options: &[&str], line: &str) -> (Running, PipeReader) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let options = [&["--ready", "0"], options].concat();
    let program = Program::manager_of_shell(&options, line).with(|command| {
        command.stdout(Stdio::from(writer));
    });
    (program.start(), reader)
}

/// The lines of each prefix, which are numbered from 1 on; whole, in order, and none missing.
fn numbered(text: &str) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for line in text.lines() {
        let (who, number) = line.split_once("] line ").unwrap_or_else(|| panic!("{line:?}"));
        let count: &mut usize = counts.entry(who.to_owned()).or_default();
        *count += 1;
        assert_eq!(number, count.to_string(), "{line}");
    }
    counts
}

const LINES: &str = "seq -f 'line %.0f' 60000";

#[test]
fn a_slow_reader_gets_everything_and_the_worker_waits() {
    let line = format!("{LINES}; exec sleep 1000");
    let (mut running, mut reader) = piped(&["--workers", "3"], &line);
    eventually("it answers", || try_control(&running.control(), "ping").is_ok());
    // More is there than all pipes and the queue hold: each worker waits in its `seq`.
    let waits = || {
        let processes = running.processes();
        let seqs = processes.iter().filter(|one| one.command_line().starts_with("seq "));
        seqs.filter(|one| one.status("State").is_some_and(|it| it.starts_with('S'))).count()
    };
    eventually("all wait", || waits() == 3);
    assert_eq!(control(&running.control(), "scale 4"), "ok");
    assert!(written_kib(&running) < 8 * 1024, "{} KiB", written_kib(&running));
    let (mut text, mut block, mut ends) = (Vec::new(), [0; 1000], 0);
    while ends < 4 {
        let before = text.len().saturating_sub(20);
        let count = reader.read(&mut block).expect("output");
        text.extend_from_slice(&block[..count]);
        let seen = |part: &[u8]| String::from_utf8_lossy(part).matches("] line 60000\n").count();
        ends += seen(&text[before..]) - seen(&text[before..text.len() - count]);
    }
    let text = String::from_utf8(text).expect("UTF-8");
    let counts = numbered(&text);
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [60_000; 4]);
    assert_eq!(running.stop(), 0, "{}", running.stderr());
}

#[test]
fn last_words_arrive_though_the_reader_has_stopped() {
    // The queue is full of the first worker's lines when the second one dies.
    let line = "if [ $EINHORN_CHILD_INDEX = 0 ]; then exec yes; fi; while ! test -e go; do sleep 0.01; \
                done; seq -f 'word %.0f' 5000; echo last; kill -9 $$";
    let (running, mut reader) = piped(&["--workers", "2", "--respawn", "on-failure"], line);
    let fills = || running.workers().iter().any(|one| one.command_line() == "yes");
    eventually("the first one writes", fills);
    eventually("it answers", || try_control(&running.control(), "ping").is_ok());
    File::create(running.path("go")).expect("a file");
    eventually("its death is noticed", || running.stderr().contains("SIGKILL"));
    fs::remove_file(running.path("go")).expect("the file");
    let text = BufReader::new(&mut reader).lines().map(|line| line.expect("a line"));
    let words = text.take_while(|line| !line.ends_with("] last"));
    let words = words.filter(|line| line.contains("] word ")).count();
    assert_eq!(words, 5000);
}

#[test]
fn an_upgrade_loses_nothing_of_what_nobody_reads() {
    let (mut running, reader) = piped(&[], "seq -f 'line %.0f' 4000; exec sleep 1000");
    let has_written = |running: &Running| {
        let workers = running.workers();
        workers.len() == 1 && workers[0].command_line() == "sleep 1000"
    };
    eventually("all is written", || has_written(&running));
    for _ in 0..2 {
        let old = running.workers();
        assert_eq!(control(&running.control(), "upgrade"), "ok");
        eventually("so has the next one", || running.workers() != old && has_written(&running));
        assert!(running.stderr().contains("the new version takes over"));
    }
    let reading = thread::spawn(move || std::io::read_to_string(reader).expect("UTF-8"));
    assert_eq!(running.stop(), 0, "{}", running.stderr());
    let counts = numbered(&reading.join().expect("all of it"));
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [4000; 3]);
}

#[test]
fn old_workers_are_heard_where_the_next_version_takes_no_output() {
    let line = "trap 'echo last words; exit 0' TERM; while :; do sleep 0.05; done";
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(&file, "output = prefixed\n").expect("the file");
    let path = file.path().to_string_lossy().into_owned();
    let (mut running, reader) = piped(&["--config", &path], line);
    running.await_ready(1);
    fs::write(&file, "output = inherit\n").expect("the file");
    let reading = thread::spawn(move || std::io::read_to_string(reader).expect("UTF-8"));
    assert_eq!(control(&running.control(), "upgrade"), "ok");
    assert_eq!(running.stop(), 0, "{}", running.stderr());
    // One word from the old worker through the master, and one from the new one.
    assert_eq!(reading.join().expect("all of it").matches("last words").count(), 2);
}

#[test]
fn nobody_who_reads_loses_anything_of_a_burst() {
    let (mut running, reader) = piped(&["--respawn", "never", "--workers", "2"], LINES);
    let text = std::io::read_to_string(reader).expect("UTF-8");
    assert_eq!(running.wait().code(), Some(0), "{}", running.stderr());
    let counts: Vec<_> = numbered(&text).into_values().collect();
    assert_eq!(counts, [60_000, 60_000]);
}

#[test]
fn a_socket_as_standard_output_is_not_waited_for_either() {
    let (mut reader, writer) = std::os::unix::net::UnixStream::pair().expect("sockets");
    let line = format!("{LINES}; exec sleep 1000");
    let program = Program::manager_of_shell(&["--ready", "0"], &line).with(|command| {
        command.stdout(Stdio::from(std::os::fd::OwnedFd::from(writer)));
    });
    let mut running = program.start();
    eventually("it answers", || try_control(&running.control(), "ping").is_ok());
    assert_eq!(control(&running.control(), "scale 2"), "ok");
    assert_eq!(control(&running.control(), "scale 1"), "ok");
    let (mut text, mut block) = (Vec::new(), [0; 65_536]);
    while !text.ends_with(b" line 60000\n") {
        let count = reader.read(&mut block).expect("output");
        text.extend_from_slice(&block[..count]);
    }
    assert_eq!(running.stop(), 0, "{}", running.stderr());
}

#[test]
fn formats_are_as_they_are_called() {
    let line = "printf '\\033[31mred\\033[0m \"x\"\\n'";
    for (format, expected) in [
        ("prefixed", "[0 PID] \\u{1b}[31mred\\u{1b}[0m \"x\"\n"),
        ("raw", "\x1b[31mred\x1b[0m \"x\"\n"),
        ("inherit", "\x1b[31mred\x1b[0m \"x\"\n"),
        (
            "json",
            "{\"worker\":0,\"pid\":PID,\"stream\":\"stdout\",\
             \"message\":\"\\u001b[31mred\\u001b[0m \\\"x\\\"\"}\n",
        ),
    ] {
        let line = format!("echo $$ > pid; {line}");
        let (mut running, reader) = piped(&["--respawn", "never", "--output", format], &line);
        let text = std::io::read_to_string(reader).expect("UTF-8");
        running.wait();
        let pid = fs::read_to_string(running.path("pid")).expect("a pid");
        assert_eq!(text, expected.replace("PID", pid.trim()), "{format}");
    }
    let (code, said) = Program::manager(&["--output", "xml"]).args(["true"]).run();
    assert!(code == 2 && said.contains("prefixed, raw, json or inherit"), "{said}");
}

#[test]
fn long_lines_are_whole_up_to_the_limit() {
    let line = "head -c 60000 /dev/zero | tr '\\0' x; echo; echo short";
    let (mut running, reader) = piped(&["--respawn", "never", "--output", "raw"], line);
    let text = std::io::read_to_string(reader).expect("UTF-8");
    running.wait();
    assert_eq!(text, format!("{}\nshort\n", "x".repeat(60_000)));
    let options = ["--respawn", "never", "--output", "raw", "--line-limit", "50000"];
    let (mut running, reader) = piped(&options, line);
    let text = std::io::read_to_string(reader).expect("UTF-8");
    running.wait();
    assert_eq!(text, format!("{}\n{}\nshort\n", "x".repeat(50_000), "x".repeat(10_000)));
}

#[test]
fn a_limit_is_kept_and_what_is_over_it_counted() {
    let options = ["--respawn", "never", "--log-limit", "100"];
    let (mut running, reader) = piped(&options, "seq 5000");
    let text = std::io::read_to_string(reader).expect("UTF-8");
    running.wait();
    let log = running.stderr();
    let dropped =
        log.lines().filter_map(|line| line.split("lines=").nth(1)?.trim().parse::<usize>().ok());
    let dropped: usize = dropped.sum();
    let lines = text.lines().count();
    assert!(lines >= 100 && dropped > 0, "{log}");
    assert_eq!(lines + dropped, 5000, "{log}");
}

#[test]
fn files_are_appended_to_and_opened_again() {
    let line = "while :; do echo out; echo err >&2; sleep 0.01; done";
    let options = ["--ready", "0", "--out", "out", "--err", "err"];
    let mut running = Program::manager_of_shell(&options, line).start();
    let read = |name: &str| fs::read_to_string(running.path(name)).unwrap_or_default();
    eventually("both are written", || read("out").contains("out") && read("err").contains("] err"));
    assert!(read("err").contains("all workers are ready"), "{}", read("err"));
    let reopen: [&dyn Fn(); 2] = [&|| running.signal(Signal::SIGUSR1), &|| {
        assert_eq!(control(&running.control(), "reopen"), "ok");
    }];
    for (number, reopen) in reopen.into_iter().enumerate() {
        for name in ["out", "err"] {
            let moved = format!("{name}.{number}");
            fs::rename(running.path(name), running.path(&moved)).expect("it is moved");
        }
        reopen();
        eventually("the new ones are written", || {
            read("out").contains("out\n") && read("err").contains("] err\n")
        });
        assert!(read("out.0").ends_with("] out\n"));
    }
    assert_eq!(running.stop(), 0);
    let program = Program::release().args(["run", "--config", "run.conf"]);
    let text = "out = \"log\"\nerr = \"log\"\noutput = json\nline-limit = 1000\nlog-limit = 50\n\
                respawn = never\nready = 0\ncommand = [\"echo\", \"words\"]\n";
    fs::write(program.path("run.conf"), text).expect("a file");
    let mut running = program.start();
    assert_eq!(running.wait().code(), Some(0), "{}", running.stderr());
    let log = fs::read_to_string(running.path("log")).expect("a log");
    assert!(log.contains("\"stream\":\"stdout\",\"message\":\"words\"}\n"), "{log}");
}

#[test]
fn a_start_that_fails_says_why_where_it_was_started() {
    let options = ["run", "--ready", "0.2", "--respawn", "never", "--err", "err"];
    for background in [&[][..], &["--background"]] {
        let program = Program::release().args(options).args(background);
        let (code, said) = program.args(["--", "sh", "-c", "echo the reason >&2; exit 3"]).run();
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("] the reason\n") && said.contains("exit status 3"), "{said}");
        assert_eq!(said.matches("release: ").count(), 1, "{said}");
    }
}

#[test]
fn socketmaster_loses_nothing() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let address = format!("-listen=tcp://{}", release_tests::free_port());
    let program = Program::socketmaster()
        .args([&address, "-start=0", "-command=sh", "--", "-c", LINES])
        .with(|command| {
            command.stdout(Stdio::from(writer));
        });
    let mut running = program.start();
    let text = std::io::read_to_string(reader).expect("UTF-8");
    assert_eq!(running.wait().code(), Some(0), "{}", running.stderr());
    assert_eq!(numbered(&text).into_values().collect::<Vec<_>>(), [60_000]);
}

on_every_backend! {
    fn workers_of_the_library_write_to_their_master(backend: Backend) {
        let mut running = Program::probe(backend, "burst 20000")
            .with(|command| {
                command.stdout(File::create("/dev/null").expect("a file"));
            })
            .start();
        running.await_ready(1);
        let own = running.workers()[0].descriptors();
        assert!(own[1..3].iter().all(|(_, target)| target.starts_with("pipe:")), "{own:?}");
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn a_closed_pipe_kills_no_worker(backend: Backend) {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut running = Program::probe(backend, "burst 20000")
            .with(|command| {
                command.stdout(Stdio::from(writer));
            })
            .start();
        running.await_ready(1);
        assert!(!running.stderr().contains("worker failed"), "{}", running.stderr());
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn a_burst_of_a_worker_is_complete(backend: Backend) {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let mut running = Program::probe(backend, "burst 50000")
            .with(|command| {
                command.stdout(Stdio::from(writer));
            })
            .start();
        let lines = BufReader::new(reader).lines().take(50_000);
        for (number, line) in lines.enumerate() {
            assert_eq!(line.expect("a line"), format!("line {number}"));
        }
        running.await_ready(1);
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn panics_are_in_the_log_with_the_number_of_the_worker(backend: Backend) {
        for (behaviour, message) in
            [("panic", "panicked: on purpose"), ("panic-in-task", "panicked: in a task")]
        {
            let program = Program::probe(backend, behaviour);
            let mut launcher = program.args(["--background", "--error", "err"]).start();
            launcher.wait();
            let log = || fs::read_to_string(launcher.path("err")).unwrap_or_default();
            let is_there = |line: &str| line.contains(message) && line.contains("worker=0");
            eventually("the log has it", || log().lines().any(is_there));
            if behaviour == "panic-in-task" {
                Daemon::named_in(&launcher.path("lock")).stop();
            } else {
                // The launcher has heard it, too.
                assert!(launcher.stderr().contains(message), "{}", launcher.stderr());
            }
        }
    }
}
