//! Processes that have lived enough, and processes that hang.

use std::time::Duration;

use proptest::prelude::*;

use super::{FIRST, SECOND, seconds};
use crate::supervise::simulation::{Launch, Life, Simulation};
use crate::supervise::*;

/// A pool that may not lose a single worker.
fn strict(size: u32, life: LifeLimits) -> GroupSpec {
    let restart =
        RestartPolicy::default().intensity(0, seconds(3600)).exceeded(Exceeded::FailMaster);
    GroupSpec { life, ..super::group(size, restart) }
}

fn world(group: GroupSpec, script: impl FnMut(Launch) -> Life + 'static) -> Simulation {
    let mut world = Simulation::new(vec![group], seconds(10), 7, script);
    world.run(seconds(1));
    world
}

fn serving(world: &Simulation) -> usize {
    world.processes().filter(|process| process.is_serving()).count()
}

fn weigh(world: &mut Simulation, requests: u64, memory: u64) {
    let usage = |it: &simulation::Process| {
        let (requests, memory) = (Some(requests), Some(memory));
        Usage { id: it.id, pid: it.pid, requests, memory }
    };
    let all = world.processes().map(usage).collect();
    world.tell(Event::Measured(all));
}

fn over_limit(world: &Simulation) -> Vec<(Duration, WorkerId, Excess)> {
    let reports = world.history().iter().filter_map(|(time, action)| match action {
        Action::Report(Report::OverLimit { id, excess, .. }) => Some((*time, *id, *excess)),
        _ => None,
    });
    reports.collect()
}

fn has_failed(world: &Simulation) -> bool {
    world.history().iter().any(|(_, action)| matches!(action, Action::Done(_)))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// All are over their limit at once: never fewer serve, and never more are started at a time than
    /// the surge; that is no death, and in the end every one is new.
    #[test]
    fn all_over_the_limit_at_once(size in 1_u32..20, surge in 1_u32..6) {
        let life = LifeLimits::default().max_memory(1000);
        let reload = ReloadPolicy::default().surge(surge);
        let mut world = world(GroupSpec { reload, ..strict(size, life) }, |_| Life::good());
        let before: Vec<_> = world.processes().map(|process| process.pid).collect();
        weigh(&mut world, 1 << 40, 1000);
        let most = usize::try_from(size + surge).unwrap();
        while world.step() {
            prop_assert!(serving(&world) >= before.len());
            let running = world.processes().filter(|process| !process.is_stopping).count();
            prop_assert!(running <= most, "{running} of {most}");
        }
        prop_assert!(!has_failed(&world));
        prop_assert_eq!(serving(&world), before.len());
        prop_assert!(world.processes().all(|process| !before.contains(&process.pid)));
        prop_assert_eq!(over_limit(&world).len(), before.len());
    }

    /// Between nine tenths of the age and the whole, again and again, and not all together.
    #[test]
    fn the_old_are_replaced_in_time(seed: u64) {
        let life = LifeLimits::default().max_age(seconds(1000));
        let mut world = Simulation::new(vec![strict(8, life)], seconds(10), seed, |_| Life::good());
        world.run(seconds(1010));
        let first = over_limit(&world);
        prop_assert_eq!(first.len(), 8);
        prop_assert!(first.iter().all(|(time, ..)| (900..=1001).contains(&time.as_secs())));
        let spread = first.last().unwrap().0 - first[0].0;
        prop_assert!(spread > seconds(5), "{:?}", spread);
        world.run(seconds(1000));
        prop_assert!(over_limit(&world).len() >= 16);
        prop_assert!(!has_failed(&world));
        prop_assert_eq!(serving(&world), 8);
    }
}

#[test]
fn requests_are_limited_and_small_use_is_not() {
    let life = LifeLimits::default().max_requests(100).max_memory(1000);
    let mut world = world(strict(1, life), |_| Life::good());
    weigh(&mut world, 89, 899);
    assert_eq!(over_limit(&world), []);
    weigh(&mut world, 100, 0);
    weigh(&mut world, 101, 5000);
    let [(_, FIRST, Excess::Requests(100))] = over_limit(&world)[..] else {
        panic!("{:?}", over_limit(&world))
    };
}

#[test]
fn a_new_process_that_fails_is_tried_again_and_the_old_one_serves() {
    let life = LifeLimits::default().max_memory(1000);
    let mut world = world(strict(2, life), |launch| match launch.before {
        2..5 => Life::good().dies_after(Duration::from_millis(10), ExitStatus::Code(1)),
        _ => Life::good(),
    });
    let before: Vec<_> = world.processes().map(|process| process.pid).collect();
    let usage = Usage { id: SECOND, pid: before[1], requests: None, memory: Some(1000) };
    world.tell(Event::Measured(vec![usage]));
    for _ in 0..3 {
        world.run(seconds(2));
        assert_eq!(serving(&world), 2);
    }
    world.run(seconds(60));
    assert!(world.processes().any(|process| process.pid == before[0]));
    assert!(world.processes().all(|process| process.pid != before[1]));
    assert_eq!((serving(&world), has_failed(&world)), (2, false));
}

