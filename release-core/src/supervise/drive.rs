//! Carries out what the pool decides, and tells it what happens.

mod begin;
mod clock;
mod processes;
mod signalled;
mod sockets;
mod upgrade;
mod wait;

use std::os::fd::RawFd;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender};
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use nix::sys::signal::Signal as Sig;

use super::changes::{Askers, Hooks};
use super::journal::log;
use super::service::Service;
use super::{Action, Event, Outcome, Report, StopCause};
use crate::daemon::{Command, Estate, LogFiles, MasterHandle, Served, Stop};
use crate::rt::{Rt, Task};
use crate::signals::Signals;
use crate::sys::memory::unload_program;
use crate::{Error, ErrorKind};
pub(crate) use begin::Surroundings;
use clock::Clock;
pub(crate) use clock::HELD_UP;
use processes::{Launched, Processes, Wish};
use signalled::is_stop;
use upgrade::Upgrading;

/// A task of the master's own, once it is started.
type Start<F> = Box<dyn FnOnce(Rt, MasterHandle) -> F>;

/// How a master ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    /// The signal that asked for the stop.
    pub(crate) signal: Option<Sig>,
    pub(crate) main: Finish,
}

/// How the master's main task ended, if it was waited for.
#[derive(Debug)]
pub(crate) enum Finish {
    Done,
    Failed(Error),
    CutOff(&'static str),
}

impl Happening {
    fn caught(signal: std::io::Result<Sig>) -> Self {
        signal.map_or_else(
            |error| Self::Failed(Error::system("cannot catch signals", error)),
            Self::Signal,
        )
    }
}

/// What wakes the supervisor.
#[derive(Debug)]
enum Happening {
    Pool(Event),
    Command(Command),
    Launched(Wish, Result<Box<Launched>, Error>),
    Signal(Sig),
    /// Somebody has shut these listening sockets down, in this order.
    ShutDown(Vec<RawFd>),
    /// Nothing is being answered any more, or it took too long.
    AtRest {
        in_time: bool,
    },
    Failed(Error),
}

/// The pool, and the processes that it has.
#[derive(Debug)]
pub(crate) struct Supervisor {
    rt: Rt,
    clock: Clock,
    master: MasterHandle,
    processes: Processes,
    hooks: Hooks,
    log_files: LogFiles,
    /// Somebody who wants to know how the service is.
    service: Option<Service>,
    signals: Signals,
    /// Signals to be dealt with when it is clear which version of the program is the master.
    deferred: Vec<Sig>,
    /// The signal that asked for the stop.
    stopped_by: Option<Sig>,
    estate: Estate,
    upgrade: Option<Upgrading>,
    askers: Askers,
    /// Reads a new configuration.
    preparing: Option<Task<()>>,
    stop: Stop,
    /// Until when the master's main task may go on, once the master is to stop.
    stop_by: Option<Instant>,
    stop_deadline: Duration,
    /// When workers were replaced because of their listening sockets, the last time.
    renewed: Option<Instant>,
    /// Waits until the sockets are looked at again.
    looking: Option<Task<()>>,
    /// Whether workers are stopped by the signal that stops the master.
    forwards: bool,
    /// When it is measured next what processes have used, if any have limits, and how often it was.
    measure_at: Option<Instant>,
    measured: u32,
    sender: UnboundedSender<Happening>,
    happenings: UnboundedReceiver<Happening>,
}

impl Supervisor {
    /// Runs until no worker is left, and the main task has had its time.
    ///
    /// Must be the main future: a worker dies with the thread that has started it, and the main
    /// thread is the one that lives as long as the master, and longer: it is the one that becomes the
    /// next version.
    pub(crate) async fn run<F>(
        mut self,
        starts: Vec<Start<F>>,
        main: Option<Start<F>>,
        all_ready: impl FnOnce() -> Option<()>,
    ) -> Result<Ended, Error>
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let _orphans = super::orphans::reap(&self.rt)?;
        let _tasks: Vec<_> = starts.into_iter().map(|start| self.start(start)).collect();
        let main = main.map(|start| self.start(start));
        let mut all_ready = Some(all_ready);
        let mut event = Event::Start;
        self.report(&Report::Starting);
        loop {
            let is_forced = event == Event::StopNow;
            if let Some(outcome) = self.decide(event, &mut all_ready) {
                let main = main.filter(|_| !is_forced && self.master.is_stop_heard());
                let main_finished = self.finish(main).await;
                self.report(&Report::Finished { outcome: outcome.clone() });
                return Ok(Ended { outcome, signal: self.stopped_by, main: main_finished });
            }
            let happening = self.next().await;
            event = self.happened(happening);
        }
    }

