//! A child process, watched and signalled through its pidfd.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::ipc::Descriptor;
use crate::net::{Read, Stream};
use crate::rt::{Direction, Io, Progress, Rt};
use crate::sys::claimed::Claimed;
use crate::sys::exit_status::ExitStatus;
use crate::sys::fds::duplicate_from;
use crate::sys::process::has_living_group;
use crate::sys::spawn::{ASKS, GOES_ON, REPORT, SpawnError};
use crate::sys::{pidfd, spawn};
use crate::{Error, kept};

/// How long a new process may take from its fork to its program: seconds, on a machine that is overloaded.
const EXEC_TIME: Duration = Duration::from_secs(20);

const READING: &str = "reading the new process's report";

/// Shortest and longest time between two checks of a process group.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LOOKS: Duration = Duration::from_millis(200);

/// How long a killed process group may take to disappear.
const DEATH_TIME: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Child {
    pid: Claimed,
    io: Io,
    rt: Rt,
    state: Mutex<ChildState>,
}

#[derive(Debug, Default)]
struct ChildState {
    /// Signal that told it to end. The processes that it leaves behind get the same signal.
    told: Option<Signal>,
    /// Exit status, once it was reaped.
    exit: Option<ExitStatus>,
    /// Whether the next version of the program is being told what this one knows of it.
    is_still: bool,
    /// The task that waits for the exit meanwhile.
    waiting: Option<Waker>,
}

impl ChildState {
    /// Returns the signal for the processes that it leaves behind.
    fn last_word(&self) -> Signal {
        self.told.unwrap_or(Signal::SIGKILL)
    }
}

/// A child that is killed when this is dropped, and then waited for.
#[derive(Debug)]
pub(crate) struct KillOnDrop {
    child: Arc<Child>,
    is_bound: bool,
}

impl KillOnDrop {
    pub(crate) fn child(&self) -> &Child {
        &self.child
    }

    /// Returns the child, which is no longer killed.
    pub(crate) fn release(mut self) -> Arc<Child> {
        self.is_bound = false;
        Arc::clone(&self.child)
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if self.is_bound {
            let _ = self.child.signal(Signal::SIGKILL);
            let (child, missed) = (Arc::clone(&self.child), Missed::new());
            let reaped = async move {
                let _missed = missed;
                child.exit().await
            };
            self.child.rt.spawn(reaped).detach();
        }
    }
}

/// Number of processes that must end before this one does.
static MISSED: AtomicUsize = AtomicUsize::new(0);

/// Counts a process while it exists.
#[derive(Debug)]
pub(crate) struct Missed(());

impl Missed {
    pub(crate) fn new() -> Self {
        MISSED.fetch_add(1, Ordering::Relaxed);
        Self(())
    }

    /// Waits until all of them have ended, as far as they can be ended.
    pub(crate) async fn none(rt: &Rt) {
        let none = async {
            while MISSED.load(Ordering::Relaxed) > 0 {
                rt.sleep(FIRST_LOOK).await;
            }
        };
        let _ = rt.timeout(DEATH_TIME, none).await;
    }
}