#[test]
fn a_restart_and_a_reload_are_answered_whatever_the_limits_are() {
    // Everybody is too old as soon as he is proven.
    let life = LifeLimits::default().max_age(Duration::ZERO);
    let reload = ReloadPolicy::default().canary(seconds(2));
    let mut world = world(GroupSpec { reload, ..strict(3, life) }, |_| Life::good());
    world.run(seconds(30));
    let restart = world.change(Operation::Restart { id: FIRST });
    world.run(seconds(30));
    assert_eq!(world.answer(restart), Some(&Ok(())));
    let reload = world.change(Operation::Reload);
    world.run(seconds(30));
    assert_eq!(world.answer(reload), Some(&Ok(())));
}

#[test]
fn everybody_has_its_turn() {
    // Everybody is too old as soon as he is proven.
    let life = LifeLimits::default().max_age(Duration::ZERO);
    let reload = ReloadPolicy::default().surge(1).canary(seconds(1));
    let mut world = world(GroupSpec { reload, ..strict(4, life) }, |_| Life::good());
    world.run(seconds(100));
    assert!(world.status().iter().all(|worker| worker.restarts > 20), "{:?}", world.status());
}

fn kills(world: &Simulation) -> usize {
    let is_kill = |action: &Action| matches!(action, Action::Signal { signal: Signal::Kill, .. });
    world.history().iter().filter(|(_, action)| is_kill(action)).count()
}

#[test]
fn who_has_waited_for_a_reload_is_replaced_when_it_has_failed() {
    let life = LifeLimits::default().max_memory(1000);
    let mut world = world(strict(1, life), |launch| match launch.generation {
        2 => Life::good().never_ready(),
        _ => Life::good(),
    });
    let reload = world.change(Operation::Reload);
    world.run(seconds(1));
    weigh(&mut world, 0, 1000);
    let spawns = |world: &Simulation, number| {
        let spawn = Action::Spawn { id: FIRST, generation: number };
        world.history().iter().filter(|(_, action)| *action == spawn).count()
    };
    assert_eq!(spawns(&world, 1), 1);
    while world.answer(reload).is_none() {
        world.step();
    }
    assert_eq!((spawns(&world, 1), serving(&world)), (2, 1));
}

#[test]
fn one_that_hangs_is_killed_once_and_comes_back() {
    let group = super::group(2, RestartPolicy::default());
    let mut world = world(group, |launch| match launch.before {
        1 => Life::good().hangs_after(seconds(5), Hung::Silent(seconds(4))),
        _ => Life::good(),
    });
    while kills(&world) == 0 {
        world.step();
    }
    assert_eq!(world.time(), seconds(5));
    let (id, pid, how) = (SECOND, 2, Hung::Stuck(seconds(4)));
    world.tell(Event::Hung { id, pid, how });
    assert_eq!(kills(&world), 1);
    world.run(seconds(5));
    let reason = world.history().iter().find_map(|(_, action)| match action {
        Action::Report(Report::Killed { reason, .. }) => Some(reason.to_string()),
        _ => None,
    });
    assert_eq!(reason.as_deref(), Some("hung: no answer to the heartbeat for 4.0s"));
    assert_eq!((serving(&world), kills(&world)), (2, 1));
}

#[test]
fn one_that_starts_or_stops_may_take_its_time() {
    let group = super::group(1, RestartPolicy::default());
    let life = Life::good().ready_after(seconds(9)).stops_after(seconds(8));
    let mut world = world(group, move |_| life.clone());
    let hung = || Event::Hung { id: FIRST, pid: 1, how: Hung::Stuck(seconds(1)) };
    world.tell(hung());
    world.run(seconds(9));
    world.tell(Event::Stop);
    world.tell(hung());
    world.run(seconds(9));
    assert!(matches!(world.history().last(), Some((_, Action::Done(Outcome::Stopped)))));
    assert_eq!(kills(&world), 0);
}

#[test]
fn a_job_that_hangs_costs_its_worker_neither_a_delay_nor_the_time_of_a_stop() {
    let group = super::group(1, RestartPolicy::default());
    let life = Life::good().hangs_after(seconds(3), Hung::Job(seconds(3))).never_stops();
    let mut world = world(group, move |_| life.clone());
    world.run(seconds(61));
    assert!(kills(&world) >= 19, "{}", kills(&world));
    let before = kills(&world);
    world.tell(Event::Stop);
    world.run(seconds(4));
    let last = world.history().last().map(|(_, action)| action);
    assert_eq!(last, Some(&Action::Done(Outcome::Killed { workers: 1 })));
    assert_eq!(kills(&world), before + 1);
}
