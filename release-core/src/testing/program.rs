//! `Program`: how to start a program under test.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::directory::Directory;
use super::notifications::Notifications;
use super::processes::MARK;
use super::running::Running;
use super::{Exited, TestFailure, running};
use crate::sys::signal::receive_hangup;

/// Time limit of each wait, unless a test sets another. Busy machines that run tests need much.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// Exceeds any test. The clock cannot add any duration.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What a service manager sets for its own service, not for the program under test.
const OF_SERVICE_MANAGERS: [&str; 7] = [
    "FDSTORE",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// A program to start in a directory of its own, which is removed at the end of the test.
///
/// The directory is the program's working directory, so relative paths of control sockets, pid files and
/// logs are in it. Its standard output and standard error are captured; its standard input is empty.
///
/// # Examples
///
/// A test of your service, in `tests/service.rs` of your package. Cargo sets `CARGO_BIN_EXE_service` to
/// the path of your program `service`:
///
/// ```no_run
/// use release_core::ControlCommand;
/// use release_core::testing::{TestFailure, Program};
///
/// # const SERVICE: &str = "service";
/// #[test]
/// fn a_reload_replaces_the_workers() -> Result<(), TestFailure> {
///     // const SERVICE: &str = env!("CARGO_BIN_EXE_service");
///     let mut service = Program::new(SERVICE)
///         .args(["--listen", "127.0.0.1:0", "--control", "control"])
///         .control("control")
///         .start()?;
///     let old = service.status()?;
///     service.command(ControlCommand::Reload)?;
///     assert_eq!(service.status()?.generation, old.generation + 1);
///     service.stop()?;
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Program {
    command: Command,
    failed: Result<(), String>,
    pub(super) name: String,
    pub(super) directory: Directory,
    pub(super) deadline: Duration,
    pub(super) control: Option<PathBuf>,
    pub(super) pid_file: Option<PathBuf>,
    pub(super) ready_line: Option<String>,
    pub(super) log_files: Vec<PathBuf>,
    pub(super) leaves: Vec<PathBuf>,
}

/// Takes the program, its arguments and its environment from the command. The test kit sets the standard
/// streams, the working directory and the process group.
///
/// # Examples
///
/// ```
/// use std::process::Command;
/// use release_core::testing::Program;
///
/// let mut command = Command::new("/bin/sh");
/// command.args(["-c", "echo $MOTTO"]).env("MOTTO", "carpe diem");
/// assert_eq!(Program::from(command).run()?.log(), "carpe diem\n");
/// # Ok::<(), release_core::testing::TestFailure>(())
/// ```
impl From<Command> for Program {
    fn from(mut command: Command) -> Self {
        for name in OF_SERVICE_MANAGERS {
            if !command.get_envs().any(|(set, _)| set == name) {
                command.env_remove(name);
            }
        }
        let path = Path::new(command.get_program());
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let directory = Directory::new();
        let failed = directory.check().map_err(|error| error.to_string());
        Self {
            command,
            failed,
            name,
            directory,
            deadline: DEADLINE,
            control: None,
            pid_file: None,
            ready_line: None,
            log_files: Vec::new(),
            leaves: Vec::new(),
        }
    }
}

impl Program {
    /// Creates the description of a program with this path, without arguments, and a directory for it.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::testing::Program;
    ///
    /// let ended = Program::new("/bin/true").run()?;
    /// assert_eq!(ended.code(), Some(0));
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    #[must_use]
    pub fn new(executable: impl AsRef<OsStr>) -> Self {
        Command::new(executable).into()
    }

    /// Adds arguments.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::testing::Program;
    ///
    /// let ended = Program::new("/bin/echo").args(["hello", "world"]).run()?;
    /// assert_eq!(ended.log(), "hello world\n");
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets an environment variable.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::testing::Program;
    ///
    /// let ended = Program::new("/bin/sh").args(["-c", "echo $MOTTO"]).env("MOTTO", "carpe diem").run()?;
    /// assert_eq!(ended.log(), "carpe diem\n");
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Returns a path in the program's directory. An absolute path remains as it is.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::testing::Program;
    ///
    /// let program = Program::new("/bin/ls");
    /// let path = program.path("data");
    /// let ended = program.args([path.parent().unwrap()]).run()?;
    /// assert_eq!(ended.log(), "", "the directory is empty");
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    #[must_use]
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.files().join(name)
    }

    /// Creates a file in the program's directory, such as its configuration. An error is returned by
    /// [`start`](Self::start) or [`run`](Self::run).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::testing::Program;
    ///
    /// let ended = Program::new("/bin/cat").file("motto", "carpe diem").args(["motto"]).run()?;
    /// assert_eq!(ended.log(), "carpe diem");
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    #[must_use]
    pub fn file(mut self, name: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> Self {
        let path = self.path(name);
        let written = fs::write(&path, contents);
        let written = written.map_err(|error| format!("cannot write {}: {error}", path.display()));
        self.failed = self.failed.and(written);
        self
    }

    /// Names the control socket of the program, which must understand
    /// [`ControlCommand`](crate::ControlCommand). The program is ready when the status shows only ready
    /// workers.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use release_core::testing::Program;
    ///
    /// let service = Program::new("service").args(["--control", "control"]).control("control").start()?;
    /// assert_eq!(service.status()?.ready(), 2);
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    #[must_use]
    pub fn control(mut self, socket: impl AsRef<Path>) -> Self {
        self.control = Some(self.path(socket));
        self
    }

    /// Declares that the program goes to the background, like
    /// [`Master::background`](crate::Master::background), and writes its process id to this file. It is
    /// ready when the process that was started has exited with status 0.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use release_core::testing::Program;
    ///
    /// let mut service = Program::new("service")
    ///     .args(["--background", "--lock-file", "pid", "--error-log", "log"])
    ///     .background("pid")
    ///     .log_file("log")
    ///     .start()?;
    /// service.stop()?;
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    #[must_use]
    pub fn background(mut self, pid_file: impl AsRef<Path>) -> Self {
        self.pid_file = Some(self.path(pid_file));
        self
    }

    /// Declares that the program is ready when its log has this text.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::testing::Program;
    ///
    /// let script = "trap 'kill $!; exit 0' TERM; echo at your service; sleep 1000 & wait";
    /// let mut program = Program::new("/bin/sh").args(["-c", script]).ready_line("at your service").start()?;
    /// program.stop()?;
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    #[must_use]
    pub fn ready_line(mut self, text: impl Into<String>) -> Self {
        self.ready_line = Some(text.into());
        self
    }

    /// Adds a file to which the program writes its log, to what was captured of its standard output and
    /// standard error. A program in the background has only its log files. The file may remain at the end.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::testing::Program;
    ///
    /// let ended = Program::new("/bin/sh").args(["-c", "echo hello >log"]).log_file("log").run()?;
    /// assert_eq!(ended.log(), "hello\n");
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    #[must_use]
    pub fn log_file(mut self, name: impl AsRef<Path>) -> Self {
        self.log_files.push(self.path(&name));
        self.leaves(name)
    }

    /// Declares that this file or directory, with its contents, may remain at the end: a database, or the
    /// control socket of a program that the test kills. Everything else that the program creates in its
    /// directory and does not remove is a failure.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::testing::Program;
    ///
    /// let touch = || Program::new("/bin/touch").args(["database"]);
    /// let failure = touch().run().unwrap_err();
    /// assert!(failure.to_string().contains("left behind: the file database"), "{failure}");
    /// touch().leaves("database").run()?;
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    #[must_use]
    pub fn leaves(mut self, name: impl AsRef<Path>) -> Self {
        self.leaves.push(self.path(name));
        self
    }

    /// Sets the time limit of each wait: for readiness, for the answer to a command, for a line of the log,
    /// for the end. The default is a minute.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::testing::Program;
    ///
    /// let endless = Program::new("/bin/sleep").args(["1000"]).deadline(Duration::from_millis(50));
    /// let failure = endless.run().unwrap_err().to_string();
    /// assert!(failure.contains("sleep did not end within 50ms"), "{failure}");
    /// ```
    #[must_use]
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.deadline = limit.min(LONGEST);
        self
    }

    /// Starts the program and waits until it is ready: the workers, not only the process.
    ///
    /// - With [`ready_line`](Self::ready_line), until its log has this text.
    /// - In the [`background`](Self::background), until its first process has exited with status 0.
    /// - With a [`control`](Self::control) socket, until all workers are ready.
    /// - Otherwise until it has sent `READY=1` to `NOTIFY_SOCKET`, like
    ///   [`Master::systemd`](crate::Master::systemd).
    ///
    /// # Errors
    ///
    /// Returns an error with the log if the program cannot be started, if it ends before it is ready, or if
    /// it is not ready in time. No process of it is left.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use release_core::testing::Program;
    ///
    /// let service = Program::new("service").start()?;
    /// println!("{:?}", service.addresses());
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    pub fn start(mut self) -> Result<Running, TestFailure> {
        let waits = self.ready_line.is_none() && self.pid_file.is_none() && self.control.is_none();
        let notifications = match waits {
            true => Some(self.listen_for_readiness()?),
            false => None,
        };
        let mut running = self.launch()?;
        match running.wait_until_ready(notifications) {
            Ok(()) => Ok(running),
            Err(failure) => {
                running.abandon();
                Err(failure)
            }
        }
    }

    fn listen_for_readiness(&mut self) -> Result<Notifications, TestFailure> {
        let path = self.directory.notify_socket();
        let notifications = self.failed.clone().and_then(|()| {
            Notifications::listen(&path)
                .map_err(|error| format!("cannot listen at {}: {error}", path.display()))
        });
        self.command.env("NOTIFY_SOCKET", &path);
        notifications.map_err(TestFailure::new)
    }

    /// Starts the program and waits for its end: a command, or a service that cannot start.
    ///
    /// # Errors
    ///
    /// Returns an error with the log if the program cannot be started, does not end in time, or leaves a
    /// process or a file behind. An exit status other than 0 is no error.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::testing::Program;
    ///
    /// let ended = Program::new("/bin/sh").args(["-c", "echo no such account >&2; exit 1"]).run()?;
    /// assert_eq!((ended.code(), ended.log()), (Some(1), "no such account\n"));
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    pub fn run(self) -> Result<Exited, TestFailure> {
        let mut running = self.launch()?;
        match running.wait() {
            Ok(_) => running.stop(),
            Err(failure) => {
                running.abandon();
                Err(failure)
            }
        }
    }

    fn launch(mut self) -> Result<Running, TestFailure> {
        self.failed.clone().map_err(TestFailure::new)?;
        let before = self.directory.entries();
        let mut child = self.spawn().map_err(|error| {
            let program = Path::new(self.command.get_program()).display().to_string();
            TestFailure::new(format!("cannot start {program}: {error}"))
        })?;
        running::attach(self, &child, before).inspect_err(|_| {
            let _ = child.kill().and_then(|()| child.wait());
        })
    }

    fn spawn(&mut self) -> io::Result<std::process::Child> {
        let log = File::options().create(true).append(true).open(self.directory.log())?;
        receive_hangup(&mut self.command);
        self.command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .current_dir(self.directory.files())
            .env(MARK, self.directory.files())
            .process_group(0)
            .spawn()
    }
}
