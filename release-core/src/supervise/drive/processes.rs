//! The processes of the workers: started, connected, watched and signalled.

mod keep;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_channel::mpsc::UnboundedSender;
use futures_channel::oneshot;
use nix::sys::signal::Signal as Sig;

use super::Happening;
use crate::child::Child;
use crate::daemon::{
    Agreed, Attach, Attached, Awaited, Contact, Given, Group, Hello, MasterHandle, News, Output,
    PROTOCOL, Particulars, Pipes, Types, WorkerInfo,
};
use crate::rt::{Rt, Task};
use crate::supervise::{Event, Exit, Signal, Usage, WorkerId};
use crate::sys::process::resident_memory;
use crate::sys::socket::pair;
use crate::sys::spawn::{FIRST_PASSED, spawn};
use crate::{Error, ErrorKind};

/// How long a worker that has closed its connection may take to exit by itself.
const EXIT_TIME: Duration = Duration::from_secs(1);

/// How long the connection of a process that has ended may take to be read to its end: something
/// else may still hold the other end.
const LAST_WORDS_TIME: Duration = Duration::from_millis(100);

/// The memory of a process is looked at every so many times that work is counted.
const MEMORY_TURNS: u32 = 5;

/// Done when a connection's listener is dropped.
type Silence = oneshot::Receiver<()>;

/// A process that the pool wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Wish {
    pub(super) id: WorkerId,
    pub(super) generation: u32,
}

/// A process that runs its program and is not connected yet.
#[derive(Debug)]
pub(super) struct Launched {
    child: Child,
    ours: Ours,
    pipes: Option<Pipes>,
    /// How often the outputs had been replaced when it got its own.
    outputs: u64,
}

/// What the master keeps of a process that is being started.
#[derive(Debug)]
enum Ours {
    Connection { attach: Arc<dyn Attach>, socket: OwnedFd, hello: Hello },
    Foreign(Awaited),
}

/// A worker's process. Dropping it ends the tasks that serve and watch it.
#[derive(Debug)]
struct Process {
    child: Arc<Child>,
    generation: u32,
    /// None when it could not be connected: it is killed then.
    connection: Option<Attached>,
    output: Option<Output>,
    /// Whether it was told to end.
    is_told: bool,
    /// How many units of work it has finished, as it says.
    finished: Arc<AtomicU64>,
    _watch: Task<()>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Processes {
    rt: Rt,
    groups: Vec<Group>,
    master: MasterHandle,
    /// What each worker has for itself: the same for all its processes of a generation.
    particulars: HashMap<Wish, Particulars>,
    /// The executable of a generation that an earlier version of the program has started.
    image: Option<(u32, Arc<OwnedFd>)>,
    launching: HashMap<WorkerId, Task<()>>,
    running: HashMap<(WorkerId, i32), Process>,
    /// The signal that goes to all of them instead of their own.
    forwarded: Option<Sig>,
    /// How often this process has got another standard output and error.
    outputs: u64,
    sender: UnboundedSender<Happening>,
}

impl Processes {
    pub(super) fn new(
        groups: Vec<Group>,
        master: MasterHandle,
        sender: UnboundedSender<Happening>,
    ) -> Self {
        let rt = master.rt().clone();
        let (particulars, launching, running) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self {
            rt,
            groups,
            master,
            particulars,
            image: None,
            launching,
            running,
            forwarded: None,
            outputs: 0,
            sender,
        }
    }

    /// Forks a worker's process; whether it runs its program is news that comes later.
    pub(super) fn launch(&mut self, wish: Wish) -> Result<(), Error> {
        let id = wish.id;
        let its = self.particulars(wish)?;
        let group = self.group(id);
        let mut command = group.command(id, &its, self.image_of(wish.generation))?;
        let (ours, mut given) = ends(group, wish, its)?;
        command.environment.append(&mut given.environment);
        let pipes = group.output.as_ref().map(Pipes::new).transpose()?;
        let program = command.program.to_string_lossy().into_owned();
        let failed = move |error| {
            Error::new(ErrorKind::Worker, format!("cannot start {program}")).caused_by(error)
        };
        let index = self.group_index(id);
        let listeners = self.groups[index].passed(id)?;
        let descriptors: Vec<_> = given
            .descriptors()
            .chain(pipes.iter().flat_map(Pipes::descriptors))
            .chain((FIRST_PASSED..).zip(listeners))
            .collect();
        let started = spawn(&command, &descriptors).map_err(&failed)?;
        let (rt, sender, outputs) = (self.rt.clone(), self.sender.clone(), self.outputs);
        let launching = self.rt.spawn(async move {
            let outcome = Child::launched(&rt, started).await.map_err(failed);
            let outcome = outcome.map(|child| Box::new(Launched { child, ours, pipes, outputs }));
            let _ = sender.unbounded_send(Happening::Launched(wish, outcome));
        });
        self.launching.insert(id, launching);
        Ok(())
    }

