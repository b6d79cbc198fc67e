//! Signals: turned into a readable descriptor at once, and the state a process starts with.

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

/// Signals that have arrived, as a set: the kernel merges equal ones, and so does this.
///
/// The handler does two things that a handler may do: it sets a bit and sends one byte, the number
/// of the signal.
#[derive(Debug)]
pub(crate) struct Caught {
    /// Becomes readable when a signal has arrived; for whoever watches it.
    pub(crate) wake: Option<OwnedFd>,
    pending: Arc<AtomicU64>,
    ids: Vec<SigId>,
}

impl Caught {
    /// Catches `signals` from now on, and loses none that comes meanwhile if there is one thread.
    pub(crate) fn new(signals: &[Signal]) -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        let writer = Arc::new(writer);
        let pending = Arc::new(AtomicU64::new(0));
        let mut caught =
            Self { wake: Some(reader.into()), pending: Arc::clone(&pending), ids: Vec::new() };
        // One that came between the handler's installation and its knowing what to do would be lost.
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
                // A full socket is as good as one byte more: the reader is awake already.
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

    /// Takes one signal out of the set, the lowest number first.
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

/// Whether the kernel tells a process group in the background that one of its processes reads or writes
/// the terminal: nobody asks for anything then. Touches nothing but its arguments.
fn is_of_terminal(signal: Signal, info: &libc::siginfo_t) -> bool {
    matches!(signal, Signal::SIGTTIN | Signal::SIGTTOU) && info.si_code == libc::SI_KERNEL
}

fn bit(signal: Signal) -> u64 {
    1 << (signal as i32)
}

/// Keeps signals back from this thread; returns those that were kept back before.
pub(crate) fn block_all() -> io::Result<SigSet> {
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
    Ok(before)
}

/// Keeps these signals back, and no others.
pub(crate) fn block_only(signals: &SigSet) {
    // Fails for an unknown `how` alone.
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(signals), None);
}

/// Undoes what a launcher may have left behind (a shell's background job, say): children can be
/// waited for and nothing is blocked. Signals that would end this process, and that it has no
/// handler for, are ignored; what is written beyond the largest file that is allowed is an error.
pub(crate) fn settle_inherited() -> io::Result<()> {
    keep_zombies()?;
    let pointless = [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2];
    for signal in pointless.into_iter().chain(FAILED_WRITES) {
        if disposition(signal) == libc::SIG_DFL {
            ignore(signal)?;
        }
    }
    block_only(&SigSet::empty());
    Ok(())
}

/// Children can be waited for, although the launcher may have ignored the death of its own: the kernel
/// reaps them then.
pub(crate) fn keep_zombies() -> io::Result<()> {
    if disposition(Signal::SIGCHLD) == libc::SIG_IGN {
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: the default action runs no code of ours.
        unsafe { sigaction(Signal::SIGCHLD, &default) }?;
    }
    Ok(())
}

/// What a write that fails sends beside its error value: the peer has left, or the file may not grow.
pub(crate) const FAILED_WRITES: [Signal; 2] = [Signal::SIGPIPE, Signal::SIGXFSZ];

/// Ignores what is no reason to end: [`FAILED_WRITES`], or SIGHUP for a process that has left its
/// terminal.
pub(crate) fn ignore(signal: Signal) -> io::Result<()> {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: ignoring runs no code of ours.
    unsafe { sigaction(signal, &ignore) }?;
    Ok(())
}

/// Whether a signal is ignored: by this process, or by a launcher such as `nohup`.
pub(crate) fn is_ignored(signal: Signal) -> bool {
    disposition(signal) == libc::SIG_IGN
}

/// `SIG_DFL`, `SIG_IGN` or a handler.
fn disposition(signal: Signal) -> libc::sighandler_t {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action only asks for the present one, which fits the buffer; it cannot
    // fail for a signal that exists.
    unsafe { libc::sigaction(signal as i32, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: zero is a valid value of every field, and the call has filled it in.
    unsafe { action.assume_init() }.sa_sigaction
}

/// Writes to a terminal whose foreground this process may not have: the kernel would send SIGTTOU
/// where `stty tostop` is set, and stop or interrupt the write for ever. It does not while that is
/// blocked; one that somebody sends is caught afterwards.
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

/// Every signal to its default and nothing blocked, before exec: also for a child after a fork.
///
/// By the system call itself, since libc refuses to touch the two numbers that it keeps for its
/// threads, and its `posix_spawn` leaves these ignored. Allocates nothing. Errors are those of
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
