//! The rules of reloads, restarts and changes of size, one by one.

use std::time::Duration;

use super::seconds;
use crate::supervise::simulation::{Launch, Life, Simulation};
use crate::supervise::*;

const CANARY: Duration = Duration::from_secs(1);
const CRASH: Exit = Exit::Code(1);

fn spec(size: u32) -> GroupSpec {
    let reload = ReloadPolicy::default().surge(1).canary(CANARY);
    GroupSpec { reload, ..super::group(size, RestartPolicy::default()) }
}

/// A group that serves for a minute already.
fn world(spec: GroupSpec, script: impl Fn(Launch) -> Life + 'static) -> Simulation {
    let mut world = Simulation::new(vec![spec], seconds(10), 1, script);
    world.run(seconds(60));
    world
}

/// Generation 2 lives so, all others well.
fn second(life: Life) -> impl Fn(Launch) -> Life {
    move |launch| if launch.generation == 2 { life.clone() } else { Life::good() }
}

fn finish(world: &mut Simulation, ticket: Ticket) -> Result<(), String> {
    let start = world.time();
    while world.answer(ticket).is_none() {
        assert!(world.step() && world.time() < start + seconds(600), "never answered");
    }
    world.answer(ticket).unwrap().clone()
}

/// The worker and generation of each process at work.
fn serving(world: &Simulation) -> Vec<(u32, u32)> {
    let processes = world.processes().filter(|process| process.is_serving());
    let mut all: Vec<_> = processes.map(|process| (process.id.0, process.generation)).collect();
    all.sort_unstable();
    all
}

fn reload(world: &mut Simulation) -> Result<(), String> {
    let ticket = world.change(Change::Reload);
    finish(world, ticket)
}

fn resize(world: &mut Simulation, size: u32) -> Ticket {
    world.change(Change::Resize { group: "web".to_owned(), size })
}

fn spawns(world: &Simulation) -> Vec<(u32, u32)> {
    let actions = world.history().iter();
    let spawns = actions.filter_map(|(_, action)| match action {
        Action::Spawn { id, generation } => Some((id.0, *generation)),
        _ => None,
    });
    spawns.collect()
}

#[test]
fn a_reload_replaces_one_after_the_other() {
    let mut world = world(spec(3), |_| Life::good());
    let ticket = world.change(Change::Reload);
    while world.answer(ticket).is_none() {
        world.step();
        let at_work = serving(&world);
        assert!(at_work.len() >= 3, "a worker is missing: {at_work:?}");
        let wanted = world.processes().filter(|process| !process.is_stopping).count();
        assert!(wanted <= 4, "more than one at a time: {wanted}");
    }
    assert_eq!(world.answer(ticket), Some(&Ok(())));
    assert_eq!(serving(&world), [(0, 2), (1, 2), (2, 2)]);
    assert_eq!(world.pool().generation(), 2);
    // Each is watched for the canary time.
    assert!(world.time() >= seconds(63));
    assert_eq!(&spawns(&world)[3..], [(0, 2), (1, 2), (2, 2)]);
}

#[test]
fn the_surge_is_a_quarter_of_the_group_unless_set() {
    for (size, surge) in [(0, 1), (1, 1), (4, 1), (5, 2), (100, 25)] {
        assert_eq!(ReloadPolicy::default().surge_of(size), surge);
    }
    assert_eq!(ReloadPolicy::default().surge(0).surge_of(8), 1);
}

#[test]
fn whatever_is_wrong_with_the_new_the_old_serves_on() {
    let cases = [
        (Life::impossible(), "worker 0 cannot be started: no more processes"),
        (
            Life::good().dies_after(seconds(0), CRASH),
            "worker 0 ended before it was ready: exit status 1",
        ),
        (
            Life::good().never_ready(),
            "worker 0 ended before it was ready: killed: not ready within 30s",
        ),
        (
            Life::good().dies_after(Duration::from_millis(900), CRASH),
            "worker 0 ended within its canary time: exit status 1",
        ),
    ];
    for (life, reason) in cases {
        let mut world = world(spec(3), second(life));
        let ticket = world.change(Change::Reload);
        while world.answer(ticket).is_none() {
            world.step();
            let old = serving(&world).iter().filter(|(_, generation)| *generation == 1).count();
            assert_eq!(old, 3, "{reason}");
        }
        assert_eq!(world.answer(ticket), Some(&Err(reason.to_owned())));
        assert_eq!((world.pool().generation(), world.processes().count()), (1, 3));
        // The next one succeeds; its number is its own.
        assert_eq!(reload(&mut world), Ok(()));
        assert_eq!(serving(&world), [(0, 3), (1, 3), (2, 3)]);
    }
}

