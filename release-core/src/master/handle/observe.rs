//! What a running master can be asked: metrics, history and health.

use std::time::Duration;

use super::{MasterCommand, MasterHandle};
use crate::master::event_queue::Events;
use crate::master::figures::{Figures, PoolFigures};
use crate::master::health::{not_live, not_ready};
use crate::master::journal::DeathReport;
use crate::process::worker_signal::{Recipients, WorkerSignal};
use crate::supervise::Moment;
use crate::{Error, ErrorKind};

impl MasterHandle {
    /// Returns the metrics of the pool, of the workers and of this process, in the text format of
    /// OpenMetrics: see [`metrics`](crate::metrics).
    ///
    /// The pool's own have names that begin with `release_`: workers by state, exits and restarts by cause,
    /// outcomes of reloads and upgrades, waiting connections, and memory and processor time of each worker.
    /// Serve the text as `application/openmetrics-text; version=1.0.0; charset=utf-8`.
    ///
    /// # Errors
    ///
    /// Returns an error if the master has ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{ControlSocket, Master};
    ///
    /// let socket = ControlSocket::new("/run/service.metrics");
    /// let master = Master::new().control(socket, |master, _, _: String| async move {
    ///     Ok(master.metrics().await?)
    /// });
    /// # let _ = master;
    /// ```
    pub async fn metrics(&self) -> Result<String, Error> {
        let figures = self.figures().await?;
        let pool = PoolFigures {
            workers: self.status(),
            generation: self.generation(),
            uptime: self.uptime(),
            is_ready: self.check_ready().is_ok(),
        };
        self.rt.unblock(move || figures.text(&pool)).await
    }

    /// Returns the numbers that the supervisor has.
    pub(crate) async fn figures(&self) -> Result<Figures, Error> {
        self.ask(MasterCommand::Measure).await
    }

    /// Returns the run time of the service, with all earlier versions.
    pub(crate) fn uptime(&self) -> Duration {
        self.epoch.moment(self.rt.now()) - Moment::START
    }

    /// Returns the latest deaths of workers, at most 100, the oldest first. They are kept through upgrades.
    ///
    /// A process that was told to stop, and did, is not among them.
    ///
    /// # Errors
    ///
    /// Returns an error if the master has ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Error, MasterHandle};
    ///
    /// async fn is_crashing(master: &MasterHandle) -> Result<bool, Error> {
    ///     Ok(master.history().await?.iter().any(|death| death.exit.contains("SIGSEGV")))
    /// }
    /// ```
    pub async fn history(&self) -> Result<Vec<DeathReport>, Error> {
        self.ask(MasterCommand::History).await
    }

    /// Returns a receiver of all events of the service from now on.
    ///
    /// In [`Master::main`](crate::Master::main), call this outside the future to receive the start of the
    /// service, too. A receiver does not survive an upgrade. It never delays the master: if it is too
    /// slow, it learns how many events it has missed.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{EventKind, MasterHandle};
    ///
    /// async fn until_a_death(master: &MasterHandle) -> Vec<String> {
    ///     let mut events = master.events();
    ///     loop {
    ///         let event = events.next().await;
    ///         if event.event == EventKind::WorkerDied {
    ///             return event.last_lines.clone();
    ///         }
    ///     }
    /// }
    /// ```
    #[must_use]
    pub fn events(&self) -> Events {
        self.all_events().follow()
    }

    /// Sends a signal to running workers, to tell them something that their program understands. Returns
    /// the number of processes that received it.
    ///
    /// The processes of a worker that drain receive it, too. A process that is not ready does not: before
    /// its program handles the signal, the signal would end it. A worker whose program does not handle
    /// the signal ends in most cases, and is started again.
    ///
    /// # Errors
    ///
    /// Returns an error if no worker is meant that is ready, if the kernel does not let the master signal
    /// a process, if the master is being upgraded, or if it has ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future after its first poll does not cancel the signal.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Error, MasterHandle, Recipients, WorkerSignal};
    ///
    /// async fn open_logs_of(master: &MasterHandle, program: &str) -> Result<(), Error> {
    ///     master.signal(Recipients::Group(program.into()), WorkerSignal::Usr1).await?;
    ///     Ok(())
    /// }
    /// ```
    pub async fn signal(&self, to: Recipients, signal: WorkerSignal) -> Result<usize, Error> {
        self.ask(|caller| MasterCommand::Signal(to, signal, caller)).await
    }

    /// Checks that the pool should get requests: every worker has been ready once, each group with workers
    /// has a ready one, and the service does not stop.
    ///
    /// # Errors
    ///
    /// Returns an error with the reason if not.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::MasterHandle;
    ///
    /// fn readyz(master: &MasterHandle) -> (u16, String) {
    ///     match master.check_ready() {
    ///         Ok(()) => (200, "ready".to_owned()),
    ///         Err(error) => (503, error.to_string()),
    ///     }
    /// }
    /// ```
    pub fn check_ready(&self) -> Result<(), Error> {
        let reason = not_ready(&self.pool());
        reason.map_or(Ok(()), |reason| Err(Error::new(ErrorKind::Worker, reason)))
    }

    /// Checks that the pool lives: each group with workers has one that is ready or starting, or the
    /// service starts or stops. This is what the watchdog of systemd is fed for.
    ///
    /// # Errors
    ///
    /// Returns an error with the reason if only a new start of the service can help.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::MasterHandle;
    ///
    /// fn livez(master: &MasterHandle) -> u16 {
    ///     if master.check_live().is_ok() { 200 } else { 503 }
    /// }
    /// ```
    pub fn check_live(&self) -> Result<(), Error> {
        let reason = not_live(&self.pool());
        reason.map_or(Ok(()), |reason| Err(Error::new(ErrorKind::Worker, reason)))
    }
}
