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
use super::group::Group;
use super::pending::{Hooks, PendingRequests};
use super::systemd_notifier::Service;
use crate::daemonize::log_files::LogFiles;
use crate::guard::{BUSY_TIME, told_busy};
use crate::master::control::Served;
use crate::master::handle::{Command, MasterHandle};
use crate::master::upgrade::{Estate, Kept};
use crate::process::child::Missed;
use crate::rt::{Rt, Task};
use crate::signals::Signals;
use crate::stopping::{Stop, stop_channel};
use crate::supervise::{Action, Event, Operation, Outcome, Pool, Report, StopCause};
use crate::systemd::{self, Notifier};
use crate::{Error, ErrorKind};

/// How long the first turn of a new version's main task is waited for.
const FIRST_TURN: Duration = Duration::from_secs(1);

/// How often it is measured what processes have used.
const MEASURE_EVERY: Duration = Duration::from_secs(1);

/// How long handlers and their peers have when everything else has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// A request to stop may arrive twice: `timeout` signals its child and then the group, and a terminal
/// signals a launcher that passes the signal on. What comes so soon after the first is the same one.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// How often workers are replaced at most that have a socket which cannot listen any more: the program
/// may be such that each of its processes shuts its own down.
const RENEW_EVERY: Duration = Duration::from_secs(1);

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

/// Parts of a master beside its groups.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) hooks: Hooks,
    pub(crate) log_files: LogFiles,
    pub(crate) systemd: Option<Notifier>,
    pub(crate) stop_deadline: Duration,
    /// Whether workers are stopped by the signal that stops the master.
    pub(crate) forwards: bool,
    pub(crate) signals: Signals,
    pub(crate) estate: Estate,
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
    /// The supervisor of these groups and their pool, which takes over what a version before has
    /// `kept`, if there was one.
    pub(crate) fn new(
        rt: &Rt,
        groups: Vec<Group>,
        (pool, actions): (Pool, Vec<Action>),
        around: Surroundings,
        kept: Option<Kept>,
    ) -> Self {
        let Surroundings { hooks, log_files, systemd, stop_deadline, forwards, signals, estate } =
            around;
        let (sender, events) = unbounded();
        let commands = sender.clone();
        let (stop, stopping) = stop_channel();
        let master = MasterHandle::new(rt, pool, stopping, move |command| {
            let _ = commands.unbounded_send(MasterEvent::Command(command));
        });
        let service = systemd.map(|systemd| {
            let (watchdog, is_change) = (systemd::watchdog_time(), kept.is_some());
            Service::new(systemd, watchdog, stop_deadline, is_change, rt.now())
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
            hooks,
            log_files,
            service,
            signals,
            deferred,
            stopped_by: None,
            stop_asked_at: None,
            terminal: Terminal::of_this_process(),
            estate,
            upgrade: None,
            requests: PendingRequests::default(),
            preparing: None,
            stop,
            stop_by: None,
            stop_deadline,
            renewed: None,
            looking: None,
            forwards,
            sender,
            events,
        };
        for action in actions {
            if let Action::Report(report) = action {
                supervisor.report(&report);
            }
        }
        supervisor
    }

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
        let _tasks: Vec<_> = starts
            .into_iter()
            .map(|task| start(task, self.master.clone(), self.sender.clone()).0)
            .collect();
        let (main, has_begun) =
            main.map(|task| start(task, self.master.clone(), self.sender.clone())).unzip();
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

    /// Waits for the next event, which may be a deadline.
    async fn next(&mut self) -> MasterEvent {
        let now = self.rt.now();
        if let Some(service) = &mut self.service {
            service.beat(&self.master.pool(), now);
        }
        if let Some(at) = self.measure_at.filter(|at| *at <= now) {
            // It may have had no turn between one wait and the next.
            self.noticed(at, now);
            self.measure_at = Some(now + MEASURE_EVERY);
            self.measured = self.measured.wrapping_add(1);
            return MasterEvent::Pool(self.processes.measure(self.measured));
        }
        let (of_pool, is_handing_over) = {
            let pool = self.master.pool();
            (pool.deadline().map(|at| self.clock.real(at)), pool.is_handing_over())
        };
        let beats_at = self.service.as_ref().and_then(Service::beats_at);
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
            // This side holds a sender, so the channel does not end: nothing means time has passed.
            Either::Left(Either::Left((None, _))) | Either::Right(()) => {
                MasterEvent::Pool(Event::Tick)
            }
        }
    }

    /// Something that was due at this time is noticed now: this process may have been held up.
    fn noticed(&mut self, due: Instant, now: Instant) {
        self.clock.noticed(due, now);
        let told = std::mem::replace(&mut self.told_busy, told_busy());
        let late = now.saturating_duration_since(due).saturating_sub(self.told_busy - told);
        if late >= BUSY_TIME {
            let seconds = late.as_secs_f64();
            tracing::warn!("the master was busy for {seconds:.1} s, or held up: it had no turn");
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
                tracing::error!(reason, "a task of the master has failed");
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
                    tracing::error!(reason = error.report(), "the log goes on where it was");
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
    fn reopen_logs(&mut self) -> Result<(), Error> {
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

    /// Has listening sockets work again that somebody has shut down, and replaces the workers that have
    /// one for which another was opened.
    fn look_at_sockets(&mut self, shut: &[RawFd]) -> Event {
        let outdated = self.processes.look_at_listeners(shut);
        if outdated.is_empty() || self.master.pool().is_stopping() {
            return Event::Tick;
        }
        let (now, rt, sender) = (self.rt.now(), self.rt.clone(), self.sender.clone());
        let again = self.renewed.map(|renewed| renewed + RENEW_EVERY).filter(|again| *again > now);
        // A reload replaces them, and goes on with those that have the new one.
        if again.is_none() && !self.master.pool().is_rolling() {
            self.renewed = Some(now);
            for id in outdated {
                let restart = self.requests.enter_signal(Operation::Restart { id });
                let _ = self.sender.unbounded_send(MasterEvent::Pool(restart));
            }
        }
        // One that takes over meanwhile may have the former, too.
        let again = again.unwrap_or(now + RENEW_EVERY);
        self.looking = Some(self.rt.spawn(async move {
            rt.sleep_until(again).await;
            let _ = sender.unbounded_send(MasterEvent::ShutDown(Vec::new()));
        }));
        Event::Tick
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

    /// Lets handlers that have waited for the end of the workers say so, and their peers read it.
    async fn send_last_answers(&self) {
        let controls = &self.estate.controls;
        controls.iter().for_each(|control| control.pause(self.rt.now()));
        let at_rest = poll_fn(|cx| {
            // Each is asked, or it would not wake this task.
            let busy = controls.iter().filter(|control| control.poll_at_rest(cx).is_pending());
            if busy.count() == 0 { Poll::Ready(()) } else { Poll::Pending }
        });
        if self.rt.timeout(LAST_ANSWERS, at_rest).await.is_err() {
            let requests: usize = controls.iter().map(Served::unfinished).sum();
            tracing::warn!(requests, "control sockets are closed before the answer");
        }
    }
}

/// Whether a signal to stop demands more than the first one, which is being obeyed.
fn insists(signal: Sig, first: Option<Instant>, now: Instant) -> bool {
    let is_late = |first| now.saturating_duration_since(first) >= SAME_REQUEST;
    signal == Sig::SIGQUIT || first.is_some_and(is_late)
}

/// Whether a signal asks for the end.
fn is_stop(signal: Sig) -> bool {
    matches!(signal, Sig::SIGTERM | Sig::SIGINT | Sig::SIGQUIT)
}
