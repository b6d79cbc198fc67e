//! Which worker has a channel to which. Performs no I/O: requests and events in, actions out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ipc::service::WorkerKey;

#[cfg(test)]
mod tests;

/// Maximum number of channels of a process to the workers of one group that get new calls.
pub(super) const MOST: usize = 16;

/// An answer to processes that wait for a change of their channels, by the numbers of their requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChannelAction {
    Open { caller: (WorkerKey, u32), worker: (WorkerKey, u32) },
    Leave { caller: (WorkerKey, u32), worker: WorkerKey },
}

/// The channels of all processes.
#[derive(Debug, Default)]
pub(super) struct ChannelTable {
    members: BTreeMap<WorkerKey, ChannelMember>,
    /// Processes that get new calls; `None` while a new version has not said so.
    ready: Option<BTreeSet<WorkerKey>>,
    /// Pairs whose channel has broken a moment ago.
    broken: BTreeSet<(WorkerKey, WorkerKey)>,
}

#[derive(Debug)]
struct ChannelMember {
    group: Arc<str>,
    /// The number of its request, while it waits for a change.
    waits: Option<u32>,
    /// The types of its answers, if it answers calls.
    answers: Option<Vec<u8>>,
    /// Number of channels to it.
    load: usize,
    /// Whether it is about to be told to stop.
    is_leaving: bool,
    /// Whether it has said what it calls and answers, or was asked to.
    has_spoken: bool,
    /// Its channels to the workers of each group that it calls.
    calls: BTreeMap<Arc<str>, BTreeMap<WorkerKey, HeldChannel>>,
}

/// A channel of a caller.
#[derive(Clone, Copy, Debug, Default)]
struct HeldChannel {
    /// Whether another worker takes its place.
    is_retired: bool,
    /// Whether the caller was told not to use it any more, and has asked for the next change since.
    is_told: bool,
    has_heard: bool,
}

impl ChannelTable {
    pub(super) fn connect(&mut self, process: WorkerKey, group: Arc<str>) {
        let member = ChannelMember {
            group,
            waits: None,
            answers: None,
            load: 0,
            is_leaving: false,
            has_spoken: false,
            calls: BTreeMap::new(),
        };
        self.members.insert(process, member);
    }

    /// The process has no connection any more: its channels have ended, too.
    pub(super) fn disconnect(&mut self, process: WorkerKey, actions: &mut Vec<ChannelAction>) {
        let Some(member) = self.members.remove(&process) else { return };
        member.calls.into_values().for_each(|held| self.relieve_all(held));
        self.broken.retain(|(caller, worker)| *caller != process && *worker != process);
        for caller in self.callers_of(process) {
            self.remove(caller, process);
            self.settle(caller, actions);
        }
    }

    /// The process calls a group, and says to which of its workers it has channels.
    pub(super) fn calls(
        &mut self,
        process: WorkerKey,
        group: Arc<str>,
        mut held: Vec<WorkerKey>,
        actions: &mut Vec<ChannelAction>,
    ) {
        held.truncate(2 * MOST);
        let held: BTreeMap<_, _> =
            held.into_iter().map(|worker| (worker, HeldChannel::default())).collect();
        let workers: Vec<_> = held.keys().copied().collect();
        let Some(member) = self.members.get_mut(&process) else { return };
        member.has_spoken = true;
        let former = member.calls.insert(group, held).unwrap_or_default();
        self.relieve_all(former);
        for worker in workers {
            self.burden(worker);
        }
        self.settle(process, actions);
    }

    /// The process answers calls, with these types.
    pub(super) fn answers(
        &mut self,
        process: WorkerKey,
        types: Vec<u8>,
        actions: &mut Vec<ChannelAction>,
    ) {
        let load = self.callers_of(process).len();
        if let Some(member) = self.members.get_mut(&process) {
            (member.answers, member.load, member.has_spoken) = (Some(types), load, true);
        }
        self.settle(process, actions);
    }

    /// Returns the types of a process that answers calls.
    pub(super) fn types(&self, process: WorkerKey) -> Vec<u8> {
        self.members.get(&process).and_then(|member| member.answers.clone()).unwrap_or_default()
    }

    /// Returns whether the process must say first what it calls and answers: it may have said so to the
    /// version before.
    pub(super) fn must_speak(&mut self, process: WorkerKey) -> bool {
        let member = self.members.get_mut(&process);
        member.is_some_and(|member| !std::mem::replace(&mut member.has_spoken, true))
    }

    /// The process waits for the next change: it has heard of the one before. Returns whether it may.
    pub(super) fn waits(
        &mut self,
        process: WorkerKey,
        number: u32,
        actions: &mut Vec<ChannelAction>,
    ) -> bool {
        let Some(member) = self.members.get_mut(&process) else { return false };
        if member.waits.is_some() {
            return false;
        }
        member.waits = Some(number);
        for held in member.calls.values_mut().flat_map(BTreeMap::values_mut) {
            held.has_heard = held.is_told;
        }
        self.settle(process, actions);
        true
    }

