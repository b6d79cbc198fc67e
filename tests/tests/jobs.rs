//! Pools of jobs: their outcomes whatever happens to workers and master.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::thread;

use nix::sys::signal::Signal;
use release_tests::{
    Backend, Installed, Process, Program, Running, control, eventually, on_every_backend,
};

fn start(backend: Backend, options: &[&str], workers: usize) -> Running {
    start_program(Program::new(backend, "pool").args(options), workers)
}

/// The workers have a directory for files of their own: they are another user's if this test is root's.
fn start_program(program: Program, workers: usize) -> Running {
    let work = program.path("work");
    fs::create_dir(&work).expect("a directory");
    for (directory, mode) in [(program.path("."), 0o755), (work, 0o777)] {
        fs::set_permissions(directory, Permissions::from_mode(mode)).expect("a mode");
    }
    let running = program.start();
    running.await_ready(workers);
    running
}

fn ask(running: &Running, request: &str) -> String {
    control(&running.control(), request)
}

/// Has a job done whose outcome is noted in the file `outcomes`.
fn note(running: &Running, job: &str) {
    assert_eq!(ask(running, &format!("note {job}")), "ok");
}

fn file_of(running: &Running, file: &str) -> PathBuf {
    running.path("work").join(file)
}

fn lines(running: &Running, file: &str) -> Vec<String> {
    let text = fs::read_to_string(file_of(running, file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn touch(running: &Running, file: &str) {
    fs::write(file_of(running, file), "").expect("a file");
}

fn awaits(running: &Running, file: &str, count: usize) -> Vec<String> {
    eventually(&format!("{count} lines in {file}"), || lines(running, file).len() >= count);
    lines(running, file)
}

/// The job of a line in the file `begun`, which begins with the process.
fn job_in(line: &str) -> String {
    line.split_once(' ').expect("a process and a job").1.to_owned()
}

/// The process that has begun this job.
fn process_of(running: &Running, job: &str) -> Process {
    let find = || {
        let begun = lines(running, "begun");
        let pid = begun.iter().find_map(|line| line.strip_suffix(&format!(" {job}")));
        pid.and_then(|pid| pid.parse().ok()).map(Process)
    };
    eventually(&format!("`{job}` has begun"), || find().is_some());
    find().expect("it has begun")
}

on_every_backend! {
    fn a_job_knows_how_its_worker_ended_or_gets_another_one(backend: Backend) {
        let mut running = start(backend, &[], 1);
        assert_eq!(ask(&running, "run -- echo hello"), "hello");
        assert_eq!(ask(&running, "run attempts=3 -- refuse"), "the worker refused the job: on purpose");
        assert_eq!(lines(&running, "begun").len(), 2, "a refusal is final");
        let said = thread::scope(|scope| {
            let asking = scope.spawn(|| ask(&running, "run -- wait never"));
            process_of(&running, "wait never").signal(Signal::SIGKILL);
            asking.join().expect("an answer")
        });
        assert_eq!(said, "the worker ended with the job in hand: signal 9 (SIGKILL)");
        let said = ask(&running, "run -- die-once first");
        assert_eq!(said, "the worker ended with the job in hand: exit status 7");
        let said = ask(&running, "run attempts=2 -- die-once second");
        running.await_ready(1);
        assert_eq!(said, running.workers()[0].0.to_string(), "the next worker has done it");
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn the_answer_that_a_worker_gives_at_its_end_arrives(backend: Backend) {
        let mut running = start(backend, &["--workers", "2"], 2);
        for turn in 0..4 {
            // Its main function returns when the job lets it, before the answer is on its way.
            let (word, before) = (turn.to_string(), running.workers());
            assert_eq!(ask(&running, &format!("run -- last {word}")), word, "{}", running.stderr());
            // Until the master knows of its end, it may be given the next job.
            let is_new = |worker: &Process| !before.contains(worker);
            eventually("another worker follows", || running.workers().iter().any(is_new));
        }
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn a_worker_that_hangs_in_a_job_is_replaced(backend: Backend) {
        let mut running = start(backend, &[], 1);
        let said = ask(&running, "run timeout=300 -- hang-once first");
        assert_eq!(said, "the job took too long, and its worker is replaced");
        assert_eq!(ask(&running, "run -- echo next"), "next");
        let hung = process_of(&running, "hang-once first");
        eventually("it is killed", || running.stderr().contains("a job was not done after 300.0ms"));
        assert!(!running.workers().contains(&hung));
        let said = ask(&running, "run timeout=300 attempts=2 -- hang-once second");
        running.await_ready(1);
        assert_eq!(said, running.workers()[0].0.to_string(), "the next worker has done it");
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn a_job_that_hangs_is_not_waited_for_in_a_stop(backend: Backend) {
        let mut running = start(backend, &[], 1);
        let said = thread::scope(|scope| {
            let asking = scope.spawn(|| ask(&running, "run timeout=1500 -- hang-once last"));
            process_of(&running, "hang-once last");
            running.signal(Signal::SIGTERM);
            asking.join().expect("an answer")
        });
        assert_eq!(said, "the job took too long, and its worker is replaced");
        let status = running.wait();
        let log = running.stderr();
        assert!(log.contains("a job was not done after 1.5s"), "{log}");
        assert_eq!(status.code(), Some(3), "it was killed: {log}");
    }

    fn reloads_under_load_lose_no_job(backend: Backend) {
        let mut running = start(backend, &["--workers=2"], 2);
        note(&running, "-- wait go");
        let before = process_of(&running, "wait go");
        thread::scope(|scope| {
            let clients: Vec<_> = (0..3)
                .map(|client| {
                    let running = &running;
                    scope.spawn(move || {
                        for number in 0..60 {
                            let word = format!("{client}-{number}");
                            assert_eq!(ask(running, &format!("run -- echo {word}")), word);
                        }
                    })
                })
                .collect();
            for _ in 0..3 {
                assert_eq!(ask(&running, "reload"), "ok");
            }
            clients.into_iter().for_each(|client| client.join().expect("all answers"));
        });
        // Its worker is told to stop when the job is done.
        assert!(running.workers().contains(&before));
        assert_eq!(lines(&running, "outcomes").len(), 0);
        touch(&running, "go");
        assert_eq!(awaits(&running, "outcomes", 1), [format!("wait go: {}", before.0)]);
        eventually("it ends", || !running.workers().contains(&before));
        assert!(!running.stderr().contains("SIGKILL"), "{}", running.stderr());
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn an_upgrade_finishes_jobs_in_hand_and_hands_the_others_over(backend: Backend) {
        let installed = Installed::new(backend, "pool");
        let mut running = start_program(installed.program(), 1);
        note(&running, "-- until-paused");
        let before = process_of(&running, "until-paused");
        for word in ["one", "two", "three"] {
            note(&running, &format!("key=a attempts=2 -- step order {word}"));
        }
        assert_eq!(ask(&running, "waiting"), "step order one, step order two, step order three");
        assert_eq!(ask(&running, "upgrade"), "ok");
        let log = running.stderr();
        assert!(log.contains("jobs of the version before: 3"), "{log}");
        let outcomes = awaits(&running, "outcomes", 4);
        assert_eq!(outcomes[0], format!("until-paused: {}", before.0));
        for word in ["one", "two", "three"] {
            let job = format!("step order {word}: ");
            let of_it = outcomes.iter().filter(|outcome| outcome.starts_with(&job));
            assert_eq!(of_it.count(), 1, "{outcomes:?}");
        }
        let order = ["begin one", "end one", "begin two", "end two", "begin three", "end three"];
        assert_eq!(lines(&running, "order"), order);
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn an_upgrade_is_refused_while_a_job_is_in_hand(backend: Backend) {
        let installed = Installed::new(backend, "pool");
        let mut running = start_program(installed.program(), 1);
        note(&running, "-- wait go");
        process_of(&running, "wait go");
        note(&running, "-- echo next");
        let said = ask(&running, "upgrade");
        assert!(said.contains("still answering after 5s: 1 jobs of group `pool`"), "{said}");
        touch(&running, "go");
        assert!(awaits(&running, "outcomes", 2).contains(&"echo next: next".to_owned()));
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn jobs_of_one_key_run_one_after_the_other(backend: Backend) {
        let mut running = start(backend, &["--workers=3"], 3);
        for number in 0..12 {
            note(&running, &format!("key=a -- step keyed {number}"));
        }
        let both = |number| [format!("begin {number}"), format!("end {number}")];
        let expected: Vec<_> = (0..12).flat_map(both).collect();
        assert_eq!(awaits(&running, "keyed", 24), expected);
        // Others do not wait for each other.
        for file in ["a", "b", "c"] {
            note(&running, &format!("-- wait {file}"));
        }
        let all = ["a", "b", "c"].map(|file| process_of(&running, &format!("wait {file}")).0);
        let all: std::collections::BTreeSet<_> = all.into();
        assert_eq!(all.len(), 3, "each in a process of its own");
        ["a", "b", "c"].iter().for_each(|file| touch(&running, file));
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn a_full_queue_makes_callers_wait(backend: Backend) {
        let mut running = start(backend, &["--queue=2"], 1);
        note(&running, "-- wait go");
        process_of(&running, "wait go");
        assert_eq!(ask(&running, "accept -- echo given-up"), "accepted");
        note(&running, "-- echo one");
        note(&running, "-- echo two");
        assert_eq!(ask(&running, "try -- echo three"), "the queue of jobs is full");
        thread::scope(|scope| {
            let waits = scope.spawn(|| ask(&running, "accept -- echo four"));
            eventually("it waits", || ask(&running, "waiting") == "echo one, echo two, echo four");
            assert!(!waits.is_finished());
            touch(&running, "go");
            assert_eq!(waits.join().expect("an answer"), "accepted");
        });
        awaits(&running, "outcomes", 3);
        let begun: Vec<_> = lines(&running, "begun").iter().map(|line| job_in(line)).collect();
        assert_eq!(begun[..3], ["wait go", "echo one", "echo two"]);
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn a_job_whose_future_is_dropped_is_cancelled(backend: Backend) {
        let mut running = start(backend, &[], 1);
        let worker = running.workers()[0];
        thread::scope(|scope| {
            let dropping = scope.spawn(|| ask(&running, "drop file=now -- mark dropped"));
            assert_eq!(process_of(&running, "mark dropped"), worker);
            let queued = scope.spawn(|| ask(&running, "drop file=first -- echo never"));
            eventually("it is queued", || ask(&running, "waiting") == "echo never");
            touch(&running, "first");
            assert_eq!(queued.join().expect("an answer"), "ok");
            assert!(!file_of(&running, "dropped").exists());
            touch(&running, "now");
            assert_eq!(dropping.join().expect("an answer"), "ok");
        });
        eventually("its handler is dropped", || file_of(&running, "dropped").exists());
        assert_eq!(ask(&running, "run -- echo next"), "next");
        assert!(!lines(&running, "begun").iter().any(|line| line.ends_with("never")));
        assert_eq!(running.workers(), [worker]);
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn a_stop_finishes_jobs_in_hand_and_tells_the_others(backend: Backend) {
        let mut running = start(backend, &[], 1);
        note(&running, "-- wait go");
        let worker = process_of(&running, "wait go");
        note(&running, "-- echo late");
        running.signal(Signal::SIGTERM);
        let told = awaits(&running, "outcomes", 1);
        assert_eq!(told, ["echo late: the master stops, and the job has not begun"]);
        touch(&running, "go");
        assert_eq!(running.wait().code(), Some(0), "{}", running.stderr());
        assert_eq!(lines(&running, "outcomes")[1], format!("wait go: {}", worker.0));
    }

    fn the_latest_progress_of_a_job_is_seen(backend: Backend) {
        let mut running = start(backend, &["--workers=2", "--per-worker=2"], 2);
        let said = ask(&running, "watch file=seen -- progress seen");
        assert!(said.starts_with("1 2 3 ") && said.len() > 6, "{said}");
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }
}

#[test]
fn the_example_counts_words() {
    for backend in [Backend::Tokio, Backend::Smol, Backend::AsyncStd] {
        let program = Program::new(backend, "jobs");
        let paths: Vec<_> = (10..40).map(|number| program.path(&format!("file{number}"))).collect();
        for (number, path) in (10..).zip(&paths) {
            fs::write(path, "a word ".repeat(number)).expect("a file");
        }
        let output = fs::File::create(program.path("output")).expect("a file");
        let program = program.args(&paths).with(|command| {
            command.stdout(output);
        });
        let mut running = program.start();
        assert_eq!(running.wait().code(), Some(0), "{}", running.stderr());
        let text = fs::read_to_string(running.path("output")).expect("the output");
        let mut counts: Vec<_> =
            text.lines().map(|line| line.trim().replace(" /", "  /")).collect();
        counts.sort();
        let expected =
            (10..).zip(&paths).map(|(count, path)| format!("{}  {}", 2 * count, path.display()));
        assert_eq!(counts, expected.collect::<Vec<_>>());
    }
}
