//! Changes that somebody asks for, and what becomes of them.

use super::Pool;
use crate::supervise::group::Resize;
use crate::supervise::process::Process;
use crate::supervise::turn::Turn;
use crate::supervise::worker::Worker;
use crate::supervise::{Operation, Report, RequestId, WorkerId};

/// More workers than this in one group are taken for a mistake.
const MOST: u32 = 10_000;

impl Pool {
    pub(super) fn change(&mut self, request: RequestId, change: Operation, turn: &mut Turn<'_>) {
        match change {
            Operation::Reload => self.reloads.push(request),
            Operation::Upgrade => self.ask_for_upgrade(request),
            Operation::Resize { group, size } => self.resize(request, &group, size, None, turn),
            Operation::Configure { group, size } => {
                self.resize(request, &group, size, Some(size), turn);
            }
            Operation::Restart { id } => self.restart(request, id, turn),
        }
    }

    /// Of what an operator and a configuration `configured` say, the latest holds; a configuration
    /// that says the same as before says nothing.
    fn resize(
        &mut self,
        request: RequestId,
        name: &str,
        size: u32,
        configured: Option<u32>,
        turn: &mut Turn<'_>,
    ) {
        let there = self.groups.iter().filter(|group| !group.is_gone);
        let names: Vec<_> = there.map(|group| &group.spec.name).collect();
        // Those that are gone come after all others.
        let Some(index) = names.iter().position(|there| *there == name) else {
            return turn.refuse([request], &format!("no group `{name}`; there is: {names:?}"));
        };
        if size > MOST {
            return turn.refuse([request], &format!("more than {MOST} workers are too many"));
        }
        let group = &mut self.groups[index];
        if configured == Some(group.configured) {
            match &mut group.resize {
                // Said again while it is made so.
                Some(resize) if group.spec.size == size => resize.requests.push(request),
                _ => turn.answer(request, Ok(())),
            }
            return;
        }
        let mut known = group.configured;
        group.configured = configured.unwrap_or(known);
        let (mut before, mut least) = (group.spec.size, group.spec.size.min(size));
        if let Some(earlier) = group.resize.take() {
            (before, least) = (earlier.before, least.min(earlier.least));
            known = earlier.configured;
            turn.refuse(earlier.requests, "another change of the size came after it");
        }
        let requests = vec![request];
        group.resize = Some(Resize { requests, before, configured: known, least });
        self.set_size(index, size, turn);
    }

    pub(super) fn set_size(&mut self, group: usize, size: u32, turn: &mut Turn<'_>) {
        let spec = &mut self.groups[group].spec;
        let before = std::mem::replace(&mut spec.size, size);
        if before != size {
            let group = spec.name.clone();
            turn.report(Report::Resized { group, size });
        }
        self.enlist(group);
        let generation = self.target().unwrap_or(self.generation);
        let own = self.workers.iter_mut().filter(|worker| worker.group == group);
        for worker in own.filter(|worker| worker.rank >= before) {
            worker.generation = generation;
            worker.last_end = None;
        }
    }

    /// Adds the workers that a group is to have and never had.
    pub(super) fn enlist(&mut self, group: usize) {
        let size = self.groups[group].spec.size;
        let there = self.workers.iter().filter(|worker| worker.group == group).count();
        for rank in (0..size).skip(there) {
            let id = WorkerId(u32::try_from(self.workers.len()).unwrap_or(u32::MAX));
            self.workers.push(Worker::new(id, group, rank, self.generation));
        }
    }

    fn restart(&mut self, request: RequestId, id: WorkerId, turn: &mut Turn<'_>) {
        let index = self.index(id).filter(|index| self.wants(&self.workers[*index]));
        let Some(index) = index else {
            return turn.refuse([request], &format!("there is no worker {id}"));
        };
        self.workers[index].restart(request, turn.now);
    }

    /// A process of a worker has ended by itself, or could not be started.
    pub(super) fn note_failed_change(
        &mut self,
        index: usize,
        process: &Process,
        reason: &str,
        turn: &mut Turn<'_>,
    ) {
        let worker = &mut self.workers[index];
        if process.generation != worker.generation {
            return;
        }
        if !process.is_stale {
            turn.refuse(worker.give_up_restart(), reason);
        }
        let (index, rank) = (worker.group, worker.rank);
        let group = &mut self.groups[index];
        if process.was_ready() || worker.is_ready() || !group.wants(rank) {
            return;
        }
        let Some(resize) = group.resize.take() else { return };
        let Resize { requests, before, configured, least } = resize;
        if rank >= least {
            turn.refuse(requests, reason);
            group.configured = configured;
            self.set_size(index, before, turn);
        } else {
            // It was there before, and fails whatever the size of the group is.
            let size = group.spec.size;
            let reason = format!("the group has its new size, {size}, but {reason}");
            turn.refuse(requests, &reason);
        }
    }

    /// Answers what has come true.
    pub(super) fn conclude_changes(&mut self, turn: &mut Turn<'_>) {
        let mut done = Vec::new();
        for worker in &mut self.workers {
            if !self.groups[worker.group].wants(worker.rank) {
                turn.refuse(worker.restarting.drain(..), "the worker was scaled away");
            } else if worker.is_settled(false) || worker.is_over() {
                done.append(&mut worker.restarting);
            }
        }
        for (index, group) in self.groups.iter_mut().enumerate() {
            let size = group.spec.size;
            let mut workers = self.workers.iter().filter(|worker| worker.group == index);
            let is_made = |_: &mut Resize| {
                workers.all(|worker| match worker.rank {
                    rank if rank >= size => worker.is_gone(),
                    _ => worker.is_ready() || worker.is_over(),
                })
            };
            done.extend(group.resize.take_if(is_made).into_iter().flat_map(|it| it.requests));
        }
        done.into_iter().for_each(|request| turn.answer(request, Ok(())));
    }

    /// The pool stops: nobody waits for a change any more.
    pub(super) fn refuse_changes(&mut self, turn: &mut Turn<'_>) {
        let why = "the pool stops";
        self.refuse_reloads(why, turn);
        self.refuse_upgrades(why, turn);
        let restarting = self.workers.iter_mut().flat_map(|worker| worker.restarting.drain(..));
        let resizing = self.groups.iter_mut().filter_map(|group| group.resize.take());
        turn.refuse(restarting.chain(resizing.flat_map(|resize| resize.requests)), why);
    }
}
