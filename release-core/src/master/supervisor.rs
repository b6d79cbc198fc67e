//! The master's loop: carries out the pool's decisions, and tells the pool what happens.

mod decide;
mod event;
mod processes;
mod tasks;
mod terminal;
#[cfg(test)]
mod tests;
mod upgrade;
mod upgrading;

use std::future::poll_fn;
use std::os::fd::RawFd;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures_channel::oneshot;
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use nix::sys::signal::Signal as Sig;

use self::event::MasterEvent;
use self::processes::Processes;
use self::tasks::{Start, start};
use self::terminal::Terminal;
use self::upgrading::Upgrading;
use super::clock::Clock;
use super::config::MasterConfig;
use super::group::Group;
use super::pending::PendingRequests;
use super::systemd_notifier::SystemdNotifier;
use crate::guard::{BUSY_TIME, told_busy};
use crate::master::control::ControlHandle;
use crate::master::handle::{Command, MasterHandle};
use crate::master::upgrade::{Kept, Upgrader};
use crate::process::child::Missed;
use crate::rt::{Rt, Task};
use crate::signals::Signals;
use crate::stopping::{Stop, stop_channel};
use crate::supervise::{Action, Event, Operation, Outcome, Pool, Report, StopCause};
use crate::systemd::watchdog_time;
use crate::{Error, ErrorKind};

/// Time limit for the first turn of a new version's main task.
const FIRST_TURN: Duration = Duration::from_secs(1);

/// Interval of the measurements of processes.
const MEASURE_EVERY: Duration = Duration::from_secs(1);

/// Time limit for handlers and their peers after everything else has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Signals within this time after the first stop signal belong to the same request: `timeout`
/// signals its child and then the group, and a terminal signals a launcher that passes the signal
/// on.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// Minimum time between two replacements of workers with a broken listening socket. Each process of
/// a program may shut its own socket down.
const RENEW_EVERY: Duration = Duration::from_secs(1);

/// The end of a master.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    /// The signal that asked for the stop.
    pub(crate) signal: Option<Sig>,
    pub(crate) main: Finish,
}

/// The end of the master's main task, if the master waited for it.
#[derive(Debug)]
pub(crate) enum Finish {
    Done,
    Failed(Error),
    CutOff(&'static str),
}

/// Parts of a master beside its groups.
pub(crate) struct SupervisorParts {
    pub(crate) config: MasterConfig,
    pub(crate) signals: Signals,
    pub(crate) upgrader: Upgrader,
}

/// The loop of the master: the pool, and everything that carries out its decisions.
pub(crate) struct Supervisor {
    rt: Rt,
    clock: Clock,
    master: MasterHandle,
    processes: Processes,
    config: MasterConfig,
    systemd: Option<SystemdNotifier>,
    signals: Signals,
    /// Signals that are handled once it is clear which version of the program is the master.
    deferred: Vec<Sig>,
    /// The signal that asked for the stop.
    stopped_by: Option<Sig>,
    /// Time of the first request to stop.
    stop_asked_at: Option<Instant>,
    /// The terminal of a service in the foreground, which ends with it.
    terminal: Option<Terminal>,
    upgrader: Upgrader,
    upgrade: Option<Upgrading>,
    requests: PendingRequests,
    /// Task that makes new settings.
    preparing: Option<Task<()>>,
    stop: Stop,
    /// Deadline of the master's main task during a stop.
    stop_by: Option<Instant>,
    /// Time of the latest replacement of workers because of their listening sockets.
    renewed: Option<Instant>,
    /// Task that waits for the next check of the sockets.
    looking: Option<Task<()>>,
    /// Time of the next measurement, if processes have limits, and the number of measurements so
    /// far.
    measure_at: Option<Instant>,
    measured: u32,
    /// How long functions of the application had blocked this thread at the last check.
    told_busy: Duration,
    sender: UnboundedSender<MasterEvent>,
    events: UnboundedReceiver<MasterEvent>,
}

impl Supervisor {
    /// Creates the supervisor of these groups and their pool. It takes over the state `kept` by the
    /// previous version, if there was one.
    pub(crate) fn new(
        rt: &Rt,
        groups: Vec<Group>,
        (pool, actions): (Pool, Vec<Action>),
        parts: SupervisorParts,
        kept: Option<Kept>,
    ) -> Self {
        let SupervisorParts { mut config, signals, upgrader } = parts;
        let (sender, events) = unbounded();
        let commands = sender.clone();
        let (stop, stopping) = stop_channel();
        let master = MasterHandle::new(rt, pool, stopping, move |command| {
            let _ = commands.unbounded_send(MasterEvent::Command(command));
        });
        let (is_change, deadline, systemd) =
            (kept.is_some(), config.stop_deadline, config.systemd.take());
        let systemd = systemd.map(|systemd| {
            SystemdNotifier::new(systemd, watchdog_time(), deadline, is_change, rt.now())
        });
        let mut deferred = Vec::new();
        let processes = match kept {
            None => Processes::new(groups, master.clone(), sender.clone()),
            Some(mut kept) => {
                let late = kept.late_signals.take().map(Into::into);
                deferred = upgrading::left(std::mem::take(&mut kept.signals), late.as_ref());
                Processes::inherit(groups, master.clone(), sender.clone(), &mut kept)
            }
        };
        let mut supervisor = Self {
            rt: rt.clone(),
            clock: Clock::new(master.epoch()),
            measure_at: processes.are_measured().then(|| rt.after(MEASURE_EVERY)),
            measured: 0,
            told_busy: told_busy(),
            processes,
            master,
            config,
            systemd,
            signals,
            deferred,
            stopped_by: None,
            stop_asked_at: None,
            terminal: Terminal::of_this_process(),
            upgrader,
            upgrade: None,
            requests: PendingRequests::default(),
            preparing: None,
            stop,
            stop_by: None,
            renewed: None,
            looking: None,
            sender,
            events,
        };
        supervisor.report_all(&actions);
        supervisor
    }