    /// Connects a process that runs its program; says to the pool what became of the launch.
    pub(super) fn adopt(&mut self, wish: Wish, outcome: Result<Box<Launched>, Error>) -> Event {
        let Wish { id, generation } = wish;
        self.launching.remove(&id);
        let Launched { child, ours, pipes, outputs } = match outcome {
            Ok(launched) => *launched,
            Err(error) => return Event::SpawnFailed { id, reason: error.report() },
        };
        let (pid, child) = (child.pid().as_raw(), Arc::new(child));
        let finished = Arc::<AtomicU64>::default();
        let group = self.group(id);
        let worker = WorkerInfo { id: id.0, pid, group: Arc::clone(&group.name), generation };
        let output = pipes.map(|pipes| pipes.watch(&self.rt, worker.clone())).transpose();
        let output = output.unwrap_or_else(|error| {
            tracing::error!(worker = id.0, pid, %error, "a worker's output is lost");
            None
        });
        let (news, silence) = self.listen(id, pid, Arc::clone(&finished));
        let (connection, silence) = match ours {
            Ours::Connection { attach, socket, hello } => {
                let limits = group.limits;
                (attach.attach(&self.rt, socket, worker, hello, limits, news), Some(silence))
            }
            Ours::Foreign(awaited) => (Ok(awaited.attach(&self.rt, &worker, news)), None),
        };
        let connection = connection.inspect_err(|error| {
            // It ends, and its exit is the news.
            let reason = error.report();
            tracing::error!(worker = id.0, pid, reason, "no connection to a worker");
            let _ = child.signal(Sig::SIGKILL);
        });
        let connection = connection.ok();
        if let Some(connection) =
            connection.as_ref().filter(|_| outputs != self.outputs && output.is_none())
        {
            send_outputs(id, connection);
        }
        let watch = self.watch(id, Arc::clone(&child), output.clone(), silence);
        let is_told = false;
        let process =
            Process { child, generation, connection, output, is_told, finished, _watch: watch };
        self.running.insert((id, pid), process);
        Event::Spawned { id, pid }
    }

    /// A process has ended. What it sent before is still read, which its end soon ends too.
    pub(super) fn forget(&mut self, id: WorkerId, pid: i32) {
        let process = self.running.remove(&(id, pid));
        if let Some(Attached { serving, .. }) = process.and_then(|process| process.connection) {
            let rt = self.rt.clone();
            self.rt.spawn(async move { rt.timeout(EXIT_TIME, serving).await }).detach();
        }
    }

    /// This process has got another standard output and error: the workers get the same. Those in
    /// plain mode do when they are started again.
    pub(super) fn outputs_replaced(&mut self) {
        self.outputs += 1;
        for ((id, _), process) in &self.running {
            if let (Some(connection), None) = (&process.connection, &process.output) {
                send_outputs(*id, connection);
            }
        }
    }

    /// Whether any group has limits that are measured.
    pub(super) fn are_measured(&self) -> bool {
        self.groups.iter().any(Group::is_measured)
    }

    /// What the processes have used that have such limits. Memory takes system calls for each of
    /// them: a part of the workers has its turn.
    pub(super) fn measure(&self, turn: u32) -> Event {
        let measured = self.running.iter().filter_map(|(&(id, pid), process)| {
            // One of a group that this version does not have is told to stop.
            let life = self.groups.get(self.group_index(id))?.life();
            let requests = || process.finished.load(Ordering::Relaxed);
            let requests = life.counts_requests().then(requests);
            let has_its_turn = id.0.wrapping_add(turn).is_multiple_of(MEMORY_TURNS);
            let memory = (life.weighs_memory() && has_its_turn).then(|| resident_memory(pid));
            let memory = memory.flatten();
            let usage = Usage { id, pid, requests, memory };
            (requests.is_some() || memory.is_some()).then_some(usage)
        });
        Event::Measured(measured.collect())
    }

    /// The name of the first group.
    pub(super) fn first_group(&self) -> Option<String> {
        Some(self.groups.first()?.name.to_string())
    }

    /// No process of another generation is started any more.
    pub(super) fn keep_particulars(&mut self, generation: u32) {
        self.particulars.retain(|wish, _| wish.generation == generation);
        self.image = self.image.take_if(|(its, _)| *its == generation);
    }

    /// What a process of this worker and generation has for itself.
    fn particulars(&mut self, wish: Wish) -> Result<Particulars, Error> {
        if let Some(particulars) = self.particulars.get(&wish) {
            return Ok(particulars.clone());
        }
        let particulars = self.group(wish.id).particulars(wish.id)?;
        self.particulars.insert(wish, particulars.clone());
        Ok(particulars)
    }

    /// Closes what only workers had that are not wanted any more.
    pub(super) fn close_unwanted(&mut self) {
        let pool = self.master.pool();
        for (index, group) in self.groups.iter_mut().enumerate() {
            group.keep_listeners(|id| pool.group_of(id) == Some(index) && pool.is_wanted(id));
        }
    }

    fn group(&self, id: WorkerId) -> &Group {
        &self.groups[self.group_index(id)]
    }

    fn group_index(&self, id: WorkerId) -> usize {
        self.master.pool().group_of(id).unwrap_or_default()
    }

