//! The master's loop: carries out the pool's decisions, and tells the pool what happens.

mod command;
mod decide;
mod ending;
mod event;
mod processes;
mod rotate;
mod tasks;
mod terminal;
#[cfg(test)]
mod tests;
mod upgrade;
mod upgrading;

use std::os::fd::RawFd;
use std::pin::pin;
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
use super::signals::SignalAction;
use super::systemd_notifier::SystemdNotifier;
use crate::guard::{BUSY_TIME, told_busy};
use crate::master::children::ChildRequest;
use crate::master::control::ControlHandle;
use crate::master::handle::{MasterCommand, MasterHandle};
use crate::master::journal::Journal;
use crate::master::upgrade::{Kept, Upgrader};
use crate::rt::{Rt, Task};
use crate::signals::Signals;
use crate::stopping::{Stop, stop_channel};
use crate::supervise::{Action, Event, Operation, Outcome, Pool, Report, StopCause};
use crate::systemd::watchdog_time;
use crate::{Error, ErrorKind};

/// Time limit for the first turn of a new version's main task.
const FIRST_TURN: Duration = Duration::from_secs(1);

/// Time limit for handlers and their peers after everything else has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Signals within this time after the first stop signal belong to the same request: `timeout`
/// signals its child and then the group, and a terminal signals a launcher that passes the signal
/// on.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// Minimum time between two replacements of workers with a broken listening socket. Each process of
/// a program may shut its own socket down.
const RENEW_EVERY: Duration = Duration::from_secs(1);

/// Interval of the looks at the size of log files.
const ROTATE_EVERY: Duration = Duration::from_secs(1);

/// The end of a master.
#[derive(Debug)]
pub(crate) struct MasterEnd {
    pub(crate) outcome: Outcome,
    /// The signal that asked for the stop.
    pub(crate) signal: Option<Sig>,
    pub(crate) main: Finish,
    /// Number of children beside the workers that had to be killed.
    pub(crate) children_killed: usize,
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
    /// Children that are started if this version remains the master.
    deferred_children: Vec<ChildRequest>,
    /// The signal that asked for the stop.
    stopped_by: Option<Sig>,
    /// Time of the first request to stop.
    stop_asked_at: Option<Instant>,
    /// Whether its children are told to end.
    is_ending: bool,
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
    journal: Journal,
    sender: UnboundedSender<MasterEvent>,
    events: UnboundedReceiver<MasterEvent>,
}

