//! The commands of the master's handles.

use super::Supervisor;
use crate::master::figures::Figures;
use crate::master::handle::MasterCommand;
use crate::process::worker_signal::{Recipients, WorkerSignal};
use crate::supervise::{Event, Report, StopCause};
use crate::{Error, ErrorKind};

impl Supervisor {
    /// Carries a command out, and returns the event for the pool.
    pub(super) fn command(&mut self, command: MasterCommand) -> Event {
        match command {
            MasterCommand::Stop => {
                self.report(&Report::Stopping { cause: StopCause::Program });
                self.stop_asked_at.get_or_insert_with(|| self.rt.now());
                Event::Stop
            }
            MasterCommand::Change(change, caller) => self.requests.enter(change, caller),
            MasterCommand::Rejoin(caller) => self.requests.rejoin(caller),
            MasterCommand::ReopenLogs(caller) => {
                let _ = caller.send(self.reopen_logs());
                Event::Tick
            }
            MasterCommand::Measure(caller) => {
                let counts = self.journal.counts().clone();
                let _ = caller.send(Ok(Figures { counts, ..self.processes.figures() }));
                Event::Tick
            }
            MasterCommand::History(caller) => {
                let _ = caller.send(Ok(self.journal.deaths()));
                Event::Tick
            }
            MasterCommand::Signal(to, signal, caller) => {
                let _ = caller.send(self.signal_workers(&to, signal));
                Event::Tick
            }
            MasterCommand::Spawn(request) => {
                match self.master.pool().is_handing_over() {
                    true => self.deferred_children.push(request),
                    false => self.start_child(request),
                }
                Event::Tick
            }
        }
    }

    fn signal_workers(&self, to: &Recipients, signal: WorkerSignal) -> Result<usize, Error> {
        if self.master.pool().is_handing_over() {
            return Err(is_upgraded());
        }
        let sent = self.processes.pass_signal(to, signal.signal())?;
        tracing::info!(signal = %signal, to = %to, processes = sent, "workers were signalled");
        Ok(sent)
    }
}

/// Returns the error of a command that must wait for the end of an upgrade.
pub(super) fn is_upgraded() -> Error {
    let message = "the master is being upgraded; ask again when that is done";
    Error::new(ErrorKind::Change, message)
}
