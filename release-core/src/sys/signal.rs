//! Signals: turned into a readable descriptor at once, and the state a process starts with.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction};
use nix::sys::socket::{MsgFlags, send};
use signal_hook_registry::SigId;

/// Signals that have arrived, as a set: the kernel merges equal ones, and so does this.
///
/// The handler does two things that a handler may do: it sets a bit and sends one byte.
#[derive(Debug)]
pub(crate) struct Caught {
    pending: Arc<AtomicU64>,
    ids: Vec<SigId>,
}

impl Caught {
    /// Catches `signals` from now on; the descriptor becomes readable when one has arrived.
    pub(crate) fn new(signals: &[Signal]) -> io::Result<(Self, OwnedFd)> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        let writer = Arc::new(writer);
        let pending = Arc::new(AtomicU64::new(0));
        let mut caught = Self {
            pending: Arc::clone(&pending),
            ids: Vec::new(),
        };
        for &signal in signals {
            let (pending, writer) = (Arc::clone(&pending), Arc::clone(&writer));
            let bit = bit(signal);
            let handler = move || {
                pending.fetch_or(bit, Ordering::SeqCst);
                // A full socket is as good as one byte more: the reader is awake already.
                let _ = send(
                    writer.as_raw_fd(),
                    &[0],
                    MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
                );
            };
            // SAFETY: the handler touches an atomic and makes one async-signal-safe system call;
            // the registry saves and restores errno.
            let id = unsafe { signal_hook_registry::register(signal as i32, handler) }?;
            caught.ids.push(id);
        }
        Ok((caught, reader.into()))
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

fn bit(signal: Signal) -> u64 {
    1 << (signal as i32)
}

/// Undoes what a launcher may have left behind (nohup, a shell's background job): nothing blocked,
/// and the signals that a daemon lives by not ignored.
pub(crate) fn reset_inherited() -> io::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGCHLD,
    ] {
        if is_ignored(signal) {
            // SAFETY: the default action runs no code of ours.
            unsafe { sigaction(signal, &default) }?;
        }
    }
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

/// Ignores SIGPIPE (a peer that leaves is an error value, not the end of the process) and, for a
/// process that has left its terminal, SIGHUP.
pub(crate) fn ignore(signal: Signal) -> io::Result<()> {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: ignoring runs no code of ours.
    unsafe { sigaction(signal, &ignore) }?;
    Ok(())
}

fn is_ignored(signal: Signal) -> bool {
    let mut old = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action only asks for the old one, which fits the buffer.
    let asked = unsafe { libc::sigaction(signal as i32, std::ptr::null(), old.as_mut_ptr()) };
    // SAFETY: zero is a valid value of every field, and the call has filled it in.
    let old = unsafe { old.assume_init() };
    asked == 0 && old.sa_sigaction == libc::SIG_IGN
}

/// Every signal to its default and nothing blocked, for a child between fork and exec.
///
/// Allocates nothing. Errors are those of numbers that cannot be changed (SIGKILL, SIGSTOP and the
/// two that libc keeps), so there is nothing to report.
pub(super) fn reset_for_exec() {
    for number in 1..=64 {
        // SAFETY: the default action runs no code; unchangeable numbers are refused.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    let _ = nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}