#[test]
fn workers_that_were_replaced_already_are_restored() {
    let bad = |launch: Launch| match (launch.generation, launch.id) {
        (2, WorkerId(2)) => Life::good().dies_after(seconds(0), CRASH),
        _ => Life::good(),
    };
    let mut world = world(spec(3), bad);
    let ticket = world.change(Change::Reload);
    while world.answer(ticket).is_none() {
        world.step();
        assert!(serving(&world).len() >= 3);
    }
    let reason = "worker 2 ended before it was ready: exit status 1".to_owned();
    assert_eq!(world.answer(ticket), Some(&Err(reason)));
    assert_eq!(serving(&world), [(0, 1), (1, 1), (2, 1)]);
    assert_eq!(&spawns(&world)[3..], [(0, 2), (1, 2), (2, 2), (0, 1), (1, 1)]);
}

#[test]
fn a_restoration_that_fails_is_told_and_tried_again() {
    // After worker 1 of the second generation has crashed, the first cannot be started for a while.
    let bad = |launch: Launch| match (launch.generation, launch.id, launch.before) {
        (2, WorkerId(1), _) | (1, _, 2..6) => Life::good().dies_after(seconds(0), CRASH),
        _ => Life::good(),
    };
    let mut world = world(spec(2), bad);
    let reason = reload(&mut world).unwrap_err();
    assert!(reason.contains("worker 1 ended before it was ready"), "{reason}");
    assert!(reason.contains("cannot be restored: worker 0 ended before"), "{reason}");
    assert_eq!(serving(&world), [(0, 2), (1, 1)], "better the wrong one than none");
    world.run(seconds(60));
    assert_eq!(serving(&world), [(0, 1), (1, 1)]);
}

#[test]
fn a_refused_configuration_changes_nothing() {
    let mut world = world(spec(2), |_| Life::good());
    world.prepare_with(Err("line 3: what?".to_owned()));
    assert_eq!(reload(&mut world), Err("line 3: what?".to_owned()));
    assert_eq!((spawns(&world).len(), world.pool().generation()), (2, 1));
    world.prepare_with(Ok(()));
    assert_eq!(reload(&mut world), Ok(()));
    assert_eq!(world.pool().generation(), 2);
}

#[test]
fn reloads_that_meet_are_one_more() {
    let mut world = world(spec(2), |_| Life::good());
    let tickets: Vec<_> = (0..5).map(|_| world.change(Change::Reload)).collect();
    assert_eq!(finish(&mut world, tickets[0]), Ok(()));
    assert_eq!(world.pool().generation(), 2);
    assert!(tickets[1..].iter().all(|ticket| world.answer(*ticket).is_none()));
    assert_eq!(finish(&mut world, tickets[1]), Ok(()));
    assert!(tickets.iter().all(|ticket| world.answer(*ticket) == Some(&Ok(()))));
    world.run(seconds(60));
    assert_eq!((world.pool().generation(), spawns(&world).len()), (3, 6));
}

#[test]
fn a_reload_during_the_initial_start_follows_it() {
    let slow = |_| Life::good().ready_after(seconds(20));
    let mut world = Simulation::new(vec![spec(2)], seconds(10), 1, slow);
    let ticket = world.change(Change::Reload);
    world.run(seconds(19));
    assert_eq!(spawns(&world), [(0, 1), (1, 1)]);
    assert_eq!(finish(&mut world, ticket), Ok(()));
}

