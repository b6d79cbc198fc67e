//! An upgrade that nothing makes fatal: whatever goes wrong on the way, the old version serves on and says
//! why, and the next upgrade is none the worse for it.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use release_tests::{
    Backend, Installed, Process, Program, Running, control, eventually, free_port, on_every_backend,
};

/// What a mistake leads to.
enum End {
    /// The old version serves, and says these words.
    Old(&'static str),
    /// The new version serves.
    New,
}
use End::{New, Old};

/// Mistakes that `faulty` makes, see there: the moment, who makes it, and what it is. The trial's last
/// moment comes before everything that the master does, and is the one between trial and exec.
const MISTAKES: &[(&str, End)] = &[
    ("begin trial error", Old("it wrote: faulty: on purpose")),
    ("begin trial exit 0", Old("ended (exit status 0) without saying that it can take over")),
    ("begin trial panic", Old("a panic on purpose")),
    ("begin trial abort", Old("ended (signal 6 (SIGABRT))")),
    ("begin trial SIGKILL", Old("ended (signal 9 (SIGKILL))")),
    ("begin trial write faulty.conf listen = = 7", Old("faulty.conf:1:10")),
    ("begin trial write faulty.conf ", Old("faulty.conf")),
    ("begin trial remove faulty.conf", Old("the configuration file does not exist")),
    ("begin trial few", Old("cannot take over")),
    ("driver trial error", Old("cannot start the async runtime: on purpose")),
    ("driver trial SIGKILL", Old("ended (signal 9 (SIGKILL))")),
    ("driver trial write faulty.conf listen = = 7", New),
    ("driver trial write faulty.conf ", New),
    ("driver trial remove faulty.conf", New),
    ("driver trial remove greeting", New),
    ("begin master error", Old("faulty: on purpose")),
    ("begin master exit 0", Old("it ended before it was the master")),
    ("begin master exit 3", Old("it ended before it was the master")),
    ("begin master thread-exit", Old("it ended before it was the master")),
    ("begin master panic", Old("it ended before it was the master")),
    ("begin master abort", Old("it was ended by SIGABRT")),
    ("begin master overflow", Old("it was ended by SIG")),
    ("begin master SIGSEGV", Old("it was ended by SIGSEGV")),
    ("begin master SIGBUS", Old("it was ended by SIGBUS")),
    ("begin master SIGILL", Old("it was ended by SIGILL")),
    ("begin master SIGFPE", Old("it was ended by SIGFPE")),
    ("begin master hang", Old("it hung")),
    ("begin master few", Old("Too many open files")),
    ("begin master remove faulty.conf", New),
    ("configured master error", Old("faulty: on purpose")),
    ("configured master panic", Old("it ended before it was the master")),
    ("driver master error", Old("cannot start the async runtime: on purpose")),
    ("driver master panic", Old("it ended before it was the master")),
    ("driver master exit 1", Old("it ended before it was the master")),
    ("driver master abort", Old("it was ended by SIGABRT")),
];

/// The program that makes them, and what is true of it.
struct Service {
    running: Running,
    address: SocketAddr,
}

/// In one step.
fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).expect("it is written");
    fs::rename(&new, path).expect("it is replaced");
}

fn configure(directory: &Path, address: SocketAddr) {
    write(&directory.join("faulty.conf"), &format!("listen = \"{address}\" workers = 1"));
    write(&directory.join("greeting"), "hello");
}

impl Service {
    fn start(program: Program) -> Self {
        let address = free_port();
        configure(program.path("x").parent().expect("a directory"), address);
        let running = program.start();
        running.await_ready(1);
        Self { running, address }
    }

    fn configure(&self) {
        configure(self.running.path("x").parent().expect("a directory"), self.address);
    }

    /// The worker that answers.
    fn answer(&self) -> (Process, String) {
        let mut said = String::new();
        let mut client = TcpStream::connect(self.address).expect("a connection");
        client.read_to_string(&mut said).expect("an answer");
        let (pid, greeting) = said.split_once(' ').expect("two words");
        (Process(pid.parse().expect("a number")), greeting.to_owned())
    }

    fn ask(&self, words: &str) -> String {
        control(&self.running.control(), words)
    }

    /// Another worker answers: one that was told to stop may take some connections more.
    fn is_followed(&self, old: Process, why: &str) {
        eventually(&format!("another worker answers: {why}"), || self.answer().0 != old);
    }

