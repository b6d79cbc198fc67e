//! The rules of reloads and restarts, one by one.

use std::time::Duration;

use super::{FIRST, seconds};
use crate::supervise::simulation::{Launch, Life, Simulation};
use crate::supervise::*;

pub(super) const CANARY: Duration = Duration::from_secs(1);
pub(super) const CRASH: ExitStatus = ExitStatus::Code(1);

pub(super) fn spec(size: u32) -> GroupSpec {
    let reload = ReloadPolicy::default().surge(1).canary(CANARY);
    GroupSpec { reload, ..super::group(size, RestartPolicy::default()) }
}

/// A group that serves for a minute already.
pub(super) fn world(spec: GroupSpec, script: impl Fn(Launch) -> Life + 'static) -> Simulation {
    let mut world = Simulation::new(vec![spec], seconds(10), 1, script);
    world.run(seconds(60));
    world
}

/// Generation 2 lives so, all others well.
pub(super) fn second(life: Life) -> impl Fn(Launch) -> Life {
    move |launch| if launch.generation == 2 { life.clone() } else { Life::good() }
}

pub(super) fn finish(world: &mut Simulation, request: RequestId) -> Result<(), String> {
    let start = world.time();
    while world.answer(request).is_none() {
        assert!(world.step() && world.time() < start + seconds(600), "never answered");
    }
    world.answer(request).unwrap().clone()
}

/// The worker and generation of each process at work.
pub(super) fn serving(world: &Simulation) -> Vec<(u32, u32)> {
    let processes = world.processes().filter(|process| process.is_serving());
    let mut all: Vec<_> = processes.map(|process| (process.id.0, process.generation)).collect();
    all.sort_unstable();
    all
}

pub(super) fn reload(world: &mut Simulation) -> Result<(), String> {
    let request = world.change(Operation::Reload);
    finish(world, request)
}

pub(super) fn resize(world: &mut Simulation, size: u32) -> RequestId {
    world.change(Operation::Resize { group: "web".to_owned(), size })
}

pub(super) fn spawns(world: &Simulation) -> Vec<(u32, u32)> {
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
    let request = world.change(Operation::Reload);
    while world.answer(request).is_none() {
        world.step();
        let at_work = serving(&world);
        assert!(at_work.len() >= 3, "a worker is missing: {at_work:?}");
        let wanted = world.processes().filter(|process| !process.is_stopping).count();
        assert!(wanted <= 4, "more than one at a time: {wanted}");
    }
    assert_eq!(world.answer(request), Some(&Ok(())));
    assert_eq!(serving(&world), [(0, 2), (1, 2), (2, 2)]);
    assert_eq!(world.pool().generation(), 2);
    // The first is watched for the canary time, the others follow as fast as they are ready.
    let took = world.time() - seconds(60);
    assert_eq!(took, CANARY + Duration::from_millis(3 * 50));
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
        let request = world.change(Operation::Reload);
        while world.answer(request).is_none() {
            world.step();
            let old = serving(&world).iter().filter(|(_, generation)| *generation == 1).count();
            assert_eq!(old, 3, "{reason}");
        }
        assert_eq!(world.answer(request), Some(&Err(reason.to_owned())));
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
    let request = world.change(Operation::Reload);
    while world.answer(request).is_none() {
        world.step();
        assert!(serving(&world).len() >= 3);
    }
    let reason = "worker 2 ended before it was ready: exit status 1".to_owned();
    assert_eq!(world.answer(request), Some(&Err(reason)));
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
    world.prepare_with(Ok(Vec::new()));
    assert_eq!(reload(&mut world), Ok(()));
    assert_eq!(world.pool().generation(), 2);
}

