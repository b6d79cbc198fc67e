use super::*;

/// The processes beside a table: each asks for the next change as soon as it has heard of the one before.
struct World {
    table: ChannelTable,
    number: u32,
    /// The channels of each caller, and the workers that it must not call any more.
    open: BTreeMap<WorkerKey, BTreeSet<WorkerKey>>,
    left: BTreeMap<WorkerKey, BTreeSet<WorkerKey>>,
    ready: BTreeSet<WorkerKey>,
}

fn caller(number: u32) -> WorkerKey {
    (number, 1)
}

fn worker(number: u32) -> WorkerKey {
    (1000 + number, 1)
}

impl World {
    fn new(callers: u32, workers: u32) -> Self {
        let mut world = Self {
            table: ChannelTable::default(),
            number: 0,
            open: BTreeMap::new(),
            left: BTreeMap::new(),
            ready: BTreeSet::new(),
        };
        for number in 0..callers {
            world.add_caller(caller(number), Vec::new());
        }
        for number in 0..workers {
            world.add_worker(worker(number));
        }
        world
    }

    fn add_caller(&mut self, process: WorkerKey, held: Vec<WorkerKey>) {
        self.table.connect(process, "front".into());
        self.change(|table, actions| table.calls(process, "back".into(), held, actions));
        self.asks(process);
    }

    fn add_worker(&mut self, process: WorkerKey) {
        self.table.connect(process, "back".into());
        self.change(|table, actions| table.answers(process, Vec::new(), actions));
        self.asks(process);
        self.ready.insert(process);
        self.now_ready();
    }

    fn now_ready(&mut self) {
        let ready = self.ready.clone();
        self.change(|table, actions| table.ready(ready, actions));
    }

    fn asks(&mut self, process: WorkerKey) {
        self.number += 1;
        let number = self.number;
        self.change(|table, actions| assert!(table.waits(process, number, actions)));
    }

    fn change(&mut self, change: impl FnOnce(&mut ChannelTable, &mut Vec<ChannelAction>)) {
        let mut actions = Vec::new();
        change(&mut self.table, &mut actions);
        for action in actions {
            match action {
                ChannelAction::Open { caller: (caller, _), worker: (worker, _) } => {
                    assert!(self.open.entry(caller).or_default().insert(worker), "a second one");
                    self.asks(worker);
                    self.asks(caller);
                }
                ChannelAction::Leave { caller: (caller, _), worker } => {
                    assert!(self.left.entry(caller).or_default().insert(worker), "told twice");
                    self.asks(caller);
                }
            }
        }
    }

    /// A caller has closed a channel.
    fn closed(&mut self, caller: WorkerKey, worker: WorkerKey) -> bool {
        self.open.entry(caller).or_default().remove(&worker);
        self.left.entry(caller).or_default().remove(&worker);
        let mut is_broken = false;
        self.change(|table, actions| is_broken = table.ended(caller, worker, actions));
        is_broken
    }

    /// Closes the channels that are left, as callers do without a call in flight.
    fn close_left(&mut self) {
        while let Some((caller, worker)) =
            self.left.iter().find_map(|(caller, left)| Some((*caller, *left.first()?)))
        {
            assert!(!self.closed(caller, worker), "it was meant to end");
        }
    }

    fn loads(&self) -> Vec<usize> {
        let count =
            |worker: &WorkerKey| self.open.values().filter(|open| open.contains(worker)).count();
        self.ready.iter().map(count).collect()
    }
}

#[test]
fn few_processes_have_channels_to_all_workers() {
    let world = World::new(3, 4);
    assert_eq!(world.loads(), [3, 3, 3, 3]);
    assert!(world.left.is_empty());
    // Whatever came first.
    let mut world = World::new(0, 2);
    world.add_caller(caller(0), Vec::new());
    assert_eq!(world.loads(), [1, 1]);
}

#[test]
fn many_processes_have_a_bounded_number_that_is_spread() {
    let mut world = World::new(40, 50);
    world.close_left();
    let loads = world.loads();
    assert_eq!(loads.iter().sum::<usize>(), 40 * MOST);
    assert!(world.open.values().all(|open| open.len() == MOST), "{:?}", world.open);
    let (least, most) = (loads.iter().min(), loads.iter().max());
    assert!(least.zip(most).is_some_and(|(least, most)| most - least <= 1), "{loads:?}");
}

#[test]
fn callers_that_close_nothing_have_a_bounded_number_too() {
    let world = World::new(10, 60);
    assert!(world.open.values().all(|open| open.len() <= 2 * MOST), "{:?}", world.open);
}

