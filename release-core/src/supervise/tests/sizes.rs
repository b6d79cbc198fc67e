//! Another number of workers.

use std::time::Duration;

use super::reloads::*;
use super::seconds;
use crate::supervise::simulation::{Launch, Life, Simulation};
use crate::supervise::*;

/// One change of the size after the other: "ok" comes when all are ready that the last one wants.
#[test]
fn a_size_is_reached_when_all_are_ready() {
    let slow = |launch: Launch| match launch.id {
        WorkerId(1) => Life::good().ready_after(seconds(3)),
        _ => Life::good(),
    };
    let mut world = world(spec(1), slow);
    let first = resize(&mut world, 2);
    let second = resize(&mut world, 3);
    assert!(world.answer(first).is_some_and(Result::is_err));
    assert_eq!(finish(&mut world, second), Ok(()));
    assert_eq!(serving(&world), [(0, 1), (1, 1), (2, 1)]);
}

/// It would fail with any size, and a size that cannot be had is not a smaller one.
#[test]
fn a_worker_that_was_there_before_does_not_undo_a_size() {
    let bad = |launch: Launch| match (launch.id, launch.before) {
        (WorkerId(0), 3..) => Life::good().dies_after(seconds(0), CRASH),
        (WorkerId(0), _) => Life::good().dies_after(seconds(60), CRASH),
        _ => Life::good(),
    };
    let mut world = world(spec(3), bad);
    world.run(seconds(10));
    let fewer = resize(&mut world, 2);
    let reason = finish(&mut world, fewer).unwrap_err();
    assert!(reason.starts_with("the group has its new size, 2, but worker 0 ended"), "{reason}");
    assert_eq!(world.pool().size(0), Some(2));
}

#[test]
fn more_workers_are_started_and_the_surplus_goes() {
    let mut world = world(spec(2), |_| Life::good());
    let request = resize(&mut world, 4);
    assert_eq!(finish(&mut world, request), Ok(()));
    assert_eq!(serving(&world), [(0, 1), (1, 1), (2, 1), (3, 1)]);
    let request = resize(&mut world, 1);
    assert_eq!(world.answer(request), None);
    assert_eq!(finish(&mut world, request), Ok(()));
    assert_eq!(serving(&world), [(0, 1)]);
    assert_eq!((world.processes().count(), world.status().len()), (1, 1));
    // The same identities come back.
    let request = resize(&mut world, 2);
    assert_eq!(finish(&mut world, request), Ok(()));
    assert_eq!(serving(&world), [(0, 1), (1, 1)]);
    for size in [0, 0, 1] {
        let request = resize(&mut world, size);
        assert_eq!(finish(&mut world, request), Ok(()));
        assert_eq!(world.processes().count(), usize::try_from(size).unwrap());
    }
}

#[test]
fn a_new_worker_that_fails_undoes_the_change_of_size() {
    let mut world = world(spec(2), |launch| match launch.id {
        WorkerId(3) => Life::good().dies_after(seconds(0), CRASH),
        _ => Life::good(),
    });
    let request = resize(&mut world, 4);
    let reason = "worker 3 ended before it was ready: exit status 1".to_owned();
    assert_eq!(finish(&mut world, request), Err(reason));
    world.run(seconds(1));
    assert_eq!(serving(&world), [(0, 1), (1, 1)]);
}

#[test]
fn sizes_that_cannot_be_are_refused_and_overtaken_ones_are_told() {
    let mut world = world(spec(2), |_| Life::good());
    let group = "mail".to_owned();
    let request = world.change(Operation::Resize { group, size: 3 });
    let reason = "no group `mail`; there is: [\"web\"]".to_owned();
    assert_eq!(world.answer(request), Some(&Err(reason)));
    let request = resize(&mut world, 10_001);
    assert!(world.answer(request).is_some_and(Result::is_err));
    let (first, second) = (resize(&mut world, 5), resize(&mut world, 3));
    assert!(world.answer(first).is_some_and(Result::is_err));
    assert_eq!(finish(&mut world, second), Ok(()));
    assert_eq!(serving(&world).len(), 3);
}