#[test]
fn reloads_that_meet_are_one_more() {
    let mut world = world(spec(2), |_| Life::good());
    let requests: Vec<_> = (0..5).map(|_| world.change(Operation::Reload)).collect();
    assert_eq!(finish(&mut world, requests[0]), Ok(()));
    assert_eq!(world.pool().generation(), 2);
    assert!(requests[1..].iter().all(|request| world.answer(*request).is_none()));
    assert_eq!(finish(&mut world, requests[1]), Ok(()));
    assert!(requests.iter().all(|request| world.answer(*request) == Some(&Ok(()))));
    world.run(seconds(60));
    assert_eq!((world.pool().generation(), spawns(&world).len()), (3, 6));
}

#[test]
fn a_reload_during_the_initial_start_follows_it() {
    let slow = |_| Life::good().ready_after(seconds(20));
    let mut world = Simulation::new(vec![spec(2)], seconds(10), 1, slow);
    let request = world.change(Operation::Reload);
    world.run(seconds(19));
    assert_eq!(spawns(&world), [(0, 1), (1, 1)]);
    assert_eq!(finish(&mut world, request), Ok(()));
}

/// Four workers that need a second for their start, with a readiness that is a time.
#[test]
fn a_readiness_that_is_a_time_counts_as_the_canary() {
    let took = |surge: u32| {
        let mut spec = GroupSpec { ready: Ready::After(seconds(1)), ..spec(4) };
        spec.reload = ReloadPolicy::default().surge(surge);
        let mut world = world(spec, |_| Life::good().never_ready());
        assert_eq!(reload(&mut world), Ok(()));
        world.time() - seconds(60)
    };
    assert_eq!((took(1), took(4)), (seconds(4), seconds(2)));
}

/// Also one that took over without a test of its own, because the first one had stood it.
#[test]
fn whichever_new_process_fails_before_all_are_ready_takes_the_generation_back() {
    let bad = |launch: Launch| match (launch.generation, launch.id) {
        (2, WorkerId(1)) => Life::good().dies_after(Duration::from_millis(500), CRASH),
        (2, WorkerId(2)) => Life::good().ready_after(seconds(2)),
        _ => Life::good(),
    };
    let mut world = world(spec(3), bad);
    let reason = "worker 1 ended within its canary time: exit status 1".to_owned();
    assert_eq!(reload(&mut world), Err(reason));
    assert_eq!(serving(&world), [(0, 1), (1, 1), (2, 1)]);
}

#[test]
fn the_first_of_each_group_is_its_canary() {
    let named = |name: &str| GroupSpec { name: name.to_owned(), ..spec(3) };
    let script = |launch: Launch| match (launch.generation, launch.id) {
        // The second group's first one: nobody of it has taken over by then.
        (2, WorkerId(3)) => Life::good().dies_after(Duration::from_millis(900), CRASH),
        _ => Life::good(),
    };
    let mut world = Simulation::new(vec![named("web"), named("mail")], seconds(10), 1, script);
    world.run(seconds(60));
    let request = world.change(Operation::Reload);
    while world.answer(request).is_none() {
        world.step();
        let mail = serving(&world).iter().filter(|(id, g)| *id >= 3 && *g == 1).count();
        assert_eq!(mail, 3);
    }
    let reason = "worker 3 ended within its canary time: exit status 1".to_owned();
    assert_eq!(world.answer(request), Some(&Err(reason)));
}

/// Descriptors are short for a while: nothing is taken back, the change waits.
#[test]
fn a_reload_waits_for_what_the_system_is_short_of() {
    let short = |launch: Launch| match launch.before {
        5..9 => Life::scarce(),
        _ => Life::good(),
    };
    let mut world = world(spec(4), short);
    assert_eq!(reload(&mut world), Ok(()));
    assert_eq!(serving(&world), [(0, 2), (1, 2), (2, 2), (3, 2)]);
    let took = world.time() - seconds(60);
    assert!(took >= seconds(4) && took < seconds(8), "{took:?}");
}

