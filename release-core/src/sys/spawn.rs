//! Starting a worker: fork and exec, with everything prepared before the fork.

use std::cell::Cell;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::Pid;

use super::creds::Credentials;
use super::process::{die_with, exit_now};
use super::resources::{FORBIDDEN_PROCESSOR, Resources};
use super::{Failed, check, creds, fds, pidfd, signal};

/// The first descriptor after standard input, output and error.
pub(crate) const FIRST_PASSED: RawFd = 3;

/// What a new process is to be.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) program: CString,
    /// An executable that is run whatever is at the path of `program`.
    pub(crate) image: Option<Arc<OwnedFd>>,
    pub(crate) arguments: Vec<CString>,
    /// Each `NAME=VALUE`; nothing else is in the environment of the new process,
    pub(crate) environment: Vec<CString>,
    /// unless it is to find its own pid there, as `LISTEN_PID`.
    pub(crate) listen_pid: bool,
    pub(crate) resources: Resources,
    /// Another working directory.
    pub(crate) directory: Option<CString>,
    pub(crate) identity: Identity,
}

/// Who a new process is.
#[derive(Clone, Debug)]
pub(crate) enum Identity {
    /// The same as this process, with all that it may.
    Same,
    /// The same user. A process that is not root may have been given capabilities: they are its own.
    Powerless,
    Other(Credentials),
}

/// A process that is about to run its program.
///
/// Whether it does is not waited for here: as soon as the child has another user, that user's other
/// processes can stop it, and the master with it.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    /// A socket that ends when the program runs, or says in [`REPORT`] bytes what failed before.
    pub(crate) report: OwnedFd,
}

/// The length of a child's report: the call's index and its errno.
pub(crate) const REPORT: usize = 5;

/// Why a process could not be started.
#[derive(Debug)]
pub(crate) enum SpawnError {
    /// In this process: descriptors, memory or processes are short.
    Here(&'static str, io::Error),
    /// In the new process, before it ran its program.
    There(Failed),
    /// The new process did nothing for so long that it was killed.
    Stuck,
}

impl std::fmt::Display for SpawnError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Here(what, error) => write!(f, "{what}: {error}"),
            Self::There(failed) => failed.fmt(f),
            Self::Stuck => f.write_str("the new process was stopped before it ran its program"),
        }
    }
}

impl std::error::Error for SpawnError {}

/// The calls that can fail in the child; their index is what travels through the error pipe.
const CALLS: [&str; 24] = [
    "dup2",
    "chdir",
    "close_range",
    "sched_setaffinity",
    "sched_getaffinity",
    FORBIDDEN_PROCESSOR,
    "setpriority",
    "setrlimit(RLIMIT_NOFILE)",
    "setrlimit(RLIMIT_CORE)",
    "setrlimit(RLIMIT_AS)",
    "setrlimit(RLIMIT_NPROC)",
    "setrlimit(RLIMIT_FSIZE)",
    "setgroups",
    "setresgid",
    "setresuid",
    "capset",
    "prctl(PR_CAPBSET_DROP)",
    "prctl(PR_CAP_AMBIENT)",
    "prctl(PR_SET_NO_NEW_PRIVS)",
    "prctl(PR_SET_PDEATHSIG)",
    "getppid",
    "setpgid",
    "execve",
    "verifying that privileges are gone",
];

/// Starts a process with these descriptors, each under the number beside it.
///
/// Where none of them is 0, 1 or 2, it shares that one with this process; it has no others.
///
/// The new process has its own process group (a Ctrl-C reaches the master alone, which then stops
/// its workers in order), default signals, none blocked, and dies with the calling thread.
pub(crate) fn spawn(
    command: &Command,
    descriptors: &[(RawFd, BorrowedFd<'_>)],
) -> Result<Child, SpawnError> {
    let (reader, writer) = UnixStream::pair().map_err(here("socketpair"))?;
    let prepared = Prepared::new(command, descriptors, &writer)?;
    drop(writer);
    let parent = nix::unistd::getpid();

    // A signal between fork and exec would run this process's handlers in the child.
    let mut mask = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut mask))
        .map_err(|errno| SpawnError::Here("sigprocmask", errno.into()))?;
    // SAFETY: the child makes only async-signal-safe calls on memory prepared above, and ends in
    // execve or _exit; other threads of this process may hold any lock.
    let forked = unsafe { nix::unistd::fork() };
    if let Ok(nix::unistd::ForkResult::Child) = forked {
        let failed = prepared.run(parent);
        prepared.report(failed);
    }
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None);
    let pid = match forked {
        Ok(nix::unistd::ForkResult::Parent { child }) => child,
        Ok(nix::unistd::ForkResult::Child) => exit_now(127),
        Err(errno) => return Err(SpawnError::Here("fork", errno.into())),
    };
    drop(prepared);
    Child::of(pid, reader.into())
}

