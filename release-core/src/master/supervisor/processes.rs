//! The processes of the workers: started, connected, watched and signalled.

mod jobs;
mod keep;
mod launch;
mod watch;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_channel::mpsc::UnboundedSender;
use nix::sys::signal::Signal as Sig;

use super::MasterEvent;
use crate::master::group::{Group, WorkerSetup, configured_size};
use crate::master::handle::MasterHandle;
use crate::process::attach::Attached;
use crate::process::child::Child;
use crate::process::listeners::Watch;
use crate::process::output::Output;
use crate::rt::{Rt, Task};
use crate::supervise::{Event, Pool, Signal, State, Usage, WorkerId};
use crate::sys::exit_status::ExitStatus;
use crate::sys::process::resident_memory;
use crate::sys::spawn::RIGHT_TO_END;
use crate::{Error, ErrorKind};
pub(super) use launch::Launched;

/// How long a worker that has closed its connection may take to exit by itself.
const EXIT_TIME: Duration = Duration::from_secs(1);

/// The memory of a process is looked at every so many times that work is counted.
const MEMORY_TURNS: u32 = 5;

/// A process that the pool wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Wish {
    pub(super) id: WorkerId,
    pub(super) generation: u32,
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
    /// How often listening sockets had been replaced when it got its own.
    sockets: u64,
    _watch: Task<()>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Processes {
    rt: Rt,
    groups: Vec<Group>,
    master: MasterHandle,
    /// Setup of each worker: the same for all its processes of a generation.
    particulars: HashMap<Wish, WorkerSetup>,
    /// The executable of a generation that an earlier version of the program has started.
    image: Option<(u32, Arc<OwnedFd>)>,
    launching: HashMap<WorkerId, Task<()>>,
    running: HashMap<(WorkerId, i32), Process>,
    /// The signal that goes to all of them instead of their own.
    forwarded: Option<Sig>,
    /// How often this process has got another standard output and error.
    outputs: u64,
    sender: UnboundedSender<MasterEvent>,
    /// Sees that a listening socket is shut down.
    watch: Option<Watch>,
}