    /// The process does not wait any more.
    pub(super) fn cancelled(&mut self, process: WorkerKey, number: u32) {
        if let Some(member) = self.members.get_mut(&process) {
            member.waits = member.waits.filter(|its| *its != number);
        }
    }

    /// Takes back an action that has failed. The processes of these requests wait as before.
    pub(super) fn not_opened(
        &mut self,
        caller: WorkerKey,
        worker: WorkerKey,
        unanswered: &[(WorkerKey, u32)],
    ) {
        self.remove(caller, worker);
        self.broken.insert((caller, worker));
        for (process, number) in unanswered {
            if let Some(member) = self.members.get_mut(process) {
                member.waits = Some(*number);
            }
        }
    }

    /// The channel has ended at its caller, which gets no other one to this worker until
    /// [`mended`](Self::mended). Returns false if it was meant to end.
    pub(super) fn ended(
        &mut self,
        caller: WorkerKey,
        worker: WorkerKey,
        actions: &mut Vec<ChannelAction>,
    ) -> bool {
        let removed = self.remove(caller, worker);
        let is_broken = removed.is_some_and(|held| !held.is_told);
        if is_broken {
            self.broken.insert((caller, worker));
        }
        self.settle(caller, actions);
        is_broken
    }

    /// The pairs whose channels have broken may have others now.
    pub(super) fn mended(&mut self, actions: &mut Vec<ChannelAction>) {
        for (caller, _) in std::mem::take(&mut self.broken) {
            self.settle(caller, actions);
        }
    }

    /// These processes are ready and not told to stop. Others get no new calls.
    pub(super) fn ready(&mut self, ready: BTreeSet<WorkerKey>, actions: &mut Vec<ChannelAction>) {
        let before = self.ready.replace(ready).unwrap_or_default();
        let ready = self.ready.as_ref().into_iter().flatten();
        let added: Vec<_> = ready.filter(|process| !before.contains(process)).copied().collect();
        let is_gone = |process: &&WorkerKey| !self.gets_calls(**process);
        let gone: Vec<_> = before.iter().filter(is_gone).copied().collect();
        for process in added {
            self.settle(process, actions);
        }
        for process in gone {
            self.settle_callers_of(process, actions);
        }
    }

    /// The process is about to be told to stop.
    pub(super) fn leaves(&mut self, process: WorkerKey, actions: &mut Vec<ChannelAction>) {
        if let Some(member) = self.members.get_mut(&process) {
            member.is_leaving = true;
        }
        self.settle_callers_of(process, actions);
    }

    /// Returns whether all its callers have heard that they must not call the process any more.
    pub(super) fn has_left(&self, process: WorkerKey) -> bool {
        self.held_of(process).all(|(_, held)| held.has_heard)
    }

    /// Returns whether no process has a channel to this one.
    pub(super) fn is_alone(&self, process: WorkerKey) -> bool {
        self.held_of(process).next().is_none()
    }

    /// Forgets all that processes say again after a pause. Returns their requests.
    pub(super) fn pause(&mut self) -> Vec<(WorkerKey, u32)> {
        let mut waited = Vec::new();
        for (process, member) in &mut self.members {
            waited.extend(member.waits.take().map(|number| (*process, number)));
        }
        waited
    }

    /// Finds a change for a process, and one in which it is the other side.
    fn settle(&mut self, process: WorkerKey, actions: &mut Vec<ChannelAction>) {
        if let Some(action) = self.next_of(process) {
            self.carry_out(&action);
            actions.push(action);
        }
        let worker = self.members.get(&process).filter(|_| self.gets_calls(process));
        let Some(number) = worker.and_then(|worker| worker.waits) else { return };
        let callers = self.members.iter().filter_map(|(caller, member)| {
            Some((*caller, member.waits?, self.place(*caller, process)?))
        });
        let first = callers.min_by_key(|(_, _, count)| *count);
        if let Some((caller, waits, _)) = first {
            let action = ChannelAction::Open { caller: (caller, waits), worker: (process, number) };
            self.carry_out(&action);
            actions.push(action);
        }
    }

    fn settle_callers_of(&mut self, process: WorkerKey, actions: &mut Vec<ChannelAction>) {
        for caller in self.callers_of(process) {
            self.settle(caller, actions);
        }
    }

    /// Returns the next change for a caller that waits: first that a worker leaves.
    fn next_of(&self, process: WorkerKey) -> Option<ChannelAction> {
        let member = self.members.get(&process)?;
        let caller = (process, member.waits?);
        let held = || member.calls.values().flatten();
        let leaves = |(worker, held): &(&WorkerKey, &HeldChannel)| {
            !held.is_told && (held.is_retired || self.is_leaving(**worker))
        };
        if let Some((worker, _)) = held().find(leaves) {
            return Some(ChannelAction::Leave { caller, worker: *worker });
        }
        let others = self.members.iter().filter_map(|(worker, other)| {
            let is_possible = self.place(process, *worker).is_some();
            Some((*worker, other.waits?, other.load)).filter(|_| is_possible)
        });
        let (worker, number, _) = others.min_by_key(|(_, _, load)| *load)?;
        Some(ChannelAction::Open { caller, worker: (worker, number) })
    }

