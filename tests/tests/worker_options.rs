//! What single workers have for themselves, as /proc shows it.

use std::fs;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, chown};
use release_tests::{
    Backend, Process, Program, Running, can_inject, control, eventually, is_root, on_every_backend,
    open_to_all,
};

/// `probe` with so many workers, and what is different about some of them.
fn probe(backend: Backend, workers: usize, options: &str) -> Program {
    let program = Program::probe(backend, "serve").args(["--workers", &workers.to_string()]);
    fs::write(program.path("options"), options).expect("the options");
    program.args(["--keep", "GROUP", "--keep", "BOTH"]).with(|command| {
        command.env("GROUP", "group").env("BOTH", "group");
    })
}

fn started(backend: Backend, workers: usize, options: &str) -> Running {
    let running = probe(backend, workers, options).start();
    running.await_ready(workers);
    running
}

/// The process of the worker with this identity, which `ps` shows.
#[track_caller]
fn worker(running: &Running, id: u32) -> Process {
    let name = format!("worker probe id={id}");
    let mut all = running.workers().into_iter();
    let found = all.find(|worker| arguments(*worker).first().is_some_and(|it| it.ends_with(&name)));
    found.unwrap_or_else(|| panic!("there is no {name}; log: {}", running.stderr()))
}

/// None of a process that has ended meanwhile.
fn arguments(process: Process) -> Vec<String> {
    let bytes = fs::read(process.path("cmdline")).unwrap_or_default();
    let text = String::from_utf8(bytes).expect("a command line");
    text.split_terminator('\0').map(str::to_owned).collect()
}

/// The priority, which `stat` has at place 19, counted from the pid.
fn nice(process: Process) -> i64 {
    process.stat()[15]
}

fn processors(process: Process) -> String {
    process.status("Cpus_allowed_list").expect("it lives")
}

/// The soft and the hard limit in a line of /proc/PID/limits.
#[track_caller]
fn limit(process: Process, name: &str) -> [String; 2] {
    let limits = fs::read_to_string(process.path("limits")).expect("it lives");
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).expect("a limit");
    let mut words = line.split_whitespace().map(str::to_owned);
    [(); 2].map(|()| words.next().expect("a number"))
}

fn all_limits(process: Process) -> String {
    fs::read_to_string(process.path("limits")).expect("it lives")
}

/// Whether root may do here what it may on a machine of its own; says so when it may not.
fn can(program: &str, arguments: &[&str]) -> bool {
    let done = Command::new(program).args(arguments).stderr(Stdio::null()).status();
    let works = done.is_ok_and(|status| status.success());
    if !works {
        eprintln!("skipped: here root cannot do `{program} {}`", arguments.join(" "));
    }
    works
}

/// The first and the last processor that this test may use: the same one where there is only one.
fn two_processors() -> [String; 2] {
    let list = processors(Process(std::process::id().cast_signed()));
    let mut numbers: Vec<_> = list.split([',', '-']).map(str::to_owned).collect();
    let last = numbers.pop().expect("a processor");
    [numbers.into_iter().next().unwrap_or_else(|| last.clone()), last]
}