impl Drop for Missed {
    fn drop(&mut self) {
        MISSED.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Child {
    /// Waits until a new process runs its program. A process that cannot is killed and reaped.
    pub(crate) async fn launched(
        rt: &Rt,
        started: spawn::SpawnedChild,
    ) -> Result<KillOnDrop, SpawnError> {
        let spawn::SpawnedChild { pid, pidfd, report } = started;
        let reserve = pidfd.try_clone();
        let child = match rt.register(pidfd) {
            Ok(io) => Self { pid, io, rt: rt.clone(), state: Mutex::default() },
            Err(error) => {
                if let Ok(pidfd) = reserve {
                    let _ = pidfd::send_signal(&pidfd, Signal::SIGKILL);
                    let _ = pidfd::wait(&pidfd);
                }
                return Err(SpawnError::Here("watching the new process", error));
            }
        };
        drop(reserve);
        // Kills the process if this future is dropped.
        let bound = KillOnDrop { child: Arc::new(child), is_bound: true };
        let Err(failure) = bound.child.runs_its_program(report).await else { return Ok(bound) };
        let _ = bound.child.signal(Signal::SIGKILL);
        let _ = bound.child.exit().await;
        Err(failure)
    }

    /// Watches a child of an earlier image of this process.
    ///
    /// # Errors
    ///
    /// Returns an error if no child has this number: it has ended, and was reaped by other code.
    pub(crate) fn kept(
        rt: &Rt,
        pid: i32,
        ending: Option<kept::Ending<Descriptor>>,
    ) -> io::Result<Self> {
        let kept::Ending { told, reaped } =
            ending.unwrap_or(kept::Ending { told: None, reaped: None });
        let (exit, pidfd) = match reaped {
            Some((exit, pidfd)) => (Some(exit.into()), OwnedFd::from(pidfd)),
            None => {
                let pidfd = pidfd::pidfd_open(pid)?;
                pidfd::has_ended(&pidfd)?;
                (None, pidfd)
            }
        };
        let told = told.and_then(|signal| Signal::try_from(signal).ok());
        let (pid, io) = (Claimed::new(Pid::from_raw(pid)), rt.register(pidfd)?);
        let state = ChildState { told, exit, ..ChildState::default() };
        Ok(Self { pid, io, rt: rt.clone(), state: Mutex::new(state) })
    }

    /// Returns how far its end has come, for the next version of the program.
    pub(crate) fn ending(&self) -> Result<kept::Ending<Descriptor>, Error> {
        let ChildState { told, exit, .. } = *self.state();
        let left = |exit: ExitStatus| {
            let pidfd = duplicate_from(self.io.as_fd(), 3)
                .map_err(|error| Error::system("cannot duplicate a pidfd", error))?;
            Ok::<_, Error>((exit.into(), pidfd.into()))
        };
        let reaped = exit.map(left).transpose()?;
        Ok(kept::Ending { told: told.map(|signal| signal as i32), reaped })
    }

    /// Decides whether it stays as it is, reaped or not: another thread may be waiting for it.
    pub(crate) fn stand_still(&self, is_still: bool) {
        let mut state = self.state();
        state.is_still = is_still;
        let waiting = state.waiting.take_if(|_| !is_still);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid.pid()
    }

    fn state(&self) -> MutexGuard<'_, ChildState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the end of the process, reaps it, and waits for the rest of the process group that
    /// it led. The rest gets the signal that told the process to end. It is killed if the process
    /// was killed or ended by itself. Dropping the future loses nothing.
    pub(crate) async fn exit(&self) -> io::Result<ExitStatus> {
        let exit = poll_fn(|cx| self.poll_reaped(cx)).await?;
        self.end_group().await;
        Ok(exit)
    }

    fn poll_reaped(&self, cx: &mut Context<'_>) -> Poll<io::Result<ExitStatus>> {
        let mut state = self.state();
        if let Some(exit) = state.exit {
            return Poll::Ready(Ok(exit));
        }
        if state.is_still {
            state.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let ended = self.io.poll(cx, Direction::Read, |fd| {
            if pidfd::has_ended(&fd)? {
                // The number is not reused until it is reaped.
                let _ = self.signal_group(Some(state.last_word()));
            }
            pidfd::try_wait(&fd)?
                .map(|status| (status, Progress::More))
                .ok_or_else(|| io::ErrorKind::WouldBlock.into())
        });
        ended.map_ok(|exit| *state.exit.insert(exit))
    }

    /// Waits until the group is empty. Its members may still work, or hold resources that the next
    /// process needs.
    async fn end_group(&self) {
        let (mut pause, mut killed_at, mut is_said) = (FIRST_LOOK, None, false);
        while self.has_group() {
            let now = self.rt.now();
            let pid = self.pid().as_raw();
            match self.state().last_word() {
                Signal::SIGKILL => {
                    // Again: a process that was just starting another one may have been missed.
                    let _ = self.signal_group(Some(Signal::SIGKILL));
                    if now.saturating_duration_since(*killed_at.get_or_insert(now)) > DEATH_TIME {
                        log_error!(pid, "cannot end all that it has left behind");
                        return;
                    }
                }
                signal if !is_said => {
                    is_said = true;
                    log_warning!(
                        pid,
                        %signal,
                        "ended, and left processes behind: they got the signal to stop, too, and \
                         have the rest of the time (a start script should end with `exec server`)"
                    );
                }
                _ => {}
            }
            self.rt.sleep(pause).await;
            pause = LOOKS.min(pause * 2);
        }
    }

    /// Returns whether the group of the reaped process has a member.
    fn has_group(&self) -> bool {
        match self.signal_group(None) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => false,
            _ => has_living_group(self.pid()),
        }
    }

    fn signal_group(&self, signal: Option<Signal>) -> io::Result<()> {
        pidfd::signal_group(&self.io.as_fd(), self.pid(), signal)
    }

    /// Checks that this process may end the child, as far as the kernel can tell. A child that has
    /// ended is no error.
    pub(crate) fn prove_right(&self) -> io::Result<()> {
        is_gone_or(pidfd::may_signal(&self.io.as_fd()))
    }

    /// Sends the signal to the process, or to the rest of its group once it has ended. An empty
    /// group is no error.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        let has_ended = {
            let mut state = self.state();
            state.told = Some(signal);
            state.exit.is_some()
        };
        is_gone_or(match has_ended {
            true => self.signal_group(Some(signal)),
            false => pidfd::send_signal(&self.io.as_fd(), signal),
        })
    }

