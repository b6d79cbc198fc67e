//! An upgrade that nothing makes fatal: whatever goes wrong on the way, the old version serves on and says
//! why, and the next upgrade is none the worse for it.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use release_tests::{
    Backend, Installed, Process, Program, Running, control, eventually, free_port, is_root,
    on_every_backend, replace_file,
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
    ("begin trial poor", Old("ended (signal 6 (SIGABRT))")),
    ("begin trial block out", Old("cannot open the log file")),
    ("size trial panic", Old("`size_from` panicked: a panic on purpose")),
    ("options trial panic", Old("`worker_options` panicked: a panic on purpose")),
    // The old version leaves it to the trial.
    ("leave master panic", Old("`hand_over` panicked: a panic on purpose")),
    ("driver trial block out", Old("cannot open the log file")),
    ("driver trial error", Old("cannot start the async runtime: on purpose")),
    ("driver trial SIGKILL", Old("ended (signal 9 (SIGKILL))")),
    ("driver trial poor", Old("ended (signal 6 (SIGABRT))")),
    ("driver trial write faulty.conf listen = = 7", New),
    ("driver trial write faulty.conf ", New),
    ("driver trial remove faulty.conf", New),
    ("driver trial remove greeting", New),
    ("begin master error", Old("on purpose")),
    ("begin master exit 0", Old("it ended before it was the master")),
    ("begin master exit 3", Old("it ended before it was the master")),
    ("begin master thread-exit", Old("it ended before it was the master")),
    ("begin master panic", Old("a panic on purpose")),
    ("begin master abort", Old("it was ended by SIGABRT")),
    ("begin master overflow", Old("it was ended by SIG")),
    ("begin master SIGSEGV", Old("it was ended by SIGSEGV")),
    ("begin master SIGBUS", Old("it was ended by SIGBUS")),
    ("begin master SIGILL", Old("it was ended by SIGILL")),
    ("begin master SIGFPE", Old("it was ended by SIGFPE")),
    ("begin master hang", Old("it hung")),
    ("begin master block out", Old("cannot open the log file")),
    ("begin master few", Old("Too many open files")),
    ("begin master poor", Old("it was ended by SIGABRT")),
    ("begin master remove faulty.conf", New),
    ("configured master error", Old("on purpose")),
    ("configured master panic", Old("a panic on purpose")),
    ("configured master poor", Old("it was ended by SIGABRT")),
    ("size master error", Old("`size_from` panicked: on purpose")),
    ("size master panic", Old("`size_from` panicked: a panic on purpose")),
    ("size master abort", Old("it was ended by SIGABRT")),
    ("size master poor", Old("it was ended by SIGABRT")),
    ("options master error", Old("`worker_options` panicked: on purpose")),
    ("options master panic", Old("`worker_options` panicked: a panic on purpose")),
    ("options master abort", Old("it was ended by SIGABRT")),
    ("driver master error", Old("cannot start the async runtime: on purpose")),
    ("driver master panic", Old("a panic on purpose")),
    ("driver master exit 1", Old("it ended before it was the master")),
    ("driver master abort", Old("it was ended by SIGABRT")),
    ("driver master poor", Old("it was ended by SIGABRT")),
    // A panic of an observer is logged.
    ("observe master panic", New),
    // The new version is the master by then, and the old workers go on.
    ("main master error", Old("on purpose")),
    ("main master panic", Old("a panic on purpose")),
    ("context master error", Old("on purpose")),
    ("context master panic", Old("a panic on purpose")),
];

/// One at each moment, which needs no file.
const MOMENTS: [(&str, &str); 10] = [
    ("driver trial error", "on purpose"),
    ("leave master panic", "`hand_over` panicked"),
    ("begin master error", "on purpose"),
    ("begin master abort", "it was ended by SIGABRT"),
    ("configured master panic", "a panic on purpose"),
    ("size master poor", "it was ended by SIGABRT"),
    ("options master error", "on purpose"),
    ("driver master exit 1", "it ended before it was the master"),
    ("main master error", "on purpose"),
    ("context master panic", "a panic on purpose"),
];

/// The program that makes them, and what is true of it.
struct Service {
    running: Running,
    address: SocketAddr,
}