    /// Returns the number of channels that a caller has to the group of a worker, if it should have one
    /// to this worker, too.
    fn place(&self, caller: WorkerKey, worker: WorkerKey) -> Option<usize> {
        let member = self.members.get(&worker)?;
        let held = self.members.get(&caller)?.calls.get(&member.group)?;
        let is_open = member.waits.is_some() && member.answers.is_some();
        let is_new = !held.contains_key(&worker) && !self.broken.contains(&(caller, worker));
        if !is_open || !is_new || !self.gets_calls(worker) || held.len() >= 2 * MOST {
            return None;
        }
        let used = self.used(held).count();
        let takes_a_place = || {
            let busiest = self.used(held).map(|other| self.load(other)).max();
            busiest.is_some_and(|busiest| busiest >= member.load + 2)
        };
        (used < MOST || takes_a_place()).then_some(used)
    }

    /// Returns the workers whose channels of a caller get new calls.
    fn used<'a>(
        &'a self,
        held: &'a BTreeMap<WorkerKey, HeldChannel>,
    ) -> impl Iterator<Item = WorkerKey> + 'a {
        let is_used = |(worker, held): &(&WorkerKey, &HeldChannel)| {
            !held.is_retired && !held.is_told && !self.is_leaving(**worker)
        };
        held.iter().filter(is_used).map(|(worker, _)| *worker)
    }

    fn carry_out(&mut self, action: &ChannelAction) {
        match action {
            ChannelAction::Leave { caller: (caller, _), worker } => {
                let Some(member) = self.members.get_mut(caller) else { return };
                member.waits = None;
                let mut all = member.calls.values_mut();
                if let Some(held) = all.find_map(|held| held.get_mut(worker)) {
                    held.is_told = true;
                }
            }
            ChannelAction::Open { caller: (caller, _), worker: (worker, _) } => {
                self.open(*caller, *worker);
                for process in [caller, worker] {
                    if let Some(member) = self.members.get_mut(process) {
                        member.waits = None;
                    }
                }
            }
        }
    }

    /// Adds a channel. If the caller has enough of them, the one to the busiest worker is retired.
    fn open(&mut self, caller: WorkerKey, worker: WorkerKey) {
        let Some(group) = self.members.get(&worker).map(|member| Arc::clone(&member.group)) else {
            return;
        };
        let Some(held) = self.members.get(&caller).and_then(|it| it.calls.get(&group)) else {
            return;
        };
        let is_full = self.used(held).count() >= MOST;
        let busiest = self.used(held).max_by_key(|other| self.load(*other));
        let retired = busiest.filter(|_| is_full);
        let held = self.members.get_mut(&caller).and_then(|it| it.calls.get_mut(&group));
        let Some(held) = held else { return };
        if let Some(held) = retired.and_then(|retired| held.get_mut(&retired)) {
            held.is_retired = true;
        }
        held.insert(worker, HeldChannel::default());
        // It counts for its worker no more: the place is the new worker's.
        retired.into_iter().for_each(|retired| self.relieve(retired));
        self.burden(worker);
    }

    fn remove(&mut self, caller: WorkerKey, worker: WorkerKey) -> Option<HeldChannel> {
        let calls = &mut self.members.get_mut(&caller)?.calls;
        let removed = calls.values_mut().find_map(|held| held.remove(&worker))?;
        if !removed.is_retired {
            self.relieve(worker);
        }
        Some(removed)
    }

    fn relieve_all(&mut self, held: BTreeMap<WorkerKey, HeldChannel>) {
        let counted = held.into_iter().filter(|(_, held)| !held.is_retired);
        counted.for_each(|(worker, _)| self.relieve(worker));
    }

    fn burden(&mut self, worker: WorkerKey) {
        if let Some(member) = self.members.get_mut(&worker) {
            member.load += 1;
        }
    }

    fn relieve(&mut self, worker: WorkerKey) {
        if let Some(member) = self.members.get_mut(&worker) {
            member.load = member.load.saturating_sub(1);
        }
    }

    fn load(&self, worker: WorkerKey) -> usize {
        self.members.get(&worker).map_or(0, |member| member.load)
    }

    /// Returns whether the process takes new calls.
    fn gets_calls(&self, process: WorkerKey) -> bool {
        let is_ready = self.ready.as_ref().is_some_and(|ready| ready.contains(&process));
        is_ready && self.members.get(&process).is_some_and(|member| !member.is_leaving)
    }

    /// Returns whether the callers of the process must not call it any more.
    fn is_leaving(&self, process: WorkerKey) -> bool {
        self.ready.is_some() && !self.gets_calls(process)
    }

    fn held_of(&self, worker: WorkerKey) -> impl Iterator<Item = (WorkerKey, HeldChannel)> + '_ {
        let held = move |member: &ChannelMember| {
            member.calls.values().find_map(|held| held.get(&worker).copied())
        };
        self.members.iter().filter_map(move |(caller, member)| Some((*caller, held(member)?)))
    }

    fn callers_of(&self, worker: WorkerKey) -> Vec<WorkerKey> {
        self.held_of(worker).map(|(caller, _)| caller).collect()
    }
}