#[test]
fn sizes_change_during_a_reload() {
    let mut world = world(spec(2), |_| Life::good());
    let reload = world.change(Operation::Reload);
    world.run(Duration::from_millis(500));
    let more = resize(&mut world, 4);
    assert_eq!(finish(&mut world, more), Ok(()));
    assert_eq!(world.answer(reload), None);
    let fewer = resize(&mut world, 3);
    assert_eq!(finish(&mut world, fewer), Ok(()));
    assert_eq!(finish(&mut world, reload), Ok(()));
    assert_eq!(serving(&world), [(0, 2), (1, 2), (2, 2)]);
}

/// The new worker comes in the generation that goes on.
#[test]
fn a_failed_reload_does_not_fail_a_change_of_size() {
    let mut world = world(spec(2), |launch| match (launch.generation, launch.id) {
        (2, WorkerId(2)) => Life::good().dies_after(seconds(0), CRASH),
        (2, _) => Life::good().never_ready(),
        _ => Life::good(),
    });
    let reload = world.change(Operation::Reload);
    world.run(seconds(1));
    let more = resize(&mut world, 3);
    assert!(finish(&mut world, reload).is_err());
    assert_eq!(finish(&mut world, more), Ok(()));
    assert_eq!(serving(&world), [(0, 1), (1, 1), (2, 1)]);
}

#[test]
fn a_worker_that_comes_and_goes_does_not_pile_up() {
    let mut world = world(spec(1), |_| Life::good().never_stops());
    for size in [2, 1].into_iter().cycle().take(40) {
        resize(&mut world, size);
        world.run(Duration::from_millis(200));
        assert!(world.processes().count() <= 4);
    }
}

/// What an operator or the configuration has said last holds.
#[test]
fn the_size_is_what_was_said_last() {
    let mut world = world(spec(2), |_| Life::good());
    let told = |world: &mut Simulation, (size, change): (Option<u32>, _)| {
        if size.is_some() {
            world.prepare_with(Ok(vec![size]));
        }
        let request = world.change(change);
        assert_eq!(finish(world, request), Ok(()));
        world.pool().size(0).unwrap()
    };
    let configure = |size| (Some(size), Operation::Reload);
    let scale = |size| (None, Operation::Resize { group: "web".to_owned(), size });
    assert_eq!(told(&mut world, configure(4)), 4);
    assert_eq!(told(&mut world, scale(6)), 6);
    assert_eq!(told(&mut world, configure(4)), 6, "the configuration has not changed");
    assert_eq!(told(&mut world, (None, Operation::Reload)), 6);
    assert_eq!(told(&mut world, configure(2)), 2);
    // The new version of this world says 2 workers, as the configuration did.
    assert_eq!(told(&mut world, scale(3)), 3);
    assert_eq!(told(&mut world, (None, Operation::Upgrade)), 3);
    assert_eq!(told(&mut world, configure(5)), 5);
    assert_eq!(
        told(&mut world, (None, Operation::Upgrade)),
        2,
        "the file says something else than before"
    );
}

/// It fails, and the same number is tried again later.
#[test]
fn a_configured_size_that_fails_is_not_known() {
    // The first two serve, and the next two are their reload.
    let bad = |launch: Launch| match launch.before {
        4 => Life::good().dies_after(seconds(0), CRASH),
        _ => Life::good(),
    };
    let mut world = world(spec(2), bad);
    world.prepare_with(Ok(vec![Some(3)]));
    for (generation, is_ok) in [(2, false), (3, true)] {
        let request = world.change(Operation::Reload);
        let outcome = finish(&mut world, request);
        assert_eq!(world.pool().generation(), generation, "the new generation serves");
        match outcome {
            Ok(()) => assert!(is_ok),
            Err(why) => assert!(
                !is_ok && why.starts_with("the new generation serves, but worker 2 ended"),
                "{why}"
            ),
        }
        assert_eq!(world.pool().size(0), Some(if is_ok { 3 } else { 2 }));
    }
}

/// Whoever has asked for the reload that brings it waits until it is so.
#[test]
fn a_configured_size_is_waited_for_by_everybody() {
    // Two, their reload, the third; the reload of three, the fourth.
    let bad = |launch: Launch| match launch.before {
        8 => Life::good().dies_after(seconds(0), CRASH),
        _ => Life::good(),
    };
    let mut world = world(spec(2), bad);
    for is_ok in [true, false] {
        let size = if is_ok { 3 } else { 5 };
        world.prepare_with(Ok(vec![Some(size)]));
        let requests = [world.change(Operation::Reload)];
        assert!(requests.iter().all(|request| world.answer(*request).is_none()));
        for request in requests {
            assert_eq!(finish(&mut world, request).is_ok(), is_ok);
        }
        let ready = world.processes().filter(|process| process.is_serving()).count();
        assert_eq!((world.pool().size(0), ready), (Some(3), 3));
    }
}

