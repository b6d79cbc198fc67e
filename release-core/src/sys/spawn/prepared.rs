//! The steps in the new process, between fork and exec, which never allocate or lock.

use std::cell::Cell;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::unistd::Pid;

use super::command::{Command, FIRST_PASSED, Identity};
use super::error::{SpawnError, here};
use super::report::{ASKS, CALLS, GOES_ON};
use crate::sys::process::{die_with, exit_now, leave_keyring};
use crate::sys::{Failed, check, creds, fds, signal};

/// Room for the digits of a pid, and a NUL.
const PID_DIGITS: usize = 11;

/// All data that the child needs, at fixed addresses and descriptor numbers.
pub(super) struct Prepared<'a> {
    command: &'a Command,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
    /// Variables whose value only the new process knows; after `NAME=` there is room for it.
    own_pid: Vec<Vec<Cell<u8>>>,
    /// The final numbers, and duplicates with numbers above all of those, so that no dup2
    /// overwrites a later source.
    descriptors: Vec<(RawFd, OwnedFd)>,
    image: Option<OwnedFd>,
    error: OwnedFd,
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
        let own_pid: Vec<_> = command.own_pid.iter().map(|name| pid_entry(name)).collect();
        Ok(Self {
            command,
            image: command.image.as_ref().map(|image| duplicate(image.as_fd())).transpose()?,
            argv: pointers(&command.arguments, &[]),
            envp: pointers(&command.environment, &own_pid),
            own_pid,
            descriptors,
            first_free,
            error_number: Cell::new(error.as_raw_fd()),
            error,
        })
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
        if let Some(root) = &self.command.root {
            // SAFETY: as below.
            check("chroot", unsafe { libc::chroot(root.as_ptr()) }.into())?;
            // SAFETY: as below.
            check("chdir", unsafe { libc::chdir(c"/".as_ptr()) }.into())?;
        }
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
        self.ask()?;
        self.write_pid();
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
        for (number, source) in &self.descriptors {
            // SAFETY: integers; an overwritten descriptor is this child's copy.
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
