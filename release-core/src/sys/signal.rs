//! Signals: converted into a readable descriptor, and the initial signal state of a process.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, sigaction,
    sigprocmask,
};
use nix::sys::socket::{MsgFlags, send};
use signal_hook_registry::SigId;

/// The signals that have arrived, as a set: the kernel merges equal signals, and so does this.
///
/// The handler performs only two operations, both allowed in a handler: it sets a bit and sends one
/// byte, the number of the signal.
#[derive(Debug)]
pub(crate) struct Caught {
    /// Becomes readable when a signal has arrived; given to the task that watches it.
    pub(crate) wake: Option<OwnedFd>,
    pending: Arc<AtomicU64>,
    ids: Vec<SigId>,
}

impl Caught {
    /// Catches `signals` from now on. With a single thread, none that arrives meanwhile is lost.
    pub(crate) fn new(signals: &[Signal]) -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        let writer = Arc::new(writer);
        let pending = Arc::new(AtomicU64::new(0));
        let mut caught =
            Self { wake: Some(reader.into()), pending: Arc::clone(&pending), ids: Vec::new() };
        // Otherwise a signal between the handler's installation and its setup would be lost.
        let before = block_all()?;
        let registered = signals.iter().try_for_each(|&signal| {
            let (pending, writer) = (Arc::clone(&pending), Arc::clone(&writer));
            let (bit, number) = (bit(signal), signal as u8);
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            let handler = move |info: &libc::siginfo_t| {
                if is_of_terminal(signal, info) {
                    return;
                }
                pending.fetch_or(bit, Ordering::SeqCst);
                // A full socket serves as well as one more byte: the reader is already awake.
                let _ = send(writer.as_raw_fd(), &[number], flags);
            };
            // SAFETY: the handler touches an atomic and makes one async-signal-safe system call;
            // the registry saves and restores errno.
            let id = unsafe { signal_hook_registry::register_sigaction(signal as i32, handler) }?;
            caught.ids.push(id);
            Ok(())
        });
        block_only(&before);
        registered.map(|()| caught)
    }

    /// Takes one signal out of the set, lowest number first.
    pub(crate) fn take(&self) -> Option<Signal> {
        loop {
            let pending = self.pending.load(Ordering::SeqCst);
            if pending == 0 {
                return None;
            }
            let lowest = pending & pending.wrapping_neg();
            self.pending.fetch_and(!lowest, Ordering::SeqCst);
            if let Some(signal) = Signal::iterator().find(|signal| bit(*signal) == lowest) {
                return Some(signal);
            }
        }
    }
}

impl Drop for Caught {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            signal_hook_registry::unregister(id);
        }
    }
}

/// Returns whether the kernel sent this signal because a background process reads or writes the
/// terminal, or the terminal has another size, rather than a process as a request. Accesses only its
/// arguments.
fn is_of_terminal(signal: Signal, info: &libc::siginfo_t) -> bool {
    matches!(signal, Signal::SIGTTIN | Signal::SIGTTOU | Signal::SIGWINCH)
        && info.si_code == libc::SI_KERNEL
}

fn bit(signal: Signal) -> u64 {
    1 << (signal as i32)
}

/// Blocks signals in this thread. Returns the previously blocked signals.
pub(crate) fn block_all() -> io::Result<SigSet> {
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
    Ok(before)
}

/// Blocks exactly these signals.
pub(crate) fn block_only(signals: &SigSet) {
    // Fails only for an unknown `how`.
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(signals), None);
}

/// Undoes settings that a launcher may have left behind (a shell's background job, for example):
/// children can be waited for and no signal is blocked. Ignores these signals if they have no handler;
/// writing beyond the maximum file size becomes an error.
pub(crate) fn settle_inherited(ignored: &[Signal]) -> io::Result<()> {
    keep_zombies()?;
    for signal in ignored.iter().copied().chain(FAILED_WRITES) {
        if disposition(signal) == libc::SIG_DFL {
            ignore(signal)?;
        }
    }
    block_only(&SigSet::empty());
    Ok(())
}

/// Allows waiting for children, even if the launcher ignored the death of its own: the kernel would
/// then reap them.
pub(crate) fn keep_zombies() -> io::Result<()> {
    if disposition(Signal::SIGCHLD) == libc::SIG_IGN {
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: the default action runs no code of ours.
        unsafe { sigaction(Signal::SIGCHLD, &default) }?;
    }
    Ok(())
}

/// The signals sent with a failed write besides its error: the peer is gone, or the file may not
/// grow.
pub(crate) const FAILED_WRITES: [Signal; 2] = [Signal::SIGPIPE, Signal::SIGXFSZ];

/// Ignores signals that must not end the process: [`FAILED_WRITES`], or SIGHUP for a process that
/// has left its terminal.
pub(crate) fn ignore(signal: Signal) -> io::Result<()> {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: ignoring runs no code of ours.
    unsafe { sigaction(signal, &ignore) }?;
    Ok(())
}

/// Lets a program receive SIGHUP, even if this process was started by `nohup`.
#[cfg(feature = "testing")]
pub(crate) fn receive_hangup(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;

    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    let receive = move || {
        // SAFETY: the default action runs no code of ours.
        unsafe { sigaction(Signal::SIGHUP, &default) }?;
        Ok(())
    };
    // SAFETY: between fork and exec, the closure makes one async-signal-safe system call.
    unsafe { command.pre_exec(receive) };
}

/// Returns whether a signal is ignored: by this process, or by a launcher such as `nohup`.
pub(crate) fn is_ignored(signal: Signal) -> bool {
    disposition(signal) == libc::SIG_IGN
}

/// Returns `SIG_DFL`, `SIG_IGN` or a handler.
fn disposition(signal: Signal) -> libc::sighandler_t {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action only asks for the present one, which fits the buffer; it cannot
    // fail for a signal that exists.
    unsafe { libc::sigaction(signal as i32, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: zero is a valid value of every field, and the call has filled it in.
    unsafe { action.assume_init() }.sa_sigaction
}

/// Writes to a terminal although this process may be in the background: with `stty tostop`, the
/// kernel would send SIGTTOU and stop or interrupt the write forever. It does not while the signal
/// is blocked. A SIGTTOU sent by another process is caught afterwards.
pub(crate) fn without_stop_of_writers<T>(write: impl FnOnce() -> T) -> T {
    let (mut set, mut before) = (SigSet::empty(), SigSet::empty());
    set.add(Signal::SIGTTOU);
    let blocked = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut before));
    let written = write();
    if blocked.is_ok() {
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    }
    written
}

/// Resets every signal to its default and unblocks all signals, before exec; also used in a child
/// after a fork.
///
/// Uses the system call directly: libc refuses to change the two numbers that it reserves for its
/// threads, and its `posix_spawn` leaves them ignored. Allocates nothing. Errors occur only for
/// SIGKILL and SIGSTOP, which cannot be changed, so there is nothing to report.
pub(crate) fn reset_for_exec() {
    // The kernel's own `sigaction`, which is not longer than this anywhere: zeros are the default
    // action, no flags and an empty mask.
    let default = [0_u64; 8];
    let nothing: *mut u64 = std::ptr::null_mut();
    for number in 1..=64 {
        let action = default.as_ptr();
        // SAFETY: the kernel reads one action, for which the array is long enough; the default
        // action runs no code. The last argument is the size of the kernel's signal mask.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, number, action, nothing, 8) };
    }
    block_only(&SigSet::empty());
}
