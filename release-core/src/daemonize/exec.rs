//! Running another program as a daemon, without a process of this program in front of it.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::detach::Daemon;
use super::launcher::{Detached, Word, complain, hear};
use super::lock::LockFile;
use crate::accounts;
use crate::exit::Exit;
use crate::path::absolute;
use crate::path::c_string;
use crate::process::environment::Environment;
use crate::process::privileges::Privileges;
use crate::process::unexecutable::why_not;
use crate::sys::exit_status::ExitStatus;
use crate::sys::pidfd::{pidfd_open, try_wait};
use crate::sys::process::{adopt_orphans, exit_now, leave_keyring};
use crate::sys::signal::{keep_zombies, reset_for_exec};
use crate::{Error, ErrorKind};

/// A duration longer than any useful wait, within the range of the clock.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 86_400);

/// A program to be run as a daemon by [`Daemon::exec`].
///
/// # Examples
///
/// ```no_run
/// use std::time::{Duration, Instant};
/// use release_core::{Daemon, Exec, Exit};
///
/// fn main() -> Exit {
///     let job = Exec::new("./job", ["--all"])
///         .user("nobody")
///         .pid_file("/run/job.pid")
///         .wait(Duration::from_secs(1));
///     Daemon::new().error("/var/log/job.log").exec(job)
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Exec {
    program: OsString,
    arguments: Vec<OsString>,
    user: Option<String>,
    environment: Environment,
    pid_file: Option<PathBuf>,
    wait: Duration,
}

impl Exec {
    /// Creates the settings for a program, given by its path or its name in `PATH`, and its
    /// arguments. A relative path is resolved before the daemon changes its working directory.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Exec;
    ///
    /// let job = Exec::new("./job", ["--all"]);
    /// # let _ = job;
    /// ```
    pub fn new<A: Into<OsString>>(
        program: impl Into<OsString>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        let arguments = arguments.into_iter().map(Into::into).collect();
        let program = program.into();
        Self {
            program,
            arguments,
            user: None,
            environment: Environment::inherit(),
            pid_file: None,
            wait: Duration::ZERO,
        }
    }

    /// Sets the login name that the program runs as, if this process is root. The program gets that
    /// user's groups and the user's `HOME`, `USER`, `LOGNAME` and `SHELL`, and cannot regain root.
    /// You may give a number, as for [`Workers::user`](crate::Workers::user).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Exec;
    ///
    /// let job = Exec::new("./job", ["--all"]).user("nobody");
    /// # let _ = job;
    /// ```
    #[must_use]
    pub fn user(mut self, login: impl Into<String>) -> Self {
        self.user = Some(login.into());
        self
    }

    /// Sets the program's environment. The default is [`Environment::inherit`].
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Environment, Exec};
    ///
    /// let job = Exec::new("./job", ["--all"]).environment(Environment::default());
    /// # let _ = job;
    /// ```
    #[must_use]
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }

    /// Allows only one instance at a time, using a locked file that holds the pid.
    ///
    /// The program inherits the descriptor that holds the lock. The lock lasts until the program,
    /// and every process that it passed the descriptor to, has exited or closed it. The file then
    /// remains, unlocked, and the next start takes it over.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Exec;
    ///
    /// let job = Exec::new("./job", ["--all"]).pid_file("/run/job.pid");
    /// # let _ = job;
    /// ```
    #[must_use]
    pub fn pid_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.pid_file = Some(path.into());
        self
    }

    /// Sets how long the program must run before it counts as up. By default it is up once it runs.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::Exec;
    ///
    /// let job = Exec::new("./job", ["--all"]).wait(Duration::from_secs(1));
    /// # let _ = job;
    /// ```
    #[must_use]
    pub fn wait(mut self, time: Duration) -> Self {
        self.wait = time;
        self
    }

    /// Creates everything that must exist before the working directory changes.
    fn prepare(self) -> Result<PreparedProgram, Error> {
        // A name without a slash is looked up in `PATH` when the program is run.
        let program = if self.program.as_encoded_bytes().contains(&b'/') {
            absolute(Path::new(&self.program))?.into_os_string()
        } else {
            self.program.clone()
        };
        let credentials = self.user.as_deref().map(accounts::credentials).transpose();
        let credentials = credentials.map_err(|error| {
            Error::new(ErrorKind::Privileges, "cannot drop privileges").caused_by(error)
        })?;
        let arguments = std::iter::once(self.program).chain(self.arguments).map(c_string);
        Ok(PreparedProgram {
            program: c_string(program)?,
            arguments: arguments.collect::<Result<_, _>>()?,
            environment: self.environment.block(|_| false, credentials.as_ref())?,
            user: self.user,
            pid_file: self.pid_file.as_deref().map(absolute).transpose()?,
            wait: self.wait,
        })
    }
}