fn here(what: &'static str) -> impl Fn(io::Error) -> SpawnError {
    move |error| SpawnError::Here(what, error)
}

impl Child {
    fn of(pid: Pid, report: OwnedFd) -> Result<Self, SpawnError> {
        match pidfd::pidfd_open(pid.as_raw()) {
            Ok(pidfd) => Ok(Self { pid, pidfd, report }),
            Err(error) => {
                // Not reaped yet, so the number is still this child's.
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                while nix::sys::wait::waitpid(pid, None) == Err(nix::errno::Errno::EINTR) {}
                Err(SpawnError::Here("pidfd_open", error))
            }
        }
    }
}

/// What the child says that could not run its program, see [`Child::report`].
pub(crate) fn decode(report: [u8; REPORT]) -> Failed {
    let [call, errno @ ..] = report;
    let call = CALLS.get(usize::from(call)).unwrap_or(&CALLS[CALLS.len() - 1]);
    Failed { call, errno: i32::from_ne_bytes(errno) }
}

const PID_NAME: &[u8] = b"LISTEN_PID=";

/// Room for the name, ten digits and a NUL.
const PID_ENTRY: usize = PID_NAME.len() + 11;

/// Everything the child needs, at addresses and descriptor numbers that do not change any more.
struct Prepared<'a> {
    command: &'a Command,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
    /// Where `LISTEN_PID` is written by the one process that knows the value.
    pid_entry: Box<[Cell<u8>; PID_ENTRY]>,
    /// The numbers they are to have, and duplicates at numbers above every one of those, so that no
    /// dup2 overwrites a later source.
    descriptors: Vec<(RawFd, OwnedFd)>,
    image: Option<OwnedFd>,
    error: OwnedFd,
    /// What the error pipe will have: the first number after those.
    first_free: RawFd,
    /// The number that the error pipe has in the child by now.
    error_number: Cell<RawFd>,
}

/// The error pipe and the executable come after what is passed.
const OWN: RawFd = 2;