#[test]
fn callers_hear_that_a_worker_leaves_and_get_another_one() {
    let mut world = World::new(2, 1);
    world.add_worker(worker(1));
    world.change(|table, actions| table.leaves(worker(0), actions));
    assert_eq!(world.left[&caller(0)], BTreeSet::from([worker(0)]));
    // They have asked for the next change since.
    assert!(world.table.has_left(worker(0)) && !world.table.is_alone(worker(0)));
    world.ready.remove(&worker(0));
    world.now_ready();
    world.close_left();
    assert!(world.table.is_alone(worker(0)));
    world.add_worker(worker(2));
    assert_eq!(world.loads(), [2, 2]);
}

#[test]
fn a_worker_leaves_when_the_last_caller_has_heard_of_it() {
    let mut table = ChannelTable::default();
    let mut actions = Vec::new();
    table.connect(caller(0), "front".into());
    table.connect(worker(0), "back".into());
    table.calls(caller(0), "back".into(), vec![worker(0)], &mut actions);
    table.answers(worker(0), Vec::new(), &mut actions);
    table.ready(BTreeSet::from([worker(0)]), &mut actions);
    table.leaves(worker(0), &mut actions);
    assert!(actions.is_empty() && !table.has_left(worker(0)), "it was not told yet");
    assert!(table.waits(caller(0), 1, &mut actions));
    assert_eq!(actions, [ChannelAction::Leave { caller: (caller(0), 1), worker: worker(0) }]);
    assert!(!table.has_left(worker(0)), "it was told, and may not have heard");
    table.waits(caller(0), 2, &mut actions);
    assert!(table.has_left(worker(0)));
    assert!(!table.waits(caller(0), 3, &mut actions), "it waits already");
    table.cancelled(caller(0), 2);
    assert!(table.waits(caller(0), 4, &mut actions));
}

#[test]
fn a_caller_that_dies_is_not_waited_for() {
    let mut world = World::new(2, 1);
    world.change(|table, actions| table.disconnect(caller(0), actions));
    world.change(|table, actions| table.disconnect(caller(1), actions));
    assert!(world.table.is_alone(worker(0)) && world.table.load(worker(0)) == 0);
}

#[test]
fn a_dead_worker_makes_room_for_another_one() {
    let mut world = World::new(1, 2);
    world.change(|table, actions| table.disconnect(worker(0), actions));
    world.ready.remove(&worker(0));
    world.now_ready();
    assert!(world.left.is_empty(), "the callers notice it themselves");
    assert!(!world.closed(caller(0), worker(0)));
    world.add_worker(worker(2));
    assert_eq!(world.open[&caller(0)], BTreeSet::from([worker(1), worker(2)]));
}

#[test]
fn a_broken_channel_is_opened_again_later() {
    let mut world = World::new(1, 1);
    assert!(world.closed(caller(0), worker(0)));
    assert_eq!(world.loads(), [0]);
    assert!(!world.closed(caller(0), worker(0)), "there is none");
    world.change(ChannelTable::mended);
    assert_eq!(world.loads(), [1]);
}

#[test]
fn a_channel_that_cannot_be_made_is_tried_again() {
    let mut world = World::new(1, 0);
    world.table.connect(worker(0), "back".into());
    let mut actions = Vec::new();
    world.table.answers(worker(0), Vec::new(), &mut actions);
    world.table.ready(BTreeSet::from([worker(0)]), &mut actions);
    assert!(world.table.waits(worker(0), 70, &mut actions));
    let Some(ChannelAction::Open { caller: its, worker: there }) = actions.pop() else {
        panic!("a channel")
    };
    world.table.not_opened(its.0, there.0, &[its, there]);
    assert!(world.table.is_alone(worker(0)));
    world.table.mended(&mut actions);
    assert_eq!(actions, [ChannelAction::Open { caller: its, worker: there }]);
}

#[test]
fn a_new_version_of_the_master_hears_what_there_is() {
    let mut world = World::new(1, 2);
    assert_eq!(world.table.pause().len(), 3);
    world.table = ChannelTable::default();
    // It does not know yet which are ready.
    let ready = std::mem::take(&mut world.ready);
    world.add_caller(caller(0), vec![worker(0), worker(1)]);
    assert!(world.left.is_empty());
    for number in 0..2 {
        world.table.connect(worker(number), "back".into());
        world.change(|table, actions| table.answers(worker(number), Vec::new(), actions));
        world.asks(worker(number));
    }
    world.ready = ready;
    world.now_ready();
    assert_eq!(world.table.load(worker(0)), 1);
    assert!(world.left.is_empty());
    // One of them stops.
    world.ready.remove(&worker(0));
    world.now_ready();
    assert_eq!(world.left[&caller(0)], BTreeSet::from([worker(0)]));
}

#[test]
fn a_process_calls_no_group_but_those_it_names() {
    let mut world = World::new(1, 0);
    world.table.connect(worker(0), "other".into());
    world.change(|table, actions| table.answers(worker(0), Vec::new(), actions));
    world.asks(worker(0));
    world.ready.insert(worker(0));
    world.now_ready();
    assert!(world.open.is_empty());
}
