//! Thousands of random histories of reloads, restarts and changes of size, among processes that do
//! all that processes do.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::config;
use crate::supervise::simulation::{Launch, Life, Simulation};
use crate::supervise::*;

const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// What a process may have resident.
const MEMORY: u64 = 1 << 20;

/// Something that happens: what, to whom, and how much.
type Step = (u8, u8, u16);

#[derive(Clone, Debug)]
struct Storm {
    sizes: Vec<u32>,
    surge: u32,
    canary: u64,
    draining: usize,
    leaving: u64,
    life: LifeLimits,
    is_ageing: bool,
    seed: u64,
    lives: Vec<u8>,
    steps: Vec<Step>,
}

prop_compose! {
    fn storm(lives: std::ops::Range<u8>)(
        sizes in vec(0_u32..6, 1..3),
        surge in 1_u32..4,
        canary in select(&[0, 100, 2000][..]),
        draining in 1_usize..4,
        leaving in select(&[0, 250, 3000][..]),
        age in select(&[None, None, None, None, None, None, Some(1), Some(9)][..]),
        seed in any::<u64>(),
        lives in vec(lives, 1..24),
        steps in vec(any::<Step>(), 0..32),
    ) -> Storm {
        let life = LifeLimits::default().max_memory(MEMORY);
        let life = match age {
            Some(age) => life.max_age(Duration::from_secs(age)),
            None => life,
        };
        let is_ageing = age.is_some();
        Storm { sizes, surge, canary, draining, leaving, life, is_ageing, seed, lives, steps }
    }
}

impl Storm {
    fn group(&self, index: usize, size: u32) -> GroupSpec {
        let reload = ReloadPolicy::default()
            .surge(self.surge)
            .canary(Duration::from_millis(self.canary))
            .draining(self.draining)
            .leaving(Duration::from_millis(self.leaving));
        let restart =
            RestartPolicy::default().start_attempts(u32::MAX).ready_timeout(Duration::from_secs(4));
        let (name, life) = (index.to_string(), self.life.clone());
        GroupSpec { name, size, reload, life, ..super::group(size, restart) }
    }

    /// Some of three groups, in some order; a size that is as before is what nobody has changed.
    fn next_groups(&self, who: u8, amount: u16) -> Vec<GroupSpec> {
        let mut all: Vec<_> = (0..3)
            .filter(|index| who >> index & 1 == 1)
            .map(|index| {
                let known = self.sizes.get(index).filter(|_| who >> (index + 3) & 1 == 1);
                let other = u32::from(amount >> (3 * index)) % 6;
                self.group(index, known.copied().unwrap_or(other))
            })
            .collect();
        if who >> 6 & 1 == 1 {
            all.reverse();
        }
        all
    }
}

/// The first six never fail.
fn life(kind: u8) -> Life {
    let millis = Duration::from_millis;
    match kind {
        0..3 => Life::good(),
        3 => Life::good().ready_after(millis(3_000)),
        4 => Life::good().stops_after(millis(7_000)),
        5 => Life::good().never_stops(),
        6 => Life::good().never_ready(),
        7 => Life::impossible(),
        8 => Life::good().dies_after(millis(10), ExitStatus::Code(1)),
        9 => Life::good().dies_after(millis(120), ExitStatus::Code(0)),
        10 => Life::good().dies_after(millis(5_000), ExitStatus::Code(2)),
        11 => Life::good().hangs_after(millis(3_000), Hung::Stuck(millis(2_000))),
        12 => Life::scarce(),
        _ => Life::never_ready(Life::good()).never_stops(),
    }
}

struct World {
    sim: Simulation,
    storm: Storm,
    calm: Rc<Cell<bool>>,
    /// What was asked for, and which process the worker and which generation the pool had then.
    asked: BTreeMap<RequestId, (Operation, Option<i32>, u32)>,
    ledger: Ledger,
    /// Whether each moment is checked.
    is_watched: bool,
    /// Whether pools become bytes and pools again.
    restores: bool,
}

/// What the history says so far.
#[derive(Default)]
struct Ledger {
    read: usize,
    alive: BTreeMap<i32, Option<Signal>>,
    /// Those that have been ready, and since when nobody gives them new work.
    at_work: BTreeMap<i32, Option<Duration>>,
    dead: BTreeSet<i32>,
    answered: BTreeSet<RequestId>,
    rolling: Option<u32>,
    generation: u32,
    is_done: bool,
}