/// "ok" comes when every group has the size that the new generation wants, and a number that is too great
/// refuses the reload before anything has happened.
#[test]
fn a_reload_brings_its_sizes() {
    let groups = vec![spec(2), GroupSpec { name: "mail".to_owned(), ..spec(3) }];
    let mut world = Simulation::new(groups, seconds(10), 1, |_| Life::good());
    world.run(seconds(5));
    for (sizes, expected) in [
        (vec![Some(4), Some(1)], [4, 1]),
        (vec![None, Some(0)], [4, 0]),
        (vec![Some(4)], [4, 0]),
        (vec![Some(1), Some(2)], [1, 2]),
    ] {
        world.prepare_with(Ok(sizes));
        let request = world.change(Operation::Reload);
        assert_eq!(finish(&mut world, request), Ok(()));
        let own = |name| world.status().into_iter().filter(move |worker| worker.group == name);
        assert_eq!(["web", "mail"].map(|name| own(name).count()), expected.map(|it: usize| it));
        let generation = world.pool().generation();
        let is_right =
            |it: WorkerStatus<'_>| it.generation == generation && it.state == State::Ready;
        assert!(world.status().into_iter().all(is_right));
    }
    let generation = world.pool().generation();
    world.prepare_with(Ok(vec![None, Some(10_001)]));
    let request = world.change(Operation::Reload);
    let refused = Err("more than 10000 workers are too many".to_owned());
    assert_eq!(finish(&mut world, request), refused);
    assert_eq!(world.pool().generation(), generation);
}

#[test]
fn a_worker_that_a_reload_scales_away_is_not_told_to_be_restarted() {
    let mut world = Simulation::new(vec![spec(1)], seconds(10), 1, |_| Life::good());
    world.run(seconds(5));
    world.prepare_with(Ok(vec![Some(0)]));
    let reload = world.change(Operation::Reload);
    let restart = world.change(Operation::Restart { id: WorkerId(0) });
    assert_eq!(finish(&mut world, reload), Ok(()));
    let refused = Err("the worker was scaled away".to_owned());
    assert_eq!(world.answer(restart), Some(&refused));
}

#[test]
fn the_load_goes_on_from_its_own_changes_and_gives_way_to_those_of_others() {
    let life = Life::good().stops_after(seconds(8));
    let mut world = world(spec(3), move |_| life.clone());
    let load = |from, to| Event::Load { group: 0, from, to };
    world.tell(load(3, 2));
    world.run(seconds(1));
    assert_eq!(world.processes().count(), 3, "the removed one ends still");
    let sizes = world.pool().sizes_of(0).expect("nobody waits for a change");
    assert_eq!((sizes.size, sizes.settled), (2, 2));
    world.tell(load(2, 4));
    world.run(seconds(1));
    assert_eq!(serving(&world).len(), 4);
    world.tell(load(2, 1));
    assert_eq!(world.pool().size(0), Some(4), "the size has changed since the look");
    let scale = resize(&mut world, 3);
    assert!(world.pool().sizes_of(0).is_none(), "somebody waits for it");
    world.tell(load(3, 2));
    assert_eq!(world.pool().size(0), Some(3));
    assert_eq!(finish(&mut world, scale), Ok(()));
    world.tell(load(3, 2));
    assert_eq!(world.pool().size(0), Some(2));
}

/// They would keep their group from growing otherwise.
#[test]
fn workers_that_have_ended_for_good_count_as_settled() {
    let policy = RestartPolicy::default().respawn(Respawn::OnFailure);
    let ends = |launch: Launch| match launch.id {
        WorkerId(0) => Life::good().dies_after(seconds(1), ExitStatus::Code(0)),
        _ => Life::good(),
    };
    let mut world = world(GroupSpec::new("web", 2).restart(policy), ends);
    world.run(seconds(5));
    assert_eq!(serving(&world).len(), 1);
    let sizes = world.pool().sizes_of(0).expect("nobody waits for a change");
    assert_eq!((sizes.size, sizes.settled), (2, 2));
}
