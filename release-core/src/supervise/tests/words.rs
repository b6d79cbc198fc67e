//! What a worker says of itself: that it needs more time, that it ends, how it is.

use super::world::World;
use super::{FIRST, SECOND, group, seconds};
use crate::supervise::*;

fn killed(world: &World) -> Vec<KillReason> {
    let reports = world.log.iter().filter_map(|action| match action {
        Action::Report(Report::Killed { reason, .. }) => Some(reason.clone()),
        _ => None,
    });
    reports.collect()
}

#[test]
fn a_start_takes_as_long_as_it_says_but_not_for_ever() {
    let policy = RestartPolicy::default().ready_timeout(seconds(10));
    let mut world = World::started(vec![group(1, policy)]);
    world.wait(seconds(9));
    world.extend(FIRST, seconds(5));
    world.wait(seconds(4));
    assert_eq!(world.state(FIRST), State::Starting);
    // Less than there is changes nothing.
    world.extend(FIRST, seconds(0));
    for _ in 0..45 {
        world.extend(FIRST, seconds(3));
        world.wait(seconds(2));
    }
    assert_eq!(killed(&world), [KillReason::NotReady(seconds(100))]);
}

#[test]
fn a_stop_takes_as_long_as_it_says_but_not_for_ever() {
    let mut world = World::started(vec![group(2, RestartPolicy::default())]);
    world.ready(FIRST);
    world.ready(SECOND);
    world.extend(FIRST, seconds(3600));
    world.send(Event::Stop);
    world.wait(seconds(9));
    world.extend(FIRST, seconds(20));
    world.wait(seconds(19));
    // The other one has had its time.
    assert_eq!(killed(&world), [KillReason::StopDeadline]);
    assert_eq!(world.state(FIRST), State::Stopping);
    for _ in 0..45 {
        world.extend(FIRST, seconds(3));
        world.wait(seconds(2));
    }
    assert_eq!(killed(&world), [KillReason::StopDeadline, KillReason::StopDeadline]);
    let extended =
        world.log.iter().filter(|it| matches!(it, Action::Report(Report::Extended { .. })));
    assert!(extended.count() > 30);
}

#[test]
fn what_was_granted_before_a_stop_is_granted_in_it_and_to_nobody_else() {
    let mut world = World::started(vec![group(2, RestartPolicy::default())]);
    world.ready(FIRST);
    world.ready(SECOND);
    world.stops(FIRST);
    world.extend(FIRST, seconds(50));
    world.send(Event::Stop);
    world.wait(seconds(10));
    assert_eq!(killed(&world), [KillReason::StopDeadline]);
    assert_eq!(world.state(FIRST), State::Stopping);
    world.wait(seconds(39));
    assert_eq!(killed(&world).len(), 1);
    world.wait(seconds(1));
    assert_eq!(killed(&world), [KillReason::StopDeadline, KillReason::StopDeadline]);
}

#[test]
fn a_second_wish_to_stop_waits_for_nobody() {
    let mut world = World::started(vec![group(1, RestartPolicy::default())]);
    world.ready(FIRST);
    world.send(Event::Stop);
    world.extend(FIRST, seconds(50));
    world.send(Event::StopNow);
    assert_eq!(killed(&world), [KillReason::StopNow]);
}

#[test]
fn who_ends_of_itself_is_not_told_to_and_comes_back() {
    let policy = RestartPolicy::default().intensity(0, seconds(60));
    let mut world = World::started(vec![group(1, policy)]);
    world.ready(FIRST);
    world.wait(seconds(20));
    world.stops(FIRST);
    assert_eq!(world.state(FIRST), State::Stopping);
    world.wait(seconds(5));
    world.exit(FIRST, ExitStatus::Code(0));
    assert_eq!(world.state(FIRST), State::Starting, "at once, after such a life");
    let slow = |world: &World| {
        world.log.iter().any(|action| matches!(action, Action::Report(Report::TooFast { .. })))
    };
    assert!(!slow(&world), "no death that is one too many");
    world.ready(FIRST);
    world.wait(seconds(20));
    world.stops(FIRST);
    world.exit(FIRST, ExitStatus::Code(1));
    assert!(slow(&world), "that was one");
    let signals = world.log.iter().filter(|action| matches!(action, Action::Signal { .. }));
    assert_eq!(signals.count(), 0);
}

#[test]
fn who_ends_of_itself_and_does_not_is_killed() {
    let mut world = World::started(vec![group(1, RestartPolicy::default())]);
    world.ready(FIRST);
    world.stops(FIRST);
    world.wait(seconds(10));
    assert_eq!(killed(&world), [KillReason::StopDeadline]);
}

#[test]
fn the_words_of_a_worker_are_in_its_status() {
    let mut world = World::started(vec![group(1, RestartPolicy::default())]);
    let pid = world.pid(FIRST).unwrap();
    let text = "loading".to_owned();
    world.send(Event::Status { id: FIRST, pid, text });
    assert_eq!(world.pool.status(world.now)[0].status_text, Some("loading"));
    world.ready(FIRST);
    let snapshot = world.pool.snapshot(world.now);
    let groups = vec![group(1, RestartPolicy::default())];
    let pool = Pool::restore(groups, &snapshot, seconds(10)).unwrap();
    assert_eq!(pool.status(world.now)[0].status_text, Some("loading"));
    world.exit(FIRST, ExitStatus::Code(1));
    assert_eq!(world.pool.status(world.now)[0].status_text, None);
}
