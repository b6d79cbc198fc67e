//! Starting the example programs, and ending them whatever happens.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::{DEADLINE, Process, eventually, try_control, try_http_get};

/// The runtimes that everything must work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Backend {
    /// `release-tokio`.
    Tokio,
    /// `release-smol`.
    Smol,
    /// `release-async-std`.
    AsyncStd,
}

impl Backend {
    /// The example of this name, built for this backend.
    #[must_use]
    pub fn program(self, example: &str) -> PathBuf {
        let suffix = match self {
            Self::Tokio => "tokio",
            Self::Smol => "smol",
            Self::AsyncStd => "async-std",
        };
        // Tests are in target/PROFILE/deps, programs in target/PROFILE.
        let test = std::env::current_exe().expect("this test's path");
        let profile = test.parent().and_then(Path::parent).expect("target/PROFILE");
        let path = profile.join(format!("{example}-{suffix}"));
        assert!(path.exists(), "{} is not built", path.display());
        path
    }
}

/// An address that nobody else uses: this test process has a loopback address of its own, where
/// nothing gets a port by itself.
#[must_use]
pub fn free_port() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(10_000);
    let own = Ipv4Addr::from_bits(0x7f00_0000 | std::process::id());
    SocketAddr::from((own, NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// Starts what follows it without descriptors that a shell, make or lock has left open for this test.
pub const WITHOUT_INHERITED: [&str; 4] = [
    "bash",
    "-c",
    "for file in /proc/self/fd/*; do number=${file##*/}; [ $number -le 2 ] || eval \"exec $number<&-\"; done
    exec \"$@\"",
    "bash",
];

/// Makes the command receive SIGHUP, also where these tests run under `nohup`.
fn with_sighup(command: Command) -> Command {
    let own = Process(Pid::this().as_raw());
    let ignored = own.status("SigIgn").expect("a mask");
    let ignored = u64::from_str_radix(&ignored, 16).expect("a mask");
    if ignored & 1 == 0 {
        return command;
    }
    let mut env = Command::new("env");
    env.arg("--default-signal=HUP").arg(command.get_program()).args(command.get_args());
    env
}

/// A program to be started, with a directory of its own for sockets, locks and logs.
#[derive(Debug)]
pub struct Program {
    command: Command,
    directory: TempDir,
}

impl Program {
    /// An example on a backend.
    #[must_use]
    pub fn new(backend: Backend, example: &str) -> Self {
        Self::of(Command::new(backend.program(example)))
    }

    /// An example that is started by another program, such as `setpriv`, whose last argument it is.
    #[must_use]
    pub fn under(launcher: &[&str], backend: Backend, example: &str) -> Self {
        Self::command(launcher, &backend.program(example))
    }

    /// Any program that is started by another one.
    #[must_use]
    pub fn command(launcher: &[&str], program: &Path) -> Self {
        let mut command = Command::new(launcher[0]);
        command.args(&launcher[1..]).arg(program);
        Self::of(command)
    }

    pub(crate) fn of(command: Command) -> Self {
        let mut command = with_sighup(command);
        let directory = tempfile::tempdir().expect("a temporary directory");
        command.stdin(Stdio::null()).stdout(Stdio::null()).current_dir(directory.path());
        Self { command, directory }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<std::ffi::OsStr>>(
        mut self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        self.command.args(arguments);
        self
    }

    /// Changes the command in another way.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Command)) -> Self {
        change(&mut self.command);
        self
    }

    /// A path in the program's directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts `service` on an address of its own, and waits until all its workers are ready.
    #[must_use]
    pub fn serve(self, workers: usize) -> (Running, SocketAddr) {
        let address = free_port();
        let running = self.listen(address, workers).start();
        running.await_ready(workers);
        (running, address)
    }

    /// What `service` needs to be told in most tests.
    #[must_use]
    pub fn listen(self, address: SocketAddr, workers: usize) -> Self {
        let (listen, count) = (address.to_string(), workers.to_string());
        self.args(["--listen", &listen, "--workers", &count]).args(["--control", "control"])
    }

    /// Starts it, as the leader of a process group of its own.
    #[must_use]
    pub fn start(mut self) -> Running {
        let log = self.path("stderr");
        let file = std::fs::File::create(&log).expect("a file for standard error");
        let child = self.command.stderr(file).process_group(0).spawn().expect("the program starts");
        Running { child, directory: self.directory, log, status: None }
    }

    /// Starts it with another standard error, and in the process group of this test: a launcher may begin
    /// a session.
    pub(crate) fn start_with(mut self, error: Stdio) -> Running {
        let log = self.path("stderr");
        let child = self.command.stderr(error).spawn().expect("the program starts");
        Running { child, directory: self.directory, log, status: None }
    }

    /// Starts it and waits for its end: exit code and standard error.
    #[must_use]
    pub fn run(self) -> (i32, String) {
        let mut running = self.start();
        let status = running.wait();
        (status.code().unwrap_or(-1), running.stderr())
    }
}

/// A program that runs. Dropping it kills it, and its workers with it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    directory: TempDir,
    log: PathBuf,
    status: Option<ExitStatus>,
}

impl Running {
    /// The example `service` with these options, once it answers on its control socket and all its
    /// workers are ready.
    #[must_use]
    pub fn service(backend: Backend, workers: usize, options: &[&str]) -> (Self, SocketAddr) {
        Program::new(backend, "service").args(options).serve(workers)
    }

    /// Waits until the control socket says that so many workers are ready.
    pub fn await_ready(&self, workers: usize) {
        let control = self.control();
        eventually(&format!("{workers} workers are ready; log: {}", self.stderr()), || {
            try_control(&control, "status")
                .is_ok_and(|status| status.matches("\"ready\"").count() == workers)
        });
    }

    /// Waits until HTTP is answered at the address.
    pub fn await_http(&self, address: SocketAddr) {
        eventually("HTTP is answered", || try_http_get(address).is_ok());
    }

    /// The pid of the program that was started.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    /// The program, as a process to look at.
    #[must_use]
    pub fn process(&self) -> Process {
        Process(self.pid())
    }

    /// The processes of the workers.
    #[must_use]
    pub fn workers(&self) -> Vec<Process> {
        crate::children(self.pid())
    }

    /// All processes that work in its directory: the program, its workers, and what is left of
    /// them when it has gone.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        let directory = self.directory.path().to_string_lossy().into_owned();
        crate::processes()
            .filter(|process| process.link("cwd").as_deref() == Some(&directory))
            .collect()
    }

    /// The path of the control socket.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.path("control")
    }

    /// A path in the program's directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What it and its workers have written to standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("it can be signalled");
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.status {
                return status;
            }
            self.status = self.child.try_wait().expect("a child to wait for");
            assert!(
                self.status.is_some() || Instant::now() < deadline,
                "did not end within {DEADLINE:?}; log: {}",
                self.stderr()
            );
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// Stops it by SIGTERM and returns the exit code.
    pub fn stop(&mut self) -> i32 {
        self.signal(Signal::SIGTERM);
        let status = self.wait();
        status.code().unwrap_or_else(|| -status.signal().unwrap_or(0))
    }
}

impl Running {
    /// A launcher that is killed leaves what it has launched, and a session of its own is no bar.
    fn end_all(&self) {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            left.iter().for_each(|process| process.signal(Signal::SIGKILL));
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A process that was waited for may have given its number to another one.
        if self.status.is_none() {
            let workers = self.workers();
            let _ = self.child.kill();
            let _ = self.child.wait();
            if !std::thread::panicking() {
                eventually("no worker outlives its master", || {
                    workers.iter().all(|worker| !crate::is_alive(worker.0))
                });
            }
        }
        if std::thread::panicking() {
            self.end_all();
        }
    }
}