impl World {
    fn new(storm: &Storm) -> Self {
        let calm = Rc::new(Cell::new(false));
        let (is_calm, lives) = (Rc::clone(&calm), storm.lives.clone());
        let script = move |launch: Launch| match is_calm.get() {
            true => Life::good(),
            false => life(lives[usize::try_from(launch.before).unwrap() % lives.len()]),
        };
        let specs = storm.sizes.iter().enumerate().map(|(index, size)| storm.group(index, *size));
        let specs = specs.collect();
        let sim = Simulation::new(specs, STOP_DEADLINE, storm.seed, script);
        let ledger = Ledger { generation: 1, ..Ledger::default() };
        let mut world = Self {
            sim,
            storm: storm.clone(),
            calm,
            asked: BTreeMap::new(),
            ledger,
            is_watched: true,
            restores: true,
        };
        world.check();
        world
    }

    fn change(&mut self, change: Operation) {
        let pid = match change {
            Operation::Restart { id } => self.serving(id).and_then(|worker| worker.pid),
            _ => None,
        };
        let generation = self.sim.pool().generation();
        let request = self.sim.change(change.clone());
        self.asked.insert(request, (change, pid, generation));
        self.check();
    }

    /// The worker, if a process does its job.
    fn serving(&self, id: WorkerId) -> Option<WorkerStatus<'_>> {
        self.sim.status().into_iter().find(|worker| {
            worker.id == id && matches!(worker.state, State::Ready | State::Starting)
        })
    }

    /// What "ok" says must be true at that moment.
    fn check_ok(&self, request: RequestId, seen: &[simulation::Seen]) {
        let (change, pid, before) = &self.asked[&request];
        match change {
            Operation::Restart { id } => {
                let worker = seen.iter().find(|worker| worker.id == *id);
                let worker = worker.expect("a worker that was restarted");
                assert_eq!(worker.state, State::Ready);
                assert!(pid.is_none() || worker.pid != *pid, "the old process after a restart");
            }
            Operation::Resize { group, size } => {
                let own = seen.iter().filter(|worker| worker.group == *group);
                let own: Vec<_> = own.map(|worker| worker.state).collect();
                assert_eq!(own, vec![State::Ready; usize::try_from(*size).unwrap()]);
            }
            Operation::Reload | Operation::Upgrade => {
                // Whoever has waited over an upgrade may be told when the size changes again, and
                // old processes leave for that.
                let is_meant = |worker: &&simulation::Seen| {
                    worker.state == State::Ready || *change == Operation::Reload
                };
                let meant: Vec<_> = seen.iter().filter(is_meant).collect();
                let generation = meant.first().map_or(u32::MAX, |worker| worker.generation);
                assert!(generation > *before, "the old generation after a reload");
                for worker in meant {
                    assert_eq!((worker.state, worker.generation), (State::Ready, generation));
                }
            }
        }
    }

    fn tell(&mut self, event: Event) {
        self.sim.tell(event);
        self.check();
    }

    fn pass(&mut self, steps: u16) {
        for _ in 0..steps {
            self.sim.step();
            self.check();
        }
    }

    fn run(&mut self, time: Duration) {
        self.is_watched = false;
        let end = self.sim.time() + time;
        while self.sim.next().is_some_and(|next| next <= end) {
            self.sim.step();
            self.check();
        }
        self.sim.run(end - self.sim.time());
        self.check();
        self.is_watched = true;
    }

    /// Any process that the pool knows of.
    fn victim(&self, who: u8) -> Option<(WorkerId, i32)> {
        let known = self.sim.processes().filter(|it| self.ledger.alive.contains_key(&it.pid));
        let known: Vec<_> = known.map(|process| (process.id, process.pid)).collect();
        known.get(usize::from(who).checked_rem(known.len())?).copied()
    }

    fn play(&mut self, (what, who, amount): Step) {
        let group = usize::from(who) % 3;
        let id = WorkerId(u32::from(who) % 8);
        match (what % 18, self.victim(who)) {
            (0 | 1, _) => self.change(Operation::Reload),
            (2, _) => {
                let size = u32::from(amount) % 7;
                self.change(Operation::Resize { group: group.to_string(), size });
            }
            (15, _) if who.is_multiple_of(2) => {
                let size = u32::from(amount) % 7;
                let sizes = (0..3).map(|index| (index == group).then_some(size));
                self.sim.prepare_with(Ok(sizes.collect()));
                self.change(Operation::Reload);
            }
            (3, _) => self.change(Operation::Restart { id }),
            (11, _) => self.change(Operation::Upgrade),
            (16 | 17, _) => {
                let groups = self.storm.next_groups(who, amount);
                self.sim.next_version_has(groups);
                self.change(Operation::Upgrade);
            }
            (12, _) => self.sim.try_with(match amount % 3 {
                0 => Err("exit status 1".to_owned()),
                _ => Ok(()),
            }),
            (13, _) => self.restore(),
            (4, _) => self.sim.prepare_with(match amount % 3 {
                0 => Err("bad configuration".to_owned()),
                _ => Ok(Vec::new()),
            }),
            (5, Some((id, pid))) => {
                let reason = "a frame of 4 GiB".to_owned();
                self.tell(Event::Violation { id, pid, reason });
            }
            (6, Some((id, pid))) => self.tell(Event::Exited { id, pid, exit: ExitStatus::Code(7) }),
            (7, _) => {
                // Of a process that was reaped, or never was.
                let pid = self.ledger.dead.first().copied().unwrap_or(-1);
                self.tell(Event::Ready { id, pid });
                self.tell(Event::Violation { id, pid, reason: "late".to_owned() });
                self.tell(Event::Hung { id, pid, how: Hung::Stuck(Duration::ZERO) });
            }
            (8, _) => {
                self.run(Duration::from_millis(u64::from(amount)));
                self.check();
            }
            (9, Some((id, pid))) => {
                let how = Hung::Silent(Duration::from_secs(1));
                self.tell(Event::Hung { id, pid, how });
                self.tell(Event::Hung { id, pid, how });
            }
            (10, _) => self.weigh(MEMORY),
            (14, Some(waiting)) => self.tell(Event::Backlog(vec![waiting])),
            _ => self.pass(amount % 16),
        }
    }

    fn restore(&mut self) {
        if self.restores {
            self.sim.restore();
        }
    }

    /// All processes have so much memory.
    fn weigh(&mut self, bytes: u64) {
        let usage = |it: &simulation::Process| Usage {
            id: it.id,
            pid: it.pid,
            requests: None,
            memory: Some(bytes),
        };
        let all = self.sim.processes().map(usage).collect();
        self.tell(Event::Measured(all));
    }

    /// How many of a worker's processes may be finishing.
    fn check_draining(&self) {
        let most = self.storm.draining + 2;
        assert!(self.sim.status().iter().all(|worker| worker.draining <= most));
    }

    /// What must hold at any moment.
    fn check(&mut self) {
        let Self { sim, ledger, .. } = self;
        for (time, action) in &sim.history()[ledger.read..] {
            assert!(!ledger.is_done, "{action:?} after the end");
            let is_running = self.is_watched && !sim.pool().is_stopping();
            // Nobody steers away from a group that the new version does not know.
            if let Action::Signal { id, pid, signal: Signal::Terminate } = action
                && sim.has_group_of(*id)
                && let Some(left) = ledger.at_work.get(pid).filter(|_| is_running)
            {
                let leaving = Duration::from_millis(self.storm.leaving);
                let has_left = left.is_some_and(|left| left + leaving <= *time);
                assert!(leaving.is_zero() || has_left, "told too early");
            }
            ledger.note(action);
        }
        for process in sim.processes() {
            let state = sim.pool().state_of(process.id, process.pid);
            if state != Some(State::Ready)
                && let Some(left) = ledger.at_work.get_mut(&process.pid)
            {
                // Nobody knows since when, if nobody has looked.
                left.get_or_insert(if self.is_watched { sim.time() } else { Duration::ZERO });
            }
        }
        ledger.read = sim.history().len();
        assert_eq!(sim.pool().generation(), ledger.generation);
        let ok = std::mem::take(&mut sim.at_ok);
        ok.iter().for_each(|(request, seen)| self.check_ok(*request, seen));
        let Self { sim, ledger, .. } = self;
        assert!(ledger.answered.iter().all(|request| self.asked.contains_key(request)));

        let (mut of_group, mut of_worker) = (BTreeMap::<_, u32>::new(), BTreeMap::<_, u32>::new());
        let known = sim.processes().filter(|it| ledger.alive.contains_key(&it.pid));
        for process in known.filter(|it| is_wanted(sim, it)) {
            *of_group.entry(sim.pool().group_of(process.id).unwrap()).or_default() += 1;
            *of_worker.entry(process.id).or_default() += 1;
        }
        for (group, count) in of_group {
            let most = sim.pool().size(group).map_or(0, |size| size + self.storm.surge);
            assert!(count <= most, "too many processes");
        }
        assert!(of_worker.into_values().all(|count| count <= 2), "three at a time");
        let overdue = sim.pool().deadline().is_some_and(|at| at < sim.now());
        assert!(!overdue, "something is overdue");
    }

    fn are_all_answered(&self) -> bool {
        self.asked.keys().eq(&self.ledger.answered)
    }

    /// Everything works again: the pool becomes what it is to be, and everybody is answered.
    fn calm_down(&mut self) {
        self.calm.set(true);
        // Processes from before may still be bad: they are gone after a while.
        self.run(Duration::from_secs(120));
        assert!(self.are_all_answered(), "every change is answered");
        for index in (0..).take_while(|index| self.sim.pool().size(*index).is_some()) {
            let of_group = |id| self.sim.pool().group_of(id) == Some(index);
            let own: Vec<_> = self.sim.processes().filter(|it| of_group(it.id)).collect();
            // Some may be in the middle of a replacement because of their age.
            let serving: Vec<_> =
                own.iter().filter(|it| it.is_serving() && is_wanted(&self.sim, it)).collect();
            let size = usize::try_from(self.sim.pool().size(index).unwrap()).unwrap();
            let surge = usize::try_from(self.storm.surge).unwrap();
            assert!((size..=size + surge).contains(&serving.len()));
            assert!(self.storm.is_ageing || own.len() == size && serving.len() == size);
            let generation = self.sim.pool().generation();
            assert!(serving.iter().all(|it| it.generation == generation));
        }
    }

    fn stop(&mut self, amount: u8) {
        // Sometimes in the middle of something.
        self.change(Operation::Reload);
        self.change(Operation::Restart { id: WorkerId(0) });
        self.pass(u16::from(amount % 16));
        self.tell(if amount.is_multiple_of(3) { Event::StopNow } else { Event::Stop });
        assert!(self.are_all_answered(), "nobody waits any more");
        self.run(STOP_DEADLINE);
        self.run(Duration::from_millis(1));
        assert!(self.ledger.is_done && self.ledger.alive.is_empty());
    }
}