fn configure(directory: &Path, address: SocketAddr) {
    let _ = fs::remove_dir(directory.join("out"));
    replace_file(&directory.join("faulty.conf"), &format!("listen = \"{address}\" workers = 1"));
    replace_file(&directory.join("greeting"), "hello");
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
        client.shutdown(Shutdown::Write).expect("it is connected");
        client.read_to_string(&mut said).expect("an answer");
        let (pid, greeting) = said.split_once(' ').expect("two words");
        (Process(pid.parse().expect("a number")), greeting.to_owned())
    }

    fn ask(&self, words: &str) -> String {
        control(&self.running.control(), words)
    }

    /// A connection whose only worker waits for the end of what its client says.
    fn is_held(&self) -> TcpStream {
        eventually("one worker is left", || self.running.workers().len() == 1);
        TcpStream::connect(self.address).expect("a connection")
    }

    /// A service whose next worker waits for the file `open`.
    fn gated(installed: &Installed) -> Self {
        let program = installed.program();
        fs::write(program.path("open"), "").expect("a file");
        let service = Self::start(program);
        replace_file(&service.running.path("greeting"), "gate");
        assert_eq!(service.ask("upgrade"), "ok");
        eventually("the old worker is gone", || service.running.workers().len() == 1);
        service.close();
        service
    }

    fn open(&self) {
        fs::write(self.running.path("open"), "").expect("a file");
    }

    fn close(&self) {
        fs::remove_file(self.running.path("open")).expect("it is there");
    }

    /// Another worker answers: one that was told to stop may take some connections more.
    fn is_followed(&self, old: Process, why: &str) {
        eventually(&format!("another worker answers: {why}"), || self.answer().0 != old);
    }

    /// The next upgrade works, with another file.
    fn upgrades(&self) {
        self.configure();
        let old = self.running.workers();
        assert_eq!(self.ask("upgrade"), "ok", "{}", self.running.stderr());
        let is_there = || self.running.workers().into_iter().any(|worker| old.contains(&worker));
        eventually("the old workers are gone", || !is_there());
        self.answer();
    }

    /// The upgrade in which this mistake is made ends so.
    fn makes(&self, mistake: &str, end: &End) {
        self.makes_beside(mistake, end, self.answer().0);
        self.upgrades();
    }

    /// The same, where `old` serves.
    fn makes_beside(&self, mistake: &str, end: &End, old: Process) {
        let workers = self.running.workers();
        replace_file(&self.running.path("fault"), mistake);
        let said = self.ask("upgrade");
        let log = self.running.stderr();
        assert!(!self.running.path("fault").exists(), "{mistake} was not made: {said}; {log}");
        match end {
            Old(reason) => {
                assert!(
                    said.starts_with("error: ") && said.contains(reason),
                    "{mistake}: {said}; {log}"
                );
                assert!(log.contains(reason), "{mistake}: {log}");
                // A new one that was told to stop may take some connections more.
                eventually(&format!("the old one answers: {mistake}"), || self.answer().0 == old);
                eventually("nothing is left of it", || self.running.workers() == workers);
            }
            New => {
                assert_eq!(said, "ok", "{mistake}: {log}");
                self.is_followed(old, mistake);
            }
        }
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

    fn a_version_that_came_back_stays(backend: Backend) {
        let installed = Installed::new(backend, "faulty");
        let mut service = Service::start(installed.program());
        let pid = service.running.pid();
        replace_file(&service.running.path("fault"), "begin master error");
        assert_eq!(service.ask("upgrade"), "error: on purpose");
        // Longer than the new version would have had.
        let until = Instant::now() + Duration::from_secs(12);
        while Instant::now() < until {
            service.answer();
            thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(service.running.pid(), pid);
        assert_eq!(service.running.stop(), 0, "{}", service.running.stderr());
    }

    fn a_reload_by_a_signal_in_the_trial_is_made_by_the_new_version(backend: Backend) {
        let installed = Installed::new(backend, "faulty");
        let mut service = Service::start(installed.program());
        let reloads = || service.running.stderr().matches("INFO reloaded ").count();
        assert_eq!(reloads(), 0);
        replace_file(&service.running.path("fault"), "driver trial await go");
        let said = thread::scope(|scope| {
            let upgrading = scope.spawn(|| service.ask("upgrade"));
            eventually("it is tried", || service.running.path("go.asked").exists());
            service.running.process().signal(Signal::SIGHUP);
            eventually("it arrived", || service.running.stderr().contains("SIGHUP"));
            fs::write(service.running.path("go"), "").expect("a file");
            upgrading.join().expect("an answer")
        });
        assert_eq!(said, "ok", "{}", service.running.stderr());
        eventually("the reload is made", || reloads() == 1);
        assert_eq!(service.running.stop(), 0, "{}", service.running.stderr());
    }

    fn a_control_socket_stays_where_it_was_when_the_next_version_fails(backend: Backend) {
        let installed = Installed::new(backend, "faulty");
        let mut service = Service::start(installed.program());
        let other = service.running.path("other.control");
        for mistake in ["driver master error", "driver master abort"] {
            fs::write(service.running.path("control.path"), "other.control").expect("a file");
            replace_file(&service.running.path("fault"), mistake);
            let said = service.ask("upgrade");
            assert!(said.starts_with("error: "), "{mistake}: {said}");
            fs::remove_file(service.running.path("control.path")).expect("it is there");
            // Somebody else connects.
            assert!(service.ask("status").contains("ready"), "{mistake}");
        }
        fs::write(service.running.path("control.path"), "other.control").expect("a file");
        assert_eq!(service.ask("upgrade"), "ok", "{}", service.running.stderr());
        assert!(other.exists() && !service.running.control().exists());
        assert_eq!(service.running.stop(), 0, "{}", service.running.stderr());
    }

    fn what_main_starts_has_nothing_of_the_master(backend: Backend) {
        let installed = Installed::new(backend, "faulty");
        let mut service = Service::start(installed.program());
        for who in ["trial", "master"] {
            service.makes(&format!("begin {who} child"), &New);
            let open = fs::read_to_string(service.running.path("fds")).expect("a list");
            let numbers = open.split_whitespace().filter_map(|path| path.rsplit('/').next());
            // The last one reads the directory.
            assert_eq!(numbers.collect::<Vec<_>>(), ["0", "1", "2", "3"], "{who}");
        }
        assert_eq!(service.running.stop(), 0, "{}", service.running.stderr());
    }

    fn an_address_that_is_taken_after_the_trial_leaves_the_old_one(backend: Backend) {
        let installed = Installed::new(backend, "faulty");
        let mut service = Service::start(installed.program());
        let (old, new) = (service.answer().0, free_port());
        let directory = service.running.path("x").parent().expect("a directory").to_owned();
        configure(&directory, new);
        // Its path, too, and its file of its own.
        replace_file(&directory.join("fault"), &format!("begin master take {new}"));
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
            let mut service = Service::gated(&installed);
            let (socket, old) = (service.running.control(), service.answer().0);
            let said = thread::scope(|scope| {
                let changing = scope.spawn(|| control(&socket, change));
                eventually("it begins", || service.running.workers().len() == 2);
                replace_file(&service.running.path("fault"), "driver trial write tried yes");
                let upgrading = scope.spawn(|| control(&socket, "upgrade"));
                eventually("it is tried", || service.running.path("tried").exists());
                fs::remove_file(service.running.path("faulty.conf")).expect("it is there");
                service.open();
                [changing, upgrading].map(|asking| asking.join().expect("an answer"))
            });
            assert_eq!(said, ["ok", "ok"], "{change}: {}", service.running.stderr());
            service.is_followed(old, change);
            service.upgrades();
            assert_eq!(service.running.stop(), 0, "{}", service.running.stderr());
        }
    }
}

