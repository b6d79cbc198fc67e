//! The rules of the end, one by one.

use std::time::Duration;

use super::world::World;
use super::{CRASH, FIRST, SECOND, group, seconds};
use crate::supervise::*;

/// Two workers, the first of them ready.
fn two() -> World {
    let mut world = World::started(vec![group(2, RestartPolicy::default())]);
    world.ready(FIRST);
    world.drain();
    world
}

fn signals(world: &mut World) -> Vec<(WorkerId, Signal)> {
    let actions = world.drain().into_iter();
    let signals = actions.filter_map(|action| match action {
        Action::Signal { id, signal, .. } => Some((id, signal)),
        _ => None,
    });
    signals.collect()
}

fn fail() -> Event {
    Event::Fail { reason: "main failed".to_owned() }
}

#[test]
fn stop_asks_everyone_and_waits_for_everyone() {
    let mut world = two();
    world.send(Event::Stop);
    let asked = [(FIRST, Signal::Terminate), (SECOND, Signal::Terminate)];
    assert_eq!(signals(&mut world), asked);
    world.send(Event::Stop);
    world.exit(FIRST, ExitStatus::Code(0));
    assert_eq!(world.model.done, None);
    world.exit(SECOND, CRASH);
    assert_eq!(world.model.done, Some(Outcome::Stopped));
}

#[test]
fn a_worker_in_back_off_is_simply_gone() {
    let mut world = World::started(vec![group(1, RestartPolicy::default())]);
    world.exit(FIRST, CRASH);
    world.exit(FIRST, CRASH);
    world.send(Event::Stop);
    assert_eq!(world.model.done, Some(Outcome::Stopped));
}

#[test]
fn what_is_left_at_the_deadline_is_killed() {
    let mut world = two();
    world.send(Event::Stop);
    world.exit(FIRST, ExitStatus::Code(0));
    world.wait(Duration::from_millis(9_999));
    signals(&mut world);
    world.wait(Duration::from_millis(1));
    assert_eq!(signals(&mut world), [(SECOND, Signal::Kill)]);
    world.exit(SECOND, CRASH);
    assert_eq!(world.model.done, Some(Outcome::Killed { workers: 1 }));
}

#[test]
fn stop_now_kills_at_once_also_while_stopping() {
    for first in [Event::Tick, Event::Stop] {
        let mut world = two();
        world.send(first);
        signals(&mut world);
        world.send(Event::StopNow);
        let killed = [(FIRST, Signal::Kill), (SECOND, Signal::Kill)];
        assert_eq!(signals(&mut world), killed);
        world.exit(FIRST, CRASH);
        world.exit(SECOND, CRASH);
        assert_eq!(world.model.done, Some(Outcome::Killed { workers: 2 }));
    }
}

#[test]
fn a_failure_stops_in_good_order_and_is_told_at_the_end() {
    for first in [Event::Tick, Event::Stop] {
        let mut world = two();
        world.send(first);
        world.send(fail());
        assert_eq!(signals(&mut world).len(), 2);
        world.send(fail());
        world.exit(FIRST, CRASH);
        world.exit(SECOND, CRASH);
        let reason = "main failed".to_owned();
        assert_eq!(world.model.done, Some(Outcome::Failed { reason }));
    }
}

#[test]
fn a_pool_without_workers_is_ready_at_once_and_done_at_once() {
    let mut world = World::started(Vec::new());
    assert_eq!(world.drain(), [Action::AllReady]);
    world.send(Event::Stop);
    assert_eq!(world.drain(), [Action::Done(Outcome::Stopped)]);
}

#[test]
fn a_pool_that_was_not_started_is_done_at_once_and_stays_so() {
    let specs = vec![group(2, RestartPolicy::default())];
    let mut world = World::new(specs, seconds(1), 0);
    world.send(Event::Stop);
    assert_eq!(world.drain(), [Action::Done(Outcome::Stopped)]);
    world.send(Event::Start);
    assert_eq!(world.drain(), []);
}

