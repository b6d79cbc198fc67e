//! The time between the end of new work for a process and the word to stop.

use std::time::Duration;

use super::seconds;
use crate::supervise::simulation::{Life, Simulation};
use crate::supervise::*;

const LEAVING: Duration = Duration::from_secs(2);

/// Two workers that serve for a minute already.
fn world() -> Simulation {
    let reload = ReloadPolicy::default().surge(2).canary(Duration::ZERO).leaving(LEAVING);
    let spec = GroupSpec { reload, ..super::group(2, RestartPolicy::default()) };
    let mut world = Simulation::new(vec![spec], seconds(10), 1, |_| Life::good());
    world.run(seconds(60));
    world
}

/// When each process was told to stop.
fn told(world: &Simulation) -> Vec<(i32, Duration)> {
    let told = world.history().iter().filter_map(|(time, action)| match action {
        Action::Signal { pid, signal: Signal::Terminate, .. } => Some((*pid, *time)),
        _ => None,
    });
    told.collect()
}

/// Those that get no new work and were not told yet.
fn leaving(world: &Simulation) -> Vec<(WorkerId, i32)> {
    let leaves = |it: &&simulation::Process| {
        !it.is_stopping && world.pool().state_of(it.id, it.pid) == Some(State::Stopping)
    };
    world.processes().filter(leaves).map(|it| (it.id, it.pid)).collect()
}

#[test]
fn the_old_are_told_when_their_time_to_leave_is_over() {
    let mut world = world();
    let old: Vec<_> = world.processes().map(|it| (it.id, it.pid)).collect();
    let request = world.change(Operation::Reload);
    while world.answer(request).is_none() {
        assert!(world.step());
    }
    assert_eq!(leaving(&world), old, "the new ones have taken over");
    let began = world.time();
    world.run(LEAVING);
    // The second one follows when the first has stood the test.
    let first = began + LEAVING - Duration::from_millis(50);
    assert_eq!(told(&world), [(old[0].1, first), (old[1].1, began + LEAVING)]);
}

#[test]
fn who_is_scaled_away_leaves_too() {
    let mut world = world();
    world.change(Operation::Resize { group: "web".to_owned(), size: 1 });
    assert_eq!((leaving(&world).len(), told(&world).len()), (1, 0));
    let began = world.time();
    world.run(LEAVING);
    assert_eq!(told(&world)[0].1, began + LEAVING);
}

#[test]
fn a_stop_waits_for_nobody_to_leave() {
    let mut world = world();
    world.change(Operation::Resize { group: "web".to_owned(), size: 1 });
    world.tell(Event::Stop);
    assert_eq!(told(&world).len(), 2);
}

#[test]
fn connections_that_wait_are_waited_for_up_to_ten_times() {
    let mut world = world();
    world.change(Operation::Resize { group: "web".to_owned(), size: 1 });
    let (waiting, began) = (leaving(&world), world.time());
    let mut last = None;
    while told(&world).is_empty() {
        last = Some(world.time());
        world.tell(Event::Backlog(waiting.clone()));
        world.run(seconds(1));
    }
    let (pid, at) = told(&world)[0];
    assert_eq!((pid, at), (waiting[0].1, began + 10 * LEAVING));
    assert!(last > Some(began + 9 * LEAVING));
    // Those who serve, or were told already, are not meant.
    let all = world.processes().map(|it| (it.id, it.pid)).collect();
    world.tell(Event::Backlog(all));
    world.run(seconds(60));
    assert_eq!(told(&world).len(), 1);
    assert_eq!(world.processes().count(), 1);
}

#[test]
fn who_was_never_ready_has_nothing_to_wait_for() {
    let reload = ReloadPolicy::default().leaving(LEAVING);
    let spec = GroupSpec { reload, ..super::group(1, RestartPolicy::default()) };
    let mut world = Simulation::new(vec![spec], seconds(10), 1, |_| Life::good().never_ready());
    world.run(seconds(1));
    world.change(Operation::Resize { group: "web".to_owned(), size: 0 });
    assert_eq!(told(&world).len(), 1);
}

#[test]
fn who_ends_of_itself_meanwhile_is_not_told() {
    let mut world = world();
    world.change(Operation::Resize { group: "web".to_owned(), size: 1 });
    let (id, pid) = leaving(&world)[0];
    world.tell(Event::Stopping { id, pid });
    world.run(seconds(9));
    assert_eq!(told(&world), []);
}