    /// Sends a signal that does not end the process, to it alone.
    pub(crate) fn notify(&self, signal: Signal) -> io::Result<()> {
        is_gone_or(pidfd::send_signal(&self.io.as_fd(), signal))
    }

    /// Lets the new process run its program after a check that it can be ended.
    async fn runs_its_program(&self, report: OwnedFd) -> Result<(), SpawnError> {
        let failed = |error| SpawnError::Here(READING, error);
        let report = Stream::new(&self.rt, report).map_err(failed)?;
        let deadline = self.rt.after(EXEC_TIME);
        let rest = || Some(deadline.saturating_duration_since(self.rt.now()));
        let mut said = Vec::new();
        if !heard(report.read(1, rest()).await, &mut said)? {
            return Ok(());
        }
        if said == [ASKS] {
            pidfd::may_signal(&self.io.as_fd()).map_err(SpawnError::Endless)?;
            said.clear();
            // The next read notices a process that has ended meanwhile.
            let _ = report.write_all(&[GOES_ON]).await;
        }
        match heard(report.read(REPORT - said.len(), rest()).await, &mut said)? {
            true => Err(SpawnError::There(spawn::decode(said.try_into().unwrap_or_default()))),
            false => Ok(()),
        }
    }
}

impl From<ExitStatus> for kept::Exit {
    fn from(exit: ExitStatus) -> Self {
        match exit {
            ExitStatus::Code(code) => Self::Code(code),
            ExitStatus::Signal { number, core } => Self::Signal { number, core },
            ExitStatus::ForbiddenCall { .. } => Self::Signal { number: libc::SIGSYS, core: false },
        }
    }
}

impl From<kept::Exit> for ExitStatus {
    fn from(exit: kept::Exit) -> Self {
        match exit {
            kept::Exit::Code(code) => Self::Code(code),
            kept::Exit::Signal { number, core } => Self::Signal { number, core },
        }
    }
}

/// Appends the report of the new process to `said`, and returns whether there was any. A process
/// that runs its program reports nothing, and neither does a killed process, whose exit status
/// tells more.
fn heard(read: io::Result<Read>, said: &mut Vec<u8>) -> Result<bool, SpawnError> {
    match read {
        Ok(Read::Data(more)) => {
            said.extend(more);
            Ok(true)
        }
        Ok(Read::Eof(_)) => Ok(false),
        Ok(Read::TimedOut(_)) => Err(SpawnError::Stuck),
        // It ended before it had read everything.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(false),
        Err(error) => Err(SpawnError::Here(READING, error)),
    }
}

fn is_gone_or(signalled: io::Result<()>) -> io::Result<()> {
    match signalled {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        signalled => signalled,
    }
}