    /// Turns what a worker's connection says into events of that very process; and what is done when
    /// it will say nothing more.
    fn listen(
        &self,
        id: WorkerId,
        pid: i32,
        finished: Arc<AtomicU64>,
    ) -> (Box<dyn Fn(News) + Send + Sync>, Silence) {
        let (heard, silence) = oneshot::channel();
        let (sender, rt) = (self.sender.clone(), self.rt.clone());
        let send = move |sender: &UnboundedSender<Happening>, event| {
            let _ = sender.unbounded_send(Happening::Pool(event));
        };
        let master = self.master.clone();
        let listener = move |news| match news {
            News::Ready => send(&sender, Event::Ready { id, pid }),
            News::Finished(count) => finished.store(count, Ordering::Relaxed),
            News::Hung(how) => send(&sender, Event::Hung { id, pid, how }),
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
        };
        let listener = move |news| {
            let _until_dropped: &oneshot::Sender<()> = &heard;
            listener(news);
        };
        (Box::new(listener), silence)
    }

    /// Notices the end of a process, after everything that it has said.
    fn watch(
        &self,
        id: WorkerId,
        child: Arc<Child>,
        output: Option<Output>,
        silence: Option<Silence>,
    ) -> Task<()> {
        let (sender, pid, rt) = (self.sender.clone(), child.pid().as_raw(), self.rt.clone());
        self.rt.spawn(async move {
            let exit = match output {
                Some(output) => output.pass_on_until(child.exit()).await,
                None => child.exit().await,
            };
            let exit = match exit {
                Ok(exit) => exit,
                // Somebody else has reaped it: it has ended, and nobody knows how.
                Err(error) => {
                    tracing::warn!(pid, %error, "the exit status of a worker was lost");
                    Exit::Code(-1)
                }
            };
            if let Some(silence) = silence {
                let _ = rt.timeout(LAST_WORDS_TIME, silence).await;
            }
            let _ = sender.unbounded_send(Happening::Pool(Event::Exited { id, pid, exit }));
        })
    }

    /// Tells processes to end by this signal from now on, and once more those that were told before.
    pub(super) fn forward(&mut self, signal: Sig) {
        self.forwarded = Some(signal);
        for ((id, _), process) in self.running.iter().filter(|(_, process)| process.is_told) {
            send(*id, &process.child, signal);
        }
    }

    /// How its group stops a worker; one of a group that this version does not have, as most do.
    fn stop_signal(&self, id: WorkerId) -> Option<Sig> {
        let group = self.groups.get(self.group_index(id));
        group.map_or(Some(Sig::SIGTERM), |group| group.stop_signal.signal())
    }

    pub(super) fn signal(&mut self, id: WorkerId, pid: i32, signal: Signal) {
        let signal = match signal {
            Signal::Terminate => self.forwarded.or_else(|| self.stop_signal(id)),
            Signal::Kill => Some(Sig::SIGKILL),
        };
        let Some(process) = self.running.get_mut(&(id, pid)) else { return };
        process.is_told = true;
        if let Some(signal) = signal {
            send(id, &process.child, signal);
        }
    }
}

fn send(id: WorkerId, child: &Child, signal: Sig) {
    if let Err(error) = child.signal(signal) {
        tracing::error!(worker = id.0, pid = child.pid().as_raw(), %error, "cannot signal a worker");
    }
}

/// The two ends of what connects master and worker.
fn ends(group: &Group, wish: Wish, its: Particulars) -> Result<(Ours, Given), Error> {
    match &group.contact {
        Contact::Connection(attach) => {
            let made = pair().map_err(|error| Error::system("cannot make a socket pair", error));
            let (socket, theirs) = made?;
            let hello = hello(group, wish, its);
            let attach = Arc::clone(attach);
            Ok((Ours::Connection { attach, socket, hello }, Given::stdin(theirs)))
        }
        Contact::Foreign(foreign) => {
            let (given, awaited) = foreign.prepare(wish.id, &group.listener_names())?;
            Ok((Ours::Foreign(awaited), given))
        }
    }
}

/// Has a worker write where this process writes; it goes on as before when that fails.
fn send_outputs(worker: WorkerId, connection: &Attached) {
    // One that has ended is that of a worker that soon has.
    let Some(link) = connection.link.upgrade() else { return };
    let (output, error) = (io::stdout(), io::stderr());
    if let Err(error) = link.send_outputs([output.as_fd(), error.as_fd()]) {
        tracing::error!(worker = worker.0, %error, "cannot send a worker its log file");
    }
}

fn hello(group: &Group, wish: Wish, its: Particulars) -> Hello {
    Hello {
        protocol: PROTOCOL,
        worker: wish.id.0,
        generation: wish.generation,
        group: group.name.to_string(),
        agreed: Agreed::of(group.limits),
        listeners: group.listener_names(),
        // The connection fills the names in; a program of another build may call its types otherwise.
        types: group.is_same_executable().then(|| Types::of_context(its.context_type)),
        context: its.context,
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
