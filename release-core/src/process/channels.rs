//! Channels between workers, at the master: it makes the sockets, gives each to two workers, and tells
//! callers which workers they must not call any more. It sees no message.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use self::table::{ChannelAction, ChannelTable};
use super::worker_info::WorkerInfo;
use crate::ipc::SendError;
use crate::ipc::link::Link;
use crate::ipc::service::{
    ChannelChange, ChannelRequest, LONGEST_TYPE, ServiceAnswer, WorkerKey, reply,
};
use crate::log_throttle::LogThrottle;
use crate::rt::Rt;
use crate::sys::socket::pair;
use crate::sys::untrusted::Untrusted;

mod table;

/// Time for callers to hear that a worker stops, before it is told.
const HEARING_TIME: Duration = Duration::from_secs(1);

/// Time without a channel between two workers after one has broken.
const BROKEN_TIME: Duration = Duration::from_secs(1);

/// The groups that workers of each group may call.
pub(crate) type Callees = BTreeMap<Arc<str>, BTreeSet<Arc<str>>>;

/// Tells a process to stop.
type TellStop = Box<dyn FnOnce() + Send>;

/// The channels between the workers of a master.
pub(crate) struct Channels {
    callees: Callees,
    /// Time for callers to end before the workers that they call, when all stop.
    stop_time: Duration,
    state: Mutex<ChannelsState>,
}

impl std::fmt::Debug for Channels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channels").field("callees", &self.callees).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct ChannelsState {
    table: ChannelTable,
    /// Connections of the processes.
    links: HashMap<WorkerKey, (WorkerInfo, Weak<Link>)>,
    /// Processes that are told to stop as soon as their callers have heard of it.
    leaving: Vec<LeavingWorker>,
    is_paused: bool,
    /// Whether a task will mend what is broken.
    is_mending: bool,
    /// Whether a channel could not be made since a task was told to mend.
    has_failed: bool,
    not_opened: LogThrottle,
}

struct LeavingWorker {
    process: WorkerKey,
    /// Whether it is called until its callers have ended.
    is_last: bool,
    tell: TellStop,
}

/// A connected process. Dropping it says that its connection has ended.
#[derive(Debug)]
pub(crate) struct ChannelMembership {
    channels: Arc<Channels>,
    process: WorkerKey,
}

impl ChannelMembership {
    /// Handles a request of the process.
    pub(crate) fn asked(&self, rt: &Rt, number: u32, request: ChannelRequest) {
        self.channels.asked(self.process, number, request, rt);
    }

    /// The process no longer waits for the answer to this request.
    pub(crate) fn cancelled(&self, number: u32) {
        self.channels.lock().table.cancelled(self.process, number);
    }
}

impl Drop for ChannelMembership {
    fn drop(&mut self) {
        self.channels.change(|state, actions| {
            state.links.remove(&self.process);
            // It needs not be told any more.
            state.leaving.retain(|leaving| leaving.process != self.process);
            state.table.disconnect(self.process, actions);
        });
    }
}

impl Channels {
    pub(crate) fn new(callees: Callees, stop_time: Duration) -> Self {
        Self { callees, stop_time, state: Mutex::default() }
    }

    /// Adds a connected process, for as long as the result lives.
    pub(crate) fn connected(
        self: &Arc<Self>,
        worker: &WorkerInfo,
        link: &Arc<Link>,
    ) -> ChannelMembership {
        let process = (worker.id, worker.pid);
        let mut state = self.lock();
        state.links.insert(process, (worker.clone(), Arc::downgrade(link)));
        state.table.connect(process, Arc::clone(&worker.group));
        drop(state);
        ChannelMembership { channels: Arc::clone(self), process }
    }