on_every_backend! {
    fn a_main_task_that_fails_before_the_answer_fails_the_new_version(backend: Backend) {
        let installed = Installed::new(backend, "faulty");
        let mut service = Service::gated(&installed);
        let (old, fail) = (service.answer().0, service.running.path("fail"));
        replace_file(&service.running.path("fault"), "main master late");
        let said = thread::scope(|scope| {
            let upgrading = scope.spawn(|| service.ask("upgrade"));
            eventually("a new worker starts", || service.running.workers().len() == 2);
            fs::write(&fail, "").expect("a file");
            upgrading.join().expect("an answer")
        });
        assert!(said.contains("main task failed: late, on purpose"), "{said}");
        assert_eq!(service.answer().0, old);
        eventually("the new worker is gone", || service.running.workers() == [old]);
        fs::remove_file(&fail).expect("it is there");
        service.open();
        // The next one is no failure, and its main task is its own.
        replace_file(&service.running.path("fault"), "main master late");
        service.upgrades();
        // From the answer on it is that of the master, as at any other time.
        fs::write(&fail, "").expect("a file");
        assert_eq!(service.running.wait().code(), Some(1), "{}", service.running.stderr());
        eventually("its workers are gone", || service.running.processes().is_empty());
    }

    fn a_version_that_comes_back_looks_nothing_up(backend: Backend) {
        if !is_root("mounting") {
            return;
        }
        let installed = Installed::new(backend, "faulty");
        let mut service = Service::start(Program::command(&["unshare", "-m"], installed.path()));
        let old = service.answer().0;
        replace_file(&service.running.path("fault"), "configured master blind");
        let said = service.ask("upgrade");
        assert!(said.contains("on purpose"), "{said}");
        assert!(!installed.path().exists(), "nothing was hidden");
        assert_eq!(service.answer().0, old);
        assert_eq!(service.ask("restart 0"), "ok");
        service.is_followed(old, "after a restart");
        assert_eq!(service.running.stop(), 0, "{}", service.running.stderr());
    }

    fn whatever_is_under_way_some_version_serves_in_the_end(backend: Backend) {
        let abort = "begin master abort";
        for (change, fault, dies) in [
            ("reload", "", true),
            ("reload", abort, false),
            ("restart 0", "", true),
            ("restart 0", abort, false),
            ("scale 2", abort, true),
        ] {
            let installed = Installed::new(backend, "faulty");
            let mut service = Service::gated(&installed);
            let (socket, old) = (service.running.control(), service.answer().0);
            let said = thread::scope(|scope| {
                let changing = scope.spawn(|| control(&socket, change));
                eventually("it begins", || service.running.workers().len() == 2);
                if !fault.is_empty() {
                    replace_file(&service.running.path("fault"), fault);
                }
                let upgrading = scope.spawn(|| control(&socket, "upgrade"));
                if dies {
                    old.signal(Signal::SIGKILL);
                    eventually("it is gone", || !service.running.workers().contains(&old));
                }
                service.open();
                [changing, upgrading].map(|asking| asking.join().expect("an answer"))
            });
            let log = service.running.stderr();
            assert_eq!(said[0], "ok", "{change}: {log}");
            match fault {
                "" => assert_eq!(said[1], "ok", "{change}: {log}"),
                _ => assert!(said[1].contains("it was ended by SIGABRT"), "{change}: {said:?}"),
            }
            service.answer();
            service.upgrades();
            assert_eq!(service.running.stop(), 0, "{change}: {}", service.running.stderr());
        }
    }

    fn a_worker_that_drains_meanwhile_loses_nothing(backend: Backend) {
        let installed = Installed::new(backend, "faulty");
        let mut service = Service::start(installed.program());
        for (mistake, reason) in MOMENTS {
            replace_file(&service.running.path("greeting"), "hold");
            assert_eq!(service.ask("upgrade"), "ok", "{mistake}: {}", service.running.stderr());
            let mut client = service.is_held();
            let draining = service.running.workers();
            replace_file(&service.running.path("greeting"), "hello");
            assert_eq!(service.ask("upgrade"), "ok", "{mistake}: {}", service.running.stderr());
            eventually("the next one answers", || service.answer().1 == "hello");
            let workers = service.running.workers();
            let serving = workers.into_iter().find(|it| !draining.contains(it)).expect("a worker");
            service.makes_beside(mistake, &Old(reason), serving);
            assert!(draining.iter().all(|one| service.running.workers().contains(one)), "{mistake}");
            let mut said = String::new();
            client.shutdown(Shutdown::Write).expect("it is connected");
            client.read_to_string(&mut said).expect("an answer");
            assert_eq!(said, format!("{} hold", draining[0].0), "{mistake}");
            eventually("it ends", || !service.running.workers().contains(&draining[0]));
            service.upgrades();
        }
        assert_eq!(service.running.stop(), 0, "{}", service.running.stderr());
    }

    fn a_full_file_system_ends_nothing(backend: Backend) {
        if !is_root("mounting") {
            return;
        }
        let installed = Installed::new(backend, "faulty");
        let program = installed.program();
        let place = program.path("x").parent().expect("a directory").to_owned();
        let small = Small::at(&place);
        let mut service = Service::start(program);
        for (fault, reason) in [("", "ok")].into_iter().chain(MOMENTS) {
            let old = service.answer().0;
            if !fault.is_empty() {
                replace_file(&place.join("fault"), fault);
            }
            small.fill();
            let said = service.ask("upgrade");
            assert!(said.contains(reason), "{fault}: {said}");
            if !fault.is_empty() {
                // A new one that was told to stop may take some connections more.
                eventually(&format!("the old one answers: {fault}"), || service.answer().0 == old);
            }
            small.empty();
            service.upgrades();
        }
        assert_eq!(service.running.stop(), 0);
    }
}

