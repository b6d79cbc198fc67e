//! The simulated kernel: processes that are tasks of the master's runtime.
//!
//! Each has a descriptor that becomes readable with its end, the sockets and pipes that the master has
//! given it, and a life that is drawn by chance.

use std::future::poll_fn;
use std::io::{self, PipeWriter, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::stat::fstat;
use nix::unistd::Pid;

use super::chance::Chance;
use super::program::{self, Life};
use crate::rt::Rt;
use crate::sys::claimed::Claimed;
use crate::sys::exit_status::ExitStatus;
use crate::sys::simulated::System;
use crate::sys::spawn::{Command, SpawnError, SpawnedChild};

/// Above all numbers that the kernel gives.
const FIRST_PID: i32 = 10_000_000;

/// What a process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A worker that speaks with its master.
    Web,
    /// A command that writes a newline when it is ready.
    Tool,
    /// The trial of another version.
    Trial,
}

#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) role: Role,
    /// Its number as a worker.
    pub(super) id: u32,
    /// Whether it runs its program.
    pub(super) runs: bool,
    /// The generation and the context that it was greeted with.
    pub(super) greeted: Option<(u32, u32)>,
    pub(super) said_ready: Option<Instant>,
    pub(super) ended: Option<(Instant, ExitStatus)>,
    pub(super) is_reaped: bool,
    /// Signals that have reached it.
    pub(super) told: Vec<i32>,
    pub(super) can_be_signalled: bool,
    /// Since when nobody can signal it, although its program runs.
    pub(super) escaped: Option<Instant>,
    /// Since when it is of no use to anybody, in a way that its master can see.
    pub(super) useless: Option<Instant>,
    /// Until when processes that it has started live on.
    group_until: Option<Instant>,
    leaves: Duration,
    fatal: Option<ExitStatus>,
    waker: Option<Waker>,
    inode: u64,
    end: PipeWriter,
}

impl Process {
    pub(super) fn lives(&self) -> bool {
        self.ended.is_none()
    }

    /// Whether it runs, or something that it has started.
    pub(super) fn has_group(&self, now: Instant) -> bool {
        self.lives() || self.group_until.is_some_and(|until| until > now)
    }

    /// Whether the master has a descriptor of it.
    pub(super) fn is_watched(&self) -> bool {
        let mut ends = [PollFd::new(self.end.as_fd(), PollFlags::empty())];
        poll(&mut ends, PollTimeout::ZERO).unwrap();
        !ends[0].revents().unwrap().contains(PollFlags::POLLERR)
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) processes: Vec<Process>,
    pub(super) chance: Chance,
    /// Everything works from now on.
    pub(super) is_calm: bool,
    /// Whether a start was refused for good.
    pub(super) has_refused: bool,
    pub(super) faults: Vec<String>,
    history: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) rt: Rt,
    start: Instant,
    /// Whether the history is printed while it happens.
    is_shown: bool,
    state: Mutex<State>,
}

