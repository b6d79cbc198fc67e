//! Becoming a daemon: away from the terminal, with the outcome told to the launcher.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::waitpid;

use super::launcher::{Detached, await_ready};
use super::log_files::LogFiles;
use crate::exit::Exit;
use crate::rt::{Driver, Rt, run};
use crate::sys::fds::{Inherited, settle_inherited};
use crate::sys::process::{Fork, exit_now, fork, redirect, thread_count};
use crate::sys::signal;
use crate::{Error, ErrorKind};

/// The settings of a daemon process; [`detach`](Daemon::detach) makes this process one.
///
/// By default: umask 022 (no file of the daemon is writable by others; the OCaml library's 0 can be
/// set), working directory `/`, and `/dev/null` as standard input, output and error.
#[derive(Clone, Debug)]
pub struct Daemon {
    umask: u32,
    directory: PathBuf,
    output: Option<PathBuf>,
    error: Option<PathBuf>,
}

impl Default for Daemon {
    fn default() -> Self {
        Self::new()
    }
}

impl Daemon {
    /// The default settings.
    #[must_use]
    pub fn new() -> Self {
        Self { umask: 0o022, directory: PathBuf::from("/"), output: None, error: None }
    }

    /// The file mode creation mask, for example `0o027`.
    #[must_use]
    pub fn umask(mut self, mask: u32) -> Self {
        self.umask = mask;
        self
    }

    /// The working directory. A relative path is resolved before the daemon leaves its own.
    #[must_use]
    pub fn directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.directory = path.into();
        self
    }

    /// Appends standard output to a file, made with mode 0640 if there is none; without this it
    /// goes to `/dev/null`.
    ///
    /// A relative path is resolved before the daemon leaves its directory. The file itself may not be
    /// a symbolic link or have a second name (a hard link), as those may lead a daemon that runs as
    /// root to a file that is not its own. The directories in front of it are up to you: nobody
    /// else should be able to change them.
    ///
    /// A [`Master`](crate::Master) opens it again on SIGUSR2: see
    /// [`MasterHandle::reopen_logs`](crate::MasterHandle::reopen_logs).
    #[must_use]
    pub fn output(mut self, path: impl Into<PathBuf>) -> Self {
        self.output = Some(path.into());
        self
    }

    /// Appends standard error to a file, which may be the same one: see
    /// [`output`](Daemon::output).
    #[must_use]
    pub fn error(mut self, path: impl Into<PathBuf>) -> Self {
        self.error = Some(path.into());
        self
    }

    /// Where its output goes, independent of the working directory.
    pub(crate) fn log_files(&self) -> Result<LogFiles, Error> {
        LogFiles::new(self.output.as_deref(), self.error.as_deref())
    }

    /// Makes this process a daemon: fork, setsid, fork again, and what the settings say.
    ///
    /// Comes back in the daemon only. The process that was started waits for [`Detached::ready`]
    /// and exits with status 0, or with 1 and the reason after [`Detached::fail`]; a daemon that
    /// ends before it said either counts as failed.
    ///
    /// Descriptors above 2 that the launcher left open are closed; files of this program stay.
    ///
    /// # Errors
    ///
    /// Before the first fork, so that they reach the terminal: [`ErrorKind::Usage`] when the
    /// process has more than one thread (a fork would leave their locks behind: call this before
    /// an async runtime or any thread exists), [`ErrorKind::System`] when a file cannot be opened,
    /// the directory does not exist, or fork fails.
    pub fn detach(self) -> Result<Detached, Error> {
        self.leave(await_ready)
    }

    /// Goes on in the daemon; the process that was started runs `launcher`, whose value is its exit
    /// status.
    pub(crate) fn leave(self, launcher: impl FnOnce(UnixStream) -> u8) -> Result<Detached, Error> {
        refuse_threads()?;
        let plan = Plan::new(&self)?;
        // Of the process that was started, too: it may have to say why.
        let ignored = signal::FAILED_WRITES.into_iter().try_for_each(signal::ignore);
        ignored.map_err(|error| Error::system("cannot ignore signals", error))?;
        let (waiting, telling) = UnixStream::pair()
            .map_err(|error| Error::system("cannot make a socket pair", error))?;
        match fork().map_err(|error| Error::system("cannot fork", error))? {
            Fork::Parent(child) => {
                drop(telling);
                // Until it has ended, it is the parent of the daemon, whose exit status it would get.
                while waitpid(child, None) == Err(Errno::EINTR) {}
                exit_now(launcher(waiting).into())
            }
            Fork::Child => {
                drop(waiting);
                let detached = Detached::new(telling);
                match plan.carry_out() {
                    Ok(()) => Ok(detached),
                    Err(error) => {
                        detached.fail(&error);
                        exit_now(1)
                    }
                }
            }
        }
    }

    /// The next version of a daemon: back to its working directory. It has all else already.
    pub(crate) fn return_to(self) -> Result<(), Error> {
        std::env::set_current_dir(&self.directory).map_err(|error| {
            let path = self.directory.display();
            Error::system(format!("cannot use {path} as working directory"), error)
        })
    }

    /// Becomes a daemon and runs `main` in it: `daemon f` of the OCaml library.
    ///
    /// `main` calls [`Detached::ready`] when the daemon does what it is for; that is when the
    /// launcher exits with status 0.
    #[doc(alias = "daemon")]
    pub fn run<D, F, E>(
        self,
        driver: impl FnOnce() -> io::Result<D>,
        main: impl FnOnce(Rt, Detached) -> F,
    ) -> Exit
    where
        D: Driver,
        F: Future<Output = Result<(), E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let detached = match self.detach() {
            Ok(detached) => detached,
            Err(error) => return error.into(),
        };
        let driver = match driver() {
            Ok(driver) => driver,
            Err(error) => {
                let error = Error::system("cannot start the async runtime", error);
                detached.fail(&error);
                return error.into();
            }
        };
        let rt = driver.handle();
        // The launcher learns the reason also of a failure before `ready`; after it, nobody listens.
        let launcher = detached.duplicate();
        let done = run(&driver, main(rt, detached));
        let done = done
            .map_err(|error| Error::new(ErrorKind::Program, "the daemon failed").caused_by(error));
        if let Err(error) = &done {
            launcher.fail(error);
        }
        done.into()
    }
}

