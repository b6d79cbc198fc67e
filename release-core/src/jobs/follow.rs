//! The master's events for a pool of jobs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::schedule::ProcessId;
use super::shared::{Replace, SharedJobs, Then};
use crate::ipc::Request;
use crate::rt::Rt;
use crate::sys::exit_status::ExitStatus;

/// Follows the processes of a group, whatever the type of its jobs.
pub(crate) trait Follow: Send + Sync {
    /// The master runs.
    fn begin(&self, rt: &Rt, replace: Replace);

    /// These processes are ready and not told to stop.
    fn ready(&self, processes: &BTreeSet<ProcessId>);

    fn exited(&self, process: ProcessId, exit: ExitStatus);

    /// Calls the function as soon as the process has no job in hand.
    fn when_at_rest(&self, process: ProcessId, then: Then);

    /// The master is shutting down.
    fn stop(&self);

    /// Begins no job until [`Follow::resume`].
    fn pause(&self);

    fn resume(&self);

    /// Waits until no job is in hand, and every outcome has been taken. One task at a time may wait.
    fn poll_at_rest(&self, cx: &Context<'_>) -> Poll<()>;

    /// Returns the number of jobs that keep [`Follow::poll_at_rest`] waiting.
    fn unfinished(&self) -> usize;
}

/// The connection between a pool and a group that carries out its jobs.
pub(super) struct Follower<W: Request, P> {
    pub(super) shared: Arc<SharedJobs<W, P>>,
    pub(super) group: usize,
}

impl<W: Request + Sync, P: Send + 'static> Follow for Follower<W, P> {
    fn begin(&self, rt: &Rt, replace: Replace) {
        self.shared.lock().master = Some((rt.clone(), replace));
    }

    fn ready(&self, processes: &BTreeSet<ProcessId>) {
        self.shared.change(|state, actions| {
            if let Some((_, ready)) = state.groups.get_mut(self.group) {
                ready.clone_from(processes);
            }
            let all = state.groups.iter().flat_map(|(_, ready)| ready).copied().collect();
            state.schedule.ready(&all, actions);
        });
    }

    fn exited(&self, process: ProcessId, exit: ExitStatus) {
        self.shared.change(|state, actions| {
            state.at_rest.retain(|(its, _)| *its != process);
            state.hung.remove(&process);
            state.schedule.exited(process, exit, actions);
        });
    }

    fn when_at_rest(&self, process: ProcessId, then: Then) {
        let mut state = self.shared.lock();
        if state.schedule.is_at_rest(process) {
            drop(state);
            then();
        } else {
            state.at_rest.push((process, then));
        }
    }

    fn stop(&self) {
        self.shared.change(|state, actions| state.schedule.stop(actions));
    }

    fn pause(&self) {
        self.shared.lock().schedule.pause();
    }

    fn resume(&self) {
        self.shared.change(|state, actions| state.schedule.resume(actions));
    }

    fn poll_at_rest(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.shared.lock();
        if state.unfinished() == 0 {
            return Poll::Ready(());
        }
        state.waiter = Some(cx.waker().clone());
        Poll::Pending
    }

    fn unfinished(&self) -> usize {
        self.shared.lock().unfinished()
    }
}

impl std::fmt::Debug for dyn Follow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Follow")
    }
}