/// A worker that dies before its turn comes back in the generation that is known to be good.
#[test]
fn deaths_during_a_reload_are_restarted_as_what_they_were() {
    let script = |launch: Launch| match launch.before {
        // The first process of worker 2 dies while worker 0 is being replaced.
        2 => Life::good().dies_after(Duration::from_millis(60_200), CRASH),
        _ => Life::good(),
    };
    let mut world = world(spec(3), script);
    assert_eq!(reload(&mut world), Ok(()));
    assert_eq!(&spawns(&world)[3..], [(0, 2), (2, 1), (1, 2), (2, 2)]);
    assert_eq!(serving(&world), [(0, 2), (1, 2), (2, 2)]);
}

/// One that dies while its replacement starts needs no third process.
#[test]
fn a_replacement_takes_the_place_of_one_that_dies() {
    let script = |launch: Launch| match launch.before {
        0 => Life::good().dies_after(Duration::from_millis(60_200), CRASH),
        _ => Life::good(),
    };
    let mut world = world(spec(1), script);
    assert_eq!(reload(&mut world), Ok(()));
    assert_eq!(spawns(&world), [(0, 1), (0, 2)]);
}

#[test]
fn a_pool_in_a_crash_loop_can_be_reloaded() {
    let script = |launch: Launch| match (launch.generation, launch.before) {
        (1, 2..) => Life::good().dies_after(seconds(0), CRASH),
        (1, _) => Life::good().dies_after(seconds(59), CRASH),
        _ => Life::good(),
    };
    let mut world = world(spec(2), script);
    world.run(seconds(60));
    assert_eq!(serving(&world), []);
    assert_eq!(reload(&mut world), Ok(()));
    assert_eq!(serving(&world), [(0, 2), (1, 2)]);
}

#[test]
fn an_old_process_drains_up_to_the_stop_deadline() {
    let mut world = world(spec(1), |_| Life::good().never_stops());
    assert_eq!(reload(&mut world), Ok(()));
    assert_eq!(world.status()[0].draining, 1);
    world.run(Duration::from_millis(9_999));
    assert_eq!(world.processes().count(), 2);
    world.run(Duration::from_millis(1));
    assert_eq!(world.processes().count(), 1);
}

/// The third reload waits until the process of the first generation is killed.
#[test]
fn no_more_than_two_processes_of_a_worker_drain() {
    let mut world = world(spec(1), |_| Life::good().never_stops());
    let start = world.time();
    for _ in 0..2 {
        assert_eq!(reload(&mut world), Ok(()));
    }
    assert!(world.time() - start < seconds(3));
    let third = world.change(Change::Reload);
    while world.answer(third).is_none() {
        world.step();
        assert!(world.processes().count() <= 3);
    }
    assert!(world.time() - start > seconds(10));
}

#[test]
fn a_stop_during_a_reload_ends_everything_and_answers_everybody() {
    for event in [Event::Stop, Event::StopNow] {
        let mut world = world(spec(3), |_| Life::good());
        let tickets = [
            world.change(Change::Reload),
            world.change(Change::Reload),
            world.change(Change::Restart { id: WorkerId(1) }),
            resize(&mut world, 5),
        ];
        world.run(Duration::from_millis(20));
        world.tell(event);
        for ticket in tickets {
            assert_eq!(world.answer(ticket), Some(&Err("the pool stops".to_owned())));
        }
        let late = world.change(Change::Reload);
        assert_eq!(world.answer(late), Some(&Err("the pool does not run".to_owned())));
        world.run(seconds(1));
        assert_eq!(world.processes().count(), 0);
        assert!(matches!(world.history().last(), Some((_, Action::Done(_)))));
    }
}