on_every_backend! {
    fn each_worker_has_what_was_said_of_it(backend: Backend) {
        if !is_root("workers under another user") {
            return;
        }
        let [first, last] = two_processors();
        let space = 1_u64 << 40;
        let options = format!(
            "0 argument --port=8000\n0 argument second\n0 variable OWN a=b\n0 variable BOTH own\n\
             0 processors {first}\n0 nice 7\n0 files 100 200\n0 core 0 0\n0 space {space} {space}\n\
             0 processes 5000 6000\n0 size 4096 8192\n\
             1 argument --port=8001\n1 processors {last}\n1 nice 3\n1 files 300 300\n"
        );
        let mut running = started(backend, 3, &options);
        let workers = [0, 1, 2].map(|id| worker(&running, id));

        assert_eq!(workers.map(|worker| arguments(worker)[1..].join(" ")),
            ["--port=8000 second", "--port=8001", ""]);
        let own = ["BOTH=own", "GROUP=group", "OWN=a=b"];
        let group = ["BOTH=group", "GROUP=group"];
        for (worker, expected) in workers.iter().zip([&own[..], &group, &group]) {
            let mut environment = worker.environment();
            environment.sort();
            assert_eq!(environment, expected);
        }
        let master = running.process();
        assert_eq!(workers.map(processors), [first, last, processors(master)]);
        assert_eq!(workers.map(nice), [7, 3, nice(master)]);
        assert_eq!(limit(workers[0], "Max open files"), ["100", "200"]);
        assert_eq!(limit(workers[0], "Max core file size"), ["0", "0"]);
        assert_eq!(limit(workers[0], "Max address space"), [space.to_string(), space.to_string()]);
        assert_eq!(limit(workers[0], "Max processes"), ["5000", "6000"]);
        assert_eq!(limit(workers[0], "Max file size"), ["4096", "8192"]);
        assert_eq!(limit(workers[1], "Max open files"), ["300", "300"]);
        assert_eq!(limit(workers[1], "Max file size"), limit(master, "Max file size"));
        assert_eq!(all_limits(workers[2]), all_limits(master));
        assert_eq!(running.stop(), 0);
    }

    fn a_priority_takes_root_and_is_set_before_root_is_given_up(backend: Backend) {
        if !is_root("a higher priority") || !can("nice", &["-n", "-5", "true"]) {
            return;
        }
        let mut running = started(backend, 1, "0 nice -5\n");
        let worker = worker(&running, 0);
        assert_eq!((worker.numbers("Uid"), nice(worker)), (vec![65534; 4], -5));
        assert_eq!(running.stop(), 0);
    }

    fn workers_are_killed_before_their_master_when_memory_runs_out(backend: Backend) {
        let protect = "echo -500 >/proc/self/oom_score_adj";
        if !is_root("protecting a process") || !can("sh", &["-c", protect]) {
            return;
        }
        let launcher = ["sh", "-c", &format!("{protect}; exec \"$@\""), "sh"];
        let mut running = Program::under(&launcher, backend, "probe").as_master("serve").start();
        running.await_ready(1);
        let score = |process: Process| {
            fs::read_to_string(process.path("oom_score_adj")).expect("it lives").trim().to_owned()
        };
        assert_eq!(score(running.process()), "-500");
        assert_eq!(score(worker(&running, 0)), "0");
        assert_eq!(running.stop(), 0);
    }

    fn limits_are_raised_before_root_is_given_up(backend: Backend) {
        let raise = ["--nofile=500:500", "prlimit", "--nofile=600:700", "true"];
        if !is_root("raising limits") || !can("prlimit", &raise) {
            return;
        }
        // The master's own hard limit is lower.
        let launcher = ["prlimit", "--nofile=500:500"];
        let program = Program::under(&launcher, backend, "probe").as_master("serve");
        fs::write(program.path("options"), "0 files 600 700\n").expect("the options");
        let mut running = program.start();
        running.await_ready(1);
        assert_eq!(limit(running.process(), "Max open files"), ["500", "500"]);
        let worker = worker(&running, 0);
        assert_eq!(worker.numbers("Uid"), [65534; 4]);
        assert_eq!(limit(worker, "Max open files"), ["600", "700"]);
        assert_eq!(running.stop(), 0);
    }

    fn they_hold_for_a_generation(backend: Backend) {
        if !is_root("workers under another user") {
            return;
        }
        let mut running = started(backend, 1, "0 nice 4\n");
        let before = worker(&running, 0);
        fs::write(running.path("options"), "0 nice 9\n").expect("the options");
        before.signal(Signal::SIGKILL);
        eventually("it is replaced", || {
            matches!(running.workers()[..], [new] if new != before)
        });
        running.await_ready(1);
        assert_eq!(nice(worker(&running, 0)), 4, "as it was");
        assert_eq!(control(&running.control(), "reload"), "ok");
        eventually("the old one has gone", || running.workers().len() == 1);
        assert_eq!(nice(worker(&running, 0)), 9, "as it is now");
        assert_eq!(running.stop(), 0);
    }

    fn a_worker_that_comes_later_has_its_own(backend: Backend) {
        if !is_root("workers under another user") {
            return;
        }
        let mut running = started(backend, 1, "1 nice 6\n2 nice 99\n");
        assert_eq!(control(&running.control(), "scale 2"), "ok");
        running.await_ready(2);
        assert_eq!(nice(worker(&running, 1)), 6);
        control(&running.control(), "scale 3");
        let why = "the options of worker 2 of group `probe`: priority 99 does not exist";
        eventually(why, || running.stderr().contains(why));
        assert_eq!(running.workers().len(), 2);
        running.stop();
    }

    fn an_ordinary_user_is_refused_what_takes_root(backend: Backend) {
        if !is_root("becoming an ordinary user first") {
            return;
        }
        for (option, call) in [
            ("nice -5", "setpriority: Permission denied"),
            ("files 1 1000000000", "setrlimit(RLIMIT_NOFILE): Operation not permitted"),
        ] {
            let (_place, copy) = open_to_all(backend, "probe");
            let launcher = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
            let program = Program::command(&launcher, &copy).as_master("serve");
            chown(&program.path(""), Some(Uid::from_raw(65534)), Some(Gid::from_raw(65534)))
                .expect("a directory of its own");
            fs::write(program.path("options"), format!("0 {option}\n")).expect("the options");
            let said = never_ready(program);
            assert!(said.contains(call), "{option}: {said}");
        }
    }
}

