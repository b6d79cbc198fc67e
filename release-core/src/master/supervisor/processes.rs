//! The processes of the workers: started, connected, watched and signalled.

mod figures;
mod jobs;
mod keep;
pub(super) mod launch;
mod load;
mod pass_signal;
mod watch;

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_channel::mpsc::UnboundedSender;
use futures_util::FutureExt;
use nix::sys::signal::Signal as Sig;

use self::launch::{Launched, Ours, SpawnRequest, ends, is_shortage, no_group, send_outputs};
use self::watch::{EXIT_TIME, Silence, Stacks};
use super::event::MasterEvent;
use crate::Error;
use crate::ipc::link::Link;
use crate::master::group::{Group, WorkerSetup, configured_size};
use crate::master::handle::MasterHandle;
use crate::metrics::{Totals, WORDS};
use crate::process::attach::{Attached, NewConnection, Notify};
use crate::process::child::Child;
use crate::process::listeners::Watch;
use crate::process::output::{Output, Pipes};
use crate::process::readiness::ReadinessHandle;
use crate::process::unexecutable::not_started;
use crate::process::worker_info::WorkerInfo;
use crate::rt::{Rt, Task};
use crate::supervise::{Event, Pool, Signal, State, Usage, WorkerId};
use crate::sys::exit_status::ExitStatus;
use crate::sys::process::resident_memory;
use crate::sys::shared_memory::SharedMemory;
use crate::sys::spawn::{FIRST_PASSED, RIGHT_TO_END, spawn};

/// Number of measurements for each measurement of a process's memory.
const MEMORY_TURNS: u32 = 5;

/// How long a bucket of senders stays with a process that has no flow in it any more.
const FLOW_TIME: Duration = Duration::from_millis(500);

/// A worker's process. Dropping it ends the tasks that serve and watch it.
#[derive(Debug)]
struct WorkerProcess {
    child: Arc<Child>,
    generation: u32,
    /// `None` if the connection failed; the process is killed then.
    connection: Option<Attached>,
    /// The readiness protocol of a command.
    readiness: Option<ReadinessHandle>,
    output: Option<Output>,
    /// Whether it was told to end.
    is_told: bool,
    /// Number of requests that it has finished, by its own count.
    finished: Arc<AtomicU64>,
    hung: Stacks,
    /// Memory of its metrics, if its group has any.
    metrics: Option<Arc<SharedMemory>>,
    /// Number of replacements of listening sockets before it got its own.
    sockets: u64,
    _watch: Task<()>,
}