    /// What the pool is told about it.
    fn happened(&mut self, happening: Happening) -> Event {
        match happening {
            Happening::Pool(event) => event,
            Happening::Command(Command::Stop) => {
                self.report(&Report::Stopping { cause: StopCause::Program });
                Event::Stop
            }
            Happening::Command(Command::Change(change, asker)) => self.askers.enter(change, asker),
            Happening::Command(Command::Rejoin(asker)) => self.askers.rejoin(asker),
            Happening::Command(Command::ReopenLogs(asker)) => {
                let _ = asker.send(self.reopen_logs());
                Event::Tick
            }
            Happening::Launched(wish, outcome) => self.processes.adopt(wish, outcome),
            Happening::Failed(error) => Event::Fail { reason: error.report() },
            Happening::ShutDown(sockets) => self.look_at_sockets(&sockets),
            Happening::AtRest { in_time } => self.at_rest(in_time),
            Happening::Signal(signal) => {
                tracing::info!(signal = signal.as_str(), "a signal arrived");
                self.signalled(signal)
            }
        }
    }

    /// Lets the program read its configuration before a new generation is started.
    fn prepare(&mut self) {
        self.askers.reload_begins();
        let (prepared, sender) = (self.hooks.prepare(&self.rt), self.sender.clone());
        self.preparing = Some(self.rt.spawn(async move {
            let _ = sender.unbounded_send(Happening::Pool(prepared.await));
        }));
    }

    fn report(&mut self, report: &Report) {
        log(report);
        self.hooks.observed(report);
        if let Some(service) = &mut self.service {
            service.told(report, &self.master.pool(), self.rt.now());
        }
        match report {
            Report::RolledBack { .. } => self.hooks.rolled_back(),
            Report::Reloaded { .. }
            | Report::Upgraded { .. }
            | Report::UpgradeRolledBack { .. } => {}
            _ => return,
        }
        self.processes.keep_particulars(self.master.generation());
    }

    /// Asks the pool, and does what it wants; says how everything ended when it has.
    fn decide(
        &mut self,
        event: Event,
        all_ready: &mut Option<impl FnOnce() -> Option<()>>,
    ) -> Option<Outcome> {
        if let Event::Exited { id, pid, .. } = event {
            self.estate.controls.iter().for_each(Served::look);
            self.processes.forget(id, pid);
        }
        let mut actions = Vec::new();
        let mut next = 0;
        let now = self.clock.read(self.rt.now());
        for event in self.processes.backlog().into_iter().chain([event]) {
            self.master.pool().on(event, now, &mut actions);
        }
        self.pass_the_stop_on();
        self.processes.settle_listeners();
        if !self.master.pool().is_upgrading() {
            self.upgrade = None;
        }
        while let Some(action) = actions.get(next).cloned() {
            next += 1;
            match action {
                Action::Spawn { id, generation } => {
                    self.estate.controls.iter().for_each(Served::look);
                    if let Err(error) = self.processes.launch(Wish { id, generation }) {
                        let failed = self.processes.not_launched(id, &error);
                        self.master.pool().on(failed, now, &mut actions);
                    }
                }
                Action::Signal { id, pid, signal } => self.processes.signal(id, pid, signal),
                Action::Prepare => {
                    self.estate.controls.iter().for_each(Served::look);
                    self.prepare();
                }
                Action::TryUpgrade => self.try_upgrade(),
                Action::HandOver => self.begin_handover(),
                Action::Answer { ticket, outcome } => self.askers.answer(ticket, outcome),
                Action::Report(report) => self.report(&report),
                Action::AllReady => {
                    self.report(&Report::AllReady);
                    all_ready.take().map(|all_ready| all_ready());
                    unload_program();
                }
                Action::Done(outcome) => return Some(outcome),
            }
        }
        None
    }

    /// The main task begins to finish when the workers do.
    fn pass_the_stop_on(&mut self) {
        if self.stop_by.is_none() && self.master.pool().is_stopping() {
            self.stop_by = Some(self.rt.after(self.stop_deadline));
            self.stop.now();
        }
    }

    /// Waits for the main task, until the stop deadline or a further signal to stop.
    async fn finish(&mut self, main: Option<Task<()>>) -> Finish {
        let Some(main) = main else { return Finish::Done };
        let deadline = self.stop_by.unwrap_or_else(|| self.rt.now());
        let rt = self.rt.clone();
        let mut main = pin!(rt.timeout_at(deadline, main));
        loop {
            // Its failure is in the queue before it ends.
            let signal = pin!(self.signals.next());
            let news = select(self.happenings.next(), signal);
            match select(news, main.as_mut()).await {
                Either::Left((Either::Left((Some(Happening::Failed(error)), _)), _)) => {
                    return Finish::Failed(error);
                }
                Either::Left((Either::Right((Ok(signal), _)), _)) if is_stop(signal) => {
                    return Finish::CutOff("it was stopped at once");
                }
                Either::Left(_) => {}
                Either::Right((Ok(()), _)) => return Finish::Done,
                Either::Right((Err(_), _)) => return Finish::CutOff("it took too long"),
            }
        }
    }

    fn start<F>(&self, start: Start<F>) -> Task<()>
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let task = start(self.rt.clone(), self.master.clone());
        let sender = self.sender.clone();
        let caught = futures_util::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(task));
        self.rt.spawn(async move {
            let error = match caught.await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error,
                Err(panic) => {
                    let message = crate::rt::panic_message(panic.as_ref());
                    Error::new(
                        ErrorKind::Program,
                        format!("a task of the master panicked: {message}"),
                    )
                }
            };
            let _ = sender.unbounded_send(Happening::Failed(error));
        })
    }
}
