//! Another program as a daemon: nothing of this one stays in front of it.

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

/// Longer than anybody waits, and no longer than a clock goes.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 86_400);

/// A program that [`Daemon::exec`] runs as a daemon.
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
    /// A program, by its path or by its name in `PATH`, and its arguments. A relative path is
    /// resolved before the daemon leaves its directory.
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

    /// The login name that it runs as, when this process is root: with that user's groups, without a
    /// way back, and with its `HOME`, `USER`, `LOGNAME` and `SHELL`. Numbers are accepted as in
    /// [`Workers::user`](crate::Workers::user).
    #[must_use]
    pub fn user(mut self, login: impl Into<String>) -> Self {
        self.user = Some(login.into());
        self
    }

    /// Sets what is in its environment; [`Environment::inherit`] by default.
    #[must_use]
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }

    /// One at a time: a file that is locked and holds the pid.
    ///
    /// The lock is that of an open descriptor which the program inherits: it lasts until the
    /// program, and whatever it passed the descriptor on to, has ended or closed it. The file stays
    /// behind then, unlocked, and the next start takes it over.
    #[must_use]
    pub fn pid_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.pid_file = Some(path.into());
        self
    }

    /// How long the program has to live before it counts as up; by default it is up when it runs.
    #[must_use]
    pub fn wait(mut self, time: Duration) -> Self {
        self.wait = time;
        self
    }

    /// Everything that has to be made before the working directory changes.
    fn prepare(self) -> Result<Prepared, Error> {
        // A name without a slash is looked for in `PATH`, when it is run.
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
        Ok(Prepared {
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
    /// The process that was started exits with status 0 when the program runs and has lived for
    /// [`Exec::wait`]; otherwise it prints the reason and exits with 127 when there is no such program,
    /// 126 when it cannot be executed, and 1 for everything else. So this comes back only with an
    /// error from before the first fork: see [`Daemon::detach`].
    ///
    /// The program has its signals at their defaults, and no descriptor beside standard input,
    /// output and error but that of the pid file, which it can only read.
    pub fn exec(self, program: Exec) -> Exit {
        let prepared = match program.prepare() {
            Ok(prepared) => prepared,
            Err(error) => return error.into(),
        };
        // The program's exit status, should it end while the launcher still waits.
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

/// A program that is ready to be run.
struct Prepared {
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    user: Option<String>,
    pid_file: Option<PathBuf>,
    wait: Duration,
}

impl Prepared {
    /// In the daemon: comes back only with an exit status and the reason.
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

    /// As execvp(3) does it, but that no shell is given what is no program.
    fn become_it(&self) -> Errno {
        let mut last = Errno::ENOENT;
        for file in candidates(self.name()) {
            let Ok(path) = c_string(file.into_os_string()) else { continue };
            match nix::unistd::execve(&path, &self.arguments, &self.environment) {
                Ok(never) => match never {},
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                // Another directory may have one that this user may execute.
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
        // Also said of a name that is nowhere, when some directory of `PATH` cannot be searched.
        let is_nowhere = errno == Errno::EACCES && file.is_none();
        let errno = if is_nowhere { Errno::ENOENT } else { errno };
        let status = if matches!(errno, Errno::ENOENT | Errno::ENOTDIR) { 127 } else { 126 };
        let why = file.and_then(|file| why_not(&file, errno));
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        (status, Error::system(format!("cannot execute {name}{why}"), errno))
    }

    /// What only root may do, and then no longer.
    fn settle(&self) -> Result<Option<LockFile>, Error> {
        let lock = self.pid_file.as_deref().map(LockFile::acquire).transpose()?;
        lock.iter().try_for_each(LockFile::keep_over_exec)?;
        if self.user.is_some() {
            Privileges { user: self.user.clone(), ..Privileges::default() }.give_up()?;
        }
        Ok(lock)
    }

    /// In the process that was started: waits until the program is up.
    fn launch(&self, daemon: UnixStream) -> u8 {
        let Err((status, reason)) = self.await_program(daemon) else { return 0 };
        // What the program has left and could not remove, unless another one has it.
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
            // It has run, and was faster than this.
            return Ok(());
        }
        let how = how.map_or_else(String::new, |exit| format!(" with {exit}"));
        Err((1, format!("{name} ended{how} before it was up; its output may say why")))
    }
}

/// The file of this name, in `PATH` if the name has no directory.
fn find(name: &OsStr) -> Option<PathBuf> {
    let has_directory = name.as_bytes().contains(&b'/');
    candidates(name).into_iter().find(|file| has_directory || file.exists())
}

/// Where a program of this name may be.
fn candidates(name: &OsStr) -> Vec<PathBuf> {
    let search = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    match name.as_bytes() {
        [] => Vec::new(),
        bytes if bytes.contains(&b'/') => vec![name.into()],
        _ => std::env::split_paths(&search).map(|place| place.join(name)).collect(),
    }
}
