//! What signals ask of a master.

use nix::sys::signal::Signal as Sig;

use super::Supervisor;
use crate::daemon::Served;
use crate::supervise::{Change, Event, Report, StopCause};
use crate::{Error, ErrorKind};

impl Supervisor {
    /// What a signal asks for.
    pub(super) fn signalled(&mut self, signal: Sig) -> Event {
        match signal {
            Sig::SIGHUP | Sig::SIGTTIN | Sig::SIGTTOU | Sig::SIGUSR2
                if self.master.pool().is_handing_over() =>
            {
                self.deferred.push(signal);
                Event::Tick
            }
            Sig::SIGHUP => {
                self.estate.controls.iter().for_each(Served::look);
                self.askers.hangup()
            }
            Sig::SIGUSR2 => {
                if let Err(error) = self.reopen_logs() {
                    tracing::error!(reason = error.report(), "the log goes on where it was");
                }
                Event::Tick
            }
            Sig::SIGUSR1 => self.askers.enter_signal(Change::Upgrade),
            Sig::SIGTTIN => self.resize(|size| size.saturating_add(1)),
            // The last one is not for a signal to take.
            Sig::SIGTTOU => self.resize(|size| if size > 1 { size - 1 } else { size }),
            _ => {
                let cause = match signal {
                    Sig::SIGTERM => StopCause::Terminate,
                    Sig::SIGINT => StopCause::Interrupt,
                    _ => StopCause::Quit,
                };
                self.report(&Report::Stopping { cause });
                let again = self.stopped_by.replace(signal).is_some();
                if self.forwards {
                    self.processes.forward(signal);
                    return Event::Stop;
                }
                if again || signal == Sig::SIGQUIT { Event::StopNow } else { Event::Stop }
            }
        }
    }

    /// Opens the log files again, for this process and its workers: somebody has moved them.
    pub(super) fn reopen_logs(&mut self) -> Result<(), Error> {
        if self.master.pool().is_handing_over() {
            let message = "the master is being upgraded; ask again when that is done";
            return Err(Error::new(ErrorKind::Change, message));
        }
        self.log_files.reopen()?;
        self.processes.outputs_replaced();
        tracing::info!("the log files were opened again");
        Ok(())
    }

    /// Changes the size of the first group.
    fn resize(&mut self, change: impl FnOnce(u32) -> u32) -> Event {
        let Some(group) = self.processes.first_group() else { return Event::Tick };
        let size = change(self.master.pool().size(0).unwrap_or_default());
        self.askers.enter_signal(Change::Resize { group, size })
    }
}

/// Whether a signal asks for the end.
pub(super) fn is_stop(signal: Sig) -> bool {
    matches!(signal, Sig::SIGTERM | Sig::SIGINT | Sig::SIGQUIT)
}
