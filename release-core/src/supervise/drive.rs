//! Carries out what the pool decides: starts processes, signals them, waits for them.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use nix::sys::signal::Signal as Sig;

use super::changes::{Askers, Hooks};
use super::journal::log;
use super::{Action, Change, Event, Exit, Outcome, Pool, Report, Signal, WorkerId};
use crate::child::Child;
use crate::daemon::{Command, Group, Hello, MasterHandle, News, PROTOCOL, WorkerInfo};
use crate::rt::{Rt, Task};
use crate::signals::Signals;
use crate::sys::socket::pair;
use crate::sys::spawn::spawn;
use crate::{Error, ErrorKind};

/// How long a worker that has closed its connection may take to exit by itself.
const EXIT_TIME: Duration = Duration::from_secs(1);

/// A task of the master's own, once it is started.
type Start<F> = Box<dyn FnOnce(Rt, MasterHandle) -> F>;

/// What wakes the supervisor.
#[derive(Debug)]
enum Happening {
    Pool(Event),
    Command(Command),
    Launched(Wish, Result<Launched, Error>),
    Signal(Sig),
    Failed(Error),
}

/// A process that the pool wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Wish {
    id: WorkerId,
    generation: u32,
}

/// The pool, and the processes that it has.
#[derive(Debug)]
pub(crate) struct Supervisor {
    rt: Rt,
    groups: Vec<Group>,
    master: MasterHandle,
    hooks: Hooks,
    askers: Askers,
    /// Reads a new configuration.
    preparing: Option<Task<()>>,
    /// What each worker is told at its start: the same for all its processes of a generation.
    contexts: HashMap<Wish, Vec<u8>>,
    launching: HashMap<WorkerId, Task<()>>,
    processes: HashMap<(WorkerId, i32), Process>,
    sender: UnboundedSender<Happening>,
    happenings: UnboundedReceiver<Happening>,
}

/// A process that runs its program and is not connected yet.
#[derive(Debug)]
struct Launched {
    child: Child,
    socket: OwnedFd,
    hello: Hello,
}

/// A worker's process. Dropping it ends the tasks that serve and watch it.
#[derive(Debug)]
struct Process {
    child: Arc<Child>,
    connection: Task<()>,
    _watch: Task<()>,
}

impl Supervisor {
    pub(crate) fn new(rt: &Rt, groups: Vec<Group>, hooks: Hooks, stop_deadline: Duration) -> Self {
        let (sender, happenings) = unbounded();
        let specs = groups.iter().map(Group::spec).collect();
        let pool = Pool::new(specs, stop_deadline, seed());
        let commands = sender.clone();
        let master = MasterHandle::new(rt, pool, move |command| {
            let _ = commands.unbounded_send(Happening::Command(command));
        });
        Self {
            rt: rt.clone(),
            groups,
            master,
            hooks,
            askers: Askers::default(),
            preparing: None,
            contexts: HashMap::new(),
            launching: HashMap::new(),
            processes: HashMap::new(),
            sender,
            happenings,
        }
    }