impl Daemon {
    /// Makes this process a daemon that runs another program in its place.
    ///
    /// The process that was started exits with status 0 when the program has run for
    /// [`Exec::wait`]. Otherwise it prints the reason and exits with 127 if there is no such
    /// program, 126 if it cannot be executed, and 1 for all other failures. This method therefore
    /// returns only if an error occurs before the first fork: see [`Daemon::detach`].
    ///
    /// In the program, all signals have their default action. Its only descriptors are standard
    /// input, output and error, and that of the pid file, which is read-only.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use release_core::{Daemon, Exec, Exit};
    ///
    /// fn main() -> Exit {
    ///     Daemon::new().output("/var/log/job.log").exec(Exec::new("./job", ["--all"]))
    /// }
    /// ```
    pub fn exec(self, program: Exec) -> Exit {
        let prepared = match program.prepare() {
            Ok(prepared) => prepared,
            Err(error) => return error.into(),
        };
        // Holds the program's exit status if it exits while the launcher still waits.
        if let Err(error) = adopt_orphans() {
            return Error::new(ErrorKind::System, "cannot wait for the program")
                .caused_by(error)
                .into();
        }
        if let Err(error) = keep_zombies() {
            return Error::system("cannot wait for the program", error).into();
        }
        let launcher = |daemon| prepared.launch(daemon);
        match self.leave(launcher) {
            Ok(mut detached) => {
                let (status, error) = prepared.execute(&mut detached);
                detached.fail_with(status, &error);
                exit_now(status.into())
            }
            Err(error) => error.into(),
        }
    }
}

/// A program that is ready to run.
struct PreparedProgram {
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    user: Option<String>,
    pid_file: Option<PathBuf>,
    wait: Duration,
}

impl PreparedProgram {
    /// Runs in the daemon. Returns only on failure, with an exit status and the reason.
    fn execute(&self, detached: &mut Detached) -> (u8, Error) {
        let lock = match self.settle() {
            Ok(lock) => lock,
            Err(error) => return (1, error),
        };
        detached.executes();
        reset_for_exec();
        leave_keyring();
        let errno = self.become_it();
        drop(lock);
        self.cannot_execute(errno)
    }

    /// Like execvp(3), but never runs a file that is not a program in a shell.
    fn become_it(&self) -> Errno {
        let mut last = Errno::ENOENT;
        for file in candidates(self.name()) {
            let Ok(path) = c_string(file.into_os_string()) else { continue };
            match nix::unistd::execve(&path, &self.arguments, &self.environment) {
                Ok(never) => match never {},
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                // Another directory may have a file of that name that this user may execute.
                Err(Errno::EACCES) => last = Errno::EACCES,
                Err(errno) => return errno,
            }
        }
        last
    }

    fn name(&self) -> &OsStr {
        OsStr::from_bytes(self.program.as_bytes())
    }

    fn cannot_execute(&self, errno: Errno) -> (u8, Error) {
        let name = self.program.to_string_lossy();
        let file = find(self.name());
        // Also reported for a name found nowhere, if a directory of `PATH` cannot be searched.
        let is_nowhere = errno == Errno::EACCES && file.is_none();
        let errno = if is_nowhere { Errno::ENOENT } else { errno };
        let status = if matches!(errno, Errno::ENOENT | Errno::ENOTDIR) { 127 } else { 126 };
        let why = file.and_then(|file| why_not(&file, errno));
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        (status, Error::system(format!("cannot execute {name}{why}"), errno))
    }

    /// Performs the steps that require root, then drops root for good.
    fn settle(&self) -> Result<Option<LockFile>, Error> {
        let lock = self.pid_file.as_deref().map(LockFile::acquire).transpose()?;
        lock.iter().try_for_each(LockFile::keep_over_exec)?;
        if self.user.is_some() {
            Privileges { user: self.user.clone(), ..Privileges::default() }.give_up()?;
        }
        Ok(lock)
    }

    /// Runs in the process that was started. Waits until the program is up.
    fn launch(&self, daemon: UnixStream) -> u8 {
        let Err((status, reason)) = self.await_program(daemon) else { return 0 };
        // Remove the file that the program left and could not remove, unless another program has
        // it.
        drop(self.pid_file.as_deref().map(LockFile::acquire));
        complain(status, &reason)
    }

    fn await_program(&self, mut daemon: UnixStream) -> Result<(), (u8, String)> {
        let before = || (1, "the daemon ended before it ran the program".to_owned());
        let process = match hear(&mut daemon) {
            Word::Executes(pid) => pidfd_open(pid),
            Word::Failed(status, reason) => return Err((status, reason)),
            Word::Ready | Word::Nothing => return Err(before()),
        };
        if let Word::Failed(status, reason) = hear(&mut daemon) {
            return Err((status, reason));
        }
        let process = process.map_err(|_| before())?;
        let deadline = Instant::now() + self.wait.min(LONGEST_WAIT);
        loop {
            let rest = deadline.saturating_duration_since(Instant::now());
            let rest = PollTimeout::try_from(rest).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], rest) {
                Ok(0) => return Ok(()),
                Err(Errno::EINTR) => {}
                _ => break,
            }
        }
        let name = self.program.to_string_lossy();
        let how = try_wait(&process).ok().flatten();
        if self.wait.is_zero() && how == Some(ExitStatus::Code(0)) {
            // It did run, and exited before this check.
            return Ok(());
        }
        let how = how.map_or_else(String::new, |exit| format!(" with {exit}"));
        Err((1, format!("{name} ended{how} before it was up; its output may say why")))
    }
}

/// Returns the file of this name, from `PATH` if the name has no directory.
fn find(name: &OsStr) -> Option<PathBuf> {
    let has_directory = name.as_bytes().contains(&b'/');
    candidates(name).into_iter().find(|file| has_directory || file.exists())
}

/// Returns the possible paths of a program of this name.
fn candidates(name: &OsStr) -> Vec<PathBuf> {
    let search = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    match name.as_bytes() {
        [] => Vec::new(),
        bytes if bytes.contains(&b'/') => vec![name.into()],
        _ => std::env::split_paths(&search).map(|place| place.join(name)).collect(),
    }
}