#[test]
fn more_workers_are_started_and_the_surplus_goes() {
    let mut world = world(spec(2), |_| Life::good());
    let ticket = resize(&mut world, 4);
    assert_eq!(finish(&mut world, ticket), Ok(()));
    assert_eq!(serving(&world), [(0, 1), (1, 1), (2, 1), (3, 1)]);
    let ticket = resize(&mut world, 1);
    assert_eq!(world.answer(ticket), None);
    assert_eq!(finish(&mut world, ticket), Ok(()));
    assert_eq!(serving(&world), [(0, 1)]);
    assert_eq!((world.processes().count(), world.status().len()), (1, 1));
    // The same identities come back.
    let ticket = resize(&mut world, 2);
    assert_eq!(finish(&mut world, ticket), Ok(()));
    assert_eq!(serving(&world), [(0, 1), (1, 1)]);
    for size in [0, 0, 1] {
        let ticket = resize(&mut world, size);
        assert_eq!(finish(&mut world, ticket), Ok(()));
        assert_eq!(world.processes().count(), usize::try_from(size).unwrap());
    }
}

#[test]
fn a_new_worker_that_fails_undoes_the_change_of_size() {
    let mut world = world(spec(2), |launch| match launch.id {
        WorkerId(3) => Life::good().dies_after(seconds(0), CRASH),
        _ => Life::good(),
    });
    let ticket = resize(&mut world, 4);
    let reason = "worker 3 ended before it was ready: exit status 1".to_owned();
    assert_eq!(finish(&mut world, ticket), Err(reason));
    world.run(seconds(1));
    assert_eq!(serving(&world), [(0, 1), (1, 1)]);
}

#[test]
fn sizes_that_cannot_be_are_refused_and_overtaken_ones_are_told() {
    let mut world = world(spec(2), |_| Life::good());
    let group = "mail".to_owned();
    let ticket = world.change(Change::Resize { group, size: 3 });
    let reason = "no group `mail`; there is: [\"web\"]".to_owned();
    assert_eq!(world.answer(ticket), Some(&Err(reason)));
    let ticket = resize(&mut world, 10_001);
    assert!(world.answer(ticket).is_some_and(Result::is_err));
    let (first, second) = (resize(&mut world, 5), resize(&mut world, 3));
    assert!(world.answer(first).is_some_and(Result::is_err));
    assert_eq!(finish(&mut world, second), Ok(()));
    assert_eq!(serving(&world).len(), 3);
}

#[test]
fn sizes_change_during_a_reload() {
    let mut world = world(spec(2), |_| Life::good());
    let reload = world.change(Change::Reload);
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
    let reload = world.change(Change::Reload);
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

#[test]
fn one_worker_is_restarted_the_rolling_way() {
    let mut world = world(spec(3), |_| Life::good());
    let ticket = world.change(Change::Restart { id: WorkerId(1) });
    while world.answer(ticket).is_none() {
        world.step();
        assert!(serving(&world).len() >= 3);
    }
    assert_eq!(world.answer(ticket), Some(&Ok(())));
    assert_eq!(&spawns(&world)[3..], [(1, 1)]);
    let ticket = world.change(Change::Restart { id: WorkerId(7) });
    assert_eq!(world.answer(ticket), Some(&Err("there is no worker 7".to_owned())));
}

#[test]
fn a_restart_that_fails_leaves_the_old_one() {
    let script = |launch: Launch| match launch.before {
        3.. => Life::good().never_ready(),
        _ => Life::good(),
    };
    let mut world = world(spec(3), script);
    let ticket = world.change(Change::Restart { id: WorkerId(1) });
    let reason = "worker 1 ended before it was ready: killed: not ready within 30s".to_owned();
    assert_eq!(finish(&mut world, ticket), Err(reason));
    world.run(seconds(100));
    assert_eq!((serving(&world).len(), spawns(&world).len()), (3, 4));
}

/// What is wrong with a new generation is no reason to slow the group down, or to end the master.
#[test]
fn failed_replacements_are_not_deaths_of_the_group() {
    let strict = RestartPolicy::default().intensity(0, seconds(60)).exceeded(Exceeded::FailMaster);
    let spec = GroupSpec { restart: strict, ..spec(2) };
    let mut world = world(spec, second(Life::good().dies_after(seconds(0), CRASH)));
    assert!(reload(&mut world).is_err());
    assert_eq!(reload(&mut world), Ok(()));
    let is_slow = |action: &Action| matches!(action, Action::Report(Report::TooFast { .. }));
    assert!(!world.history().iter().any(|(_, action)| is_slow(action)));
}
