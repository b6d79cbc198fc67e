//! Signals to a master, and their requests.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal as Sig;

use super::Supervisor;
use super::terminal::Terminal;
use crate::master::control::Served;
use crate::supervise::{Event, Operation, Report, StopCause};
use crate::{Error, ErrorKind};

/// A request to stop may arrive twice: `timeout` signals its child and then the group, and a terminal
/// signals a launcher that passes the signal on. What comes so soon after the first is the same one.
const SAME_REQUEST: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Returns the request of a signal.
    pub(super) fn signalled(&mut self, signal: Sig) -> Event {
        match signal {
            Sig::SIGHUP | Sig::SIGTTIN | Sig::SIGTTOU | Sig::SIGUSR2
                if self.master.pool().is_handing_over() =>
            {
                self.deferred.push(signal);
                Event::Tick
            }
            Sig::SIGHUP if self.terminal.as_ref().is_some_and(Terminal::is_gone) => {
                // It says so several times.
                let is_news = self.stop_asked_at.is_none();
                if is_news {
                    self.asked_to_stop(Sig::SIGTERM, StopCause::Terminal)
                } else {
                    Event::Tick
                }
            }
            Sig::SIGHUP => {
                self.estate.controls.iter().for_each(Served::look);
                self.requests.hangup()
            }
            Sig::SIGUSR2 => {
                if let Err(error) = self.reopen_logs() {
                    log_error!(reason = error.report(), "the log goes on where it was");
                }
                Event::Tick
            }
            Sig::SIGUSR1 => self.requests.enter_signal(Operation::Upgrade),
            Sig::SIGTTIN => self.resize(|size| size.saturating_add(1)),
            // The last one is not for a signal to take.
            Sig::SIGTTOU => self.resize(|size| if size > 1 { size - 1 } else { size }),
            _ => {
                let cause = match signal {
                    Sig::SIGTERM => StopCause::Terminate,
                    Sig::SIGINT => StopCause::Interrupt,
                    _ => StopCause::Quit,
                };
                self.asked_to_stop(signal, cause)
            }
        }
    }

    /// Stops in order, or at once when it is asked again.
    fn asked_to_stop(&mut self, signal: Sig, cause: StopCause) -> Event {
        let is_forced = insists(signal, self.stop_asked_at, self.rt.now());
        let is_new = self.stop_asked_at.is_none() || is_forced;
        if is_new {
            self.report(&Report::Stopping { cause });
        }
        self.stopped_by = Some(signal);
        self.stop_asked_at.get_or_insert_with(|| self.rt.now());
        if self.forwards {
            self.processes.forward(signal);
            return Event::Stop;
        }
        match (is_forced, is_new) {
            (true, _) => Event::StopNow,
            (false, true) => Event::Stop,
            (false, false) => Event::Tick,
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
        self.requests.enter_signal(Operation::Resize { group, size })
    }
}

/// Whether a signal to stop demands more than the first one, which is being obeyed.
pub(super) fn insists(signal: Sig, first: Option<Instant>, now: Instant) -> bool {
    let is_late = |first| now.saturating_duration_since(first) >= SAME_REQUEST;
    signal == Sig::SIGQUIT || first.is_some_and(is_late)
}

/// Whether a signal asks for the end.
pub(super) fn is_stop(signal: Sig) -> bool {
    matches!(signal, Sig::SIGTERM | Sig::SIGINT | Sig::SIGQUIT)
}