    /// Runs until no worker is left; says how it ended, and after which signal.
    ///
    /// Must be the main future: a worker dies with the thread that has started it, and the main
    /// thread is the one that lives as long as the master.
    pub(crate) async fn run<F>(
        mut self,
        signals: Signals,
        starts: Vec<Start<F>>,
        all_ready: impl FnOnce() -> Option<()>,
    ) -> Result<(Outcome, Option<Sig>), Error>
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let _signals = self.listen_to(signals);
        let _orphans = super::orphans::reap(&self.rt)?;
        let _tasks: Vec<_> = starts.into_iter().map(|start| self.start(start)).collect();
        let mut all_ready = Some(all_ready);
        let mut asked = None;
        let mut event = Event::Start;
        loop {
            if let Some(outcome) = self.decide(event, &mut all_ready) {
                return Ok((outcome, asked));
            }
            event = match self.next().await {
                Happening::Pool(event) => event,
                Happening::Command(Command::Stop) => Event::Stop,
                Happening::Command(Command::Change(change, asker)) => {
                    self.askers.enter(change, asker)
                }
                Happening::Launched(wish, outcome) => self.adopt(wish, outcome),
                Happening::Failed(error) => Event::Fail { reason: error.report() },
                Happening::Signal(signal) => {
                    tracing::info!(signal = signal.as_str(), "a signal arrived");
                    self.signalled(signal, &mut asked)
                }
            };
        }
    }

    /// What a signal asks for; `stopped` is the one that asked for the stop.
    fn signalled(&mut self, signal: Sig, stopped: &mut Option<Sig>) -> Event {
        match signal {
            Sig::SIGHUP => self.askers.hangup(),
            Sig::SIGTTIN => self.grow(|size| size.saturating_add(1)),
            Sig::SIGTTOU => self.grow(|size| size.saturating_sub(1).max(1)),
            _ => {
                let again = stopped.replace(signal).is_some();
                if again || signal == Sig::SIGQUIT { Event::StopNow } else { Event::Stop }
            }
        }
    }

    /// Changes the size of the first group.
    fn grow(&mut self, change: impl FnOnce(u32) -> u32) -> Event {
        let Some(group) = self.groups.first() else { return Event::Tick };
        let size = change(self.master.pool().size(0).unwrap_or_default());
        self.askers.enter_signal(Change::Resize { group: group.name.to_string(), size })
    }

    /// Lets the program read its configuration before a new generation is started.
    fn prepare(&mut self) {
        self.askers.reload_begins();
        let (prepared, sender) = (self.hooks.prepare(), self.sender.clone());
        self.preparing = Some(self.rt.spawn(async move {
            let _ = sender.unbounded_send(Happening::Pool(prepared.await));
        }));
    }

    fn report(&mut self, report: &Report) {
        log(report);
        match report {
            Report::RolledBack { .. } => self.hooks.rolled_back(),
            Report::Reloaded { .. } => {}
            _ => return,
        }
        // Of other generations no process is started any more.
        let generation = self.master.generation();
        self.contexts.retain(|wish, _| wish.generation == generation);
    }

    /// Asks the pool, and does what it wants; says how everything ended when it has.
    fn decide(
        &mut self,
        event: Event,
        all_ready: &mut Option<impl FnOnce() -> Option<()>>,
    ) -> Option<Outcome> {
        if let Event::Exited { id, pid, .. } = event {
            self.forget(id, pid);
        }
        let mut actions = Vec::new();
        let mut next = 0;
        self.master.pool().on(event, self.rt.now(), &mut actions);
        while let Some(action) = actions.get(next).cloned() {
            next += 1;
            match action {
                Action::Spawn { id, generation } => {
                    if let Err(error) = self.launch(Wish { id, generation }) {
                        let failed = Event::SpawnFailed { id, reason: error.report() };
                        self.master.pool().on(failed, self.rt.now(), &mut actions);
                    }
                }
                Action::Signal { id, pid, signal } => self.signal(id, pid, signal),
                Action::Prepare => self.prepare(),
                Action::Answer { ticket, outcome } => self.askers.answer(ticket, outcome),
                Action::Report(report) => self.report(&report),
                Action::AllReady => {
                    tracing::info!("all workers are ready");
                    all_ready.take().map(|all_ready| all_ready());
                }
                Action::Done(outcome) => return Some(outcome),
            }
        }
        None
    }

    async fn next(&mut self) -> Happening {
        let deadline = self.master.pool().deadline();
        let happening = self.happenings.next();
        let happening = match deadline {
            None => happening.await,
            Some(deadline) => {
                let timer = std::pin::pin!(self.rt.sleep_until(deadline));
                match select(happening, timer).await {
                    Either::Left((happening, _)) => happening,
                    Either::Right(_) => None,
                }
            }
        };
        // This side holds a sender, so the channel does not end: nothing means time has passed.
        happening.unwrap_or(Happening::Pool(Event::Tick))
    }

    fn listen_to(&self, signals: Signals) -> Task<()> {
        let sender = self.sender.clone();
        self.rt.spawn(async move {
            loop {
                let next = signals.next().await;
                let failed = next.is_err();
                let happening = next.map_or_else(
                    |error| Happening::Failed(Error::system("cannot catch signals", error)),
                    Happening::Signal,
                );
                if sender.unbounded_send(happening).is_err() || failed {
                    return;
                }
            }
        })
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

    /// Forks a worker's process; whether it runs its program is news that comes later.
    fn launch(&mut self, wish: Wish) -> Result<(), Error> {
        let id = wish.id;
        let context = self.context(wish)?;
        let group = self.group(id);
        let refused = |what: &'static str| move |error| Error::system(what, error);
        let hello = hello(group, id, context);
        let command = group.command(id)?;
        let (socket, theirs) = pair().map_err(refused("cannot make a socket pair"))?;
        let program = command.program.to_string_lossy().into_owned();
        let failed = move |error| {
            Error::new(ErrorKind::Worker, format!("cannot start {program}")).caused_by(error)
        };
        let started = spawn(&command, std::os::fd::AsFd::as_fd(&theirs), &group.passed());
        drop(theirs);
        let started = started.map_err(&failed)?;
        let (rt, sender) = (self.rt.clone(), self.sender.clone());
        let launching = self.rt.spawn(async move {
            let outcome = Child::launched(&rt, started).await.map_err(failed);
            let outcome = outcome.map(|child| Launched { child, socket, hello });
            let _ = sender.unbounded_send(Happening::Launched(wish, outcome));
        });
        self.launching.insert(id, launching);
        Ok(())
    }

    /// Connects a process that runs its program; says to the pool what became of the launch.
    fn adopt(&mut self, wish: Wish, outcome: Result<Launched, Error>) -> Event {
        let Wish { id, generation } = wish;
        self.launching.remove(&id);
        let Launched { child, socket, hello } = match outcome {
            Ok(launched) => launched,
            Err(error) => return Event::SpawnFailed { id, reason: error.report() },
        };
        let (pid, child) = (child.pid().as_raw(), Arc::new(child));
        let group = self.group(id);
        let worker = WorkerInfo { id: id.0, pid, group: Arc::clone(&group.name), generation };
        let connection = group.attach.attach(
            &self.rt,
            socket,
            worker,
            hello,
            group.limits,
            self.listen(id, pid),
        );
        let connection = connection.unwrap_or_else(|error| {
            // It ends, and its exit is the news.
            let reason = error.report();
            tracing::error!(worker = id.0, pid, reason, "no connection to a worker");
            let _ = child.signal(Sig::SIGKILL);
            self.rt.spawn(async {})
        });
        let watch = self.watch(id, Arc::clone(&child));
        self.processes.insert((id, pid), Process { child, connection, _watch: watch });
        Event::Spawned { id, pid }
    }

    /// A process has ended. What it sent before is still read, which its end soon ends too.
    fn forget(&mut self, id: WorkerId, pid: i32) {
        if let Some(Process { connection, .. }) = self.processes.remove(&(id, pid)) {
            let rt = self.rt.clone();
            self.rt.spawn(async move { rt.timeout(EXIT_TIME, connection).await }).detach();
        }
    }

    /// What a process of this worker and generation is told at its start.
    fn context(&mut self, wish: Wish) -> Result<Vec<u8>, Error> {
        if let Some(context) = self.contexts.get(&wish) {
            return Ok(context.clone());
        }
        let context = self.group(wish.id).context(wish.id)?;
        self.contexts.insert(wish, context.clone());
        Ok(context)
    }

    fn group(&self, id: WorkerId) -> &Group {
        &self.groups[self.master.pool().group_of(id).unwrap_or_default()]
    }

    /// Turns what a worker's connection says into events of that very process.
    fn listen(&self, id: WorkerId, pid: i32) -> Box<dyn Fn(News) + Send + Sync> {
        let (sender, rt) = (self.sender.clone(), self.rt.clone());
        let send = move |sender: &UnboundedSender<Happening>, event| {
            let _ = sender.unbounded_send(Happening::Pool(event));
        };
        let master = self.master.clone();
        Box::new(move |news| match news {
            News::Ready => send(&sender, Event::Ready { id, pid }),
            News::Violation(reason) => {
                let reason = one_line(&reason);
                send(&sender, Event::Violation { id, pid, reason });
            }
            News::Closed => {
                let (sender, later, master) = (sender.clone(), rt.clone(), master.clone());
                rt.spawn(async move {
                    later.sleep(EXIT_TIME).await;
                    // One that was asked to stop has its deadline for what is left to do.
                    if master.pool().relies_on(id, pid) {
                        let reason = "it closed its connection and lived on".to_owned();
                        send(&sender, Event::Violation { id, pid, reason });
                    }
                })
                .detach();
            }
        })
    }

    fn watch(&self, id: WorkerId, child: Arc<Child>) -> Task<()> {
        let (sender, pid) = (self.sender.clone(), child.pid().as_raw());
        self.rt.spawn(async move {
            let exit = match child.exit().await {
                Ok(exit) => exit,
                // Somebody else has reaped it: it has ended, and nobody knows how.
                Err(error) => {
                    tracing::warn!(pid, %error, "the exit status of a worker was lost");
                    Exit::Code(-1)
                }
            };
            let _ = sender.unbounded_send(Happening::Pool(Event::Exited { id, pid, exit }));
        })
    }

    fn signal(&self, id: WorkerId, pid: i32, signal: Signal) {
        let signal = match signal {
            Signal::Terminate => Sig::SIGTERM,
            Signal::Kill => Sig::SIGKILL,
        };
        let Some(process) = self.processes.get(&(id, pid)) else {
            return;
        };
        if let Err(error) = process.child.signal(signal) {
            tracing::error!(worker = id.0, pid, %error, "cannot signal a worker");
        }
    }
}

fn hello(group: &Group, id: WorkerId, context: Vec<u8>) -> Hello {
    Hello {
        protocol: PROTOCOL,
        worker: id.0,
        group: group.name.to_string(),
        listeners: group.listener_names(),
        // The connection fills the names in; a program of another build may call its types otherwise.
        types: group.is_same_executable().then(|| group.types()),
        context,
    }
}

/// Words that a worker may have chosen, fit for a log: one line of them, and no more than that.
fn one_line(words: &str) -> String {
    let escaped = |letter: char| match letter.is_control() {
        true => letter.escape_debug().to_string(),
        false => letter.to_string(),
    };
    words.chars().take(200).map(escaped).collect()
}

/// Workers of masters that start at the same moment are not to come back at the same moment.
fn seed() -> u64 {
    use std::hash::BuildHasher;
    std::hash::RandomState::new().hash_one(std::process::id())
}
