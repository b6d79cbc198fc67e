//! Becoming a daemon: leaves the terminal, and reports the outcome to the launcher.

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

/// The settings of a daemon process. [`detach`](Daemon::detach) makes this process a daemon.
///
/// Defaults: umask 022 (other users cannot write to the daemon's files; you can set 0, as in the
/// OCaml library), working directory `/`, and `/dev/null` as standard input, output and error.
///
/// # Examples
///
/// ```no_run
/// use release_core::Daemon;
///
/// let detached = Daemon::new().error("/var/log/job.log").detach()?;
/// // Everything that can fail comes here.
/// detached.ready();
/// # Ok::<(), release_core::Error>(())
/// ```
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
    /// Returns the default settings.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Daemon;
    ///
    /// let daemon = Daemon::new();
    /// # let _ = daemon;
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self { umask: 0o022, directory: PathBuf::from("/"), output: None, error: None }
    }

    /// Sets the file mode creation mask, for example `0o027`.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Daemon;
    ///
    /// let daemon = Daemon::new().umask(0o027);
    /// # let _ = daemon;
    /// ```
    #[must_use]
    pub fn umask(mut self, mask: u32) -> Self {
        self.umask = mask;
        self
    }

    /// Sets the working directory. A relative path is resolved before the daemon changes its own.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Daemon;
    ///
    /// let daemon = Daemon::new().directory("/srv");
    /// # let _ = daemon;
    /// ```
    #[must_use]
    pub fn directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.directory = path.into();
        self
    }

    /// Appends standard output to a file, created with mode 0640 if it does not exist. By default
    /// it goes to `/dev/null`.
    ///
    /// A relative path is resolved before the daemon changes its working directory. The file may
    /// not be a symbolic link or have a second name (a hard link): these could lead a daemon that
    /// runs as root to a foreign file. You must protect the directories in its path: no other user
    /// should be able to change them.
    ///
    /// A [`Master`](crate::Master) reopens the file on SIGUSR1: see
    /// [`MasterHandle::reopen_logs`](crate::MasterHandle::reopen_logs).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Daemon;
    ///
    /// let daemon = Daemon::new().output("/var/log/service.log");
    /// # let _ = daemon;
    /// ```
    #[must_use]
    pub fn output(mut self, path: impl Into<PathBuf>) -> Self {
        self.output = Some(path.into());
        self
    }

    /// Appends standard error to a file, which may be the same file: see
    /// [`output`](Daemon::output).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Daemon;
    ///
    /// let daemon = Daemon::new().output("/var/log/service.log").error("/var/log/service.log");
    /// # let _ = daemon;
    /// ```
    #[must_use]
    pub fn error(mut self, path: impl Into<PathBuf>) -> Self {
        self.error = Some(path.into());
        self
    }

    /// Returns the files for its output, independent of the working directory.
    pub(crate) fn log_files(&self) -> Result<LogFiles, Error> {
        LogFiles::new(self.output.as_deref(), self.error.as_deref())
    }

    /// Makes this process a daemon: forks, calls setsid, forks again, and applies the settings.
    ///
    /// Returns only in the daemon. The process that was started waits for [`Detached::ready`] and
    /// exits with status 0. After [`Detached::fail`] it prints the reason and exits with 1. A
    /// daemon that ends before either call counts as failed.
    ///
    /// Descriptors above 2 that the launcher left open are closed; files opened by this program
    /// stay open.
    ///
    /// # Errors
    ///
    /// Returns errors before the first fork, so that they reach the terminal: [`ErrorKind::Usage`]
    /// if the process has more than one thread (a fork would leave their locks behind: call this
    /// method before you create an async runtime or any thread), [`ErrorKind::System`] if a file
    /// cannot be opened, the directory does not exist, or fork fails.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use release_core::{Daemon, Exit};
    ///
    /// fn main() -> Exit {
    ///     let detached = match Daemon::new().detach() {
    ///         Ok(detached) => detached,
    ///         Err(error) => return error.into(),
    ///     };
    ///     detached.ready();
    ///     std::thread::sleep(std::time::Duration::from_secs(60));
    ///     Exit::success()
    /// }
    /// ```
    pub fn detach(self) -> Result<Detached, Error> {
        self.leave(await_ready)
    }

    /// Continues in the daemon. The process that was started runs `launcher` and exits with the
    /// status that it returns.
    pub(crate) fn leave(self, launcher: impl FnOnce(UnixStream) -> u8) -> Result<Detached, Error> {
        refuse_threads()?;
        let plan = Plan::new(&self)?;
        // Also checked for the process that was started, which may have to report the reason.
        let ignored = signal::FAILED_WRITES.into_iter().try_for_each(signal::ignore);
        ignored.map_err(|error| Error::system("cannot ignore signals", error))?;
        let (waiting, telling) = UnixStream::pair()
            .map_err(|error| Error::system("cannot make a socket pair", error))?;
        match fork().map_err(|error| Error::system("cannot fork", error))? {
            Fork::Parent(child) => {
                drop(telling);
                // Until this process has ended, it is the daemon's parent, and would receive its
                // exit status.
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

    /// Prepares the next version of a daemon: restores the working directory. It has the rest
    /// already.
    pub(crate) fn return_to(self) -> Result<(), Error> {
        std::env::set_current_dir(&self.directory).map_err(|error| {
            let path = self.directory.display();
            Error::system(format!("cannot use {path} as working directory"), error)
        })
    }

    /// Becomes a daemon and runs `main` in it, like `daemon f` of the OCaml library.
    ///
    /// `main` must call [`Detached::ready`] when the daemon provides its service; the launcher then
    /// exits with status 0.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use release_core::rt::local::Local;
    /// use release_core::{Daemon, Error, Exit};
    ///
    /// fn main() -> Exit {
    ///     Daemon::new().run(Local::new, |rt, detached| async move {
    ///         detached.ready();
    ///         rt.sleep(std::time::Duration::from_secs(60)).await;
    ///         Ok::<(), Error>(())
    ///     })
    /// }
    /// ```
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
        // The launcher receives the reason of a failure before `ready`. After it, no process
        // listens.
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

/// Returns an error if there is more than one thread: a fork without exec is then unsafe.
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

/// A thread that the program did not start, such as an agent's or an emulator's, does not matter if
/// no forked process continues without exec.
pub(crate) fn warn_of_threads() {
    if let Ok(threads @ 2..) = thread_count() {
        log_warning!(
            threads,
            "there are threads before the async runtime: any of the program's own should begin later"
        );
    }
}

/// Performs, before the fork, every step whose failure the user can correct.
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

    /// Runs in the first child. Continues in the second, which can never acquire a terminal again.
    fn carry_out(self) -> Result<(), Error> {
        let failed = |what: &'static str| move |error| Error::system(what, error);
        nix::unistd::setsid().map_err(|errno| Error::system("cannot start a session", errno))?;
        // Otherwise the exit of this session leader would send a hang-up to its child.
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