/// More than one thread forbids a fork that is not followed by exec.
pub(crate) fn refuse_threads() -> Result<(), Error> {
    let threads = thread_count().map_err(|error| {
        Error::system("cannot count threads in /proc/self/task: is /proc mounted?", error)
    })?;
    if threads == 1 {
        return Ok(());
    }
    let message = format!(
        "this process has {threads} threads and cannot fork safely; \
         call this first in `main`, before any thread or async runtime (`#[tokio::main]` starts one)"
    );
    Err(Error::new(ErrorKind::Usage, message))
}

/// A thread that the program did not start, of an agent or an emulator, is no reason not to run where
/// nothing is forked that goes on.
pub(crate) fn warn_of_threads() {
    if let Ok(threads @ 2..) = thread_count() {
        tracing::warn!(
            threads,
            "there are threads before the async runtime: any of the program's own should begin later"
        );
    }
}

/// Everything that can fail for reasons the user can mend, done before the fork.
struct Plan {
    umask: Mode,
    directory: PathBuf,
    null: File,
    outputs: Vec<(i32, File)>,
}

impl Plan {
    fn new(daemon: &Daemon) -> Result<Self, Error> {
        let directory = std::fs::canonicalize(&daemon.directory).map_err(|error| {
            let path = daemon.directory.display();
            Error::system(format!("cannot use {path} as working directory"), error)
        })?;
        let null = File::options().read(true).write(true).open("/dev/null");
        let null = null.map_err(|error| Error::system("cannot open /dev/null", error))?;
        Ok(Self {
            umask: Mode::from_bits_truncate(daemon.umask & 0o777),
            directory,
            null,
            outputs: daemon.log_files()?.open()?,
        })
    }

    /// In the first child; goes on in the second, which can never get a terminal again.
    fn carry_out(self) -> Result<(), Error> {
        let failed = |what: &'static str| move |error| Error::system(what, error);
        nix::unistd::setsid().map_err(|errno| Error::system("cannot start a session", errno))?;
        // The death of the session's leader, here, would hang up on its child.
        signal::ignore(Signal::SIGHUP).map_err(failed("cannot ignore SIGHUP"))?;
        if let Fork::Parent(_) = fork().map_err(failed("cannot fork a second time"))? {
            exit_now(0);
        }
        umask(self.umask);
        std::env::set_current_dir(&self.directory).map_err(failed("cannot change directory"))?;
        for number in 0..=2 {
            let file = self.outputs.iter().find(|(of, _)| *of == number);
            redirect(number, file.map_or(&self.null, |(_, file)| file))
                .map_err(failed("cannot redirect standard input and output"))?;
        }
        settle_inherited(Inherited::Close, &[]).map_err(failed("cannot close descriptors"))
    }
}