/// The processes of all workers.
#[derive(Debug)]
pub(super) struct Processes {
    rt: Rt,
    pub(super) groups: Vec<Group>,
    master: MasterHandle,
    /// Setup of each worker: the same for all its processes of a generation.
    particulars: HashMap<SpawnRequest, WorkerSetup>,
    /// Executable of a generation that an earlier version of the program started.
    image: Option<(u32, Arc<OwnedFd>)>,
    launching: HashMap<WorkerId, Task<()>>,
    running: HashMap<(WorkerId, i32), WorkerProcess>,
    /// Stop signal that replaces the stop signals of the groups.
    forwarded: Option<Sig>,
    /// Number of replacements of this process's standard output and error.
    outputs: u64,
    sender: UnboundedSender<MasterEvent>,
    /// Notices a listening socket that is shut down.
    watch: Option<Watch>,
    /// Metrics of the processes that have ended.
    ended_metrics: Totals,
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
        Self {
            rt,
            groups,
            master,
            particulars: HashMap::new(),
            image: None,
            launching: HashMap::new(),
            running: HashMap::new(),
            forwarded: None,
            outputs: 0,
            watch: watch::of_listeners(&watched, &sender),
            sender,
            ended_metrics: Totals::default(),
        }
    }

    /// Forks a worker's process. Whether it runs its program is a later event.
    pub(super) fn launch(&mut self, request: SpawnRequest) -> Result<(), Error> {
        let id = request.id;
        let its = self.particulars(request)?;
        let group = self.group(id).ok_or_else(|| no_group(id))?;
        let mut command = group.command(id, &its, self.image_of(request.generation))?;
        let (ours, mut given) = ends(group, request, its)?;
        command.environment.append(&mut given.environment);
        let pipes = group.output.as_ref().map(Pipes::new).transpose()?;
        let failed = not_started(&command);
        let index = self.master.pool().group_of(id);
        let group = index.and_then(|index| self.groups.get_mut(index));
        let group = group.ok_or_else(|| no_group(id))?;
        let metrics = group.has_metrics.then(|| SharedMemory::sparse(WORDS)).transpose();
        let failed_metrics = |error| Error::system("cannot make memory for metrics", error);
        let metrics = metrics.map_err(failed_metrics)?.map(Arc::new);
        let listeners = group.passed(id, self.watch.as_ref())?;
        let descriptors: Vec<_> = given
            .descriptors()
            .chain(pipes.iter().flat_map(Pipes::descriptors))
            .chain(
                (FIRST_PASSED..).zip(listeners.into_iter().chain(metrics.iter().map(AsFd::as_fd))),
            )
            .collect();
        let started = spawn(&command, &descriptors).map_err(failed.clone())?;
        let sockets = self.group(id).map_or(0, Group::listeners_replaced);
        let (rt, sender, outputs) = (self.rt.clone(), self.sender.clone(), self.outputs);
        let launching = self.rt.spawn(async move {
            let outcome = Child::launched(&rt, started).await.map_err(failed);
            let launched = |child| Launched { child, ours, pipes, outputs, sockets, metrics };
            let outcome = outcome.map(|child| Box::new(launched(child)));
            let _ = sender.unbounded_send(MasterEvent::Launched(request, outcome));
        });
        self.launching.insert(id, launching);
        Ok(())
    }

    /// Connects a process that runs its program. Returns the result of the launch for the pool.
    pub(super) fn adopt(
        &mut self,
        request: SpawnRequest,
        outcome: Result<Box<Launched>, Error>,
    ) -> Event {
        let SpawnRequest { id, generation } = request;
        self.launching.remove(&id);
        let Launched { child, ours, pipes, outputs, sockets, metrics } = match outcome {
            Ok(launched) => *launched,
            Err(error) => return self.not_launched(id, &error),
        };
        let (pid, child) = (child.child().pid().as_raw(), child.release());
        let (finished, hung) = (Arc::<AtomicU64>::default(), Stacks::default());
        let Some(group) = self.group(id) else { return self.not_launched(id, &no_group(id)) };
        let (name, rt) = (Arc::clone(&group.name), self.rt.clone());
        let worker = WorkerInfo { id: id.0, pid, group: name, generation, rt };
        let output = pipes.map(|pipes| pipes.watch(&self.rt, worker.clone())).transpose();
        let output = output.unwrap_or_else(|error| {
            log_error!(worker = id.0, pid, %error, "a worker's output is lost");
            None
        });
        let (news, silence) = self.listen(id, pid, &finished, &hung);
        let (connection, readiness) = match ours {
            Ours::Connection { attach, socket, hello } => {
                let (limits, services) = (group.limits, group.services.clone());
                let connection = NewConnection { socket, hello, limits, services };
                (attach.attach(worker, connection, news), None)
            }
            Ours::Readiness(awaited) => {
                let (attached, handle) = awaited.attach(&self.rt, &worker, news);
                (Ok(attached), Some(handle))
            }
        };
        // A command's messages do not end with it.
        let silence = readiness.is_none().then_some(silence);
        let connection = connection.inspect_err(|error| {
            // Its exit is the event.
            let reason = error.report();
            log_error!(worker = id.0, pid, reason, "no connection to a worker");
            let _ = child.signal(Sig::SIGKILL);
        });
        let connection = connection.ok();
        if let Some(connection) =
            connection.as_ref().filter(|_| outputs != self.outputs && output.is_none())
        {
            send_outputs(id, connection);
        }
        let watch = self.watch(id, &child, output.clone(), silence);
        let process = WorkerProcess {
            child,
            generation,
            connection,
            readiness,
            output,
            is_told: false,
            finished,
            hung,
            metrics,
            sockets,
            _watch: watch,
        };
        self.running.insert((id, pid), process);
        self.launched(id, Some(pid));
        Event::Spawned { id, pid }
    }

    pub(super) fn not_launched(&mut self, id: WorkerId, error: &Error) -> Event {
        self.launched(id, None);
        Event::SpawnFailed { id, reason: error.report(), is_short: is_shortage(error) }
    }

    fn launched(&mut self, id: WorkerId, pid: Option<i32>) {
        if let (Some(group), Some(pid)) = (self.group(id), pid) {
            let restrictions = group.sandbox.as_ref().and_then(|sandbox| sandbox.describe(pid));
            self.master.set_restrictions(pid, restrictions);
        }
        if let Some(group) = self.group_mut(id) {
            group.launched(id, pid);
        }
    }

    /// Returns the listener of a connection, which sends events of exactly this process, and a
    /// receiver that ends with the listener.
    fn listen(
        &self,
        id: WorkerId,
        pid: i32,
        finished: &Arc<AtomicU64>,
        hung: &Stacks,
    ) -> (Notify, Silence) {
        let sender = self.sender.clone();
        let send = move |event| drop(sender.unbounded_send(MasterEvent::Pool(event)));
        let (finished, hung) = (Arc::clone(finished), Arc::clone(hung));
        watch::listener(self.master.clone(), (id, pid), finished, hung, send)
    }

    /// Sends the exit of a process, after all its other events.
    fn watch(
        &self,
        id: WorkerId,
        child: &Arc<Child>,
        output: Option<Output>,
        silence: Option<Silence>,
    ) -> Task<()> {
        let sender = self.sender.clone();
        let exited = watch::exited(self.rt.clone(), id, Arc::clone(child), output, silence);
        self.rt.spawn(exited.map(move |exited| {
            let _ = sender.unbounded_send(MasterEvent::Pool(exited));
        }))
    }

    /// Removes a process that has ended or cannot be ended. The messages that it sent before are
    /// still read.
    pub(super) fn forget(
        &mut self,
        id: WorkerId,
        pid: i32,
        exit: ExitStatus,
    ) -> Option<Arc<Child>> {
        let process = self.running.remove(&(id, pid));
        self.master.set_restrictions(pid, None);
        if let Some(memory) = process.as_ref().and_then(|process| process.metrics.as_ref()) {
            self.add_ended_metrics(id, memory.words());
        }
        if let Some(group) = self.group_mut(id) {
            group.ended(id, pid);
            group.jobs.iter().for_each(|jobs| jobs.exited((id.0, pid), exit));
        }
        let WorkerProcess { child, connection, .. } = process?;
        if let Some(Attached { serving, .. }) = connection {
            let rt = self.rt.clone();
            self.rt.spawn(async move { rt.timeout(EXIT_TIME, serving).await }).detach();
        }
        Some(child)
    }

    /// Sends this process's new standard output and error to the workers. Workers in plain mode get
    /// them at their next start.
    pub(super) fn outputs_replaced(&mut self) {
        self.outputs += 1;
        for ((id, _), process) in &self.running {
            if let (Some(connection), None) = (&process.connection, &process.output) {
                send_outputs(*id, connection);
            }
        }
    }

    /// Returns the interval of the measurements, if a group needs them.
    pub(super) fn measured_every(&self) -> Option<Duration> {
        self.groups.iter().filter_map(Group::measured_every).min()
    }

    /// Measures the processes that have such limits. Memory takes system calls for each process, so
    /// a part of the workers is measured at a time.
    pub(super) fn measure(&self, turn: u32) -> Event {
        let measured = self.running.iter().filter_map(|(&(id, pid), process)| {
            // A process of a group that this version does not have is stopped anyway.
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

    /// Returns the name of the first group.
    pub(super) fn first_group(&self) -> Option<String> {
        Some(self.groups.first()?.name.to_string())
    }

    /// Returns the size of each group in the settings of this generation, if they set one.
    pub(super) fn sizes(&self, generation: u32) -> Result<Vec<Option<u32>>, String> {
        let sizes =
            self.groups.iter().map(|group| configured_size(group.sizes.as_ref(), generation));
        sizes.collect::<Result<_, _>>().map_err(|error| error.report())
    }

    /// Forgets the setups of other generations, of which no process is started any more.
    pub(super) fn keep_particulars(&mut self, generation: u32) {
        self.particulars.retain(|request, _| request.generation == generation);
        self.image = self.image.take_if(|(its, _)| *its == generation);
    }

    /// Returns the setup of a process of this worker and generation.
    fn particulars(&mut self, request: SpawnRequest) -> Result<WorkerSetup, Error> {
        if let Some(particulars) = self.particulars.get(&request) {
            return Ok(particulars.clone());
        }
        let group = self.group(request.id).ok_or_else(|| no_group(request.id))?;
        let particulars = group.worker_setup(request.id, request.generation)?;
        self.particulars.insert(request, particulars.clone());
        Ok(particulars)
    }

    /// Closes the sockets of removed workers, and steers new connections.
    pub(super) fn settle_listeners(&mut self) {
        let pool = self.master.pool();
        if pool.is_stopping() {
            self.groups.iter_mut().for_each(Group::stop_listening);
            return;
        }
        for (index, group) in self.groups.iter_mut().enumerate() {
            group.settle_listeners(|id, pid| state_of(&pool, index, id, pid));
        }
    }

    /// Returns when flows must be looked at again, which processes hold that others would otherwise have.
    pub(super) fn flows_end_within(&mut self) -> Option<Duration> {
        self.groups.iter_mut().any(Group::holds_flows).then_some(FLOW_TIME)
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

    /// Repairs the listening sockets, some of which were shut down. Returns the workers with a
    /// socket that cannot listen any more and was replaced by another one.
    pub(super) fn look_at_listeners(&mut self, shut: &[RawFd]) -> Vec<WorkerId> {
        self.groups.iter_mut().for_each(|group| group.look_at_listeners(shut));
        self.watch_listeners();
        let pool = self.master.pool();
        let has_former = |(key, process): (&(WorkerId, i32), &WorkerProcess)| {
            let group = self.groups.get(pool.group_of(key.0)?)?;
            let is_former = process.sockets < group.listeners_replaced();
            (is_former && pool.relies_on(key.0, key.1)).then_some(key.0)
        };
        self.running.iter().filter_map(has_former).collect()
    }

    /// Returns the group of a worker, unless this version does not have it any more.
    pub(super) fn group(&self, id: WorkerId) -> Option<&Group> {
        self.groups.get(self.master.pool().group_of(id)?)
    }

    fn group_mut(&mut self, id: WorkerId) -> Option<&mut Group> {
        let index = self.master.pool().group_of(id)?;
        self.groups.get_mut(index)
    }

    /// Stops processes with this signal from now on, and sends it to all that are stopping.
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

    /// Checks that this process may end a worker: it may have lost rights, or the worker may have
    /// another user.
    pub(super) fn prove_right(&self, id: WorkerId, pid: i32) -> Result<(), String> {
        let proven = self.running.get(&(id, pid)).map_or(Ok(()), |it| it.child.prove_right());
        proven.map_err(|error| format!("{RIGHT_TO_END}: {error}"))
    }

    /// Checks that this process may end all of its workers.
    pub(super) fn prove_rights(&self) -> Result<(), String> {
        self.running.keys().try_for_each(|(id, pid)| self.prove_right(*id, *pid))
    }

    /// # Errors
    ///
    /// Returns an error if the process should be killed and cannot be.
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
                self.tell_stop(id, pid, Box::new(tell));
                Ok(())
            }
        }
    }

    pub(super) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Returns the connections that have not ended.
    pub(super) fn links(&self) -> Vec<Arc<Link>> {
        let attached = self.running.values().filter_map(|process| process.connection.as_ref());
        attached.filter_map(|attached| attached.link.upgrade()).collect()
    }

    /// Watches for a shutdown of the listening sockets that workers have.
    fn watch_listeners(&self) {
        let sockets = self.groups.iter().flat_map(Group::watched);
        sockets.for_each(|socket| self.watch.iter().for_each(|it| it.add(socket)));
    }

    /// Returns the worker of a connection, for an error message.
    pub(super) fn worker_of(&self, link: &Arc<Link>) -> Option<WorkerId> {
        let mut running = self.running.iter();
        let has_it = |process: &WorkerProcess| {
            let attached = process.connection.as_ref();
            attached.is_some_and(|attached| std::ptr::eq(attached.link.as_ptr(), &raw const **link))
        };
        running.find_map(|((id, _), process)| has_it(process).then_some(*id))
    }
}

/// Returns the state of a process of a group, or of one of its workers.
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
