//! Carries out what the pool decides, and tells it what happens.

mod begin;
mod last_answers;
mod processes;
mod signalled;
mod sockets;
mod terminal;
mod upgrade;
mod wait;

use std::os::fd::RawFd;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender};
use futures_channel::oneshot;
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use nix::sys::signal::Signal as Sig;

use super::clock::Clock;
use super::event_log::log;
use super::pending::{Hooks, PendingRequests};
use super::systemd_notifier::Service;
use crate::daemonize::log_files::LogFiles;
use crate::guard::Guard;
use crate::master::control::Served;
use crate::master::handle::{Command, MasterHandle};
use crate::master::upgrade::{Estate, Tried};
use crate::process::child::Missed;
use crate::rt::{Rt, Task};
use crate::signals::Signals;
use crate::stopping::Stop;
use crate::supervise::{Action, Event, Outcome, Report, StopCause, WorkerId};
use crate::sys::exit_status::ExitStatus;
use crate::sys::memory::unload_program;
use crate::sys::spawn::SpawnError;
use crate::{Error, ErrorKind};
pub(crate) use begin::Surroundings;
use processes::{Launched, Processes, Wish};
use signalled::{insists, is_stop};
use terminal::Terminal;
use upgrade::Upgrading;

/// Its end by a panic is a failure of the master, which stops in order then.
const MAIN: Guard = Guard::new("main");

/// How a process has ended that this master cannot end.
const UNKNOWN: ExitStatus = ExitStatus::Code(-1);

/// How long the first turn of a new version's main task is waited for.
const FIRST_TURN: Duration = Duration::from_secs(1);

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

impl MasterEvent {
    fn caught(signal: std::io::Result<Sig>) -> Self {
        signal.map_or_else(
            |error| Self::Failed(Error::system("cannot catch signals", error)),
            Self::Signal,
        )
    }
}