#[test]
fn without_a_stop_deadline_workers_are_asked_and_killed_at_the_next_tick() {
    let specs = vec![group(1, RestartPolicy::default())];
    let (mut pool, now, id, pid) = (Pool::new(specs, Duration::ZERO, 0), Moment::START, FIRST, 9);
    let mut actions = Vec::new();
    pool.on(Event::Start, now, &mut actions);
    pool.on(Event::Spawned { id, pid }, now, &mut actions);
    actions.clear();
    pool.on(Event::Stop, now, &mut actions);
    let signal = Signal::Terminate;
    assert_eq!(actions, [Action::Signal { id, pid, signal }]);
    assert_eq!(pool.deadline(), Some(now));
    pool.on(Event::Tick, now, &mut actions);
    let signal = Signal::Kill;
    assert_eq!(actions.last(), Some(&Action::Signal { id, pid, signal }));
    assert_eq!(pool.deadline(), None);
}

/// What was asked for before the end came is still answered, and the answer decides nothing but
/// when it is over.
#[test]
fn a_process_that_appears_after_the_end_came_is_told_to_end() {
    let answers = [
        (Event::Stop, Some(Signal::Terminate)),
        (Event::StopNow, Some(Signal::Kill)),
        (Event::Stop, None),
    ];
    for (end, told) in answers {
        let specs = vec![group(1, RestartPolicy::default())];
        let (mut pool, now, id, pid) = (Pool::new(specs, seconds(1), 0), Moment::START, FIRST, 9);
        let mut actions = Vec::new();
        pool.on(Event::Start, now, &mut actions);
        pool.on(end, now, &mut actions);
        assert_eq!(actions, [Action::Spawn { id, generation: 1 }], "not over without the answer");
        if let Some(signal) = told {
            pool.on(Event::Spawned { id, pid }, now, &mut actions);
            assert_eq!(actions.last(), Some(&Action::Signal { id, pid, signal }));
        } else {
            let reason = "out of processes".to_owned();
            pool.on(Event::SpawnFailed { id, reason, is_short: false }, now, &mut actions);
            assert_eq!(actions.last(), Some(&Action::Done(Outcome::Stopped)));
        }
    }
}

/// Whatever comes between the word and the end.
#[test]
fn a_stop_at_once_is_remembered() {
    let mut world = two();
    world.send(Event::Stop);
    assert!(!world.pool.is_forced());
    world.send(Event::StopNow);
    world.exit(FIRST, CRASH);
    world.exit(SECOND, CRASH);
    assert!(world.model.done.is_some() && world.pool.is_forced());
}

#[test]
fn what_cannot_be_ended_is_waited_for_no_longer() {
    let mut world = two();
    world.ready(SECOND);
    world.send(Event::StopNow);
    world.exit(FIRST, CRASH);
    assert_eq!(world.model.done, None);
    let (pid, reason) = (world.model.live[&SECOND].pid, "no right to".to_owned());
    world.send(Event::KillFailed { id: SECOND, pid, reason });
    let why = format!("process {pid} of worker 1 cannot be ended: no right to");
    assert_eq!(world.model.done, Some(Outcome::Failed { reason: why }));
    let left = |action: &Action| matches!(action, Action::Report(Report::LeftBehind { .. }));
    assert_eq!(world.log.iter().filter(|action| left(action)).count(), 1);
}

#[test]
fn a_start_fails_whose_process_cannot_be_ended() {
    let mut world = two();
    let (pid, reason) = (world.model.live[&FIRST].pid, "no right to".to_owned());
    world.send(Event::KillFailed { id: FIRST, pid, reason });
    world.exit(SECOND, CRASH);
    assert!(matches!(world.model.done, Some(Outcome::Failed { .. })));
}

#[test]
fn another_one_takes_the_place_of_what_cannot_be_ended() {
    let mut world = two();
    world.ready(SECOND);
    let (pid, reason) = (world.model.live[&FIRST].pid, "no right to".to_owned());
    world.send(Event::KillFailed { id: FIRST, pid, reason });
    assert_ne!(world.model.live[&FIRST].pid, pid);
}