    fn asked(self: &Arc<Self>, process: WorkerKey, number: u32, request: ChannelRequest, rt: &Rt) {
        let breaks = self.change(|state, actions| {
            let (mut is_broken, mut answer) = (false, Some(ServiceAnswer::Done));
            match request {
                ChannelRequest::Call { group, held } => match self.callee(state, process, &group) {
                    Some(group) => state.table.calls(process, group, held, actions),
                    None => answer = Some(ServiceAnswer::NoChannel),
                },
                ChannelRequest::Answer { types } if types.len() <= LONGEST_TYPE => {
                    state.table.answers(process, types, actions);
                }
                // A process that reads has received the channel before, which waits here otherwise.
                ChannelRequest::Next if state.is_paused || state.is_behind(process) => {
                    answer = Some(ServiceAnswer::Again);
                }
                // The version before knew what it calls and answers.
                ChannelRequest::Next if state.table.must_speak(process) => {
                    answer = Some(ServiceAnswer::Again);
                }
                ChannelRequest::Next if state.table.waits(process, number, actions) => {
                    answer = None;
                }
                ChannelRequest::Ended { worker } => {
                    is_broken = state.table.ended(process, worker, actions);
                }
                _ => answer = Some(ServiceAnswer::NoChannel),
            }
            if let Some(answer) = answer {
                state.answer(process, number, &answer);
            }
            is_broken
        });
        if breaks {
            self.mend(rt);
        }
    }

    /// Returns a group by its name, if workers of this process's group may call it.
    fn callee(&self, state: &ChannelsState, process: WorkerKey, group: &str) -> Option<Arc<str>> {
        let (worker, _) = state.links.get(&process)?;
        self.callees.get(&worker.group)?.get(group).cloned()
    }

    /// These processes are ready and not told to stop. When all stop, those that are called go on until
    /// their callers have ended.
    pub(crate) fn ready(self: &Arc<Self>, ready: BTreeSet<WorkerKey>, is_stopping: bool) {
        if !is_stopping {
            self.change(|state, actions| state.table.ready(ready, actions));
        }
    }

    /// Tells a process to stop when its callers have heard of it, or have ended if all stop.
    pub(crate) fn leave(
        self: &Arc<Self>,
        process: WorkerKey,
        is_last: bool,
        rt: &Rt,
        tell: TellStop,
    ) {
        let is_paused = self.change(|state, actions| {
            if !is_last {
                state.table.leaves(process, actions);
            }
            state.leaving.push(LeavingWorker { process, is_last, tell });
            state.is_paused
        });
        if is_paused {
            // Callers hear nothing now, and the next version does not know of it.
            self.tell(|leaving| leaving.process == process);
        }
        if self.lock().leaving.iter().all(|leaving| leaving.process != process) {
            return;
        }
        let (weak, clock) = (Arc::downgrade(self), rt.clone());
        let time = if is_last { self.stop_time } else { HEARING_TIME };
        rt.spawn(async move {
            clock.sleep(time).await;
            if let Some(channels) = weak.upgrade() {
                channels.tell(|leaving| leaving.process == process);
            }
        })
        .detach();
    }

    /// Lets all processes ask again after an upgrade, which begins.
    pub(crate) fn pause(&self) {
        {
            let mut state = self.lock();
            state.is_paused = true;
            for (process, number) in state.table.pause() {
                state.answer(process, number, &ServiceAnswer::Again);
            }
        }
        // The next version does not know of them.
        self.tell(|_| true);
    }

    pub(crate) fn resume(&self) {
        self.lock().is_paused = false;
    }

    /// Opens broken channels again, after a while.
    fn mend(self: &Arc<Self>, rt: &Rt) {
        if std::mem::replace(&mut self.lock().is_mending, true) {
            return;
        }
        let (weak, clock) = (Arc::downgrade(self), rt.clone());
        rt.spawn(async move {
            clock.sleep(BROKEN_TIME).await;
            if let Some(channels) = weak.upgrade() {
                channels.change(|state, actions| {
                    state.is_mending = false;
                    state.table.mended(actions);
                });
            }
        })
        .detach();
    }