impl Kernel {
    pub(super) fn new(rt: &Rt, chance: Chance, is_shown: bool) -> Arc<Self> {
        let state = State {
            processes: Vec::new(),
            chance,
            is_calm: false,
            has_refused: false,
            faults: Vec::new(),
            history: Vec::new(),
        };
        Arc::new(Self { rt: rt.clone(), start: rt.now(), is_shown, state: Mutex::new(state) })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Writes a line of the history.
    pub(super) fn note(&self, line: &str) {
        let time = self.rt.now() - self.start;
        let line = format!("{:>9.3} {line}", time.as_secs_f64());
        if self.is_shown {
            println!("{line}");
        }
        self.state().history.push(line);
    }

    /// Says that something is not as it must be.
    pub(super) fn fault(&self, fault: String) {
        self.note(&format!("FAULT: {fault}"));
        self.state().faults.push(fault);
    }

    /// Takes the lines of the history, and everything that was not as it must be.
    pub(super) fn take_history(&self) -> (Vec<String>, Vec<String>) {
        let mut state = self.state();
        (std::mem::take(&mut state.history), std::mem::take(&mut state.faults))
    }

    /// Does something to a process.
    pub(super) fn with<T>(&self, pid: i32, change: impl FnOnce(&mut Process) -> T) -> T {
        let mut state = self.state();
        let its = state.processes.iter_mut().rev().find(|its| its.pid == pid).unwrap();
        change(its)
    }

    /// Returns something of a process, if there ever was such a one.
    pub(super) fn of<T>(&self, pid: i32, look: impl FnOnce(&Process) -> T) -> Option<T> {
        self.state().processes.iter().rev().find(|its| its.pid == pid).map(look)
    }

    /// Ends a process from outside.
    pub(super) fn kill(&self, pid: i32, exit: ExitStatus) {
        let waker = self.with(pid, |its| {
            its.fatal.get_or_insert(exit);
            its.waker.take()
        });
        waker.into_iter().for_each(Waker::wake);
    }

    /// Done when a process is killed.
    async fn killed(&self, pid: i32) -> ExitStatus {
        poll_fn(|cx| {
            self.with(pid, |its| {
                its.waker = Some(cx.waker().clone());
                its.fatal.map_or(Poll::Pending, Poll::Ready)
            })
        })
        .await
    }

    /// Done when a process is told to stop. Part of the task that also waits for its death.
    pub(super) async fn told(&self, pid: i32) {
        let is_told = |its: &Process| its.told.iter().any(|signal| *signal != libc::SIGKILL);
        poll_fn(|cx| {
            self.with(pid, |its| {
                its.waker = Some(cx.waker().clone());
                if is_told(its) { Poll::Ready(()) } else { Poll::Pending }
            })
        })
        .await;
    }

    async fn live(self: Arc<Self>, pid: i32, life: Life, given: program::Given) {
        let exit = {
            let running = std::pin::pin!(program::run(&self, pid, life, given));
            let killed = std::pin::pin!(self.killed(pid));
            futures_util::future::select(killed, running).await.factor_first().0
        };
        self.note(&format!("{pid} ends: {exit}"));
        let now = self.rt.now();
        self.with(pid, |its| {
            its.ended = Some((now, exit));
            its.group_until = (!its.leaves.is_zero()).then(|| now + its.leaves);
            // A master that cannot end it looks at it no more.
            let _ = its.end.write_all(&[0]);
        });
    }

    fn by_descriptor<T>(
        &self,
        pidfd: RawFd,
        change: impl FnOnce(&mut Process) -> io::Result<T>,
    ) -> io::Result<T> {
        let inode = inode(pidfd)?;
        let mut state = self.state();
        match state.processes.iter_mut().rev().find(|its| its.inode == inode) {
            Some(its) => change(its),
            None => Err(io::Error::from_raw_os_error(libc::EBADF)),
        }
    }

    fn add(&self, role: Role, id: u32, life: &Life) -> io::Result<(i32, OwnedFd)> {
        let (pidfd, end) = io::pipe()?;
        let inode = fstat(&pidfd)?.st_ino;
        let mut state = self.state();
        let pid = FIRST_PID + i32::try_from(state.processes.len()).unwrap();
        state.processes.push(Process {
            pid,
            role,
            id,
            runs: false,
            greeted: None,
            said_ready: None,
            ended: None,
            is_reaped: false,
            told: Vec::new(),
            can_be_signalled: true,
            escaped: None,
            useless: None,
            group_until: None,
            leaves: life.leaves,
            fatal: None,
            waker: None,
            inode,
            end,
        });
        Ok((pid, pidfd.into()))
    }
}

fn inode(fd: RawFd) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata(format!("/proc/self/fd/{fd}"))?.ino())
}

/// Returns the worker of a command line: its role and number.
fn role_of(command: &Command) -> (Role, u32) {
    let texts = command.arguments.iter().chain(&command.environment);
    let texts: Vec<_> = texts.map(|text| text.to_str().unwrap_or_default()).collect();
    let number = |start: &str| {
        let rest = texts.iter().find_map(|text| text.split_once(start))?.1;
        rest.parse().ok()
    };
    match (number(": worker web id="), number("EINHORN_CHILD_INDEX=")) {
        (Some(id), _) => (Role::Web, id),
        (None, Some(id)) => (Role::Tool, id),
        (None, None) => (Role::Trial, 0),
    }
}