    /// Reports the decisions that the pool has made before.
    fn report_all(&mut self, actions: &[Action]) {
        for action in actions {
            if let Action::Report(report) = action {
                self.report(report);
            }
        }
    }

    /// Runs until no worker is left, and the main task has had its time.
    ///
    /// Must be the main future: a worker dies with the thread that started it. The main thread
    /// lives as long as the master, and it becomes the next version.
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
        let _tasks: Vec<_> = starts
            .into_iter()
            .map(|task| start(task, self.master.clone(), self.sender.clone()).0)
            .collect();
        let (main, has_begun) =
            main.map(|task| start(task, self.master.clone(), self.sender.clone())).unzip();
        // A new version is already up.
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

    /// Returns the first event. The main task of a new version fails before the upgrade has changed
    /// anything, if it cannot even begin.
    async fn begin(&mut self, has_begun: Option<oneshot::Receiver<()>>) -> Event {
        if let Some(has_begun) = has_begun.filter(|_| self.master.pool().is_rolling()) {
            let _ = self.rt.timeout(FIRST_TURN, has_begun).await;
            if let Ok(event) = self.events.try_recv() {
                return self.handle_event(event);
            }
        }
        Event::Start
    }

    /// Waits for the next event, which may be a deadline.
    async fn next(&mut self) -> MasterEvent {
        let now = self.rt.now();
        if let Some(systemd) = &mut self.systemd {
            systemd.beat(&self.master.pool(), now);
        }
        if let Some(at) = self.measure_at.filter(|at| *at <= now) {
            // The master may have been held up between two waits.
            self.noticed(at, now);
            self.measure_at = Some(now + MEASURE_EVERY);
            self.measured = self.measured.wrapping_add(1);
            return MasterEvent::Pool(self.processes.measure(self.measured));
        }
        let (of_pool, is_handing_over) = {
            let pool = self.master.pool();
            (pool.deadline().map(|at| self.clock.real(at)), pool.is_handing_over())
        };
        let beats_at = self.systemd.as_ref().and_then(SystemdNotifier::beats_at);
        let of_pool = self.clock.deadline(of_pool);
        let deadline = of_pool.into_iter().chain(self.measure_at).chain(beats_at).min();
        if !is_handing_over && !self.deferred.is_empty() {
            return MasterEvent::Signal(self.deferred.remove(0));
        }
        let event = self.event_until(deadline).await;
        if let Some(deadline) = deadline {
            self.noticed(deadline, self.rt.now());
        }
        event
    }

    async fn event_until(&mut self, deadline: Option<Instant>) -> MasterEvent {
        let signal = pin!(async { MasterEvent::caught(self.signals.next().await) });
        let either = select(self.events.next(), signal);
        let event = match deadline {
            None => Either::Left(either.await),
            Some(deadline) => {
                let timer = pin!(self.rt.sleep_until(deadline));
                match select(either, timer).await {
                    Either::Left((event, _)) => Either::Left(event),
                    Either::Right(_) => Either::Right(()),
                }
            }
        };
        match event {
            Either::Left(Either::Left((Some(event), _)) | Either::Right((event, _))) => event,
            // This side holds a sender, so the channel does not end: without an event, a deadline
            // has passed.
            Either::Left(Either::Left((None, _))) | Either::Right(()) => {
                MasterEvent::Pool(Event::Tick)
            }
        }
    }

    /// Handles an event at `now` that was due earlier: this process may have been held up.
    fn noticed(&mut self, due: Instant, now: Instant) {
        self.clock.noticed(due, now);
        let told = std::mem::replace(&mut self.told_busy, told_busy());
        let late = now.saturating_duration_since(due).saturating_sub(self.told_busy - told);
        if late >= BUSY_TIME {
            let seconds = late.as_secs_f64();
            log_warning!("the master was busy for {seconds:.1} s, or held up: it had no turn");
        }
    }

    /// Handles an event, and returns the event for the pool.
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