/// And for ever: the reload is refused after the time for a start, and one generation serves.
#[test]
fn a_reload_that_waits_too_long_is_taken_back_to_one_generation() {
    let short = |launch: Launch| match (launch.generation, launch.id) {
        (2, WorkerId(2..)) => Life::scarce(),
        // The way back is barred for a while, too.
        (1, _) if (5..45).contains(&launch.before) => Life::scarce(),
        _ => Life::good(),
    };
    let mut world = world(spec(4), short);
    let reason = reload(&mut world).unwrap_err();
    assert!(reason.starts_with("worker 2 cannot be started: no more processes"), "{reason}");
    let took = world.time() - seconds(60);
    assert!(took >= seconds(30) && took < seconds(90), "{took:?}");
    assert_eq!(serving(&world).len(), 4);
    world.run(seconds(120));
    assert_eq!(serving(&world), [(0, 1), (1, 1), (2, 1), (3, 1)]);
}

#[test]
fn a_restart_that_meets_a_reload_that_is_taken_back_is_made_all_the_same() {
    let mut world = world(spec(2), second(Life::good().ready_after(seconds(9)).never_ready()));
    let reloading = world.change(Operation::Reload);
    world.run(seconds(1));
    let pid = world.status()[0].pid;
    let restarting = world.change(Operation::Restart { id: WorkerId(0) });
    assert!(finish(&mut world, reloading).is_err());
    assert_eq!(finish(&mut world, restarting), Ok(()));
    assert_ne!(world.status()[0].pid, pid);
    assert_eq!(serving(&world), [(0, 1), (1, 1)]);
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
    let third = world.change(Operation::Reload);
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
        let requests = [
            world.change(Operation::Reload),
            world.change(Operation::Reload),
            world.change(Operation::Restart { id: WorkerId(1) }),
            resize(&mut world, 5),
        ];
        world.run(Duration::from_millis(20));
        world.tell(event);
        for request in requests {
            assert_eq!(world.answer(request), Some(&Err("the pool stops".to_owned())));
        }
        let late = world.change(Operation::Reload);
        assert_eq!(world.answer(late), Some(&Err("the pool does not run".to_owned())));
        world.run(seconds(1));
        assert_eq!(world.processes().count(), 0);
        assert!(matches!(world.history().last(), Some((_, Action::Done(_)))));
    }
}

#[test]
fn one_worker_is_restarted_the_rolling_way() {
    let mut world = world(spec(3), |_| Life::good());
    let request = world.change(Operation::Restart { id: WorkerId(1) });
    while world.answer(request).is_none() {
        world.step();
        assert!(serving(&world).len() >= 3);
    }
    assert_eq!(world.answer(request), Some(&Ok(())));
    assert_eq!(&spawns(&world)[3..], [(1, 1)]);
    let request = world.change(Operation::Restart { id: WorkerId(7) });
    assert_eq!(world.answer(request), Some(&Err("there is no worker 7".to_owned())));
}

/// A process that was started before the request may have read an older file.
#[test]
fn a_second_restart_is_made_by_a_process_that_starts_after_it() {
    let mut world = world(spec(2), |_| Life::good().ready_after(seconds(5)));
    let first = world.change(Operation::Restart { id: FIRST });
    world.run(seconds(2));
    let second = world.change(Operation::Restart { id: FIRST });
    assert_eq!(finish(&mut world, second), Ok(()));
    assert_eq!(world.answer(first), Some(&Ok(())));
    assert_eq!(&spawns(&world)[2..], [(0, 1), (0, 1)]);
}

#[test]
fn a_restart_that_fails_leaves_the_old_one() {
    let script = |launch: Launch| match launch.before {
        3.. => Life::good().never_ready(),
        _ => Life::good(),
    };
    let mut world = world(spec(3), script);
    let request = world.change(Operation::Restart { id: WorkerId(1) });
    let reason = "worker 1 ended before it was ready: killed: not ready within 30s".to_owned();
    assert_eq!(finish(&mut world, request), Err(reason));
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
