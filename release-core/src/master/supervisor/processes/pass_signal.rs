//! Signals of an operator, passed on to workers.

use nix::sys::signal::Signal as Sig;

use super::Processes;
use crate::master::health::STATUS_PAGE;
use crate::process::worker_signal::Recipients;
use crate::supervise::{State, WorkerId};
use crate::{Error, ErrorKind};

impl Processes {
    /// Sends a signal to the processes of these workers, also while they drain. A process that is not
    /// ready gets none: it would die of a signal that it cannot handle yet. Returns their number.
    pub(in crate::master::supervisor) fn pass_signal(
        &self,
        to: &Recipients,
        signal: Sig,
    ) -> Result<usize, Error> {
        let is_meant = |id: WorkerId| match to {
            // The status page is the library's own.
            Recipients::All => *self.name_of(id) != *STATUS_PAGE,
            Recipients::Worker(worker) => id.0 == *worker,
            Recipients::Group(name) => **name == *self.name_of(id),
        };
        let can_handle = |id, pid| {
            matches!(self.master.pool().state_of(id, pid), Some(State::Ready | State::Stopping))
        };
        let meant =
            self.running.iter().filter(|((id, pid), _)| is_meant(*id) && can_handle(*id, *pid));
        let (mut sent, mut failed) = (0, None);
        for ((id, pid), process) in meant {
            match process.child.notify(signal) {
                Ok(()) => sent += 1,
                Err(error) => failed = Some((id, pid, error)),
            }
        }
        match failed {
            Some((id, pid, error)) => {
                let message = format!("cannot signal process {pid} of worker {id}");
                Err(Error::system(message, error))
            }
            None if sent == 0 => {
                let message = format!("no worker that is ready is meant by `{to}`");
                Err(Error::new(ErrorKind::Change, message))
            }
            None => Ok(sent),
        }
    }
}