    /// The next upgrade works, with another file.
    fn upgrades(&self) {
        self.configure();
        let (old, _) = self.answer();
        assert_eq!(self.ask("upgrade"), "ok", "{}", self.running.stderr());
        self.is_followed(old, "after an upgrade");
        eventually("the old worker is gone", || self.running.workers().len() == 1);
    }

    /// The upgrade in which this mistake is made ends so.
    fn makes(&self, mistake: &str, end: &End) {
        let (old, _) = self.answer();
        write(&self.running.path("fault"), mistake);
        let said = self.ask("upgrade");
        let log = self.running.stderr();
        assert!(!self.running.path("fault").exists(), "{mistake} was not made: {said}; {log}");
        match end {
            Old(reason) => {
                assert!(said.starts_with("error: ") && said.contains(reason), "{mistake}: {said}; {log}");
                assert!(log.contains(reason), "{mistake}: {log}");
                assert_eq!(self.answer().0, old, "{mistake}");
                eventually("nothing is left of it", || self.running.workers() == [old]);
            }
            New => {
                assert_eq!(said, "ok", "{mistake}: {log}");
                self.is_followed(old, mistake);
            }
        }
        self.upgrades();
    }
}

on_every_backend! {
    fn a_mistake_on_the_way_leaves_the_old_version_at_work(backend: Backend) {
        let installed = Installed::new(backend, "faulty");
        let mut service = Service::start(installed.program());
        let (pid, name) = (service.running.pid(), service.running.process().status("Name"));
        for (mistake, end) in MISTAKES {
            service.makes(mistake, end);
            assert_eq!(service.running.process().status("Name"), name, "{mistake}");
        }
        assert_eq!(service.running.pid(), pid);
        assert_eq!(service.running.stop(), 0, "{}", service.running.stderr());
    }

    fn an_address_that_is_taken_after_the_trial_leaves_the_old_one(backend: Backend) {
        let installed = Installed::new(backend, "faulty");
        let mut service = Service::start(installed.program());
        let (old, new) = (service.answer().0, free_port());
        let directory = service.running.path("x").parent().expect("a directory").to_owned();
        configure(&directory, new);
        // Its path, too, and its file of its own.
        write(&directory.join("fault"), &format!("begin master take {new}"));
        let said = service.ask("upgrade");
        assert!(said.contains("another program has the address"), "{said}");
        assert!(TcpStream::connect(new).is_err(), "nobody listens there");
        assert_eq!(service.answer().0, old);
        assert_eq!(service.ask("restart 0"), "ok");
        service.is_followed(old, "after a restart");
        // Nobody has it any more.
        service.address = new;
        assert_eq!(service.ask("upgrade"), "ok");
        assert_eq!(service.answer().1, "hello");
        assert_eq!(service.running.stop(), 0, "{}", service.running.stderr());
    }

    fn a_change_under_way_does_not_let_a_file_in_between(backend: Backend) {
        for change in ["scale 2", "restart 0"] {
            let installed = Installed::new(backend, "faulty");
            let program = installed.program();
            fs::write(program.path("open"), "").expect("a file");
            let mut service = Service::start(program);
            write(&service.running.path("greeting"), "gate");
            assert_eq!(service.ask("upgrade"), "ok");
            fs::remove_file(service.running.path("open")).expect("it is there");
            let (socket, old) = (service.running.control(), service.answer().0);
            let said = thread::scope(|scope| {
                let changing = scope.spawn(|| control(&socket, change));
                eventually("it begins", || service.running.workers().len() == 2);
                write(&service.running.path("fault"), "driver trial write tried yes");
                let upgrading = scope.spawn(|| control(&socket, "upgrade"));
                eventually("it is tried", || service.running.path("tried").exists());
                fs::remove_file(service.running.path("faulty.conf")).expect("it is there");
                fs::write(service.running.path("open"), "").expect("a file");
                [changing, upgrading].map(|asking| asking.join().expect("an answer"))
            });
            assert_eq!(said, ["ok", "ok"], "{change}: {}", service.running.stderr());
            service.is_followed(old, change);
            service.upgrades();
            assert_eq!(service.running.stop(), 0, "{}", service.running.stderr());
        }
    }
}
