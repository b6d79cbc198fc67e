//! A small world that carries actions out without processes, and holds the pool to its promises.

use std::collections::VecDeque;
use std::time::Duration;

use super::model::Model;
use crate::supervise::*;

pub(super) struct World {
    pub(super) pool: Pool,
    pub(super) model: Model,
    pub(super) now: Moment,
    /// Whether the system refuses to start processes.
    pub(super) spawns_fail: bool,
    /// Everything that the pool asked for.
    pub(super) log: Vec<Action>,
    /// The processes that were reaped.
    pub(super) dead: Vec<(WorkerId, i32)>,
    to_spawn: VecDeque<WorkerId>,
    next_pid: i32,
}

impl World {
    pub(super) fn new(specs: Vec<GroupSpec>, stop_deadline: Duration, seed: u64) -> Self {
        Self {
            pool: Pool::new(specs.clone(), stop_deadline, seed),
            model: Model::new(specs, stop_deadline),
            now: Moment::START,
            spawns_fail: false,
            log: Vec::new(),
            dead: Vec::new(),
            to_spawn: VecDeque::new(),
            next_pid: 100,
        }
    }

    /// A world whose pool has started.
    pub(super) fn started(specs: Vec<GroupSpec>) -> Self {
        let mut world = Self::new(specs, Duration::from_secs(10), 1);
        world.send(Event::Start);
        world
    }

    /// Tells the pool, does all that it asks for, and checks that everything is as it should be.
    pub(super) fn send(&mut self, event: Event) {
        self.tell(event);
        while let Some(id) = self.to_spawn.pop_front() {
            let reason = "no more processes".to_owned();
            self.next_pid += 1;
            let pid = self.next_pid;
            self.tell(match self.spawns_fail {
                true => Event::SpawnFailed { id, reason, is_short: false },
                false => Event::Spawned { id, pid },
            });
        }
        self.model.check(&self.pool, self.now);
    }

    fn tell(&mut self, event: Event) {
        self.model.note(&event, self.now);
        let mut actions = Vec::new();
        self.pool.on(event, self.now, &mut actions);
        for action in actions {
            self.model.accept(&action, self.now);
            if let Action::Spawn { id, .. } = action {
                self.to_spawn.push_back(id);
            }
            self.log.push(action);
        }
    }

    pub(super) fn pid(&self, id: WorkerId) -> Option<i32> {
        self.model.live.get(&id).map(|process| process.pid)
    }

    pub(super) fn ready(&mut self, id: WorkerId) {
        if let Some(pid) = self.pid(id) {
            self.send(Event::Ready { id, pid });
        }
    }

    pub(super) fn exit(&mut self, id: WorkerId, exit: ExitStatus) {
        if let Some(pid) = self.pid(id) {
            self.dead.push((id, pid));
            self.send(Event::Exited { id, pid, exit });
        }
    }

    pub(super) fn violate(&mut self, id: WorkerId) {
        if let Some(pid) = self.pid(id) {
            let reason = "a frame of 4 GiB".to_owned();
            self.send(Event::Violation { id, pid, reason });
        }
    }

    pub(super) fn hang(&mut self, id: WorkerId) {
        if let Some(pid) = self.pid(id) {
            self.send(Event::Hung { id, pid, how: Hung::Silent(Duration::from_secs(1)) });
        }
    }

    pub(super) fn extend(&mut self, id: WorkerId, time: Duration) {
        if let Some(pid) = self.pid(id) {
            self.send(Event::Extend { id, pid, time });
        }
    }

    pub(super) fn stops(&mut self, id: WorkerId) {
        if let Some(pid) = self.pid(id) {
            self.send(Event::Stopping { id, pid });
        }
    }

    /// Lets time pass and ticks whenever that is due.
    pub(super) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(deadline) = self.pool.deadline().filter(|deadline| *deadline <= end) {
            self.now = deadline;
            self.send(Event::Tick);
        }
        self.now = end;
        self.send(Event::Tick);
    }

    /// Lets time pass without attention, then ticks once.
    pub(super) fn sleep(&mut self, time: Duration) {
        self.now += time;
        self.send(Event::Tick);
    }

    /// Forgets the actions so far and returns them.
    pub(super) fn drain(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.log)
    }

    pub(super) fn all_ready(&self) -> bool {
        let status = self.pool.status(self.now);
        status.iter().all(|worker| worker.state == State::Ready)
    }

    pub(super) fn state(&self, id: WorkerId) -> State {
        let status = self.pool.status(self.now);
        status.iter().find(|worker| worker.id == id).unwrap().state
    }
}