impl<'a> Prepared<'a> {
    fn new(
        command: &'a Command,
        descriptors: &[(RawFd, BorrowedFd<'_>)],
        error: &UnixStream,
    ) -> Result<Self, SpawnError> {
        let numbers = descriptors.iter().map(|(number, _)| number + 1);
        let first_free = numbers.chain([FIRST_PASSED]).max().unwrap_or(FIRST_PASSED);
        let duplicate =
            |fd| fds::duplicate_from(fd, first_free + OWN).map_err(here("fcntl(F_DUPFD)"));
        let descriptors = descriptors
            .iter()
            .map(|(number, source)| Ok((*number, duplicate(*source)?)))
            .collect::<Result<_, _>>()?;
        let error = duplicate(error.as_fd())?;
        let pid_entry = Box::new([const { Cell::new(0) }; PID_ENTRY]);
        let own_pid = command.listen_pid.then(|| pid_entry.as_ptr().cast());
        Ok(Self {
            command,
            image: command.image.as_ref().map(|image| duplicate(image.as_fd())).transpose()?,
            argv: pointers(&command.arguments, None),
            envp: pointers(&command.environment, own_pid),
            pid_entry,
            descriptors,
            first_free,
            error_number: Cell::new(error.as_raw_fd()),
            error,
        })
    }

    /// The child. Comes back only when something failed.
    fn run(&self, parent: Pid) -> Failed {
        match self.become_program(parent) {
            Ok(never) => match never {},
            Err(failed) => failed,
        }
    }

    fn become_program(&self, parent: Pid) -> Result<std::convert::Infallible, Failed> {
        signal::reset_for_exec();
        // SAFETY: takes integers.
        check("setpgid", unsafe { libc::setpgid(0, 0) }.into())?;
        // Before the limits, one of which is how high a descriptor's number may be.
        self.place_descriptors()?;
        self.command.resources.apply()?;
        if let Some(directory) = &self.command.directory {
            // SAFETY: a NUL-ended string that is alive in self.
            check("chdir", unsafe { libc::chdir(directory.as_ptr()) }.into())?;
        }
        match &self.command.identity {
            Identity::Same => {}
            Identity::Powerless => creds::leave_capabilities()?,
            Identity::Other(credentials) => credentials.assume()?,
        }
        // After the change of user, which clears it.
        die_with(parent)?;
        if self.command.listen_pid {
            self.write_pid();
        }
        let (argv, envp) = (self.argv.as_ptr(), self.envp.as_ptr());
        if self.image.is_some() {
            let (image, flags) = (self.error_number.get() + 1, libc::AT_EMPTY_PATH);
            // SAFETY: the strings are NUL-ended and the arrays of them NULL-ended, alive in self.
            unsafe { libc::syscall(libc::SYS_execveat, image, c"".as_ptr(), argv, envp, flags) };
        } else {
            // SAFETY: as above.
            unsafe { libc::execve(self.command.program.as_ptr(), argv, envp) };
        }
        Err(Failed { call: "execve", errno: nix::errno::Errno::last_raw() })
    }

    /// Each gets the number that it is to have, the error pipe and the executable come right after,
    /// the rest is closed; whatever lies in between is this program's own, and close-on-exec.
    fn place_descriptors(&self) -> Result<(), Failed> {
        for (number, source) in &self.descriptors {
            // SAFETY: integers; what is overwritten is this child's copy.
            let done = unsafe { libc::dup2(source.as_raw_fd(), *number) };
            check("dup2", done.into())?;
        }
        let next = self.first_free;
        for (source, target) in [Some(&self.error), self.image.as_ref()].into_iter().zip(next..) {
            let Some(source) = source else { continue };
            // SAFETY: as above.
            let moved = unsafe { libc::dup3(source.as_raw_fd(), target, libc::O_CLOEXEC) };
            check("dup2", moved.into())?;
        }
        self.error_number.set(next);
        let first = libc::c_long::from(next + OWN);
        // SAFETY: closes this child's copies only; it never returns to code that owns them.
        let closed = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
        check("close_range", closed).map(drop)
    }

    /// Writes the pid of this process where the pointers to the environment find it.
    fn write_pid(&self) {
        let mut rest = nix::unistd::getpid().as_raw().unsigned_abs();
        let digits = usize::try_from(rest.checked_ilog10().unwrap_or(0)).unwrap_or(0) + 1;
        for (cell, byte) in self.pid_entry.iter().zip(PID_NAME) {
            cell.set(*byte);
        }
        for cell in self.pid_entry[PID_NAME.len()..].iter().take(digits).rev() {
            cell.set(b'0' + u8::try_from(rest % 10).unwrap_or(0));
            rest /= 10;
        }
    }

    /// Tells the parent what failed, and ends.
    fn report(&self, failed: Failed) -> ! {
        let call = CALLS.iter().position(|call| *call == failed.call).unwrap_or(CALLS.len() - 1);
        let [a, b, c, d] = failed.errno.to_ne_bytes();
        let report = [u8::try_from(call).unwrap_or(u8::MAX), a, b, c, d];
        // SAFETY: writes five bytes from an array of five.
        unsafe { libc::write(self.error_number.get(), report.as_ptr().cast(), report.len()) };
        exit_now(127)
    }
}

/// What execve takes: these strings, one more perhaps, and the end.
fn pointers(strings: &[CString], last: Option<*const libc::c_char>) -> Vec<*const libc::c_char> {
    let strings = strings.iter().map(|string| string.as_ptr());
    strings.chain(last).chain([std::ptr::null()]).collect()
}