impl Processes {
    pub(super) fn new(
        groups: Vec<Group>,
        master: MasterHandle,
        sender: UnboundedSender<MasterEvent>,
    ) -> Self {
        let rt = master.rt().clone();
        let watched = rt.clone();
        jobs::begin(&groups, &rt, &sender);
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
            watch: watch(&watched, &sender),
            sender,
        }
    }

    /// A process has ended. What it sent before is still read, which its end soon ends too.
    pub(super) fn forget(&mut self, id: WorkerId, pid: i32, exit: ExitStatus) {
        let process = self.running.remove(&(id, pid));
        if let Some(group) = self.group_mut(id) {
            group.ended(id, pid);
            group.jobs.iter().for_each(|jobs| jobs.exited((id.0, pid), exit));
        }
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
            let life = self.group(id)?.life();
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

    /// How many workers the settings of this generation want in each group, if they say so.
    pub(super) fn sizes(&self, generation: u32) -> Result<Vec<Option<u32>>, String> {
        let sizes =
            self.groups.iter().map(|group| configured_size(group.sizes.as_ref(), generation));
        sizes.collect::<Result<_, _>>().map_err(|error| error.report())
    }

    /// No process of another generation is started any more.
    pub(super) fn keep_particulars(&mut self, generation: u32) {
        self.particulars.retain(|wish, _| wish.generation == generation);
        self.image = self.image.take_if(|(its, _)| *its == generation);
    }

    /// Returns the setup of a process of this worker and generation.
    fn particulars(&mut self, wish: Wish) -> Result<WorkerSetup, Error> {
        if let Some(particulars) = self.particulars.get(&wish) {
            return Ok(particulars.clone());
        }
        let group = self.group(wish.id).ok_or_else(|| no_group(wish.id))?;
        let particulars = group.worker_setup(wish.id, wish.generation)?;
        self.particulars.insert(wish, particulars.clone());
        Ok(particulars)
    }

    /// Closes the sockets of removed workers, and steers new connections.
    pub(super) fn settle_listeners(&mut self) {
        let pool = self.master.pool();
        if pool.is_stopping() {
            return;
        }
        for (index, group) in self.groups.iter_mut().enumerate() {
            group.settle_listeners(|id, pid| state_of(&pool, index, id, pid));
        }
    }

    /// Returns the stopping processes for which connections still wait, if there are any.
    pub(super) fn backlog(&mut self) -> Option<Event> {
        let pool = self.master.pool();
        let mut waiting = Vec::new();
        for (index, group) in self.groups.iter_mut().enumerate() {
            for (id, pid) in group.backlog(|id, pid| state_of(&pool, index, id, pid)) {
                let of_it = |(its, running): &&(WorkerId, i32)| {
                    *its == id && pid.is_none_or(|pid| pid == *running)
                };
                waiting.extend(self.running.keys().filter(of_it));
            }
        }
        (!waiting.is_empty()).then_some(Event::Backlog(waiting))
    }

    /// Looks at the listening sockets, some of which somebody has shut down; the workers that have one
    /// that cannot listen any more, and for which another was opened.
    pub(super) fn look_at_listeners(&mut self, shut: &[RawFd]) -> Vec<WorkerId> {
        for group in &mut self.groups {
            group.look_at_listeners(shut);
            group.sockets().for_each(|socket| self.watch.iter().for_each(|it| it.add(socket)));
        }
        let pool = self.master.pool();
        let has_former = |(key, process): (&(WorkerId, i32), &Process)| {
            let group = self.groups.get(pool.group_of(key.0)?)?;
            let is_former = process.sockets < group.listeners_replaced();
            (is_former && pool.relies_on(key.0, key.1)).then_some(key.0)
        };
        self.running.iter().filter_map(has_former).collect()
    }

    /// The group of a worker, unless it is one that this version does not have any more: the pool
    /// decides which groups there are, and starts nothing in those.
    fn group(&self, id: WorkerId) -> Option<&Group> {
        self.groups.get(self.master.pool().group_of(id)?)
    }

    fn group_mut(&mut self, id: WorkerId) -> Option<&mut Group> {
        let index = self.master.pool().group_of(id)?;
        self.groups.get_mut(index)
    }

    /// Tells processes to end by this signal from now on, and once more those that were told before.
    pub(super) fn forward(&mut self, signal: Sig) {
        self.forwarded = Some(signal);
        for ((id, _), process) in self.running.iter().filter(|(_, process)| process.is_told) {
            send(*id, &process.child, signal);
        }
    }

    /// Returns the stop signal of the worker's group, or the default one if this version has no such group.
    fn stop_signal(&self, id: WorkerId) -> Option<Sig> {
        let group = self.group(id);
        group.map_or(Some(Sig::SIGTERM), |group| group.stop_signal.signal())
    }

    /// Whether this process may end one of its workers: it may have other rights now, or the
    /// worker another user.
    pub(super) fn prove_right(&self, id: WorkerId, pid: i32) -> Result<(), String> {
        let proven = self.running.get(&(id, pid)).map_or(Ok(()), |it| it.child.prove_right());
        proven.map_err(|error| format!("{RIGHT_TO_END}: {error}"))
    }

    /// The same for all of them.
    pub(super) fn prove_rights(&self) -> Result<(), String> {
        self.running.keys().try_for_each(|(id, pid)| self.prove_right(*id, *pid))
    }

    /// # Errors
    ///
    /// When the process was to be killed, and cannot be.
    pub(super) fn signal(&mut self, id: WorkerId, pid: i32, signal: Signal) -> Result<(), String> {
        let signal = match signal {
            Signal::Terminate => self.forwarded.or_else(|| self.stop_signal(id)),
            Signal::Kill => Some(Sig::SIGKILL),
        };
        let Some(process) = self.running.get_mut(&(id, pid)) else { return Ok(()) };
        process.is_told = true;
        match signal {
            Some(Sig::SIGKILL) => {
                let killed = process.child.signal(Sig::SIGKILL);
                killed.map_err(|error| format!("{RIGHT_TO_END}: {error}"))
            }
            signal => {
                let child = Arc::clone(&process.child);
                let tell = move || signal.into_iter().for_each(|signal| send(id, &child, signal));
                match self.group(id).and_then(|group| group.jobs.clone()) {
                    // It finishes the jobs in hand before it hears of the stop.
                    Some(jobs) => jobs.when_at_rest((id.0, pid), Box::new(tell)),
                    None => tell(),
                }
                Ok(())
            }
        }
    }
}

fn no_group(id: WorkerId) -> Error {
    let message = format!("worker {id} is of a group that this version does not have");
    Error::new(ErrorKind::Worker, message)
}

fn watch(rt: &Rt, sender: &UnboundedSender<MasterEvent>) -> Option<Watch> {
    let sender = sender.clone();
    let shut = move |sockets| drop(sender.unbounded_send(MasterEvent::ShutDown(sockets)));
    let failed = |error: &io::Error| {
        log_warning!(%error, "listening sockets are only looked at when a worker starts");
    };
    Watch::new(rt, shut).inspect_err(failed).ok()
}

/// An event of a process of a group, or of one of its workers.
fn state_of(pool: &Pool, group: usize, id: WorkerId, pid: Option<i32>) -> Option<State> {
    match pid {
        Some(pid) => pool.state_of(id, pid),
        None => pool.standing(id).filter(|_| pool.group_of(id) == Some(group)),
    }
}

fn send(id: WorkerId, child: &Child, signal: Sig) {
    if let Err(error) = child.signal(signal) {
        log_error!(worker = id.0, pid = child.pid().as_raw(), %error, "cannot signal a worker");
    }
}

/// Has a worker write where this process writes; it goes on as before when that fails.
fn send_outputs(worker: WorkerId, connection: &Attached) {
    // One that has ended is that of a worker that soon has.
    let Some(link) = connection.link.upgrade() else { return };
    let (output, error) = (io::stdout(), io::stderr());
    if let Err(error) = link.send_outputs([output.as_fd(), error.as_fd()]) {
        log_error!(worker = worker.0, %error, "cannot send a worker its log file");
    }
}
