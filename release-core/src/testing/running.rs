//! `Running`: a program under test, from its readiness to the proof that nothing of it is left.
//!
//! Its imports and those of `program` form a circle: a `Program` starts a `Running`, which keeps its
//! `Program`. They are two states of one thing.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::directory::kind;
use super::exited::Exited;
use super::notifications::Notifications;
use super::processes::{ProcessTree, describe};
use super::{Program, TestFailure, listeners};
use crate::StatusReport;
use crate::supervise::ExitStatus;
use crate::sys::pidfd;

mod commands;

/// Time between two looks at something that has no event.
const LOOK: Duration = Duration::from_millis(5);

/// Time for processes to go that lost their master, or were killed.
const GRACE: Duration = Duration::from_secs(10);

/// A running program under test.
///
/// Dropping it stops the program and checks that no process, socket or file is left behind, like
/// [`stop`](Self::stop).
///
/// # Panics
///
/// Dropping panics with the reason and the log if the program does not stop in order or leaves something
/// behind, unless [`stop`](Self::stop) has reported that. If the test panics already, dropping kills all
/// processes of the program and prints the log.
///
/// # Examples
///
/// ```no_run
/// use release_core::testing::Program;
///
/// let service = Program::new("service").args(["--listen", "127.0.0.1:0"]).start().unwrap();
/// let answer = std::net::TcpStream::connect(service.address().unwrap());
/// assert!(answer.is_ok());
/// // Stopped here, with all checks.
/// ```
#[derive(Debug)]
pub struct Running {
    program: Program,
    /// Everything that was in the directory before the start, or that the test has written.
    known_files: Mutex<BTreeSet<PathBuf>>,
    processes: Mutex<ProcessTree>,
    pid: i32,
    pidfd: OwnedFd,
    /// Whether it must be reaped: a daemon is no child of the test.
    is_child: bool,
    ended: Option<Exited>,
    is_checked: bool,
    last_failure: Mutex<Option<String>>,
    _notifications: Option<Notifications>,
}

/// Takes charge of a program that was started.
pub(super) fn attach(
    program: Program,
    child: &Child,
    before: BTreeSet<PathBuf>,
) -> Result<Running, TestFailure> {
    let pid = i32::try_from(child.id()).map_err(|error| TestFailure::new(error.to_string()))?;
    let pidfd = pidfd::pidfd_open(pid)
        .map_err(|error| TestFailure::new(format!("cannot watch process {pid}: {error}")))?;
    let mut processes = ProcessTree::new(program.directory.files());
    processes.group = Some(pid);
    Ok(Running {
        program,
        known_files: Mutex::new(before),
        processes: Mutex::new(processes),
        pid,
        pidfd,
        is_child: true,
        ended: None,
        is_checked: false,
        last_failure: Mutex::default(),
        _notifications: None,
    })
}