    /// Returns the request of a signal.
    fn signalled(&mut self, signal: Sig) -> Event {
        match signal {
            Sig::SIGHUP | Sig::SIGTTIN | Sig::SIGTTOU | Sig::SIGUSR2
                if self.master.pool().is_handing_over() =>
            {
                self.deferred.push(signal);
                Event::Tick
            }
            Sig::SIGHUP if self.terminal.as_ref().is_some_and(Terminal::is_gone) => {
                // The kernel reports it several times.
                let is_news = self.stop_asked_at.is_none();
                if is_news {
                    self.asked_to_stop(Sig::SIGTERM, StopCause::Terminal)
                } else {
                    Event::Tick
                }
            }
            Sig::SIGHUP => {
                self.upgrader.controls.iter().for_each(ControlHandle::look);
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
            // A signal does not remove the last worker.
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

    /// Stops in order, or immediately at a repeated request.
    fn asked_to_stop(&mut self, signal: Sig, cause: StopCause) -> Event {
        let is_forced = insists(signal, self.stop_asked_at, self.rt.now());
        let is_new = self.stop_asked_at.is_none() || is_forced;
        if is_new {
            self.report(&Report::Stopping { cause });
        }
        self.stopped_by = Some(signal);
        self.stop_asked_at.get_or_insert_with(|| self.rt.now());
        if self.config.forward_signals {
            self.processes.forward(signal);
            return Event::Stop;
        }
        match (is_forced, is_new) {
            (true, _) => Event::StopNow,
            (false, true) => Event::Stop,
            (false, false) => Event::Tick,
        }
    }

    /// Opens the log files again, for this process and its workers, after they were moved.
    fn reopen_logs(&mut self) -> Result<(), Error> {
        if self.master.pool().is_handing_over() {
            let message = "the master is being upgraded; ask again when that is done";
            return Err(Error::new(ErrorKind::Change, message));
        }
        self.config.log_files.reopen()?;
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

    /// Makes listening sockets work again that were shut down, and replaces the workers whose
    /// socket was replaced by another one.
    fn look_at_sockets(&mut self, shut: &[RawFd]) -> Event {
        let outdated = self.processes.look_at_listeners(shut);
        if outdated.is_empty() || self.master.pool().is_stopping() {
            return Event::Tick;
        }
        let (now, rt, sender) = (self.rt.now(), self.rt.clone(), self.sender.clone());
        let again = self.renewed.map(|renewed| renewed + RENEW_EVERY).filter(|again| *again > now);
        // A reload replaces them anyway.
        if again.is_none() && !self.master.pool().is_rolling() {
            self.renewed = Some(now);
            for id in outdated {
                let restart = self.requests.enter_signal(Operation::Restart { id });
                let _ = self.sender.unbounded_send(MasterEvent::Pool(restart));
            }
        }
        // A worker that takes over meanwhile may have the former socket, too.
        let again = again.unwrap_or(now + RENEW_EVERY);
        self.looking = Some(self.rt.spawn(async move {
            rt.sleep_until(again).await;
            let _ = sender.unbounded_send(MasterEvent::ShutDown(Vec::new()));
        }));
        Event::Tick
    }

    /// Waits for the main task until the stop deadline or another stop signal.
    async fn finish(&mut self, main: Option<Task<()>>) -> Finish {
        let Some(main) = main else { return Finish::Done };
        let deadline = self.stop_by.unwrap_or_else(|| self.rt.now());
        let (rt, asked) = (self.rt.clone(), self.stop_asked_at);
        let mut main = pin!(rt.timeout_at(deadline, main));
        if let Some(systemd) = &mut self.systemd {
            systemd.finishes(&self.master.pool(), rt.now());
        }
        loop {
            if let Some(systemd) = &mut self.systemd {
                systemd.beat(&self.master.pool(), rt.now());
            }
            let beats_at = self.systemd.as_ref().and_then(SystemdNotifier::beats_at);
            let beat = pin!(async {
                match beats_at {
                    Some(at) => rt.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            });
            // Its failure is queued before it ends.
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

    /// Lets the handlers that waited for the end of the workers answer, and their peers read the
    /// answers.
    async fn send_last_answers(&self) {
        let controls = &self.upgrader.controls;
        controls.iter().for_each(|control| control.pause(self.rt.now()));
        let at_rest = poll_fn(|cx| {
            // All are polled, so that each can wake this task.
            let busy = controls.iter().filter(|control| control.poll_at_rest(cx).is_pending());
            if busy.count() == 0 { Poll::Ready(()) } else { Poll::Pending }
        });
        if self.rt.timeout(LAST_ANSWERS, at_rest).await.is_err() {
            let requests: usize = controls.iter().map(ControlHandle::unfinished).sum();
            log_warning!(requests, "control sockets are closed before the answer");
        }
    }
}

/// Returns whether a stop signal demands more than the first one, which is being obeyed.
fn insists(signal: Sig, first: Option<Instant>, now: Instant) -> bool {
    let is_late = |first| now.saturating_duration_since(first) >= SAME_REQUEST;
    signal == Sig::SIGQUIT || first.is_some_and(is_late)
}

/// Returns whether a signal requests a stop.
fn is_stop(signal: Sig) -> bool {
    matches!(signal, Sig::SIGTERM | Sig::SIGINT | Sig::SIGQUIT)
}