/// A small file system, which is gone with this.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn at(place: &'a Path) -> Self {
        let options = ["-t", "tmpfs", "-o", "size=64k,mode=755", "release-tests"];
        let mounted = Command::new("mount").args(options).arg(place).status();
        assert!(mounted.is_ok_and(|status| status.success()), "nothing was mounted");
        Self(place)
    }

    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("fill")).expect("a file");
        while file.write_all(&[0; 512]).is_ok() {}
        assert!(fs::write(self.0.join("more"), [0; 512]).is_err(), "there is room");
    }

    fn empty(&self) {
        fs::remove_file(self.0.join("fill")).expect("it is there");
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

/// A script stays as it is, and the program behind it does not.
#[test]
fn a_program_behind_a_script_that_is_replaced_is_not_run() {
    let installed = Installed::new(Backend::Tokio, "faulty");
    let mut service = Service::gated(&installed);
    let (socket, old) = (service.running.control(), service.answer().0);
    let behind = installed.path().with_extension("real");
    let put = || {
        let new = behind.with_extension("new");
        fs::copy(Backend::Tokio.program("faulty"), &new).expect("a copy");
        fs::rename(&new, &behind).expect("it is replaced");
    };
    put();
    installed.install_script(&format!("exec {} \"$@\"", behind.display()));
    let said = thread::scope(|scope| {
        let changing = scope.spawn(|| control(&socket, "restart 0"));
        eventually("it begins", || service.running.workers().len() == 2);
        replace_file(&service.running.path("fault"), "driver trial write tried yes");
        let upgrading = scope.spawn(|| control(&socket, "upgrade"));
        eventually("it is tried", || service.running.path("tried").exists());
        put();
        // Whoever asks now means the new one.
        let again = scope.spawn(|| control(&socket, "upgrade"));
        service.open();
        [changing, upgrading, again].map(|asking| asking.join().expect("an answer"))
    });
    assert_eq!(said[0], "ok");
    assert!(said[1].contains("was replaced while it was tried: ask again"), "{said:?}");
    service.is_followed(old, "after a restart");
    let runs = || service.running.process().link("exe");
    if said[2] == "ok" {
        assert_eq!(runs().as_deref(), behind.to_str());
    }
    service.upgrades();
    assert_eq!(runs().as_deref(), behind.to_str());
    assert_eq!(service.running.stop(), 0, "{}", service.running.stderr());
}

/// A script in between that does not become the program would be the master in its place.
#[test]
fn a_script_that_starts_the_new_version_as_a_child_is_refused() {
    let installed = Installed::new(Backend::Tokio, "faulty");
    let mut service = Service::start(installed.program());
    let real = Backend::Tokio.program("faulty");
    installed.install_script(&format!("{} \"$@\"; exit 0", real.display()));
    let (old, said) = (service.answer().0, service.ask("upgrade"));
    assert!(said.contains("a script has to `exec` it"), "{said}");
    assert_eq!(service.answer().0, old);
    // One that does is run once: what comes after its trial changes nothing.
    installed.install_script(&format!(
        "[ ! -e once ] || exit 9; touch once; exec {} \"$@\"",
        real.display()
    ));
    assert_eq!(service.ask("upgrade"), "ok", "{}", service.running.stderr());
    service.is_followed(old, "after a script");
    installed.install(&real);
    service.upgrades();
    assert_eq!(service.running.stop(), 0, "{}", service.running.stderr());
}