/// Runs a master whose first worker never becomes ready: what it says last.
#[track_caller]
fn never_ready(program: Program) -> String {
    let (code, log) = program.run();
    assert_eq!(code, 1, "{log}");
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("failed 5 times before it was ready"), "{log}");
    last.to_owned()
}

/// The calls come before the runtime: one backend is enough.
#[test]
fn a_call_that_fails_is_named() {
    if !is_root("workers under another user") || !can_inject("failing system calls") {
        return;
    }
    let [_, processor] = two_processors();
    let processors = format!("processors {processor}");
    let space = format!("space {0} {0}", 1_u64 << 40);
    let all = [
        (&*processors, "sched_setaffinity:error=EAGAIN", "sched_setaffinity"),
        (&processors, "sched_getaffinity:error=EAGAIN", "sched_getaffinity"),
        // It writes nothing: none of the processors was taken.
        (
            &processors,
            "sched_getaffinity:retval=8",
            "sched_setaffinity (a processor is forbidden here)",
        ),
        ("nice 1", "setpriority:error=EAGAIN", "setpriority"),
        ("files 64 64", "prlimit64:error=EAGAIN", "setrlimit(RLIMIT_NOFILE)"),
        ("core 0 0", "prlimit64:error=EAGAIN", "setrlimit(RLIMIT_CORE)"),
        (&space, "prlimit64:error=EAGAIN", "setrlimit(RLIMIT_AS)"),
        ("processes 999 999", "prlimit64:error=EAGAIN", "setrlimit(RLIMIT_NPROC)"),
        ("size 99 99", "prlimit64:error=EAGAIN", "setrlimit(RLIMIT_FSIZE)"),
    ];
    std::thread::scope(|scope| {
        for (option, fault, call) in &all {
            scope.spawn(move || {
                let injection = format!("inject={fault}:when=1");
                // A master that raises its own limit gives each worker the former one: one call more.
                let limits = ["prlimit", "--nofile=1024:1024"];
                let strace = ["strace", "-D", "-f", "-o", "/dev/null", "-e", &injection];
                let launcher = [&limits[..], &strace].concat();
                let program = Program::under(&launcher, Backend::Tokio, "probe").as_master("serve");
                fs::write(program.path("options"), format!("0 {option}\n")).expect("the options");
                let said = never_ready(program);
                let expected = format!("cannot start /proc/self/exe: {call}: ");
                assert!(said.contains(&expected), "{option}: {said}");
            });
        }
    });
}

/// Refused before there is a runtime, and before there is a lock or a daemon.
#[test]
fn what_cannot_be_is_refused_at_the_start() {
    let wrong = [
        ("1 processors 0 1000", "worker 1 of group `probe`: processor 1000 does not exist"),
        ("0 processors", "worker 0 of group `probe`: no processor to run on"),
        ("1 nice 20", "worker 1 of group `probe`: priority 20 does not exist"),
        ("0 files 2 1", "worker 0 of group `probe`: OpenFiles: the soft limit 2 is above"),
        ("0 variable A=B c", "worker 0 of group `probe`: `A=B` cannot be an environment variable"),
    ];
    for (option, why) in wrong {
        let program = probe(Backend::Tokio, 2, &format!("{option}\n")).args(["--background"]);
        let lock = program.path("lock");
        let mut running = program.start();
        let code = running.wait().code();
        let log = running.stderr();
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains(&format!("the options of {why}")), "{option}: {log}");
        assert!(!lock.exists());
    }
}
