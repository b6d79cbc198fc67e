//! Connections that workers of a group hand on to each other, at the master.
//!
//! A connection stays its giver's until the master lets its taker use it: the master decides once, when the
//! taker has it, and tells both. Until then any end of a process, and an upgrade, leave it with the other
//! one.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use self::state::{Declared, Given, HandOnState, Member, Reply};
use super::worker_info::WorkerInfo;
use crate::ipc::link::Link;
use crate::ipc::service::{ServiceAnswer, ServiceRequest, reply};
use crate::rt::Rt;

mod state;
#[cfg(test)]
mod tests;

pub(crate) use state::{HandOnLimits, ProcessKey};

/// Interval of the checks of that time.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A connected process of a group that hands connections on. Dropping it says that the connection has ended
/// and that all that the process had sent was read.
#[derive(Debug)]
pub(crate) struct Membership {
    hand_on: Arc<HandOn>,
    process: ProcessKey,
}

impl Membership {
    /// Handles a request of the process.
    pub(crate) fn asked(&self, rt: &Rt, number: u32, request: ServiceRequest) {
        self.hand_on.asked(self.process, number, request, rt);
    }

    /// The process no longer waits for the answer to this request.
    pub(crate) fn cancelled(&self, number: u32) {
        self.hand_on.cancelled(self.process, number);
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.hand_on.disconnected(self.process);
    }
}

/// The connections that the workers of a group hand on.
pub(crate) struct HandOn {
    limits: HandOnLimits,
    state: Mutex<HandOnState>,
}

impl std::fmt::Debug for HandOn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (waiting, handed_on) = {
            let state = self.lock();
            (state.given.len(), state.handed_on)
        };
        let mut all = f.debug_struct("HandOn");
        all.field("waiting", &waiting).field("handed_on", &handed_on).finish_non_exhaustive()
    }
}

impl HandOn {
    pub(crate) fn new(limits: HandOnLimits) -> Self {
        // A late word about a connection of the version before finds none of its number.
        let next = RandomState::new().hash_one(std::process::id()) >> 1;
        Self { limits, state: Mutex::new(HandOnState::new(next)) }
    }

    /// Adds a connected process, for as long as the result lives.
    pub(crate) fn connected(self: &Arc<Self>, worker: &WorkerInfo, link: &Arc<Link>) -> Membership {
        let process = (worker.id, worker.pid);
        let member = Member::new(link, worker.generation);
        self.lock().processes.insert(process, member);
        Membership { hand_on: Arc::clone(self), process }
    }

    /// The connection of a process has ended, and all that it had sent was read.
    fn disconnected(&self, process: ProcessKey) {
        self.change(|state, replies, now| {
            state.processes.remove(&process);
            for given in state.given.values_mut() {
                given.forget(process, now);
            }
            state.settle_all(replies, now);
        });
    }

    /// Handles a request of a process.
    fn asked(self: &Arc<Self>, process: ProcessKey, number: u32, request: ServiceRequest, rt: &Rt) {
        let limits = self.limits;
        let starts = self.change(|state, replies, now| {
            let is_declared = matches!(request, ServiceRequest::Declare { .. });
            let answer = match request {
                ServiceRequest::Declare { gives, takes } => {
                    let types = Declared { gives: gives.into(), takes: takes.into() };
                    Some(state.declare(process, types))
                }
                ServiceRequest::Give { state: bytes, socket } => {
                    let given = (number, bytes, socket);
                    state.give(process, given, limits, now).err()
                }
                ServiceRequest::Take => state.take(process, number, now).err(),
                ServiceRequest::Taken { number } => Some(state.taken(process, number, replies)),
                ServiceRequest::NotArrived => Some(state.not_arrived(now)),
                ServiceRequest::Channel(_) => Some(ServiceAnswer::NoChannel),
            };
            if let Some(answer) = answer {
                replies.extend(state.reply_to(process, number, answer));
            }
            match is_declared {
                true => state.settle_all(replies, now),
                false => state.settle(replies, now),
            }
            !state.given.is_empty() && !std::mem::replace(&mut state.is_watched, true)
        });
        if starts {
            self.watch(rt);
        }
    }

    /// A process no longer waits for the answer to this request.
    fn cancelled(&self, process: ProcessKey, number: u32) {
        self.change(|state, _, _| {
            if let Some(member) = state.processes.get_mut(&process) {
                member.takes.retain(|take| *take != number);
            }
            let is_it = |given: &&mut Given| given.giver == process;
            for given in state.given.values_mut().filter(is_it) {
                given.request = given.request.filter(|its| *its != number);
            }
        });
    }

    /// These processes are ready and not told to stop. Others take no connection.
    pub(crate) fn ready(&self, processes: &BTreeSet<ProcessKey>, is_stopping: bool) {
        if self.lock().is_same(processes, is_stopping) {
            return;
        }
        self.change(|state, replies, now| {
            state.heard_of(processes, now);
            state.ready = Some(processes.clone());
            state.is_stopping = is_stopping;
            for given in state.given.values_mut() {
                if given.offered.is_some_and(|process| !processes.contains(&process)) {
                    given.take_back(now);
                }
            }
            state.settle_all(replies, now);
        });
    }

    /// Gives all connections back, before an upgrade: their workers ask again when it is over.
    pub(crate) fn pause(&self) {
        self.change(|state, replies, _| {
            state.is_paused = true;
            for number in state.given.keys().copied().collect::<Vec<_>>() {
                state.refuse(number, ServiceAnswer::Again, replies);
            }
            let HandOnState { processes, .. } = state;
            for member in processes.values_mut() {
                let takes = member.takes.drain(..);
                let again = |take| (Weak::clone(&member.link), take, ServiceAnswer::Again);
                replies.extend(takes.map(again));
            }
        });
    }

    pub(crate) fn resume(&self) {
        self.lock().is_paused = false;
    }

    /// Returns how many connections were handed on, and how many were closed because their giver ended.
    #[cfg(test)]
    fn counts(&self) -> (u64, u64) {
        let state = self.lock();
        (state.handed_on, state.lost)
    }

    /// Checks the times until no connection waits.
    fn watch(self: &Arc<Self>, rt: &Rt) {
        let (weak, clock) = (Arc::downgrade(self), rt.clone());
        let watching = async move {
            loop {
                clock.sleep(LOOK_EVERY).await;
                let Some(hand_on) = weak.upgrade() else { return };
                let goes_on = hand_on.change(|state, replies, now| {
                    state.look(now, replies);
                    state.is_watched = !state.given.is_empty();
                    state.is_watched
                });
                if !goes_on {
                    return;
                }
            }
        };
        rt.spawn(watching).detach();
    }

    /// Changes the state, and sends the answers. A pause waits for them: later ones would not be part of
    /// what the next version takes over.
    fn change<T>(&self, change: impl FnOnce(&mut HandOnState, &mut Vec<Reply>, Instant) -> T) -> T {
        let (mut replies, mut state) = (Vec::new(), self.lock());
        let before = state.lost;
        let done = change(&mut state, &mut replies, Instant::now());
        let all = state.lost;
        for (link, number, answer) in replies {
            // A connection that has ended is reported by its task.
            if let Some(link) = link.upgrade()
                && let Err(error) = reply(&link, number, &answer)
            {
                tracing::debug!(%error, "a worker was not answered");
            }
        }
        drop(state);
        if all > before {
            let connections = all - before;
            log_warning!(
                connections,
                all,
                "closed: the worker that handed them on has ended or given up, and no other took them"
            );
        }
        done
    }

    fn lock(&self) -> MutexGuard<'_, HandOnState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