/// A value of the test kit is whole between any two steps.
fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Running {
    /// Returns the process id of the master.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use release_core::testing::Program;
    ///
    /// let service = Program::new("service").control("control").start()?;
    /// assert_eq!(u32::try_from(service.pid()), Ok(service.status()?.master));
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Returns a path in the program's directory. An absolute path remains as it is.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use release_core::testing::Program;
    ///
    /// let service = Program::new("service").start()?;
    /// assert!(service.path("service.pid").exists());
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    #[must_use]
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.program.path(name)
    }

    /// Writes a file in the program's directory in one step, such as a new version of its configuration:
    /// the program never reads a part of it. The file may remain at the end.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be written.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use release_core::ControlCommand;
    /// use release_core::testing::Program;
    ///
    /// let service = Program::new("service")
    ///     .file("service.conf", "workers = 2")
    ///     .args(["--config", "service.conf", "--control", "control"])
    ///     .control("control")
    ///     .start()?;
    /// service.write("service.conf", "workers = 3")?;
    /// service.command(ControlCommand::Reload)?;
    /// assert_eq!(service.status()?.ready(), 3);
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    pub fn write(
        &self,
        name: impl AsRef<Path>,
        contents: impl AsRef<[u8]>,
    ) -> Result<(), TestFailure> {
        let path = self.path(name);
        let new = path.with_extension("release-testing");
        let written = fs::write(&new, contents).and_then(|()| fs::rename(&new, &path));
        written
            .map_err(|error| self.failure(format!("cannot write {}: {error}", path.display())))?;
        lock(&self.known_files).insert(path);
        Ok(())
    }

    /// Returns everything that the program and its workers have written so far: standard output, standard
    /// error, and the [log files](Program::log_file).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::testing::Program;
    ///
    /// let mut program = Program::new("/bin/echo").args(["hello"]).ready_line("hello").start()?;
    /// assert_eq!(program.log(), "hello\n");
    /// program.wait()?;
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    #[must_use]
    pub fn log(&self) -> String {
        let mut bytes = fs::read(self.program.directory.log()).unwrap_or_default();
        for path in &self.program.log_files {
            bytes.extend(fs::read(path).unwrap_or_default());
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the log contains a text, and returns the first line with it.
    ///
    /// # Errors
    ///
    /// Returns an error with the log if the program ends without it, or does not write it in time.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::testing::Program;
    ///
    /// let script = "echo one; echo port 8080; echo three";
    /// let mut program = Program::new("/bin/sh").args(["-c", script]).ready_line("one").start()?;
    /// assert_eq!(program.wait_for_line("port")?, "port 8080");
    /// program.wait()?;
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    pub fn wait_for_line(&self, text: &str) -> Result<String, TestFailure> {
        self.wait_for(&format!("its log had `{text}`"), || {
            let log = self.log();
            Ok(log.lines().find(|line| line.contains(text)).map(str::to_owned))
        })
    }

    /// Waits until a condition holds. `what` completes the message `the service ended before ...`.
    ///
    /// # Errors
    ///
    /// Returns an error with the log if the program ends before it holds, or if it does not hold in time.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use release_core::testing::Program;
    ///
    /// let service = Program::new("service").start()?;
    /// service.signal("HUP")?;
    /// let cache = service.path("cache");
    /// service.wait_until("the cache was written", || cache.exists())?;
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    pub fn wait_until(&self, what: &str, mut so: impl FnMut() -> bool) -> Result<(), TestFailure> {
        self.wait_for(what, || Ok(so().then_some(())))
    }

    /// Returns the TCP addresses at which the program listens, in ascending order. Let it listen on
    /// port 0: the kernel chooses a free port, and tests that run at the same time never meet.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use release_core::testing::Program;
    ///
    /// // Different loopback addresses tell two ports apart.
    /// let service = Program::new("service")
    ///     .args(["--listen", "127.0.0.1:0", "--metrics", "127.0.0.2:0"])
    ///     .start()?;
    /// let [http, metrics] = service.addresses()[..] else { panic!("two addresses") };
    /// # let _ = (http, metrics);
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        listeners::addresses(&self.processes())
    }

    /// Returns the only TCP address at which the program listens; see [`addresses`](Self::addresses).
    ///
    /// # Errors
    ///
    /// Returns an error if there is none, or more than one.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::net::TcpStream;
    /// use release_core::testing::Program;
    ///
    /// let service = Program::new("service").args(["--listen", "127.0.0.1:0"]).start()?;
    /// let connected = TcpStream::connect(service.address()?);
    /// assert!(connected.is_ok());
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    pub fn address(&self) -> Result<SocketAddr, TestFailure> {
        match self.addresses()[..] {
            [address] => Ok(address),
            [] => Err(self.failure(format!("{} listens at no TCP address", self.program.name))),
            ref all => Err(self.failure(format!(
                "{} listens at {all:?}: `addresses` returns all of them",
                self.program.name
            ))),
        }
    }

    /// Returns the process ids of the master, its workers, and all their descendants, in ascending order.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::testing::Program;
    ///
    /// let script = "trap 'kill $!; exit 0' TERM; sleep 1000 & echo up; wait";
    /// let program = Program::new("/bin/sh").args(["-c", script]).ready_line("up").start()?;
    /// assert_eq!(program.processes().len(), 2);
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        lock(&self.processes).running()
    }

    /// Sends a signal to the master: `HUP`, `SIGUSR1` and so on.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such signal, or if the program has ended.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::supervise::ExitStatus;
    /// use release_core::testing::Program;
    ///
    /// let script = "echo up; exec sleep 1000";
    /// let mut program = Program::new("/bin/sh").args(["-c", script]).ready_line("up").start()?;
    /// program.signal("KILL")?;
    /// assert_eq!(program.wait()?.status(), Some(ExitStatus::Signal { number: 9, core: false }));
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    pub fn signal(&self, name: &str) -> Result<(), TestFailure> {
        let upper = name.to_ascii_uppercase();
        let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
        let signal: Signal =
            full.parse().map_err(|_| self.failure(format!("there is no signal `{name}`")))?;
        // Before it ends: what is an orphan then belongs to it.
        lock(&self.processes).running();
        pidfd::send_signal(&self.pidfd, signal).map_err(|error| {
            self.failure(format!("cannot send {signal} to {}: {error}", self.program.name))
        })
    }

    /// Waits for the end of the program.
    ///
    /// # Errors
    ///
    /// Returns an error with the log if it does not end in time.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::testing::Program;
    ///
    /// let mut program = Program::new("/bin/echo").args(["bye"]).ready_line("bye").start()?;
    /// assert_eq!(program.wait()?.code(), Some(0));
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    pub fn wait(&mut self) -> Result<Exited, TestFailure> {
        if let Some(ended) = &self.ended {
            return Ok(ended.clone());
        }
        let deadline = Instant::now() + self.program.deadline;
        while !self.has_ended() {
            if Instant::now() > deadline {
                let (name, limit) = (&self.program.name, self.program.deadline);
                return Err(self.failure(format!("{name} did not end within {limit:?}")));
            }
            std::thread::sleep(LOOK);
        }
        Ok(self.reap())
    }

    /// Stops the program with SIGTERM, if it still runs, and checks that it has left nothing behind. What
    /// is left is killed and removed.
    ///
    /// # Errors
    ///
    /// Returns an error with all reasons and the log if the program
    ///
    /// - does not end in time, and is killed, or
    /// - ends with another exit status than 0, unless [`wait`](Self::wait) has returned it before, or
    /// - leaves a process behind, or
    /// - leaves a socket or a file in its directory that was not there before, was not written by
    ///   [`write`](Self::write), and is not declared by [`Program::leaves`].
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::testing::Program;
    ///
    /// let script = "echo $$ >pid; trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done";
    /// let mut program = Program::new("/bin/sh").args(["-c", script]).ready_line("up").start()?;
    /// let failure = program.stop().unwrap_err();
    /// assert!(failure.to_string().contains("left behind: the file pid"), "{failure}");
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    pub fn stop(&mut self) -> Result<Exited, TestFailure> {
        if self.is_checked {
            return self.wait();
        }
        let mut problems = Vec::new();
        let ended = match &self.ended {
            Some(ended) => ended.clone(),
            None => self.terminate(&mut problems),
        };
        problems.extend(self.processes_left());
        problems.extend(self.files_left());
        self.is_checked = true;
        if problems.is_empty() {
            return Ok(ended);
        }
        Err(self.failure(format!("{} {}", self.program.name, problems.join("; it "))))
    }

    fn terminate(&mut self, problems: &mut Vec<String>) -> Exited {
        // It may end by itself at this moment.
        let _ = self.signal("TERM");
        if self.wait().is_err() {
            let limit = self.program.deadline;
            problems.push(format!("did not end within {limit:?} after SIGTERM and was killed"));
            lock(&self.processes).kill(GRACE);
            return self.reap();
        }
        let ended = self.reap();
        match ended.status {
            Some(ExitStatus::Code(0)) | None => {}
            Some(status) => problems.push(format!("ended with {status} after SIGTERM")),
        }
        ended
    }

    fn processes_left(&self) -> Option<String> {
        let mut processes = lock(&self.processes);
        let left = processes.wait_for_none(GRACE.min(self.program.deadline));
        if left.is_empty() {
            return None;
        }
        let names: Vec<_> = left.into_iter().map(describe).collect();
        let mut text = format!("left behind: {}", names.join(", "));
        let rest = processes.kill(GRACE);
        if !rest.is_empty() {
            text.push_str(&format!(", of which {rest:?} cannot be killed"));
        }
        Some(text)
    }

    fn files_left(&self) -> Option<String> {
        let (files, known) = (self.program.directory.files(), lock(&self.known_files));
        let outside = [&self.program.control, &self.program.pid_file].into_iter().flatten();
        let outside = outside.filter(|path| !path.starts_with(&files) && path.exists()).cloned();
        let left = self.program.directory.entries().into_iter().chain(outside).filter(|path| {
            !known.contains(path) && !self.program.leaves.iter().any(|may| path.starts_with(may))
        });
        let names: Vec<_> = left
            .map(|path| {
                let name = path.strip_prefix(&files).unwrap_or(&path).display().to_string();
                format!("the {} {name}", kind(&path))
            })
            .collect();
        (!names.is_empty()).then(|| format!("left behind: {}", names.join(", ")))
    }

    pub(super) fn wait_until_ready(
        &mut self,
        notifications: Option<Notifications>,
    ) -> Result<(), TestFailure> {
        if self.program.pid_file.is_some() {
            self.follow_into_background()?;
        }
        if let Some(line) = &self.program.ready_line {
            return self.wait_for("it was ready", || Ok(self.log().contains(line).then_some(())));
        }
        if self.program.control.is_some() {
            return self.wait_for("it was ready", || self.are_workers_ready());
        }
        let Some(notifications) = notifications else { return Ok(()) };
        let what = "it was ready: it has not sent READY=1 to NOTIFY_SOCKET, as `Master::systemd` does; \
                    `Program::control` and `Program::ready_line` are other ways to know";
        self.wait_for(what, || Ok(notifications.is_ready().then_some(())))?;
        self._notifications = Some(notifications);
        Ok(())
    }

    /// The first process has ended, and the daemon takes its place here.
    fn follow_into_background(&mut self) -> Result<(), TestFailure> {
        let Some(file) = self.program.pid_file.clone() else { return Ok(()) };
        let status = self.wait()?.status;
        self.ended = None;
        if status != Some(ExitStatus::Code(0)) {
            let status = status.map_or(String::new(), |status| format!(": {status}"));
            return Err(self.failure(format!("{} did not start{status}", self.program.name)));
        }
        let path = file.display();
        let text = fs::read_to_string(&file)
            .map_err(|error| self.failure(format!("no process id in {path}: {error}")))?;
        let pid = text.trim().parse();
        self.pid = pid.map_err(|_| self.failure(format!("no process id in {path}: `{text}`")))?;
        self.pidfd = pidfd::pidfd_open(self.pid)
            .map_err(|error| self.failure(format!("process {text} of {path}: {error}")))?;
        self.is_child = false;
        lock(&self.processes).add_daemon(self.pid);
        Ok(())
    }

    /// While the program starts, there is no socket, or nobody accepts.
    fn are_workers_ready(&self) -> Result<Option<()>, TestFailure> {
        let Ok(answer) = self.asked("status", self.program.deadline) else { return Ok(None) };
        let status: StatusReport = serde_json::from_str(&answer).map_err(|error| {
            let message = format!("the control socket answers `{answer}` to `status`: {error}");
            self.failure(message)
        })?;
        Ok((status.ready() == status.workers.len()).then_some(()))
    }

    fn wait_for<T>(
        &self,
        what: &str,
        mut look: impl FnMut() -> Result<Option<T>, TestFailure>,
    ) -> Result<T, TestFailure> {
        let (name, limit) = (&self.program.name, self.program.deadline);
        let deadline = Instant::now() + limit;
        loop {
            // In this order: what it did before its end is seen.
            let has_ended = self.has_ended();
            let seen = look();
            if let Ok(Some(seen)) = seen {
                return Ok(seen);
            }
            if has_ended {
                let status = self.exit_status().map_or(String::new(), |it| format!(": {it}"));
                return Err(self.failure(format!("{name} ended before {what}{status}")));
            }
            seen?;
            if Instant::now() > deadline {
                return Err(self.failure(format!("{limit:?} have passed before {what}")));
            }
            std::thread::sleep(LOOK);
        }
    }

    fn has_ended(&self) -> bool {
        let events = &mut [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        self.ended.is_some() || poll(events, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }

    fn exit_status(&self) -> Option<ExitStatus> {
        match &self.ended {
            Some(ended) => ended.status,
            None => pidfd::ended(&self.pidfd).ok().flatten(),
        }
    }

    /// Takes the exit status of the program, which has ended. From here on its number may be reused.
    fn reap(&mut self) -> Exited {
        if let Some(ended) = &self.ended {
            return ended.clone();
        }
        let mut status = None;
        let mut processes = lock(&self.processes);
        processes.running();
        if self.is_child {
            status = pidfd::try_wait(&self.pidfd).ok().flatten();
            processes.group = None;
        }
        drop(processes);
        let ended = Exited { status, log: self.log() };
        self.ended = Some(ended.clone());
        ended
    }

    /// Ends everything without a check.
    pub(super) fn abandon(&mut self) {
        self.is_checked = true;
        lock(&self.processes).kill(GRACE);
        self.reap();
    }

    fn failure(&self, what: impl Into<String>) -> TestFailure {
        let what = what.into();
        *lock(&self.last_failure) = Some(what.clone());
        TestFailure::new(what).with_log(&self.log())
    }
}

impl Drop for Running {
    #[expect(clippy::print_stderr, reason = "the output of a test that has failed")]
    fn drop(&mut self) {
        if self.is_checked {
            return;
        }
        if std::thread::panicking() {
            self.abandon();
            let name = &self.program.name;
            eprintln!(
                "{}",
                TestFailure::new(format!("{name} when the test failed")).with_log(&self.log())
            );
            return;
        }
        // A test that returns an error loses it when this panics.
        let before = lock(&self.last_failure).take();
        if let Err(failure) = self.stop() {
            let before = before.map_or(String::new(), |what| format!("\nbefore that: {what}"));
            panic!("{failure}{before}");
        }
    }
}