/// The simulated kernel as the system of a thread.
pub(super) struct Calls(pub(super) Arc<Kernel>);

impl System for Calls {
    fn spawn(
        &self,
        command: &Command,
        descriptors: &[(RawFd, BorrowedFd<'_>)],
    ) -> Result<SpawnedChild, SpawnError> {
        let (role, id) = role_of(command);
        let life = {
            let State { chance, is_calm, .. } = &mut *self.0.state();
            Life::draw(chance, role, *is_calm)
        };
        if let Some((call, errno)) = life.refused {
            self.0.note(&format!("{role:?} {id} is not started: {call} {errno}"));
            let refused = SpawnError::Here(call, io::Error::from_raw_os_error(errno));
            self.0.state().has_refused |= refused.is_permanent();
            return Err(refused);
        }
        let here = |error| SpawnError::Here("a descriptor", error);
        let (pid, pidfd) = self.0.add(role, id, &life).map_err(here)?;
        let (report, theirs) = UnixStream::pair().map_err(here)?;
        let descriptors = descriptors
            .iter()
            .map(|(number, fd)| fd.try_clone_to_owned().map(|fd| (*number, fd)).map_err(here));
        let given = program::Given {
            role,
            report: theirs.into(),
            descriptors: descriptors.collect::<Result<_, _>>()?,
        };
        self.0.note(&format!("{role:?} {id} is {pid}: {life:?}"));
        self.0.rt.spawn(Arc::clone(&self.0).live(pid, life, given)).detach();
        Ok(SpawnedChild { pid: Claimed::new(Pid::from_raw(pid)), pidfd, report: report.into() })
    }

    fn signal(&self, pidfd: RawFd, signal: i32, is_group: bool) -> io::Result<()> {
        let (now, no_such) = (self.0.rt.now(), io::Error::from_raw_os_error(libc::ESRCH));
        let (waker, line) = self.0.by_descriptor(pidfd, |its| {
            let pid = its.pid;
            if is_group {
                if !its.has_group(now) {
                    return Err(no_such);
                }
                if signal == libc::SIGKILL {
                    its.group_until = None;
                }
                // Of the leader alone no more is asked than that it is gone.
                return Ok((None, format!("signal {signal} to the group of {pid}")));
            }
            if !its.lives() {
                return Err(no_such);
            }
            if !its.can_be_signalled {
                return Err(io::Error::from_raw_os_error(libc::EPERM));
            }
            if signal == 0 {
                return Ok((None, String::new()));
            }
            its.told.push(signal);
            if signal == libc::SIGKILL || !its.runs {
                let number = signal;
                its.fatal.get_or_insert(ExitStatus::Signal { number, core: false });
            }
            Ok((its.waker.take(), format!("signal {signal} to {pid}")))
        })?;
        if signal != 0 {
            self.0.note(&line);
        }
        waker.into_iter().for_each(Waker::wake);
        Ok(())
    }

    fn wait(&self, pidfd: RawFd, reaps: bool) -> io::Result<Option<ExitStatus>> {
        self.0.by_descriptor(pidfd, |its| {
            if its.is_reaped {
                return Err(io::Error::from_raw_os_error(libc::ECHILD));
            }
            its.is_reaped = reaps && its.ended.is_some();
            Ok(its.ended.map(|(_, exit)| exit))
        })
    }

    fn has_group(&self, leader: i32) -> bool {
        let now = self.0.rt.now();
        self.0.of(leader, |its| its.has_group(now)).unwrap_or(false)
    }
}

/// The signals that processes die by.
pub(super) const DEATHS: [ExitStatus; 3] = [
    ExitStatus::Signal { number: Signal::SIGKILL as i32, core: false },
    ExitStatus::Signal { number: Signal::SIGSEGV as i32, core: true },
    ExitStatus::Code(3),
];
