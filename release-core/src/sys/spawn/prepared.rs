//! The steps in the new process, between fork and exec, which never allocate or lock.

use std::cell::Cell;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::unistd::Pid;

use super::command::{Command, FIRST_PASSED, Identity};
use super::report::{ASKS, CALLS, GOES_ON};
use crate::sys::process::{die_with, exit_now, leave_keyring};
use crate::sys::{Failed, check, creds, fds, mounts, signal};

/// Room for the digits of a pid, and a NUL.
const PID_DIGITS: usize = 11;

/// All data that the child needs, at fixed addresses and descriptor numbers.
pub(super) struct Prepared<'a> {
    command: &'a Command,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
    /// Variables whose value only the new process knows; after `NAME=` there is room for it.
    own_pid: Vec<Vec<Cell<u8>>>,
    /// The final numbers and the sources, which the child moves above all of those, so that no dup2
    /// overwrites a later source.
    descriptors: Vec<(RawFd, Cell<RawFd>)>,
    image: Option<Cell<RawFd>>,
    error: Cell<RawFd>,
    /// Keeps the sources open.
    _sources: Vec<BorrowedFd<'a>>,
    /// The final number of the error pipe: the first one after those.
    first_free: RawFd,
    /// The current number of the error pipe in the child.
    error_number: Cell<RawFd>,
}

/// The error pipe and the executable come after the passed descriptors.
const OWN: RawFd = 2;