/// Whether nobody has said, or is about to say, that it is to stop.
fn is_wanted(sim: &Simulation, process: &simulation::Process) -> bool {
    let state = sim.pool().state_of(process.id, process.pid);
    !process.is_stopping && state != Some(State::Stopping)
}

impl Ledger {
    fn note(&mut self, action: &Action) {
        match action {
            Action::Signal { pid, signal, .. } => {
                let sent = self.alive.get_mut(pid).expect("a signal to nobody");
                let is_more = sent.is_none_or(|sent| sent == Signal::Terminate && *signal != sent);
                assert!(is_more, "{signal:?} after {sent:?}");
                *sent = Some(*signal);
            }
            Action::Answer { request, .. } => {
                assert!(self.answered.insert(*request), "answered twice");
            }
            Action::Done(_) => self.is_done = true,
            Action::Report(report) => self.read(report),
            _ => {}
        }
    }

    fn read(&mut self, report: &Report) {
        match report {
            Report::Started { pid, .. } => {
                assert!(self.alive.insert(*pid, None).is_none());
            }
            Report::Ready { pid, .. } => {
                self.at_work.insert(*pid, None);
            }
            Report::Died { pid, .. } => {
                self.at_work.remove(pid);
                assert!(self.alive.remove(pid).is_some() && self.dead.insert(*pid));
            }
            Report::Reloading { generation } => {
                assert_eq!(self.rolling.replace(*generation), None, "two at a time");
            }
            Report::Reloaded { generation } | Report::Upgraded { generation } => {
                assert_eq!(self.rolling.take(), Some(*generation));
                self.generation = *generation;
            }
            Report::RolledBack { generation, .. }
            | Report::UpgradeRolledBack { generation, .. } => {
                assert_eq!(self.rolling.take(), Some(*generation));
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_storm_passes(storm in storm(0..14), calm in any::<bool>(), end in any::<u8>()) {
        let mut world = World::new(&storm);
        for step in &storm.steps {
            world.play(*step);
            world.check_draining();
        }
        if calm {
            world.calm_down();
        }
        world.stop(end);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: config().cases.div_ceil(10), ..config() })]

    /// A pool that becomes bytes and a pool again does what it would have done.
    #[test]
    fn a_restored_pool_goes_on_as_if_nothing_had_been(storm in storm(0..12), end in any::<u8>()) {
        let play = |restores| {
            let mut world = World::new(&storm);
            world.restores = restores;
            for step in &storm.steps {
                world.play(*step);
                world.restore();
            }
            world.stop(end);
            world.sim.history().to_vec()
        };
        prop_assert_eq!(play(true), play(false));
    }

    /// Where nothing fails, no reload, restart or limit ever takes a worker away.
    #[test]
    fn without_deaths_no_worker_is_missing(storm in storm(0..6)) {
        let mut world = World::new(&storm);
        world.run(Duration::from_secs(30));
        let size: u32 = storm.sizes.iter().sum();
        for (what, who, amount) in &storm.steps {
            let id = WorkerId(u32::from(*who) % size.max(1));
            match what % 4 {
                0 if size > 0 => world.change(Operation::Restart { id }),
                1 => world.weigh(MEMORY),
                2 => world.change(Operation::Upgrade),
                _ => world.change(Operation::Reload),
            }
            for _ in 0..amount % 16 {
                world.pass(1);
                let serving = world.sim.processes().filter(|process| process.is_serving());
                prop_assert!(serving.count() >= usize::try_from(size).unwrap());
            }
        }
        world.calm_down();
        prop_assert!(world.asked.keys().all(|it| world.sim.answer(*it) == Some(&Ok(()))));
    }
}