/// Wakes the supervisor.
#[derive(Debug)]
enum MasterEvent {
    Pool(Event),
    Command(Command),
    Launched(Wish, Result<Box<Launched>, Error>),
    Signal(Sig),
    /// The settings of this generation are there, or not for this reason.
    Prepared(u32, Result<(), String>),
    /// Somebody has shut these listening sockets down, in this order.
    ShutDown(Vec<RawFd>),
    /// Nothing is being answered any more, or it took too long.
    AtRest {
        in_time: bool,
    },
    /// The result of the new version's trial.
    Tried(Box<Tried>),
    Failed(Error),
    /// A task of the master's own.
    TaskFailed(Error),
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
    /// The caller that asks for the state of the service.
    service: Option<Service>,
    signals: Signals,
    /// Signals to be dealt with when it is clear which version of the program is the master.
    deferred: Vec<Sig>,
    /// The signal that asked for the stop.
    stopped_by: Option<Sig>,
    /// When the stop was first asked for.
    stop_asked_at: Option<Instant>,
    /// Of a service in the foreground that ends with it.
    terminal: Option<Terminal>,
    estate: Estate,
    upgrade: Option<Upgrading>,
    requests: PendingRequests,
    /// Makes new settings.
    preparing: Option<Task<()>>,
    stop: Stop,
    /// Deadline of the master's main task during a stop.
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
    /// For how long functions of the application had kept this thread busy when it was looked at last.
    told_busy: Duration,
    sender: UnboundedSender<MasterEvent>,
    events: UnboundedReceiver<MasterEvent>,
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
        let _orphans = super::reaper::reap(&self.rt)?;
        let _tasks: Vec<_> = starts.into_iter().map(|start| self.start(start).0).collect();
        let (main, has_begun) = main.map(|start| self.start(start)).unzip();
        // Who follows another version is up already.
        let mut all_ready = (!self.master.pool().has_started()).then_some(all_ready);
        self.report(&Report::Starting);
        let mut event = self.begin(has_begun).await;
        loop {
            if let Some(outcome) = self.decide(event, &mut all_ready) {
                let is_forced = self.master.pool().is_forced();
                let main = main.filter(|_| !is_forced && self.master.is_stop_heard());
                let main_finished = self.finish(main).await;
                self.send_last_answers().await;
                Missed::none(&self.rt).await;
                self.report(&Report::Finished { outcome: outcome.clone() });
                return Ok(Ended { outcome, signal: self.stopped_by, main: main_finished });
            }
            let next = self.next().await;
            event = self.handle_event(next);
        }
    }

    /// Returns the event for the pool.
    fn handle_event(&mut self, event: MasterEvent) -> Event {
        match event {
            MasterEvent::Pool(event) => event,
            MasterEvent::Command(Command::Stop) => {
                self.report(&Report::Stopping { cause: StopCause::Program });
                self.stop_asked_at.get_or_insert_with(|| self.rt.now());
                Event::Stop
            }
            MasterEvent::Command(Command::Change(change, caller)) => {
                self.requests.enter(change, caller)
            }
            MasterEvent::Command(Command::Rejoin(caller)) => self.requests.rejoin(caller),
            MasterEvent::Command(Command::ReopenLogs(caller)) => {
                let _ = caller.send(self.reopen_logs());
                Event::Tick
            }
            MasterEvent::Launched(wish, outcome) => {
                let fail = outcome.as_ref().err().and_then(|error| self.hopeless(error));
                let launched = self.processes.adopt(wish, outcome);
                match fail {
                    None => launched,
                    Some(fail) => {
                        let _ = self.sender.unbounded_send(MasterEvent::Pool(launched));
                        fail
                    }
                }
            }
            MasterEvent::Prepared(generation, outcome) => {
                Event::Prepared(outcome.and_then(|()| self.processes.sizes(generation)))
            }
            MasterEvent::Failed(error) => Event::Fail { reason: error.report() },
            MasterEvent::TaskFailed(error) => {
                let reason = error.report();
                log_error!(reason, "a task of the master has failed");
                Event::TaskFailed { reason }
            }
            MasterEvent::ShutDown(sockets) => self.look_at_sockets(&sockets),
            MasterEvent::AtRest { in_time } => self.at_rest(in_time),
            MasterEvent::Tried(tried) => self.tried(*tried),
            MasterEvent::Signal(signal) => {
                tracing::info!(signal = signal.as_str(), "a signal arrived");
                self.signalled(signal)
            }
        }
    }

    /// Makes the settings of a new generation before that is started.
    fn prepare(&mut self) {
        self.requests.reload_begins();
        if let Err(reason) = self.processes.prove_rights() {
            let prepared = Event::Prepared(Err(reason));
            let _ = self.sender.unbounded_send(MasterEvent::Pool(prepared));
            return;
        }
        let generation = self.master.pool().next_generation();
        let (prepared, sender) = (self.hooks.prepare(&self.rt, generation), self.sender.clone());
        self.preparing = Some(self.rt.spawn(async move {
            let _ = sender.unbounded_send(MasterEvent::Prepared(generation, prepared.await));
        }));
    }

    fn report(&mut self, report: &Report) {
        log(report);
        if self.terminal.as_mut().is_some_and(Terminal::has_just_gone) {
            let _ = self.sender.unbounded_send(MasterEvent::Signal(Sig::SIGHUP));
        }
        if matches!(
            report,
            Report::Reloaded { .. } | Report::RolledBack { .. } | Report::ReloadRefused { .. }
        ) {
            self.hooks.settle(self.master.generation());
        }
        self.hooks.observed(report);
        if let Some(service) = &mut self.service {
            service.told(report, &self.master.pool(), self.rt.now());
        }
        match report {
            Report::RolledBack { .. }
            | Report::Reloaded { .. }
            | Report::Upgraded { .. }
            | Report::UpgradeRolledBack { .. } => {}
            Report::Starting
            | Report::AllReady
            | Report::Stopping { .. }
            | Report::Finished { .. }
            | Report::Started { .. }
            | Report::SpawnFailed { .. }
            | Report::LeftBehind { .. }
            | Report::Ready { .. }
            | Report::Extended { .. }
            | Report::Stops { .. }
            | Report::Died { .. }
            | Report::Killed { .. }
            | Report::OverLimit { .. }
            | Report::TooFast { .. }
            | Report::Reloading { .. }
            | Report::ReloadRefused { .. }
            | Report::Upgrading
            | Report::UpgradeRefused { .. }
            | Report::Resized { .. }
            | Report::Failing { .. } => return,
        }
        self.processes.keep_particulars(self.master.generation());
    }

    /// Asks the pool, and does what it wants; says how everything ended when it has.
    fn decide(
        &mut self,
        event: Event,
        all_ready: &mut Option<impl FnOnce() -> Option<()>>,
    ) -> Option<Outcome> {
        if let Event::Exited { id, pid, exit } = event {
            self.estate.controls.iter().for_each(Served::look);
            self.processes.forget(id, pid, exit);
        }
        if let Event::Unended { id, pid, .. } = event {
            self.estate.controls.iter().for_each(Served::look);
            self.processes.forget(id, pid, UNKNOWN);
        }
        let (mut actions, mut unended, mut killing, mut next) = (Vec::new(), Vec::new(), None, 0);
        let now = self.clock.read(self.rt.now());
        for event in self.processes.backlog().into_iter().chain([event]) {
            self.master.pool().on(event, now, &mut actions);
        }
        self.pass_the_stop_on();
        self.processes.settle_listeners();
        self.processes.settle_jobs();
        if !self.master.pool().is_upgrading() {
            self.upgrade = None;
        }
        while let Some(action) = actions.get(next).cloned() {
            next += 1;
            match action {
                Action::Spawn { id, generation } => {
                    self.estate.controls.iter().for_each(Served::look);
                    if let Err(error) = self.processes.launch(Wish { id, generation }) {
                        if let Some(fail) = self.hopeless(&error) {
                            self.master.pool().on(fail, now, &mut actions);
                        }
                        let failed = self.processes.not_launched(id, &error);
                        self.master.pool().on(failed, now, &mut actions);
                    }
                }
                // It is said once it is true.
                Action::Report(report @ Report::Killed { .. }) => killing = Some(report),
                Action::Signal { id, pid, signal } => {
                    let (killed, report) = (self.processes.signal(id, pid, signal), killing.take());
                    match killed {
                        Ok(()) => report.iter().for_each(|report| self.report(report)),
                        Err(reason) => {
                            unended.push(pid);
                            self.left_behind(id, pid, reason, false, &mut actions);
                        }
                    }
                }
                Action::Report(report @ Report::Ready { id, pid, .. }) => {
                    self.report(&report);
                    if let Err(reason) = self.processes.prove_right(id, pid) {
                        unended.push(pid);
                        self.left_behind(id, pid, reason, all_ready.is_some(), &mut actions);
                    }
                }
                Action::AllReady if !unended.is_empty() => {}
                Action::Prepare => {
                    self.estate.controls.iter().for_each(Served::look);
                    self.prepare();
                }
                Action::TryUpgrade => self.try_upgrade(),
                Action::HandOver => self.begin_handover(),
                Action::Answer { request, outcome } => self.requests.answer(request, outcome),
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

    /// A process that cannot be ended is not this master's any more; a start has failed with it.
    fn left_behind(
        &mut self,
        id: WorkerId,
        pid: i32,
        reason: String,
        is_start: bool,
        actions: &mut Vec<Action>,
    ) {
        self.processes.forget(id, pid, UNKNOWN);
        let fail = is_start.then(|| Event::Fail { reason: reason.clone() });
        let now = self.clock.read(self.rt.now());
        for event in fail.into_iter().chain([Event::Unended { id, pid, reason }]) {
            self.master.pool().on(event, now, actions);
        }
    }

    /// A start is not tried again that the kernel, or the container around it, does not allow.
    fn hopeless(&self, error: &Error) -> Option<Event> {
        let spawning = std::error::Error::source(error)?.downcast_ref::<SpawnError>()?;
        let is_hopeless = spawning.is_permanent() && !self.master.pool().has_started();
        is_hopeless.then(|| Event::Fail { reason: error.report() })
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
        let (rt, asked) = (self.rt.clone(), self.stop_asked_at);
        let mut main = pin!(rt.timeout_at(deadline, main));
        if let Some(service) = &mut self.service {
            service.finishes(&self.master.pool(), rt.now());
        }
        loop {
            if let Some(service) = &mut self.service {
                service.beat(&self.master.pool(), rt.now());
            }
            let beats_at = self.service.as_ref().and_then(Service::beats_at);
            let beat = pin!(async {
                match beats_at {
                    Some(at) => rt.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            });
            // Its failure is in the queue before it ends.
            let signal = pin!(self.signals.next());
            let news = select(select(self.events.next(), signal), beat);
            let news = match select(news, main.as_mut()).await {
                Either::Left((Either::Left((news, _)), _)) => Either::Left(news),
                Either::Left((Either::Right(_), _)) => continue,
                Either::Right((ended, _)) => Either::Right(ended),
            };
            match news {
                Either::Left(Either::Left((
                    Some(MasterEvent::TaskFailed(error) | MasterEvent::Failed(error)),
                    _,
                ))) => return Finish::Failed(error),
                Either::Left(Either::Right((Ok(signal), _)))
                    if is_stop(signal) && (asked.is_none() || insists(signal, asked, rt.now())) =>
                {
                    return Finish::CutOff("it was stopped at once");
                }
                Either::Left(_) => {}
                Either::Right(Ok(())) => return Finish::Done,
                Either::Right(Err(_)) => return Finish::CutOff("it took too long"),
            }
        }
    }

    /// The first event. That a new version's main task cannot even begin is known before anything of the
    /// upgrade is done.
    async fn begin(&mut self, has_begun: Option<oneshot::Receiver<()>>) -> Event {
        if let Some(has_begun) = has_begun.filter(|_| self.master.pool().is_rolling()) {
            let _ = self.rt.timeout(FIRST_TURN, has_begun).await;
            if let Ok(event) = self.events.try_recv() {
                return self.handle_event(event);
            }
        }
        Event::Start
    }

    /// Also what ends when the task has had its first turn, or has ended.
    fn start<F>(&self, start: Start<F>) -> (Task<()>, oneshot::Receiver<()>)
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let (rt, master, sender) = (self.rt.clone(), self.master.clone(), self.sender.clone());
        let task = MAIN.call(|| start(rt, master));
        let (begun, has_begun) = oneshot::channel();
        let running = self.rt.spawn(async move {
            let mut begun = Some(begun);
            let mut running = pin!(async move {
                match task {
                    Ok(task) => MAIN.run(|| task).await,
                    Err(panicked) => Err(panicked),
                }
            });
            let ended = std::future::poll_fn(|cx| {
                let polled = running.as_mut().poll(cx);
                // Its failure is in the queue before that is said.
                if polled.is_pending() {
                    begun = None;
                }
                polled
            });
            let ended = ended.await;
            let failed = |panicked| {
                let message = "a task of the master panicked";
                Error::new(ErrorKind::Program, message).caused_by(panicked)
            };
            if let Err(error) = ended.map_err(failed).flatten() {
                // The words of the program's error are its own, too.
                let said = MAIN.call(|| error.report());
                let error = said.map_or_else(failed, |_| error);
                let _ = sender.unbounded_send(MasterEvent::TaskFailed(error));
            }
        });
        (running, has_begun)
    }
}