impl<'a> Prepared<'a> {
    pub(super) fn new(
        command: &'a Command,
        descriptors: &[(RawFd, BorrowedFd<'a>)],
        error: &'a UnixStream,
    ) -> Self {
        let numbers = descriptors.iter().map(|(number, _)| number + 1);
        let first_free = numbers.chain([FIRST_PASSED]).max().unwrap_or(FIRST_PASSED);
        let own_pid: Vec<_> = command.own_pid.iter().map(|name| pid_entry(name)).collect();
        let source = |fd: BorrowedFd<'_>| Cell::new(fd.as_raw_fd());
        Self {
            command,
            image: command.image.as_ref().map(|image| source(image.as_fd())),
            argv: pointers(&command.arguments, &[]),
            envp: pointers(&command.environment, &own_pid),
            own_pid,
            descriptors: descriptors.iter().map(|(number, fd)| (*number, source(*fd))).collect(),
            first_free,
            error_number: Cell::new(error.as_raw_fd()),
            error: source(error.as_fd()),
            _sources: descriptors.iter().map(|(_, fd)| *fd).collect(),
        }
    }

    /// Runs in the child. Returns only on failure.
    pub(super) fn run(&self, parent: Pid) -> Failed {
        match self.become_program(parent) {
            Ok(never) => match never {},
            Err(failed) => failed,
        }
    }

    fn become_program(&self, parent: Pid) -> Result<std::convert::Infallible, Failed> {
        signal::reset_for_exec();
        // SAFETY: takes integers.
        check("setsid", unsafe { libc::setsid() }.into())?;
        leave_keyring();
        // Before the limits, because one of them bounds the numbers of descriptors.
        self.place_descriptors()?;
        self.command.resources.apply()?;
        let confinement = self.command.confinement.as_ref();
        let covered = confinement.map_or(&[][..], |it| &it.covered);
        if !covered.is_empty() {
            // Before the change of the root directory, which need not be a mount.
            mounts::leave_shared_mounts()?;
        }
        if let Some(root) = &self.command.root {
            // SAFETY: as below.
            check("chroot", unsafe { libc::chroot(root.as_ptr()) }.into())?;
            // SAFETY: as below.
            check("chdir", unsafe { libc::chdir(c"/".as_ptr()) }.into())?;
        }
        mounts::cover(covered)?;
        if let Some(directory) = &self.command.directory {
            // SAFETY: a NUL-ended string that is alive in self.
            check("chdir", unsafe { libc::chdir(directory.as_ptr()) }.into())?;
        }
        let executable = self.image.as_ref().map(|_| self.error_number.get() + 1);
        // Before the change of user: a directory above a path may be closed to that user.
        let rules = confinement.map(|it| it.prepare(executable)).transpose()?.flatten();
        let kept = confinement.map(|it| it.capabilities);
        match (&self.command.identity, kept) {
            (Identity::Same, None) => {}
            (Identity::Same, Some(kept)) => creds::leave_other_capabilities(kept)?,
            (Identity::Powerless, kept) => creds::keep_capabilities(kept.unwrap_or(0))?,
            (Identity::Other(credentials), kept) => credentials.assume(kept.unwrap_or(0))?,
        }
        // After the change of user, which clears it.
        die_with(parent)?;
        self.ask()?;
        self.write_pid();
        confinement.map_or(Ok(()), |confinement| confinement.enforce(rules))?;
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

    /// Gives each descriptor its final number, followed by the error pipe and the executable, and
    /// closes the rest. Descriptors in between belong to this program and are close-on-exec.
    fn place_descriptors(&self) -> Result<(), Failed> {
        let next = self.first_free;
        let own = [Some(&self.error), self.image.as_ref()];
        let passed = self.descriptors.iter().map(|(_, source)| source);
        for source in passed.chain(own.into_iter().flatten()) {
            if source.get() < next + OWN {
                // SAFETY: integers; the original is this child's copy.
                let moved = unsafe { libc::fcntl(source.get(), libc::F_DUPFD_CLOEXEC, next + OWN) };
                check("fcntl(F_DUPFD)", moved.into())?;
                source.set(moved);
            }
        }
        self.error_number.set(self.error.get());
        for (number, source) in &self.descriptors {
            // SAFETY: integers; an overwritten descriptor is this child's copy.
            let done = unsafe { libc::dup2(source.get(), *number) };
            check("dup2", done.into())?;
        }
        for (source, target) in own.into_iter().zip(next..) {
            let Some(source) = source else { continue };
            // SAFETY: as above.
            let moved = unsafe { libc::dup3(source.get(), target, libc::O_CLOEXEC) };
            check("dup2", moved.into())?;
        }
        self.error_number.set(next);
        fds::close_from(next + OWN)
    }

    /// Writes the pid of this process into the environment.
    fn write_pid(&self) {
        let pid = nix::unistd::getpid().as_raw().unsigned_abs();
        let digits = usize::try_from(pid.checked_ilog10().unwrap_or(0)).unwrap_or(0) + 1;
        for entry in &self.own_pid {
            let value = entry.len().saturating_sub(PID_DIGITS);
            let mut rest = pid;
            for cell in entry.iter().skip(value).take(digits).rev() {
                cell.set(b'0' + u8::try_from(rest % 10).unwrap_or(0));
                rest /= 10;
            }
        }
    }

    /// Waits until the parent has determined that it can end this process.
    fn ask(&self) -> Result<(), Failed> {
        let (number, mut byte) = (self.error_number.get(), [ASKS]);
        // SAFETY: writes one byte from an array of one.
        let asked = unsafe { libc::write(number, byte.as_ptr().cast(), 1) };
        check("waiting for the master", libc::c_long::try_from(asked).unwrap_or(-1))?;
        // SAFETY: reads at most one byte into an array of one.
        let count = unsafe { libc::read(number, byte.as_mut_ptr().cast(), 1) };
        match (count, byte) {
            (1, [GOES_ON]) => Ok(()),
            _ => Err(Failed { call: "waiting for the master", errno: libc::EPERM }),
        }
    }

    /// Reports the failure to the parent, and exits.
    pub(super) fn report(&self, failed: Failed) -> ! {
        let call = CALLS.iter().position(|call| *call == failed.call).unwrap_or(CALLS.len() - 1);
        let [a, b, c, d] = failed.errno.to_ne_bytes();
        let report = [u8::try_from(call).unwrap_or(u8::MAX), a, b, c, d];
        // SAFETY: writes five bytes from an array of five.
        unsafe { libc::write(self.error_number.get(), report.as_ptr().cast(), report.len()) };
        exit_now(127)
    }
}

/// Returns `NAME=`, followed by NULs in place of the pid's digits.
fn pid_entry(name: &str) -> Vec<Cell<u8>> {
    let room = std::iter::repeat_n(0, PID_DIGITS);
    name.bytes().chain([b'=']).chain(room).map(Cell::new).collect()
}

/// Returns the argument of execve: these strings, the strings still to be written, and the
/// terminator.
fn pointers(strings: &[CString], unwritten: &[Vec<Cell<u8>>]) -> Vec<*const libc::c_char> {
    let strings = strings.iter().map(|string| string.as_ptr());
    let unwritten = unwritten.iter().map(|entry| entry.as_ptr().cast());
    strings.chain(unwritten).chain([std::ptr::null()]).collect()
}