    /// Changes the state, carries out what follows, and tells processes to stop.
    fn change<T>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut ChannelsState, &mut Vec<ChannelAction>) -> T,
    ) -> T {
        let (done, failed) = {
            let (mut actions, mut state) = (Vec::new(), self.lock());
            let done = change(&mut state, &mut actions);
            actions.into_iter().for_each(|action| state.carry_out(action));
            let has_failed = std::mem::take(&mut state.has_failed);
            let rt = state.links.values().next().map(|(worker, _)| worker.rt.clone());
            (done, rt.filter(|_| has_failed))
        };
        failed.iter().for_each(|rt| self.mend(rt));
        self.tell(|_| false);
        done
    }

    /// Tells processes to stop: those whose callers have heard of it, and these.
    fn tell(&self, is_late: impl Fn(&LeavingWorker) -> bool) {
        let mut told = Vec::new();
        {
            let mut state = self.lock();
            let ChannelsState { table, leaving, .. } = &mut *state;
            let all = std::mem::take(leaving);
            for one in all {
                let has_left = match one.is_last {
                    true => table.is_alone(one.process),
                    false => table.has_left(one.process),
                };
                if has_left || is_late(&one) { told.push(one.tell) } else { leaving.push(one) }
            }
        }
        told.into_iter().for_each(|tell| tell());
    }

    fn lock(&self) -> MutexGuard<'_, ChannelsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChannelsState {
    fn carry_out(&mut self, action: ChannelAction) {
        match action {
            ChannelAction::Leave { caller: (caller, number), worker } => {
                let change = ChannelChange::Leaving { worker };
                self.answer(caller, number, &ServiceAnswer::Channel(change));
            }
            ChannelAction::Open { caller, worker } => {
                let mut unanswered = vec![caller, worker];
                if let Err(error) = self.open(caller, worker, &mut unanswered) {
                    self.table.not_opened(caller.0, worker.0, &unanswered);
                    self.has_failed = true;
                    if let Some(unsaid) = self.not_opened.now(Instant::now()) {
                        log_error!(%error, unsaid, "no channel between two workers");
                    }
                }
            }
        }
    }

    /// Opens a channel. Removes the requests from `unanswered` whose processes it has answered.
    fn open(
        &self,
        caller: (WorkerKey, u32),
        worker: (WorkerKey, u32),
        unanswered: &mut Vec<(WorkerKey, u32)>,
    ) -> io::Result<()> {
        let (Some((calling, _)), Some((answering, _))) =
            (self.links.get(&caller.0), self.links.get(&worker.0))
        else {
            return Ok(());
        };
        let (here, there) = pair()?;
        let opened = ChannelChange::Opened {
            group: answering.group.to_string(),
            worker: worker.0,
            types: self.table.types(worker.0),
            // A worker can send into its end, so closing this one may take long.
            socket: Untrusted::from(here).into(),
        };
        let accepted = ChannelChange::Accepted {
            group: calling.group.to_string(),
            generation: calling.generation,
            caller: caller.0,
            socket: Untrusted::from(there).into(),
        };
        for (process, number, change) in
            [(worker.0, worker.1, accepted), (caller.0, caller.1, opened)]
        {
            self.try_answer(process, number, &ServiceAnswer::Channel(change))?;
            unanswered.retain(|request| *request != (process, number));
        }
        Ok(())
    }

    fn answer(&self, process: WorkerKey, number: u32, answer: &ServiceAnswer) {
        if let Err(error) = self.try_answer(process, number, answer) {
            tracing::debug!(%error, "a worker was not answered");
        }
    }

    /// Answers a request. The end of a connection is reported by its task.
    ///
    /// # Errors
    ///
    /// Returns an error if the process goes on and waits as before.
    fn try_answer(
        &self,
        process: WorkerKey,
        number: u32,
        answer: &ServiceAnswer,
    ) -> io::Result<()> {
        let link = self.links.get(&process).and_then(|(_, link)| link.upgrade());
        match link.map_or(Ok(()), |link| reply(&link, number, answer)) {
            Err(error @ (SendError::TooLong(_) | SendError::Codec(_))) => {
                Err(io::Error::other(error))
            }
            Ok(()) | Err(SendError::Full | SendError::Ended(_)) => Ok(()),
        }
    }

    /// Returns whether descriptors wait for a process that does not read.
    fn is_behind(&self, process: WorkerKey) -> bool {
        let link = self.links.get(&process).and_then(|(_, link)| link.upgrade());
        link.is_some_and(|link| link.has_unsent_descriptors())
    }
}