/// Takes the notifier of systemd. `is_change` if this version takes over from an earlier one.
fn systemd_notifier(
    config: &mut MasterConfig,
    is_change: bool,
    now: Instant,
) -> Option<SystemdNotifier> {
    let (deadline, systemd) = (config.stop_deadline, config.systemd.take()?);
    Some(SystemdNotifier::new(systemd, watchdog_time(), deadline, is_change, now))
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
        let systemd = systemd_notifier(&mut config, kept.is_some(), rt.now());
        let (mut deferred, mut journal) = (Vec::new(), Journal::default());
        let processes = match kept {
            None => Processes::new(groups, master.clone(), sender.clone()),
            Some(mut kept) => {
                let late = kept.late_signals.take().map(Into::into);
                master.children().inherit(std::mem::take(&mut kept.children), config.stop_deadline);
                journal = std::mem::take(&mut kept.journal).into();
                deferred = upgrading::left(std::mem::take(&mut kept.signals), late.as_ref());
                Processes::inherit(groups, master.clone(), sender.clone(), &mut kept)
            }
        };
        let mut supervisor = Self {
            rt: rt.clone(),
            clock: Clock::new(master.epoch()),
            measure_at: looks_every(&processes, &config).map(|every| rt.after(every)),
            measured: 0,
            told_busy: told_busy(),
            journal,
            processes,
            master,
            config,
            systemd,
            signals,
            deferred,
            deferred_children: Vec::new(),
            stopped_by: None,
            stop_asked_at: None,
            is_ending: false,
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
    ) -> Result<MasterEnd, Error>
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
                return Ok(self.end(outcome, main).await);
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
            let every = looks_every(&self.processes, &self.config);
            self.measure_at = every.map(|every| now + every);
            self.measured = self.measured.wrapping_add(1);
            self.follow_load(now);
            self.rotate_logs();
            return MasterEvent::Pool(self.processes.measure(self.measured));
        }
        let (of_pool, is_handing_over) = {
            let pool = self.master.pool();
            (pool.deadline().map(|at| self.clock.real(at)), pool.is_handing_over())
        };
        let begins = self.deferred.iter().position(|signal| !self.is_held_back(*signal));
        let beats_at = self.systemd.as_ref().and_then(SystemdNotifier::beats_at);
        let of_pool = self.clock.deadline(of_pool);
        let flows_at = self.processes.flows_end_within().map(|time| now + time);
        let deadlines = of_pool.into_iter().chain(self.measure_at);
        let deadline = deadlines.chain(beats_at).chain(flows_at).min();
        if let Some(index) = begins {
            return MasterEvent::Signal(self.deferred.remove(index));
        }
        if !is_handing_over && !self.deferred_children.is_empty() {
            return MasterEvent::Command(MasterCommand::Spawn(self.deferred_children.remove(0)));
        }
        let event = self.event_until(deadline).await;
        self.journal.look(self.rt.now());
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
            MasterEvent::Command(command) => self.command(command),
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
                if self.config.signals.of(signal) != SignalAction::Ignore {
                    tracing::info!(signal = signal.as_str(), "a signal arrived");
                }
                self.signalled(signal)
            }
        }
    }

    /// Returns whether a signal waits until the upgrade has succeeded or failed.
    fn is_held_back(&self, signal: Sig) -> bool {
        let pool = self.master.pool();
        match self.config.signals.of(signal) {
            // The new version may have read its configuration already.
            SignalAction::Reload if !self.is_end_of_terminal(signal) => pool.is_upgrading(),
            // An upgrade that is already being carried out answers another request for it.
            SignalAction::Upgrade => signal == Sig::SIGHUP && pool.is_handing_over(),
            action => (!action.is_stop() || signal == Sig::SIGHUP) && pool.is_handing_over(),
        }
    }

    fn is_end_of_terminal(&self, signal: Sig) -> bool {
        signal == Sig::SIGHUP && self.terminal.as_ref().is_some_and(Terminal::is_gone)
    }

    /// Returns the request of a signal.
    fn signalled(&mut self, signal: Sig) -> Event {
        let action = self.config.signals.of(signal);
        if self.is_held_back(signal) {
            self.deferred.push(signal);
            return Event::Tick;
        }
        if self.is_end_of_terminal(signal) {
            // The kernel reports it several times.
            let is_news = self.stop_asked_at.is_none();
            return match is_news {
                true => self.asked_to_stop(Sig::SIGTERM, false, StopCause::Terminal),
                false => Event::Tick,
            };
        }
        match action {
            SignalAction::Reload => {
                self.upgrader.controls.iter().for_each(ControlHandle::look);
                self.requests.hangup()
            }
            SignalAction::ReopenLogs => {
                if let Err(error) = self.reopen_logs() {
                    log_error!(reason = error.report(), "the log goes on where it was");
                }
                Event::Tick
            }
            SignalAction::Upgrade => self.requests.enter_signal(Operation::Upgrade),
            SignalAction::AddWorker => self.resize(|size| size.saturating_add(1)),
            // A signal does not remove the last worker.
            SignalAction::RemoveWorker => {
                self.resize(|size| if size > 1 { size - 1 } else { size })
            }
            SignalAction::Stop | SignalAction::StopNow => {
                let cause = match signal {
                    Sig::SIGTERM => StopCause::Terminate,
                    Sig::SIGINT => StopCause::Interrupt,
                    Sig::SIGQUIT => StopCause::Quit,
                    _ => StopCause::Signal,
                };
                self.asked_to_stop(signal, action == SignalAction::StopNow, cause)
            }
            SignalAction::Ignore => Event::Tick,
        }
    }

    /// Stops in order, or immediately: `at_once`, or at a repeated request.
    fn asked_to_stop(&mut self, signal: Sig, at_once: bool, cause: StopCause) -> Event {
        let is_forced = at_once || insists(self.stop_asked_at, self.rt.now());
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

    fn start_child(&self, request: ChildRequest) {
        if self.is_ending {
            let error =
                Error::new(ErrorKind::Change, "the master ends: it starts no more children");
            let _ = request.answer.send(Err(error));
            return;
        }
        self.master.children().start(request, self.config.stop_deadline);
    }

    /// Opens the log files again, for this process and its workers, after they were moved.
    fn reopen_logs(&mut self) -> Result<(), Error> {
        if self.master.pool().is_handing_over() {
            return Err(command::is_upgraded());
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

    /// Gives groups the sizes that their load demands.
    fn follow_load(&mut self, now: Instant) {
        for change in self.processes.follow_load(self.clock.read(now)) {
            let _ = self.sender.unbounded_send(MasterEvent::Pool(change));
        }
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
}

/// Returns the interval at which processes are measured, and log files are looked at.
fn looks_every(processes: &Processes, config: &MasterConfig) -> Option<Duration> {
    let of_files = config.rotation.as_ref().map(|_| ROTATE_EVERY);
    processes.measured_every().into_iter().chain(of_files).min()
}

/// Returns whether another request to stop demands more than the first one, which is being obeyed.
fn insists(first: Option<Instant>, now: Instant) -> bool {
    first.is_some_and(|first| now.saturating_duration_since(first) >= SAME_REQUEST)
}
